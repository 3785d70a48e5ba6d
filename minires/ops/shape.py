"""Operations that move elements without changing them.  Their derivatives move the gradients back."""

from __future__ import annotations

from math import prod

from ..backend import array_module, device_of, on_gpu, to_device
from ..errors import ArgumentError, ShapeError
from ..tensor import Function
from .broadcast import one_axis, unbroadcast


class Reshape(Function, operator="reshape"):
    """The same elements, in the same (C) order, in another shape.

    The shape may be given as an option, or as an input without a gradient: 0.2 us less, a fifth of the whole.
    """

    @staticmethod
    def forward(ctx, x, shape):
        ctx.shape = x.shape
        try:
            return x.reshape(shape)
        except ValueError:
            raise ShapeError(f"reshape: {x.size} elements of shape {x.shape} do not fill the shape {shape}.") from None

    @staticmethod
    def backward(ctx, dy):
        return (dy.reshape(ctx.shape), None)[: len(ctx.needs_input_grad)]


class Transpose(Function, operator="transpose"):
    """Axes in another order; the gradient goes through the inverse order."""

    @staticmethod
    def forward(ctx, x, *, axes):
        ctx.axes = tuple(range(x.ndim))[::-1] if axes is None else tuple(a + x.ndim if a < 0 else a for a in axes)
        if sorted(ctx.axes) != list(range(x.ndim)):
            raise ShapeError(f"transpose: {axes} is not an order of the {x.ndim} axes of a tensor of shape {x.shape}.")
        return x.transpose(ctx.axes)

    @staticmethod
    def backward(ctx, dy):
        inverse = [0] * len(ctx.axes)
        for to, source in enumerate(ctx.axes):
            inverse[source] = to
        return dy.transpose(inverse)


class GetItem(Function, operator="getitem"):
    """y = x[index], with NumPy's indices: slices, integers, None, ..., integer and boolean arrays.

    An integer array may name an element several times; its gradient is then the sum over them.
    """

    @staticmethod
    def forward(ctx, x, *, index):
        ctx.index = tuple([_owned(part, x) for part in (index if isinstance(index, tuple) else (index,))])
        ctx.shape = x.shape
        return x[ctx.index]

    @staticmethod
    def backward(ctx, dy):
        xp = array_module(dy)
        repeated = any(_may_repeat(part) for part in ctx.index)
        if repeated and on_gpu(dy):
            return _summed_at(ctx.shape, ctx.index, dy)
        dx = xp.zeros(ctx.shape, dy.dtype)
        if repeated:
            xp.add.at(dx, ctx.index, dy)
        else:
            dx[ctx.index] = dy
        return dx


def _owned(part, x):
    """One part of an index, which the caller's list or array may no longer be when the gradient comes."""
    if hasattr(part, "copy"):
        return part.copy()
    is_sequence = hasattr(part, "__len__") and getattr(part, "ndim", 1)  # a range, say, or an array of another library
    return array_module(x).array(part) if is_sequence and not isinstance(part, tuple) else part


def _may_repeat(part):
    """Whether an index can name the same element twice: lists and integer arrays can, slices and masks cannot."""
    return isinstance(part, list | tuple) or (getattr(part, "ndim", 0) > 0 and part.dtype.kind != "b")


def _summed_at(shape, index, dy):
    """Zeros with dy added at the index, in an order that is always the same: a GPU's ``add.at`` is not bit-equal twice.

    The numbers are sorted by where they go.  Then, in round k, each takes in the sum of the 2^k numbers from 2^k places
    on, if they go where it goes: in the end the first of those that go to one place has the sum of all of them.
    """
    xp, size = array_module(dy), prod(shape)
    place = xp.arange(size).reshape(shape)[index].reshape(-1)
    count = place.size
    order = xp.argsort(place * count + xp.arange(count))
    place, sums = place[order], dy.reshape(-1)[order]
    zero, step = dy.dtype.type(0), 1
    while step < count:
        taken = xp.where(place[step:] == place[:-step], sums[step:], zero)
        sums = xp.concatenate((sums[:-step] + taken, sums[-step:]))
        step *= 2
    other = xp.concatenate((xp.zeros(min(1, count), bool), place[1:] == place[:-1]))
    dx = xp.zeros(size + 1, dy.dtype)
    dx[xp.where(other, size, place)] = sums  # all but the first to one place beyond the end
    return dx[:-1].reshape(shape)


class To(Function, operator="to"):
    """The same elements on another device; the gradient is copied back."""

    changes_device = True

    @staticmethod
    def forward(ctx, x, *, device):
        ctx.device = device_of(x)
        return to_device(x, device)

    @staticmethod
    def backward(ctx, dy):
        return to_device(dy, ctx.device)


class BroadcastTo(Function, operator="broadcast_to"):
    """Repeat along new axes and axes of length 1, without copying."""

    @staticmethod
    def forward(ctx, x, *, shape):
        ctx.shape = x.shape
        try:
            return array_module(x).broadcast_to(x, shape)
        except ValueError:
            raise ShapeError(
                f"broadcast_to: {x.shape} does not broadcast to {shape}: aligned from the right, each length must be "
                "equal or 1."
            ) from None

    @staticmethod
    def backward(ctx, dy):
        return unbroadcast(dy, ctx.shape)


class Concatenate(Function, operator="concatenate"):
    """Tensors end to end along an axis; each gets its part of the gradient."""

    @staticmethod
    def forward(ctx, *arrays, axis):
        shapes = [a.shape for a in arrays]
        ctx.axis = one_axis(axis, arrays[0].ndim)
        trimmed = {s[: ctx.axis] + s[ctx.axis + 1 :] for s in shapes}
        if len({len(s) for s in shapes}) > 1 or len(trimmed) > 1:
            raise ShapeError(f"concatenate: the shapes {shapes} differ outside axis {axis}.")
        ctx.lengths = [s[ctx.axis] for s in shapes]
        return array_module(*arrays).concatenate(arrays, ctx.axis)

    @staticmethod
    def backward(ctx, dy):
        grads, start = [], 0
        for length in ctx.lengths:
            grads.append(dy[(slice(None),) * ctx.axis + (slice(start, start + length),)])
            start += length
        return tuple(grads)


class Stack(Function, operator="stack"):
    """Tensors of one shape along a new axis."""

    @staticmethod
    def forward(ctx, *arrays, axis):
        if len({a.shape for a in arrays}) > 1:
            raise ShapeError(f"stack: all shapes must be equal, got {[a.shape for a in arrays]}.")
        ctx.axis = one_axis(axis, arrays[0].ndim + 1)
        return array_module(*arrays).stack(arrays, ctx.axis)

    @staticmethod
    def backward(ctx, dy):
        return tuple(array_module(dy).moveaxis(dy, ctx.axis, 0))


class Pad(Function, operator="pad"):
    """A constant border; the gradient is cropped back."""

    @staticmethod
    def forward(ctx, x, *, widths, value):
        if len(widths) != x.ndim or any(before < 0 or after < 0 for before, after in widths):
            raise ArgumentError(
                f"pad: expected a pair (before, after), neither negative, for each of the {x.ndim} axes, got {widths}."
            )
        ctx.inside = tuple(slice(before, before + length) for (before, _), length in zip(widths, x.shape, strict=True))
        return array_module(x).pad(x, widths, constant_values=value)

    @staticmethod
    def backward(ctx, dy):
        return dy[ctx.inside]
