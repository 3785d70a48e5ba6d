"""Everything but convolution and pooling in the array module's own operations: the GPU set that is to be read."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import array_module, cupy
from ..reference.descent import sgd
from ..reference.norm import update_running
from .module import each, kernel, typed

_ROWS = 256  # added up by one block, in the first of two stages


def relu(x):
    """max(x, 0); a NaN stays a NaN."""
    return array_module(x).maximum(x, 0)


def relu_dx(dy, y):
    """dy times the derivative, 1 where the output was positive and 0 elsewhere: an infinite dy is not hidden by a 0."""
    dy, y = contiguous(dy), contiguous(y)
    dx = cupy().empty(y.shape, y.dtype)
    each(typed("relu_dx", y), y.size, dy, y, dx, np.int64(y.size))
    return dx


def add(a, b):
    """a + b, of one shape."""
    return a + b


def contiguous(x: Any) -> Any:
    """The array itself, or a contiguous copy: kernels do not look at strides."""
    return x if x.flags.c_contiguous else x.copy(order="C")


def channel_sum(x):
    """The sum over all axes but the last, in two stages: each a kernel whose blocks add up parts, in a fixed order."""
    rows, columns = x.size // max(1, x.shape[-1]), x.shape[-1]
    return sum_rows(contiguous(x).reshape(rows, columns))


def sum_rows(x):
    """x (rows, columns) -> (columns,)."""
    while True:
        rows, columns = x.shape
        parts = max(1, -(-rows // _ROWS))
        out = cupy().empty((parts, columns), x.dtype)
        if columns:
            arguments = (x, out, np.int64(rows), np.int32(columns), np.int64(_ROWS))
            kernel(typed("sum_rows", x))((parts * -(-columns // 32),), (256,), arguments)
        if parts == 1:
            return out[0]
        x = out


def moments(x, running=None):
    """x (..., C) -> the mean and the biased variance (C,) over all other axes; ``running`` as in the reference."""
    count = x.size // max(1, x.shape[-1])
    mean = channel_sum(x) / count
    centred = x - mean
    var = channel_sum(centred * centred) / count
    update_running(running, mean, var, count)
    return mean, var


def batch_norm(x, gamma, beta, mean, var, eps, residual=None, relu=False):
    """x (..., C) -> gamma (x - mean) / std + beta, plus ``residual`` of the same shape if given, then ReLU if asked."""
    xp = array_module(x)
    y = (x - mean) * (gamma / xp.sqrt(var + x.dtype.type(eps))) + beta
    if residual is not None:
        y = y + residual
    return xp.maximum(y, 0) if relu else y


def batch_norm_backward(dy, y, x, gamma, mean, var, eps):
    """dx, dgamma, dbeta and the gradient of the residual, with g = dy (y > 0), or dy where no ReLU followed (y None).

    dx = gamma / std (g - mean(g) - xhat mean(g xhat)).
    """
    g = dy if y is None else relu_dx(dy, y)
    count = x.size // x.shape[-1]
    std = array_module(x).sqrt(var + x.dtype.type(eps))
    xhat = (x - mean) / std
    dbeta, dgamma = channel_sum(g), channel_sum(g * xhat)
    dx = (gamma / std) * (g - dbeta / count - xhat * (dgamma / count))
    return dx, dgamma, dbeta, g


def cross_entropy(logits, labels, label_smoothing):
    """logits (N, K), labels (N,) -> losses (N,) and the probabilities (N, K).

    A label that is none of 0 to K - 1 makes its loss NaN: to look at the labels would stop the device.
    """
    xp = cupy()
    n, classes = logits.shape
    losses, probabilities = xp.empty(n, logits.dtype), xp.empty((n, classes), logits.dtype)
    smoothing, sizes = logits.dtype.type(label_smoothing), (np.int32(n), np.int32(classes))
    arguments = (contiguous(logits), whole(labels), smoothing, losses, probabilities, *sizes)
    kernel(typed("cross_entropy", logits))((-(-n // 4),), (128,), arguments)
    return losses, probabilities


def cross_entropy_dx(dlosses, probabilities, labels, label_smoothing):
    """(softmax - target) dloss, for each example."""
    dx = cupy().empty(probabilities.shape, probabilities.dtype)
    smoothing, sizes = probabilities.dtype.type(label_smoothing), (np.int32(n) for n in probabilities.shape)
    name = typed("cross_entropy_dx", probabilities)
    each(name, dx.size, contiguous(dlosses), contiguous(probabilities), whole(labels), smoothing, dx, *sizes)
    return dx


def whole(labels: Any) -> Any:
    """Labels as the kernels take them."""
    return contiguous(labels.astype("int64", copy=False))


__all__ = [
    "add",
    "batch_norm",
    "batch_norm_backward",
    "channel_sum",
    "contiguous",
    "cross_entropy",
    "cross_entropy_dx",
    "moments",
    "relu",
    "relu_dx",
    "sgd",
    "sum_rows",
    "whole",
]
