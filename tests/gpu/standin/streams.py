"""Streams, events, and graphs: work that is recorded once and run again on the same memory.

As on a card, nothing that is captured happens while it is captured: what was computed, so that shapes are known and
indices make sense, is undone at the end.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from . import memory
from .launches import count, quietly
from .memory import here


class CUDARuntimeError(RuntimeError):
    """What the CUDA runtime answers to a call that it cannot serve."""

    def __init__(self, status: str) -> None:
        self.status = status
        super().__init__(f"{status}: {_MEANINGS.get(status, 'see the CUDA runtime API')}")


_MEANINGS = {
    "cudaErrorStreamCaptureUnsupported": "operation not permitted when stream is capturing",
    "cudaErrorStreamCaptureInvalidated": "operation failed due to a previous error during capture",
    "cudaErrorIllegalState": "the operation cannot be performed in the present state",
    "cudaErrorIllegalAddress": "an illegal memory access was encountered",
    "cudaErrorInvalidDevice": "invalid device ordinal",
    "cudaErrorNoDevice": "no CUDA-capable device is detected",
}


def refuse_while_capturing(what: str) -> None:
    """Raise what CuPy raises for host traffic during capture."""
    if memory.capturing() is not None:
        raise RuntimeError(f"the current stream is capturing, so {what} are disallowed")


def synchronised() -> None:
    """The host has waited for the device."""
    count("synchronisations")


class _Capture:
    """What a stream was asked to do since `Stream.begin_capture`."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], object]] = []
        self.used: dict[int, tuple[np.ndarray, weakref.ref, weakref.ref]] = {}  # by address: bytes, owner, pool
        self.before: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by address: bytes, what was in them
        self.invalid = False

    def record(self, step: Callable[[], object], memories: tuple[memory.Memory, ...]) -> None:
        self.steps.append(step)
        for used in memories:
            self.used[id(used.root)] = used.root, weakref.ref(used), used.pool

    def before_writing(self, written: memory.Memory) -> None:
        if id(written.root) not in self.before:
            self.before[id(written.root)] = written.root, written.root.copy()

    def undo(self) -> None:
        for root, content in self.before.values():
            root[...] = content


class Graph:
    """Captured work.  `launch` does it again, on the same memory, which must still be there."""

    def __init__(self, capture: _Capture) -> None:
        self._steps, self._used = capture.steps, list(capture.used.values())

    def launch(self, stream: Any = None) -> None:
        """All of it, in the order of capture."""
        if (stream or get_current_stream())._capture is not None:
            raise NotImplementedError("the stand-in does not capture a graph inside another one")
        for root, owner, pool in self._used:
            if owner() is None and not (pool() and pool()._holds(root)):
                raise CUDARuntimeError("cudaErrorIllegalAddress")  # freed since: on a card, perhaps somebody else's
        count("launches", "graph")
        for step in self._steps:
            quietly(step)

    def upload(self, stream: Any = None) -> None:
        """Nothing to do here."""


class Stream:
    """A queue of work.  Everything here is done at once, so only what may not be asked of it matters."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        self.is_null, self.is_non_blocking = null, non_blocking
        self._capture: _Capture | None = None
        self._outer: list[Any] = []

    @property
    def ptr(self) -> int:
        """0 for the null stream."""
        return 0 if self.is_null else id(self)

    @property
    def done(self) -> bool:
        """Whether all work is finished; may not be asked during capture."""
        self._not_capturing()
        return True

    def __enter__(self) -> Stream:
        self._outer.append(here.stream)
        here.stream = self
        return self

    def __exit__(self, *exception: Any) -> None:
        here.stream = self._outer.pop()

    def use(self) -> Stream:
        """Make this the current stream of the thread."""
        here.stream = self
        return self

    def synchronize(self) -> None:
        """Wait for the device."""
        self._not_capturing()
        synchronised()

    def record(self, event: Event | None = None) -> Event:
        """Note the time of this point in the queue."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Nothing to do here: work is done in order anyway."""

    def begin_capture(self, mode: Any = None) -> None:
        """From now on record what this stream is asked to do."""
        if self.is_null:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if not self.is_non_blocking:
            raise RuntimeError("capture needs Stream(non_blocking=True): this one waits for the legacy stream")
        if self._capture is not None:
            raise CUDARuntimeError("cudaErrorIllegalState")
        self._capture = _Capture()

    def end_capture(self) -> Graph:
        """What was recorded, as a graph.  Nothing of it has happened yet."""
        capture, self._capture = self._capture, None
        if capture is None:
            raise CUDARuntimeError("cudaErrorIllegalState")
        capture.undo()
        if capture.invalid:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated")
        return Graph(capture)

    def is_capturing(self) -> bool:
        """Whether work is recorded."""
        return self._capture is not None

    def _not_capturing(self) -> None:
        if self._capture is not None:
            self._capture.invalid = True
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported")


Stream.null = Stream(null=True)


def get_current_stream() -> Stream:
    """The stream that this thread's work goes to."""
    return here.stream or Stream.null


class Event:
    """A point in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self._time: float | None = None
        self.done = True

    def record(self, stream: Stream | None = None) -> None:
        """Set it here."""
        self._time = time.perf_counter()

    def synchronize(self) -> None:
        """Wait for it."""
        get_current_stream()._not_capturing()
        synchronised()


def get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds between two events."""
    if start._time is None or end._time is None:
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle")
    return 1e3 * (end._time - start._time)
