"""Arrays from shapes, from the host and from other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import memory
from .array import NUMBERS, ndarray, part, wrap
from .launches import compute, count
from .streams import refuse_while_capturing

_CPU, _CUDA = 1, 2  # DLPack's numbers of device types


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Memory in which nothing was written yet: poisoned."""
    return ndarray(shape, dtype, order=order)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    """One value everywhere."""
    if isinstance(fill_value, ndarray):
        array = empty(shape, dtype or fill_value.dtype)
        array[...] = fill_value
        return array
    if not isinstance(fill_value, NUMBERS):
        raise TypeError(f"Unsupported type {type(fill_value)}")
    return wrap(*compute("fill", lambda: np.full(shape, fill_value, dtype)))


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Zeros."""
    return wrap(*compute("fill", lambda: np.zeros(shape, dtype)))


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Ones."""
    return wrap(*compute("fill", lambda: np.ones(shape, dtype)))


def empty_like(prototype: ndarray, dtype: Any = None, order: str = "K", subok: Any = None,
               shape: Any = None) -> ndarray:  # fmt: skip
    """`empty` in the shape and dtype of another array."""
    return empty(_device(prototype).shape if shape is None else shape, dtype or prototype.dtype)


def zeros_like(a: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    """`zeros` in the shape and dtype of another array."""
    return zeros(_device(a).shape if shape is None else shape, dtype or a.dtype)


def ones_like(a: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    """`ones` in the shape and dtype of another array."""
    return ones(_device(a).shape if shape is None else shape, dtype or a.dtype)


def full_like(a: ndarray, fill_value: Any, dtype: Any = None, order: str = "K", subok: Any = None,
              shape: Any = None) -> ndarray:  # fmt: skip
    """`full` in the shape and dtype of another array."""
    return full(_device(a).shape if shape is None else shape, fill_value, dtype or a.dtype)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> ndarray:
    """Numbers in steps."""
    start, stop = (0, start) if stop is None else (start, stop)
    return wrap(*compute("arange", lambda: np.arange(start, stop, step, dtype)))


def eye(N: int, M: int | None = None, k: int = 0, dtype: Any = float, order: str = "C") -> ndarray:
    """Ones on a diagonal."""
    return wrap(*compute("eye", lambda: np.eye(N, M, k, dtype)))


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> ndarray:
    """The array itself, or one on the device of what is on the host: the one way in that copies."""
    if isinstance(a, ndarray):
        return a.astype(dtype or a.dtype, copy=bool(copy))
    if isinstance(a, list | tuple) and any(isinstance(x, ndarray) for x in a):
        from .routines import stack

        return stack(a).astype(dtype or a[0].dtype, copy=False)
    if not isinstance(a, np.ndarray | np.generic) and hasattr(a, "__array__"):
        raise TypeError(f"asarray: {type(a)} is no array; CuPy would take it through the host in silence")
    values = np.array(a, dtype)
    if values.dtype.kind not in "fiubc":
        raise ValueError(f"Unsupported dtype {values.dtype}")
    if not values.ndim:  # which CuPy fills in, without a copy
        return wrap(*compute("fill", lambda: np.array(values)))
    refuse_while_capturing("H2D transfers")
    count("copies_to_device")
    return wrap(*memory.adopt(np.array(values, order="C")))


def array(obj: Any, dtype: Any = None, copy: bool = True, order: str = "K", subok: bool = False, ndmin: int = 0, *,
          blocking: bool = False) -> ndarray:  # fmt: skip
    """`asarray`, always in new memory unless ``copy`` is False."""
    return asarray(obj, dtype, copy=copy)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    """The array itself if it is C-contiguous, otherwise a copy that is.  Of 0-d arrays it makes 1-d ones."""
    a = asarray(a, dtype)
    if not a.ndim:
        return a.reshape(1)
    return a if a._array.flags.c_contiguous else a.copy()


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    """A copy on the host."""
    return a.get(stream, order, out) if isinstance(a, ndarray) else np.asarray(a)


class _Capsule:
    """An array on its way between libraries."""

    def __init__(self, array: ndarray) -> None:
        self.array = array


def _export(self: ndarray, *, stream: Any = None, max_version: Any = None, dl_device: Any = None,
            copy: Any = None) -> Any:  # fmt: skip
    """For `from_dlpack`: the same memory, on the device where it is."""
    if dl_device not in (None, (_CUDA, 0)):
        raise BufferError(f"the array is on the device {(_CUDA, 0)}, not {dl_device}")
    return _Capsule(self.copy() if copy else self)


ndarray.__dlpack__ = _export  # type: ignore[attr-defined]
ndarray.__dlpack_device__ = lambda self: (_CUDA, 0)  # type: ignore[attr-defined]


def from_dlpack(array: Any, *, device: Any = None, copy: Any = None) -> ndarray:
    """The same memory as another library's array on the device.

    Raises:
        BufferError: it is on the host, where nothing can be shared with it.
    """
    kind = array.__dlpack_device__()[0]
    if kind != _CUDA:
        raise BufferError(f"from_dlpack: the array is on a device of kind {int(kind)}, not on a CUDA device (2)")
    whole = array.__dlpack__(stream=None).array
    return part(whole, whole._array)


def _device(a: Any) -> ndarray:
    if not isinstance(a, ndarray):
        raise TypeError(f"Unsupported type {type(a)}")
    return a
