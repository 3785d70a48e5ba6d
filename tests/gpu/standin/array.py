"""The array: a NumPy array on the inside, and on the outside as unlike one as CuPy's is."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import memory
from .indexing import fetch, store
from .launches import change, compute, count
from .streams import refuse_while_capturing, synchronised

NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
_COMPARISONS = {"greater", "greater_equal", "less", "less_equal", "equal", "not_equal"}
_new = object.__new__


class Flags:
    """How an array lies in memory.  Nothing here can be set; there is no ``writeable``."""

    __slots__ = ("c_contiguous", "f_contiguous", "owndata")

    def __init__(self, c: bool, f: bool, own: bool) -> None:
        for name, value in zip(self.__slots__, (c, f, own), strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"attribute {name!r} of the flags of a device array cannot be set")

    @property
    def forc(self) -> bool:
        """C or Fortran contiguous."""
        return self.c_contiguous or self.f_contiguous

    @property
    def fnc(self) -> bool:
        """Fortran but not C contiguous."""
        return self.f_contiguous and not self.c_contiguous


class ndarray:  # noqa: N801 - CuPy's name
    """An array on the device."""

    __slots__ = ("__weakref__", "_array", "_memory", "base")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None,
                 order: str = "C") -> None:  # fmt: skip
        if order != "C":
            raise NotImplementedError("the stand-in has no arrays in Fortran order")
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.base = None
        if memptr is None:
            self._array, self._memory = memory.blank(shape, dtype)
        else:
            self._array, self._memory = memptr._view(shape, np.dtype(dtype), strides), memptr.mem

    # -- what it is ---------------------------------------------------------------------------------------------------

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    strides = property(lambda self: self._array.strides)
    itemsize = property(lambda self: self._array.itemsize)
    nbytes = property(lambda self: self._array.nbytes)

    @property
    def flags(self) -> Flags:
        """How it lies in memory."""
        flags = self._array.flags
        return Flags(flags.c_contiguous, flags.f_contiguous, self.base is None)

    @property
    def data(self) -> memory.MemoryPointer:
        """Where it lies."""
        start = self._array.__array_interface__["data"][0]
        return memory.MemoryPointer(self._memory, start - self._memory.bytes.ctypes.data)

    @property
    def device(self) -> Any:
        """The card."""
        from .cuda import Device

        return Device(0)

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    # -- to the host --------------------------------------------------------------------------------------------------

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        """A copy on the host."""
        refuse_while_capturing("D2H transfers")
        if not self._array.flags.c_contiguous:
            count("launches", "copy")
        count("copies_to_host")
        synchronised()
        if out is None:
            return np.array(self._array, order="C")
        if out.shape != self.shape or out.dtype != self.dtype:
            raise TypeError(f"{out.dtype} {out.shape} array cannot be obtained from {self.dtype} {self.shape} array")
        out[...] = self._array
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        """Copy from a host array of the same shape and dtype."""
        if not isinstance(arr, np.ndarray) or (arr.shape, arr.dtype) != (self.shape, self.dtype):
            raise TypeError(f"set: a NumPy array of {self.dtype} {self.shape} is needed")
        if not self._array.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        refuse_while_capturing("H2D transfers")
        count("copies_to_device")
        self._array[...] = arr

    def item(self, *index: Any) -> Any:
        """One element as a Python number."""
        return self.get().item(*index)

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return self.get().tolist()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array "
            "explicitly."
        )

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    def __reduce__(self) -> Any:
        from .creation import array

        return array, (self.get(),)

    # -- copies and views ---------------------------------------------------------------------------------------------

    def copy(self, order: str = "C") -> ndarray:
        """The same in new memory."""
        values = self._array
        return wrap(*compute("copy", lambda: values.copy(), self._memory))

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None,
               copy: bool = True) -> ndarray:  # fmt: skip
        """The values in another dtype."""
        dtype, values = np.dtype(dtype), self._array
        if not copy and dtype == self.dtype:
            return self
        return wrap(*compute("astype", lambda: values.astype(dtype), self._memory))

    def fill(self, value: Any) -> None:
        """Set every element."""
        if isinstance(value, np.ndarray):
            if value.ndim:
                raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
            value = value.item()
        if not isinstance(value, NUMBERS):
            raise TypeError(f"Unsupported type {type(value)}")
        values = writable(self)
        change("fill", lambda: values.fill(value), self._memory)

    def view(self, dtype: Any = None) -> ndarray:
        """The same memory, perhaps read as another dtype."""
        return part(self, self._array.view() if dtype is None else self._array.view(dtype))

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        """A view where there can be one, otherwise a copy."""
        shape = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        values = self._array
        reshaped = values.reshape(shape)
        if np.may_share_memory(reshaped, values) or not values.size:
            return part(self, reshaped)
        return wrap(*compute("copy", lambda: np.array(values.reshape(shape)), self._memory))

    def ravel(self, order: str = "C") -> ndarray:
        """One axis."""
        return self.reshape(-1)

    def flatten(self, order: str = "C") -> ndarray:
        """One axis, in new memory."""
        return self.copy().reshape(-1)

    def transpose(self, *axes: Any) -> ndarray:
        """The axes in another order."""
        axes = axes[0] if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], tuple | list)) else axes
        return part(self, self._array.transpose(axes or None))

    T = property(transpose)

    def swapaxes(self, axis1: int, axis2: int) -> ndarray:
        """Two axes exchanged."""
        return part(self, self._array.swapaxes(axis1, axis2))

    def squeeze(self, axis: Any = None) -> ndarray:
        """Without axes of length 1."""
        return part(self, self._array.squeeze(axis))

    def __getitem__(self, index: Any) -> ndarray:
        found = fetch(self, index)
        return part(self, found) if isinstance(found, np.ndarray) else wrap(*found)

    def __setitem__(self, index: Any, value: Any) -> None:
        store(self, index, value)

    # -- arithmetic by NumPy's names ----------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        from . import module
        from .elementwise import UFunc

        function = getattr(module, ufunc.__name__, None)
        outs = options.get("out", ())
        if len(outs) > 1:
            raise ValueError("The 'out' parameter must have exactly one array value")
        if outs:
            options["out"] = outs[0]
        if not isinstance(function, UFunc):
            return NotImplemented
        if not all(isinstance(x, (*NUMBERS, ndarray, np.ndarray)) for x in (*inputs, *outs)):
            return NotImplemented
        if ufunc.__name__ in _COMPARISONS:
            inputs = tuple(x.item() if isinstance(x, np.ndarray) and not x.ndim else x for x in inputs)
        return (function if method == "__call__" else getattr(function, method))(*inputs, **options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from . import module

        found = None if function.__module__ != "numpy" else getattr(module, function.__name__, None)
        if found is None or found is function or not all(issubclass(t, ndarray | np.ndarray) for t in types):
            return NotImplemented
        return found(*args, **kwargs)


ndarray.__module__ = "cupy"


def wrap(array: np.ndarray, owner: memory.Memory, base: ndarray | None = None) -> ndarray:
    """A device array of a NumPy view of its memory."""
    new = _new(ndarray)
    new._array, new._memory, new.base = array, owner, base
    return new


def part(whole: ndarray, view: np.ndarray) -> ndarray:
    """A view of a device array."""
    return wrap(view, whole._memory, whole if whole.base is None else whole.base)


def writable(array: ndarray) -> np.ndarray:
    """The NumPy view to write into.  Elements that lie on top of each other are refused: CuPy would let them race."""
    values = array._array
    repeated = any(stride == 0 and n > 1 for stride, n in zip(values.strides, values.shape, strict=True))
    if values.size and (repeated or not values.flags.writeable):
        raise ValueError(f"a broadcast view of shape {values.shape} is written to: its elements share memory")
    return values
