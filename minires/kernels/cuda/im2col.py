"""The GPU set to be read: im2col, products, and sums in two stages; any floating dtype of float32 and float64."""

from __future__ import annotations

import numpy as np

from ...backend import array_module, cupy
from ..window import Pair, output_size
from .module import each, ints, typed
from .plain import (
    add,
    batch_norm,
    batch_norm_backward,
    channel_sum,
    contiguous,
    cross_entropy,
    cross_entropy_dx,
    moments,
    relu,
    relu_dx,
    sgd,
)
from .pool import avg_pool2d, avg_pool2d_dx, max_pool2d, max_pool2d_dx


def matmul(a, b, transpose_a=False, transpose_b=False):
    """a (M, K) @ b (K, N), either given as its transpose if that is said."""
    return (a.T if transpose_a else a) @ (b.T if transpose_b else b)


def conv2d(
    x, w, b, stride: Pair, padding: Pair, dilation: Pair, groups: int, residual=None, relu: bool = False, scale=None
):
    """x (N, H, W, C), w (KH, KW, C/groups, O) -> y (N, OH, OW, O), times ``scale`` plus b, both (O,) or None.

    Then ``residual`` is added, then negative numbers become zeros (``relu``).
    """
    columns = _unroll(
        x, w.shape[:2], _positions(x.shape, w.shape, stride, padding, dilation), stride, padding, dilation
    )
    parts = [_rows(columns, groups, g) @ _filters(w, groups, g) for g in range(groups)]
    y = parts[0] if groups == 1 else array_module(x).concatenate(parts, 1)
    y = y.reshape(*columns.shape[:3], w.shape[3])
    if scale is not None:
        y = y * scale
    if b is not None:
        y = y + b
    if residual is not None:
        y = y + residual
    return array_module(x).maximum(y, 0) if relu else y


def conv2d_moments(x, w, b, stride: Pair, padding: Pair, dilation: Pair, groups: int, running=None):
    """`conv2d`, and the mean and biased variance of each channel of its result."""
    y = conv2d(x, w, b, stride, padding, dilation, groups)
    return y, *moments(y, running)


def conv2d_backward(dy, x, w, x_shape, w_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """dy (N, OH, OW, O) -> dx if w is given, dw if x is given; None in place of the other.

    dw is the unrolled pictures' transpose times dy; dx what dy times the filters' transpose gives, rolled up again.
    """
    xp, kernel, positions = array_module(dy), w_shape[:2], dy.shape[1:3]
    upstream = contiguous(dy).reshape(-1, groups, w_shape[3] // groups)
    dx = dw = None
    if w is not None:
        columns = xp.empty((*dy.shape[:3], *kernel, x_shape[3]), dy.dtype)
        for g in range(groups):
            part = upstream[:, g] @ _filters(w, groups, g).T
            own = slice(g * w_shape[2], (g + 1) * w_shape[2])
            columns[..., own] = part.reshape(*dy.shape[:3], *w_shape[:3])
        dx = xp.empty(x_shape, dy.dtype)
        sizes = ints(*x_shape[1:], *positions, *kernel, *stride, *padding, *dilation)
        each(typed("roll_up", dy), dx.size, columns, dx, np.int64(dx.size), *sizes)
    if x is not None:
        columns = _unroll(x, kernel, positions, stride, padding, dilation)
        dw = xp.empty(w_shape, dy.dtype)
        for g in range(groups):
            own = slice(g * (w_shape[3] // groups), (g + 1) * (w_shape[3] // groups))
            dw[..., own] = (_rows(columns, groups, g).T @ upstream[:, g]).reshape(*w_shape[:3], -1)
    return dx, dw


def conv2d_norm_backward(dy, y, z, gamma, mean, var, eps, x, w, x_shape, w_shape, *window, residual: bool):
    """The two backward passes of relu(batch_norm(z) + residual), z = conv2d(x, w): dx, dw, dgamma, dbeta, dresidual."""
    dz, dgamma, dbeta, dresidual = batch_norm_backward(dy, y, z, gamma, mean, var, eps)
    dx, dw = conv2d_backward(dz, x, w, x_shape, w_shape, *window)
    return dx, dw, dgamma, dbeta, dresidual if residual else None


def _positions(x_shape, w_shape, stride, padding, dilation) -> tuple[int, int]:
    rows, columns = (output_size(x_shape[1 + a], w_shape[a], stride[a], padding[a], dilation[a]) for a in (0, 1))
    return rows, columns


def _unroll(x, kernel, positions, stride, padding, dilation):
    """x (N, H, W, C) -> (N, OH, OW, KH, KW, C): what each window sees."""
    columns = cupy().empty((x.shape[0], *positions, *kernel, x.shape[3]), x.dtype)
    sizes = ints(*x.shape[1:], *positions, *kernel, *stride, *padding, *dilation)
    each(typed("unroll", x), columns.size, contiguous(x), columns, np.int64(columns.size), *sizes)
    return columns


def _rows(columns, groups, g):
    """The columns of one group as a matrix (windows, KH * KW * C/groups)."""
    channels = columns.shape[-1] // groups
    n, rows, across, kernel_height, kernel_width, _ = columns.shape
    own = columns[..., g * channels : (g + 1) * channels]
    return own.reshape(n * rows * across, kernel_height * kernel_width * channels)


def _filters(w, groups, g):
    """The filters of one group as a matrix (KH * KW * C/groups, O/groups)."""
    out = w.shape[3] // groups
    return w[..., g * out : (g + 1) * out].reshape(w.shape[0] * w.shape[1] * w.shape[2], out)


__all__ = [
    "add",
    "avg_pool2d",
    "avg_pool2d_dx",
    "batch_norm",
    "batch_norm_backward",
    "channel_sum",
    "conv2d",
    "conv2d_backward",
    "conv2d_moments",
    "conv2d_norm_backward",
    "cross_entropy",
    "cross_entropy_dx",
    "matmul",
    "max_pool2d",
    "max_pool2d_dx",
    "moments",
    "relu",
    "relu_dx",
    "sgd",
]
