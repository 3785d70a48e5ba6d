"""What broadcasting does to gradients."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from .. import kernels
from ..backend import Array, array_module, gpu, on_gpu
from ..errors import ArgumentError

_LARGE = 1 << 12  # numbers, from which on several passes take less time than `where`


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient back to the shape that an operand had before it was broadcast.

    An element used k times receives the sum of k gradients: broadcasting copies, and the adjoint of a copy is a sum.
    """
    if grad.shape == shape:
        return grad
    if not shape and not gpu.used:
        return np.asarray(np.add.reduce(grad, None))  # 0.4 us less than over all axes one by one
    added = grad.ndim - len(shape)
    stretched = tuple(i + added for i, length in enumerate(shape) if length == 1 and grad.shape[i + added] != 1)
    axes = tuple(range(added)) + stretched
    if gpu.used and axes == tuple(range(grad.ndim - 1)):
        return channel_sum(grad).reshape(shape)
    return grad.sum(axis=axes).reshape(shape)


def selected(grad: Array, mask: Any) -> Array:
    """The gradient where the mask holds and 0 elsewhere, also where it is infinite or NaN: 0 times these is NaN.

    Of large arrays all bits of a number are kept, or none: `where` takes twenty times as long.
    """
    size = grad.dtype.itemsize
    if grad.size < _LARGE or size > 8 or (gpu.used and on_gpu(grad)):
        return array_module(grad).where(mask, grad, grad.dtype.type(0))
    bits = np.broadcast_to(mask, grad.shape).astype(f"i{size}")
    np.negative(bits, out=bits)  # 1 becomes -1, which is all ones
    bits &= grad.view(bits.dtype)
    return bits.view(grad.dtype)


def channel_sum(x: Array) -> Array:
    """The sum over all axes but the last: (..., C) -> (C,).

    On a GPU by a kernel in two stages: CuPy gives such a sum a block for each few channels, and most of the card idles.
    """
    if gpu.used and on_gpu(x) and x.dtype.kind == "f" and x.dtype.itemsize >= 4 and x.size:
        return kernels.active(x).channel_sum(array_module(x).ascontiguousarray(x))
    return x.sum(tuple(range(x.ndim - 1)))


def spread(grad: Array, shape: tuple[int, ...]) -> Array:
    """A gradient repeated up to ``shape``: the adjoint of a sum is a copy.

    Up to 16 kB of float32 a real copy, which takes 0.3 us where a view takes 2; of more a view, which takes no memory.
    """
    xp = array_module(grad)
    if prod(shape) > 4096:
        return xp.broadcast_to(grad, shape)
    copies = xp.empty(shape, grad.dtype)
    copies[...] = grad
    return copies


def normalise_axes(axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """``axis`` as a sorted tuple of non-negative axes; None means all of them."""
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    for a in axes:
        if not -ndim <= a < ndim:
            raise ArgumentError(f"axis {a} does not exist in an array of {ndim} axes: use {-ndim} to {ndim - 1}.")
    unique = sorted({a % ndim for a in axes})
    if len(unique) != len(axes):
        raise ArgumentError(f"axis {axis} names the same axis twice.")
    return tuple(unique)


def one_axis(axis: int, ndim: int) -> int:
    """``axis`` as one non-negative axis."""
    if isinstance(axis, tuple | list) or axis is None:
        raise ArgumentError(f"expected one axis, an integer from {-ndim} to {ndim - 1}, got {axis!r}.")
    return normalise_axes(axis, ndim)[0]


def floating(x: Array) -> Array:
    """Integers and booleans as float32, the default; floating point as it is."""
    return x if x.dtype.kind == "f" else x.astype(array_module(x).float32)
