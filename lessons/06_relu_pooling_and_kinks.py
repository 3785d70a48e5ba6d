# %% [markdown]
# # Lesson 6: ReLU, pooling, and where measuring fails
#
# A gradient check compares your derivative with a measured one. But a ReLU has a corner at 0, a maximum has one
# wherever its two largest arguments meet, and at a corner there is no derivative to measure. This lesson is about what
# to compute there, what a difference quotient says there (something else), and how to tell a corner from a mistake.
#
# **After it you can** say which numbers are right as "the derivative of ReLU at 0"; predict what a central difference
# measures near a kink, and how often a network meets one; write the backward passes of max and average pooling with
# overlapping windows and a border; and test what no gradient check can see.
#
# **Before it:** lesson 1 (central differences) and lesson 5 (windows, `+=`, the adjoint).

# %%
import matplotlib.pyplot as plt
import numpy as np

import minires
from minires import Tensor, data
from minires import functional as F
from minires.classroom import FAST, save

rng = np.random.default_rng(6)

# %% [markdown]
# ## The corner
#
# $\mathrm{relu}(x) = \max(x, 0)$ has slope 0 on the left of 0 and 1 on the right. At 0 the two one-sided slopes
# $$\lim_{h \to 0^+} \frac{\mathrm{relu}(h) - \mathrm{relu}(0)}{h} = 1, \qquad
# \lim_{h \to 0^+} \frac{\mathrm{relu}(0) - \mathrm{relu}(-h)}{h} = 0$$
# differ, so there is no derivative. What remains is a weaker notion. A number $g$ is a *subgradient* at 0 if the line
# of slope $g$ through the corner nowhere rises above the function:
# $$\max(z, 0) \;\ge\; g z \quad \text{for all } z .$$
# For $z > 0$ this says $z \ge g z$, so $g \le 1$. For $z < 0$ it says $0 \ge g z$, so $g \ge 0$. Every $g$ in $[0, 1]$
# will do, and none other. minires takes 0, as most libraries do: `dx = dy * (y > 0)`, with a strict sign. That is a
# convention, not a theorem, and a test of it is a test by hand.

# %%
x = Tensor(np.array([-1.5, -0.0, 0.0, 2.0]), requires_grad=True)
F.relu(x).backward(np.array([10.0, 20.0, 30.0, 40.0]))
print("relu'(x) dy at -1.5, -0, 0, 2:", x.grad)
assert (x.grad == [0, 0, 0, 40]).all()

# %% [markdown]
# ## What a difference measures there
#
# The central difference with step $h$ is $D_h(x) = \frac{f(x + h) - f(x - h)}{2h}$. If $|x| \ge h$, both points lie on
# the same side of the corner, and for the two straight pieces of ReLU $D_h$ is exactly right. If $|x| < h$, then
# $x + h > 0$ and $x - h < 0$, so
# $$D_h(x) = \frac{(x + h) - 0}{2h} = \frac12 + \frac{x}{2h} .$$
# It runs from 0 to 1 across the corner: not a rounding error but a *wrong answer*, by up to a half. And a smaller step
# does not help at the corner itself: $D_h(0) = \frac12$ for every $h$. For $|x|$ the same arithmetic gives
# $D_h = \frac{(x + h) - (h - x)}{2h} = \frac{x}{h}$: wrong by up to 1 beside the corner, and at the corner 0. That is a
# subgradient, and it is what minires returns, $\mathrm{sign}(0) = 0$, so at this one point the check agrees by luck.
# For ReLU $\frac12$ is a subgradient too, but minires returns another one.


# %%
def central(f, x, h):
    return (f(x + h) - f(x - h)) / (2 * h)


def relu(x):
    return np.maximum(x, 0)


h = 6e-6
t = np.linspace(-2.5, 2.5, 1001)  # x in units of h
measured = {"relu": central(relu, t * h, h), "abs": central(np.abs, t * h, h)}
np.testing.assert_allclose(measured["relu"], np.clip(0.5 + t / 2, 0, 1), atol=1e-9)
np.testing.assert_allclose(measured["abs"], np.clip(t, -1, 1), atol=1e-9)
for step in (1e-2, 1e-6, 1e-10):
    assert central(relu, 0.0, step) == 0.5
x = Tensor(np.zeros(2), requires_grad=True)
(F.relu(x)[:1].sum() + abs(x)[1:].sum()).backward()
print(f"D_h at 0, for any h: relu {central(relu, 0.0, h)}, abs {central(np.abs, 0.0, h)}; minires says {x.grad}")
assert (x.grad == 0).all()

figure, axes = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
for ax, name, left in zip(axes, ("relu", "abs"), (0, -1), strict=True):
    ax.axvspan(-1, 1, color="0.93", lw=0)
    ax.plot([-2.5, 0], [left, left], color="C0", lw=2.5, label="the derivative")
    ax.plot([0, 2.5], [1, 1], color="C0", lw=2.5)
    ax.plot(t, measured[name], color="C1", lw=1.5, ls="--", label="central difference")
    ax.plot([0, 0], [left, 1], color="C0", lw=0.8, ls=":", label="subgradients at 0")
    ax.plot(0, 0, "o", color="C0", ms=7, label="what the code returns")
    ax.set(xlabel="x / h", ylabel="slope", ylim=(left - 0.2, 1.35))
axes[0].set_title("ReLU: wrong by up to 1/2 within h of the kink", loc="left", fontsize=10)
axes[1].set_title("|x|: by up to 1, yet not at 0 itself", loc="left", fontsize=10)
axes[1].legend(frameon=False, fontsize=8, loc="lower right")
save(figure, "06_differences_at_a_kink")

# %% [markdown]
# *How often does that happen?* If a pre-activation is spread around 0 with density $\varphi$, it lies within $h$ of 0
# with probability $\int_{-h}^{h} \varphi \approx 2 h\, \varphi(0)$, and $n$ of them meet about $2 h\, n\, \varphi(0)$
# kinks. For a standard normal $\varphi(0) = 1/\sqrt{2\pi} = 0.399$. With $h = 6 \cdot 10^{-6}$ that is one in 200,000:
# rare in an exercise, certain in a network, where one weight moves thousands of activations at once. A larger step
# meets more.

# %%
n = 1_000_000 if FAST else 10_000_000
pre = np.random.default_rng(0).standard_normal(n)
for step in (6e-6, 1e-3):
    expected, found = 2 * step * n / np.sqrt(2 * np.pi), int((np.abs(pre) < step).sum())
    print(f"h = {step:g}: {found} of {n:,} within h of the kink, expected {expected:.1f}")
    assert abs(found - expected) < 6 * np.sqrt(expected)  # six standard deviations of a count

# %% [markdown]
# ## A kink or a bug?
#
# Your gradient and the measured one disagree. Who is wrong? Measure again with $h/2$ and $h/8$.
#
# - *The function is smooth and the code is wrong.* Then all three measure the same slope, up to errors of order $h^2$:
#   the estimates agree with each other, and not with you.
# - *A kink lies within $h$.* Then they disagree with each other: for ReLU $\frac12 + \frac{x}{2h}$ becomes
#   $\frac12 + \frac{x}{h}$, and once the step is below $|x|$ the difference sees one side only and is right.
# - *The point lies on the kink.* Then the three agree, on $\frac12$, and that looks like a bug. But the slopes from the
#   left and from the right, $\frac{f(x) - f(x - h)}{h}$ and $\frac{f(x + h) - f(x)}{h}$, stay apart however small the
#   step, while those of a smooth function approach each other like $h$.
#
# That is what minires' checker does before it accuses anybody. Here it is in a few lines, and then the real one.


# %%
def judge(f, x, claimed, h=6e-6):
    three = [central(f, x, h / shrink) for shrink in (1, 2, 8)]
    apart = [abs((f(x + k) - f(x)) / k - (f(x) - f(x - k)) / k) for k in (h, h / 8)]
    if min(abs(d - claimed) for d in three) < 1e-6:
        return "right", three
    kink_near = np.ptp(three) > 0.1 * abs(three[0] - claimed)
    kink_here = apart[1] > 0.5 * apart[0] and apart[1] > 0.1 * abs(three[0] - claimed)
    return "a kink" if kink_near or kink_here else "a bug", three


cases = (
    ("relu at 0.7, claimed 1", relu, 0.7, 1.0, "right"),
    ("relu at 0.7, claimed 0.7", relu, 0.7, 0.7, "a bug"),
    ("relu at h/3, claimed 1", relu, 2e-6, 1.0, "right"),
    ("relu at h/20, claimed 1", relu, 3e-7, 1.0, "a kink"),
    ("relu at 0, claimed 0", relu, 0.0, 0.0, "a kink"),
    ("tanh at 0.3, claimed 1 - y", np.tanh, 0.3, 1 - np.tanh(0.3), "a bug"),
)
print(f"{'':28} {'h':>9} {'h/2':>9} {'h/8':>9}")
for what, f, at, claimed, verdict in cases:
    found, three = judge(f, at, claimed)
    print(f"{what:28} " + " ".join(f"{d:9.5f}" for d in three) + f"   {found}")
    assert found == verdict

# %% [markdown]
# And the real one, on 400 numbers of which three were put on or near the kink. They are listed, not counted as wrong
# and not hidden; if there are more than 2 % of them, the verdict is "inconclusive" and you should check at another
# point. A bug that touches the same entries still fails.

# %%
values = rng.standard_normal(400)
values[[10, 20, 30]] = 0.0, 3e-7, -4e-7
how = {"inputs": {"x": values}, "method": "central"}
right = minires.gradcheck_fn(relu, lambda dy, x: {"x": dy * (x > 0)}, **how, name="relu")
print(right)
leaky = minires.gradcheck_fn(relu, lambda dy, x: {"x": dy * np.where(x > 0, 1, 0.01)}, **how, name="leaky relu")
print(leaky)
assert right.ok
assert not leaky.ok
assert set(right["x"].kinks) <= {(10,), (20,), (30,)}

# %% [markdown]
# ## The maximum of a window
#
# Max pooling takes the largest number of each window; 3 by 3 windows with stride 2 in a ResNet, so that neighbours
# overlap by one row or column. Write $q$ for a pixel, $i$ for a window, $a(i)$ for the pixel that wins it:
# $$y_i = \max_{q \in i} x_q = x_{a(i)} .$$
# If the winner wins clearly, a small enough change of $x$ does not dethrone it: near this $x$, pooling *is* the linear
# map $y_i = x_{a(i)}$, a gather as in lesson 5 (with one entry of each window). So its backward pass is the adjoint of
# that gather. With the same change of order as there,
# $$\langle dy, \delta y \rangle = \sum_i dy_i\, \delta x_{a(i)} = \sum_q \delta x_q \sum_{i \,:\, a(i) = q} dy_i
# \quad\Rightarrow\quad \boxed{\; dx_q = \sum_{i \,:\, a(i) = q} dy_i \;}$$
# A pixel that wins four windows collects four gradients, `+=` once more. And each $dy_i$ is sent to exactly one pixel,
# so nothing is lost or made: $\sum_q dx_q = \sum_i dy_i$. Remember this *conservation*: it holds at ties too, where no
# difference quotient can help.


# %%
def reach(cell, count, stride):
    return slice(cell, cell + stride * (count - 1) + 1, stride)


def bordered(x, padding, value):
    return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=value)


def cells(padded, size, stride):
    """For each cell (u, v) of the window: where all windows together see it, as an index into the bordered picture."""
    rows, columns = ((length - size) // stride + 1 for length in padded.shape[1:3])
    for u, v in np.ndindex(size, size):
        yield np.s_[:, reach(u, rows, stride), reach(v, columns, stride)]


def max_pool(x, size, stride, padding, value=-np.inf):
    padded = bordered(x, padding, value)
    return np.max([padded[here] for here in cells(padded, size, stride)], axis=0)


def max_pool_backward(dy, x, size, stride, padding, value=-np.inf):
    padded, y = bordered(x, padding, value), max_pool(x, size, stride, padding, value)
    dpadded, given = np.zeros_like(padded), np.zeros(y.shape, bool)
    for here in cells(padded, size, stride):
        wins = (padded[here] == y) & ~given  # the first of equals, and no other
        given |= wins
        dpadded[here] += dy * wins
    return {"x": dpadded[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]}


x = rng.standard_normal((2, 7, 6, 3))
report = minires.gradcheck_fn(max_pool, max_pool_backward, {"x": x, "size": 3, "stride": 2, "padding": 1})
print(report)
report.assert_ok()

tensor = Tensor(x, requires_grad=True)
y = F.max_pool2d(tensor, 3, 2, 1)
dy = rng.standard_normal(y.shape)
y.backward(dy)
dx = max_pool_backward(dy, x, 3, 2, 1)["x"]
np.testing.assert_allclose(max_pool(x, 3, 2, 1), y.numpy())
np.testing.assert_allclose(dx, tensor.grad, rtol=1e-12, atol=1e-15)
print(f"sum of dy {dy.sum():+.12f}   sum of dx {dx.sum():+.12f}")
assert abs(dx.sum() - dy.sum()) < 1e-12 * np.abs(dy).sum()

# %% [markdown]
# ## Ties
#
# Random numbers are never equal. Pixels are: the margin of a picture is one colour, and after a ReLU a window may hold
# nothing but zeros. Where several pixels share the maximum, any way of dividing $dy_i$ among them is a subgradient, as
# long as the parts are not negative and sum to one. The common slip is the mask `x == y`, which gives *each* of them
# the whole. Here is how much that matters on real digits.


# %%
def masked_backward(dy, x, size, stride, padding):
    """Wrong: every pixel that equals the maximum gets all of dy."""
    padded, y = bordered(x, padding, -np.inf), max_pool(x, size, stride, padding)
    dpadded = np.zeros_like(padded)
    for here in cells(padded, size, stride):
        dpadded[here] += dy * (padded[here] == y)
    return {"x": dpadded[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]}


digits = data.digits()[1].images[:200] / 255.0
y = max_pool(digits, 3, 2, 1)
padded = bordered(digits, 1, -np.inf)
winners = sum((padded[here] == y).astype(int) for here in cells(padded, 3, 2))
ones = np.ones_like(y)
right, wrong = (f(ones, digits, 3, 2, 1)["x"].sum() for f in (max_pool_backward, masked_backward))
print(f"{(winners > 1).mean():.0%} of the windows of 200 digits have a tie")
print(f"sent out {ones.sum():.0f}; arrived: first of equals {right:.0f}, every one of them {wrong:.0f}")
assert right == ones.sum()
assert wrong > 1.5 * ones.sum()

# %% [markdown]
# ## Minus infinity, or zero?
#
# What stands in the border? The maximum of a window must not be won by something that is not there, so it has to be
# $-\infty$. With 0 instead, a window at the edge that sees only negative numbers gives 0, a value that is nowhere in
# the picture. Now the warning of this lesson: **no gradient check sees it**. A forward pass with zeros has a derivative
# like any other, and its backward pass, written with the same zeros, is that derivative. Only a test of the forward
# pass tells.

# %%
zeros = minires.gradcheck_fn(max_pool, max_pool_backward, {"x": x, "size": 3, "stride": 2, "padding": 1, "value": 0})
print("gradcheck of max pooling with a border of zeros:", "ok" if zeros.ok else "FAIL")
assert zeros.ok

negative = -1 - np.abs(x)
largest, pooled, with_zeros = (a.max() for a in (negative, max_pool(negative, 3, 2, 1), max_pool(negative, 3, 2, 1, 0)))
print(f"the largest pixel of a negative picture {largest:.3f}; after pooling {pooled:.3f}, with zeros {with_zeros:.3f}")
assert pooled == largest
assert with_zeros == 0
np.testing.assert_allclose(max_pool(relu(x), 3, 2, 1), max_pool(relu(x), 3, 2, 1, 0))

# %% [markdown]
# The last line says why this mistake lives long: after a ReLU all numbers are at least 0, and the two borders give the
# same maxima. In the ResNets for ImageNet the pooling stands just there. Move it, and the network changes.
#
# ## The average
#
# Average pooling is linear all over: $y_i = \frac{1}{k^2} \sum_{q \in i} x_q$. Its adjoint by the same exchange of
# sums:
# $$\sum_i dy_i\, \frac{1}{k^2} \sum_{q \in i} \delta x_q = \sum_q \delta x_q\; \frac{1}{k^2} \sum_{i \,\ni\, q} dy_i
# \quad\Rightarrow\quad dx_q = \frac{1}{k^2} \sum_{i \,\ni\, q} dy_i .$$
# Every pixel gets its share from every window that it is in. In minires the zeros of the border count as cells, so that
# $k^2$ is the same everywhere (a convention again). What falls on the border is lost: conservation holds only without
# one. But as for every linear map there is something better, the adjoint test.


# %%
def avg_pool(x, size, stride, padding):
    padded = bordered(x, padding, 0)
    return sum(padded[here] for here in cells(padded, size, stride)) / size**2


def avg_pool_backward(dy, x, size, stride, padding):
    dpadded = np.zeros_like(bordered(x, padding, 0))
    for here in cells(dpadded, size, stride):
        dpadded[here] += dy / size**2
    return {"x": dpadded[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]}


for size, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 0)):
    y = avg_pool(x, size, stride, padding)
    dy = rng.standard_normal(y.shape)
    dx = avg_pool_backward(dy, x, size, stride, padding)["x"]
    left, right = float((y * dy).sum()), float((x * dx).sum())
    kept = dx.sum() / dy.sum()
    print(f"{size}x{size}/{stride}, border {padding}: <pool x, dy> - <x, dx> = {left - right:+.0e}, arrives {kept:.3f}")
    np.testing.assert_allclose(y, F.avg_pool2d(x, size, stride, padding).numpy(), rtol=1e-12, atol=1e-14)
    assert abs(left - right) < 1e-12 * np.linalg.norm(y) * np.linalg.norm(dy)
    assert (abs(kept - 1) < 1e-10) == (padding == 0)

# %% [markdown]
# Side by side, for one digit and the same upstream gradient of ones: the maximum sends whole gradients to few pixels,
# the average a ninth to everybody, four ninths where four windows meet.

# %%
digit = data.digits()[1].images[7:8] / 255.0
digit = digit + 1e-3 * rng.random(digit.shape)  # breaks the ties of the white margin
y = max_pool(digit, 3, 2, 0)
ones = np.ones_like(y)
by_max, by_average = (f(ones, digit, 3, 2, 0)["x"][0, :, :, 0] for f in (max_pool_backward, avg_pool_backward))
assert abs(by_max.sum() - ones.sum()) < 1e-12
assert abs(by_average.sum() - ones.sum()) < 1e-12

figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
axes[0].imshow(digit[0, :, :, 0], "gray_r")
for i, colour in enumerate(("C0", "C1", "C2")):
    axes[0].add_patch(plt.Rectangle((2 * i - 0.42, 2 * i - 0.42), 2.84, 2.84, fill=False, ec=colour, lw=2))
axes[0].set_title("three of the nine windows", fontsize=10)
for ax, dx, name in zip(axes[1:], (by_max, by_average), ("max", "average"), strict=True):
    ax.imshow(np.ma.masked_equal(dx, 0), "Oranges", vmin=0, vmax=6 if name == "max" else 1)
    for i, j in zip(*dx.nonzero(), strict=True):
        text = f"{dx[i, j]:.0f}" if name == "max" else f"{dx[i, j] * 9:.0f}/9"
        ax.text(j, i, text, ha="center", va="center", fontsize=9)
    ax.set_title(f"{name} pooling: dx sums to {dx.sum():.0f}", fontsize=10)
for ax in axes:
    ax.set(xlabel="column", ylabel="row")
save(figure, "06_where_the_gradient_goes")

# %% [markdown]
# ## A mutant to kill
#
# `masked_backward` above doubles gradients at ties. The gradient check below is green, on any seed and any size: random
# numbers have no ties. Write a test that kills it. A gradient check at a tie will not do (why?), so you will need a
# property that every right backward pass of max pooling has. You have met it.

# %%
inputs = {"x": x, "size": 3, "stride": 2, "padding": 1}
assert minires.gradcheck_fn(lambda x, **window: max_pool(x, **window), masked_backward, inputs).ok
print("the mutant is alive")

# %% [markdown]
# ## The exercise
#
# `exercises/lesson06_pooling.py`: the gradient of ReLU, max pooling with a border and its gradient, and that of the
# average. `minires lessons check 06` says how it goes.
#
# ## What this does not show
#
# - **That the choice at 0 does not matter.** We did not train anything. With real numbers a pre-activation is exactly 0
#   almost never; in float32, and behind layers that start at zero, it does happen, and then the convention decides.
# - **That a subgradient points downhill.** For one convex function of one variable the word means what was derived. A
#   network is neither convex nor of one variable: what backpropagation returns at a kink is what the chain rule makes
#   of the conventions, and need not be a subgradient of the whole.
# - **That "a kink" is innocent.** The rule of the three steps can be fooled: a wrong backward pass whose entry happens
#   to lie near a kink is listed as a kink. That is why the checker counts them, and why more than 2 % is no verdict.
# - **That max pooling is better than the average, or either than a stride.** Nothing here says so.
