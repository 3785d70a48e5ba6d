"""Arrays that come from other libraries and go to them, without a copy where both see the same memory (DLPack)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import asnumpy as _asnumpy
from ..backend import cupy
from ..errors import ArgumentError, DeviceError
from .tensor import Tensor

_CPU, _CUDA, _PINNED, _MANAGED = 1, 2, 3, 13  # DLDeviceType in dlpack.h


def asnumpy(value: Any) -> np.ndarray:
    """A tensor or array as a NumPy array: the same memory on the CPU, a copy of it from a GPU."""
    return value.numpy() if isinstance(value, Tensor) else _asnumpy(value)


def from_dlpack(value: Any) -> Tensor:
    """A Tensor in the memory of another library's array, on the device where that is.

    Changes on either side are seen on the other, but not by the clock that protects a graph: make them before
    the forward pass or after the backward.

    Args:
        value: anything with ``__dlpack__``: an array of NumPy, CuPy, PyTorch, JAX, ...

    Raises:
        ArgumentError: it has no ``__dlpack__``, or does not give its memory away.
        DeviceError: it is on a device that minires does not compute on.
    """
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        raise ArgumentError(
            f"from_dlpack: {type(value).__name__} has no __dlpack__. For lists and numbers there is minires.tensor."
        )
    kind = int(value.__dlpack_device__()[0])
    if kind not in (_CPU, _CUDA, _PINNED, _MANAGED):
        raise DeviceError(f"from_dlpack: the array is on a device of DLPack's kind {kind}. Move it to the CPU first.")
    xp = cupy() if kind in (_CUDA, _MANAGED) else np
    try:  # NumPy 1 gives an array that cannot be written to; of its own it need not be asked
        array = value if isinstance(value, np.ndarray) else xp.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(f"from_dlpack: {type(value).__name__} does not give its memory away: {error}") from error
    return Tensor(array)
