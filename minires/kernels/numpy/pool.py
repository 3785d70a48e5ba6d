"""Pooling, one cell of the window at a time for all windows at once: KH * KW passes instead of OH * OW."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..window import Pair, output_size, reach


def max_pool2d(x, kernel: Pair, stride: Pair, padding: Pair):
    """x (N, H, W, C) -> the maxima (N, OH, OW, C), and for each the number of its cell in the window, row by row.

    Of equal elements the first is chosen.  A NaN anywhere in the window is its maximum, so that it is not hidden.
    """
    positions = _positions(x.shape, kernel, stride, padding)
    padded = _bordered(x, padding, -np.inf)
    y = np.full((x.shape[0], *positions, x.shape[3]), -np.inf, x.dtype)
    chosen = np.empty(y.shape, np.min_scalar_type(kernel[0] * kernel[1]))
    # to begin with the first cell that is not padding: it stays the choice in a window that holds only -inf
    first = [np.maximum(0, padding[a] - stride[a] * np.arange(positions[a])) for a in (0, 1)]
    chosen[...] = (first[0][:, None] * kernel[1] + first[1])[..., None]
    for cell, (rows, columns) in enumerate(_cells(kernel, positions, stride)):
        values = padded[:, rows, columns]
        better = (values > y) | (np.isnan(values) & ~np.isnan(y))
        np.copyto(y, values, where=better)
        np.copyto(chosen, cell, where=better)
    return y, chosen


def max_pool2d_dx(dy, chosen, x_shape, kernel: Pair, stride: Pair, padding: Pair):
    """Each gradient goes to the cell that was chosen; where windows overlap a pixel collects several."""
    return _spread(lambda cell: dy * (chosen == cell), dy, x_shape, kernel, stride, padding)


def avg_pool2d(x, kernel: Pair, stride: Pair, padding: Pair):
    """x (N, H, W, C) -> the mean of each window, padding counted as zeros, (N, OH, OW, C)."""
    positions = _positions(x.shape, kernel, stride, padding)
    padded = _bordered(x, padding, 0)
    y = np.zeros((x.shape[0], *positions, x.shape[3]), x.dtype)
    for rows, columns in _cells(kernel, positions, stride):
        y += padded[:, rows, columns]
    return y * y.dtype.type(1 / (kernel[0] * kernel[1]))


def avg_pool2d_dx(dy, x_shape, kernel: Pair, stride: Pair, padding: Pair):
    """Each cell of a window receives 1 / (KH * KW) of its gradient."""
    share = dy * dy.dtype.type(1 / (kernel[0] * kernel[1]))
    return _spread(lambda cell: share, dy, x_shape, kernel, stride, padding)


def _positions(x_shape, kernel, stride, padding) -> Pair:
    rows, columns = (output_size(x_shape[1 + a], kernel[a], stride[a], padding[a]) for a in (0, 1))
    return rows, columns


def _cells(kernel: Pair, positions: Pair, stride: Pair) -> Iterator[tuple[slice, slice]]:
    """For each cell of the window, the padded rows and columns that it covers over all positions."""
    for u in range(kernel[0]):
        for v in range(kernel[1]):
            yield reach(u, positions[0], stride[0]), reach(v, positions[1], stride[1])


def _bordered(x, padding: Pair, value: float):
    if padding == (0, 0):
        return x
    return np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)), constant_values=value)


def _spread(part: Callable[[int], np.ndarray], dy, x_shape, kernel: Pair, stride: Pair, padding: Pair):
    """Add ``part(cell)`` onto the pixels that the cell covers, for every cell: the adjoint of looking at windows."""
    n, height, width, channels = x_shape
    dx = np.zeros((n, height + 2 * padding[0], width + 2 * padding[1], channels), dy.dtype)
    for cell, (rows, columns) in enumerate(_cells(kernel, dy.shape[1:3], stride)):
        dx[:, rows, columns] += part(cell)
    return dx[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
