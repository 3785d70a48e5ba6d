"""Reductions over any axes.  The gradient of a reduction is spread back over what was reduced."""

from __future__ import annotations

from math import prod

from ..backend import array_module, gpu, on_gpu
from ..errors import ShapeError
from ..tensor import Function
from .broadcast import channel_sum, floating, normalise_axes, spread


def _expanded(array, axes):
    """Put axes of length 1 back where they were reduced away."""
    shape = list(array.shape)
    for a in axes:
        shape.insert(a, 1)
    return array.reshape(shape)


def _sum(x, axes, keepdims):
    """The sum over these axes, one after the other where the last axis stays.

    All at once NumPy adds a pixel's channels at a time; the first of several axes is added in rows of pixels, and the
    others of what is left: 0.24 ms against 1.9 over the pixels of (128, 32, 32, 16).  On a GPU each would be a launch.
    """
    if gpu.used and on_gpu(x):
        if not axes or axes != tuple(range(x.ndim - 1)):
            return x.sum(axes, keepdims=keepdims)
        return channel_sum(x).reshape((1,) * len(axes) + x.shape[-1:] if keepdims else x.shape[-1:])
    if not axes or axes[-1] == x.ndim - 1:
        return x.sum(axes, keepdims=keepdims)
    for a in axes:
        x = x.sum(a, keepdims=True)
    return x if keepdims else x.squeeze(axes)


def _spread(dy, ctx):
    """Give every element that was reduced the gradient of what it was reduced to."""
    return spread(_expanded(dy, ctx.expand) if dy.ndim else dy, ctx.shape)


class Sum(Function, operator="sum"):
    """y = sum of x; every element receives dy."""

    @staticmethod
    def forward(ctx, x, *, axis, keepdims):
        ctx.axes, ctx.shape = normalise_axes(axis, x.ndim), x.shape
        ctx.expand = () if keepdims else ctx.axes
        return _sum(x, ctx.axes, keepdims)

    @staticmethod
    def backward(ctx, dy):
        return _spread(dy, ctx)


class Mean(Function, operator="mean"):
    """y = sum of x / n; every element receives dy / n."""

    @staticmethod
    def forward(ctx, x, *, axis, keepdims):
        ctx.axes, ctx.shape = normalise_axes(axis, x.ndim), x.shape
        ctx.expand = () if keepdims else ctx.axes
        ctx.count = _count("mean", x, ctx.axes)
        x = floating(x)
        if x.dtype.itemsize < 4 or (gpu.used and on_gpu(x) and ctx.axes != tuple(range(x.ndim - 1))):
            return x.mean(ctx.axes, keepdims=keepdims)  # which sums float16 in float32, and is one launch
        return _sum(x, ctx.axes, keepdims) / x.dtype.type(ctx.count)

    @staticmethod
    def backward(ctx, dy):
        return _spread(dy * dy.dtype.type(1 / ctx.count), ctx)


class Var(Function, operator="var"):
    """y = sum of (x - mean)^2 / (n - ddof), so dx = dy * 2 (x - mean) / (n - ddof).

    The mean depends on x too, but that term vanishes: the deviations from a mean sum to zero.
    """

    @staticmethod
    def forward(ctx, x, *, axis, keepdims, ddof):
        x = floating(x)
        ctx.axes, ctx.shape = normalise_axes(axis, x.ndim), x.shape
        ctx.expand = () if keepdims else ctx.axes
        ctx.count = _count("var", x, ctx.axes) - ddof
        if ctx.count <= 0:
            raise ShapeError(f"var: {ctx.count + ddof} elements leave nothing to divide by with ddof={ddof}.")
        ctx.save_for_backward(x)
        return x.var(ctx.axes, keepdims=keepdims, ddof=ddof)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        return _expanded(dy, ctx.expand) * ((x - x.mean(ctx.axes, keepdims=True)) * (2 / ctx.count))


class Max(Function, operator="max"):
    """y = max of x.  The gradient goes to the first of equal elements, in C order."""

    @staticmethod
    def forward(ctx, x, *, axis, keepdims):
        return _extremum(ctx, x, axis, keepdims, "max")

    @staticmethod
    def backward(ctx, dy):
        return _to_the_chosen(ctx, dy)


class Min(Function, operator="min"):
    """y = min of x.  The gradient goes to the first of equal elements, in C order."""

    @staticmethod
    def forward(ctx, x, *, axis, keepdims):
        return _extremum(ctx, x, axis, keepdims, "min")

    @staticmethod
    def backward(ctx, dy):
        return _to_the_chosen(ctx, dy)


def _extremum(ctx, x, axis, keepdims, name):
    xp = array_module(x)
    ctx.axes, ctx.shape = normalise_axes(axis, x.ndim), x.shape
    count = _count(name, x, ctx.axes)
    kept = [a for a in range(x.ndim) if a not in ctx.axes]
    ctx.order = kept + list(ctx.axes)
    rows = x.transpose(ctx.order).reshape([x.shape[a] for a in kept] + [count])  # what is reduced, as one last axis
    chosen = rows.argmax(-1) if name == "max" else rows.argmin(-1)
    ctx.save_for_backward(chosen)
    y = xp.take_along_axis(rows, chosen[..., None], -1)[..., 0]
    return _expanded(y, ctx.axes) if keepdims else y


def _to_the_chosen(ctx, dy):
    (chosen,) = ctx.saved
    xp = array_module(dy)
    ordered = [ctx.shape[a] for a in ctx.order]
    count, dy = prod(ctx.shape[a] for a in ctx.axes), dy.reshape(chosen.shape)[..., None]
    if on_gpu(dy):  # in one pass, and without an index array for each axis
        rows = xp.where(xp.arange(count) == chosen[..., None], dy, dy.dtype.type(0))
    else:
        rows = xp.zeros((*chosen.shape, count), dy.dtype)
        xp.put_along_axis(rows, chosen[..., None], dy, -1)
    inverse = sorted(range(len(ctx.order)), key=ctx.order.__getitem__)
    return rows.reshape(ordered).transpose(inverse)


def _count(name, x, axes):
    """How many elements are reduced to one; at least one, or there is no mean and no maximum."""
    count = prod(x.shape[a] for a in axes)
    if not count:
        raise ShapeError(f"{name}: there are no elements to reduce over axes {axes} of a tensor of shape {x.shape}.")
    return count
