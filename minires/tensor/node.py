"""A node of the graph: one operation, what its backward pass needs, and whether that is still what it was.

A graph holds nodes, not tensors: a node knows the arrays its backward needs (only those it asked to save) and where the
gradients go next.  References point from the loss towards the leaves and never back, so dropping the loss frees it all.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import sys
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import Array, asnumpy, on_gpu
from ..errors import GraphError

if TYPE_CHECKING:
    from .tensor import Tensor

_PARTS = 64  # of one memory that are told apart
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def storage(array: Array) -> Any:
    """The object that owns an array's memory, or the memory of which it is a part."""
    while (base := getattr(array, "base", None)) is not None:  # a Function may save a plain number too
        array = base
    return array.obj if isinstance(array, memoryview) else array


def _bounds(array: Array) -> tuple[int, int]:
    """From which address to which an array lies."""
    first = array.data.ptr if on_gpu(array) else array.__array_interface__["data"][0]
    ends = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    return first + sum(e for e in ends if e < 0), first + sum(e for e in ends if e > 0) + array.itemsize


class _Clock:
    """Counts the changes that are made to tensors, and knows which memory changed when, if they were made in place.

    While it stands still, no tensor has changed a saved array.
    """

    def __init__(self) -> None:
        self.now = 0
        # by the id of a memory: its parts that were changed, each from one address to another, and when that was last
        self._changes: dict[int, dict[tuple[int, int], int]] = {}
        self._alive: dict[int, Any] = {}  # what forgets them when that memory is no more
        self.renew_lock()

    def renew_lock(self) -> None:
        """After a fork: another thread may have held it."""
        self.lock = threading.RLock()  # what a signal handler changes may interrupt a note

    def tick(self) -> None:
        """A tensor has another array now; no memory has changed."""
        with self.lock:
            self.now += 1

    def note(self, array: Array) -> None:
        """The array is changed in place now."""
        memory, part = storage(array), _bounds(array)
        with self.lock:  # or else the clock might be set back by another thread
            self.now += 1
            parts = self._changes.get(id(memory))
            if parts is None:
                parts = self._changes[id(memory)] = self._parts_of(memory)
            parts[part] = self.now
            if len(parts) > _PARTS:
                self._changes[id(memory)] = _merged(parts)

    def _parts_of(self, memory: Any) -> dict[tuple[int, int], int]:
        """No parts yet, of a memory that was not known; they are forgotten when it is gone."""
        key = id(memory)
        with contextlib.suppress(TypeError):  # of bytes and the like nobody can be told
            self._alive[key] = weakref.ref(memory, lambda _: (self._changes.pop(key, 0), self._alive.pop(key, 0)))
        return {}

    def changed(self, arrays: Iterable[Array], then: int) -> bool:
        """Whether one of these arrays, there since ``then``, was changed since, through whatever view of its memory.

        An id is enough to know the memory by: the array keeps its own alive, so nothing else had that id meanwhile.
        """
        for array in arrays:
            for (low, high), when in list(self._changes.get(id(storage(array)), {}).items()):
                if when > then:
                    first, last = _bounds(array)
                    if first < high and low < last:
                        return True
        return False


def _merged(parts: dict[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """Parts that touch each other made one; all of them, if they are still too many."""
    merged: list[tuple[int, int, int]] = []
    for (first, last), when in sorted(parts.items()):
        if merged and first <= merged[-1][1]:
            low, high, before = merged.pop()
            first, last, when = low, max(high, last), max(before, when)
        merged.append((first, last, when))
    if 2 * len(merged) > _PARTS:
        merged = [(merged[0][0], max(high for _, high, _ in merged), max(when for _, _, when in merged))]
    return {(first, last): when for first, last, when in merged}


clock = _Clock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=clock.renew_lock)


class Node:
    """One recorded operation, and the ``ctx`` of its `Function`.

    Attributes:
        needs_input_grad: for each input, whether its gradient is wanted; ask before computing it.
        saved: the arrays given to `save_for_backward`, checked to be as they were.

    The other names in ``__slots__`` are the engine's own, not for what a Function keeps.
    """

    # __dict__ is there for what a Function keeps beside its arrays: ctx.axis = axis
    __slots__ = ("__dict__", "function", "hooks", "like", "needs_input_grad", "parents", "saved_arrays", "saved_at")
    # filled in by `Function.apply`: a call of __init__ takes 0.04 us
    function: Any
    needs_input_grad: tuple[bool, ...]
    parents: Sequence[Node | Tensor | None] | None
    like: tuple[tuple[int, ...], np.dtype]  # of the output
    hooks: list[Callable] | None
    saved_arrays: tuple[Array | None, ...] | None
    saved_at: int  # by the clock
    call_site = ""  # where the operation was called, if anomalies are looked for

    @property
    def name(self) -> str:
        """What error messages call this operation."""
        return self.function.__name__

    def save_for_backward(self, *arrays: Array | None) -> None:
        """Keep these arrays for `backward`.  Save little: they stay in memory until the backward pass has used them."""
        self.saved_arrays = arrays
        self.saved_at = clock.now

    @property
    def saved(self) -> tuple[Any, ...]:
        """The arrays given to `save_for_backward`.

        Raises:
            GraphError: the graph was released, or one of the arrays was changed in place since.
        """
        arrays = self.saved_arrays
        if arrays is None:
            raise GraphError(RELEASED)
        if arrays and clock.now != self.saved_at and clock.changed(arrays, self.saved_at):
            raise self._stale()
        return arrays

    def _stale(self) -> GraphError:
        return GraphError(
            f"backward of {self.name}: an array that it saved in the forward pass was changed in place since, so "
            f"its gradient would be wrong{self.call_site and ' (called at ' + self.call_site + ')'}. "
            "Change a copy instead, or make the change after backward()."
        )

    def release(self) -> None:
        """Forget everything that only a backward pass needs."""
        self.parents = self.saved_arrays = self.hooks = None  # a hook may hold the tensor it was registered on
        self.__dict__.clear()


class WatchedNode(Node):
    """A node under `detect_anomaly`, which knows where it was called and notices a change behind the engine's back."""

    __slots__ = ()

    def __init__(self) -> None:
        self.call_site = _call_site()

    def save_for_backward(self, *arrays: Array | None) -> None:
        """Keep these arrays for `backward`, and what they hold now."""
        super().save_for_backward(*arrays)
        self.__dict__["_fingerprints"] = [_fingerprint(a) for a in arrays]

    @property
    def saved(self) -> tuple[Any, ...]:
        """The arrays given to `save_for_backward`, if they hold what they held then."""
        arrays = super().saved
        if arrays and self.__dict__["_fingerprints"] != [_fingerprint(a) for a in arrays]:
            raise self._stale()
        return arrays


RELEASED = (
    "backward: this graph was released by an earlier backward(). Run the forward pass again, or pass "
    "retain_graph=True to the first backward()."
)


def _call_site() -> str:
    """``file:line: source`` of the innermost frame outside minires."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    return f"{os.path.basename(file)}:{line}: {linecache.getline(file, line).strip()}".rstrip(": ")


def _fingerprint(array: Array | None) -> int:
    return 0 if array is None else zlib.crc32(np.ascontiguousarray(asnumpy(array)).tobytes())
