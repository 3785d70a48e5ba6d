"""Kernels as one writes them first: im2col of the whole batch at once, and whole-array formulas for the rest.

Two rungs of the ladder stand on them.  The engine hands out pictures (N, H, W, C); where they are to lie in memory as
(N, C, H, W) the kernels return views of such arrays, and NumPy keeps the order of memory through every formula.
Convolutions here have no groups and no bias: residual networks need neither.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..kernels.reference.norm import update_running
from ..kernels.window import Pair, output_size, reach

_OVER = (0, 1, 2)  # images, rows and columns


def relu(x):
    """max(x, 0)."""
    return np.maximum(x, 0)


def relu_dx(dy, y):
    """dy where the output was positive."""
    return dy * (y > 0)


def moments(x, running=None):
    """The mean and the biased variance (C,) of x (N, H, W, C); ``running`` as in the reference."""
    mean = x.mean(_OVER)
    var = ((x - mean) ** 2).mean(_OVER)
    update_running(running, mean, var, x.size // x.shape[-1])
    return mean, var


def batch_norm(x, gamma, beta, mean, var, eps, residual=None, relu=False):
    """gamma (x - mean) / std + beta; nothing is fused here."""
    return gamma * ((x - mean) / np.sqrt(var + eps)) + beta


def batch_norm_backward(dy, y, x, gamma, mean, var, eps):
    """dx, dgamma, dbeta and the gradient of a residual."""
    std = np.sqrt(var + eps)
    xhat = (x - mean) / std
    dgamma, dbeta = (dy * xhat).sum(_OVER), dy.sum(_OVER)
    count = x.size // x.shape[3]
    return gamma / std * (dy - dbeta / count - xhat * (dgamma / count)), dgamma, dbeta, dy


def conv2d_nhwc(x, w, b, stride: Pair, padding: Pair, dilation: Pair, groups: int, residual=None, relu=False):
    """Columns (N OH OW, KH KW C) of the whole batch, times w as a matrix."""
    positions = _positions(x.shape, w.shape, stride, padding, dilation)
    columns = _columns_nhwc(x, w.shape, positions, stride, padding, dilation)
    return (columns @ w.reshape(-1, w.shape[3])).reshape(len(x), *positions, w.shape[3])


def conv2d_backward_nhwc(dy, x, w, x_shape, w_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """dx if w is given, dw if x is."""
    positions = dy.shape[1:3]
    upstream = np.ascontiguousarray(dy).reshape(-1, w_shape[3])
    dx = dw = None
    if w is not None:
        columns = (upstream @ w.reshape(-1, w_shape[3]).T).reshape(len(dy), *positions, *w_shape[:3])
        spread, inside = _spread(x_shape, padding, dy.dtype, np.zeros)
        for u, v, rows, cells in _taps(w_shape, positions, stride, dilation):
            spread[:, rows, cells] += columns[:, :, :, u, v]
        dx = spread[inside]
    if x is not None:
        dw = (_columns_nhwc(x, w_shape, positions, stride, padding, dilation).T @ upstream).reshape(w_shape)
    return dx, dw


def conv2d_nchw(x, w, b, stride: Pair, padding: Pair, dilation: Pair, groups: int, residual=None, relu=False):
    """w as a matrix, times columns (C KH KW, OH OW) of each image; all columns are there before the product."""
    positions = _positions(x.shape, w.shape, stride, padding, dilation)
    y = _filters(w) @ _columns_nchw(x, w.shape, positions, stride, padding, dilation)
    return y.reshape(len(x), -1, *positions).transpose(0, 2, 3, 1)


def conv2d_backward_nchw(dy, x, w, x_shape, w_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """dx if w is given, dw if x is."""
    kh, kw, channels, out = w_shape
    positions = dy.shape[1:3]
    upstream = np.ascontiguousarray(dy.transpose(0, 3, 1, 2)).reshape(len(dy), out, -1)
    dx = dw = None
    if w is not None:
        columns = (_filters(w).T @ upstream).reshape(len(dy), channels, kh, kw, *positions)
        spread, inside = _spread(x_shape, padding, dy.dtype, _zeros_nchw)
        for u, v, rows, cells in _taps(w_shape, positions, stride, dilation):
            spread[:, rows, cells] += columns[:, :, u, v].transpose(0, 2, 3, 1)
        dx = spread[inside]
    if x is not None:
        columns = _columns_nchw(x, w_shape, positions, stride, padding, dilation)
        dw = (upstream @ columns.swapaxes(1, 2)).sum(0).reshape(out, channels, kh, kw)
        dw = np.ascontiguousarray(dw.transpose(2, 3, 1, 0))
    return dx, dw


def _columns_nhwc(x, w_shape, positions: Pair, stride: Pair, padding: Pair, dilation: Pair):
    """x -> (N OH OW, KH KW C): the columns that a row of the window sees are neighbours, channels and all."""
    kh, kw, channels, _ = w_shape
    seen = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    image, row, pixel, number = seen.strides
    windows = np.lib.stride_tricks.as_strided(  # a view: no copy yet
        seen, (len(x), *positions, kh, kw, channels),
        (image, stride[0] * row, stride[1] * pixel, dilation[0] * row, dilation[1] * pixel, number),
    )  # fmt: skip
    return np.ascontiguousarray(windows).reshape(-1, kh * kw * channels)


def _columns_nchw(x, w_shape, positions: Pair, stride: Pair, padding: Pair, dilation: Pair):
    """x -> (N, C KH KW, OH OW), a tap of the window at a time."""
    seen = np.pad(x.transpose(0, 3, 1, 2), ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    columns = np.empty((*seen.shape[:2], *w_shape[:2], *positions), x.dtype)
    for u, v, rows, cells in _taps(w_shape, positions, stride, dilation):
        columns[:, :, u, v] = seen[:, :, rows, cells]
    return columns.reshape(len(x), -1, positions[0] * positions[1])


def _spread(x_shape, padding: Pair, dtype, zeros):
    """A padded picture of zeros to add gradients to, and where in it the picture itself lies."""
    n, height, width, channels = x_shape
    padded = zeros((n, height + 2 * padding[0], width + 2 * padding[1], channels), dtype)
    inside = slice(None), slice(padding[0], padding[0] + height), slice(padding[1], padding[1] + width)
    return padded, inside


def _zeros_nchw(shape, dtype):
    n, height, width, channels = shape
    return np.zeros((n, channels, height, width), dtype).transpose(0, 2, 3, 1)


def _filters(w):
    """(KH, KW, C, O) -> (O, C KH KW)."""
    return np.ascontiguousarray(w.transpose(3, 2, 0, 1)).reshape(w.shape[3], -1)


def _taps(w_shape, positions: Pair, stride: Pair, dilation: Pair) -> Iterator[tuple[int, int, slice, slice]]:
    """Each tap (u, v) of the window, and the padded rows and columns that it visits."""
    for u in range(w_shape[0]):
        for v in range(w_shape[1]):
            yield u, v, reach(u, positions[0], stride[0], dilation[0]), reach(v, positions[1], stride[1], dilation[1])


def _positions(x_shape, w_shape, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    rows, columns = (output_size(x_shape[1 + a], w_shape[a], stride[a], padding[a], dilation[a]) for a in (0, 1))
    return rows, columns
