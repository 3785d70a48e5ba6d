"""What can be written with tensors: operators and methods, each the name of an operation.

The operations themselves stand above the tensor in the import order.  So only names are used here, and
`class Add(Function, operator="add")` in minires/ops enters itself under its own.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import check_device, device_of, gpu, on_gpu, on_one_device, to_device
from ..errors import ShapeError

if TYPE_CHECKING:
    from .tensor import Tensor

OPERATIONS: dict[str, Any] = {}
# `Function.apply` of one tensor and its options, and of two operands, looked up once: whoever calls knows which
UNARY: dict[str, Callable[..., Tensor]] = {}
BINARY: dict[str, Callable[[Any, Any], Tensor]] = {}
_NUMBER = (float, int, np.floating, np.integer)
_SEQUENCE = (tuple, list)  # `tuple | list` would be made anew at each call


def _binary(name: str) -> tuple[Callable[[Any, Any], Tensor], Callable[[Any, Any], Tensor]]:
    """``a + b``, and the form that Python calls when only b is a tensor."""

    def operator(a: Any, b: Any) -> Tensor:
        if (type(b) is not type(a) and not isinstance(b, Operators)) or a._data.dtype is not b._data.dtype:
            a, b = operands(a, b, name)
        return BINARY[name](a, b)

    def reflected(b: Any, a: Any) -> Tensor:
        return BINARY[name](*operands(a, b, name))

    return operator, reflected


class Operators:
    """The differentiable operators and methods of `Tensor`."""

    __slots__ = ()
    _data: Any

    __add__, __radd__ = _binary("add")
    __sub__, __rsub__ = _binary("subtract")
    __mul__, __rmul__ = _binary("multiply")
    __truediv__, __rtruediv__ = _binary("divide")
    __pow__, __rpow__ = _binary("power")
    __matmul__, __rmatmul__ = _binary("matmul")

    def __neg__(self) -> Tensor:
        return UNARY["negative"](self)

    def __abs__(self) -> Tensor:
        return UNARY["abs"](self)

    abs = __abs__

    def __getitem__(self, index: Any) -> Tensor:
        return UNARY["getitem"](self, {"index": plain_index(index)})

    @property
    def T(self) -> Tensor:  # noqa: N802 - NumPy's name
        """All axes in reverse order."""
        return self.transpose()

    def astype(self: Any, dtype: Any) -> Tensor:
        """The same values in another dtype; the gradient comes back in this one."""
        dtype = np.dtype(dtype)
        return self if dtype == self.dtype else UNARY["astype"](self, {"dtype": dtype})

    def to(self: Any, device: str) -> Tensor:
        """A copy on ``"cpu"`` or ``"cuda"``, and this tensor itself if it is there; the gradient is copied back.

        Raises:
            ArgumentError: it is not the name of a device.
            DeviceError: there is no usable GPU.
        """
        return self if check_device(device) == self.device else UNARY["to"](self, {"device": device})

    def cuda(self) -> Tensor:
        """``to("cuda")``: on the GPU."""
        return self.to("cuda")

    def cpu(self) -> Tensor:
        """``to("cpu")``: in the host's memory."""
        return self.to("cpu")

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in another shape, one length of which may be -1."""
        several = len(shape) != 1 or type(shape[0]) is int
        return BINARY["reshape"](self, shape if several else _unpack(shape))

    def flatten(self: Any, start_axis: int = 0) -> Tensor:
        """All axes from ``start_axis`` on made one: ``flatten(1)`` keeps the batch."""
        start = start_axis + self.ndim if start_axis < 0 else start_axis
        if not 0 <= start <= self.ndim:
            raise ShapeError(f"flatten: there is no axis {start_axis} to start from in a tensor of shape {self.shape}.")
        return self.reshape(*self.shape[:start], prod(self.shape[start:]))

    def transpose(self, *axes: Any) -> Tensor:
        """The axes in the order given, or in reverse."""
        return UNARY["transpose"](self, {"axes": _unpack(axes) or None})

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The sum over ``axis``: an int, a tuple, or None for all."""
        return UNARY["sum"](self, {"axis": axis, "keepdims": keepdims})

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The mean over ``axis``."""
        return UNARY["mean"](self, {"axis": axis, "keepdims": keepdims})

    def var(self, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
        """The variance over ``axis``, divided by ``n - ddof`` (NumPy's convention: biased unless ``ddof=1``)."""
        return UNARY["var"](self, {"axis": axis, "keepdims": keepdims, "ddof": ddof})

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The maximum over ``axis``; the gradient goes to the first of equal elements."""
        return UNARY["max"](self, {"axis": axis, "keepdims": keepdims})

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The minimum over ``axis``; the gradient goes to the first of equal elements."""
        return UNARY["min"](self, {"axis": axis, "keepdims": keepdims})

    def exp(self) -> Tensor:
        """e to the power of each element."""
        return UNARY["exp"](self)

    def log(self) -> Tensor:
        """The natural logarithm."""
        return UNARY["log"](self)

    def sqrt(self) -> Tensor:
        """The square root."""
        return UNARY["sqrt"](self)

    def tanh(self) -> Tensor:
        """The hyperbolic tangent."""
        return UNARY["tanh"](self)

    def sigmoid(self) -> Tensor:
        """1 / (1 + exp(-x)), without overflow."""
        return UNARY["sigmoid"](self)

    def relu(self) -> Tensor:
        """max(x, 0); the derivative at 0 is taken as 0."""
        return UNARY["relu"](self)

    def clip(self, low: float | None = None, high: float | None = None) -> Tensor:
        """Elements limited to [low, high]; the gradient passes where they already were inside, ends included."""
        return UNARY["clip"](self, {"low": low, "high": high})

    def softmax(self, axis: int = -1) -> Tensor:
        """exp(x) / sum(exp(x)) over ``axis``, without overflow."""
        return UNARY["softmax"](self, {"axis": axis})

    def log_softmax(self, axis: int = -1) -> Tensor:
        """log(softmax(x)), without overflow."""
        return UNARY["log_softmax"](self, {"axis": axis})


def operands(a: Any, b: Any, caller: str = "") -> tuple[Any, Any]:
    """The operands of a binary operation, in one dtype.

    Between tensors the wider floating dtype wins, and floating wins over integer; a number or plain array takes the
    dtype of the tensor beside it.  NumPy's own rules differ between its versions 1 and 2 and would widen float32.
    """
    if isinstance(a, Operators) and isinstance(b, Operators):
        if a._data.dtype == b._data.dtype:
            return a, b
        dtypes = a._data.dtype, b._data.dtype
        kinds = dtypes[0].kind + dtypes[1].kind
        if kinds == "ff":
            wider = np.promote_types(*dtypes)
            return a.astype(wider), b.astype(wider)
        if kinds[0] == "f":
            return a, b.astype(dtypes[0])
        return (a.astype(dtypes[1]), b) if kinds[1] == "f" else (a, b)
    if _is_tensor(a):
        return _beside(a, b, caller)
    b, a = _beside(b, a, caller)
    return a, b


def _beside(t: Any, value: Any, caller: str) -> tuple[Any, Any]:
    """A tensor, and the number or array beside it, as they enter an operation."""
    dtype, is_number = t._data.dtype, isinstance(value, _NUMBER)
    if is_number and dtype.kind == "f":
        return t, dtype.type(value)
    if is_number and not isinstance(value, float | np.floating):
        return t, value
    if gpu.used and on_gpu(t._data) and isinstance(value, np.ndarray) and not value.ndim:
        return _beside(t, value.item() if dtype.kind == "f" else value[()], caller)  # a number belongs to either device
    # an integer tensor beside something floating: numbers count as float32 here as everywhere
    array = np.float32(value) if is_number else value if on_gpu(value) else np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a Tensor cannot be combined with {type(value).__name__} {value!r}.")
    if gpu.used and not is_number:
        array = _there(caller, t._data, array, value)
    if dtype.kind == "f":
        return t, array.astype(dtype)  # a copy: an operation may save it, and nobody hears of its changes
    if array.dtype.kind == "f" and not hasattr(value, "dtype"):
        array = array.astype(np.float32)  # a list of Python floats
    return (t.astype(array.dtype) if array.dtype.kind == "f" else t), array


def _there(caller: str, beside: Any, array: Any, value: Any) -> Any:
    """The array, if it is on the device of the one beside it; lists of numbers are constants and belong to either."""
    if hasattr(value, "dtype"):
        return on_one_device(caller, beside, array)[1]
    return to_device(array, device_of(beside)) if array.ndim else array[()]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Operators)


def plain(value: Any) -> Any:
    """The array of a tensor; anything else as it is."""
    return value._data if _is_tensor(value) else value


def both_plain(caller: str, a: Any, b: Any) -> tuple[Any, Any]:
    """`plain` of two operands on one device; a host array of one number beside the GPU becomes that number."""
    a, b = plain(a), plain(b)
    if gpu.used:
        b = to_device(np.asarray(b), device_of(a)) if isinstance(b, list | tuple) else b
        a, b = on_one_device(caller, a, b)
    return a, b


def plain_index(index: Any) -> Any:
    """An index with arrays in place of tensors."""
    return tuple(plain(i) for i in index) if isinstance(index, tuple) else plain(index)


def _unpack(values: tuple[Any, ...]) -> tuple[int, ...]:
    """``f(2, 3)`` and ``f((2, 3))`` alike."""
    return tuple(values[0]) if len(values) == 1 and isinstance(values[0], _SEQUENCE) else values
