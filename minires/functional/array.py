"""Functions of whole tensors that are not methods, and the methods again as functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import array_module
from ..errors import ArgumentError, ShapeError
from ..ops.arithmetic import Maximum, Minimum, Where
from ..ops.shape import BroadcastTo, Concatenate, Pad, Stack
from ..tensor import Tensor, as_tensor
from ..tensor.operators import operands
from .checks import class_numbers


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """``a`` where the condition holds and ``b`` elsewhere, all three broadcast together.

    Args:
        condition: booleans, a Tensor or an array.
        a, b: tensors, arrays or numbers; at least one a Tensor.
    """
    condition = as_tensor(condition).data
    if condition.dtype.kind != "b":
        raise ArgumentError(f"where: the condition must be boolean, got {condition.dtype}. Write x != 0, for example.")
    return Where.apply(*_operands(a, b, "where"), condition=condition)


def maximum(a: Any, b: Any) -> Tensor:
    """The larger of each two elements; where they are equal the gradient goes to ``a``."""
    return Maximum.apply(*_operands(a, b, "maximum"))


def minimum(a: Any, b: Any) -> Tensor:
    """The smaller of each two elements; where they are equal the gradient goes to ``a``."""
    return Minimum.apply(*_operands(a, b, "minimum"))


def _operands(a: Any, b: Any, caller: str) -> tuple[Any, Any]:
    return operands(a if isinstance(a, Tensor) or isinstance(b, Tensor) else Tensor(a), b, caller)


def concatenate(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors end to end along an existing axis; their other lengths must be equal."""
    return Concatenate.apply(*_several(tensors, "concatenate"), axis=axis)


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new axis."""
    return Stack.apply(*_several(tensors, "stack"), axis=axis)


def _several(tensors: Sequence[Any], caller: str) -> list[Tensor]:
    """The tensors in one dtype, as for operators: floating over integer, a plain array as the tensors beside it."""
    given = list(tensors)
    if not given:
        raise ShapeError(f"{caller}: expected at least one tensor, got none.")
    several = [as_tensor(t) for t in given]
    floating = [t.dtype for t in given if isinstance(t, Tensor) and t.dtype.kind == "f"]
    floating = floating or [t.dtype for t in several if t.dtype.kind == "f"]
    return [t.astype(np.result_type(*floating)) for t in several] if floating else several


def pad(x: Any, widths: int | Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """A border of ``value``: ``widths`` is one width for every side, or a pair (before, after) for each axis."""
    x = as_tensor(x)
    pairs = (
        ((widths, widths),) * x.ndim
        if isinstance(widths, int | np.integer)
        else tuple((int(b), int(a)) for b, a in widths)
    )
    return Pad.apply(x, widths=pairs, value=value)


def broadcast_to(x: Any, shape: Sequence[int]) -> Tensor:
    """x repeated along new axes, and along those of length 1, up to ``shape``; no copy is made."""
    return BroadcastTo.apply(as_tensor(x), shape=tuple(shape))


def one_hot(labels: Any, classes: int, dtype: Any = "float32") -> Tensor:
    """labels (...) of integers -> (..., classes), 1 at the label and 0 elsewhere.

    A label outside 0 to ``classes - 1`` raises an ArgumentError; on a GPU it gives a row of zeros, see `cross_entropy`.
    """
    labels = as_tensor(labels).data
    class_numbers(labels, classes, "one_hot")
    return Tensor((labels[..., None] == array_module(labels).arange(classes)).astype(dtype))


def exp(x: Any) -> Tensor:
    """e to the power of each element."""
    return as_tensor(x).exp()


def log(x: Any) -> Tensor:
    """The natural logarithm of each element."""
    return as_tensor(x).log()


def sqrt(x: Any) -> Tensor:
    """The square root of each element."""
    return as_tensor(x).sqrt()


def tanh(x: Any) -> Tensor:
    """The hyperbolic tangent of each element."""
    return as_tensor(x).tanh()


def sigmoid(x: Any) -> Tensor:
    """1 / (1 + exp(-x)), without overflow."""
    return as_tensor(x).sigmoid()


def relu(x: Any) -> Tensor:
    """max(x, 0); the derivative at 0 is taken as 0."""
    return as_tensor(x).relu()


def softmax(x: Any, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) over ``axis``, without overflow."""
    return as_tensor(x).softmax(axis)


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """log(softmax(x)) over ``axis``, without overflow."""
    return as_tensor(x).log_softmax(axis)


def flatten(x: Any, start_axis: int = 1) -> Tensor:
    """All axes from ``start_axis`` on made one; the default keeps the batch."""
    return as_tensor(x).flatten(start_axis)
