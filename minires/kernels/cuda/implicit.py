"""The fast GPU set: convolution without unrolling anything, batch norm in as few passes over memory as may be.

float32, on the tensor cores if the precision is not fp32.  Other dtypes go the readable way.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np

from ...backend import cupy
from ..window import Pair, output_size
from . import im2col, norm, plain
from .classifier import linear_cross_entropy, linear_cross_entropy_backward, suits_linear_cross_entropy
from .module import NULL, ints, kernel
from .norm import batch_norm, batch_norm_backward
from .plain import add, channel_sum, contiguous, cross_entropy, cross_entropy_dx, relu, relu_dx, sgd, sum_rows
from .pool import avg_pool2d, avg_pool2d_dx, max_pool2d, max_pool2d_dx
from .precision import get_precision

_THREADS = 128
_ROWS, _FILTER_ROWS = 128, 64  # of the result in one block: pixels, and elements of a filter
_WANTED = 528  # blocks, that a gradient of filters should be split into at least
_LEAST_WINDOWS = 128  # in a part of it
_MOST_PARTS = 256


def matmul(a, b, transpose_a=False, transpose_b=False):
    """a (M, K) @ b (K, N), either given as its transpose if that is said: a 1x1 convolution or one of its gradients."""
    if not _suits(a, b):
        return im2col.matmul(a, b, transpose_a, transpose_b)
    if transpose_a and transpose_b:
        return matmul(contiguous(a.T), b, transpose_b=True)
    window = (1, 1), (0, 0), (1, 1), 1
    pictures = a.reshape(a.shape[0], 1, 1, a.shape[1])
    if transpose_a:
        dy = b.reshape(b.shape[0], 1, 1, b.shape[1])
        return _dw(dy, pictures, (1, 1, a.shape[1], b.shape[1]), *window).reshape(a.shape[1], b.shape[1])
    filters = b.reshape(1, 1, *b.shape)
    if transpose_b:
        return _dx(pictures, filters, (a.shape[0], 1, 1, b.shape[0]), *window).reshape(a.shape[0], b.shape[0])
    return _convolve(pictures, filters, *window)[0].reshape(a.shape[0], b.shape[1])


def conv2d(
    x, w, b, stride: Pair, padding: Pair, dilation: Pair, groups: int, residual=None, relu: bool = False, scale=None
):
    """x (N, H, W, C), w (KH, KW, C/groups, O) -> y (N, OH, OW, O), times ``scale`` plus b, both (O,) or None.

    Then ``residual`` is added, then negative numbers become zeros (``relu``).
    """
    if not _suits(x, w):
        return im2col.conv2d(x, w, b, stride, padding, dilation, groups, residual, relu, scale)
    w = w if scale is None else w * scale
    return _convolve(x, w, stride, padding, dilation, groups, b, residual, relu)[0]


def conv2d_moments(x, w, b, stride: Pair, padding: Pair, dilation: Pair, groups: int, running=None):
    """`conv2d`, and the mean and biased variance of each channel of its result, gathered as it is written."""
    if not _suits(x, w):
        return im2col.conv2d_moments(x, w, b, stride, padding, dilation, groups, running)
    if b is not None:  # before a batch norm a bias is pointless, and not worth a fast way
        y = conv2d(x, w, b, stride, padding, dilation, groups)
        return y, *moments(y, running)
    y, parts = _convolve(x, w, stride, padding, dilation, groups, moments=True)
    return y, *norm.join_moments(parts, _ROWS, y.size // y.shape[3], running)


def conv2d_backward(dy, x, w, x_shape, w_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int):
    """dy (N, OH, OW, O) -> dx if w is given, dw if x is given; None in place of the other."""
    if not _suits(dy, *(a for a in (x, w) if a is not None)):
        return im2col.conv2d_backward(dy, x, w, x_shape, w_shape, stride, padding, dilation, groups)
    dx = None if w is None else _dx(dy, w, x_shape, stride, padding, dilation, groups)
    dw = None if x is None else _dw(dy, x, w_shape, stride, padding, dilation, groups)
    return dx, dw


def conv2d_norm_backward(dy, y, z, gamma, mean, var, eps, x, w, x_shape, w_shape, *window, residual: bool):
    """The two backward passes of relu(batch_norm(z) + residual), z = conv2d(x, w): dx, dw, dgamma, dbeta, dresidual."""
    dz, dgamma, dbeta, dresidual = batch_norm_backward(dy, y, z, gamma, mean, var, eps, keep_g=residual)
    dx, dw = conv2d_backward(dz, x, w, x_shape, w_shape, *window)
    return dx, dw, dgamma, dbeta, dresidual if residual else None


def moments(x, running=None):
    """x (..., C) -> the mean and the biased variance (C,) over all other axes; ``running`` as in the reference."""
    return plain.moments(x, running)


def _suits(*arrays: Any) -> bool:
    return all(a.dtype == np.float32 and a.size for a in arrays)


def _precision() -> str:
    """The precision that was set, or fp32 on a card whose tensor cores do not have it: that is said once."""
    name = get_precision()
    return "fp32" if name != "fp32" and not _has_tensor_cores() else name


@cache
def _has_tensor_cores() -> bool:
    """Whether the card has those that the kernels use: compute capability 8.0 (Ampere) or newer."""
    capability = cupy().cuda.Device().compute_capability
    if int(capability) >= 80:
        return True
    warnings.warn(
        f"this GPU has compute capability {capability[:-1]}.{capability[-1]}; tf32, bf16 and fp16 need 8.0 or newer. "
        "Everything is computed in fp32.",
        stacklevel=2,
    )
    return False


def _columns(channels: int) -> int:
    """How many channels of the result a block computes."""
    return 16 if channels <= 16 else 32 if channels <= 32 else 64


def _sizes(x_shape, y_shape, kernel_size, stride, padding, dilation, groups):
    return ints(*x_shape, *y_shape[1:], *kernel_size, *stride, *padding, *dilation, groups)


def _convolve(x, w, stride, padding, dilation, groups, b=None, residual=None, relu=False, moments=False):
    """y, and the moments of its parts if they are wanted."""
    xp, x, w = cupy(), contiguous(x), contiguous(w)
    out = w.shape[3]
    rows, columns = (output_size(x.shape[1 + a], w.shape[a], stride[a], padding[a], dilation[a]) for a in (0, 1))
    y = xp.empty((x.shape[0], rows, columns, out), x.dtype)
    blocks, wide = -(-(y.size // out) // _ROWS), _columns(out // groups)
    parts = xp.empty((blocks, 2, out), x.dtype) if moments else NULL
    b, residual = (NULL if a is None else contiguous(a) for a in (b, residual))
    arguments = x, w, b, residual, np.int32(relu), y, parts
    sizes = _sizes(x.shape, y.shape, w.shape[:2], stride, padding, dilation, groups)
    grid = blocks, -(-(out // groups) // wide), groups
    kernel(f"conv_{wide}", _precision())(grid, (_THREADS,), (*arguments, *sizes))
    return y, parts


def _dx(dy, w, x_shape, stride, padding, dilation, groups):
    dx = cupy().empty(x_shape, dy.dtype)
    n, height, width, channels = x_shape
    wide = _columns(channels // groups)
    pixels = n * -(-height // stride[0]) * -(-width // stride[1])  # of the largest class
    grid = -(-pixels // _ROWS), -(-(channels // groups) // wide), groups * stride[0] * stride[1]
    sizes = _sizes(x_shape, dy.shape, w.shape[:2], stride, padding, dilation, groups)
    kernel(f"conv_dx_{wide}", _precision())(grid, (_THREADS,), (contiguous(dy), contiguous(w), dx, *sizes))
    return dx


def _dw(dy, x, w_shape, stride, padding, dilation, groups):
    depth, out = w_shape[0] * w_shape[1] * w_shape[2], w_shape[3]
    wide = _columns(out // groups)
    tiles = -(-depth // _FILTER_ROWS), -(-(out // groups) // wide)
    windows = dy.size // out
    parts = min(_MOST_PARTS, -(-_WANTED // (tiles[0] * tiles[1] * groups)), -(-windows // _LEAST_WINDOWS))
    per_part = -(-windows // parts)
    parts = -(-windows // per_part)
    dw = cupy().empty((parts, depth * out), dy.dtype)
    sizes = _sizes(x.shape, dy.shape, w_shape[:2], stride, padding, dilation, groups)
    arguments = contiguous(dy), contiguous(x), dw, np.int32(per_part)
    kernel(f"conv_dw_{wide}", _precision())((*tiles, groups * parts), (_THREADS,), (*arguments, *sizes))
    return (sum_rows(dw) if parts > 1 else dw).reshape(w_shape)


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
    "linear_cross_entropy",
    "linear_cross_entropy_backward",
    "matmul",
    "max_pool2d",
    "max_pool2d_dx",
    "moments",
    "relu",
    "relu_dx",
    "sgd",
    "suits_linear_cross_entropy",
]
