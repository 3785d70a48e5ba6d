"""Pooling in loops.  A window never looks into the padding for its maximum; the average counts padding as zeros."""

from __future__ import annotations

import numpy as np

from ..window import Pair, output_size, taps


def max_pool2d(x, kernel: Pair, stride: Pair, padding: Pair, choose: bool = True):
    """x (N, H, W, C) -> the maxima (N, OH, OW, C), and for each the number of its cell in the window, row by row.

    Of equal elements the first is chosen.  A NaN anywhere in the window is its maximum, so that it is not hidden.
    If not told to ``choose``, as without a gradient, the second result is None.
    """
    y = np.empty(_output_shape(x.shape, kernel, stride, padding), x.dtype)
    chosen = np.zeros(y.shape, np.min_scalar_type(kernel[0] * kernel[1]))
    for n, i, j, c in np.ndindex(y.shape):
        best, cell = -np.inf, -1
        for u, row in taps(i, kernel[0], stride[0], padding[0], 1, x.shape[1]):
            for v, column in taps(j, kernel[1], stride[1], padding[1], 1, x.shape[2]):
                value = x[n, row, column, c]
                if cell < 0 or value > best or (np.isnan(value) and not np.isnan(best)):
                    best, cell = value, u * kernel[1] + v
        y[n, i, j, c], chosen[n, i, j, c] = best, cell
    return y, chosen if choose else None


def max_pool2d_dx(dy, chosen, x_shape, kernel: Pair, stride: Pair, padding: Pair):
    """Each gradient goes to the cell that was chosen; where windows overlap a pixel collects several."""
    dx = np.zeros(x_shape, dy.dtype)
    for n, i, j, c in np.ndindex(dy.shape):
        u, v = divmod(int(chosen[n, i, j, c]), kernel[1])
        dx[n, i * stride[0] - padding[0] + u, j * stride[1] - padding[1] + v, c] += dy[n, i, j, c]
    return dx


def avg_pool2d(x, kernel: Pair, stride: Pair, padding: Pair):
    """x (N, H, W, C) -> the mean of each window, padding counted as zeros, (N, OH, OW, C)."""
    y = np.zeros(_output_shape(x.shape, kernel, stride, padding), x.dtype)
    for n, i, j, c in np.ndindex(y.shape):
        for _, row in taps(i, kernel[0], stride[0], padding[0], 1, x.shape[1]):
            for _, column in taps(j, kernel[1], stride[1], padding[1], 1, x.shape[2]):
                y[n, i, j, c] += x[n, row, column, c]
    return y / (kernel[0] * kernel[1])


def avg_pool2d_dx(dy, x_shape, kernel: Pair, stride: Pair, padding: Pair):
    """Each cell of a window receives 1 / (KH * KW) of its gradient."""
    dx = np.zeros(x_shape, dy.dtype)
    for n, i, j, c in np.ndindex(dy.shape):
        for _, row in taps(i, kernel[0], stride[0], padding[0], 1, x_shape[1]):
            for _, column in taps(j, kernel[1], stride[1], padding[1], 1, x_shape[2]):
                dx[n, row, column, c] += dy[n, i, j, c] / (kernel[0] * kernel[1])
    return dx


def _output_shape(x_shape, kernel, stride, padding):
    rows, columns = (output_size(x_shape[1 + a], kernel[a], stride[a], padding[a]) for a in (0, 1))
    return x_shape[0], rows, columns, x_shape[3]
