"""Arrays that a thread keeps from one call of a kernel to the next, and views of them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from math import prod
from typing import Any

import numpy as np

from ...backend import empty, memory


class _Shelf:
    """What one thread keeps; the last of it was used last."""

    def __init__(self) -> None:
        self.things: dict[Hashable, Any] = {}
        _shelves.add(self)


_shelves: weakref.WeakSet[_Shelf] = weakref.WeakSet()


def _let_go() -> None:
    for shelf in list(_shelves):
        shelf.things.clear()  # who is using something holds it himself


memory.keepers.append(_let_go)


class Kept(threading.local):
    """What a thread prepared last, by its sizes: a network asks for the same few again and again."""

    def __init__(self, most: int) -> None:
        self.most, self.shelf = most, _Shelf()

    def get(self, sizes: Hashable, make: Callable[[], Any]) -> Any:
        """What was made for these sizes before, or what ``make`` makes now."""
        things = self.shelf.things
        found = things.pop(sizes, None)
        if found is None:
            found = make()
            if len(things) >= self.most:
                del things[next(iter(things))]
        things[sizes] = found  # at the end: the first is the one not used for longest
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
        self.shelf = _Shelf()

    def array(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """An array of this shape with arbitrary contents, until this thread's next array."""
        size = prod(shape) * np.dtype(dtype).itemsize
        kept = self.shelf.things.get("memory")
        if kept is None or size > kept.size:
            kept = empty((max(size, 2 * kept.size if kept is not None else 0),), np.uint8)
            self.shelf.things["memory"] = kept
        return np.ndarray(shape, dtype, kept)


scratch = Scratch()


def zeros(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Zeros in recycled memory."""
    result = empty(shape, dtype)
    result[...] = 0
    return result
