# %% [markdown]
# # Lesson 9: The residual block and the +1
#
# Lesson 8 ended with a network of 56 layers that cannot even learn its own training set, although a network of 20
# layers, which it contains, can. This lesson is about the repair of He et al. (2015): let a stack of layers learn
# $F(x) = H(x) - x$ instead of $H(x)$, and add the $x$ back:
#
# $$H(x) = F(x) + x .$$
#
# One addition. You will
#
# - derive what it does to the gradient, $dL/dx = dL/dH\,(dF/dx + 1)$, for a number, for vectors, and with the ReLU that
#   the paper puts after the addition;
# - measure every one of these formulas to the last bits of float64;
# - watch, in a network that learns, how much of the gradient comes through the skip and how much through the branch.
#
# You need lessons 3 (vector-Jacobian products), 5, 7 and 8. About 50 minutes.

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

import minires
from minires import Tensor, data, inspect, models, optim
from minires import functional as F
from minires.classroom import FAST, save

rng = np.random.default_rng(9)
norm = np.linalg.norm

# %% [markdown]
# ## 1. A number
#
# Let $x$ be a number, $F$ any differentiable function, $H(x) = F(x) + x$, and $L$ some loss that depends on $x$
# through $H$ alone. Move $x$ by a small $\varepsilon$:
#
# $$H(x + \varepsilon) = F(x + \varepsilon) + x + \varepsilon
#   = F(x) + F'(x)\,\varepsilon + x + \varepsilon + O(\varepsilon^2)
#   = H(x) + \left(F'(x) + 1\right)\varepsilon + O(\varepsilon^2) .$$
#
# So $\frac{dH}{dx} = F'(x) + 1$: the $F'$ comes from the branch, and the $1$ is the derivative of $x$ itself, which
# the skip hands on. The chain rule does the rest:
#
# $$\frac{dL}{dx} = \frac{dL}{dH}\,\frac{dH}{dx} = \frac{dL}{dH}\left(\frac{dF}{dx} + 1\right)
#   = \underbrace{\frac{dL}{dH}\,\frac{dF}{dx}}_{\text{through the branch}}
#   + \underbrace{\frac{dL}{dH}}_{\text{through the skip}} .$$
#
# Take $F(x) = a \tanh(bx)$, so that $F'(x) = ab\,(1 - \tanh^2 bx)$, and $L = \frac12 H^2$, so that $dL/dH = H$.

# %%
a, b, x = 0.7, -1.3, 0.4
H = a * np.tanh(b * x) + x
by_hand = H * (a * b * (1 - np.tanh(b * x) ** 2) + 1)

t = Tensor(x, requires_grad=True, dtype=np.float64)
h = a * F.tanh(b * t) + t
(0.5 * h * h).backward()

loss = lambda x: 0.5 * (a * np.tanh(b * x) + x) ** 2
complex_step = (loss(x + 1e-30j) / 1e-30).imag  # lesson 1: exact but for rounding
print(f"by hand {by_hand:.15f}   engine {t.grad:.15f}   complex step {complex_step:.15f}")
assert np.allclose([t.grad, complex_step], by_hand, rtol=1e-14)

# %% [markdown]
# The engine knows nothing of residual blocks. It saw one tensor used twice, once by `tanh` and once by the addition,
# and did what lesson 2 derived: **where a value is used twice, its gradients add up.** The +1 is fan-out, nothing
# else.

# %%
h = a * F.tanh(b * t) + t
save(inspect.draw_graph(h, {"x": t}).plot(), "09_graph")

# %% [markdown]
# ## 2. What the +1 is good for, and what it does not promise
#
# In a stack of $l$ numbers $x_{k+1} = H_k(x_k)$ the gradient is a product: of the $F_k'$ in a plain stack, of the
# $F_k' + 1$ in a residual one. Products of numbers around 0.5 die out, those of numbers around 1.5 explode: with
# random $F_k'$ of small size the residual product stays in reach, because its factors are near 1.

# %%
slopes = rng.normal(0, 0.2, (1000, 50))  # of 50 blocks, 1,000 times
plain, residual = np.abs(slopes.prod(1)), np.abs((slopes + 1).prod(1))
print(f"median of |product| over 50 blocks: plain {np.median(plain):.1e}, residual {np.median(residual):.2f}")
assert np.median(plain) < 1e-30
assert 0.05 < np.median(residual) < 5

# %% [markdown]
# Often one reads that with the +1 "the gradient cannot vanish". **It can**: for $F' = -1$ the two parts cancel,
# exactly, and nothing forbids a branch to learn $F(x) = -x$. And the factors above are near 1 only because these
# branches are small *by assumption*. With batch norm real ones are not (section 8), unless they start at zero
# (section 5).

# %%
for slope in (-0.5, -0.99, -1.0):
    print(f"F' = {slope:5.2f}: dL/dx = {slope + 1:.2f} dL/dH")
assert -1.0 + 1 == 0

# %% [markdown]
# ## 3. Vectors
#
# Now $x \in \mathbb{R}^n$, and $F(x) = W_2\,\mathrm{relu}(W_1 x)$, two layers as in the paper. Component $i$ of
# $H(x) = F(x) + x$ has the derivatives
#
# $$\frac{\partial H_i}{\partial x_j} = \frac{\partial F_i}{\partial x_j} + \delta_{ij},
#   \qquad\text{that is}\qquad J_H = J_F + I .$$
#
# **The 1 has become the identity matrix.** The loss hears of $x_j$ through every $H_i$, so the chain rule sums over
# $i$:
#
# $$\frac{\partial L}{\partial x_j} = \sum_i \frac{\partial L}{\partial H_i}\,\frac{\partial H_i}{\partial x_j}
#   = \sum_i g_i\,(J_F)_{ij} + g_j, \qquad g_i = \frac{\partial L}{\partial H_i},$$
#
# $$\frac{\partial L}{\partial x} = (J_F + I)^\top g = J_F^\top g + g .$$
#
# And $J_F$ itself: with $z = W_1 x$ we have $F_i = \sum_k (W_2)_{ik}\,\mathrm{relu}(z_k)$ and
# $\partial z_k / \partial x_j = (W_1)_{kj}$, so
#
# $$(J_F)_{ij} = \sum_k (W_2)_{ik}\,[z_k > 0]\,(W_1)_{kj}, \qquad J_F = W_2\,\mathrm{diag}[z > 0]\,W_1 .$$
#
# (In the code an example is a row, so $W_1 x$ is `x @ w1` with `w1` $= W_1^\top$.)

# %%
n, hidden = 5, 7
w1, w2 = rng.standard_normal((n, hidden)), rng.standard_normal((hidden, n))
x, g = rng.standard_normal(n), rng.standard_normal(n)
branch = lambda x: np.maximum(x @ w1, 0) @ w2

J = w2.T @ np.diag((x @ w1 > 0).astype(float)) @ w1.T
step = 1e-6
columns = [(branch(x + step * e) - branch(x - step * e)) / (2 * step) for e in np.eye(n)]
print(f"J_F by the formula and by differences: {np.abs(J - np.array(columns).T).max():.1e} apart")
assert np.allclose(J, np.array(columns).T, atol=1e-8)

t = Tensor(x, requires_grad=True)
H = F.relu(t @ Tensor(w1)) @ Tensor(w2) + t
H.backward(g)
print("(J_F + I)^T g:", np.round((J + np.eye(n)).T @ g, 6))
print("the engine:   ", np.round(t.grad, 6))
assert norm(t.grad - (J + np.eye(n)).T @ g) < 1e-13 * norm(t.grad)

# %% [markdown]
# The engine never built a Jacobian. It sent $g$ backwards through $W_2$, the mask and $W_1$, which is $J_F^\top g$,
# and added $g$. In code, the whole backward pass of the block is
#
# ```python
# dz = dy @ w2.T * (z > 0)
# dx = dz @ w1.T + dy        # + dy is the +1
# ```
#
# **Near an eigenvalue of −1** the sum can still vanish, now in a direction: if $J_F^\top v = -v$, a gradient along
# $v$ dies in this block, and $J_F + I$ is singular.

# %%
v = rng.standard_normal(n)
v /= norm(v)
J_bad = -np.outer(v, v)  # maps v to -v
print(f"|(J_F + I)^T v| = {norm((J_bad + np.eye(n)).T @ v):.1e}")
assert norm((J_bad + np.eye(n)).T @ v) < 1e-15

# %% [markdown]
# ## 4. The ReLU after the addition
#
# The block of the paper (figure 2) ends with a second ReLU, *after* the addition: $y = \mathrm{relu}(F(x) + x)$. What
# comes from above is then $\partial L/\partial y$, and
#
# $$\frac{\partial L}{\partial H} = \frac{\partial L}{\partial y} \odot [H > 0], \qquad
#   \frac{\partial L}{\partial x} = J_F^\top \frac{\partial L}{\partial H} + \frac{\partial L}{\partial H} .$$
#
# So "the gradient reaches the input without loss", which one often reads of ResNet, is not so for this block: the
# gradient meets the mask $[H > 0]$ **before** its two ways part, so it is cut on the skip as well as on the branch.
# And where a stage begins, the skip is no identity either (lesson 10). Only *inside* a stage, and only for units that
# are on, does the gradient pass untouched.

# %%
t = Tensor(x, requires_grad=True)
y = F.relu(F.relu(t @ Tensor(w1)) @ Tensor(w2) + t)
y.backward(g)
on = branch(x) + x > 0
print(f"{on.sum()} of {n} units are on; the skip carries", np.round(g * on, 3))
assert norm(t.grad - (J.T @ (g * on) + g * on)) < 1e-13 * norm(t.grad)


def forward(x, w1, w2):
    return np.maximum(np.maximum(x @ w1, 0) @ w2 + x, 0)


def forgets_the_mask(dy, x, w1, w2):
    """A mistake that many make: the ReLU masks the branch, but the skip takes dy as it is."""
    z = x @ w1
    dh = dy * (np.maximum(z, 0) @ w2 + x > 0)
    dz = dh @ w2.T * (z > 0)
    return {"x": dz @ w1.T + dy, "w1": x.T @ dz, "w2": np.maximum(z, 0).T @ dh}


report = minires.gradcheck_fn(forward, forgets_the_mask, {"x": rng.standard_normal((4, n)), "w1": w1, "w2": w2})
print(report)
assert "the ReLU after the addition masks the skip as well" in str(report)

# %% [markdown]
# ## 5. If the branch is zero, the block is the identity
#
# $F = 0$ gives $H = x$: doing nothing costs nothing to learn, while a plain stack of two layers has to *learn* the
# identity. With the ReLU after the addition this holds because the input of a block is the output of another ReLU, so
# it is not negative and $\mathrm{relu}(x) = x$, bit for bit. `zero_init_residual=True` starts every branch at zero by
# its last gamma.

# %%
model = models.cifar_resnet(20, width=8, in_channels=1, zero_init_residual=True, generator=0)
block = model.blocks()[1]
x = np.maximum(rng.standard_normal((2, 8, 8, 8)).astype(np.float32), 0)
print("y == x, bit for bit:", block(Tensor(x)).numpy().tobytes() == x.tobytes())
assert block(Tensor(x)).numpy().tobytes() == x.tobytes()
assert not np.array_equal(block(Tensor(-x)).numpy(), -x)  # of a negative input it is not so

# %% [markdown]
# ## 6. Through many blocks
#
# If nothing stood after the addition, $x_{k+1} = x_k + F_k(x_k)$ could be summed up, $x_l = x_0 + \sum_k F_k(x_k)$, and
#
# $$\frac{\partial L}{\partial x_0}
#   = \left(I + \frac{\partial}{\partial x_0}\sum_k F_k(x_k)\right)^{\!\top} \frac{\partial L}{\partial x_l} :$$
#
# the gradient at the top reaches every layer as it is, plus something. This is from the *second* paper (He et al.
# 2016, eq. 5), and needs its pre-activation blocks, where both the skip and what follows the addition are the
# identity. With ReLUs after the additions it fails. Ten blocks of each kind, with branches multiplied by zero, so
# that only the skips are left:

# %%
w = [(rng.standard_normal((n, hidden)), rng.standard_normal((hidden, n))) for _ in range(10)]
for after, name in ((lambda h: h, "nothing after the addition"), (F.relu, "a ReLU after the addition")):
    x0 = Tensor(rng.standard_normal((100, n)), requires_grad=True)
    x = x0
    for u, v in w:
        x = after(0 * (F.relu(x @ Tensor(u)) @ Tensor(v)) + x)
    g = rng.standard_normal(x.shape)
    x.backward(g)
    kept = norm(x0.grad) / norm(g)
    print(f"{name:<27} |dL/dx_0| / |dL/dx_l| = {kept:.4f}")
    assert (abs(kept - 1) < 1e-15) == (after is not F.relu)
assert abs(kept - 0.5**0.5) < 0.1  # half of the units are off, in the first ReLU; later ones find nothing more to cut

# %% [markdown]
# ## 7. The split, measured in a network
#
# In a network with convolutions and batch norm nobody writes the Jacobian down. But the two parts can be overheard
# while the engine adds them: `inspect.gradient_flow(model, batch)` finds in the graph every tensor that goes two ways
# which meet again, and gives for each the parts $g_{\text{branch}}$ and $g_{\text{skip}}$ of $\partial L/\partial x$.
# Their *shares* are
#
# $$\frac{\langle g_{\text{branch}}, \partial L/\partial x\rangle}{|\partial L/\partial x|^2} \quad\text{and}\quad
#   \frac{\langle g_{\text{skip}}, \partial L/\partial x\rangle}{|\partial L/\partial x|^2},$$
#
# how far each part goes along the whole. They sum to 1. A share may exceed 1, and then the other is negative: the parts
# pull against each other.
#
# First, is it true? One block, by hand: compute the gradient once with the branch cut off and once with the skip cut
# off.

# %%
digits, _ = data.digits()
prepare = data.Normalise.fit(digits)
images, labels = prepare(digits.images[:64]), digits.labels[:64]

model = models.cifar_resnet(20, width=8, in_channels=1, generator=0).astype(np.float64)
flow = inspect.gradient_flow(model, (images, labels))
blocks = model.blocks()


def gradient(cut_branch, cut_skip):
    """dL/dx at the input of the fifth block, a way being cut off for the gradient but not for the numbers."""
    with minires.no_fusion():
        x = F.relu(model.bn(model.conv(Tensor(images, dtype=np.float64))))
        for block in blocks[:4]:
            x = block(x)
        x = x.detach()
        x.requires_grad_()
        block = blocks[4]
        h = F.relu(block.bn1(block.conv1(x.detach() if cut_branch else x)))
        h = block.bn2(block.conv2(h)) + block.shortcut(x.detach() if cut_skip else x)
        h = F.relu(h)
        for block in blocks[5:]:
            h = block(h)
        F.cross_entropy(model.fc(model.global_pool(h)), labels).backward()
    return x.grad


whole, skip, branch = gradient(False, False), gradient(True, False), gradient(False, True)
print(f"|dL/dx| = {norm(whole):.6f}, through the skip {norm(skip):.6f}, through the branch {norm(branch):.6f}")
print(f"|whole - skip - branch| / |whole| = {norm(whole - skip - branch) / norm(whole):.1e}")
assert norm(whole - skip - branch) < 1e-12 * norm(whole)
found = flow.blocks[4]
assert np.allclose([found.gradient, found.skip, found.branch], [norm(whole), norm(skip), norm(branch)], rtol=1e-10)

for entry in flow.blocks:
    print(f"{entry.name}: skip {entry.skip_share:6.1%}, branch {entry.branch_share:6.1%}")
    assert abs(entry.skip_share + entry.branch_share - 1) < 1e-12
    assert entry.difference < 1e-12

# %% [markdown]
# ## 8. Over training, plain beside residual
#
# Train a ResNet-20 and its plain twin (the same parameters, no skips) on the digits, stop now and then, and look.
# What do you expect? Before you run it: which share will the skip have at the start? And will the gradient of the
# plain network at its first layer be smaller or larger than at its last?

# %%
epochs = 2 if FAST else 6
looks = {}  # (residual, epoch): GradientFlow
errors = {}
for is_residual in (True, False):
    model = models.cifar_resnet(20, width=8, in_channels=1, residual=is_residual, generator=1)
    sgd = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    loader = data.DataLoader(digits, batch_size=64, shuffle=True, transform=prepare, seed=0)
    for epoch in range(epochs + 1):
        looks[is_residual, epoch] = inspect.gradient_flow(copy.deepcopy(model).astype(np.float64), (images, labels))
        if epoch == epochs:
            break
        for batch, targets in loader:
            loss = F.cross_entropy(model(Tensor(batch)), targets)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    model.eval()
    with minires.no_grad():
        logits = model(Tensor(prepare(digits.images)))
    errors[is_residual] = float((logits.numpy().argmax(1) != digits.labels).mean())
    print(f"{'residual' if is_residual else 'plain':<8} training error after {epochs} epochs {errors[is_residual]:.1%}")

for epoch in range(epochs + 1):
    for entry in looks[True, epoch].blocks:
        assert abs(entry.skip_share + entry.branch_share - 1) < 1e-12

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
for ax, epoch in ((left, 0), (right, epochs)):
    entries = looks[True, epoch].blocks
    at = np.arange(len(entries))
    skip = np.array([entry.skip_share for entry in entries])
    branch = np.array([entry.branch_share for entry in entries])
    ax.bar(at, skip, 0.7, label="through the skip")
    ax.bar(at, branch, 0.7, bottom=np.where(branch > 0, np.maximum(skip, 0), 0), label="through the branch")
    ax.axhline(1, color="0.3", lw=0.8, ls=":")
    ax.set_xticks(at, [entry.name.removeprefix("stage") for entry in entries])
    ax.set(title="at the start" if epoch == 0 else f"after {epoch} epochs", xlabel="stage.block, from input to output")
left.set_ylabel("share of dL/dx")
left.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.08))
save(fig, "09_split")

# %% [markdown]
# It is not so that "the gradient flows through the skip": **both** parts are large. At the start the branches near
# the input carry most of it. While the network learns, the share of the skips grows; whether it does so for every
# seed and every task this figure cannot tell.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for epoch in range(epochs + 1):
    shares = [entry.skip_share for entry in looks[True, epoch].blocks]
    left.plot([epoch] * len(shares), shares, ".", color="C0", alpha=0.5)
means = [np.mean([entry.skip_share for entry in looks[True, epoch].blocks]) for epoch in range(epochs + 1)]
print(f"mean share through the skip: {means[0]:.2f} at the start, {means[-1]:.2f} after {epochs} epochs")
assert means[-1] > means[0]
left.plot(range(epochs + 1), means, color="C0", label="mean of all blocks")
left.set(xlabel="epoch", ylabel="share through the skip", ylim=(min(0, *left.get_ylim()), None))
left.legend(frameon=False)

ratios = {}
for is_residual, colour in ((True, "C0"), (False, "C1")):
    name = "residual" if is_residual else "plain"
    for epoch, style in ((0, "-"), (epochs, "--")):
        convs = [layer for layer in looks[is_residual, epoch].layers if layer.kind == "Conv2d"]
        gradients = [layer.gradient for layer in convs]
        right.semilogy(range(1, len(convs) + 1), gradients, style, color=colour, label=f"{name}, epoch {epoch}")
        ratios[is_residual, epoch] = gradients[0] / gradients[-1]
right.set(xlabel="convolution, from input to output", ylabel="|dL/dy|")
right.xaxis.set_major_locator(MaxNLocator(integer=True))
right.legend(frameon=False)
save(fig, "09_over_training")

for is_residual in (True, False):
    print(
        f"{'residual' if is_residual else 'plain':<8} |gradient| at the first convolution over that at the last: "
        f"{ratios[is_residual, 0]:.1f} at the start, {ratios[is_residual, epochs]:.1f} after {epochs} epochs"
    )
assert ratios[False, 0] > ratios[True, 0] > 1  # both grow on their way down, the plain one more; none vanishes

# %% [markdown]
# (After training the residual network's gradients are small everywhere because its loss is.)
#
# At the start the plain network's gradient does **not** vanish towards the input, as the usual story has it: with
# batch norm it *grows*, and more than the residual network's (lesson 8). He et al. (2015, section 4.1) say themselves
# that vanishing gradients are an unlikely cause of what they saw. Nor does the skip keep the gradient as it is: in the
# residual network it grows too, only less. What the derivation says is what the skip *adds* at each block, and the
# figures say how much of the whole that is.
#
# ## The exercise
#
# `exercises/lesson09_residual.py`: the backward pass of the block without and with the last ReLU, by hand; the
# Jacobian of the branch; and the split. `minires lessons check 09` says how it goes, and what is wrong.
#
# **A mutant to kill.** Somebody wrote the branch's part into the array that came from above: `dx = dy; dx += dz @
# w1.T`. The gradient of $x$ is right! What is wrong, and which check notices? (Try it in task 1; and in task 2 with
# `dx = dh`, where another gradient pays for it.)
#
# ## What this does not show
#
# - *Why* residual networks learn better. That the gradient splits as derived is arithmetic, and true of every network
#   with an addition in it; that this *causes* the better training is a separate claim, which a measured share does
#   not prove.
# - The shares are of one batch of 64 digits, one seed, twenty layers 8 channels wide. On another task they will differ.
# - Norms are not directions. Whether gradients at neighbouring points agree is another question (Balduzzi et al. 2017).
# - Twenty layers on digits are shallow enough for the plain twin to learn too. The difference at 56 layers is in
#   lesson 8.
