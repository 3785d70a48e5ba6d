"""Arrays that a thread keeps from one call of a kernel to the next, and views of them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from math import prod
from typing import Any

import numpy as np

from ...backend import empty, memory


class Shelf:
    """What a thread prepared last, by its sizes: a network asks for the same few again and again.

    Attributes:
        memory: for columns, see `Scratch`.
    """

    def __init__(self, most: int) -> None:
        self._most, self.memory = most, Scratch()
        self._things: dict[Hashable, Any] = {}
        _shelves.append(weakref.ref(self, _shelves.remove))

    def get(self, sizes: Hashable, make: Callable[[], Any]) -> Any:
        """What was made for these sizes before, or what ``make`` makes now."""
        things = self._things
        found = things.pop(sizes, None)
        if found is None:
            found = make()
            if len(things) >= self._most:
                things.pop(next(iter(things), None), None)
        things[sizes] = found  # at the end: the first is the one not used for longest
        return found

    def clear(self) -> None:
        """Let go of everything; who is using something holds it himself."""
        self._things.clear()
        self.memory.clear()


_shelves: list[weakref.ref[Shelf]] = []


def _let_go() -> None:
    for reference in list(_shelves):
        shelf = reference()
        if shelf is not None:
            shelf.clear()


memory.keepers.append(_let_go)


class Shelves(threading.local):
    """A `Shelf` for each thread, which it takes while it computes and then gives back.

    Whoever computes in the same thread meanwhile, in a signal handler or where Python drops an object, finds none and
    takes a new one: nobody writes into arrays that are in use.  After an exception the shelf is not given back.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._shelf: Shelf | None = None

    def take(self) -> Shelf:
        """This thread's shelf."""
        shelf, self._shelf = self._shelf, None
        return Shelf(self._most) if shelf is None else shelf

    def give(self, shelf: Shelf) -> None:
        """Put it back."""
        self._shelf = shelf


def view(array, first: int, shape: tuple[int, ...], strides: tuple[int, ...], element=None) -> np.ndarray:
    """The memory of ``array`` from number ``first`` on, seen with these strides, counted in numbers.

    Args:
        element: the dtype to see it in, if it is another.
    """
    size = array.itemsize
    return np.ndarray(shape, element or array.dtype, array, first * size, tuple(s * size for s in strides))


class Scratch:
    """Memory of a thread for columns: nobody needs them when the next are made, and it is in the cache already."""

    def __init__(self) -> None:
        self._memory: np.ndarray | None = None

    def array(self, shape: tuple[int, ...], dtype) -> np.ndarray:
        """An array of this shape with arbitrary contents, until the next array."""
        size, kept = prod(shape) * np.dtype(dtype).itemsize, self._memory
        if kept is None or size > kept.size:
            kept = self._memory = empty((max(size, 2 * kept.size if kept is not None else 0),), np.uint8)
        return np.ndarray(shape, dtype, kept)

    def clear(self) -> None:
        """Let go of it."""
        self._memory = None


def zeros(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Zeros in recycled memory."""
    result = empty(shape, dtype)
    result[...] = 0
    return result
