"""Device memory: who owns which bytes, pools that hand them out again, a limit, poison in what nobody has written."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

_ALIGNMENT = 512  # bytes; a pool gives out multiples
_FENCE = 64  # bytes behind an array
_TOTAL = 16 << 30  # bytes of the pretended card, unless a limit is set


class OutOfMemoryError(MemoryError):
    """The device has no memory left for an array."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        limited = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited}).")


class Memory:
    """The bytes of an array and its views.  When nobody holds it any more, they go back to where they came from.

    ``fence``, where there is one, are the bytes behind them, all 0xFF: a kernel must not write there, and what it reads
    there is NaN.
    """

    __slots__ = ("__weakref__", "fence", "pool", "root", "size")

    def __init__(self, root: np.ndarray, size: int, pool: weakref.ref[MemoryPool]) -> None:
        self.root, self.size, self.pool, self.fence = root, size, pool, None

    def __del__(self) -> None:
        pool = self.pool()
        if pool is not None:
            pool._take_back(self)
        elif card is not None:  # which it may be when the interpreter ends
            card.give(self.size)

    @property
    def bytes(self) -> np.ndarray:
        """All of it, one byte after the other."""
        return self.root.reshape(-1).view(np.uint8)


class MemoryPointer:
    """A place in device memory; ``pointer + n`` lies n bytes further on."""

    def __init__(self, mem: Memory, offset: int) -> None:
        self.mem, self._offset = mem, offset

    @property
    def ptr(self) -> int:
        """The address."""
        return self.mem.bytes.ctypes.data + self._offset

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self._offset + offset)

    def _view(self, shape: tuple[int, ...], dtype: np.dtype, strides: Any = None) -> np.ndarray:
        """A NumPy view of what is there."""
        return np.ndarray(shape, dtype, self.mem.bytes, self._offset, strides)


class _Card:
    """What is left of the memory."""

    def __init__(self) -> None:
        self.taken, self.limit = 0, _TOTAL
        self.lock = threading.Lock()

    def take(self, size: int) -> None:
        with self.lock:
            if self.taken + size > self.limit:
                raise OutOfMemoryError(size, self.taken, self.limit if self.limit != _TOTAL else 0)
            self.taken += size

    def give(self, size: int) -> None:
        with self.lock:
            self.taken -= size


card = _Card()


@contextlib.contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Let the card have so many bytes: what does not fit raises OutOfMemoryError."""
    before, card.limit = card.limit, size
    try:
        yield
    finally:
        card.limit = before


class MemoryPool:
    """Memory that is used again when its array is gone, in blocks of one size.

    Its free blocks stay valid for a graph that was captured with them; `free_all_blocks`, or the end of the pool, takes
    them away.
    """

    def __init__(self, allocator: Any = None) -> None:
        self._free: dict[int, list[np.ndarray]] = {}
        self._used, self._limit = 0, 0

    def malloc(self, size: int) -> MemoryPointer:
        """Memory of at least this size, poisoned nowhere: what an earlier array left in it is still there."""
        size = -(-size // _ALIGNMENT) * _ALIGNMENT
        free = self._free.get(size)
        if free:
            root = free.pop()
        else:
            if self._limit and self.total_bytes() + size > self._limit:
                raise OutOfMemoryError(size, self.total_bytes(), self._limit)
            card.take(size)
            root = np.full(size, 0xFF, np.uint8)  # NaN, read as floating point
        self._used += size
        return MemoryPointer(Memory(root, size, weakref.ref(self)), 0)

    def _take_back(self, memory: Memory) -> None:
        self._used -= memory.size
        self._free.setdefault(memory.size, []).append(memory.root)

    def _holds(self, root: np.ndarray) -> bool:
        """Whether these bytes are free, but still the pool's."""
        return any(root is block for block in self._free.get(root.nbytes, ()))

    def free_all_blocks(self, stream: Any = None) -> None:
        """Give what is free back to the card."""
        card.give(self.free_bytes())
        self._free.clear()

    def used_bytes(self) -> int:
        """Bytes of living arrays."""
        return self._used

    def free_bytes(self) -> int:
        """Bytes that wait for an array of their size."""
        return sum(size * len(blocks) for size, blocks in self._free.items())

    def total_bytes(self) -> int:
        """All of it."""
        return self.used_bytes() + self.free_bytes()

    def n_free_blocks(self) -> int:
        """How many blocks wait."""
        return sum(map(len, self._free.values()))

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """Raise OutOfMemoryError beyond so many bytes; 0 for no limit."""
        self._limit = int(fraction * _TOTAL) if size is None else size  # type: ignore[operator]

    def get_limit(self) -> int:
        """The limit, 0 for none."""
        return self._limit

    def __del__(self) -> None:
        if card is not None:
            card.give(self.free_bytes())


class _DefaultPool(MemoryPool):
    """Where arrays come from if nobody says otherwise.  Nothing is used twice: NumPy's memory is as good."""

    def adopt(self, values: np.ndarray) -> Memory:
        """The owner of a fresh NumPy array."""
        size = values.nbytes
        if self._limit and self._used + size > self._limit:
            raise OutOfMemoryError(size, self._used, self._limit)
        card.take(size)
        self._used += size
        return Memory(values, size, _default)

    def malloc(self, size: int) -> MemoryPointer:
        return MemoryPointer(self.adopt(np.empty(size, np.uint8)), 0)

    def _take_back(self, memory: Memory) -> None:
        self._used -= memory.size
        card.give(memory.size)


default_pool = _DefaultPool()
_default = weakref.ref(default_pool)


class _Here(threading.local):
    """What holds in this thread."""

    allocator: Callable[[int], MemoryPointer] | None = None  # None for the default pool
    stream: Any = None  # None for the null stream


here = _Here()


def capturing() -> Any:
    """The capture that the current stream of this thread is in, or None."""
    return None if here.stream is None else here.stream._capture


def adopt(values: np.ndarray) -> tuple[np.ndarray, Memory]:
    """The values in memory of the current allocator, and who owns it."""
    if here.allocator is None:
        _not_while_capturing()
        return values, default_pool.adopt(values)
    array, owner = _from_allocator(values.shape, values.dtype)
    array[...] = values
    return array, owner


def blank(shape: tuple[int, ...], dtype: Any) -> tuple[np.ndarray, Memory]:
    """Memory in which nothing was written yet: NaN, or a large odd number, so that whoever reads it is found out."""
    dtype = np.dtype(dtype)
    if here.allocator is None:
        _not_while_capturing()
        size = prod(shape) * dtype.itemsize
        both = np.empty(size + _FENCE, np.uint8)
        array = np.ndarray(shape, dtype, both)
        owner = default_pool.adopt(array)
        owner.fence = both[size:]
        owner.fence[...] = 0xFF
    else:
        array, owner = _from_allocator(shape, dtype)
    array[...] = poison(dtype)
    return array, owner


def poison(dtype: np.dtype) -> Any:
    """What stands in memory that nobody has written."""
    return np.nan if dtype.kind == "f" else True if dtype.kind == "b" else np.iinfo(dtype).max - 10


def _from_allocator(shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, Memory]:
    pointer = here.allocator(prod(shape) * dtype.itemsize)  # type: ignore[misc]
    if (capture := capturing()) is not None:
        capture.before_writing(pointer.mem)
    return pointer._view(shape, dtype), pointer.mem


def _not_while_capturing() -> None:
    if capturing() is not None:
        raise RuntimeError(
            "an array was allocated from the default pool while a graph is being captured: its memory would be handed "
            "to somebody else between replays. Capture inside cupy.cuda.using_allocator(pool.malloc)."
        )


@contextlib.contextmanager
def using_allocator(allocator: Callable[[int], MemoryPointer] | None = None) -> Iterator[None]:
    """Take the memory of arrays from this allocator, in this thread."""
    before, here.allocator = here.allocator, _unless_default(allocator)
    try:
        yield
    finally:
        here.allocator = before


def _unless_default(allocator: Any) -> Any:
    return None if getattr(allocator, "__self__", None) is default_pool else allocator
