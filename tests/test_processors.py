"""Threads that share work are kept off the processor of the one that wakes them."""

import ctypes
import os
import threading

import pytest

from minires.backend import in_pieces, processors, threads
from minires.backend.processors import Place, enough_for

from .pieces import in_threads

pytestmark = pytest.mark.host_only("threads share the work of the CPU's kernels")


@pytest.fixture
def told(monkeypatch):
    """What was asked for, on a machine of three processors, of which this thread is on the first."""
    calls = []
    monkeypatch.setattr(processors, "processor", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {0, 1, 2}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *call: calls.append(call), raising=False)
    return calls


def test_a_thread_wakes_anywhere_but_beside_the_one_that_wakes_it(told):
    place = Place()
    for count in (2, 3):
        place.keep_away(7, count)
        assert told == [(7, {1, 2})]
        place.let_go()
        place.let_go()  # there is nothing more to do
        assert told == [(7, {1, 2}), (0, {0, 1, 2})]
        told.clear()


def test_a_thread_that_is_kept_away_is_told_again_only_if_something_has_changed(told, monkeypatch):
    place = Place()
    for _ in range(3):
        place.keep_away(7, 2)
    assert told == [(7, {1, 2})]
    monkeypatch.setattr(processors, "processor", lambda: 2)  # the one that wakes it was moved
    place.keep_away(7, 2)
    assert told[1:] == [(7, {0, 1})]
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {1, 2}, raising=False)  # and then held to two
    place.keep_away(7, 2)
    assert told[2:] == [(7, {1})]


def test_a_thread_that_is_let_go_may_run_where_the_program_may(told, monkeypatch):
    place = Place()
    place.keep_away(7, 2)
    # what somebody has set meanwhile
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {1} if thread == os.getpid() else {0, 1, 2})
    place.let_go()
    assert told[1:] == [(0, {1})]


def test_more_threads_than_processors_wake_where_they_like(told):
    place = Place()
    place.keep_away(7, 4)
    place.let_go()
    assert told == []
    place.keep_away(7, 2)
    place.keep_away(7, 4)  # at once, not when there is no work
    place.keep_away(7, 4)
    assert told == [(7, {1, 2}), (7, {0, 1, 2})]


def test_a_thread_that_is_woken_while_it_is_let_go_is_one_or_the_other(told, monkeypatch):
    place, asked = Place(), threading.Event()
    place.keep_away(7, 2)
    waker = threading.Thread(target=lambda: (asked.set(), place.keep_away(7, 2)))

    def meanwhile(*call):
        monkeypatch.setattr(os, "sched_setaffinity", lambda *call: told.append(call))
        waker.start()
        assert asked.wait(60)
        told.append(call)

    monkeypatch.setattr(os, "sched_setaffinity", meanwhile)
    place.let_go()
    waker.join()
    assert told == [(7, {1, 2}), (0, {0, 1, 2}), (7, {1, 2})]
    place.let_go()
    assert told[3:] == [(0, {0, 1, 2})]


def test_where_it_cannot_be_chosen_nothing_is_asked_for(told, monkeypatch):
    place = Place()
    place.keep_away(None, 2)  # a thread without a number
    monkeypatch.setattr(processors, "processor", None)
    place.keep_away(7, 2)
    place.let_go()
    assert told == []


def test_a_sandbox_may_forbid_it(told, monkeypatch):
    place = Place()
    place.keep_away(7, 2)

    def forbidden(*call):
        raise PermissionError(1, "Operation not permitted")

    allow = os.sched_setaffinity
    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    place.let_go()
    monkeypatch.setattr(processors, "processor", lambda: 2)
    place.keep_away(7, 2)
    monkeypatch.setattr(os, "sched_setaffinity", allow)
    place.keep_away(7, 2)  # what was not allowed has not happened
    place.let_go()
    assert told == [(7, {1, 2}), (7, {0, 1}), (0, {0, 1, 2})]


def test_systems_that_have_no_such_thing(monkeypatch):
    assert processors._which() is None or processors._which()() >= 0
    for kind in (AttributeError, OSError):

        def library(name, kind=kind):
            raise kind

        monkeypatch.setattr(ctypes, "PyDLL", library)
        assert processors._which() is None
    monkeypatch.undo()
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert processors._which() is None


@pytest.mark.parametrize(("processors", "threads", "enough"), [(2, 2, True), (3, 2, True), (1, 2, False)])
@pytest.mark.parametrize("told", [True, False], ids=["by its affinity", "by the machine"])
def test_whether_there_are_enough(processors, threads, enough, told, monkeypatch):
    if told:
        monkeypatch.setattr(os, "sched_getaffinity", lambda thread: set(range(processors)), raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert enough_for(threads) == enough


def test_if_nobody_can_say_there_is_one(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert enough_for(1)
    assert not enough_for(2)


def test_helpers_are_placed_before_they_are_woken_and_let_go_when_they_rest(monkeypatch):
    placed, freed, waiting, rests = [], [], threading.Barrier(3), threading.Semaphore(0)
    monkeypatch.setattr(Place, "keep_away", lambda place, *call: placed.append(call))
    monkeypatch.setattr(threads, "_WAKE", lambda lock: (placed.append("woken"), lock.release()))
    monkeypatch.setattr(Place, "let_go", lambda place: (freed.append(threading.get_native_id()), rests.release()))
    monkeypatch.setattr(threads, "_REST", 0)

    def work(part):
        waiting.wait(60)  # each part has a thread of its own
        return threading.get_native_id()

    with in_threads(3):
        here, *others = in_pieces(work, 3)
        assert here == threading.get_native_id()
        assert sorted(placed[:2]) == sorted((thread, 3) for thread in others)
        assert placed[2:] == ["woken"] * 2
        while not set(others) <= set(freed):
            assert rests.acquire(timeout=60)
    assert here not in freed


@pytest.mark.skipif(processors.processor is None, reason="threads cannot be told where to run here")
def test_the_system_does_as_it_is_told(monkeypatch):
    allowed, seen = os.sched_getaffinity(0), []
    monkeypatch.setattr(processors, "processor", lambda: min(allowed))
    place, woken = Place(), threading.Event()

    def other():
        assert woken.wait(60)
        seen.append(os.sched_getaffinity(0))
        place.let_go()
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=other)
    thread.start()
    place.keep_away(thread.native_id, 2)
    woken.set()
    thread.join()
    assert seen == [allowed - {min(allowed)} or allowed, allowed]
    assert os.sched_getaffinity(0) == allowed
