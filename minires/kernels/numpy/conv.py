"""Convolution: the method that suits the window, and what may be done to a result while it is still in the cache."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ...backend import in_pieces, times
from ..reference.norm import update_running
from ..window import Pair, output_size
from . import depthwise, im2col, winograd
from .norm import Sums, merged, moments
from .norm_gradient import NormGradient, NormReceiver
from .product import matmul
from .tiles import Tile, along_rows, together, zero_row


def conv2d(
    x, w, b, stride: Pair, padding: Pair, dilation: Pair, groups: int, residual=None, relu: bool = False, scale=None
):
    """x (N, H, W, C), w (KH, KW, C/groups, O) -> y (N, OH, OW, O), times ``scale`` plus b, both (O,) or None.

    Then ``residual`` is added, then negative numbers become zeros (``relu``).
    """
    window = stride, padding, dilation, groups
    y_shape, way = _chosen(x.shape, w.shape, window)
    if scale is not None and w.size <= prod(y_shape):  # fewer numbers to multiply
        w, scale = times(w, scale), None
    length = prod(y_shape[2:])
    known: dict[int, Any] = {}  # factors, bias and zeros for rows of a length

    def finish(part, tile: Tile) -> None:
        row = length * together(part.shape[0] * part.shape[1], length)
        rows = part.reshape(-1, row)
        if row not in known:
            known[row] = (
                None if scale is None else along_rows(scale, row),
                None if b is None else along_rows(b, row),
                zero_row(row, x.dtype) if relu else None,
            )
        factors, bias, zeros = known[row]
        if factors is not None:
            rows *= factors
        if bias is not None:
            rows += bias
        if residual is not None:
            part += residual[tile]
        if zeros is not None:
            np.maximum(rows, zeros, out=rows)

    plain = scale is b is residual is None and not relu
    return way.convolve(np.ascontiguousarray(x), w, y_shape, window, None if plain else lambda: finish)[0]


def conv2d_moments(x, w, b, stride: Pair, padding: Pair, dilation: Pair, groups: int, running=None):
    """`conv2d`, and the mean and biased variance of each channel of its result, gathered while that is in the cache."""
    if b is not None:  # before a batch norm a bias is pointless, and not worth a fast way
        y = conv2d(x, w, b, stride, padding, dilation, groups)
        return y, *moments(y, running)
    window = stride, padding, dilation, groups
    y_shape, way = _chosen(x.shape, w.shape, window)
    y, sums = way.convolve(np.ascontiguousarray(x), w, y_shape, window, lambda: Sums(w.shape[3]), in_pieces)
    mean, var = merged(sums, x.dtype)
    update_running(running, mean, var, y.size // y.shape[3])
    return y, mean, var


def conv2d_backward(
    dy, x, w, x_shape, w_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int,
    onward: NormReceiver | None = None,
):  # fmt: skip
    """dy (N, OH, OW, O) -> dx if w is given, dw if x is given; None in place of the other.

    A batch norm that made x may take dx while it is being written (``onward``), see `NormReceiver`; then the result is
    what that has made of it.
    """
    return _gradients(np.ascontiguousarray(dy), x, w, x_shape, w_shape, (stride, padding, dilation, groups), onward)


def conv2d_norm_backward(
    dy, y, z, gamma, mean, var, eps, x, w, x_shape, w_shape, *window, residual: bool,
    received: NormReceiver | None = None, onward: NormReceiver | None = None,
):  # fmt: skip
    """`batch_norm_backward`, then `conv2d_backward`: dx, dw, dgamma, dbeta, dresidual (None if not wanted).

    z is what the convolution gave and the batch norm took.  Its gradient is computed where the convolution needs it, a
    tile at a time, and never exists as a whole.
    """
    dz = NormGradient(dy, y, z, gamma, mean, var, eps, residual, received)
    if depthwise.applies(w_shape, window[-1]):
        dx, dw = _gradients(dz.whole(), x, w, x_shape, w_shape, window, onward)
    else:
        dx, dw = _gradients(dz, x, None if w is None else times(w, dz.scale), x_shape, w_shape, window, onward)
        if dw is not None:
            dw *= dz.scale
    return dx, dw, dz.dgamma, dz.dbeta, dz.g if residual else None


def _gradients(dy, x, w, x_shape, w_shape, window, onward: NormReceiver | None):
    stride, padding, dilation, _ = window
    x = None if x is None else np.ascontiguousarray(x)
    _, way = _chosen(x_shape, w_shape, window)
    if way is depthwise:
        return depthwise.gradients(dy, x, w, x_shape, w_shape, stride, padding, dilation)
    if way is winograd and x is not None and not winograd.applies_to_dw(*w_shape[2:]):
        dx = None if w is None else _gradients(dy, None, w, x_shape, w_shape, window, onward)[0]
        return dx, im2col.gradients(dy, x, None, x_shape, w_shape, window)[1]
    if way is winograd:
        dx, dw, seen = winograd.gradients(dy, x, w, x_shape, w_shape[:2], padding, onward)
    else:
        dx, dw, seen = im2col.gradients(dy, x, w, x_shape, w_shape, window, onward)
    if onward is not None and dx is not None:
        onward.finish(seen)
    return dx, dw


def channel_sum(x):
    """The sum over all axes but the last, as products with a row of ones, much faster than ``x.sum((0, 1, 2))``.

    One partial sum for each image keeps the rounding error of float32 small.
    """
    shape = (x.shape[0], prod(x.shape[1:-1]), x.shape[-1]) if x.ndim > 1 else (1, 1, x.shape[0])
    images = np.ascontiguousarray(x).reshape(shape)
    return matmul(np.ones((1, images.shape[1]), x.dtype), images).sum((0, 1), dtype=x.dtype)


@lru_cache(maxsize=256)
def _chosen(x_shape, w_shape, window) -> tuple[tuple[int, ...], Any]:
    """The shape of the result, and the module that computes it."""
    stride, padding, dilation, groups = window
    rows, columns = (output_size(x_shape[1 + a], w_shape[a], stride[a], padding[a], dilation[a]) for a in (0, 1))
    y_shape = x_shape[0], rows, columns, w_shape[3]
    if winograd.applies(y_shape, w_shape, *window):
        return y_shape, winograd
    return y_shape, depthwise if depthwise.applies(w_shape, groups) else im2col
