# %% [markdown]
# # Lesson 10: The three shortcuts
#
# After this lesson you can
#
# - write the shortcut without parameters as a matrix, and derive and test its adjoint;
# - differentiate a projection shortcut, weights and input, without losing one of the two paths;
# - count by hand what each option costs, to the last parameter;
# - compare three networks over several seeds and say no more than the numbers allow.
#
# You need lesson 5 (adjoint pairs), lesson 7 (batch norm) and lesson 9 (the block and its +1).
#
# ## 1. Two shapes that cannot be added
#
# $y = F(x) + x$ needs $F(x)$ and $x$ of one shape. Twice in a ResNet for CIFAR they differ: the first block of a stage
# halves the picture and doubles the channels, from $(N, 32, 32, 16)$ to $(N, 16, 16, 32)$, say. For such blocks
# He et al. 2015 (section 3.2, eq. 2) write
#
# $$y = F(x, \{W_i\}) + W_s\, x$$
#
# and try three choices (sections 3.3 and 4.1):
#
# | option | where the shape changes | everywhere else |
# |---|---|---|
# | A | every second pixel, and zeros for the new channels: no parameters | $x$ itself |
# | B | a learned 1x1 convolution with stride 2, then batch norm | $x$ itself |
# | C | the same | a learned 1x1 convolution and batch norm too |
#
# ## 2. Option A is a matrix of zeros and ones
#
# With stride $s$, and $C$ channels before,
#
# $$(Ax)_{n,i,j,c} = \begin{cases} x_{n,si,sj,c} & c < C \\ 0 & c \ge C. \end{cases}$$
#
# (The paper does not say where the zeros go; here, and in most code, after the old channels.)
#
# Every output is one of the inputs, or zero. So $A$ is linear, and column $k$ of its matrix is what becomes of the
# $k$-th unit vector. The projection without its batch norm is linear as well, so it has a matrix too.

# %%
import functools
import itertools

import matplotlib.pyplot as plt
import numpy as np

from minires import Tensor, data, inspect, models, no_grad, optim
from minires import functional as F
from minires.classroom import FAST, save


def option_a(x, channels, stride=2):
    kept = x[:, ::stride, ::stride]
    y = np.zeros((*kept.shape[:3], channels))
    y[..., : x.shape[3]] = kept
    return y


def matrix(linear, shape):
    units = np.eye(np.prod(shape)).reshape(-1, *shape)
    return linear(units).reshape(len(units), -1).T  # the images of the unit vectors, as columns


rng = np.random.default_rng(0)
W_S = rng.standard_normal((1, 1, 2, 4))
A = matrix(lambda x: option_a(x, channels=4), (4, 4, 2))
P = matrix(lambda x: F.conv2d(x, W_S, stride=2).numpy(), (4, 4, 2))
x = rng.standard_normal((3, 6, 8, 5))
print(f"A is {A.shape[0]} x {A.shape[1]}, with {int(A.sum())} ones; each row and each column has at most one")
assert set(A.ravel()) == {0.0, 1.0}
assert A.sum(0).max() == A.sum(1).max() == 1
assert np.array_equal(option_a(x, 9), F.subsample_pad(x, 2, 9).numpy())  # the engine agrees

# %%
figure, axes = plt.subplots(2, 1, figsize=(6.6, 6.6), layout="constrained")
for ax, values, title in zip(axes, (A, P), ("option A", "a 1x1 convolution with stride 2, $W_s$"), strict=True):
    ax.imshow(values, "RdBu_r", vmin=-2, vmax=2)
    ax.set_title(f"{title}: (4, 4, 2) to (2, 2, 4)", loc="left", fontsize=10)
    ax.set_xticks(np.arange(0, 32, 2) + 0.5, [f"{i},{j}" for i, j in np.ndindex(4, 4)], fontsize=8)
    ax.set_yticks(np.arange(0, 16, 4) + 1.5, [f"{i},{j}" for i, j in np.ndindex(2, 2)], fontsize=8)
    ax.set_xticks(np.arange(-0.5, 32, 2), minor=True)
    ax.set_yticks(np.arange(-0.5, 16, 4), minor=True)
    ax.grid(which="minor", color="0.85", lw=0.6)
    ax.tick_params(which="both", length=0)
    ax.set(xlabel="pixel (row, column) of the input, two channels each", ylabel="pixel of the output,\nfour channels")
save(figure, "10_matrices")

# %% [markdown]
# The two matrices have the same empty columns: both look at every second pixel in each direction, and three pixels in
# four go unseen. And where $W_s$ has a dense block of weights, $A$ has $\begin{pmatrix} I & 0 \end{pmatrix}$: *option A
# is a projection whose $W_s$ is fixed*. Leave the batch norm aside, and whatever a block with A computes a block with B
# can compute too, if the optimiser finds the weights. (Remember that "if" from lesson 8.)

# %%
assert np.array_equal(option_a(x, 9), F.conv2d(x, np.eye(5, 9).reshape(1, 1, 5, 9), stride=2).numpy())
print("option A = a 1x1 convolution with the weights [I 0]")

# %% [markdown]
# ## 3. Its backward pass is its adjoint
#
# Let $g$ be $\partial L / \partial (Ax)$. A small step $dx$ changes the loss by
# $dL = \langle g, A\,dx \rangle = \langle A^\top g, dx \rangle$, so $\partial L / \partial x = A^\top g$, and $A^\top$
# is whatever makes the two inner products equal for *all* $x$ and $g$. Write the first one out:
#
# $$\langle Ax, g \rangle = \sum_{n,i,j} \Big( \sum_{c < C} x_{n,si,sj,c}\; g_{n,i,j,c}
#    + \sum_{c \ge C} 0 \cdot g_{n,i,j,c} \Big).$$
#
# Name the pixel that is read: $p = si$, $q = sj$. As $i$ and $j$ run, $p$ and $q$ run through the multiples of $s$, so
# the sum is one over *all* pixels if those that are no multiples are given the factor zero:
#
# $$\langle Ax, g \rangle = \sum_{n,p,q} \sum_{c<C} x_{n,p,q,c}\; (A^\top g)_{n,p,q,c}, \qquad
#   (A^\top g)_{n,p,q,c} = \begin{cases} g_{n,p/s,q/s,c} & s \text{ divides } p \text{ and } q \\ 0 & \text{otherwise.}
#   \end{cases}$$
#
# Put $g$ of the first $C$ channels back where the pixels came from; all else is zero. The gradient of the padded
# channels goes nowhere. Two wrong ways that give an array of the right shape are tried beside it.


# %%
def adjoint(g, x, stride=2):
    dx = np.zeros_like(x)
    dx[:, ::stride, ::stride] = g[..., : x.shape[3]]
    return dx


candidates = {
    "the adjoint": adjoint,
    "the last channels of g": lambda g, x: adjoint(g[..., -5:], x),
    "a copy to every pixel": lambda g, x: g[..., :5].repeat(2, 1).repeat(2, 2),
}
g, ones, tiny = rng.standard_normal((3, 3, 4, 9)), np.ones((3, 3, 4, 9)), 1e-12 * np.abs(x).sum()
print("|<Ax, g> - <x, A'g>|        random g    g = 1")
off = {}
for name, candidate in candidates.items():
    off[name] = [abs(np.vdot(option_a(x, 9), h) - np.vdot(x, candidate(h, x))) for h in (g, ones)]
    print(f"{name:26s}   {off[name][0]:7.1e}  {off[name][1]:7.1e}")
assert max(off["the adjoint"]) < tiny
assert off["the last channels of g"][0] > 0.1  # caught with a random g,
assert off["the last channels of g"][1] < tiny  # and invisible with ones: lesson 3 again
assert min(off["a copy to every pixel"]) > 0.1
assert np.count_nonzero(adjoint(g, x)) == x.size / 4  # one pixel in four receives something

# %% [markdown]
# "The shortcut passes the gradient on without loss" is said often. *Inside* a stage it does, up to the ReLU after each
# addition (lesson 9). Where the shape changes, none of the three options does: with A, four ninths of our $g$ end here
# and three pixels in four receive nothing; a projection skips the same pixels and multiplies by $W_s^\top$.
#
# ## 4. The gradient of $W_s$
#
# A 1x1 convolution treats every pixel alike. Number the kept pixels of all pictures $p = 1, \dots, P$, and write each
# as a row of a matrix $X$ ($P \times C$). Then $Z = X W$, that is $Z_{po} = \sum_c X_{pc} W_{co}$: a matrix product.
# With $G = \partial L / \partial Z$,
#
# $$\frac{\partial L}{\partial W_{co}} = \sum_{p, o'} G_{po'} \frac{\partial Z_{po'}}{\partial W_{co}}
#   = \sum_p G_{po} X_{pc} = (X^\top G)_{co}, \qquad
# \frac{\partial L}{\partial X_{pc}} = \sum_o G_{po} \frac{\partial Z_{po}}{\partial X_{pc}}
#   = \sum_o G_{po} W_{co} = (G\,W^\top)_{pc}.$$
#
# A sum over all pixels for the weights, since all share them; a product at each pixel for the input. The rows of
# $G W^\top$ then go back to the pixels that they came from, which is the adjoint of the slice, the same as above.


# %%
def projection_backward(g, x, w, stride=2):
    kept = x[:, ::stride, ::stride]
    dw = kept.reshape(-1, x.shape[3]).T @ g.reshape(-1, g.shape[3])
    return {"x": adjoint(g @ w.T, x, stride), "w": dw}


w = rng.standard_normal((5, 9))
mine = projection_backward(g, x, w)
tx, tw = Tensor(x, requires_grad=True), Tensor(w.reshape(1, 1, 5, 9), requires_grad=True)
F.conv2d(tx, tw, stride=2).backward(g)
worst = max(np.abs(mine["x"] - tx.grad).max(), np.abs(mine["w"] - tw.grad[0, 0]).max())
print(f"X'G and GW' against the engine's convolution: at most {worst:.0e} apart")
assert worst < 1e-12

# %% [markdown]
# ## 5. Two paths, and both come back
#
# $x$ is used twice in $y = \mathrm{relu}(F(x) + W_s x)$. What comes through the ReLU, $g = \partial L/\partial y \cdot
# [y > 0]$, goes to both summands unchanged, and $x$ collects what both send back:
#
# $$\frac{\partial L}{\partial x} = J_F^\top g + (\text{slice})^\top (g\, W_s^\top).$$
#
# With an identity shortcut the second term is $g$ itself, the +1. With a projection it is easy to forget, because
# nothing looks amiss: the weights $W_s$ still learn, and the shapes are right. Measured on a block of the engine, with
# the batch norm on the shortcut:

# %%
seed = np.random.default_rng(1)
shortcut = models.ProjectionShortcut(5, 9, 2, seed)
block = models.BasicBlock(5, 9, 2, shortcut, seed).astype("float64")


def branch(x):
    return block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))


def gradient(function, g):
    t = Tensor(x, requires_grad=True)
    function(t).backward(g)
    return t.grad


whole = gradient(block, g)
masked = g * (block(Tensor(x)).numpy() > 0)
through_f, through_s = gradient(branch, masked), gradient(shortcut, masked)
scale = np.linalg.norm(whole)
lost = np.linalg.norm(through_s) / scale
print(f"F and shortcut add up to the whole: {np.linalg.norm(whole - through_f - through_s) / scale:.0e}")
print(f"without the shortcut's part the gradient is wrong by {lost:.0%}")
assert np.linalg.norm(whole - through_f - through_s) < 1e-12 * scale
assert lost > 0.2

# %% [markdown]
# ## 6. Two slips that do not raise an error
#
# **The stride on one path only.** Usually the addition then refuses: $(N, 16, 16, 32)$ and $(N, 32, 32, 32)$ do not
# go together. But broadcasting is patient. Once the picture has shrunk to a single pixel it goes with every size:

# %%
small = Tensor(rng.standard_normal((3, 2, 2, 5)))
halved = F.conv2d(small, rng.standard_normal((3, 3, 5, 9)), stride=2, padding=1)
not_halved = F.conv2d(small, rng.standard_normal((1, 1, 5, 9)))
print(f"{halved.shape} + {not_halved.shape} = {(halved + not_halved).shape}, and no complaint")
assert (halved + not_halved).shape == (3, 2, 2, 9)

# %% [markdown]
# **No batch norm on the projection.** The paper puts one after *each* convolution (section 3.4), and $W_s$ is one. The
# branch ends in a batch norm, so each of its channels has variance 1, whatever $x$ is. Leave the batch norm of the
# shortcut out, and the size of $W_s x$ is that of $x$: with weights of mean 0 and variance $2/C$ (He initialisation),
# the products with different $c$ cancel on average and
#
# $$\mathrm{E}\, z_o^2 = \sum_c \mathrm{E}\, W_{co}^2\; \mathrm{E}\, x_c^2 = C \cdot \tfrac{2}{C}\; \mathrm{E}\, x^2
#   = 2\, \mathrm{E}\, x^2.$$
#
# So the share of the branch in the sum depends on the scale of what comes in. With the batch norm it is one half,
# always.


# %%
def share_of_branch(x, path):
    f, z = branch(Tensor(x)).numpy().var(), path(Tensor(x)).numpy().var()
    return f / (f + z)


print("share of F(x) in the variance of F(x) + W_s x, for inputs of size   1     10    100")
shares = {
    name: [share_of_branch(size * x, path) for size in (1, 10, 100)]
    for name, path in (("with batch norm", shortcut), ("without", shortcut.conv))
}
for name, values in shares.items():
    print(f"{name:62s}" + "".join(f"{v:7.2f}" for v in values))
assert np.allclose(shares["with batch norm"], 0.5, atol=1e-3)
assert shares["without"][0] > 0.1 > 0.02 > shares["without"][1] > shares["without"][2]

# %% [markdown]
# It trains all the same, which is what makes it a slip to watch for. Counting finds it.
#
# ## 7. What each option costs, by hand
#
# Take the CIFAR network with $n$ blocks a stage, widths $w, 2w, 4w$. A batch norm has two numbers a channel. A block
# from $a$ to $b$ channels has $9ab + 9b^2$ weights and $4b$ numbers in its two batch norms; a projection $ab + 2b$.


# %%
def count(n, option, width=16, in_channels=3, classes=10):
    total = 9 * in_channels * width + 2 * width  # the first convolution and its batch norm
    a = width
    for b in (width, 2 * width, 4 * width):
        for _ in range(n):
            total += 9 * a * b + 9 * b * b + 4 * b
            if option == "C" or (option == "B" and a != b):
                total += a * b + 2 * b
            a = b
    return total + a * classes + classes  # the classifier


def parameters(model):
    return sum(p.size for p in model.parameters())


print("ResNet-20      parameters               multiply-adds of a 32x32 picture")
for option in "ABC":
    model = models.cifar_resnet(20, shortcut=option)
    multiply_adds = inspect.summary(model, (32, 32, 3)).multiply_adds / 1e6
    print(
        f"option {option}       {count(3, option):,} (+{count(3, option) - count(3, 'A'):6,})     {multiply_adds:.2f} M"
    )
    assert count(3, option) == parameters(model)
assert [count(3, option) for option in "ABC"] == [269_722, 272_474, 283_962]
assert count(3, "A") == parameters(models.cifar_resnet(20, residual=False))

# B: 16 to 32 and 32 to 64 channels
assert count(3, "B") - count(3, "A") == (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64) == 2_752
# ResNet-34 for ImageNet: 64 to 128, 128 to 256, 256 to 512
by_hand = sum(a * 2 * a + 2 * 2 * a for a in (64, 128, 256))
print(f"ResNet-34: option B adds {by_hand:,} to A's {parameters(models.resnet34(shortcut='A')):,}")
assert by_hand == 173_824 == parameters(models.resnet34(shortcut="B")) - parameters(models.resnet34(shortcut="A"))

# %% [markdown]
# "Shortcuts add neither parameters nor computation" is true of the *identity* shortcut, and of A up to a copy. It is
# why a plain network and its residual twin can be compared at all: with option A they have 269,722 parameters each.
# It is not true of B (1.0 % more here) and C (5.3 % more).
#
# ## 8. Does it matter which?
#
# "Projection shortcuts actively help learning" is said, too. The paper's own numbers, for ResNet-34 on ImageNet
# (table 3, top-1 error, ten crops, **one run each**): A 25.03 %, B 24.52 %, C 24.19 %. Less than a point from first
# to last. The authors put C's lead down to its additional parameters and conclude that projections are *not
# essential*; for their deeper networks they take B. A year later (He et al. 2016, "Identity mappings",
# table 1) a 1x1 convolution on **every** shortcut of a ResNet-110 gave 12.22 % on CIFAR-10, against 6.61 % for the
# identity.
#
# So let us look for a difference: a small ResNet, 400 digits to learn from, 1,397 to be tested on, several seeds each.
# The seed decides the first weights and the order of the pictures.

# %%
train_set, test_set = data.digits()
prepare = data.Normalise.fit(train_set)
pictures, labels = prepare(train_set.images), train_set.labels
SEEDS, EPOCHS = (3, 3) if FAST else (5, 8)
BATCH, TRAIN = 32, 400
rest = np.concatenate([pictures[TRAIN:], prepare(test_set.images)])
rest_labels = np.concatenate([labels[TRAIN:], test_set.labels])


def test_error(option, seed):
    model = models.cifar_resnet(14, shortcut=option, width=8, in_channels=1, generator=seed)
    sgd = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = optim.CosineLR(sgd, EPOCHS * (TRAIN // BATCH))
    shuffle = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        order = shuffle.permutation(TRAIN)
        for start in range(0, TRAIN - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            loss = F.cross_entropy(model(Tensor(pictures[chosen])), labels[chosen])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            schedule.step()
    model.eval()
    with no_grad():
        said = np.concatenate([model(Tensor(part)).numpy().argmax(1) for part in np.array_split(rest, 4)])
    return 100 * float(np.mean(said != rest_labels))


wrong = {option: np.array([test_error(option, seed) for seed in range(SEEDS)]) for option in "ABC"}
for option, e in wrong.items():
    each = "  ".join(f"{v:4.1f}" for v in e)
    print(f"{option}   test error {each}   mean {e.mean():.1f} %, deviation {e.std(ddof=1):.1f} points")
assert all(e.max() < 60 for e in wrong.values())  # chance is 90: all of them learn

# %% [markdown]
# ### How to read such a table
#
# The means differ; means always do. If the letters meant nothing, the ten errors of A and B were ten draws from one
# pot, and each way of dealing them out again, five to "A" and five to "B", was equally likely. So deal them out in
# *every* way and count how often the means are at least as far apart as they are. That share is the p-value of the
# exact permutation test, and nothing is assumed about the distribution.
#
# With $k$ runs each there are $\binom{2k}{k}$ ways. The most extreme result, all of A better than all of B, comes about
# in one of them, and its mirror image in another: $p \ge 2 / \binom{2k}{k}$. For $k = 3$ that is $2/20 = 0.1$. **Three
# seeds cannot show anything at the usual 0.05, whatever they give.** For $k = 5$ it is $2/252 = 0.008$.


# %%
@functools.cache
def ways_to_deal(k):
    return np.array(list(itertools.combinations(range(2 * k), k)))


def permutation_p(a, b):
    both, k = np.concatenate([a, b]), len(a)
    differences = (2 * both[ways_to_deal(k)].sum(1) - both.sum()) / k  # mean of the one group less mean of the other
    return np.mean(np.abs(differences) >= abs(a.mean() - b.mean()) - 1e-9)


assert np.isclose(permutation_p(np.array([1.0, 2, 3]), np.array([7.0, 8, 9])), 0.1)
pairs = {a + b: (wrong[b].mean() - wrong[a].mean(), permutation_p(wrong[a], wrong[b])) for a, b in ("AB", "BC", "AC")}
for pair, (difference, p) in pairs.items():
    verdict = "no significant difference" if p > 0.05 else "significant by itself; but three pairs were tried"
    print(f"{pair[1]} - {pair[0]}  {difference:+5.2f} points   p = {p:.2f}   {verdict}")
assert all(abs(difference) < 8 for difference, _ in pairs.values())  # nothing like what depth or data do

# %% [markdown]
# ### Not found is not "not there"
#
# How many seeds *would* show a difference $\delta$? Runs are independent with variance $\sigma^2$. The sum of $k$ has
# variance $k\sigma^2$, the mean $k\sigma^2/k^2 = \sigma^2/k$, the difference of two means $2\sigma^2/k$. To stand out
# by two of its standard deviations, $\delta > 2\sqrt{2\sigma^2/k}$, it takes $k > 8\sigma^2/\delta^2$ runs *of each*.
#
# So here are twenty of each, recorded from the cell above (ResNet-14, 8 epochs, seeds 0 to 19, one thread; your
# roundings may change single runs). We can now play the experiment again and again: pick $k$ of the twenty, and test.

# %%
recorded = {
    "A": "11.1 10.2 8.2 12.0 11.9 12.8 9.2 10.6 10.5 9.2 9.9 11.7 10.4 12.2 9.2 9.7 7.4 8.7 9.3 11.0",
    "B": "13.7 11.9 11.4 11.3 9.8 9.9 9.4 11.0 9.4 9.1 9.9 10.9 10.7 10.1 8.1 10.6 9.4 11.1 9.7 11.5",
    "C": "12.4 12.0 10.7 9.6 11.5 12.7 9.7 11.9 13.2 11.7 11.8 13.6 12.6 13.2 13.2 13.5 11.5 15.2 13.5 9.2",
}
twenty = {option: np.array(e.split(), float) for option, e in recorded.items()}
sigma = np.sqrt(np.mean([e.var(ddof=1) for e in twenty.values()]))
for option, e in twenty.items():
    print(f"{option}  mean {e.mean():4.1f} %, standard error {e.std(ddof=1) / np.sqrt(20):.1f}")
apart = (twenty["C"].mean() - twenty["A"].mean()) / np.sqrt(2 * sigma**2 / 20)
print(f"C - A is {apart:.1f} of its standard deviations")
assert apart > 3
print(f"one run deviates by {sigma:.1f} points; half a point shows from {8 * sigma**2 / 0.5**2:.0f} runs of each on")

print("how often p <= 0.05 with           3 seeds  5 seeds  8 seeds")
power = {}
for a, b in ("AB", "AC"):
    for k in (3, 5, 8):
        picks = [[rng.choice(twenty[o], k, replace=False) for o in (a, b)] for _ in range(200)]
        power[a + b, k] = np.mean([permutation_p(*pick) <= 0.05 for pick in picks])
    print(f"{a} against {b}                       " + "".join(f"{power[a + b, k]:9.0%}" for k in (3, 5, 8)))
assert power["AC", 3] == 0
assert power["AC", 8] > 0.5 > power["AC", 5] > 2 * power["AB", 5]

# %% [markdown]
# A and B cannot be told apart by twenty runs either. But C, a projection on *every* shortcut, is worse by almost two
# points: a difference that three seeds could never have shown and five show in fewer than half of all attempts. If
# your five said "no significant difference", that was the luck of the draw, and it was also the only honest
# sentence. What nobody finds here is projections that help.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained", sharey=True)
places = np.array([count(2, option, 8, 1) for option in "ABC"])
for ax, found, title in zip(axes, (wrong, twenty), (f"{SEEDS} seeds, just now", "20 seeds, recorded"), strict=True):
    for option, colour, x0 in zip("ABC", ("C0", "C1", "0.3"), places, strict=True):
        e = found[option]
        ax.plot(np.full(len(e), x0 - 60), e, "o", color=colour, alpha=0.4, ms=4)
        bar = 2 * e.std(ddof=1) / np.sqrt(len(e))
        ax.errorbar(x0 + 60, e.mean(), bar, fmt="D", color=colour, capsize=4, ms=7)
    ax.set_xticks(places, [f"{option}\n{place:,}" for option, place in zip("ABC", places, strict=True)])
    ax.set(xlabel="parameters of ResNet-14, width 8", xlim=(places[0] - 450, places[-1] + 450))
    ax.set_title(f"{title}; bars: two standard errors", loc="left", fontsize=10)
largest = max(e.max() for e in (*wrong.values(), *twenty.values()))
axes[0].set(ylabel=f"test error (%) after {TRAIN} digits", ylim=(0, 1.1 * largest))
save(figure, "10_three_shortcuts")

# %% [markdown]
# ## The exercise
#
# `exercises/lesson10_shortcuts.py`: option A forward and backward, the gradient of a block with a projection, the block
# with option B in the engine, and the count. `minires lessons check 10` says how it goes.
#
# **The mutant to kill.** The one that takes the last channels of $g$ survives a check with $g = 1$. Kill it with one
# line that needs no differences at all. Then find the one number of channels for which it is no mutant.
#
# ## What this does not show
#
# - **That C is worse.** It is, in fourteen layers, on 400 pictures of 8x8 pixels, after eight epochs. Longer training,
#   other rates or larger pictures may turn it round; in the paper's one run C is best, by a third of a point.
# - **That A and B are equal.** Twenty runs each would not see half a point.
# - **That seeds are all the chance there is.** All runs were tested on the same 1,397 pictures and learned from the
#   same 400. Other pictures would move all three options together, and the error bars do not contain that.
# - **That A is what you will meet.** Most libraries build their ImageNet networks with B, the paper's choice there; A
#   is its choice for CIFAR.
