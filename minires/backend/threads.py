"""One pool of threads for all kernels.

NumPy lets go of the interpreter's lock inside copies, ufuncs and matrix products, so plain Python threads do share the
work.  BLAS' own threads would get in their way: while the pool works, each of its threads uses BLAS by itself
(`settings`).

A Python that has no such lock (free-threaded CPython, 3.14t) shares all of it: between two calls of NumPy a thread
hardly ever waits for another.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import methodcaller
from typing import Any, TypeVar
from zlib import crc32

import numpy as np

from ..errors import ArgumentError
from . import memory
from .processors import Place, enough_for
from .settings import settings

Result = TypeVar("Result")

_VARIABLE = "MINIRES_NUM_THREADS"
_AWAKE = 1e-3  # seconds for which a thread looks for what it waits for before it sleeps
_REST = 0.01  # seconds without work after which a thread may be moved to any processor
_PASTIME = bytes(1 << 16)  # 10 microseconds of `crc32`, which lets go of the interpreter's lock only above 5 kB
_WAKE = methodcaller("release")


def get_num_threads() -> int:
    """How many threads the kernels use: what was set, else ``MINIRES_NUM_THREADS``, else as many as BLAS would use.

    Raises:
        ArgumentError: ``MINIRES_NUM_THREADS`` is not a whole number of at least 1.
    """
    global _number
    if _number is None:
        text = os.environ.get(_VARIABLE)
        if text is None:
            _number = max([library.num_threads for library in settings.libraries], default=os.cpu_count() or 1)
        else:
            try:
                number = int(text)
            except ValueError:
                number = 0
            if number < 1:
                raise ArgumentError(
                    f"{_VARIABLE} must be a whole number of at least 1, got {text!r}. Unset it or correct it."
                )
            _number = number
    return _number


def set_num_threads(number: int) -> None:
    """Use this many threads in the kernels, from now on and in every thread of the program.

    With the same number results repeat bit for bit; with another they may differ by rounding, as sums are split
    differently.

    Raises:
        ArgumentError: it is not a whole number of at least 1.
    """
    global _number
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ArgumentError(f"set_num_threads: expected a whole number of at least 1, got {number!r}.")
    _number = number


def has_gil() -> bool:
    """Whether only one thread at a time runs Python: not in a free-threaded Python, unless some module needs it."""
    ask = getattr(sys, "_is_gil_enabled", None)  # from Python 3.13 on
    return ask is None or ask()


def in_pieces(work: Callable[[range], Result], count: int, least: int = 1, small: bool = False) -> list[Result]:
    """Split ``range(count)`` among the threads and call ``work`` once with each part; its results, in order.

    How it is split depends on ``count``, ``least`` and the number of threads only, never on timing.  Inside one of
    several parts a call of this function does not split again.

    Args:
        work: may be called from several threads at once, each time with another part.
        count: how many items there are; with none, ``work`` is called once with an empty range.
        least: fewer items than this are not worth a thread.
        small: whether BLAS takes one thread for each product of ``work`` whatever is set.  Then nothing is set where it
            is not split: to do so took a twentieth of the convolution of a small picture.
    """
    number = _threads_for(count, least)
    if number == 1:
        return _alone(work, count, small)
    return _together(work, [range(i * count // number, (i + 1) * count // number) for i in range(number)])


def by_turns(work: Callable[[Iterable[int]], Result], count: int, least: int = 1, small: bool = False) -> list[Result]:
    """Give the items of ``range(count)`` to the threads one by one, the next to whoever is free.

    ``work`` is called once in each thread, with the items that this thread is given, to be gone through once.  So
    nobody waits long for a thread that is slower, because its core is or because another program has some of it.  Who
    is given what depends on timing: only for items whose result is the same whoever computes it.  What one thread
    raises ends the work of all.  Otherwise like `in_pieces`.
    """
    number = _threads_for(count, least)
    if number == 1:
        return _alone(work, count, small)
    left = deque([*range(count), *[None] * number])  # None is the end, for each of them

    def work_unless_one_fails(items: Iterable[int]) -> Result:
        try:
            return work(items)
        except BaseException:
            deque(items, maxlen=0)  # then nothing is left for the others
            raise

    return _together(work_unless_one_fails, [iter(left.popleft, None) for _ in range(number)])


def _threads_for(count: int, least: int) -> int:
    """How many threads share so many items."""
    if _inside.work or sys.is_finalizing():  # when the program ends, no other thread is woken any more
        return 1
    return max(1, min(get_num_threads(), count // max(1, least)))


def _alone(work: Callable[[range], Result], count: int, small: bool) -> list[Result]:
    """What ``work`` makes of all items in this thread; the other arguments are those of `in_pieces`."""
    if small:
        return [work(range(count))]
    return [settings.during(work, range(count))]


def _together(work: Callable[[Any], Result], parts: Sequence[Any]) -> list[Result]:
    """What ``work`` makes of each part, each in a thread, with everything set that kernels want; in order."""
    _inside.work = True
    try:
        return settings.during(_in_threads, work, parts)
    finally:
        _inside.work = False


def _in_threads(work: Callable[[Any], Result], parts: Sequence[Any]) -> list[Result]:
    """What ``work`` makes of each part, in order, each in a thread if there is one for it.

    Whatever happens here, nobody works any more when it returns: the others write into arrays that the caller may see.
    """
    job = _Job(work, parts)
    helpers: list[_Helper] = []
    woken: list[None] = []
    try:
        _find(helpers, job.count - 1)
        own = job.count - len(helpers)
        done = [helper.prepare(job, i) for i, helper in enumerate(helpers, own)]
        woken.extend(map(_WAKE, [helper.begin for helper in helpers]))  # one call: Ctrl-C finds all awake, or none
        for i in range(own):
            job.do(i)
        for lock in done:
            _acquire(lock, job.awake)
    except BaseException:
        if woken:
            job.finish(range(own, job.count))
        else:
            _idle.extend(helpers)
        raise
    return job.results()


class _Inside(threading.local):
    work = False  # whether this thread does a part of some work


class _Job:
    """Work in parts, each of which one thread does."""

    def __init__(self, work: Callable[[Any], Any], parts: Sequence[Any]) -> None:
        self._work, self._parts, self.count = work, parts, len(parts)
        self._results: dict[int, Any] = {}
        self._failed: dict[int, BaseException] = {}
        self.errors = np.geterr()  # what the caller said about overflow and the like holds for its thread only
        # With more threads than processors each look would take the processor from those who work.
        self.awake = enough_for(self.count)
        # A thread without work that looks for some takes the interpreter's lock from those that have.
        self.stays_awake = self.awake and not has_gil()

    def do(self, i: int) -> None:
        """Do part i."""
        try:
            self._results[i] = self._work(self._parts[i])
        except BaseException as error:
            self._failed[i] = error

    def finish(self, parts: range) -> None:
        """Wait for parts that others do, after an interruption and through further ones."""
        while True:
            try:
                while not all(i in self._results or i in self._failed for i in parts):
                    time.sleep(1e-3)
                return
            except KeyboardInterrupt:  # the first one is on its way already
                continue

    def results(self) -> list[Any]:
        """What the parts gave, in order; or raise what the first that failed raised."""
        if self._failed:
            error = self._failed[min(self._failed)]
            self._failed.clear()
            try:
                raise error
            finally:
                del error  # what an exception's own frames hold would keep it alive
        return [self._results[i] for i in range(self.count)]


class _Helper(threading.Thread):
    """A thread that waits until there is work, for as long as the program lives.

    A hand-over takes two locks.  The queue, the future and the conditions of an executor take 50 microseconds more.
    """

    def __init__(self) -> None:
        super().__init__(name="minires", daemon=True)
        self.begin = threading.Lock()  # who releases it wakes this thread
        self.begin.acquire()
        self._task: Any = None
        self._place = Place()

    def prepare(self, job: _Job, i: int) -> threading.Lock:
        """What it is to do when it is woken, part i of a job; returns a lock that is free when it is done."""
        self._place.keep_away(self.native_id, job.count)
        done = threading.Lock()
        done.acquire()
        self._task = job, i, done
        return done

    def run(self) -> None:
        settings.hold_in_this_thread()
        _inside.work = True
        awake = False
        while True:
            if not _acquire(self.begin, awake, _REST):
                self._place.let_go()
                self.begin.acquire()
            (job, i, done), self._task = self._task, None
            awake = job.stays_awake
            with np.errstate(**job.errors):
                job.do(i)
            del job  # and with it the arrays of the work
            _idle.append(self)
            done.release()


def _acquire(
    lock: threading.Lock, awake: bool, rest: float = -1, clock: Callable[[], float] = time.perf_counter
) -> bool:
    """Wait for another thread, at first awake: to fall asleep and to be woken takes longer than most of these waits.

    Args:
        rest: seconds of sleep after which to give up; -1 is never.

    Returns:
        Whether the lock is this thread's now.
    """
    if awake:
        until = clock() + _AWAKE
        while clock() < until:
            if lock.acquire(False):
                return True
            crc32(_PASTIME)  # meanwhile others may have the interpreter's lock
    return lock.acquire(timeout=rest)


_number: int | None = None
_inside = _Inside()
_idle: deque[_Helper] = deque()
_helpers = 0
_lock = threading.RLock()  # a signal handler that computes may interrupt who holds it


def _find(helpers: list[_Helper], number: int) -> None:
    """Take so many threads that have nothing to do, new ones if there are not as many at all.

    They are fewer if others have work for them, or if there can be no more threads.
    """
    global _helpers
    with contextlib.suppress(IndexError):  # when those that were there have been taken
        helpers.extend(islice(iter(_idle.pop, None), number))  # one call: no Ctrl-C between taking one and knowing it
    while len(helpers) < number:
        with _lock:
            if _helpers >= number:
                return
            helper = _Helper()
            try:
                helper.start()
            except RuntimeError:  # no more threads, or the program is about to end
                return
            helpers.append(helper)
            _helpers += 1


def _run_idle() -> None:
    """Let every idle thread run for a moment.

    Without the interpreter's lock an object belongs to the thread that made it: dropped by another one, it is freed
    when its own runs next.
    """
    if not has_gil() and not sys.is_finalizing():
        _in_threads(len, [range(0)] * (1 + len(_idle)))  # the first is this thread's


memory.keepers.append(_run_idle)


def _after_fork() -> None:
    """A child process has none of its parent's threads, and its locks may be held by them."""
    global _idle, _helpers, _lock
    _idle, _helpers, _lock = deque(), 0, threading.RLock()
    _inside.work = False
    settings.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
