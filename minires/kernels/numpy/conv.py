"""Convolution by im2col: every window unrolled into a row, so that one matrix product does the work.

The columns of a whole batch are nine times the picture and fall out of every cache; those of a few images do not.  So
all three passes go through the batch a tile at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from ..window import Pair, output_size, reach

# columns of one tile: they stay in the second-level cache between being written and being multiplied
_TILE_BYTES = 1 << 20


def conv2d(x, w, b, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """x (N, H, W, C), w (KH, KW, C/groups, O), b (O,) or None -> y (N, OH, OW, O)."""
    rows, columns = (output_size(x.shape[1 + a], w.shape[a], stride[a], padding[a], dilation[a]) for a in (0, 1))
    y = np.empty((x.shape[0], rows, columns, w.shape[3]), x.dtype)
    weights = _weights_by_group(w, groups)
    for tile in _tiles(x.shape[0], rows * columns * w.shape[0] * w.shape[1] * x.shape[3] * x.itemsize):
        unrolled = im2col(x[tile], w.shape[:2], (rows, columns), stride, padding, dilation, groups)
        np.matmul(unrolled, weights, out=_pixels_by_group(y[tile], groups))
    if b is not None:
        y += b
    return y


def conv2d_dx(dy, w, x_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """dy (N, OH, OW, O), w (KH, KW, C/groups, O) -> dx of ``x_shape``."""
    n, rows, columns, _ = dy.shape
    dx = np.empty(x_shape, dy.dtype)
    dy = np.ascontiguousarray(dy)
    transposed = _weights_by_group(w, groups).swapaxes(1, 2)
    for tile in _tiles(n, rows * columns * w.shape[0] * w.shape[1] * x_shape[3] * dy.itemsize):
        unrolled = _pixels_by_group(dy[tile], groups) @ transposed
        dx[tile] = col2im(unrolled, dx[tile].shape, w.shape[:2], (rows, columns), stride, padding, dilation, groups)
    return dx


def conv2d_dw(dy, x, w_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """dy (N, OH, OW, O), x (N, H, W, C) -> dw of ``w_shape``."""
    n, rows, columns, n_out = dy.shape
    kh, kw, per_group, _ = w_shape
    dy = np.ascontiguousarray(dy)
    total = np.zeros((groups, kh * kw * per_group, n_out // groups), dy.dtype)
    for tile in _tiles(n, rows * columns * kh * kw * x.shape[3] * dy.itemsize):
        unrolled = im2col(x[tile], (kh, kw), (rows, columns), stride, padding, dilation, groups)
        total += unrolled.swapaxes(1, 2) @ _pixels_by_group(dy[tile], groups)
    dw = total.reshape(groups, kh, kw, per_group, n_out // groups)
    return np.ascontiguousarray(np.moveaxis(dw, 0, 3)).reshape(w_shape)


def channel_sum(x):
    """The sum over all axes but the last, as products with a row of ones, much faster than ``x.sum((0, 1, 2))``.

    One partial sum for each image keeps the rounding error of float32 small.
    """
    shape = (x.shape[0], prod(x.shape[1:-1]), x.shape[-1]) if x.ndim > 1 else (1, 1, x.shape[0])
    images = np.ascontiguousarray(x).reshape(shape)
    return (np.ones((1, images.shape[1]), x.dtype) @ images).sum((0, 1), dtype=x.dtype)


def im2col(x, kernel: Pair, positions: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """x (n, H, W, C) -> (groups, n * OH * OW, KH * KW * C/groups): each row is what one window sees."""
    n, _, _, channels = x.shape
    x = _padded(x, padding)
    sn, sh, sw, sc = x.strides
    windows = np.lib.stride_tricks.as_strided(  # a view: no copy yet
        x,
        (groups, n, *positions, *kernel, channels // groups),
        (sc * (channels // groups), sn, sh * stride[0], sw * stride[1], sh * dilation[0], sw * dilation[1], sc),
        writeable=False,
    )
    return windows.reshape(groups, n * positions[0] * positions[1], kernel[0] * kernel[1] * (channels // groups))


def col2im(unrolled, x_shape, kernel: Pair, positions: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """The adjoint of `im2col`: every row is added back onto the pixels that its window saw."""
    n, height, width, channels = x_shape
    dx = np.zeros((n, height + 2 * padding[0], width + 2 * padding[1], groups, channels // groups), unrolled.dtype)
    windows = unrolled.reshape(groups, n, *positions, *kernel, channels // groups)
    for u in range(kernel[0]):
        for v in range(kernel[1]):
            seen = reach(u, positions[0], stride[0], dilation[0]), reach(v, positions[1], stride[1], dilation[1])
            dx[(slice(None), *seen)] += np.moveaxis(windows[:, :, :, :, u, v], 0, 3)
    inside = dx[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
    return inside.reshape(x_shape)


def _padded(x, padding: Pair):
    if padding == (0, 0):
        return x
    n, height, width, channels = x.shape
    padded = np.zeros((n, height + 2 * padding[0], width + 2 * padding[1], channels), x.dtype)
    padded[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width] = x
    return padded


def _weights_by_group(w, groups: int):
    """(KH, KW, C/groups, O) -> (groups, KH * KW * C/groups, O/groups)."""
    return np.moveaxis(w.reshape(-1, groups, w.shape[3] // groups), 1, 0)


def _pixels_by_group(y, groups: int):
    """(n, OH, OW, O) -> a view (groups, n * OH * OW, O/groups) that the matrix product can read and write."""
    pixels = y.reshape(-1, groups, y.shape[3] // groups)
    return np.moveaxis(pixels, 1, 0)


def _tiles(n_images: int, bytes_per_image: int) -> Iterator[slice]:
    """Slices of the batch whose columns fit in the cache, at least one image each."""
    step = max(1, _TILE_BYTES // max(1, bytes_per_image))
    for start in range(0, n_images, step):
        yield slice(start, start + step)
