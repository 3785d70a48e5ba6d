"""Operations on each element, and the operators of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import memory
from .array import NUMBERS, ndarray, wrap, writable
from .indexing import resolve
from .launches import change, compute, count


class UFunc:
    """An operation on each element."""

    def __init__(self, ufunc: np.ufunc) -> None:
        self.ufunc, self.__name__ = ufunc, ufunc.__name__

    def __repr__(self) -> str:
        return f"<ufunc 'cupy_{self.__name__}'>"

    def __call__(self, *inputs: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> ndarray:
        """One launch; ``out`` and the inputs are device arrays, numbers are welcome beside them."""
        ufunc = self.ufunc
        if len(inputs) == ufunc.nin + 1 and out is None:
            *inputs, out = inputs  # type: ignore[assignment]
        views = [operand(x) for x in inputs]
        reads = [x._memory for x in inputs if type(x) is ndarray]
        options = {} if dtype is None else {"dtype": dtype}
        if out is None:
            return wrap(*compute(self.__name__, lambda: ufunc(*views, order="C", **options), *reads))
        if type(out) is not ndarray:
            raise TypeError(f"return arrays must be of cupy.ndarray, not {type(out)}")
        target = writable(out)
        shape = np.broadcast_shapes(target.shape, *(getattr(v, "shape", ()) for v in views))
        if shape != target.shape:
            raise ValueError(f"non-broadcastable output operand with shape {target.shape} for {shape}")
        for view in views:  # CuPy copies an input that overlaps the output without being it
            if isinstance(view, np.ndarray) and view is not target and np.may_share_memory(view, target):
                same = view.__array_interface__["data"][0] == target.__array_interface__["data"][0]
                if not (same and view.strides == target.strides):
                    count("launches", "copy")
        change(self.__name__, lambda: ufunc(*views, out=target, casting=casting, **options), out._memory, *reads)
        return out

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        """Elements that are named twice are changed twice; with floats in no fixed order, so they are refused."""
        if a.dtype.kind == "f" and self.__name__ in ("add", "subtract", "multiply", "divide"):
            raise TypeError(
                f"cupy.{self.__name__}.at adds floats with atomics, in another order each time: two runs would differ "
                "by rounding. Gather instead, in a fixed order."
            )
        target, ufunc, index = writable(a), self.ufunc, resolve(indices)
        value = (operand(b),) if b is not None else ()
        reads = [b._memory] if isinstance(b, ndarray) else []
        change(f"{self.__name__}.at", lambda: ufunc.at(target, index, *value), a._memory, *reads)

    def reduce(self, array: ndarray, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        """One launch over any axes."""
        values, ufunc = operand(array), self.ufunc
        function = lambda: np.asarray(ufunc.reduce(values, axis, dtype, keepdims=keepdims))
        return deliver(f"{self.__name__}.reduce", function, out, array._memory)


def operand(x: Any) -> Any:
    """What NumPy computes with in place of this operand; a host array is none."""
    if type(x) is ndarray:
        return x._array
    if isinstance(x, NUMBERS):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def deliver(name: str, function: Any, out: ndarray | None, *reads: memory.Memory) -> ndarray:
    """The result of one launch, new or in ``out``."""
    if out is None:
        return wrap(*compute(name, function, *reads))
    target = writable(out)
    change(name, lambda: np.copyto(target, function(), "same_kind"), out._memory, *reads)
    return out


def _binary(name: str, ufunc: np.ufunc) -> None:
    operation = UFunc(ufunc)

    def operator(x: ndarray, y: Any) -> Any:
        if type(y) is ndarray or isinstance(y, NUMBERS):
            return operation(x, y)
        if getattr(y, "__array_ufunc__", ufunc) is None:
            return NotImplemented
        return ufunc(x, y)  # whoever y is, its own __array_ufunc__ is asked too

    def reflected(y: ndarray, x: Any) -> Any:
        return operation(x, y) if isinstance(x, NUMBERS) else ufunc(x, y)

    def in_place(x: ndarray, y: Any) -> Any:
        return operation(x, y, out=x)

    setattr(ndarray, f"__{name}__", operator)
    if ufunc not in (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal):
        setattr(ndarray, f"__r{name}__", reflected)
        setattr(ndarray, f"__i{name}__", in_place)


for _name, _ufunc in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "pow": np.power, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "lshift": np.left_shift, "rshift": np.right_shift, "eq": np.equal, "ne": np.not_equal, "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}.items():  # fmt: skip
    _binary(_name, _ufunc)
for _name, _ufunc in {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}.items():
    setattr(ndarray, f"__{_name}__", (lambda operation: lambda self: operation(self))(UFunc(_ufunc)))
