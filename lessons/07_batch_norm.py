# %% [markdown]
# # Lesson 7: Batch norm
#
# After this lesson you can
#
# - derive the backward pass of batch norm on paper, edge by edge, and fold it into one line;
# - say what the two means in that line are, and measure it;
# - tell training from evaluation, and one convention of "momentum" from the other;
# - say what batch norm does for networks that you have trained, and what nobody has shown you yet.
#
# You need lesson 3 (vector-Jacobian products, why the upstream gradient is random) and lesson 4 (training).
#
# ## 1. What it computes
#
# Take one channel and call its values in the batch $x_1, \dots, x_m$. Batch norm (Ioffe and Szegedy 2015, algorithm 1)
# gives them mean 0 and variance 1, then lets the network choose another mean and scale:
#
# $$\mu = \tfrac1m \sum_j x_j, \quad c_i = x_i - \mu, \quad v = \tfrac1m \sum_j c_j^2, \quad s = \sqrt{v + \epsilon},
# \quad \hat x_i = c_i / s, \quad y_i = \gamma \hat x_i + \beta.$$
#
# Channels never meet. So what follows is about one of them, and the code does all at once: the channel is the last
# axis, and every mean and sum runs over all the others.

# %%
import matplotlib.pyplot as plt
import numpy as np

import minires
from minires import Tensor, data, nn, no_grad, optim
from minires import functional as F
from minires.classroom import FAST, save

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


def forward(x, gamma, beta, eps=1e-5):
    axes = tuple(range(x.ndim - 1))
    centred = x - x.mean(axes)
    std = np.sqrt((centred**2).mean(axes) + eps)
    return gamma * (centred / std) + beta


rng = np.random.default_rng(0)
gamma, beta = rng.standard_normal((2, 4))
inputs = {"x": 3 + 2 * rng.standard_normal((6, 4)), "gamma": gamma, "beta": beta}
y = forward(**inputs)
print("deviation of each channel / |gamma|:", y.std(0) / np.abs(gamma), "(below 1 because of eps)")
assert np.allclose(y.mean(0), beta, rtol=0, atol=1e-12)
assert np.allclose(y.std(0), np.abs(gamma), rtol=1e-4)

# %% [markdown]
# ## 2. The graph, edge by edge
#
# These are six small operations. Write $\bar a$ for $\partial L / \partial a$ and go from the last to the first. What
# is used twice hears from both uses ("$\mathrel{+}=$"), and what all $m$ values share collects a sum over them.
#
# | operation | what it sends back |
# |---|---|
# | $y_i = \gamma \hat x_i + \beta$ | $\bar\beta = \sum_i \bar y_i$, $\bar\gamma = \sum_i \bar y_i \hat x_i$ |
# | the same | $\bar{\hat x}_i = \gamma \bar y_i$ |
# | $\hat x_i = c_i / s$ | $\bar c_i = \bar{\hat x}_i / s$, $\bar s = -\sum_i \bar{\hat x}_i c_i / s^2$ |
# | $s = (v + \epsilon)^{1/2}$ | $\bar v = \bar s \cdot \tfrac12 (v + \epsilon)^{-1/2} = \bar s / (2 s)$ |
# | $v = \tfrac1m \sum_j c_j^2$ | $\bar c_i \mathrel{+}= \bar v \cdot 2 c_i / m$ |
# | $c_i = x_i - \mu$ | $\bar x_i = \bar c_i$, $\bar\mu = -\sum_i \bar c_i$ |
# | $\mu = \tfrac1m \sum_j x_j$ | $\bar x_i \mathrel{+}= \bar\mu / m$ |
#
# Each row is a derivative that you know. The code says the same, row by row.


# %%
def backward_graph(dy, x, gamma, beta, eps=1e-5):
    axes, m = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    c = x - x.mean(axes)
    s = np.sqrt((c**2).mean(axes) + eps)
    xhat = c / s
    dbeta, dgamma = dy.sum(axes), (dy * xhat).sum(axes)
    dxhat = gamma * dy
    dc, ds = dxhat / s, -(dxhat * c).sum(axes) / s**2
    dv = ds / (2 * s)
    dc = dc + dv * 2 * c / m
    dx, dmu = dc, -dc.sum(axes)
    dx = dx + dmu / m
    return {"x": dx, "gamma": dgamma, "beta": dbeta}


print(minires.gradcheck_fn(forward, backward_graph, inputs).assert_ok())

# %% [markdown]
# ## 3. The same in one line
#
# Put the path through the variance together. With $c_i = s \hat x_i$,
#
# $$\bar v \, \frac{2 c_i}{m} = \frac{\bar s}{2 s} \cdot \frac{2 s \hat x_i}{m} = \frac{\bar s}{m} \hat x_i,
# \qquad \bar s = -\sum_j \bar{\hat x}_j \frac{s \hat x_j}{s^2} = -\frac1s \sum_j \bar{\hat x}_j \hat x_j,$$
#
# so the variance sends back $-\tfrac1s \hat x_i \cdot \tfrac1m \sum_j \bar{\hat x}_j \hat x_j$, and altogether
#
# $$\bar c_i = \frac1s \Big( \bar{\hat x}_i - \hat x_i \, \mathrm{mean}(\bar{\hat x} \hat x) \Big).$$
#
# The last two rows of the table say $\bar x_i = \bar c_i - \mathrm{mean}(\bar c)$. In that mean the second term drops
# out, because $\mathrm{mean}(\hat x) = 0$: what is left is
# $\mathrm{mean}(\bar c) = \tfrac1s \mathrm{mean}(\bar{\hat x})$.
# With $\bar{\hat x} = \gamma \bar y$, and now writing $dy$ and $dx$ for $\bar y$ and $\bar x$,
#
# $$\boxed{\; dx = \frac{\gamma}{s} \Big( dy - \mathrm{mean}(dy) - \hat x \, \mathrm{mean}(dy \, \hat x) \Big) \;}
# \qquad d\gamma = \sum dy \, \hat x, \qquad d\beta = \sum dy .$$
#
# The two means are $d\beta / m$ and $d\gamma / m$, so a program need not sum twice.


# %%
def backward(dy, x, gamma, beta, eps=1e-5):
    axes = tuple(range(x.ndim - 1))
    std = np.sqrt(x.var(axes) + eps)
    xhat = (x - x.mean(axes)) / std
    dx = gamma / std * (dy - dy.mean(axes) - xhat * (dy * xhat).mean(axes))
    return {"x": dx, "gamma": (dy * xhat).sum(axes), "beta": dy.sum(axes)}


dy = rng.standard_normal((6, 4))
np.testing.assert_allclose(backward(dy, **inputs)["x"], backward_graph(dy, **inputs)["x"], rtol=0, atol=1e-13)

# %% [markdown]
# ## 4. What the two means are
#
# Fit a straight line $a + b \hat x$ to $dy$ by least squares, the $m$ values of the channel being the points. Setting
# the derivatives of $\sum_i (dy_i - a - b \hat x_i)^2$ by $a$ and $b$ to zero gives, with $\mathrm{mean}(\hat x) = 0$,
#
# $$a = \mathrm{mean}(dy), \qquad b = \mathrm{mean}(dy \, \hat x) \,/\, \mathrm{mean}(\hat x^2),
# \qquad \mathrm{mean}(\hat x^2) = \frac{v}{v + \epsilon} \approx 1 .$$
#
# So the bracket is **what the line leaves over**: batch norm takes out of the gradient what a straight line explains
# and hands on the rest. The rest is orthogonal to both things that the line is made of, $1$ and $\hat x$. Directly:
#
# $$\sum_i dx_i = \frac\gamma s \Big( \sum dy - m \, \mathrm{mean}(dy)
# - \mathrm{mean}(dy \, \hat x) \sum \hat x \Big) = 0,$$
# $$\sum_i dx_i \hat x_i = \frac\gamma s \Big( \sum dy \, \hat x - 0 - \mathrm{mean}(dy \, \hat x) \sum \hat x^2 \Big)
# = \frac\gamma s \sum dy \, \hat x \Big( 1 - \frac{v}{v + \epsilon} \Big)
# = \frac\gamma s \sum dy \, \hat x \cdot \frac{\epsilon}{v + \epsilon} .$$
#
# It could not be otherwise. Adding $t$ to all of $x$ leaves $y$ as it is, so the loss has no slope in the direction
# $(1, \dots, 1)$. Stretching $x$ about its mean leaves $y$ as it is too, but only if $\epsilon = 0$: in the
# direction $\hat x$ a little slope remains, and the formula says how little.

# %%
print("    eps   sum of dx    sum of dx xhat   the formula")
for eps in (0.0, 1e-5, 0.1):
    dx, var = backward(dy, **inputs, eps=eps)["x"], inputs["x"].var(0)
    xhat = (inputs["x"] - inputs["x"].mean(0)) / np.sqrt(var + eps)
    formula = gamma / np.sqrt(var + eps) * (dy * xhat).sum(0) * eps / (var + eps)
    print(f"{eps:7.0e}    {np.abs(dx.sum(0)).max():8.1e}    {(dx * xhat).sum(0)[0]:+14.6e}   {formula[0]:+14.6e}")
    assert np.abs(dx.sum(0)).max() < 1e-12
    assert np.abs((dx * xhat).sum(0) - formula).max() < 1e-12

points = np.random.default_rng(3)
values = points.uniform(-1, 1, 24)
xhat = (values - values.mean()) / values.std()
arrives = 0.6 + 0.9 * xhat + 0.6 * points.standard_normal(24)
line = arrives.mean() + xhat * (arrives * xhat).mean()

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharex=True, sharey=True)
left.set(title="what arrives, and the line through it", xlabel=r"normalised input $\hat{x}$", ylabel="gradient")
left.plot(np.sort(xhat), np.sort(line), color="0.35", label=r"mean($dy$) + $\hat{x}$ mean($dy\,\hat{x}$)")
left.plot(xhat, arrives, "o", color="C0", label="$dy$")
left.vlines(xhat, line, arrives, color="C1")
right.set(title="what is handed on: the rest", xlabel=r"normalised input $\hat{x}$")
right.axhline(0, color="0.35")
right.plot(xhat, arrives - line, "o", color="C1", label=r"$dx \cdot s\, /\, \gamma$")
right.vlines(xhat, 0, arrives - line, color="C1")
for axis in (left, right):
    axis.legend(loc="upper left")
save(figure, "07_what_the_line_leaves")

# %% [markdown]
# ## 5. What a check with ones does not see
#
# Lesson 3 said that the upstream gradient of a check must be random; batch norm is where it matters most. Ones *are* a
# straight line, so the true $dx$ for them is zero. A checker that starts from ones accepts a backward pass that
# **returns zeros**, and one that forgets the variance.

# %%
factor = gamma / np.sqrt(inputs["x"].var(0) + 1e-5)
for name, upstream in (("ones  ", np.ones((6, 4))), ("random", dy)):
    dx = backward(upstream, **inputs)["x"]
    zeros, no_variance = np.abs(dx).max(), np.abs(factor * (upstream - upstream.mean(0)) - dx).max()
    print(f"dy {name}: returning zeros is off by {zeros:.0e}, forgetting the variance by {no_variance:.0e}")
    assert max(zeros, no_variance) < 1e-12 if name == "ones  " else min(zeros, no_variance) > 0.01

# %% [markdown]
# ## 6. Pictures
#
# A convolution uses the same weights at every place, so all places of a channel are normalised together: for $x$ of
# shape (N, H, W, C) the moments are over (N, H, W), and $m = N H W$, not $N$ (section 3.2 of the paper). It is the
# same function of the same numbers, laid out differently.

# %%
pictures, upstream = rng.standard_normal((2, 3, 2, 5, 4))  # N = 3, H = 2, W = 5, C = 4
as_pictures = backward(upstream, pictures, gamma, beta)["x"]
as_rows = backward(upstream.reshape(30, 4), pictures.reshape(30, 4), gamma, beta)["x"]
assert np.abs(as_pictures.reshape(30, 4) - as_rows).max() < 1e-13
minires.gradcheck_fn(forward, backward, {"x": pictures, "gamma": gamma, "beta": beta}).assert_ok()

# %% [markdown]
# ## 7. Training and evaluation
#
# In training the output for one image depends on the others in its batch: no use to somebody who has one image. For
# evaluation $\mu$ and $v$ are replaced by fixed estimates $r_\mu$ and $r_v$, gathered during training, and batch norm
# becomes a fixed straight line for each channel:
#
# $$y = \gamma \frac{x - r_\mu}{\sqrt{r_v + \epsilon}} + \beta, \qquad dx = \frac{\gamma}{\sqrt{r_v + \epsilon}} \, dy,
# \qquad d\gamma = \sum dy \, \frac{x - r_\mu}{\sqrt{r_v + \epsilon}}, \qquad d\beta = \sum dy .$$
#
# The two means are gone, because $r_\mu$ and $r_v$ do not move with $x$. To use the formula of training here is a
# mistake that no shape reveals.

# %%
x, mean, var = Tensor(inputs["x"], requires_grad=True), rng.standard_normal(4), rng.uniform(0.5, 2, 4)
F.batch_norm(x, gamma, beta, Tensor(mean), Tensor(var), training=False).backward(dy)
np.testing.assert_allclose(x.grad, gamma / np.sqrt(var + 1e-5) * dy, rtol=1e-12)

# %% [markdown]
# ## 8. The running statistics
#
# **Which way round is momentum?** PyTorch and minires write $r \leftarrow (1 - p)\, r + p \, new$ with $p = 0.1$; Keras
# and Caffe write $r \leftarrow p\, r + (1 - p)\, new$ with $p$ near 1. (The paper's algorithm 2 averages over many
# batches after training, and mentions moving averages beside it.) In the first form a batch that is $k$ steps old has
# weight $p (1 - p)^k$, so for independent batches
#
# $$\mathrm{var}(r) = p^2 \sum_{k \ge 0} (1 - p)^{2k} \, \mathrm{var}(new)
# = \frac{p^2}{1 - (1 - p)^2} \, \mathrm{var}(new) = \frac{p}{2 - p} \, \mathrm{var}(new) :$$
#
# 1/19 for $p = 0.1$; with the two weights exchanged, $p = 0.9$, it is 9/11: hardly an average at all.
#
# **Which variance?** $\mu$ is fitted to the batch, so $v$ is too small on average. Let the source have mean 0, which
# changes nothing, and variance $\sigma^2$; then $E[\mu^2] = \sigma^2 / m$ and
#
# $$E[v] = E\Big[ \tfrac1m \sum_j x_j^2 - \mu^2 \Big] = \sigma^2 - \frac{\sigma^2}{m} = \frac{m - 1}{m} \sigma^2 .$$
#
# The running variance is therefore fed with $\tfrac{m}{m - 1} v$ (algorithm 2; PyTorch), while the batch itself is
# normalised with $v$.

# %%
batches = 5 + 2 * rng.standard_normal((20_000, 4))  # batches of m = 4 values from a source of variance 4
biased, unbiased = batches.var(1).mean(), batches.var(1, ddof=1).mean()
print(f"variance of the source 4; on average v is {biased:.2f} and v m/(m - 1) is {unbiased:.2f}")
assert abs(biased - 3) < 0.15
assert abs(unbiased - 4) < 0.2
for p in (0.1, 0.9):
    running, trace = 5.0, []
    for new in batches.mean(1):
        running = (1 - p) * running + p * new
        trace.append(running)
    measured = np.var(trace) / batches.mean(1).var()
    print(f"p = {p}: var(running mean) / var(batch mean) = {measured:.3f}, and p/(2 - p) = {p / (2 - p):.3f}")
    assert abs(measured / (p / (2 - p)) - 1) < 0.15

# %% [markdown]
# ## 9. What does it buy?
#
# One more derivation before the experiment. Let $z = x W$ go into a batch norm, with $\epsilon = 0$. As
# $\mathrm{BN}(c z) = \mathrm{BN}(z)$ for $c > 0$, the loss does not notice the scale of $W$: $L(cW) = L(W)$.
# Differentiate both sides by $W$:
#
# $$c \, \nabla L(cW) = \nabla L(W) \qquad\Longrightarrow\qquad \nabla L(cW) = \tfrac1c \nabla L(W).$$
#
# Weights $c$ times as large get a gradient $c$ times smaller (section 3.3 of the paper), so that a step of SGD is $c^2$
# times smaller *relative to the weights*. Prediction: weights that are too large or too small at the start do no harm,
# and weights twice as large want a learning rate four times as large.

# %%
w, into = rng.standard_normal((3, 4)), rng.standard_normal((6, 3))
gradient, of_doubled = (into.T @ backward(dy, into @ (c * w), gamma, beta, eps=0)["x"] for c in (1, 2))
assert np.abs(of_doubled - gradient / 2).max() < 1e-12

# %% [markdown]
# Now networks of eight layers on the digits, without and with batch norm, from He's initial weights (lesson 8) times
# 0.5, 1 and 2, each with six learning rates, four times apart.

# %%
digits, _ = data.digits()
images, labels = digits.images.reshape(len(digits), 64).astype(np.float32) / 255, digits.labels
images -= images.mean(0)


def network(norm, scale, seed, width=48, depth=8):
    generator, layers = np.random.default_rng(seed), []
    for i in range(depth - 1):
        layers.append(nn.Linear(width if i else 64, width, bias=not norm, generator=generator))
        layers[-1].weight.data *= scale
        layers += [nn.BatchNorm2d(width), nn.ReLU()] if norm else [nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10, generator=generator))


def train(model, lr, seed, epochs=6, batch=96):
    generator, sgd = np.random.default_rng(seed), optim.SGD(model.parameters(), lr=lr)
    for _ in range(epochs):
        for chosen in np.split(
            generator.permutation(len(images))[: len(images) // batch * batch], len(images) // batch
        ):
            loss = F.cross_entropy(model(Tensor(images[chosen])), labels[chosen])
            model.zero_grad()
            loss.backward()
            sgd.step()


def training_error(model, order=slice(None), batch=2000, training=False):
    x = images[order]
    model.train(training)
    with no_grad():
        guesses = [model(Tensor(x[i : i + batch])).numpy().argmax(1) for i in range(0, len(x), batch)]
    return float(np.mean(np.concatenate(guesses) != labels[order]))


rates, scales, seeds = 4.0 ** np.arange(-4, 2), (0.5, 1.0, 2.0), 1 if FAST else 3
names, sweep = {False: "without   ", True: "batch norm"}, {}
for norm in names:
    for scale in scales:
        errors = np.empty((seeds, len(rates)))
        for (seed, i), _ in np.ndenumerate(errors):
            model = network(norm, scale, seed)
            with np.errstate(over="ignore", invalid="ignore"):  # some rates are meant to be too large
                train(model, rates[i], seed)
                errors[seed, i] = training_error(model)
        sweep[norm, scale] = errors.mean(0)
        print(f"{names[norm]} weights x {scale}: " + "  ".join(f"{error:.2f}" for error in errors.mean(0)))
for scale in (0.5, 2.0):
    assert sweep[True, scale].min() < 0.05
    assert sweep[False, scale].min() > 3 * sweep[True, scale].min()
apart, shifted = (
    sum(np.abs(sweep[True, 2 * scale][shift:][:3] - sweep[True, scale][:3]).sum() for scale in (0.5, 1.0))
    for shift in (0, 1)
)
print(f"distance of the curves with batch norm: {apart:.2f} as they are, {shifted:.2f} moved by one rate")
assert shifted < 0.6 * apart

# %% [markdown]
# Without batch norm only the middle scale learns in six epochs. With it all three do; twice the weights move the curve
# to the right by about one rate, as predicted (the last layer has no batch norm behind it, so not exactly).
# Now look inside, before any training: how large is what each layer computes?


# %%
def deviations(model):
    """The standard deviation of what enters each ReLU, over the batch and all channels."""
    found = []
    for layer in model:
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda module, given, _: found.append(float(given[0].numpy().std())))
    model(Tensor(images[:256]))
    return found


inside = {key: deviations(network(*key, seed=0)) for key in sweep}
assert all(0.95 < size < 1.05 for key, sizes in inside.items() if key[0] for size in sizes)
assert inside[False, 2.0][-1] > 20 * inside[False, 1.0][-1] > 400 * inside[False, 0.5][-1]  # 2^7 = 128, were it exact

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for (norm, scale), marker in zip(sweep, "vosvos", strict=True):
    style = {"color": "C0" if norm else "C1", "marker": marker, "linestyle": "-" if norm else "--", "markersize": 5}
    left.semilogy(range(1, 8), inside[norm, scale], **style)
    right.semilogx(rates, 100 * sweep[norm, scale], label=f"{names[norm].strip()}, weights x {scale:g}", **style)
left.set(xlabel="layer", ylabel="standard deviation before the ReLU", title="before training")
right.set(xlabel="learning rate", ylabel="training error (%)", title="after six epochs on the digits", ylim=(-3, 103))
right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
save(figure, "07_batch_norm")

# %% [markdown]
# And the mode matters. One trained network, its images sorted by class, in batches of 24. In training mode a batch of
# nothing but threes is shifted and scaled to the moments of all digits together.

# %%
model = network(True, 1.0, seed=0)
train(model, 0.3, seed=0)
by_class = np.argsort(labels, kind="stable")
right_mode = training_error(model, by_class, batch=24)
wrong_mode = training_error(model, by_class, batch=24, training=True)
print(f"training error in evaluation mode {right_mode:.3f}, in training mode {wrong_mode:.3f}")
assert right_mode < 0.1
assert wrong_mode > 0.4

# %% [markdown]
# ## 10. Why does it help?
#
# The paper's title names a reason: *internal covariate shift*. As the lower layers learn, the distribution of what the
# upper ones receive keeps changing, and normalisation is to steady it. That is the authors' explanation, often repeated
# as a fact. It is disputed. Santurkar et al. 2018 ("How does batch normalization help optimization?") added noise with
# a changing mean and variance *behind* the batch norms, so that the distributions shift more than without any batch
# norm; such networks still trained about as well as those with plain batch norm. They found that the loss and its
# gradient change less abruptly along a step, and propose that as the reason.
# Nothing that *you* measured decides between the two.
#
# ## The exercise
#
# `exercises/lesson07_batch_norm.py`: $d\gamma$ and $d\beta$, $dx$ in one line, the running statistics, and the backward
# pass of evaluation. `minires lessons check 07` says how it goes.
#
# **The mutant to kill.** Replace the factor $\gamma / s$ in your $dx$ by $1 / s$. Find two very different choices of
# $dy$, $x$ and $\gamma$ for which no check can notice. Which choice always tells?
#
# ## What this does not show
#
# - That batch norm is *needed*: with the right initial weights (scale 1) this network trains without it, and lesson 8
#   has one that batch norm makes worse at the start.
# - Anything about new images: all errors here are training errors.
# - Why it helps. The sweep shows that it does, on eight layers, 1,437 small images and six epochs of plain SGD.
