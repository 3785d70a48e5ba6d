"""Times that can be compared: contenders take turns, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

TURN = 0.02  # seconds: long enough for the caches
# Seconds before a turn, until the threads of the contender before are asleep.  OpenMP's, which PyTorch uses, go on
# looking for work for some milliseconds; on two cores that made 10 of the 140 ms of whoever came after them.
REST = 0.03
BLAS_AWAKE = 0.15  # seconds: those of OpenBLAS for 2^28 ticks of the processor's clock, 105 ms of 2.6 GHz


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Attributes:
        work: what is timed.  What it returns is kept until the clock has stopped.
        prepare: makes its arguments, as a tuple, before each call; this is not timed.
        awake: seconds for which its threads look for work when it has done its own, if these are many.
    """

    work: Callable[..., Any]
    prepare: Callable[[], tuple[Any, ...]] = tuple
    awake: float = 0.0


Contenders = Mapping[str, Contender | Callable[[], Any]]


@dataclass(frozen=True)
class Spread:
    """The median of several values, and the quartiles below and above it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Any) -> Spread:
        """Of one number or more."""
        low, median, high = np.percentile(np.asarray(values, float), (25, 50, 75))
        return cls(float(median), float(low), float(high))

    @classmethod
    def of_ratios(cls, ours: Any, theirs: Any) -> Spread:
        """Of ours / theirs, round by round: a slow moment of the machine is in both and cancels."""
        return cls.of(np.asarray(ours, float) / np.asarray(theirs, float))


def alternate(
    contenders: Contenders,
    rounds: int,
    turn: float = TURN,
    clock: Callable[[], float] = time.perf_counter,
    into: dict[str, list[float]] | None = None,
    rest: float = REST,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, list[float]]:
    """Let A, B, C, A, B, C, ... have their turns; the mean seconds of a call, one for each round.

    Everybody is called twice to warm up.  A turn is as many calls as take about ``turn`` seconds, one at least.  Before
    it there is a rest, if there are several contenders, and of short calls another one that is not counted: it wakes
    who has fallen asleep.  The garbage collector waits until the end.

    Args:
        contenders: what to time, by name: a `Contender`, or a function without arguments.
        rounds: turns that each of them has, at least one.
        turn: seconds.
        clock: for tests.
        into: where to put the times, a whole round at once, so that whoever is stopped by Ctrl-C still has them.
        rest: seconds at least; more, where the one before has threads that stay awake longer.
        sleep: for tests.
    """
    those = {name: c if isinstance(c, Contender) else Contender(c) for name, c in contenders.items()}
    times = {} if into is None else into
    with _no_garbage_collection():
        calls, before = {}, None
        for name, contender in those.items():
            _seconds(contender, 1, clock)
            calls[name] = max(1, int(turn / max(_seconds(contender, 1, clock), 1e-9)))
            before = contender
        for _ in range(rounds):
            this_round = {}
            for name, contender in those.items():
                if rest and before and len(those) > 1:
                    sleep(max(rest, before.awake))
                    if calls[name] > 1:
                        _seconds(contender, 1, clock)
                before = contender
                this_round[name] = _seconds(contender, calls[name], clock)
            for name, seconds in this_round.items():
                times.setdefault(name, []).append(seconds)
    return times


def _seconds(contender: Contender, calls: int, clock: Callable[[], float]) -> float:
    """The mean over so many calls."""
    total = 0.0
    for _ in range(calls):
        arguments = contender.prepare()
        started = clock()
        result = contender.work(*arguments)
        total += clock() - started
        del result, arguments  # before the next call needs the memory
    return total / calls


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
