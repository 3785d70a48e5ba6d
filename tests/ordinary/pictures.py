"""Mistakes in convolution and pooling, with the channels first or last."""

import numpy as np

from tests.ordinary import mistake
from tests.ordinary.formulas import (
    WINDOWS,
    conv,
    conv_dw,
    conv_dx,
    conv_last,
    conv_last_dw,
    conv_last_dx,
    normal,
    padded,
)

# -- convolution ------------------------------------------------------------------------------------------------------


@mistake(says=r"it would be right with w\[:, :, ::-1, ::-1\]: the kernel is turned around, or should be")
def conv_kernel_not_turned(rng, right):
    """NCHW: dx is the padded dy correlated with a kernel that is not turned by 180 degrees."""
    turn = -1 if right else 1

    def backward(dy, x, w):
        return {"x": conv(dy, w[:, :, ::turn, ::turn].swapaxes(0, 1), 1, 1), "w": conv_dw(dy, x, w, 1, 1)}

    return lambda x, w: conv(x, w, 1, 1), backward, normal(rng, x=(2, 2, 5, 6), w=(3, 2, 3, 3))


@mistake(says=r"it is shifted by 1 along rows and columns: the padding is cut off in the wrong place")
def conv_padding_cut_off_at_the_corner(rng, right):
    """NHWC: dx is cut out at [:, :H, :W] instead of [:, 1:-1, 1:-1]."""

    def backward(dy, x, w):
        dx = conv_last_dx(dy, w, x.shape, 1, 1, crop=1 if right else 0)
        return {"x": dx, "w": conv_last_dw(dy, x, w, 1, 1)}

    return lambda x, w: conv_last(x, w, 1, 1), backward, normal(rng, x=(2, 6, 4, 3), w=(3, 3, 3, 2))


@mistake(says=r"nothing arrives from 5 on along axis 2: is the stride .* left out")
def conv_dx_without_the_stride(rng, right):
    """NCHW: dx collects at i + a instead of 2 i + a."""

    def backward(dy, x, w):
        return {"x": conv_dx(dy, w, x.shape, 2 if right else 1), "w": conv_dw(dy, x, w, 2)}

    return lambda x, w: conv(x, w, 2), backward, normal(rng, x=(2, 3, 7, 9), w=(2, 3, 3, 3))


@mistake(says=r"dy is summed over the axes 0, 1, 2 instead of the axes 0, 2, 3")
def conv_bias_over_other_axes(rng, right):
    """NCHW: dy is summed over (0, 1, 2), as with the channels last; the shape fits by chance, for O = W."""
    forward = lambda x, w, b: conv(x, w) + b[:, None, None]

    def backward(dy, x, w, b):
        over = (0, 2, 3) if right else (0, 1, 2)
        return {"x": conv_dx(dy, w, x.shape), "w": conv_dw(dy, x, w), "b": dy.sum(over)}

    return forward, backward, normal(rng, x=(2, 2, 6, 5), w=(4, 2, 3, 2), b=4)


@mistake(says=r"dy at 0, 1 along axis 0 makes no difference to it, .* = stands for \+=")
def conv_dw_of_the_last_picture(rng, right):
    """NHWC: in the loop over the batch dw is assigned, so that only the last picture counts."""

    def backward(dy, x, w):
        dw = np.zeros_like(w)
        for n in range(len(x)):
            part = conv_last_dw(dy[n : n + 1], x[n : n + 1], w)
            dw = dw + part if right else part
        return {"x": conv_last_dx(dy, w, x.shape), "w": dw}

    return lambda x, w: conv_last(x, w), backward, normal(rng, x=(3, 5, 5, 2), w=(2, 3, 2, 4))


@mistake()
def conv_dy_reshaped_without_a_transpose(rng, right):
    """NCHW, im2col: for dw, dy becomes rows without its channels being moved to the end first."""

    def backward(dy, x, w):
        rows = WINDOWS(x, (2, 2), (2, 3)).transpose(0, 2, 3, 1, 4, 5).reshape(-1, 3 * 2 * 2)
        d = (dy.transpose(0, 2, 3, 1) if right else dy).reshape(-1, 5)
        return {"x": conv_dx(dy, w, x.shape), "w": (d.T @ rows).reshape(w.shape)}

    return lambda x, w: conv(x, w), backward, normal(rng, x=(2, 3, 6, 4), w=(5, 3, 2, 2))


@mistake()
def depthwise_kernel_transposed(rng, right):
    """NHWC: dx uses w[j, i] instead of w[i, j]."""
    forward = lambda x, w: np.einsum("nhwcij,ijc->nhwc", WINDOWS(x, (3, 3), (1, 2)), w)

    def backward(dy, x, w):
        height, width = dy.shape[1:3]
        dx = np.zeros_like(x)
        for i, j in np.ndindex(3, 3):
            dx[:, i : i + height, j : j + width] += dy * (w[i, j] if right else w[j, i])
        return {"x": dx, "w": np.einsum("nhwc,nhwcij->ijc", dy, WINDOWS(x, (3, 3), (1, 2)))}

    return forward, backward, normal(rng, x=(2, 6, 5, 4), w=(3, 3, 4))


@mistake(says=r"nothing arrives from 9 on along axis 1: is the stride or the dilation left out")
def conv1d_dx_without_the_dilation(rng, right):
    """dx collects at i + k instead of i + 2 k."""
    forward = lambda x, w: sum(x[:, 2 * k : 2 * k + 7] @ w[k] for k in range(3))

    def backward(dy, x, w):
        dx, dw, step = np.zeros_like(x), np.zeros_like(w), 2 if right else 1
        for k in range(3):
            dx[:, step * k : step * k + 7] += dy @ w[k].T
            dw[k] = np.einsum("nlc,nlo->co", x[:, 2 * k : 2 * k + 7], dy)
        return {"x": dx, "w": dw}

    return forward, backward, normal(rng, x=(2, 11, 3), w=(3, 3, 2))


# -- pooling ----------------------------------------------------------------------------------------------------------


@mistake(says=r"dy arrives 4 times and should once: .* choose one of them")
def max_pool_without_a_mask(rng, right):
    """NCHW: all four cells of a window get dy, not only the largest."""
    forward = lambda x: x.reshape(2, 3, 2, 2, 3, 2).max((3, 5))

    def backward(dy, x):
        fill = lambda y: y.repeat(2, 2).repeat(2, 3)
        return {"x": fill(dy) * (x == fill(forward(x))) if right else fill(dy)}

    return forward, backward, normal(rng, x=(2, 3, 4, 6))


@mistake(says=r"where windows overlap a pixel must collect from each of them, \+= instead of =")
def average_pool_overlaps_overwritten(rng, right):
    """Windows of 3 at stride 2 overlap: what they give is assigned instead of added."""
    forward = lambda x: WINDOWS(x, (3, 3), (1, 2))[:, ::2, ::2].mean((-2, -1))

    def backward(dy, x):
        dx = np.zeros_like(x)
        for i, j in np.ndindex(*dy.shape[1:3]):
            seen = dx[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            seen[...] = dy[:, i : i + 1, j : j + 1] / 9 + (seen if right else 0)
        return {"x": dx}

    return forward, backward, normal(rng, x=(2, 7, 9, 2))


@mistake(says=r"it is W = 6 times too large: a division by it is missing")
def global_average_divided_by_h(rng, right):
    """NCHW: divided by H only, not by H W."""
    backward = lambda dy, x: {"x": np.broadcast_to(dy[:, :, None, None], x.shape) / (5 * 6 if right else 5)}
    return lambda x: x.mean((2, 3)), backward, normal(rng, x=(3, 4, 5, 6))


@mistake(says=r"as much of dy arrives as should, but at the wrong places: is the right cell of each window chosen")
def max_pool_row_and_column_exchanged(rng, right):
    """NHWC: row and column are exchanged when the index of the largest cell is taken apart."""
    forward = lambda x: x.reshape(2, 2, 3, 3, 3, 2).max((2, 4))

    def backward(dy, x):
        dx = np.zeros_like(x)
        for n, i, j, c in np.ndindex(*dy.shape):
            row, column = divmod(x[n, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3, c].argmax(), 3)
            if not right:
                row, column = column, row
            dx[n, 3 * i + row, 3 * j + column, c] += dy[n, i, j, c]
        return {"x": dx}

    return forward, backward, normal(rng, x=(2, 6, 9, 2))


@mistake()
def average_pool_always_divided_by_nine(rng, right):
    """Padding is not counted: forward divides by the number of real pixels, but backward always by 9."""
    box = lambda x: WINDOWS(padded(x, 1), (3, 3), (2, 3)).sum((-2, -1))
    forward = lambda x: box(x) / box(np.ones(x.shape))
    backward = lambda dy, x: {"x": box(dy / box(np.ones(x.shape))) if right else box(dy) / 9}
    return forward, backward, normal(rng, x=(1, 2, 5, 7))
