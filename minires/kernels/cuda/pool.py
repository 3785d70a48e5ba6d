"""Pooling on a GPU: a thread for each number, forward a window and backward a pixel that gathers from its windows."""

from __future__ import annotations

import numpy as np

from ...backend import cupy
from ..window import Pair, output_size
from .module import NULL, each, ints, typed
from .plain import contiguous


def max_pool2d(x, kernel: Pair, stride: Pair, padding: Pair, choose: bool = True):
    """x (N, H, W, C) -> the maxima (N, OH, OW, C) and which cell of its window each is: the first, or the first NaN.

    If not told to ``choose``, as without a gradient, the second result is None.
    """
    y = _output(x, kernel, stride, padding)
    chosen = cupy().empty(y.shape, np.int32) if choose else None
    each(
        typed("max_pool", x),
        y.size,
        contiguous(x),
        y,
        NULL if chosen is None else chosen,
        *_sizes(y.size, x.shape, y.shape, kernel, stride, padding),
    )
    return y, chosen


def max_pool2d_dx(dy, chosen, x_shape, kernel: Pair, stride: Pair, padding: Pair):
    """Each gradient goes to the cell that was chosen; where windows overlap a pixel collects several."""
    return _gradient(dy, chosen, 1, x_shape, kernel, stride, padding)


def avg_pool2d(x, kernel: Pair, stride: Pair, padding: Pair):
    """x (N, H, W, C) -> the mean of each window, padding counted as zeros, (N, OH, OW, C)."""
    y = _output(x, kernel, stride, padding)
    each(typed("avg_pool", x), y.size, contiguous(x), y, *_sizes(y.size, x.shape, y.shape, kernel, stride, padding))
    return y


def avg_pool2d_dx(dy, x_shape, kernel: Pair, stride: Pair, padding: Pair):
    """Each cell of a window receives 1 / (KH * KW) of its gradient."""
    return _gradient(dy, NULL, 1 / (kernel[0] * kernel[1]), x_shape, kernel, stride, padding)


def _output(x, kernel, stride, padding):
    rows, columns = (output_size(x.shape[1 + a], kernel[a], stride[a], padding[a]) for a in (0, 1))
    return cupy().empty((x.shape[0], rows, columns, x.shape[3]), x.dtype)


def _gradient(dy, chosen, share, x_shape, kernel, stride, padding):
    dx = cupy().empty(x_shape, dy.dtype)
    sizes = _sizes(dx.size, x_shape, dy.shape, kernel, stride, padding)
    each(typed("pool_dx", dy), dx.size, contiguous(dy), chosen, dy.dtype.type(share), dx, *sizes)
    return dx


def _sizes(count, x_shape, y_shape, kernel, stride, padding):
    return np.int64(count), *ints(*x_shape[1:], *y_shape[1:3], *kernel, *stride, *padding)
