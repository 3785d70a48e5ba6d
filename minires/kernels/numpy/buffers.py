"""Arrays that a thread keeps from one call of a kernel to the next, and views of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from math import prod
from typing import Any

import numpy as np

from ...backend import empty


class Kept(threading.local):
    """What a thread prepared last, by its sizes: a network asks for the same few again and again."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.buffers: dict[Hashable, Any] = {}

    def get(self, sizes: Hashable, make: Callable[[], Any]) -> Any:
        """What was made for these sizes before, or what ``make`` makes now."""
        found = self.buffers.pop(sizes, None)
        if found is None:
            found = make()
            if len(self.buffers) == self.most:
                del self.buffers[next(iter(self.buffers))]
        self.buffers[sizes] = found  # at the end: the first is the one not used for longest
        return found


def view(array, first: int, shape: tuple[int, ...], strides: tuple[int, ...], element=None) -> np.ndarray:
    """The memory of ``array`` from number ``first`` on, seen with these strides, counted in numbers.

    Args:
        element: the dtype to see it in, if it is another.
    """
    size = array.itemsize
    return np.ndarray(shape, element or array.dtype, array, first * size, tuple(s * size for s in strides))


class Scratch(threading.local):
    """Memory of a thread for columns: nobody needs them when the next are made, and it is in the cache already."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """An array of this shape with arbitrary contents, for a short time."""
        size = prod(shape) * np.dtype(dtype).itemsize
        if size > self.memory.size:
            self.memory = empty((max(size, 2 * self.memory.size),), np.uint8)
        return np.ndarray(shape, dtype, self.memory)


scratch = Scratch()


def zeros(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Zeros in recycled memory."""
    result = empty(shape, dtype)
    result[...] = 0
    return result
