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
from . import norm, pointwise


def conv2d(
    x, w, b, stride: Pair, padding: Pair, dilation: Pair, groups: int, residual=None, relu: bool = False, scale=None
):
    """x (N, H, W, C), w (KH, KW, C/groups, O) -> y (N, OH, OW, O), times ``scale`` plus b, both (O,) or None.

    Then ``residual`` is added, then negative numbers become zeros (``relu``).
    """
    height, width = (output_size(x.shape[1 + a], w.shape[a], stride[a], padding[a], dilation[a]) for a in (0, 1))
    y = np.zeros((x.shape[0], height, width, w.shape[3]), x.dtype)
    for at_y, at_x, at_w in _products(y.shape, x.shape, w.shape, stride, padding, dilation, groups):
        y[at_y] += x[at_x] * w[at_w]
    if scale is not None:
        y *= scale
    if b is not None:
        y += b
    if residual is not None:
        y += residual
    return pointwise.relu(y) if relu else y


def conv2d_moments(x, w, b, stride: Pair, padding: Pair, dilation: Pair, groups: int, running=None):
    """`conv2d`, and the mean and biased variance of each channel of its result."""
    y = conv2d(x, w, b, stride, padding, dilation, groups)
    return y, *norm.moments(y, running)


def conv2d_backward(dy, x, w, x_shape, w_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """dy (N, OH, OW, O) -> dx if w is given, dw if x is given; None in place of the other."""
    dx, dw = None if w is None else np.zeros(x_shape, dy.dtype), None if x is None else np.zeros(w_shape, dy.dtype)
    for at_y, at_x, at_w in _products(dy.shape, x_shape, w_shape, stride, padding, dilation, groups):
        if dx is not None:
            dx[at_x] += dy[at_y] * w[at_w]
        if dw is not None:
            dw[at_w] += dy[at_y] * x[at_x]
    return dx, dw


def conv2d_norm_backward(dy, y, z, gamma, mean, var, eps, x, w, x_shape, w_shape, *window, residual: bool):
    """The two backward passes of relu(batch_norm(z) + residual), z = conv2d(x, w): dx, dw, dgamma, dbeta, dresidual."""
    dz, dgamma, dbeta, dresidual = norm.batch_norm_backward(dy, y, z, gamma, mean, var, eps)
    dx, dw = conv2d_backward(dz, x, w, x_shape, w_shape, *window)
    return dx, dw, dgamma, dbeta, dresidual if residual else None


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
