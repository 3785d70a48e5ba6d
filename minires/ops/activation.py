"""Activations, softmax and dropout."""

from __future__ import annotations

import numpy as np

from .. import kernels
from ..backend import array_module
from ..tensor import Function
from .broadcast import floating, one_axis


class ReLU(Function, operator="relu"):
    """y = max(x, 0).

    Keeps y rather than x: the layer above keeps y anyway, so it costs no memory.  The derivative at 0 is taken as 0.
    """

    @staticmethod
    def forward(ctx, x):
        y = kernels.active(x).relu(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return kernels.active(dy).relu_dx(dy, y)


class Tanh(Function, operator="tanh"):
    """y = tanh(x), so dx = dy (1 - y^2)."""

    @staticmethod
    def forward(ctx, x):
        x = floating(x)
        y = np.tanh(x if x.ndim else x[()])  # of a number itself in half the time
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return dy * (1 - y * y)


class Sigmoid(Function, operator="sigmoid"):
    """y = 1 / (1 + e^-x), so dx = dy y (1 - y).  Computed from e^-|x|, which cannot overflow."""

    @staticmethod
    def forward(ctx, x):
        xp = array_module(x)
        x = floating(x)
        small = xp.exp(-abs(x))
        y = xp.where(x >= 0, 1 / (1 + small), small / (1 + small))
        y = y.astype(x.dtype, copy=False)  # of 0-d arrays NumPy 1 makes float64
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return dy * (y * (1 - y))


class Softmax(Function, operator="softmax"):
    """y = e^x / sum(e^x) over an axis, so dx = y (dy - sum(y dy)).  The largest x is subtracted first: no overflow."""

    @staticmethod
    def forward(ctx, x, *, axis):
        xp = array_module(x)
        x, axis = floating(x), one_axis(axis, x.ndim)
        e = xp.exp(_shifted(x, axis))
        y = e / e.sum(axis, keepdims=True)
        ctx.axis = axis
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return y * (dy - (y * dy).sum(ctx.axis, keepdims=True))


class LogSoftmax(Function, operator="log_softmax"):
    """y = x - log(sum(e^x)) over an axis, so dx = dy - e^y sum(dy)."""

    @staticmethod
    def forward(ctx, x, *, axis):
        xp = array_module(x)
        x, axis = floating(x), one_axis(axis, x.ndim)
        shifted = _shifted(x, axis)
        y = shifted - xp.log(xp.exp(shifted).sum(axis, keepdims=True))
        ctx.axis = axis
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return dy - array_module(y).exp(y) * dy.sum(ctx.axis, keepdims=True)


def _shifted(x, axis):
    """x minus its largest along the axis: the same softmax, and exp() cannot overflow."""
    return x - x.max(axis, keepdims=True) if x.shape[axis] else x


class Dropout(Function, operator="dropout"):
    """y = x * mask / (1 - p), where mask is 0 with probability p: the expected value stays x."""

    @staticmethod
    def forward(ctx, x, *, p, generator):
        xp = array_module(x)
        kept = xp.asarray(generator.random(x.shape, "float32") >= p)
        ctx.scale = 1 / (1 - p)
        ctx.save_for_backward(kept)
        return x * kept * ctx.scale

    @staticmethod
    def backward(ctx, dy):
        (kept,) = ctx.saved
        return dy * kept * ctx.scale
