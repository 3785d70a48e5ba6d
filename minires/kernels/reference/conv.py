"""Convolution (cross-correlation, as everywhere in deep learning) as seven loops.

    y[n, i, j, o] = b[o] + sum over u, v, c of x[n, i s + u d - p, j s + v d - p, c] w[u, v, c, o]

with stride s, dilation d and padding p; pixels outside the picture are zero.  Output channel o belongs to group
o // (O / groups) and sees only that group's input channels.  Each product above appears once in dx and once in dw, with
the roles exchanged: the same loops serve all three.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..window import Pair, output_size, taps


def conv2d(x, w, b, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """x (N, H, W, C), w (KH, KW, C/groups, O), b (O,) or None -> y (N, OH, OW, O)."""
    height, width = (output_size(x.shape[1 + a], w.shape[a], stride[a], padding[a], dilation[a]) for a in (0, 1))
    y = np.zeros((x.shape[0], height, width, w.shape[3]), x.dtype)
    for at_y, at_x, at_w in _products(y.shape, x.shape, w.shape, stride, padding, dilation, groups):
        y[at_y] += x[at_x] * w[at_w]
    return y if b is None else y + b


def conv2d_dx(dy, w, x_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """dy (N, OH, OW, O), w (KH, KW, C/groups, O) -> dx of ``x_shape``."""
    dx = np.zeros(x_shape, dy.dtype)
    for at_y, at_x, at_w in _products(dy.shape, x_shape, w.shape, stride, padding, dilation, groups):
        dx[at_x] += dy[at_y] * w[at_w]
    return dx


def conv2d_dw(dy, x, w_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """dy (N, OH, OW, O), x (N, H, W, C) -> dw of ``w_shape``."""
    dw = np.zeros(w_shape, dy.dtype)
    for at_y, at_x, at_w in _products(dy.shape, x.shape, w_shape, stride, padding, dilation, groups):
        dw[at_w] += dy[at_y] * x[at_x]
    return dw


def channel_sum(x):
    """The sum over all axes but the last: the gradient of a bias."""
    total = np.zeros(x.shape[-1], x.dtype)
    for index in np.ndindex(x.shape[:-1]):
        total += x[index]
    return total


def _products(y_shape, x_shape, w_shape, stride, padding, dilation, groups) -> Iterator[tuple[tuple, tuple, tuple]]:
    """Where each product of a convolution reads and writes: indices into y, x and w."""
    n_images, rows, columns, n_out = y_shape
    kh, kw, per_group, _ = w_shape
    for n in range(n_images):
        for i in range(rows):
            for j in range(columns):
                for u, row in taps(i, kh, stride[0], padding[0], dilation[0], x_shape[1]):
                    for v, column in taps(j, kw, stride[1], padding[1], dilation[1], x_shape[2]):
                        for o in range(n_out):
                            first = o // (n_out // groups) * per_group
                            for c in range(per_group):
                                yield (n, i, j, o), (n, row, column, first + c), (u, v, c, o)
