"""Tensor: an array that remembers how it was computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backend import Array, array_module, asnumpy, device_of
from ..errors import GraphError, ShapeError
from .graph import Node, walk
from .modes import modes

# The operations by name.  Tensor stands below them in the import order, so it only names what an operator needs;
# `class Add(Function, operator="add")` in minires/ops enters itself here.
OPERATIONS: dict[str, Any] = {}

# what NumPy's functions are called here, where that differs
_UFUNC_NAMES = {"true_divide": "divide", "absolute": "abs"}
_COMPARISONS = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}


class Tensor:
    """An array with a gradient.

    Args:
        data: an array, a number or nested lists.  An array is not copied (`tensor` copies) and keeps its dtype; Python
            floats become float32, Python integers int64.
        requires_grad: record what is computed from this tensor, and fill `.grad` on ``backward()``.  Only for floating
            point: a derivative with respect to an integer does not exist.
        dtype: convert to this first.

    Attributes:
        data: the array.  ``t.data -= lr * t.grad`` is noticed by the version counter; writing through an index into
            it is not, except under `detect_anomaly`.
        grad: None, or an array (not a Tensor) of the tensor's own shape and dtype, which belongs to the tensor.

    Numbers and plain arrays beside a floating-point tensor are constants and take its dtype, so that ``x * 0.5`` and
    ``x + rng.standard_normal(x.shape)`` leave a float32 network in float32.
    """

    __slots__ = ("__weakref__", "_data", "_hooks", "_node", "_version", "grad", "requires_grad")

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None) -> None:
        self._data = _as_array(data, dtype)
        self._node: Node | None = None
        self._version = [0]  # shared by all views of the same memory
        self._hooks: list[Callable] | None = None
        self.grad: Array | None = None
        self.requires_grad = False
        if requires_grad:
            self.requires_grad_()

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def data(self) -> Array:  # noqa: D102 - documented on the class
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        if value is self._data:  # what `t.data += 1` does
            self._version[0] += 1
            return
        value = array_module(self._data).asarray(value, dtype=self._data.dtype)
        if value.shape != self._data.shape:
            raise ShapeError(
                f"data: cannot put an array of shape {value.shape} into a tensor of shape {self.shape}. "
                "Make a new tensor instead."
            )
        self._data, self._version = value, [0]  # new memory: what was saved of the old is as it was

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype of the elements."""
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._data.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._data.size

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda"``."""
        return device_of(self._data)

    @property
    def like(self) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and dtype: what a gradient of this tensor has."""
        return self._data.shape, self._data.dtype

    @property
    def is_leaf(self) -> bool:
        """Made by hand rather than by a recorded operation; leaves keep their gradients."""
        return self._node is None

    @property
    def T(self) -> Tensor:  # noqa: N802 - NumPy's name
        """All axes in reverse order."""
        return self.transpose()

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor: it has no axis to count along.")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        text = np.array2string(asnumpy(self._data), separator=", ", prefix="Tensor(", threshold=200)
        notes = "" if self.dtype in (np.float32, np.int64, np.bool_) else f", dtype={self.dtype}"
        if self._node is not None:
            notes += f", from={self._node.name}"
        elif self.requires_grad:
            notes += ", requires_grad=True"
        return f"Tensor({text}{notes})"

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return self._data.__index__()

    def item(self) -> Any:
        """The only element, as a Python number.

        Raises:
            ShapeError: there is more than one, or none.
        """
        if self.size != 1:
            raise ShapeError(
                f"a tensor of shape {self.shape} has {self.size} elements and is not one number. Reduce it first, "
                "with .mean(), .sum() or an index."
            )
        return self._data.item()

    def numpy(self) -> np.ndarray:
        """The elements as a NumPy array: the tensor's own memory on the CPU, a copy from a GPU.  Nothing is recorded."""
        return asnumpy(self._data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad:
            raise TypeError(
                "this tensor requires a gradient, which NumPy would lose without a word. Write t.numpy() if that is "
                "what you want, or use the operations of minires."
            )
        array = np.asarray(self.numpy(), dtype=dtype)
        return array.copy() if copy else array

    # -- gradients ----------------------------------------------------------------------------------------------------

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Switch recording on or off for this leaf, in place."""
        if requires_grad and self.dtype.kind != "f":
            raise TypeError(
                f"a tensor of {self.dtype} cannot require a gradient; only floating point can. Convert it first: "
                "minires.tensor(data, dtype='float32', requires_grad=True)."
            )
        if self._node is not None:
            raise GraphError("requires_grad_: this tensor was computed from others. Use .detach() to cut it off.")
        self.requires_grad = requires_grad
        return self

    def backward(self, grad: Any = None, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to ``.grad`` of every leaf that this tensor was computed from.

        Args:
            grad: the upstream gradient, of this tensor's shape; 1 if left out, which only a single number may do.
            retain_graph: keep what was saved, so that backward can run again.

        Raises:
            GraphError: nothing was recorded, the graph was released, or a saved array was changed in place.
            ShapeError: no ``grad`` for more than one element, or one of another shape.
        """
        if not self.requires_grad:
            raise GraphError(
                "backward: this tensor was not recorded: no input requires a gradient, or it was computed under "
                "no_grad(). Set requires_grad=True on what you want the gradient of."
            )
        xp = array_module(self._data)
        if grad is None:
            if self.size != 1:
                raise ShapeError(
                    f"backward: a tensor of shape {self.shape} needs an upstream gradient of that shape: "
                    "t.backward(grad), or reduce it to one number first with .sum() or .mean()."
                )
            grad = xp.ones(self.shape, self.dtype)
        else:
            grad = grad._data if isinstance(grad, Tensor) else grad
            grad = xp.asarray(grad, dtype=self.dtype)
            if grad.shape != self.shape:
                raise ShapeError(f"backward: the gradient has shape {grad.shape} but the tensor has {self.shape}.")
        walk(self if self._node is None else self._node, grad, retain_graph)

    def _accumulate(self, grad: Array) -> None:
        """Add to `.grad`; the first time a copy, so that no gradient shares memory with another."""
        for hook in self._hooks or ():
            replaced = hook(grad)
            grad = grad if replaced is None else replaced
        self.grad = grad.copy(order="C") if self.grad is None else self.grad + grad

    def register_hook(self, hook: Callable[[Array], Array | None]) -> Callable[[], None]:
        """Call ``hook(grad)`` when this tensor's gradient is known; what it returns, if anything, replaces the gradient.

        Returns:
            a function that takes the hook off again.
        """
        if not self.requires_grad:
            raise GraphError("register_hook: this tensor does not require a gradient, so the hook would never run.")
        holder: Any = self if self._node is None else self._node
        name = "_hooks" if self._node is None else "hooks"
        hooks = getattr(holder, name) or []
        setattr(holder, name, hooks)
        hooks.append(hook)
        return lambda: hooks.remove(hook) if hook in hooks else None

    def retain_grad(self) -> None:
        """Keep `.grad` of this tensor too, although it is not a leaf."""
        if self._node is None:
            return  # a leaf does so anyway
        reference = weakref.ref(self)  # a strong one would be a cycle: tensor -> node -> hook -> tensor

        def keep(grad: Array) -> None:
            tensor = reference()
            if tensor is not None:
                tensor.grad = grad.copy() if tensor.grad is None else tensor.grad + grad

        self.register_hook(keep)

    def detach(self) -> Tensor:
        """The same memory, cut off from the graph."""
        cut = Tensor(self._data)
        cut._version = self._version
        return cut

    # -- operators ----------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Tensor:
        return OPERATIONS["add"].apply(*operands(self, other))

    def __radd__(self, other: Any) -> Tensor:
        return OPERATIONS["add"].apply(*operands(other, self))

    def __sub__(self, other: Any) -> Tensor:
        return OPERATIONS["subtract"].apply(*operands(self, other))

    def __rsub__(self, other: Any) -> Tensor:
        return OPERATIONS["subtract"].apply(*operands(other, self))

    def __mul__(self, other: Any) -> Tensor:
        return OPERATIONS["multiply"].apply(*operands(self, other))

    def __rmul__(self, other: Any) -> Tensor:
        return OPERATIONS["multiply"].apply(*operands(other, self))

    def __truediv__(self, other: Any) -> Tensor:
        return OPERATIONS["divide"].apply(*operands(self, other))

    def __rtruediv__(self, other: Any) -> Tensor:
        return OPERATIONS["divide"].apply(*operands(other, self))

    def __pow__(self, other: Any) -> Tensor:
        return OPERATIONS["power"].apply(*operands(self, other))

    def __rpow__(self, other: Any) -> Tensor:
        return OPERATIONS["power"].apply(*operands(other, self))

    def __matmul__(self, other: Any) -> Tensor:
        return OPERATIONS["matmul"].apply(*operands(self, other))

    def __rmatmul__(self, other: Any) -> Tensor:
        return OPERATIONS["matmul"].apply(*operands(other, self))

    def __neg__(self) -> Tensor:
        return OPERATIONS["negative"].apply(self)

    def __abs__(self) -> Tensor:
        return OPERATIONS["abs"].apply(self)

    abs = __abs__

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return Tensor(self._data == _plain(other))

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return Tensor(self._data != _plain(other))

    def __lt__(self, other: Any) -> Tensor:
        return Tensor(self._data < _plain(other))

    def __le__(self, other: Any) -> Tensor:
        return Tensor(self._data <= _plain(other))

    def __gt__(self, other: Any) -> Tensor:
        return Tensor(self._data > _plain(other))

    def __ge__(self, other: Any) -> Tensor:
        return Tensor(self._data >= _plain(other))

    __hash__ = object.__hash__  # by identity, although == compares elements

    def __iadd__(self, other: Any) -> Tensor:
        return self._update("add", other)

    def __isub__(self, other: Any) -> Tensor:
        return self._update("subtract", other)

    def __imul__(self, other: Any) -> Tensor:
        return self._update("multiply", other)

    def __itruediv__(self, other: Any) -> Tensor:
        return self._update("divide", other)

    def _update(self, name: str, other: Any) -> Tensor:
        """``t += other``: in place where nothing is recorded, otherwise a new tensor under the old name."""
        recorded = modes.grad_enabled and (self.requires_grad or getattr(other, "requires_grad", False))
        if not recorded:
            getattr(array_module(self._data), name)(self._data, _plain(other), out=self._data, casting="same_kind")
            self._version[0] += 1
            return self
        if self.is_leaf and self.requires_grad:
            raise GraphError(
                "a leaf that requires a gradient cannot be changed in place while operations are recorded. Update a "
                "parameter inside `with minires.no_grad():`, or write y = x + ... for a new tensor."
            )
        return OPERATIONS[name].apply(*operands(self, other))

    def __getitem__(self, index: Any) -> Tensor:
        return OPERATIONS["getitem"].apply(self, index=_plain_index(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        if modes.grad_enabled and (self.requires_grad or getattr(value, "requires_grad", False)):
            raise GraphError(
                "assigning into a tensor would lose the gradient of what was there. Build the new tensor with "
                "minires.where, concatenate, stack or pad, or assign inside `with minires.no_grad():`."
            )
        self._data[_plain_index(index)] = _plain(value)
        self._version[0] += 1

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Tensor:
        # ndarray + Tensor arrives here, and so does np.exp(tensor): both are recorded like the operator itself
        name = _UFUNC_NAMES.get(ufunc.__name__, ufunc.__name__)
        if method == "__call__" and not kwargs:
            if name in _COMPARISONS:
                return Tensor(ufunc(*(_plain(x) for x in inputs)))
            if name in OPERATIONS:
                return OPERATIONS[name].apply(*(operands(*inputs) if len(inputs) == 2 else inputs))
        call = f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
        raise TypeError(
            f"{call} does not take a Tensor{' with ' + ', '.join(kwargs) if kwargs else ''}: its gradient would be "
            "lost. Use an operation of minires, or t.numpy() for the plain array."
        )

    # -- methods that are operations ----------------------------------------------------------------------------------

    def astype(self, dtype: Any) -> Tensor:
        """The same values in another dtype; the gradient comes back in this one."""
        dtype = np.dtype(dtype)
        return self if dtype == self.dtype else OPERATIONS["astype"].apply(self, dtype=dtype)

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in another shape, one length of which may be -1."""
        return OPERATIONS["reshape"].apply(self, shape=_unpack(shape))

    def flatten(self, start_axis: int = 0) -> Tensor:
        """All axes from ``start_axis`` on made one: ``flatten(1)`` keeps the batch."""
        return OPERATIONS["flatten"].apply(self, start_axis=start_axis)

    def transpose(self, *axes: Any) -> Tensor:
        """The axes in the order given, or in reverse."""
        return OPERATIONS["transpose"].apply(self, axes=_unpack(axes) or None)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The sum over ``axis``: an int, a tuple, or None for all."""
        return OPERATIONS["sum"].apply(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The mean over ``axis``."""
        return OPERATIONS["mean"].apply(self, axis=axis, keepdims=keepdims)

    def var(self, axis: Any = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
        """The variance over ``axis``, divided by ``n - ddof`` (NumPy's convention: biased unless ``ddof=1``)."""
        return OPERATIONS["var"].apply(self, axis=axis, keepdims=keepdims, ddof=ddof)

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The maximum over ``axis``; the gradient goes to the first of equal elements."""
        return OPERATIONS["max"].apply(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The minimum over ``axis``; the gradient goes to the first of equal elements."""
        return OPERATIONS["min"].apply(self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None) -> Tensor:
        """The index of the (first) maximum; integers, without a gradient."""
        return Tensor(self._data.argmax(axis))

    def exp(self) -> Tensor:
        """e to the power of each element."""
        return OPERATIONS["exp"].apply(self)

    def log(self) -> Tensor:
        """The natural logarithm."""
        return OPERATIONS["log"].apply(self)

    def sqrt(self) -> Tensor:
        """The square root."""
        return OPERATIONS["sqrt"].apply(self)

    def tanh(self) -> Tensor:
        """The hyperbolic tangent."""
        return OPERATIONS["tanh"].apply(self)

    def sigmoid(self) -> Tensor:
        """1 / (1 + exp(-x)), without overflow."""
        return OPERATIONS["sigmoid"].apply(self)

    def relu(self) -> Tensor:
        """max(x, 0); the derivative at 0 is taken as 0."""
        return OPERATIONS["relu"].apply(self)

    def clip(self, low: float | None = None, high: float | None = None) -> Tensor:
        """Elements limited to [low, high]; the gradient passes where they already were inside, ends included."""
        return OPERATIONS["clip"].apply(self, low=low, high=high)

    def softmax(self, axis: int = -1) -> Tensor:
        """exp(x) / sum(exp(x)) over ``axis``, without overflow."""
        return OPERATIONS["softmax"].apply(self, axis=axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        """log(softmax(x)), without overflow."""
        return OPERATIONS["log_softmax"].apply(self, axis=axis)


def tensor(data: Any, requires_grad: bool = False, dtype: Any = None) -> Tensor:
    """A Tensor with a copy of ``data``: nothing else can change it."""
    array = _as_array(data, dtype)
    return Tensor(array.copy(), requires_grad)


def as_tensor(value: Any) -> Tensor:
    """The value itself if it is a Tensor, otherwise a new one that shares its memory where it can."""
    return value if isinstance(value, Tensor) else Tensor(value)


def _as_array(data: Any, dtype: Any) -> Array:
    """An array of numbers, with Python floats as float32."""
    if dtype is None and type(data) is np.ndarray and data.dtype.kind in "fiub":
        return data
    if isinstance(data, Tensor):
        data = data._data
    xp = array_module(data)
    array = xp.asarray(data, dtype=dtype)
    if dtype is None and array.dtype == np.float64 and not hasattr(data, "dtype"):
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiubc":
        raise TypeError(f"a Tensor holds numbers, not {array.dtype} ({type(data).__name__} was given).")
    return array


def operands(a: Any, b: Any) -> tuple[Any, Any]:
    """The operands of a binary operation, in one dtype.

    Between tensors the wider floating dtype wins, and floating wins over integer; a number or plain array takes the
    dtype of the tensor beside it.  NumPy's own rules differ between its versions 1 and 2 and would widen float32.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype == b.dtype:
            return a, b
        kinds = a.dtype.kind + b.dtype.kind
        if kinds == "ff":
            wider = np.promote_types(a.dtype, b.dtype)
            return a.astype(wider), b.astype(wider)
        if kinds[0] == "f":
            return a, b._data.astype(a.dtype)
        return (a._data.astype(b.dtype), b) if kinds[1] == "f" else (a, b)
    if isinstance(a, Tensor):
        return a, _constant(b, a)
    return _constant(a, b), b


def _constant(value: Any, beside: Tensor) -> Any:
    """A number or array as it enters an operation beside a tensor."""
    if beside.dtype.kind != "f":
        if isinstance(value, float):  # a wrapped number, so that an integer tensor becomes float32 and not float64
            return np.float32(value)
        return value
    if isinstance(value, int | float | np.number):
        return beside.dtype.type(value)
    array = array_module(beside._data, value).asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a Tensor cannot be combined with {type(value).__name__} {value!r}.")
    return array.astype(beside.dtype, copy=False)


def _plain(value: Any) -> Any:
    return value._data if isinstance(value, Tensor) else value


def _plain_index(index: Any) -> Any:
    return tuple(_plain(i) for i in index) if isinstance(index, tuple) else _plain(index)


def _unpack(values: tuple[Any, ...]) -> tuple[int, ...]:
    """``f(2, 3)`` and ``f((2, 3))`` alike."""
    return tuple(values[0]) if len(values) == 1 and isinstance(values[0], tuple | list) else values
