"""Batch norm on a GPU in one pass each way over what it has to read; float32, channels in fours."""

from __future__ import annotations

from functools import cache
from math import gcd
from typing import Any

import numpy as np

from ...backend import cupy
from . import plain
from .module import NULL, kernel
from .plain import contiguous

_BLOCK = 256
_BLOCKS = 132 * 8  # of a kernel that goes through an array: several for each processor of the largest cards
_PARTS = 264  # of the pixels, for the sums of the backward pass
_QUADS = 32  # of channels, in one block of it


def applies(x: Any) -> bool:
    """Whether the kernels take it."""
    return x.dtype == np.float32 and x.size > 0 and x.shape[-1] % 4 == 0


def join_moments(parts, per_block: int, pixels: int, running):
    """The mean and variance of each channel from those of parts, (blocks, 2, C); ``running`` as in the reference."""
    xp, channels = cupy(), parts.shape[2]
    mean, var = xp.empty(channels, parts.dtype), xp.empty(channels, parts.dtype)
    running_mean, running_var, momentum = running or (NULL, NULL, 0)
    kernel("join_moments")(
        (-(-channels // 16),), (512,),
        (parts, np.int32(len(parts)), np.int32(per_block), np.int32(pixels), np.int32(channels), mean, var,
         running_mean, running_var, np.float32(momentum)),
    )  # fmt: skip
    return mean, var


def batch_norm(x, gamma, beta, mean, var, eps, residual=None, relu=False):
    """x (..., C) -> gamma (x - mean) / std + beta, plus ``residual`` of the same shape if given, then ReLU if asked."""
    if not applies(x):
        return plain.batch_norm(x, gamma, beta, mean, var, eps, residual, relu)
    y = cupy().empty(x.shape, x.dtype)
    residual = NULL if residual is None else contiguous(residual)
    quads, per_pixel = x.size // 4, x.shape[-1] // 4
    kernel("batch_norm")(
        _grid(quads, per_pixel), (_BLOCK,),
        (contiguous(x), *map(contiguous, (gamma, beta, mean, var)), np.float32(eps), residual, np.int32(relu), y,
         np.int64(quads), np.int32(per_pixel)),
    )  # fmt: skip
    return y


def batch_norm_backward(dy, y, x, gamma, mean, var, eps, keep_g: bool = True):
    """dx, dgamma, dbeta, and the gradient of the residual, which is None if it is not kept.  See ``plain``."""
    if not applies(x):
        return plain.batch_norm_backward(dy, y, x, gamma, mean, var, eps)
    xp, channels = cupy(), x.shape[-1]
    pixels = x.size // channels
    dy, x, mask = contiguous(dy), contiguous(x), NULL if y is None else contiguous(y)
    gamma, mean, var, eps = contiguous(gamma), contiguous(mean), contiguous(var), np.float32(eps)
    per_block = max(1, -(-pixels // _PARTS))
    parts = xp.empty((-(-pixels // per_block), 2, channels), x.dtype)
    sums, dgamma, dbeta = xp.empty((2, channels), x.dtype), xp.empty(channels, x.dtype), xp.empty(channels, x.dtype)
    across = -(-channels // (4 * _QUADS))
    kernel("batch_norm_sums")(
        (across, len(parts)), (_BLOCK,),
        (dy, mask, x, mean, var, eps, np.int32(pixels), np.int32(channels), np.int32(per_block), parts, sums, dgamma,
         dbeta, _counters(across)),
    )  # fmt: skip
    dx = xp.empty(x.shape, x.dtype)
    g = dy if y is None else xp.empty(x.shape, x.dtype) if keep_g else None
    quads = x.size // 4
    kernel("batch_norm_dx")(
        _grid(quads, channels // 4), (_BLOCK,),
        (dy, mask, x, gamma, mean, var, eps, sums, np.int32(pixels), np.int32(channels), dx,
         NULL if g is None or y is None else g, np.int64(quads)),
    )  # fmt: skip
    return dx, dgamma, dbeta, g


def _grid(quads: int, per_pixel: int) -> tuple[int]:
    """Blocks whose threads, in steps of the grid, stay with their channels."""
    step = per_pixel // gcd(per_pixel, _BLOCK)
    wanted = min(_BLOCKS, -(-quads // _BLOCK))
    return (-(-wanted // step) * step,)


@cache
def _counters(least: int) -> Any:
    """As many zeros, which every kernel leaves as zeros."""
    return cupy().zeros(least, np.int32)
