"""Reading and writing through an index."""

from __future__ import annotations

from typing import Any

import numpy as np

from .launches import change, compute, count
from .streams import refuse_while_capturing, synchronised


def resolve(index: Any) -> tuple[Any, ...]:
    """The index with NumPy views in place of device arrays.

    Raises:
        TypeError: a host array, which CuPy would copy to the device without a word.
    """
    return tuple(_one(i) for i in (index if isinstance(index, tuple) else (index,)))


def _one(index: Any) -> Any:
    from .array import ndarray

    if isinstance(index, ndarray):
        if index.dtype.kind not in "iub":
            raise IndexError(f"arrays used as indices must be of integer or boolean type, got {index.dtype}")
        if index.dtype.kind == "b":
            refuse_while_capturing("synchronous API calls")  # how many there are decides the shape
            synchronised()
        return index._array
    if isinstance(index, np.ndarray):
        raise TypeError(f"an index is a NumPy array {index.shape}, which CuPy would copy to the device in silence")
    if isinstance(index, list):
        refuse_while_capturing("H2D transfers")
        count("copies_to_device")
        return np.array(index, np.intp if not index else None)
    return index


def fetch(array: Any, index: Any) -> Any:
    """A NumPy view for a basic index, otherwise a new array and its memory: one launch, and no index out of range."""
    from .array import ndarray

    resolved, values = resolve(index), array._array
    if not any(isinstance(i, np.ndarray) for i in resolved):
        return values[resolved if Ellipsis in resolved else (*resolved, ...)]
    reads = [i._memory for i in (index if isinstance(index, tuple) else (index,)) if isinstance(i, ndarray)]
    return compute("getitem", lambda: np.array(values[resolved], order="C"), array._memory, *reads)


def store(array: Any, index: Any, value: Any) -> None:
    """One launch: copies a device array or repeats a number.  A host array is refused, as CuPy does."""
    from .array import NUMBERS, ndarray, part, writable

    resolved = resolve(index)
    advanced = any(isinstance(i, np.ndarray) for i in resolved)
    if not advanced:
        array = part(array, array._array[resolved if Ellipsis in resolved else (*resolved, ...)])
        resolved = (...,)
    if not isinstance(value, ndarray):
        if isinstance(value, np.ndarray) and (value.ndim or advanced):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if isinstance(value, (np.ndarray, *NUMBERS)) and not advanced:
            array.fill(value)
            return
        if not isinstance(value, NUMBERS):
            raise TypeError(f"Unsupported type {type(value)}")
    values, source = writable(array), value._array if isinstance(value, ndarray) else value
    if isinstance(value, ndarray):
        if (value.data.ptr, source.shape, source.strides) == (array.data.ptr, values.shape, values.strides):
            return  # CuPy leaves an array that is assigned to itself alone
        if np.may_share_memory(source, values):
            count("launches", "copy")
    reads = [value._memory] if isinstance(value, ndarray) else []
    given = index if isinstance(index, tuple) else (index,)
    reads += [i._memory for i in given if isinstance(i, ndarray)]

    def write() -> None:
        values[resolved] = source

    change("setitem", write, array._memory, *reads)
