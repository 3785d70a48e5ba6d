# %% [markdown]
# # Lesson 8: Depth and degradation
#
# After this lesson you can
#
# - derive He's initialisation, and say what a product of many Jacobians does;
# - measure how large a gradient is at each end of a network, and derive the number that batch norm puts there;
# - build a 56-layer network that is exactly as good as an 8-layer one, and see training fail to find one;
# - say what degradation is, and which popular explanation of it your meter contradicts.
#
# You need lessons 4 (training) and 7 (batch norm).
#
# ## 1. A product of Jacobians
#
# A network is a chain $x_1 = f_1(x_0), \dots, x_L = f_L(x_{L-1})$. With $J_l = \partial x_l / \partial x_{l-1}$ the
# chain rule says
#
# $$\frac{\partial L}{\partial x_0} = J_1^\top J_2^\top \cdots J_L^\top \frac{\partial L}{\partial x_L} :$$
#
# $L$ matrices multiplied. If each of them typically scales a vector by $a$, all together scale it by $a^L$. At 56
# layers $0.9^{56} = 0.003$ and $1.1^{56} = 208$: *vanishing* and *exploding* gradients are the same fact. What is $a$?
#
# ## 2. He's initialisation
#
# Take $z_j = \sum_{i=1}^n x_i w_{ij}$ with independent weights of mean 0 and variance $\sigma^2$. In
# $E[z_j^2] = \sum_{i,k} E[x_i x_k] \, E[w_{ij} w_{kj}]$ all terms with $i \ne k$ vanish, because the weights are
# independent and have mean 0. What is left is
#
# $$E[z_j^2] = \sigma^2 \sum_i E[x_i^2] = n \sigma^2 \, E[x^2] .$$
#
# Changing the sign of all weights changes the sign of $z$, so positive and negative $z$ are equally likely and a ReLU
# keeps half of the square: $E[\mathrm{relu}(z)^2] = \tfrac12 E[z^2]$. One layer multiplies the mean square by
# $n \sigma^2 / 2$, and
#
# $$\boxed{\; \sigma^2 = 2 / n \;}$$
#
# keeps it (He et al. 2015, "Delving deep into rectifiers", eq. 10). Backward it is the same sum the other way:
# $dx_i = \sum_j w_{ij} \, [z_j > 0] \, dx'_j$ gives $E[dx^2] = \tfrac12 n' \sigma^2 \, E[dx'^2]$ with $n'$ outputs, if
# the mask is taken as independent of the gradient that comes from above; for square matrices the same $\sigma^2$ keeps
# both. With $1/n$, forgetting the ReLU, the mean square halves in every layer.

# %%
import matplotlib.pyplot as plt
import numpy as np

from minires import Tensor, data, fused, models, nn, no_fusion, no_grad, optim
from minires import functional as F
from minires.classroom import FAST, save

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
rng = np.random.default_rng(0)
for gain, expected in ((1, 2.0**-20), (2, 1.0), (4, 2.0**20)):
    x = rng.standard_normal((100, 400))
    before = np.mean(x**2)
    for _ in range(20):
        x = np.maximum(x @ (rng.standard_normal((400, 400)) * np.sqrt(gain / 400)), 0)
    print(f"variance {gain}/n: 20 layers multiply the mean square by {np.mean(x**2) / before:.2e} ({expected:.2e})")
    assert 1 / 3 < np.mean(x**2) / before / expected < 3  # an average over weights; a single network strays from it

# %% [markdown]
# ## 3. The meter
#
# From here on networks are made of blocks of two linear layers, as in the paper's figure 2. The plain twin leaves the
# addition out and nothing else, so both have the same parameters. A network of depth $d$ has a first and a last linear
# layer and $(d - 2) / 2$ blocks.


# %%
class Block(nn.Module):
    def __init__(self, width, residual, norm=True, generator=None):
        self.fc1 = nn.Linear(width, width, bias=False, generator=generator)
        self.bn1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.fc2 = nn.Linear(width, width, bias=False, generator=generator)
        self.bn2 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.residual = residual

    @fused
    def forward(self, x):
        h = F.relu(self.bn1(self.fc1(x)))
        h = self.bn2(self.fc2(h))
        return F.relu(h + x if self.residual else h)


def blocks(count, width, residual, norm=True, generator=None):
    return nn.Sequential(*(Block(width, residual, norm, generator) for _ in range(count)))


def network(depth, residual, seed, width=32):
    generator = np.random.default_rng(seed)
    stem = nn.Sequential(nn.Linear(2, width, bias=False, generator=generator), nn.BatchNorm2d(width), nn.ReLU())
    body = blocks((depth - 2) // 2, width, residual, generator=generator)
    return nn.Sequential(stem, body, nn.Linear(width, 5, generator=generator))


def rms(array):
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def gradient_ratio(body, x, upstream):
    """How large the gradient is at the input, relative to the output; batch norm in training mode."""
    x = Tensor(x, requires_grad=True)
    body.train()
    body(x).backward(upstream)
    return rms(x.grad) / rms(upstream)


kinds = {
    "plain": {"residual": False, "norm": False},
    "plain + batch norm": {"residual": False},
    "residual": {"residual": True, "norm": False},
    "residual + batch norm": {"residual": True},
    "residual + batch norm, last gamma 0": {"residual": True},
}
depths = (8, 20, 56) if FAST else (8, 20, 56, 110)
ratios = {kind: [] for kind in kinds}
print(f"{'layers':38}" + "".join(f"{depth:10}" for depth in depths))
for kind, options in kinds.items():
    for depth in depths:
        measured = []
        for seed in range(2 if FAST else 3):
            rng = np.random.default_rng(seed)
            body = blocks(depth // 2, 64, **options, generator=rng)
            x, upstream = rng.standard_normal((2, 128, 64), dtype=np.float32)
            if "gamma 0" in kind:
                for block in body:
                    block.bn2.gamma.data[...] = 0
            measured.append(gradient_ratio(body, x, upstream))
            if "gamma 0" in kind:
                assert abs(measured[-1] - rms(upstream * (x > 0)) / rms(upstream)) < 1e-6
        ratios[kind].append(float(np.exp(np.mean(np.log(measured)))))
    print(f"{kind:38}" + "".join(f"{ratio:10.2g}" for ratio in ratios[kind]))
plain, plain_bn, res, res_bn, zero_gamma = (np.array(ratio) for ratio in ratios.values())
assert (plain > 0.1).all()
assert plain_bn[2] > 3000 < res[2]
assert 8 < res_bn[2] < 100
assert np.allclose(zero_gamma, np.sqrt(0.5), atol=0.03)

# %% [markdown]
# Read it line by line; everything is *before any training*.
#
# - **Plain**, with He's weights: neither vanishes nor explodes. (The mean over all networks is kept; a single one
#   drifts, and the typical one drifts down.)
# - **Plain with batch norm explodes**, by a factor that we can derive. A unit Gaussian $z$ has
#   $E[\mathrm{relu}(z)^2] = \tfrac12$ and
#   $E[\mathrm{relu}(z)] = \int_0^\infty z \, e^{-z^2/2} dz / \sqrt{2\pi} = 1/\sqrt{2\pi}$, so the variance of what
#   enters the next layer is $\tfrac12 - \tfrac1{2\pi}$. Weights of variance $2/n$ make it $1 - \tfrac1\pi$ before the
#   batch norm, which divides by the root of that, forward and backward. ReLU and weights together keep the mean square
#   of the gradient (section 2), so each layer multiplies the gradient by
#   $$a = \frac{1}{\sqrt{1 - 1/\pi}} = 1.211 .$$
#   (The two means of lesson 7 take away a share that is small in a large batch.) Yang et al. 2019, "A mean field theory
#   of batch normalization", derive it with more care.
# - **The skip alone explodes too**: forward and backward, each block adds what it computes to what it was given.
# - **Both together** grow about as fast as the depth, not exponentially: each branch adds a piece of fixed size to a
#   stream that has become larger, so that block $l$ changes it by a share of about $1/l$.
# - **Last gamma 0**: every block is the identity for what is positive. The first ReLU after an addition masks the
#   negative half, once, and nothing else happens: $\sqrt{1/2}$ at any depth.

# %%
growth = (plain_bn[2] / plain_bn[1]) ** (1 / 36)
print(f"plain + batch norm: {growth:.3f} for each layer between 20 and 56; derived {1 / np.sqrt(1 - 1 / np.pi):.3f}")
assert abs(growth - 1 / np.sqrt(1 - 1 / np.pi)) < 0.04

figure, axis = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
for (kind, ratio), marker in zip(ratios.items(), "o^o^s", strict=True):
    style = {"color": "C0" if "res" in kind else "C1", "linestyle": "-" if "norm" in kind else "--"}
    axis.semilogy(depths, ratio, marker=marker, label=kind, **style | ({"linestyle": ":"} if "gamma" in kind else {}))
long = np.array(depths, float)
axis.semilogy(long, (1 - 1 / np.pi) ** (-long / 2), color="0.6", linewidth=5, alpha=0.4, label=r"$(1 - 1/\pi)^{-L/2}$")
axis.set(xlabel="layers $L$", ylabel="rms gradient, input / output", title="gradients at initialisation", xticks=depths)
axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
save(figure, "08_gradient_ratio")

# %% [markdown]
# ## 4. A deeper network contains the shallower one
#
# Take a trained network of 8 layers and put blocks into it that change nothing. A plain block is the identity for
# inputs that are not negative, and behind a ReLU there are no others, if both matrices are $I$ and both batch norms
# pass everything on: in evaluation mode with $r_\mu = 0$, $r_v = 1$, $\beta = 0$ that is
# $\gamma = \sqrt{1 + \epsilon}$. So a 56-layer plain network with the training error of the 8-layer one *exists*: its
# expressive power is not what is missing.
#
# The data are five arms of a spiral, 1,000 points; the error is the **training error**, in evaluation mode.


# %%
def spirals(n=1000, arms=5, seed=0):
    generator, labels = np.random.default_rng(seed), np.arange(n) % arms
    radius = generator.uniform(0.1, 1, n)
    angle = 2 * np.pi * (labels / arms + 0.75 * radius)
    x = radius * np.stack([np.cos(angle), np.sin(angle)]) + 0.02 * generator.standard_normal((2, n))
    return x.T.astype(np.float32), labels


def train(model, x, labels, lr, epochs, seed, batch=125):
    generator, sgd = np.random.default_rng(seed), optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for chosen in np.array_split(generator.permutation(len(x)), len(x) // batch):
            loss = F.cross_entropy(model(Tensor(x[chosen])), labels[chosen])
            model.zero_grad()
            loss.backward()
            sgd.step()


def loss_and_error(model, x, labels):
    model.eval()
    with no_grad():
        scores = model(Tensor(x))
        return F.cross_entropy(scores, labels).item(), float(np.mean(scores.numpy().argmax(1) != labels))


points, arms = spirals()
epochs = 12 if FAST else 20
shallow = network(8, residual=False, seed=0)
train(shallow, points, arms, lr=0.05, epochs=epochs, seed=0)

stem, body, head = shallow.astype(np.float64)
inserted = blocks(24, 32, residual=False).astype(np.float64)
for block in inserted:
    for linear, norm in ((block.fc1, block.bn1), (block.fc2, block.bn2)):
        linear.weight.data[...] = np.eye(32)
        norm.gamma.data[...] = np.sqrt(1 + norm.eps)
constructed = nn.Sequential(stem, nn.Sequential(body[0], *inserted, body[1], body[2]), head)
(loss, wrong), (deep_loss, deep_wrong) = (loss_and_error(m, points.astype(float), arms) for m in (shallow, constructed))
print(f"8 layers: loss {loss:.6f}, training error {wrong:.3f}; 56 layers: {deep_loss:.6f}, {deep_wrong:.3f}")
print(f"difference of the losses {abs(loss - deep_loss):.0e}")
assert abs(loss - deep_loss) < 1e-12
assert wrong == deep_wrong < 0.3

# %% [markdown]
# ## 5. Training does not find it
#
# Now the same from scratch: plain networks and their residual twins, the same initial weights, the same batches, only
# the addition differs. Beside the error we read the meter, from the loss's own gradient at the last block back to the
# first, before and after training.


# %%
def loss_gradient_ratio(model, x, labels):
    """The same meter with the gradient of the loss as the upstream one, and that loss; all in training mode."""
    stem, body, head = model.train()
    with no_grad():
        x = stem(Tensor(x)).numpy()
        last = body(Tensor(x)).numpy()
    last = Tensor(last, requires_grad=True)
    loss = F.cross_entropy(head(last), labels)
    loss.backward()
    return gradient_ratio(body, x, last.grad), loss.item()


def run(depth, residual, lr, epochs, seed):
    """Training error, the gradient ratio before and after, and the loss in training mode."""
    model = network(depth, residual, seed)
    first, _ = loss_gradient_ratio(model, points, arms)
    train(model, points, arms, lr, epochs, seed)
    error = loss_and_error(model, points, arms)[1]  # before the meter, which moves the running statistics
    return error, first, *loss_gradient_ratio(model, points, arms)


seeds, twins, errors = range(1 if FAST else 2), {"plain": False, "residual": True}, {}
print("spirals         training error    gradient ratio before and after    loss in training mode")
for depth in (8, 20, 56):
    sizes = [sum(p.size for p in network(depth, residual, 0).parameters()) for residual in twins.values()]
    assert sizes[0] == sizes[1]  # otherwise it is no comparison of the addition
    for name, residual in twins.items():
        for seed in seeds:
            error, first, after, loss = run(depth, residual, 0.05, epochs, seed)
            errors.setdefault((name, depth), []).append(error)
            print(f"{name:9} {depth:3}       {error:10.3f}       {first:20.3g} {after:8.3g}        {loss:12.3f}")
            if (name, depth) == ("plain", 56):
                assert first > 1000
                assert 0.01 < after < 50
                assert loss > 0.9
assert min(errors["plain", 56]) > max(0.4, np.mean(errors["plain", 20]) + 0.2)
assert max(errors["residual", 56]) < 0.25

# %% [markdown]
# **That is degradation**: the deeper plain network is worse on the data it was trained on. So it is not overfitting;
# the last column says that evaluation mode is not to blame (guessing has a loss of $\ln 5 = 1.61$); and section 4 says
# it is no lack of expressive power. Is it the gradient?
#
# Many texts, and perhaps your own notes, say "degradation is vanishing gradients, and ResNet solves them". He et al.
# say the opposite (section 4.1): their plain networks have batch norm, the forward signals keep a variance above zero,
# and they checked that the backward gradients have healthy norms; they consider vanishing unlikely, and *conjecture*
# that deep plain networks converge at exponentially low rates. Three times as many iterations did not help them.
#
# And your meter? Nothing vanishes here. At the start the gradient of plain-56 *explodes*, unlike what they report.
# After training the ratio is near 1, as healthy as in the residual twin: and there the plain network sits, with most of
# its points wrong.
#
# ## 6. Is it only the learning rate?

# %%
rates = (0.0125, 0.05) if FAST else (0.0125, 0.05, 0.2)
sweep = {name: [] for name in twins}
for name, residual in twins.items():
    for lr in rates:
        known = lr == 0.05
        sweep[name].append(errors[name, 56][0] if known else run(56, residual, lr, epochs, seed=0)[0])
    print(f"{name:9} 56 at learning rates {rates}: training error " + "  ".join(f"{e:.3f}" for e in sweep[name]))
assert min(sweep["plain"]) > 0.4
assert min(sweep["residual"]) < 0.2
if not FAST:
    longer = run(56, False, 0.0125, 3 * epochs, seed=0)[0]
    print(f"plain 56, learning rate 0.0125, three times as long: {longer:.3f}")
    assert longer > 0.35
    assert sweep["residual"][-1] > 0.3

# %% [markdown]
# No: none of them saves the plain network. (The residual one has a rate that is too large for it as well.)
#
# ## 7. The convolutional twins
#
# One meter on one kind of network is not a law. The same question to the networks of the paper's section 4.2, made
# small: four channels, 8x8 digits, four epochs.


# %%
def block_gradients(model, images, labels):
    """The norm of the loss's gradient at the first block's output over that at the last's."""
    kept = []
    for block in (model.blocks()[0], model.blocks()[-1]):
        remove = block.register_forward_hook(lambda module, given, output: kept.append(output))
        kept.append(remove)
    with no_fusion():
        scores = model.train()(Tensor(images))
    for remove in kept[:2]:
        remove()
    for output in kept[2:]:
        output.retain_grad()
    F.cross_entropy(scores, labels).backward()
    first, last = (np.linalg.norm(output.grad) for output in kept[2:])
    return first / last


digits, _ = data.digits()
images, labels = digits.images.astype(np.float32) / 255, digits.labels
images -= images.mean(0)
conv_depths, conv_errors = (8, 20) if FAST else (8, 20, 56), {name: [] for name in twins}
at_start, plain_after = {}, 0.0
print("digits          training error    gradient ratio before and after")
for depth in conv_depths:
    for name, residual in twins.items():
        model = models.cifar_resnet(depth, residual=residual, width=4, in_channels=1, generator=0)
        at_start[name] = block_gradients(model, images[:256], labels[:256])
        train(model, images, labels, lr=0.05, epochs=4, seed=0)
        after = block_gradients(model, images[:256], labels[:256])
        plain_after = after if name == "plain" else plain_after
        conv_errors[name].append(loss_and_error(model, images, labels)[1])
        print(f"{name:9} {depth:3}       {conv_errors[name][-1]:10.3f}       {at_start[name]:20.3g} {after:8.3g}")
assert conv_errors["plain"][1] > conv_errors["residual"][1] + 0.15
growth = at_start["plain"] ** (1 / (depth - 4))
print(f"plain {depth}, before training: {growth:.3f} for each layer from the first block's output to the last's")
assert at_start["plain"] > 1.3 * at_start["residual"]
if not FAST:
    assert conv_errors["plain"][2] > conv_errors["residual"][2] + 0.3
    assert 0.01 < plain_after < 100

# %% [markdown]
# The error tells the same story as on the spirals. The meter tells it with another number: convolutions with batch norm
# make the gradient grow toward the input as well, but less in each layer, and what a deeper, wider network on larger
# pictures does at its start neither of our meters knows. Four epochs later that growth is gone here too; the error is
# not.

# %%
figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
(data_axis, depth_axis), (rate_axis, conv_axis) = axes
for arm in range(5):
    data_axis.plot(*points[arms == arm].T, ".", markersize=3, color=f"C{arm}")
data_axis.set(title="the spirals", xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
for name, colour in (("plain", "C1"), ("residual", "C0")):
    means = [100 * np.mean(errors[name, depth]) for depth in (8, 20, 56)]
    depth_axis.plot((8, 20, 56), means, "o-", color=colour, label=name)
    for depth in (8, 20, 56):
        depth_axis.plot([depth] * len(seeds), 100 * np.array(errors[name, depth]), "_", color=colour)
    rate_axis.semilogx(rates, 100 * np.array(sweep[name]), "o-", color=colour, label=name)
    conv_axis.plot(conv_depths, 100 * np.array(conv_errors[name]), "o-", color=colour, label=name)
depth_axis.set(title="spirals, learning rate 0.05", xlabel="layers", xticks=(8, 20, 56))
rate_axis.set(title="spirals, 56 layers", xlabel="learning rate", xticks=rates, xticklabels=rates)
rate_axis.minorticks_off()
conv_axis.set(title="digits, convolutional", xlabel="layers", xticks=conv_depths)
for axis in (depth_axis, rate_axis, conv_axis):
    axis.axhline(90 if axis is conv_axis else 80, color="0.6", linestyle=":", label="guessing")
    axis.set(ylabel="training error (%)", ylim=(-3, 100))
    axis.legend(fontsize=8)
save(figure, "08_depth_and_degradation")

# %% [markdown]
# ## The exercise
#
# `exercises/lesson08_depth.py`: He's weights, a block that is the identity, the meter, and a comparison of twins that
# is fair. `minires lessons check 08` says how it goes.
#
# **The mutant to kill.** Somebody measures `gradient_ratio` in evaluation mode, at initialisation. What does it say
# about plain networks with batch norm, and why? ($r_\mu = 0$ and $r_v = 1$: which line of the table is that?)
#
# ## What this does not show
#
# - *Why* plain-56 stays where it is. Healthy norms at the end do not say that the path there was: a gradient has a
#   direction too. (Balduzzi et al. 2017 measure that it decorrelates with depth; "shattered gradients".)
# - That a guarantee follows from section 4. It says that good weights exist, not that SGD finds them: the gap between
#   the two *is* degradation, for residual networks too, once they are deep enough or the rate is too large.
# - That the paper's networks explode at the start as ours do: ours are narrow, and so are our images. Nor that ours
#   with convolutions have stopped learning: they had four epochs.
# - Anything about new points or images: every error here is a training error.
