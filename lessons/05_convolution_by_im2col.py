# %% [markdown]
# # Lesson 5: Convolution as a matrix product
#
# A convolution is seven loops. Nobody runs it that way: copy every window of the picture into a row of a matrix, and a
# single matrix product does the arithmetic, at the speed of a library that people have sharpened for decades. The
# copying is called *im2col*. Its backward pass has a name too, *col2im*, and it is where the mistakes are made.
#
# **After it you can** say how large the output is and which pixels never count; write col2im and know, from one line of
# algebra, that it is right; derive all three gradients of a convolution from two matrix identities; and test a linear
# operation without any differences, to the last digits of float64.
#
# **Before it:** lesson 3 (arrays, the gradient of a matrix product). Lesson 4 is not needed.

# %%
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np

import minires
from minires import Tensor, data
from minires import functional as F
from minires.classroom import save

rng = np.random.default_rng(5)


def inner(a, b):
    """The inner product <a, b> of two arrays of one shape: the sum of the products of their entries."""
    return float((a * b).sum())


# %% [markdown]
# ## Seven loops
#
# Pictures are $(N, H, W, C)$: picture, row, column, channel. Filters are $(K_H, K_W, C, O)$: row and column of the
# window, channel in, channel out. With stride $s$ and a border of $p$ zeros on every side,
# $$y_{n,i,j,o} = b_o + \sum_{u=0}^{K_H-1} \sum_{v=0}^{K_W-1} \sum_{c=0}^{C-1}
# \tilde x_{n,\; i s + u,\; j s + v,\; c}\; w_{u,v,c,o} ,$$
# where $\tilde x$ is $x$ with its border. Count the indices: $n, i, j, o$ say which number is computed, $u, v, c$ what
# it sums over. Mathematicians call this a *cross-correlation*; their convolution has $is - u$, which runs through the
# filter backwards. As filters are learned, nobody misses the difference, but everybody must agree on one: a forward and
# a backward pass that *both* turn the filter around agree with each other, and no gradient check will ever object.


# %%
def bordered(x, padding):
    return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def positions(size, kernel, stride, padding):
    """How many windows fit along one axis; derived below."""
    return (size + 2 * padding - kernel) // stride + 1


def conv_loops(x, w, b, stride=1, padding=0):
    x = bordered(x, padding)
    rows, columns = (positions(x.shape[1 + a], w.shape[a], stride, 0) for a in (0, 1))
    y = np.zeros((len(x), rows, columns, w.shape[3]))
    for n, i, j, o in np.ndindex(y.shape):  # four loops
        y[n, i, j, o] = b[o]
        for u, v, c in np.ndindex(w.shape[:3]):  # and three
            y[n, i, j, o] += x[n, i * stride + u, j * stride + v, c] * w[u, v, c, o]
    return y


x = rng.standard_normal((2, 7, 6, 3))  # every length another one: exchanged axes cannot hide
w, b = rng.standard_normal((3, 2, 3, 4)), rng.standard_normal(4)
for stride, padding in ((1, 0), (1, 1), (2, 1), (3, 0)):
    y = conv_loops(x, w, b, stride, padding)
    np.testing.assert_allclose(y, F.conv2d(x, w, b, stride, padding).numpy(), rtol=1e-12, atol=1e-12)
    print(f"stride {stride}, padding {padding}: {x.shape} -> {y.shape}, as minires has it")

# %% [markdown]
# ## How many windows, and what is left over
#
# Along one axis the bordered picture has $H + 2p$ pixels, numbered from 0. Window $i$ covers the pixels $is$ to
# $is + K - 1$. It fits if its last pixel exists:
# $$is + K - 1 \le H + 2p - 1 \iff i \le \frac{H + 2p - K}{s} .$$
# So $i$ runs from 0 to the whole part of that fraction, which is
# $$\left\lfloor \frac{H + 2p - K}{s} \right\rfloor + 1 \quad\text{windows.}$$
# The last one ends at pixel $s \lfloor \cdot \rfloor + K - 1$. Beyond it remain $r = (H + 2p - K) \bmod s$ pixels that
# no window sees (if $K \ge s$; a filter smaller than its stride leaves gaps between windows as well). They take part in
# nothing, so their gradient is exactly zero; a backward pass that forgets that they exist returns a picture that is too
# small. Three cases worth knowing:


# %%
def seen(size, kernel, stride, padding):
    """For each pixel (without the border): how many windows along the axis cover it."""
    count = np.zeros(size + 2 * padding, int)
    for i in range(positions(size, kernel, stride, padding)):
        count[i * stride : i * stride + kernel] += 1
    return count[padding : padding + size], count[padding + size :]


for what, size, kernel, stride, padding in (
    ("8 pixels, 3 wide, stride 2, no border", 8, 3, 2, 0),
    ("a ResNet's 3x3 / 2 with border 1", 8, 3, 2, 1),
    ("a shortcut's 1x1 / 2", 8, 1, 2, 0),
):
    pixels, after = seen(size, kernel, stride, padding)
    left_over = (size + 2 * padding - kernel) % stride
    print(f"{what:38} {positions(size, kernel, stride, padding)} windows see the pixels {pixels}, border after {after}")
    if kernel >= stride:
        assert (np.append(pixels, after)[::-1][:left_over] == 0).all()
        assert left_over == 0 or np.append(pixels, after)[::-1][left_over] > 0
assert (seen(8, 1, 2, 0)[0] == [1, 0, 1, 0, 1, 0, 1, 0]).all()

# %% [markdown]
# In the first the last pixel is lost. In the second, which halves the pictures in every ResNet, the left-over "pixel"
# is the border at the far end: the windows start in the border on one side and end with the picture on the other. In
# the third only every second pixel counts: in two dimensions three quarters of the picture never reach the shortcut.
#
# ## im2col: every window a row
#
# For each window write its $K_H K_W C$ numbers into a row. That gives a matrix `cols` with a row for each $(n, i, j)$
# and a column for each $(u, v, c)$. Flatten the filters the same way into $(K_H K_W C) \times O$, and the sum over
# $u, v, c$ is the sum of a matrix product: $y = \mathtt{cols}\, W + b$.
#
# The copying needs no loop over windows. For a fixed cell $(u, v)$ all windows together see every $s$-th pixel from
# $(u, v)$ on, which is one slice; so $K_H K_W$ slices do it, nine in most networks.


# %%
def reach(cell, count, stride):
    """The pixels that one cell of the window sees along one axis, over all positions."""
    return slice(cell, cell + stride * (count - 1) + 1, stride)


def im2col(x, kernel, stride, padding):
    rows, columns = (positions(x.shape[1 + a], kernel[a], stride, padding) for a in (0, 1))
    padded = bordered(x, padding)
    cols = np.empty((len(x), rows, columns, *kernel, x.shape[3]), x.dtype)
    for u, v in np.ndindex(*kernel):
        cols[:, :, :, u, v] = padded[:, reach(u, rows, stride), reach(v, columns, stride)]
    return cols.reshape(len(x) * rows * columns, -1)


def conv(x, w, b, stride=1, padding=0):
    rows, columns = (positions(x.shape[1 + a], w.shape[a], stride, padding) for a in (0, 1))
    y = im2col(x, w.shape[:2], stride, padding) @ w.reshape(-1, w.shape[3]) + b
    return y.reshape(len(x), rows, columns, -1)


for stride, padding in ((1, 0), (1, 1), (2, 1), (3, 0)):
    loops, product = conv_loops(x, w, b, stride, padding), conv(x, w, b, stride, padding)
    np.testing.assert_allclose(product, loops, rtol=1e-12, atol=1e-12)
print("im2col and one product agree with the seven loops")

# %% [markdown]
# ## col2im: the adjoint
#
# im2col only copies. So it is linear, and there is a matrix $M$ of zeros and ones with $\mathtt{cols} = M x$ (both
# written as long vectors). Row $r$ of $M$ says where entry $r$ of the columns comes from: it has a single 1, at pixel
# $g(r)$, or none if the entry lies in the border. $M$ is a *gather*.
#
# For the backward pass we need $M^\top$, since for $\mathtt{cols} = Mx$ the chain rule gives
# $$\frac{\partial L}{\partial x_q} = \sum_r \frac{\partial\, \mathtt{cols}_r}{\partial x_q}\,
# \frac{\partial L}{\partial \mathtt{cols}_r} = \sum_r M_{rq}\, \frac{\partial L}{\partial \mathtt{cols}_r} .$$
# What does $M^\top$ do to some $c$ of the shape of the columns? Take any $x$ and move everything to the side of $x$:
# $$\langle \mathrm{im2col}\,x,\; c \rangle = \sum_r x_{g(r)}\, c_r
# = \sum_q x_q \sum_{r \,:\, g(r) = q} c_r = \langle x,\; \mathrm{col2im}\,c \rangle .$$
# The second step sorts the same terms by pixel. (Entries of the border are 0 on the left and belong to no $q$ on the
# right.) Since this holds for every $x$, we can read off what stands beside $x_q$:
# $$\boxed{\;(\mathrm{col2im}\,c)_q = \sum_{r \,:\, g(r) = q} c_r\;}$$
# *Each pixel adds up what came back from every window that saw it.* Not one of them: all of them. In the code, the
# arrow of im2col turns around, and `=` becomes `+=`.


# %%
def col2im(cols, shape, kernel, stride, padding):
    n, height, width, channels = shape
    rows, columns = (positions(shape[1 + a], kernel[a], stride, padding) for a in (0, 1))
    cols = cols.reshape(n, rows, columns, *kernel, channels)
    padded = np.zeros((n, height + 2 * padding, width + 2 * padding, channels), cols.dtype)
    for u, v in np.ndindex(*kernel):
        padded[:, reach(u, rows, stride), reach(v, columns, stride)] += cols[:, :, :, u, v]
    return padded[:, padding : padding + height, padding : padding + width]


for stride, padding in ((1, 0), (1, 1), (2, 1), (2, 0), (3, 1)):
    columns = im2col(x, (3, 2), stride, padding)
    c = rng.standard_normal(columns.shape)
    left, right = inner(columns, c), inner(x, col2im(c, x.shape, (3, 2), stride, padding))
    print(f"stride {stride}, padding {padding}: <im2col x, c> = {left:+.12f}   <x, col2im c> = {right:+.12f}")
    assert abs(left - right) < 1e-12 * np.linalg.norm(columns) * np.linalg.norm(c)

# %% [markdown]
# This is the *adjoint test*, and for a linear operation it is better than any difference quotient: no step size, no
# rounding beyond the last digits, two lines. It needs $c$ to be random for the reason of lesson 3: against $c = 1$ many
# wrong adjoints have the right sum.
#
# For a picture of 8 by 8 one can afford $M$ itself: send 64 pictures through that are 1 at one pixel and 0 elsewhere;
# each gives a column of $M$. The sum of a column is the number of windows that see the pixel, here between 1 and 9. So
# col2im is *not* the inverse of im2col: $M^\top M$ multiplies every pixel by that number.

# %%
digit = data.digits()[1].images[7:8] / 255.0
columns = im2col(digit, (3, 3), 1, 0)
M = im2col(np.eye(64).reshape(64, 8, 8, 1), (3, 3), 1, 0).reshape(64, -1).T
c = rng.standard_normal(columns.shape)
np.testing.assert_allclose(col2im(c, digit.shape, (3, 3), 1, 0).ravel(), M.T @ c.ravel(), rtol=1e-12, atol=1e-14)

visits = M.sum(0).reshape(8, 8)
again = col2im(columns, digit.shape, (3, 3), 1, 0)[0, :, :, 0]
np.testing.assert_allclose(again, digit[0, :, :, 0] * visits, rtol=1e-12)
print(f"M is {M.shape}, its rows sum to at most {M.sum(1).max():.0f}, its columns to 1 to {visits.max():.0f}")
assert M.sum(1).max() == 1
assert (visits.min(), visits.max()) == (1, 9)

marked = {(0, 0): "C0", (2, 2): "C1", (3, 5): "C2"}  # windows, by their first pixel
figure, axes = plt.subplots(1, 4, figsize=(10.5, 3.7), width_ratios=(1, 0.62, 0.75, 1), layout="constrained")
figure.get_layout_engine().set(w_pad=0.1)
axes[0].imshow(digit[0, :, :, 0], "gray_r")
axes[1].imshow(columns, "gray_r", aspect="auto")
axes[2].spy(M, markersize=1.2, color="0.3", aspect="auto")
axes[3].imshow(visits, "Oranges", vmin=0, vmax=12)
for (i, j), colour in marked.items():
    axes[0].add_patch(plt.Rectangle((j - 0.42, i - 0.42), 2.84, 2.84, fill=False, ec=colour, lw=2.5))
    axes[1].add_patch(plt.Rectangle((-0.5, 6 * i + j - 0.5), 9, 1, fill=False, ec=colour, lw=2.5, clip_on=False))
for i, j in np.ndindex(8, 8):
    axes[3].text(j, i, int(visits[i, j]), ha="center", va="center", fontsize=8)
axes[0].set(title="a digit and three windows", xlabel="column", ylabel="row")
axes[1].set(title="its columns: 36 x 9", xlabel="cell of the window", ylabel="window", xticks=range(0, 9, 2))
axes[2].set(title="M: 324 x 64", xlabel="pixel", ylabel="entry of the columns")
axes[2].xaxis.set_ticks_position("bottom")
axes[3].set(title="windows that see a pixel", xlabel="column", ylabel="row")
for ax in axes:
    ax.title.set_fontsize(10)
save(figure, "05_column_matrix")

# %% [markdown]
# ## The gradients of a convolution
#
# Everything follows from the product $y = KW + b$, with $K = Mx$ for the columns. Two identities about the inner
# product $\langle A, B \rangle = \sum_{ro} A_{ro} B_{ro}$ are all we need; both sort one triple sum in another way:
# $$\langle A,\, B C \rangle = \sum_{r,o} A_{ro} \sum_k B_{rk} C_{ko} = \sum_{r,k} \Big(\sum_o A_{ro} C_{ko}\Big) B_{rk}
# = \langle A C^\top,\, B \rangle$$
# $$\langle A,\, B C \rangle = \sum_{k,o} \Big(\sum_r B_{rk} A_{ro}\Big) C_{ko} = \langle B^\top A,\, C \rangle .$$
# Change $x$, $W$, $b$ by a little, $\delta x$, $\delta W$, $\delta b$. To first order $y$ changes by
# $\delta y = (M \delta x)\, W + K\, \delta W + \delta b$, and the loss by $\delta L = \langle dy, \delta y \rangle$,
# which is what $dy$ means. Move each change to a side of its own:
# $$\delta L = \langle dy\, W^\top,\; M\, \delta x \rangle + \langle K^\top dy,\; \delta W \rangle
# + \sum_o \Big(\sum_r dy_{ro}\Big)\, \delta b_o
# = \langle M^\top (dy\, W^\top),\; \delta x \rangle + \langle K^\top dy,\; \delta W \rangle + \dots$$
# What stands beside each change is its gradient:
# $$\boxed{\; dx = \mathrm{col2im}(dy\, W^\top), \qquad dW = \mathtt{cols}^\top dy, \qquad db_o = \sum_r dy_{ro} \;}$$


# %%
def conv_backward(dy, x, w, b, stride, padding):
    rows, filters = dy.reshape(-1, w.shape[3]), w.reshape(-1, w.shape[3])
    columns = im2col(x, w.shape[:2], stride, padding)
    dx = col2im(rows @ filters.T, x.shape, w.shape[:2], stride, padding)
    return {"x": dx, "w": (columns.T @ rows).reshape(w.shape), "b": rows.sum(0)}


report = minires.gradcheck_fn(conv, conv_backward, {"x": x, "w": w, "b": b, "stride": 2, "padding": 1})
print(report)
report.assert_ok()

tx, tw, tb = (Tensor(array, requires_grad=True) for array in (x, w, b))
engine = F.conv2d(tx, tw, tb, stride=2, padding=1)
dy = rng.standard_normal(engine.shape)
engine.backward(dy)
for name, tensor in {"x": tx, "w": tw, "b": tb}.items():
    np.testing.assert_allclose(conv_backward(dy, x, w, b, 2, 1)[name], tensor.grad, rtol=1e-11, atol=1e-12)

# %% [markdown]
# "affine" in the report says how it was measured: the checker found that the result is a constant plus a linear
# function of each input alone, took steps as large as the numbers themselves, and ran the adjoint test of the last
# section as well.
#
# ## Where the flipped kernel comes from
#
# You may have read that $dx$ is "a convolution of $dy$ with the flipped kernel". There is no flip in our code. Both are
# right. col2im *scatters*: window $i$ writes to the pixels $q = i + u - p$ (stride 1). Ask instead what pixel $q$
# *gathers*: the windows $i = q + p - u$, and as $u$ goes up, $i$ goes down. Put $u' = K - 1 - u$; then
# $i = q + u' - (K - 1 - p)$, which is an ordinary convolution of $dy$ with border $K - 1 - p$, and tap $u'$ of its
# filter is tap $K - 1 - u'$ of $w$: flipped in both directions, with the input and output channels exchanged. Flip in
# the gather, never in the scatter; who does both, or the wrong one, gets a $dx$ of the right shape with the wrong
# numbers.

# %%
square = rng.standard_normal((3, 3, 3, 4))
dy = rng.standard_normal((2, 7, 6, 4))  # 7x6 pictures, 3x3 windows, stride 1, border 1: the size stays
scattered = conv_backward(dy, x, square, b, 1, 1)["x"]
gathered = conv(dy, square[::-1, ::-1].swapaxes(2, 3), np.zeros(3), 1, 3 - 1 - 1)
print(f"scatter and gather differ by {np.abs(scattered - gathered).max():.1e}")
np.testing.assert_allclose(scattered, gathered, rtol=1e-11, atol=1e-12)

# %% [markdown]
# ## What it buys, and what it costs
#
# Now the clock: the same arithmetic in Python's loops, by im2col, and by minires, which also works in columns but a few
# pictures at a time, so that they stay in the processor's cache. The numbers are those of this machine and this minute.
# What we assert is only that the loops lose.


# %%
def seconds(function, repeats=1):
    def once():
        began = perf_counter()
        function()
        return perf_counter() - began

    return min(once() for _ in range(repeats))


x_timed, w_timed, b_timed = rng.standard_normal((4, 16, 16, 3)), rng.standard_normal((3, 3, 3, 8)), np.zeros(8)
products = 4 * 16 * 16 * 8 * 27
times = {
    "seven loops": seconds(lambda: conv_loops(x_timed, w_timed, b_timed, 1, 1)),
    "im2col": seconds(lambda: conv(x_timed, w_timed, b_timed, 1, 1), 20),
    "minires": seconds(lambda: F.conv2d(x_timed, w_timed, b_timed, 1, 1), 20),
}
print(f"{products:,} multiplications, 4 pictures of 16x16x3, 8 filters of 3x3")
for name, time in times.items():
    print(f"  {name:12} {time * 1e3:9.3f} ms   {time / products * 1e9:8.2f} ns each")
assert times["seven loops"] > 5 * times["im2col"]

columns = im2col(x_timed, (3, 3), 1, 1)
print(f"the columns take {columns.nbytes:,} bytes, the pictures {x_timed.nbytes:,}, a ninth of it")
assert columns.nbytes == 9 * x_timed.nbytes

# %% [markdown]
# Nine times the memory is the price: with stride 1 every pixel is copied into nine rows. For the first stage of
# ResNet-20 (128 pictures of 32x32x16 in float32, 8.4 MB) the columns of the whole batch take 75 MB.
#
# A word about the order of the axes. With channels last, $(N, H, W, C)$, the pixels $j$ to $j + K_W - 1$ of a row with
# all their channels lie side by side in memory: a window is $K_H$ runs of $K_W C$ numbers. With channels first,
# $(N, C, H, W)$, it is $C K_H$ runs of $K_W$. The arithmetic is the same; long runs are copied faster.

# %%
last = np.zeros((2, 32, 32, 16))
first = np.zeros((2, 16, 32, 32))
in_last, in_first = last[0, 5, 4:7, :], first[0, :, 5, 4:7]
print(f"a row of a 3x3 window: {in_last.size} numbers; in one run with channels last: {in_last.flags.c_contiguous},")
print(f"with channels first: {in_first.flags.c_contiguous}, its 16 pieces lie {in_first.strides[0]} bytes apart")
assert in_last.flags.c_contiguous
assert not in_first.flags.c_contiguous

# %% [markdown]
# ## A mutant to kill
#
# This backward pass flips the kernel before it scatters, which is once too often. The check below is green: its author
# used a real filter, the blur $(1, 2, 1)^\top (1, 2, 1)$. Change the check so that it is red, and say in a sentence why
# it was green. How many of the filters that you know from image processing would have hidden this mutant?


# %%
def mutant(dy, x, w, b, stride, padding):
    right = conv_backward(dy, x, w, b, stride, padding)
    return {**right, "x": conv_backward(dy, x, w[::-1, ::-1], b, stride, padding)["x"]}


blur = np.multiply.outer([1.0, 2.0, 1.0], [1.0, 2.0, 1.0])[..., None, None] / 16
given = {"x": rng.standard_normal((1, 6, 5, 1)), "w": blur, "b": np.zeros(1), "stride": 1, "padding": 1}
assert minires.gradcheck_fn(conv, mutant, given).ok
print("the mutant is alive")

# %% [markdown]
# ## The exercise
#
# `exercises/lesson05_conv.py`: the convolution in loops, col2im, and the backward pass with stride and border.
# `minires lessons check 05` says how it goes.
#
# ## What this does not show
#
# - **How fast convolutions are.** Loops in Python lose to anything; loops in C would not lose by a factor of a
#   thousand. im2col wins over them because a matrix product uses the cache and the vector units well, and pays with
#   memory.
# - **That im2col is what a library does.** There is Winograd's way (fewer multiplications), the Fourier transform, and
#   kernels that gather on the fly and never write the columns. `benchmarks/LADDER.md` climbs from these loops to what
#   minires uses, with a time for each rung.
# - **That the forward pass is right.** The adjoint test compares col2im with *this* im2col, and a gradient check
#   compares the backward pass with *this* forward pass. Only another implementation, here the loops and the engine,
#   tells whether the stride, the border and the direction of the filter are what was meant.
