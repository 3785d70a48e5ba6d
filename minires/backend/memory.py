"""Large arrays, recycled: a fresh one costs a page fault for every 4 KiB, one that was used before costs nothing.

An array from `empty` lies in a block.  Every view of it, anybody's, keeps the block alive (NumPy's ``.base``); when the
last one is gone Python drops the block, and the block hands its memory back to be used again.  So nothing has to be
returned by hand, and memory that somebody can still see is never used twice.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

_PAGE = 4096
_SMALLEST = 1 << 16  # bytes; below, malloc is as good
# bytes that may be idle however little was in use: one small picture after the other needs a few arrays of many sizes,
# and to drop one size for the next cost an eighth of the time
_SPARE = 1 << 24


class _Memory(np.ndarray):
    """Bytes.  A type of its own, because NumPy's views skip a base that is of their own type."""


class _Store:
    """Idle memory by size.  The total, idle and in use, never exceeds what was in use at some time, or `_SPARE`."""

    def __init__(self) -> None:
        self.renew_lock()
        # what blocks have handed back.  Without a lock: Python may drop a block at any moment, inside `take` too, and
        # right after a fork, when another thread's locks will never be released
        self._returned: deque[np.ndarray] = deque()
        self._idle: dict[int, list[np.ndarray]] = {}  # by size, the size used last at the end
        self.in_use = self.idle = self.peak = 0  # bytes

    def renew_lock(self) -> None:
        """After a fork: another thread may have held it."""
        self._lock, self._busy = threading.RLock(), False

    def take(self, size: int) -> np.ndarray | None:
        """Memory of this size; None for a signal handler, or a destructor, that runs while this thread is in here."""
        with self._lock:
            if self._busy:
                return None
            self._busy = True
            try:
                return self._taken(size)
            finally:
                self._busy = False

    def _taken(self, size: int) -> np.ndarray:
        self._collect()
        found = self._idle.pop(size, None)
        if found:
            memory = found.pop()
            self.idle -= size
            if found:
                self._idle[size] = found
        else:
            self._forget(self.in_use + size + self.idle - max(self.peak, self.in_use + size, _SPARE))
            memory = _Memory(size, np.uint8)
        self.in_use += size
        self.peak = max(self.peak, self.in_use)
        return memory

    def give(self, memory: np.ndarray) -> None:
        self._returned.append(memory)

    def _collect(self) -> None:
        while self._returned:
            memory = self._returned.popleft()
            self._idle.setdefault(memory.nbytes, []).append(memory)
            self.in_use -= memory.nbytes
            self.idle += memory.nbytes

    def sizes(self) -> tuple[int, int]:
        with self._lock:
            if not self._busy:
                self._collect()
            return self.in_use, self.idle

    def _forget(self, excess: int) -> None:
        while excess > 0 and self._idle:
            size = next(iter(self._idle))
            self._idle[size].pop()
            if not self._idle[size]:
                del self._idle[size]
            self.idle -= size
            excess -= size

    def forget_all(self) -> None:
        with self._lock:
            if not self._busy:
                self._collect()
                self._idle.clear()
                self.idle, self.peak = 0, self.in_use


_store = _Store()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_store.renew_lock)


class _Block(np.ndarray):
    """The memory of one array.  Its ``base`` owns the bytes; views of the array have the block as theirs."""

    parent: np.ndarray | None

    def __array_finalize__(self, parent: Any) -> None:
        self.parent = parent if isinstance(parent, _Block) else None  # a part of a block keeps the block

    def __del__(self, store: _Store = _store) -> None:  # an argument: at exit the module may have lost its names
        if self.parent is None and self.base is not None:
            store.give(self.base)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of this shape with arbitrary contents, C-contiguous, in recycled memory if it is large."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    if size < _SMALLEST:
        return np.empty(shape, dtype)
    memory = _store.take(-(-size // _PAGE) * _PAGE)
    return np.empty(shape, dtype) if memory is None else np.ndarray(shape, dtype, memory.view(_Block))


def times(a: Any, b: Any) -> Any:
    """a * b, of the shape and dtype of a; on the CPU in recycled memory.

    One picture after the other through ResNet-20 took a sixth longer by the page faults of fresh memory for filters.
    """
    return np.multiply(a, b, out=empty(a.shape, a.dtype)) if isinstance(a, np.ndarray) else a * b


keepers: list[Callable[[], None]] = []  # what to call when those who keep arrays are to let go of them


def empty_cache() -> None:
    """Give idle memory back to the system: large arrays that are no longer used are otherwise kept for the next.

    The buffers that the kernels' threads keep are let go, too.
    """
    for let_go in reversed(keepers):  # who came later stands on those before
        let_go()
    _store.forget_all()


def memory_in_use() -> tuple[int, int]:
    """Bytes of large arrays from the kernels that are alive, and bytes kept idle for the next ones."""
    return _store.sizes()
