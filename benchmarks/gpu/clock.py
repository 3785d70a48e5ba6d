"""Time on the card: by events, in turns, the median of many.

`minires.bench.timing.alternate` lets the contenders take turns; its clock is told by events here.  An event is put into
the queue and nobody waits for it, so the difference of two is the time of what was put between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from minires.backend.graphs import Graph
from minires.bench.timing import Contender, alternate

from .lab import Lab

ROUNDS = 50
_MOST_CALLS = 2000


@dataclass(frozen=True)
class Work:
    """Something to be timed.

    Attributes:
        run: issues it; what it returns is kept until the clock has stopped.
        stream: where it runs.
        number: how often what is counted happens in a run.
        held: put large copies into the queue before, so that the host is ahead of the card: the card's time then, and
            not the host's.  They also empty the second-level cache.
        how: for the reader: "graph", "queue", "eager", ...
    """

    run: Callable[[], Any]
    stream: Any
    number: int = 1
    held: bool = False
    how: str = ""


class _Moment:
    def __init__(self, xp: Any, stream: Any) -> None:
        self._xp, self._event = xp, xp.cuda.Event()
        self._event.record(stream)

    def __sub__(self, earlier: _Moment) -> float:
        self._event.synchronize()
        return self._xp.cuda.get_elapsed_time(earlier._event, self._event) / 1e3


class DeviceClock:
    """Turns of `Work`, timed by events.

    Args:
        lab: where.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab, self._xp = lab, lab.xp
        self._stream = lab.stream
        self._source = self._target = None
        self._copy_seconds = 0.0

    def measure(
        self, works: Mapping[str, Work], turn: float = 5e-3, rounds: int | None = None
    ) -> dict[str, list[float]]:
        """Seconds of each work, one for each round: the mean over as many runs as take ``turn`` seconds."""
        rounds = self._lab.pick(rounds or ROUNDS, 1)
        contenders, numbers = {}, {}
        for name, work in works.items():
            calls = self._calls(work, self._lab.pick(turn, 0.0))
            contenders[name] = self._contender(work, calls)
            numbers[name] = calls * work.number
        clock = cast("Callable[[], float]", lambda: _Moment(self._xp, self._stream))
        found = alternate(contenders, rounds, 0.0, clock, rest=0.0)
        return {name: [s / numbers[name] for s in seconds] for name, seconds in found.items()}

    def _calls(self, work: Work, turn: float) -> int:
        for _ in range(self._lab.pick(3, 0)):  # kernels get compiled, graphs recorded
            self._once(work)
        return int(np.clip(turn / max(self._once(work), 1e-7), 1, _MOST_CALLS))

    def _once(self, work: Work) -> float:
        before = _Moment(self._xp, work.stream)
        result = work.run()
        seconds = _Moment(self._xp, work.stream) - before
        del result
        return seconds

    def _contender(self, work: Work, calls: int) -> Contender:
        copies = self._copies(self._once(work) * calls) if work.held else 0

        def prepare() -> tuple[()]:
            self._stream = work.stream
            with work.stream:
                for _ in range(copies):
                    self._xp.copyto(self._target, self._source)
            return ()

        if calls == 1:
            return Contender(work.run, prepare)
        return Contender(lambda: [work.run() for _ in range(calls)], prepare)

    def _copies(self, seconds: float) -> int:
        """How many large copies take longer than the host needs to issue what takes so long without them."""
        if self._source is None:
            count = self._lab.pick(1 << 27, 1 << 10)
            self._source, self._target = self._xp.ones(count, np.float32), self._xp.empty(count, np.float32)
            copy = Work(lambda: self._xp.copyto(self._target, self._source), self._xp.cuda.get_current_stream())
            self._copy_seconds = min(self._once(copy) for _ in range(5))
        return 2 if self._lab.rehearsal else 2 + int(seconds / self._copy_seconds)


def recorded(lab: Lab, function: Callable[[], Any], number: int) -> Work:
    """Launches of minires as a CUDA graph, or as they are behind a queue of copies where they cannot be recorded.

    Args:
        lab: where.
        function: issues ``number`` of what is timed, and returns what they wrote.
        number: see `Work`.
    """
    graph = Graph(function, 2, lab.stream)
    for _ in range(3):
        graph()
    if graph.problem is None:
        return Work(graph, graph.stream, number, held=True, how="graph")
    return queued(lab, function, number)


def queued(lab: Lab, function: Callable[[], Any], number: int) -> Work:
    """Launches of minires as they are, on the stream of the lab, behind a queue of copies."""

    def run() -> Any:
        with lab.stream:
            return function()

    lab.synchronize()
    return Work(run, lab.stream, number, held=True, how="queue")


def of_torch(lab: Lab, function: Callable[[], Any], number: int = 1, held: bool = False, how: str = "eager") -> Work:
    """A call of PyTorch, on the stream of the lab."""

    def run() -> Any:
        with lab.torch_stream():
            return function()

    return Work(run, lab.stream, number, held, how)


def turns(lab: Lab, bytes_of_a_set: int, flop: float = 0.0) -> tuple[int, int]:
    """How many sets of arrays to rotate, and how many launches: both outgrow the second-level cache.

    20 launches at least, unless one takes so long that there is nothing to be divided.
    """
    sets = int(np.clip(-(-3 * lab.l2 // max(1, bytes_of_a_set)), 1, lab.pick(64, 2)))
    large = bytes_of_a_set > 2 * lab.l2 and flop > 2e10
    launches = sets * (1 if large else -(-lab.pick(20, 2) // sets))
    return sets, launches


def in_turns(call: Callable[..., Any], sets: list[Any], launches: int) -> Callable[[], Any]:
    """So many calls, each with the next set of arrays, and a result of its own while there are sets."""

    def run() -> Any:
        kept: deque[Any] = deque(maxlen=len(sets))
        for i in range(launches):
            kept.append(call(*sets[i % len(sets)]))
        return kept

    return run
