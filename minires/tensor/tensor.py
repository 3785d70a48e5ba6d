"""Tensor: an array that remembers how it was computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backend import Array, array_module, asnumpy, device_of, gpu, on_gpu, on_one_device, to_device
from ..errors import DeviceError, GraphError, ShapeError
from .graph import added, remover, run_hooks, walk
from .modes import modes
from .node import Node, clock
from .operators import OPERATIONS, Operators, both_plain, operands, plain, plain_index

_new = object.__new__
# what NumPy's functions are called here, where that differs
_UFUNC_NAMES = {"true_divide": "divide", "absolute": "abs"}
# give booleans, so there is no gradient to lose
_COMPARISONS = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "bitwise_and", "bitwise_or",
                "bitwise_xor", "invert"}  # fmt: skip


class Tensor(Operators):
    """An array with a gradient.

    Args:
        data: an array, a number or nested lists.  An array is not copied (`tensor` copies) and keeps its dtype, unless
            its bytes are in another processor's order; Python floats become float32, Python integers int64.
        requires_grad: record what is computed from this tensor, and fill `.grad` on ``backward()``.  Only for floating
            point: a derivative with respect to an integer does not exist.
        dtype: convert to this first.

    Attributes:
        data: the array.  ``t.data -= lr * t.grad`` is noticed by ``backward()``; writing through an index into
            it is not, except under `detect_anomaly`.
        grad: None, or an array (not a Tensor) of the tensor's own shape and dtype, which belongs to the tensor.

    Numbers and plain arrays beside a floating-point tensor are constants and take its dtype, so that ``x * 0.5`` and
    ``x + rng.standard_normal(x.shape)`` leave a float32 network in float32.

    ``t += other`` changes a tensor in place where nothing is recorded.  Where it is, ``t`` becomes a new tensor and
    other names of the old one keep the old value.
    """

    __slots__ = ("__weakref__", "_data", "_hooks", "_node", "_requires_grad", "grad")

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None) -> None:
        if dtype is None and type(data) is np.ndarray and data.dtype.kind in "fiub" and data.dtype.isnative:
            self._data = data
        else:
            self._data = _as_array(data, dtype)
        self._node: Node | None = None
        self._hooks: list[Callable] | None = None
        self.grad: Array | None = None
        self._requires_grad = False
        if requires_grad:
            self.requires_grad_()

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def data(self) -> Array:  # noqa: D102 - documented on the class
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        if value is self._data:  # what `t.data += 1` does
            clock.note(value)
            return
        value = plain(value)
        value = array_module(self._data, value, caller="data").asarray(value, dtype=self._data.dtype)
        if device_of(value) != self.device:
            raise DeviceError(f"data: the new array is on {device_of(value)}, the tensor on {self.device}. Move one.")
        if value.shape != self._data.shape:
            raise ShapeError(
                f"data: cannot put an array of shape {value.shape} into a tensor of shape {self.shape}. "
                "Make a new tensor instead."
            )
        self._data = value  # other memory: what was saved of the old one is as it was
        clock.tick()

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

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor: it has no axis to count along.")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        text = np.array2string(asnumpy(self._data), separator=", ", prefix="Tensor(", threshold=200)
        notes = "" if self.dtype in (np.float32, np.int64, np.bool_) else f", dtype={self.dtype}"
        notes += ", device='cuda'" if on_gpu(self._data) else ""
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
        return asnumpy(self._data).__index__()

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
        """The elements as a NumPy array: the tensor's own memory on the CPU, a copy of it from a GPU."""
        return asnumpy(self._data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad:
            raise TypeError(
                "this tensor requires a gradient, which NumPy would lose without a word. Write t.numpy() if that is "
                "what you want, or use the operations of minires."
            )
        if on_gpu(self._data):
            raise TypeError("this tensor is on cuda and NumPy would copy it to the host in silence. Write t.numpy().")
        array = np.asarray(self._data, dtype=dtype)
        if copy is False and array is not self._data:
            raise ValueError(f"a tensor of {self.dtype} cannot be an array of {array.dtype} without a copy.")
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        if self.requires_grad:
            raise BufferError(
                "this tensor requires a gradient, which the other library would lose without a word. Give it "
                "t.detach() if that is what you want."
            )
        return self._data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._data.__dlpack_device__()

    # -- gradients ----------------------------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Switch recording on or off for this leaf, in place."""
        if requires_grad and self.dtype.kind != "f":
            raise TypeError(
                f"a tensor of {self.dtype} cannot require a gradient; only floating point can. Convert it first: "
                "minires.tensor(data, dtype='float32', requires_grad=True)."
            )
        if self._node is not None:
            raise GraphError("requires_grad_: this tensor was computed from others. Use .detach() to cut it off.")
        self._requires_grad = requires_grad
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
        grad = plain(grad)
        xp = array_module(self._data, grad, caller="backward")
        if grad is None:
            if self.size != 1:
                raise ShapeError(
                    f"backward: a tensor of shape {self.shape} needs an upstream gradient of that shape: "
                    "t.backward(grad), or reduce it to one number first with .sum() or .mean()."
                )
            grad = xp.ones(self.shape, self.dtype)
        else:
            grad = xp.asarray(grad, dtype=self.dtype)
            if grad.shape != self.shape:
                raise ShapeError(f"backward: the gradient has shape {grad.shape} but the tensor has {self.shape}.")
        walk(self if self._node is None else self._node, grad, retain_graph)

    def _accumulate(self, grad: Array, fresh: bool) -> None:
        """Add to `.grad`; the first time a copy unless it is ``fresh``: no gradient shares memory with another."""
        if self._hooks:  # which may keep it
            grad, fresh = run_hooks(self._hooks, grad), False
        if gpu.used:
            for what, array in (("its gradient", grad), ("what .grad holds of before", self.grad)):
                if array is not None and device_of(array) != self.device:
                    raise DeviceError(
                        f"backward: a tensor of shape {self.shape} is on {self.device}, but {what} on "
                        f"{device_of(array)}. Move a model before the forward pass, not between it and backward()."
                    )
        with clock.lock:  # another thread's backward pass may come to the same leaf
            if self.grad is not None:
                self.grad = added(self.grad, grad)
            else:
                self.grad = grad if fresh and grad.flags.c_contiguous else grad.copy(order="C")

    def register_hook(self, hook: Callable[[Array], Array | None]) -> Callable[[], None]:
        """Call ``hook(grad)`` when this tensor's gradient is known; what it returns, if anything, replaces it.

        A hook must not write into its gradient, which may be on its way to other tensors too; let it return a new one.

        Returns:
            a function that takes the hook off again.
        """
        if not self.requires_grad:
            raise GraphError("register_hook: this tensor does not require a gradient, so the hook would never run.")
        holder: Any = self if self._node is None else self._node
        name = "_hooks" if self._node is None else "hooks"
        hooks = getattr(holder, name) or []
        setattr(holder, name, hooks)
        retained = self._node is not None and "_retained" in self._node.__dict__
        hooks.insert(len(hooks) - retained, hook)  # what is retained is what comes of all hooks
        return remover(hooks, hook)

    def retain_grad(self) -> None:
        """Keep `.grad` of this tensor too, although it is not a leaf."""
        if self._node is None or "_retained" in self._node.__dict__:
            return  # a leaf does so anyway; asked twice, the gradient is still to be counted once
        reference = weakref.ref(self)  # a strong one would be a cycle: tensor -> node -> hook -> tensor

        def keep(grad: Array) -> None:
            tensor = reference()
            if tensor is not None:
                tensor.grad = grad.copy() if tensor.grad is None else added(tensor.grad, grad)

        self.register_hook(keep)
        self._node.__dict__["_retained"] = True

    def _convert(self, dtype: Any) -> None:
        """Convert a leaf, in place; its gradient is dropped."""
        self._data, self.grad = self._data.astype(dtype), None
        clock.tick()

    def _move(self, device: str) -> None:
        """Put a leaf and its gradient on a device, in place; what a graph saved of it is as it was."""
        if device != self.device:
            self._data = to_device(self._data, device)
            clock.tick()
            self.grad = None if self.grad is None else to_device(self.grad, device)

    def detach(self) -> Tensor:
        """The same memory, cut off from the graph."""
        return wrap(self._data)

    # -- comparing and changing ----------------------------------------------------------------------------------------

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        a, b = both_plain("equal", self, other)
        return Tensor(a == b)

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        a, b = both_plain("not_equal", self, other)
        return Tensor(a != b)

    def __lt__(self, other: Any) -> Tensor:
        a, b = both_plain("less", self, other)
        return Tensor(a < b)

    def __le__(self, other: Any) -> Tensor:
        a, b = both_plain("less_equal", self, other)
        return Tensor(a <= b)

    def __gt__(self, other: Any) -> Tensor:
        a, b = both_plain("greater", self, other)
        return Tensor(a > b)

    def __ge__(self, other: Any) -> Tensor:
        a, b = both_plain("greater_equal", self, other)
        return Tensor(a >= b)

    def __and__(self, other: Any) -> Tensor:
        a, b = both_plain("and", self, other)
        return Tensor(a & b)

    def __or__(self, other: Any) -> Tensor:
        a, b = both_plain("or", self, other)
        return Tensor(a | b)

    def __xor__(self, other: Any) -> Tensor:
        a, b = both_plain("xor", self, other)
        return Tensor(a ^ b)

    def __invert__(self) -> Tensor:
        return Tensor(~self._data)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__
    __hash__ = object.__hash__  # by identity, although == compares elements

    def argmax(self, axis: int | None = None) -> Tensor:
        """The index of the (first) maximum; integers, without a gradient."""
        return Tensor(self._data.argmax(axis))

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
            value = self._fitting(name, other)
            getattr(array_module(self._data), name)(self._data, value, out=self._data, casting="same_kind")
            clock.note(self._data)
            return self
        if self.is_leaf and self.requires_grad:
            raise GraphError(
                "a leaf that requires a gradient cannot be changed in place while operations are recorded. Update a "
                "parameter inside `with minires.no_grad():`, or write y = x + ... for a new tensor."
            )
        return OPERATIONS[name].apply(*operands(self, other, name))

    def __setitem__(self, index: Any, value: Any) -> None:
        if modes.grad_enabled and (self.requires_grad or getattr(value, "requires_grad", False)):
            raise GraphError(
                "assigning into a tensor would lose the gradient of what was there. Build the new tensor with "
                "minires.where, concatenate, stack or pad, or assign inside `with minires.no_grad():`."
            )
        index = plain_index(index)
        if gpu.used:
            on_one_device("setitem", self._data, index)
        self._data[index] = self._fitting("setitem", value)
        clock.note(self._data)

    def _fitting(self, caller: str, value: Any) -> Any:
        """What is to be written into this tensor, if it need not be copied from another device."""
        value = both_plain(caller, self, value)[1]
        if on_gpu(value) and not on_gpu(self._data):
            raise DeviceError(f"{caller}: the tensor is on cpu and what would change it on cuda. Move one with .to().")
        return value

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Tensor:
        # ndarray + Tensor arrives here, and so does np.exp(tensor): both are recorded like the operator itself
        name = _UFUNC_NAMES.get(ufunc.__name__, ufunc.__name__)
        if method == "__call__" and not kwargs:
            if name in _COMPARISONS:
                return Tensor(ufunc(*on_one_device(name, *(plain(x) for x in inputs))))
            if name in OPERATIONS:
                return OPERATIONS[name].apply(*(operands(*inputs, name) if len(inputs) == 2 else inputs))
        call = f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
        raise TypeError(
            f"{call} does not take a Tensor{' with ' + ', '.join(kwargs) if kwargs else ''}: its gradient would be "
            "lost. Use an operation of minires, or t.numpy() for the plain array."
        )


def wrap(array: Array, node: Node | None = None) -> Tensor:
    """A Tensor of an array that is known to hold numbers; half the cost of ``Tensor(array)``, which asks first."""
    t = _new(Tensor)
    t._data, t._node, t._requires_grad = array, node, node is not None
    t._hooks = t.grad = None
    return t


def tensor(data: Any, requires_grad: bool = False, dtype: Any = None) -> Tensor:
    """A Tensor with a copy of ``data``: nothing else can change it."""
    array = _as_array(data, dtype)
    return Tensor(array.copy(), requires_grad)


def as_tensor(value: Any) -> Tensor:
    """The value itself if it is a Tensor, otherwise a new one that shares its memory where it can."""
    return value if isinstance(value, Tensor) else Tensor(value)


def _as_array(data: Any, dtype: Any) -> Array:
    """An array of numbers, with Python floats as float32."""
    if isinstance(data, Tensor):
        data = data._data
    xp = array_module(data)
    array = xp.asarray(data, dtype=dtype)
    if dtype is None and array.dtype == np.float64 and not hasattr(data, "dtype"):
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a Tensor holds numbers, not {array.dtype} ({type(data).__name__} was given).")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
