"""CUDA graphs: the launches of a function recorded once, and replayed by one call.

A training step of a small network is some two hundred launches of a few microseconds each; to issue one from Python
takes longer than to run it.  A graph issues all of them at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from .arrays import cupy

WARM_UP = 3  # calls before a function is recorded: kernels get compiled, tables uploaded, memory allocated

_pending: list[Callable[[], Any]] | None = None  # while a graph is recorded: what is to be done when that is over


def capturing() -> bool:
    """Whether launches are being recorded instead of run: nothing can be copied from or to the host then."""
    return _pending is not None


def after_capture(action: Callable[[], Any]) -> None:
    """Do something now, or once the recording that is going on is over and before what it recorded is first run."""
    if _pending is None:
        action()
    else:
        _pending.append(action)


class Graph:
    """A function that always launches the same kernels on the same memory, recorded and replayed.

    The first calls run the function as it is.  The next one records it: Python goes through the function once more, the
    device does nothing; then, as in all calls that follow, the recording is run.  So whatever the function does on the
    host it does for the last time when it is recorded.  Numbers that change from call to call must lie on the device.

    The function's memory comes from a pool of its own, which lives as long as the graph.  Everything runs on `stream`;
    use the results inside ``with graph.stream:``.

    Args:
        function: called without arguments; what it returned when it was recorded is ``results``.  A subclass may define
            `run` instead.
        warm_up: calls that run as they are; None records nothing.
        stream: to run on; one of its own if left out.

    Attributes:
        problem: why the function could not be recorded, in a sentence, or None.  It is then run as it is.
        recorded: whether it was.
    """

    def __init__(
        self, function: Callable[[], Any] | None = None, warm_up: int | None = WARM_UP, stream: Any = None
    ) -> None:
        device = cupy().cuda
        self._function, self.warm_up = function, warm_up
        self.stream, self._pool = stream or device.Stream(non_blocking=True), device.MemoryPool()
        self._graph: Any = None
        self._calls = 0
        self.results: Any = None
        self.problem: str | None = None

    @property
    def recorded(self) -> bool:
        """Whether the function was recorded."""
        return self._graph is not None

    def run(self) -> Any:
        """What is recorded."""
        if self._function is None:
            raise NotImplementedError(f"{type(self).__name__} was given no function and has no run method.")
        return self._function()

    def __call__(self) -> Any:
        """Run the function, or what was recorded of it; its results."""
        warm = self.warm_up is not None and self._calls >= self.warm_up
        if warm and self._graph is None and self.problem is None:
            self._record()
        self._calls += 1
        if self._graph is None:
            with self.stream, self._own_memory():
                self.results = self.run()
        else:
            self._graph.launch(self.stream)
        return self.results

    def _record(self) -> None:
        global _pending
        self.stream.synchronize()
        self.results = None
        _pending = []
        with self.stream, self._own_memory():
            self.stream.begin_capture()
            try:
                try:
                    self.results = self.run()
                finally:
                    actions, _pending = _pending, None
                    graph = self.stream.end_capture()
            except Exception as error:  # whatever it was, the step can still be run as it is
                self.results = None
                self.problem = f"the step cannot be recorded as a CUDA graph and runs launch by launch: {error}"
                return
            for action in actions:
                action()
        self._graph = graph

    @contextlib.contextmanager
    def _own_memory(self) -> Iterator[None]:
        with cupy().cuda.using_allocator(self._pool.malloc):
            yield
