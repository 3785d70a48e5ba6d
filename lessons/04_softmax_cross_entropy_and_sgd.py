# %% [markdown]
# # Lesson 4: Softmax, cross-entropy, and a step downhill
#
# A network ends in numbers that mean nothing yet: ten scores for ten digits. This lesson turns them into probabilities,
# the probabilities into a loss, the loss into a gradient, and the gradient into a step. Then it trains a network.
#
# **After it you can** write softmax and cross-entropy so that they survive scores of a thousand; derive
# $\partial L/\partial z = (p - y)/N$ index by index and say where each of its parts comes from; and read a line such as
# `v = m * v + g` and know what the learning rate will do to it.
#
# **Before it:** lesson 1 (measuring a derivative) and lesson 3 (arrays, and why the upstream gradient is random).

# %%
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np

import minires
from minires import Tensor, data, nn, no_grad, optim
from minires import functional as F
from minires.classroom import FAST, save

rng = np.random.default_rng(4)

# %% [markdown]
# ## From scores to probabilities
#
# Scores $z_1, \dots, z_K$ may be any numbers. Probabilities must be positive and sum to one. The exponential makes
# anything positive, and division makes any sum one:
# $$p_j = \frac{e^{z_j}}{\sum_k e^{z_k}} .$$
# Add the same $c$ to every score, and numerator and denominator both gain a factor $e^c$, which cancels:
# $$\frac{e^{z_j + c}}{\sum_k e^{z_k + c}} = \frac{e^c\, e^{z_j}}{e^c \sum_k e^{z_k}} = p_j .$$
# Only *differences* of scores count. That is worth remembering twice: it saves us from overflow in a moment, and it
# says that the gradient of anything computed from $p$ must sum to zero over the scores, because walking in the
# direction $(1, \dots, 1)$ changes nothing.


# %%
def softmax_as_written(z):
    e = np.exp(z)
    return e / e.sum(-1, keepdims=True)


z = rng.standard_normal((3, 5))
print("p      ", softmax_as_written(z)[0].round(3))
print("p again", softmax_as_written(z + 7)[0].round(3), " after adding 7 to every score")
np.testing.assert_allclose(softmax_as_written(z + 7), softmax_as_written(z), rtol=1e-12)
np.testing.assert_allclose(softmax_as_written(z).sum(1), 1, rtol=1e-12)

# %% [markdown]
# ## The loss, and where it overflows
#
# If the right class is $y$, the network should have made $p_y$ large. The *cross-entropy* is $-\log p_y$: zero if the
# network was certain and right, $\log K$ if it thought all $K$ classes equally likely, without bound if it was certain
# and wrong. Put the softmax in, and the logarithm takes the fraction apart:
# $$-\log p_y = -\log \frac{e^{z_y}}{\sum_k e^{z_k}} = \log \sum_k e^{z_k} - z_y .$$
# The first term has a name, $\operatorname{LSE}(z) = \log \sum_k e^{z_k}$. On paper that is the end. In a computer,
# $e^{710}$ is `inf` in float64, and in float32 already $e^{89}$. Take the largest score $m = \max_k z_k$ out of the
# sum:
# $$\log \sum_k e^{z_k} = \log \Big( e^m \sum_k e^{z_k - m} \Big) = m + \log \sum_k e^{z_k - m} .$$
# Now no exponent is positive, so nothing overflows; and one of them is exactly 0, so the sum lies between 1 and $K$ and
# its logarithm between 0 and $\log K$: nothing underflows to $\log 0$ either. The same number, and it can be computed.
#
# There is a tempting middle way: compute the softmax with the maximum subtracted (no overflow there) and take its
# logarithm afterwards. Watch the middle row.


# %%
def shifted_softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_sum_exp(z):
    m = z.max(-1)
    return m + np.log(np.exp(z - m[..., None]).sum(-1))


LOSSES = {
    "-log of the softmax as written": lambda z, y: -np.log(softmax_as_written(z)[y]),
    "-log of the shifted softmax": lambda z, y: -np.log(shifted_softmax(z)[y]),
    "LSE(z) - z_y": lambda z, y: log_sum_exp(z) - z[y],
}
print(f"{'the right class is the second':32}  z = (1, 0)    z = (1000, 0)")
with np.errstate(all="ignore"):
    for name, loss in LOSSES.items():
        small, large = loss(np.array([1.0, 0.0]), 1), loss(np.array([1000.0, 0.0]), 1)
        print(f"{name:32}  {small:10.6f}    {large:13.6g}")
        np.testing.assert_allclose(small, np.log(1 + np.e), rtol=1e-12)
        assert np.isfinite(large) == (name == "LSE(z) - z_y")

# %% [markdown]
# The first has $1/\infty = 0$ inside the logarithm, the second rounds $e^{-1000}$ to 0: both say the loss is infinite,
# and a single such example makes the loss of a whole batch useless. The true loss is 1000, a bad but ordinary number.
# This is why minires, like every library, has softmax and logarithm in one operation that takes *scores*
# (`F.cross_entropy(logits, labels)`). Handing it probabilities is a common mistake: it then computes the softmax of a
# softmax, and trains, badly.
#
# ## The gradient, index by index
#
# A batch has $N$ examples with scores $z_{ij}$ (example $i$, class $j$) and labels $y_i$. The loss is their mean,
# $$L = \frac1N \sum_{i} \Big( \operatorname{LSE}(z_{i\cdot}) - z_{i, y_i} \Big) .$$
# Choose one score, $z_{ab}$, and differentiate everything by it.
#
# *The sum over examples.* Scores of example $a$ occur only in the term $i = a$. The others are constants:
# $$\frac{\partial L}{\partial z_{ab}} = \frac1N \left( \frac{\partial \operatorname{LSE}(z_{a\cdot})}{\partial z_{ab}}
# - \frac{\partial z_{a, y_a}}{\partial z_{ab}} \right) .$$
#
# *The first term.* The derivative of a logarithm is one over its argument, times the derivative of the argument; in the
# sum only $k = b$ depends on $z_{ab}$:
# $$\frac{\partial}{\partial z_{ab}} \log \sum_k e^{z_{ak}} = \frac{1}{\sum_k e^{z_{ak}}} \, e^{z_{ab}} = p_{ab} .$$
# The derivative of log-sum-exp is the softmax. No other fact about softmax is needed.
#
# *The second term.* $z_{a,y_a}$ is the number $z_{ab}$ if $b = y_a$, and another variable if not. So its derivative is
# 1 or 0; written as a matrix, that is the one-hot matrix $Y_{ab} = [\,b = y_a\,]$.
#
# Together, and with the upstream gradient $g = \partial(\text{whatever comes after})/\partial L$ in front:
# $$\boxed{\;\frac{\partial L}{\partial z_{ab}} = g\,\frac{p_{ab} - Y_{ab}}{N}\;}$$
# Read it: *what you said, minus what was so*. Every mistake that can be made here has a place in this formula: no $N$,
# $N$ twice, $Y - p$, the softmax along the wrong axis, no $Y$, no $g$.


# %%
def cross_entropy(z, labels):
    return (log_sum_exp(z) - z[np.arange(len(z)), labels]).mean()


def cross_entropy_backward(dy, z, labels):
    grad = shifted_softmax(z)
    grad[np.arange(len(z)), labels] -= 1
    return {"z": dy * grad / len(z)}


z, labels = rng.standard_normal((4, 6)), np.array([5, 0, 2, 2])
report = minires.gradcheck_fn(cross_entropy, cross_entropy_backward, {"z": z, "labels": labels})
print(report)
report.assert_ok()

grad = cross_entropy_backward(1.0, z, labels)["z"]
print("each row sums to zero, as it must:", np.abs(grad.sum(1)).max())
assert np.abs(grad.sum(1)).max() < 1e-15

# %% [markdown]
# ## The same by the long road
#
# One can also go through the softmax as an operation of its own. Its Jacobian, by the quotient rule, with
# $S = \sum_k e^{z_k}$ and $\delta_{jb} = 1$ if $j = b$ and 0 otherwise:
# $$\frac{\partial p_j}{\partial z_b} = \frac{\delta_{jb}\, e^{z_j}\, S - e^{z_j}\, e^{z_b}}{S^2}
# = p_j\,(\delta_{jb} - p_b) .$$
# The loss of one example is $-\log p_y$, so $\partial L/\partial p_j = -\delta_{jy}/p_y$. The chain rule sums over $j$:
# $$\frac{\partial L}{\partial z_b} = \sum_j -\frac{\delta_{jy}}{p_y}\; p_j (\delta_{jb} - p_b)
# = -\frac{1}{p_y}\, p_y\, (\delta_{yb} - p_b) = p_b - \delta_{yb} .$$
# The same, as it has to be. But look at $\frac{1}{p_y}\, p_y$. On paper it cancels. In the computer, $p_y$ may have
# been rounded to 0, and then it is $\infty \cdot 0$, which is NaN. Fused, the two factors never meet: that is the
# second reason to have one operation instead of two.


# %%
def long_road(z, labels):
    p, rows = shifted_softmax(z), np.arange(len(z))
    dp = np.zeros_like(p)
    dp[rows, labels] = -1 / p[rows, labels] / len(z)
    return p * (dp - (p * dp).sum(1, keepdims=True))  # dz_b = sum over j of dp_j p_j (delta_jb - p_b)


with np.errstate(all="ignore"):
    for scale in (1, 1000):
        fused, two_steps = cross_entropy_backward(1.0, scale * z, labels)["z"], long_road(scale * z, labels)
        engine = Tensor(scale * z, requires_grad=True)
        F.cross_entropy(engine, labels).backward()
        print(f"scores times {scale:4}: fused {fused[0].round(3)}   in two steps {two_steps[0].round(3)}")
        np.testing.assert_allclose(engine.grad, fused, rtol=1e-12, atol=1e-15)
        assert np.isfinite(fused).all()
        assert np.isnan(two_steps).any() == (scale == 1000)
np.testing.assert_allclose(long_road(z, labels), cross_entropy_backward(1.0, z, labels)["z"], rtol=1e-12, atol=1e-15)

# %% [markdown]
# ## A step downhill, with momentum
#
# Plain gradient descent is $w \leftarrow w - \eta g$, with the learning rate $\eta$. *Momentum* keeps a running sum of
# gradients, the velocity $v$, and forgets a part of it in every step. There are two ways to write it, and both are
# called "SGD with momentum 0.9":
#
# | | velocity | step |
# | --- | --- | --- |
# | PyTorch, minires | $v \leftarrow m v + g$ | $w \leftarrow w - \eta v$ |
# | Caffe, in which the paper's networks were trained | $u \leftarrow m u + \eta g$ | $w \leftarrow w - u$ |
#
# *With a constant $\eta$ they are the same.* Claim: $u = \eta v$ after every step. It holds at the start, where both
# are 0. If it holds before a step, then after it $u' = m u + \eta g = m \eta v + \eta g = \eta (m v + g) = \eta v'$.
#
# *How much faster is it?* Under a constant gradient $g$ the velocity after $t$ steps is
# $v_t = g\,(1 + m + m^2 + \dots + m^{t-1})$. Call the sum $s$; then $s - m s = 1 - m^t$, because all other terms
# cancel, so $v_t = g\,(1 - m^t)/(1 - m)$, which tends to $g/(1-m)$: with $m = 0.9$ ten times the gradient. Whoever
# changes $m$ changes the size of the steps, and has to think about $\eta$ again.
#
# *When $\eta$ changes they differ.* In step $t$ PyTorch's uses today's $\eta_t$ for all old gradients; Caffe's keeps
# each gradient with the $\eta$ of its own day: $u_t = \sum_k m^k \eta_{t-k}\, g_{t-k}$. The schedules of ResNets divide
# $\eta$ by ten. Then minires' step shrinks at once, and Caffe's runs on with the old speed for about $1/(1-m)$ steps.
# With constant $g$ the $k$-th step after the change ($k = 1$ is the first) is too long by
# $m^k (\eta_{\text{old}} - \eta_{\text{new}})\, g / (1 - m)$, and by the same geometric sum the whole way by
# $$\sum_{k \ge 1} m^k\, \frac{(\eta_{\text{old}} - \eta_{\text{new}})\, g}{1 - m}
# = \frac{m\,(\eta_{\text{old}} - \eta_{\text{new}})\, g}{(1 - m)^2} .$$


# %%
def step_lengths(convention, rates, m=0.9, g=1.0):
    velocity, lengths = 0.0, []
    for rate in rates:
        velocity = m * velocity + (g if convention == "PyTorch" else rate * g)
        lengths.append(rate * velocity if convention == "PyTorch" else velocity)
    return np.array(lengths)


constant = np.full(60, 0.1)
np.testing.assert_allclose(step_lengths("PyTorch", constant), step_lengths("Caffe", constant), rtol=1e-12)

drop = 200  # long enough for the velocity to settle
rates = np.where(np.arange(400) < drop, 0.1, 0.01)
pytorch, caffe = step_lengths("PyTorch", rates), step_lengths("Caffe", rates)
further = (caffe - pytorch).sum()
print(f"before the drop both step by {pytorch[drop - 1]:.4f}, ten times eta g")
print(f"the first step after it: PyTorch {pytorch[drop]:.3f}, Caffe {caffe[drop]:.3f}")
print(f"Caffe goes {further:.4f} further; derived: {0.9 * (0.1 - 0.01) / (1 - 0.9) ** 2:.4f}")
np.testing.assert_allclose(further, 0.9 * (0.1 - 0.01) / (1 - 0.9) ** 2, rtol=1e-6)

figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
since = np.arange(400) - drop
shown = (since >= -10) & (since <= 40)
ax.step(since[shown], caffe[shown], where="mid", color="C1", label=r"Caffe: $u \leftarrow mu + \eta g$, step $u$")
ax.step(
    since[shown],
    pytorch[shown],
    where="mid",
    color="C0",
    label=r"PyTorch, minires: $v \leftarrow mv + g$, step $\eta v$",
)
ax.fill_between(since[shown], pytorch[shown], caffe[shown], step="mid", color="C1", alpha=0.15, lw=0)
ax.annotate(f"{further:.1f} further in all", (6, 0.3), (13, 0.55), arrowprops={"arrowstyle": "-", "color": "0.4"})
ax.set(xlabel=r"steps since $\eta$ fell from 0.1 to 0.01", ylabel="length of a step", ylim=(0, 1.1))
ax.set_title("Two conventions of momentum, constant gradient 1, m = 0.9", loc="left", fontsize=10)
ax.legend(frameon=False)
save(figure, "04_momentum_conventions")

# %% [markdown]
# Two more lines belong to the step. *Weight decay* adds the penalty $\frac{\lambda}{2} \lVert w \rVert^2$ to the loss;
# its derivative is $\lambda w$, so $g \leftarrow g + \lambda w$ *before* the velocity is formed. *Nesterov's* momentum
# looks one step ahead: with $v \leftarrow m v + g$ as before it steps along $g + m v$ instead of $v$ (Sutskever et al.
# 2013, rewritten in the variables of PyTorch). `optim.SGD` does all of it; here is a hand's turn to compare.

# %%
w = nn.Parameter(np.array([1.0, -2.0]))
sgd = optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=0.01)
by_hand, v = np.array([1.0, -2.0]), np.zeros(2)
for g in rng.standard_normal((5, 2)):
    w.grad = g.copy()
    sgd.step()
    v = 0.9 * v + (g + 0.01 * by_hand)
    by_hand = by_hand - 0.1 * v
print("after five steps:", w.numpy(), by_hand)
np.testing.assert_allclose(w.numpy(), by_hand, rtol=1e-12)

# %% [markdown]
# ## A network that reads digits
#
# Now all of it at once: 64 pixels, one hidden layer of 64 with a ReLU, 10 scores; 1,437 pictures to learn from, 360 to
# be tested on. First a check that costs one line and catches a good deal: with all scores equal, every $p_j$ is $1/10$
# and the loss must be $\log 10 = 2.3026$. A fresh network should not be far above; one that starts at 20 has scores
# that are too large, one that starts at 0.2 is looking at the labels.

# %%
train, test = data.digits()
prepare = data.Normalise.fit(train)  # the mean picture of the training set is subtracted, from both sets
loader = data.DataLoader(train, batch_size=64, shuffle=True, seed=0, transform=prepare)
x_test, y_test = prepare(test.images), test.labels

net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64, generator=rng), nn.ReLU(), nn.Linear(64, 10, generator=rng))
blind = F.cross_entropy(Tensor(np.zeros((7, 10))), np.arange(7)).item()
with no_grad():
    fresh = F.cross_entropy(net(Tensor(x_test)), y_test).item()
print(f"log 10 = {np.log(10):.4f}; all scores equal {blind:.4f}; the network before training {fresh:.4f}")
assert abs(blind - np.log(10)) < 1e-12
assert fresh < 2 * np.log(10)

# %%
sgd = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
steps, losses, epochs, test_losses = [], [], [0], [fresh]
began = perf_counter()
for epoch in range(8 if FAST else 30):
    for images, wanted in loader:
        loss = F.cross_entropy(net(Tensor(images)), wanted)
        sgd.zero_grad()  # gradients add up: without this line every step would use all gradients so far
        loss.backward()
        sgd.step()
        steps.append(len(steps) / len(loader))
        losses.append(loss.item())
    with no_grad():
        test_losses.append(F.cross_entropy(net(Tensor(x_test)), y_test).item())
    epochs.append(epoch + 1)
with no_grad():
    p_test = F.softmax(net(Tensor(x_test))).numpy()
said = p_test.argmax(1)
wrong = np.flatnonzero(said != y_test)
print(f"{len(losses)} steps in {perf_counter() - began:.1f} s: loss of the last batch {losses[-1]:.4f}")
print(f"{len(wrong)} of {len(test)} test pictures wrong: an error of {len(wrong) / len(test):.1%}")
assert test_losses[-1] < fresh / 4
assert len(wrong) / len(test) < 0.08

# %% [markdown]
# An error rate is one number. A *confusion matrix* is a hundred: row $i$, column $j$ counts the pictures of an $i$ that
# were taken for a $j$. Its diagonal is what went right, its row sums are how many pictures of each digit there are, and
# what is left tells *which* mistakes are made. Beside it stand the mistakes that cost most, the largest $-\log p_y$.

# %%
confusion = np.zeros((10, 10), int)
np.add.at(confusion, (y_test, said), 1)  # += would count a pair that occurs twice only once
assert (confusion.sum(1) == np.bincount(y_test)).all()
assert np.trace(confusion) == len(test) - len(wrong)

cost = -np.log(p_test[np.arange(len(test)), y_test])
worst = cost.argsort()[::-1][:6]
figure = plt.figure(figsize=(10.5, 3.6), layout="constrained")
left, middle, right = figure.subfigures(1, 3, width_ratios=(1.15, 1, 0.85))

ax = left.subplots()
ax.plot(steps, losses, color="C0", lw=0.7, alpha=0.6, label="each training batch")
ax.plot(epochs, test_losses, color="C1", marker="o", ms=3, label="test set")
ax.axhline(np.log(10), color="0.5", lw=0.8, ls=":")
ax.text(epochs[-1], np.log(10) * 0.9, "log 10: all classes alike", ha="right", va="top", color="0.4", fontsize=8)
ax.set(yscale="log", xlabel="epoch", ylabel="cross-entropy")
ax.set_title("Loss", loc="left", fontsize=10)
ax.legend(frameon=False, fontsize=8, loc="lower left")

ax = middle.subplots()
ax.imshow(np.ma.masked_where((confusion == 0) | np.eye(10, dtype=bool), confusion), "Oranges", vmin=0, vmax=6)
for i, j in zip(*confusion.nonzero(), strict=True):
    ax.text(j, i, confusion[i, j], ha="center", va="center", fontsize=7, color="C0" if i == j else "black")
ax.set(xticks=range(10), yticks=range(10), xlabel="taken for", ylabel="digit")
ax.set_title(f"{len(test)} test pictures, {len(wrong)} wrong", loc="left", fontsize=10)

right.suptitle("The most expensive", x=0.02, ha="left", fontsize=10)
for ax, k in zip(right.subplots(2, 3).flat, worst, strict=True):
    ax.imshow(test.images[k, :, :, 0], "gray_r")
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"{y_test[k]}, not {said[k]}" if said[k] != y_test[k] else f"{y_test[k]}, unsure", fontsize=8)
    ax.set_xlabel(f"loss {cost[k]:.1f}", fontsize=8)
save(figure, "04_digits")

# %% [markdown]
# ## A mutant to kill
#
# Here is a cross-entropy that forgets the upstream gradient. Training does not notice: `loss.backward()` starts with
# $g = 1$, so the forgotten factor is 1 in every step of every run. The test below is green. Write one that is red.
# (Then ask where in a real training loop $g$ is *not* 1. There are at least two places.)


# %%
def mutant(dy, z, labels):
    return {"z": (shifted_softmax(z) - np.eye(z.shape[1])[labels]) / len(z)}


np.testing.assert_allclose(mutant(1.0, z, labels)["z"], cross_entropy_backward(1.0, z, labels)["z"], atol=1e-15)
print("the mutant is alive")

# %% [markdown]
# ## The exercise
#
# `exercises/lesson04_cross_entropy.py`: the fused loss, its gradient, and a step of SGD with momentum and weight decay.
# `minires lessons check 04` says how it goes.
#
# ## What this does not show
#
# - **That this network is good.** One seed, one split, 360 test pictures: one picture more or less is 0.28 %, and the
#   spread from chance alone is about $\sqrt{e(1-e)/360}$, near 1 % for an error $e$ of 3 %. A network that is "0.5 %
#   better" on this set has not been shown to be better.
# - **That the probabilities are probabilities.** They are positive and sum to one. Whether three in ten pictures with
#   $p = 0.7$ are wrong is another question (calibration), and trained networks tend to be too sure of themselves (Guo
#   et al. 2017).
# - **That the convention of momentum matters for the result.** It changes the first ten steps after each drop of
#   $\eta$. It matters when a recipe is copied from one library to another with a schedule that changes $\eta$ in every
#   step.
# - **That a falling loss means a right gradient.** The mutant above trains as well as the original. Only a measurement
#   of the derivative, with a random upstream gradient, tells them apart.
