# %% [markdown]
# # Lesson 3: Arrays
#
# After this lesson you can
#
# - say what a backward pass computes (a vector times a Jacobian) and why nobody builds the Jacobian;
# - derive the gradients of broadcasting, sums and matrix products index by index;
# - explain why matching shapes prove nothing, and why the upstream gradient of a check must be random;
# - write a gradient checker that catches what most checkers let through.
#
# You need lessons 1 and 2, matrix products, and about an hour.

# %%
import matplotlib.pyplot as plt
import numpy as np

import minires
from minires import Tensor, data
from minires import functional as F
from minires.classroom import FAST, save
from minires.mutants import CATALOGUE, OPERATIONS, point

rng = np.random.default_rng(0)

# %% [markdown]
# ## 1. From slopes to Jacobians
#
# In lesson 2 every value was a number and every arrow had a slope. Let a step now take an array $x$ and give an array
# $y$. Each entry of $y$ may depend on each entry of $x$, so the slopes form a table, the **Jacobian** $J_{ij} =
# \partial y_i / \partial x_j$ (with $i$ and $j$ running over all entries, whatever the shapes). The boxed formula of
# lesson 2 says: the gradient of $x_j$ is the sum over its uses, and its uses are all the $y_i$. Write $\bar y_i$ for
# $\partial L/\partial y_i$:
# $$\bar x_j = \sum_i \bar y_i\, \frac{\partial y_i}{\partial x_j} = (J^\top \bar y)_j .$$
# This is all that a backward pass ever computes: given $\bar y$, the **vector-Jacobian product** $J^\top\bar y$. In
# code $\bar y$ is called `dy`, the *upstream gradient* or cotangent, and $\bar x$ is `dx`.
#
# Nobody builds $J$ to do so. Look at what it holds:


# %%
def jacobian(f, x):
    """dy_i/dx_j by the complex step of lesson 1: a row for each entry of y, a column for each of x."""
    columns = []
    for index in np.ndindex(x.shape):
        nudged = x.astype(complex)
        nudged[index] += 1e-30j
        columns.append(np.imag(f(nudged)).ravel() / 1e-30)
    return np.stack(columns, axis=1)


def softmax(x):
    e = np.exp(x - x.real.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


x, w = rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
PICTURES = {  # what is computed, at which input, and what a backward pass does instead of building this table
    "tanh(x)": (np.tanh, x, "dx = dy (1 - y²)"),
    "x + b": (lambda b: x + b, rng.standard_normal(4), "db = dy.sum(0)"),
    "x.sum(0)": (lambda x: x.sum(0), x, "dx = dy, in each row"),
    "x @ w": (lambda x: x @ w, x, "dx = dy @ w.T"),
    "softmax(x)": (softmax, x, "dx = y (dy - (y dy).sum(1))"),
}
fig, axes = plt.subplots(1, 5, figsize=(12, 3.4), layout="constrained", width_ratios=(12, 4, 12, 12, 12))
for ax, (title, (f, at, backward)) in zip(axes, PICTURES.items(), strict=True):
    J = jacobian(f, at)
    limit = np.abs(J).max()
    ax.imshow(J, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set(title=title, xlabel=f"{J.shape[1]} inputs\n{backward}")
    ax.set_ylabel(f"{J.shape[0]} outputs", loc="top")
    ax.set(xlim=(-0.5, J.shape[1] - 0.5), ylim=(11.5, -0.5), xticks=[], yticks=[], frame_on=False)
    ax.add_patch(plt.Rectangle((-0.5, -0.5), J.shape[1], J.shape[0], fill=False, lw=1))
save(fig, "03_arrays")

n, inputs, outputs = 128, 64, 32  # a batch of digits through a linear layer
print(f"Jacobian of a small linear layer: {n * outputs} x {n * inputs}, {n * outputs * n * inputs:,} numbers")
print(f"numbers that matter in it: {inputs * outputs:,}, each {n} times; the others are 0")
assert np.allclose(np.count_nonzero(jacobian(lambda x: x @ w, x)), 3 * w.size)

# %% [markdown]
# A diagonal, stacked identities, a row of identities, blocks of $W^\top$: structure everywhere. A backward pass is the
# formula that uses the structure.
#
# ## 2. Broadcasting: a copy's gradients add up
#
# In `x + b` with `x (N, C)` and `b (C,)`, NumPy copies $b$ into every row: $y_{ij} = x_{ij} + b_j$. So
# $\partial y_{ij}/\partial b_c = \delta_{jc}$, which is 1 if $j = c$ and 0 otherwise, and
# $$\bar b_c = \sum_{ij} \bar y_{ij}\,\delta_{jc} = \sum_i \bar y_{ic}:\qquad\text{sum over the axis that was copied.}$$
# A sum is the same story told backwards. $y_j = \sum_i x_{ij}$ has $\partial y_j/\partial x_{ac} = \delta_{jc}$, so
# $\bar x_{ac} = \sum_j \bar y_j \delta_{jc} = \bar y_c$: **copy into the axis that was summed.** The two Jacobians
# are each other's transpose (second and third picture above), or, as one equation, $\langle \text{copy}(b), c\rangle
# = \langle b, \text{sum}(c)\rangle$ for all $b$ and $c$.
#
# NumPy's rule for shapes has two parts, so undoing it, `unbroadcast`, has two as well: axes that are missing on the
# left were added, so sum them away; axes of length 1 were stretched, so sum them and keep the 1.

# %%
c = rng.standard_normal((2, 3, 4))
for shape in ((4,), (3, 1), (1, 4), (2, 1, 4), (1,), ()):
    b = rng.standard_normal(shape)
    summed = minires.unbroadcast(c, shape)
    there, back = (np.broadcast_to(b, c.shape) * c).sum(), (b * summed).sum()
    print(f"{shape!s:10} <copy(b), c> - <b, sum(c)> = {there - back:+.0e}")
    assert summed.shape == shape
    assert abs(there - back) < 1e-12

# %% [markdown]
# An elementwise product needs nothing new. $y_i = a_i b_i$ gives $\bar a_i = \bar y_i b_i$ and $\bar b_i = \bar y_i
# a_i$; if one of the two was broadcast, `unbroadcast` follows.
#
# ## 3. A matrix product, index by index
#
# $Y = XW$ with $X$ of $(N, D)$ and $W$ of $(D, M)$ means $Y_{ij} = \sum_k X_{ik} W_{kj}$. The slopes are
# $$\frac{\partial Y_{ij}}{\partial X_{ab}} = \sum_k \delta_{ia}\delta_{kb} W_{kj} = \delta_{ia} W_{bj}, \qquad
# \frac{\partial Y_{ij}}{\partial W_{ab}} = \sum_k X_{ik}\,\delta_{ka}\delta_{jb} = X_{ia}\,\delta_{jb}.$$
# Put each into $\bar x = J^\top \bar y$. The $\delta$ leaves one sum, and the sum is a matrix product again:
# $$\bar X_{ab} = \sum_{ij} \bar Y_{ij}\,\delta_{ia} W_{bj} = \sum_j \bar Y_{aj} W_{bj} = (\bar Y W^\top)_{ab}, \qquad
# \bar W_{ab} = \sum_{ij} \bar Y_{ij} X_{ia}\,\delta_{jb} = \sum_i X_{ia} \bar Y_{ib} = (X^\top \bar Y)_{ab}.$$
# A linear layer $XW + b$ adds the bias of section 2: $\bar b = \sum_i \bar Y_{i\cdot}$, a sum over the batch, not a
# mean.

# %%
N, D, M = 5, 4, 3
X, W = rng.standard_normal((N, D)), rng.standard_normal((D, M))
dy = rng.standard_normal((N, M))
dx, dw = dy @ W.T, X.T @ dy
assert np.allclose(dx.ravel(), jacobian(lambda X: X @ W, X).T @ dy.ravel(), rtol=1e-12)
assert np.allclose(dw.ravel(), jacobian(lambda W: X @ W, W).T @ dy.ravel(), rtol=1e-12)
print("dx = dy @ w.T and dw = x.T @ dy agree with the Jacobians built entry by entry")

# %% [markdown]
# ## 4. The trap of the square
#
# "There is only one way to multiply them so that the shapes fit" is how many remember these formulas. There are eight
# products of `dy` and `W` (two orders, each factor transposed or not). How many have the shape of $X$, and how many
# are right?

# %%
for sizes in ((5, 4, 3), (5, 4, 4), (4, 4, 4)):
    n, d, m = sizes
    X, W, dy = rng.standard_normal((n, d)), rng.standard_normal((d, m)), rng.standard_normal((n, m))
    truth = (jacobian(lambda X, W=W: X @ W, X).T @ dy.ravel()).reshape(n, d)
    pairs = [(p, q) for a, b in ((dy, W), (W, dy)) for p in (a, a.T) for q in (b, b.T)]
    fits = [p @ q for p, q in pairs if p.shape[1] == q.shape[0] and (len(p), q.shape[1]) == X.shape]
    right = sum(np.allclose(candidate, truth) for candidate in fits)
    print(f"N, D, M = {sizes}: {len(fits)} of 8 fit, {right} is right")
    assert (len(fits), right) == ({(5, 4, 3): 1, (5, 4, 4): 2, (4, 4, 4): 8}[sizes], 1)

# %% [markdown]
# Hidden layers *are* square. So check with sizes that all differ, where a swapped axis shows at once and the message
# names it, **and** with equal ones, where only the values can tell. Shapes never tell a sum from a mean.
#
# ## 5. Why the upstream gradient must be random
#
# A check compares a backward pass with a measurement, for *one* upstream gradient. Many checkers, and some well-known
# teaching frameworks, take ones: the loss is `y.sum()`. Here is such a check, all entries, tight tolerance:


# %%
def check(forward, backward, inputs, upstream="ones", every_entry=True, tolerance=1e-6, seed=0):
    """Does backward(dy, *inputs) agree with central differences of forward(*inputs)?"""
    inputs = [x.copy() for x in inputs]
    shape = np.shape(forward(*inputs))
    rng = np.random.default_rng([seed, 1])
    dy = np.ones(shape) if upstream == "ones" else rng.standard_normal(shape)
    grads = backward(dy, *inputs)
    for x, grad in zip(inputs, grads if isinstance(grads, tuple) else (grads,), strict=True):
        if np.shape(grad) != x.shape:
            return False
        indices = list(np.ndindex(x.shape))
        for index in indices if every_entry else [indices[rng.integers(len(indices))]]:
            value = x[index]
            x[index] = value + 6e-6
            up = forward(*inputs)
            x[index] = value - 6e-6
            measured = ((up - forward(*inputs)) * dy).sum() / 12e-6
            x[index] = value
            if abs(grad[index] - measured) > tolerance * max(abs(grad[index]), abs(measured), 1e-3):
                return False
    return True


def batch_norm(x, gamma, beta):
    return gamma * (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) + beta


def zero_backward(dy, x, gamma, beta):
    """The gradient of x: nothing at all."""
    xhat = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    return np.zeros_like(x), (dy * xhat).sum(0), dy.sum(0)


pixels = data.digits()[0].images[:12, 2, 2:8, 0] / 255  # 12 digits, six pixels of each
x = pixels + 0.1 * rng.standard_normal((12, 6))
norm_inputs = {"x": x, "gamma": rng.standard_normal(6), "beta": rng.standard_normal(6)}
softmax_inputs = {"x": rng.standard_normal((5, 4))}
for upstream in ("ones", "random"):
    norm_passes = check(batch_norm, zero_backward, norm_inputs.values(), upstream)
    softmax_passes = check(softmax, lambda dy, x: np.zeros_like(x), softmax_inputs.values(), upstream)
    print(f"upstream {upstream:7} dx = 0 passes for batch norm: {norm_passes}, for softmax: {softmax_passes}")
    assert norm_passes == softmax_passes == (upstream == "ones")

# %% [markdown]
# A backward pass that returns **nothing** passes, and the reason fits in a line. The $\hat x_i$ of a channel have
# mean 0, so
# $$\sum_i y_i = \sum_i (\gamma \hat x_i + \beta) = \gamma\cdot 0 + N\beta,$$
# which does not depend on $x$. With ones the *right* gradient is zero, and zero agrees with it. Softmax likewise:
# each row sums to 1.
#
# In general, let $B$ be the matrix of a backward pass: $\bar x = B\bar y$, linear in $\bar y$ as every right one is. A
# check with $\bar y$ sees only whether $(B - J^\top)\,\bar y = 0$. If $B \neq J^\top$, the vectors $\bar y$ that
# satisfy this form a subspace with at least one dimension less than all of space. Ones may well lie in it: formulas
# like ones. A vector drawn from a normal distribution lies in it with probability zero. **One random vector sees what
# a thousand ones do not.** (With ones, even a backward pass that forgets to multiply by `dy` is right.)
#
# minires' checker draws its upstream gradient, and says what it found. It also refuses to judge where there is
# nothing to see: ask it about the *sum* of a batch norm.

# %%
report = minires.gradcheck_fn(
    batch_norm, lambda dy, **given: dict(zip(given, zero_backward(dy, **given), strict=True)), norm_inputs, name="zero"
)
print(report)
assert (report["x"].ok, report["gamma"].ok) == (False, True)
assert "zero everywhere" in report["x"].hints[0]

ones = Tensor(np.ones(6))
vacuous = minires.gradcheck(lambda x: F.batch_norm(x, ones, ones).sum(), {"x": norm_inputs["x"]}, name="sum")
print(vacuous)
assert vacuous["x"].verdict == "vacuous"

# %% [markdown]
# **Random, and of its own stream.** `np.random.default_rng(seed)` gives the same numbers every time that it is
# called. If the test made $x$ with it and the check makes $\bar y$ with it, then $\bar y = x = \mu + \sigma\hat x$,
# and batch norm's gradient (lesson 7 derives it) is $\tfrac{\gamma}{\sigma}\bigl(\bar y - \operatorname{mean}\bar y -
# \hat x \operatorname{mean}(\bar y\hat x)\bigr) = \tfrac{\gamma}{\sigma}(\sigma\hat x - \hat x\,\sigma) = 0$ but
# for the small $\epsilon$ in it: blind again, at every seed. `default_rng([seed, 1])` is another stream.

# %%
x = np.random.default_rng(7).standard_normal((12, 6))
for name, stream in (("the same stream", 7), ("a stream of its own", [7, 1])):
    t = Tensor(x, requires_grad=True)
    dy = np.random.default_rng(stream).standard_normal((12, 6))
    F.batch_norm(t, ones, ones).backward(dy)
    print(f"{name:20} largest entry of the right dx: {np.abs(t.grad).max():.0e}")
    assert (np.abs(t.grad).max() < 1e-3) == (stream == 7)

# %% [markdown]
# ## 6. But it trains!
#
# The other popular test is to train and see the loss fall. Two networks, digits -> 32 -> batch norm -> ReLU -> 10,
# the same weights and batches; one of them with `dx = 0`.


# %%
class ZeroBatchNorm(minires.Function):
    """A batch norm without gamma and beta whose backward returns zeros."""

    @staticmethod
    def forward(ctx, x):
        return batch_norm(x, 1, 0)

    @staticmethod
    def backward(ctx, dy):
        return np.zeros_like(dy)


def train(normalise, epochs):
    """Returns the losses and the error on the test set."""
    (images, labels), test = [(s.images.reshape(-1, 64) / 127.5 - 1, np.asarray(s.labels)) for s in data.digits()]
    rng = np.random.default_rng(0)
    w = Tensor(rng.standard_normal((64, 32)) * np.sqrt(2 / 64), requires_grad=True)
    v = Tensor(np.zeros((32, 10)), requires_grad=True)
    losses = []
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(len(images)), 23):
            loss = F.cross_entropy(F.relu(normalise(Tensor(images[batch]) @ w)) @ v, labels[batch])
            losses.append(loss.item())
            w.grad = v.grad = None
            loss.backward()
            for p in (w, v):
                p.data -= 0.5 * p.grad
    with minires.no_grad():
        guess = (F.relu(normalise(Tensor(test[0]) @ w)) @ v).numpy().argmax(1)
    return losses, np.mean(guess != test[1])


epochs = 6 if FAST else 20
gamma, beta = Tensor(np.ones(32)), Tensor(np.zeros(32))
right_losses, right_error = train(lambda x: F.batch_norm(x, gamma, beta), epochs)
zero_losses, zero_error = train(ZeroBatchNorm.apply, epochs)
print(f"right dx: loss {np.mean(right_losses[-23:]):.3f}, test error {right_error:.1%}")
print(f"dx = 0:   loss {np.mean(zero_losses[-23:]):.3f}, test error {zero_error:.1%} (guessing: 90%)")
assert np.mean(zero_losses[-23:]) < 0.6 * zero_losses[0]  # it does learn
assert zero_error > 1.5 * right_error

# %% [markdown]
# The first layer never moves, and the loss falls all the same: the last layer learns from random features. Somebody
# would now tune the learning rate.
#
# ## 7. A jury for checkers
#
# minires keeps a catalogue of wrong backward passes, each as somebody might write it. How many get past each kind of
# check?

# %%
KINDS = {
    "ones, one entry, 1e-2": {"every_entry": False, "tolerance": 1e-2},
    "ones, every entry, 1e-6": {},
    "random, one entry, 1e-2": {"upstream": "random", "every_entry": False, "tolerance": 1e-2},
    "random, every entry, 1e-2": {"upstream": "random", "tolerance": 1e-2},
    "random, every entry, 1e-6": {"upstream": "random"},
}
seeds = 1 if FAST else 5
survive = {}
for kind, options in KINDS.items():
    verdicts = [
        check(OPERATIONS[m.operation].forward, m.backward, point(m.operation, seed).values(), seed=seed, **options)
        for seed in range(seeds)
        for m in CATALOGUE
    ]
    survive[kind] = sum(verdicts) / seeds
    print(f"{kind:27} lets {survive[kind]:4.1f} of {len(CATALOGUE)} wrong backward passes through")
assert survive["ones, every entry, 1e-6"] > 10
assert survive["ones, one entry, 1e-2"] > survive["random, one entry, 1e-2"] > survive["random, every entry, 1e-6"] == 0

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
bars = axes[0].barh(list(survive), list(survive.values()), color=["C1", "C1", "C0", "C0", "C0"])
axes[0].bar_label(bars, fmt="%.1f", padding=3)
axes[0].invert_yaxis()
axes[0].set(xlabel=f"wrong backward passes accepted, of {len(CATALOGUE)}", xlim=(0, 1.15 * max(survive.values())))
for losses, colour, label in (
    (zero_losses, "C1", f"dx = 0: test error {zero_error:.1%}"),
    (right_losses, "C0", f"right dx: test error {right_error:.1%}"),
):
    axes[1].plot(np.arange(1, epochs + 1), np.reshape(losses, (-1, 23)).mean(1), "o-", color=colour, label=label)
axes[1].set(xlabel="epoch", ylabel="training loss (mean of the epoch)", ylim=(0, None))
axes[1].xaxis.get_major_locator().set_params(integer=True)
axes[1].legend(frameon=False)
save(fig, "03_arrays_blind")

# %% [markdown]
# ## Exercise
#
# In `exercises/lesson03_arrays.py` write the gradients of broadcasting, sums, products and matrix products, and then a
# checker of your own; `minires lessons check 03`. `minires gradcheck lesson03_arrays.py` says more about a gradient.
#
# **The mutants to kill**: all of them. `minires lessons check --mutants` hands the catalogue to *your* checker. It must
# refuse every wrong backward pass on 20 seeds, and accept every right one.
#
# ## What this does not show
#
# - A check finds a backward pass that disagrees with its forward pass. If both are wrong together (a mean over the
#   wrong axis, in both), they agree.
# - It judges one point. A branch of the code that this point does not reach is not checked, and at a kink no
#   difference can judge (lesson 6).
# - Probability zero is a statement about real numbers and no tolerance. A wrong entry of $10^{-7}$ of the right size
#   passes at $10^{-6}$.
# - The catalogue holds the mistakes that its authors thought of. Yours may be new.
