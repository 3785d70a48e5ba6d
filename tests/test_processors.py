"""Threads that share work are kept off the processor of the one that wakes them."""

import ctypes
import os
import threading

import pytest

from minires.backend import in_pieces, processors
from minires.backend.processors import Place

from .pieces import in_threads

pytestmark = pytest.mark.host_only("threads share the work of the CPU's kernels")


@pytest.fixture
def told(monkeypatch):
    """What was asked for, on a machine of three processors; ``told.here`` is the one of this thread."""

    class Told(list):
        here = 0

    calls = Told()
    monkeypatch.setattr(processors, "processor", lambda: calls.here)
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {0, 1, 2}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *call: calls.append(call), raising=False)
    return calls


def test_a_thread_may_run_anywhere_but_beside_the_one_that_wakes_it(told):
    place = Place()
    place.choose(7, 2)
    place.choose(7, 2)  # nothing has changed
    told.here = 2
    place.choose(7, 3)
    assert told == [(7, {1, 2}), (7, {0, 1})]


def test_more_threads_than_processors_may_run_on_all_of_them(told):
    place = Place()
    place.choose(7, 2)
    place.choose(7, 4)
    assert told == [(7, {1, 2}), (7, {0, 1, 2})]


def test_each_thread_has_a_place_of_its_own(told):
    for thread in (7, 8):
        Place().choose(thread, 3)
    assert told == [(7, {1, 2}), (8, {1, 2})]


def test_where_it_cannot_be_chosen_nothing_is_asked_for(told, monkeypatch):
    Place().choose(None, 2)  # a thread without a number
    monkeypatch.setattr(processors, "processor", None)
    Place().choose(7, 2)
    assert told == []


def test_a_sandbox_may_forbid_it(told, monkeypatch):
    def forbidden(*call):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    Place().choose(7, 2)


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


def test_helpers_are_placed_before_they_are_woken(monkeypatch):
    placed, waiting = [], threading.Barrier(3)
    monkeypatch.setattr(Place, "choose", lambda place, *call: placed.append(call))

    def work(part):
        waiting.wait(60)  # each part has a thread of its own
        return threading.get_native_id()

    with in_threads(3):
        here, *others = in_pieces(work, 3)
    assert here == threading.get_native_id()
    assert sorted(placed) == sorted((thread, 3) for thread in others)


@pytest.mark.skipif(processors.processor is None, reason="threads cannot be told where to run here")
def test_the_system_does_as_it_is_told(monkeypatch):
    allowed = os.sched_getaffinity(0)
    monkeypatch.setattr(processors, "processor", lambda: min(allowed))
    leave, other = threading.Event(), threading.Thread(target=lambda: leave.wait(60))
    other.start()
    try:
        Place().choose(other.native_id, 2)
        assert os.sched_getaffinity(other.native_id) == (allowed - {min(allowed)} or allowed)
    finally:
        leave.set()
        other.join()
    assert os.sched_getaffinity(0) == allowed
