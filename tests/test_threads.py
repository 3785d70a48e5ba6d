"""The pool of threads: how work is split, what becomes of BLAS, and that only the number of threads changes results."""

import contextlib
import gc
import os
import sys
import sysconfig
import threading
import weakref
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import threadpoolctl

import minires
from minires import functional as F
from minires import optim, tensor
from minires.backend import by_turns, in_pieces, threads
from minires.backend import settings as process
from minires.backend.settings import settings
from minires.errors import ArgumentError
from minires.kernels import numpy as kernel
from minires.kernels.numpy import depthwise, im2col, norm, winograd
from minires.kernels.numpy.tiles import Tile
from minires.models import cifar_resnet

from .pieces import in_threads, split
from .programs import run_program

pytestmark = pytest.mark.host_only("threads share the work of the CPU's kernels")

WAIT = 60  # seconds until a test that hangs fails; none of them waits for time to pass


def as_it_is(part):
    return part


# -- how many ---------------------------------------------------------------------------------------------------------


def test_the_number_is_what_was_set():
    with in_threads(5):
        assert minires.get_num_threads() == 5
        assert len(in_pieces(as_it_is, 100)) == 5
        minires.set_num_threads(2)
        assert minires.get_num_threads() == 2
        assert len(in_pieces(as_it_is, 100)) == 2


@pytest.mark.parametrize("number", [0, -1, 1.0, "2", None, True])
def test_a_number_that_is_none(number):
    with in_threads(3):
        with pytest.raises(ArgumentError, match=r"^set_num_threads: expected a whole number of at least 1, got .*\.$"):
            minires.set_num_threads(number)
        assert minires.get_num_threads() == 3


def test_a_number_set_in_one_thread_holds_in_all():
    with in_threads(3):
        seen = []
        other = threading.Thread(target=lambda: seen.append((minires.get_num_threads(), len(in_pieces(as_it_is, 9)))))
        other.start()
        other.join()
        assert seen == [(3, 3)]


@pytest.mark.parametrize("text", ["", " ", "0", "-2", "two", "1.5", "2 3", "²"])
def test_a_variable_that_is_no_number(monkeypatch, text):
    monkeypatch.setattr(threads, "_number", None)
    monkeypatch.setenv("MINIRES_NUM_THREADS", text)
    for _ in range(2):  # the first answer is not kept
        with pytest.raises(ArgumentError, match=r"^MINIRES_NUM_THREADS must be a whole number of at least 1, got '"):
            minires.get_num_threads()
    monkeypatch.setenv("MINIRES_NUM_THREADS", " 4 ")
    assert minires.get_num_threads() == 4
    monkeypatch.setenv("MINIRES_NUM_THREADS", "7")
    assert minires.get_num_threads() == 4  # read once


def test_the_variable_of_a_program():
    shown = run_program(
        "import minires; from minires.backend import in_pieces\n"
        "print(minires.get_num_threads(), len(in_pieces(list, 100)))",
        MINIRES_NUM_THREADS="3",
    )
    assert (shown.stdout, shown.stderr) == ("3 3\n", "")


def test_a_variable_of_a_program_that_is_no_number():
    stopped = run_program("import minires; minires.get_num_threads()", MINIRES_NUM_THREADS="many")
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines()[-1] == (
        "minires.errors.ArgumentError: MINIRES_NUM_THREADS must be a whole number of at least 1, got 'many'. Unset it "
        "or correct it."
    )


def test_without_a_variable_there_are_as_many_as_blas_has():
    shown = run_program(
        "import numpy, threadpoolctl\n"
        "threadpoolctl.threadpool_limits(3, 'blas')\n"
        "known = [i['num_threads'] for i in threadpoolctl.threadpool_info() if i['user_api'] == 'blas']\n"
        "import os, minires\n"
        "print(minires.get_num_threads() == max(known, default=os.cpu_count()))",
        MINIRES_NUM_THREADS=None,
    )
    assert (shown.stdout, shown.stderr) == ("True\n", "")


# -- how work is split ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 20, 101])
@pytest.mark.parametrize("least", [0, 1, 2, 4, 50])
def test_the_parts_are_the_whole(number, count, least):
    with in_threads(number):
        parts = in_pieces(as_it_is, count, least)
    assert [i for part in parts for i in part] == list(range(count))
    assert len(parts) == max(1, min(number, count // max(1, least)))
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1
    assert count == 0 or min(sizes) >= min(count, least, 1)


def test_each_part_has_a_thread_and_the_first_that_of_the_caller():
    together = threading.Barrier(3)

    def work(part):
        together.wait(WAIT)  # nobody passes until all three are here
        return threading.get_ident()

    with in_threads(3):
        first, *others = in_pieces(work, 3)
    assert first == threading.get_ident()
    assert len({first, *others}) == 3


def test_results_are_in_order_whoever_is_ready_first():
    last_is_ready = threading.Event()

    def work(part):
        if part.stop == 10:
            last_is_ready.set()
        assert last_is_ready.wait(WAIT)
        return part

    with in_threads(3):
        assert in_pieces(work, 10) == [range(3), range(3, 6), range(6, 10)]


@pytest.mark.parametrize("number", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 101])
@pytest.mark.parametrize("least", [0, 1, 3, 50])
def test_by_turns_every_item_is_given_to_one_thread(number, count, least):
    with in_threads(number):
        parts = by_turns(sorted, count, least)
    assert len(parts) == max(1, min(number, count // max(1, least)))
    assert sorted(i for part in parts for i in part) == list(range(count))


def test_by_turns_the_next_item_is_for_whoever_is_free():
    others_are_done = threading.Event()

    def work(items):
        mine = [next(items)]
        if mine == [0]:  # this one is busy with it until all others are done
            assert others_are_done.wait(WAIT)
        mine.extend(items)
        if 8 in mine:
            others_are_done.set()
        return mine

    with in_threads(2):
        assert sorted(by_turns(work, 9)) == [[0], list(range(1, 9))]


@pytest.mark.parametrize("guilty", [0, 3, 8])
def test_by_turns_what_a_thread_raises_is_raised(guilty):
    def work(items):
        for i in items:
            if i == guilty:
                raise ValueError(f"item {i}")

    with in_threads(3):
        with pytest.raises(ValueError, match=rf"^item {guilty}$"):
            by_turns(work, 9)
        assert sorted(i for part in by_turns(list, 9) for i in part) == list(range(9))


def test_by_turns_what_one_thread_raises_ends_the_work_of_all(monkeypatch):
    both_work, one_has_failed, real, done = threading.Barrier(2), threading.Event(), threads._Job.do, []

    def do(job, i):
        real(job, i)
        one_has_failed.set()

    def work(items):
        for i in items:
            if not done:
                both_work.wait(WAIT)
            if i == 0:
                raise ValueError("item 0")
            done.append(i)
            assert one_has_failed.wait(WAIT)

    monkeypatch.setattr(threads._Job, "do", do)
    with in_threads(2), pytest.raises(ValueError, match=r"^item 0$"):
        by_turns(work, 9)
    assert done == [1]


def test_by_turns_inside_work_and_without_threads_all_is_done_here(monkeypatch):
    with in_threads(2):
        assert in_pieces(lambda part: by_turns(list, 5), 2) == [[[0, 1, 2, 3, 4]]] * 2
        monkeypatch.setattr(threads._Helper, "start", lambda self: (_ for _ in ()).throw(RuntimeError))
        monkeypatch.setattr(threads, "_idle", deque())
        monkeypatch.setattr(threads, "_helpers", 0)
        assert by_turns(list, 5) == [[0, 1, 2, 3, 4], []]


def one_image_each(images, rows, *_):
    """In place of `tiles`."""
    return [Tile(slice(n, n + 1), slice(0, rows)) for n in range(images)]


WAYS = {
    "rows": (winograd, (4, 9, 8, 5), (3, 3, 5, 7), 1),
    "squares": (winograd, (4, 9, 8, 5), (3, 3, 5, 7), 1),
    "im2col": (im2col, (4, 9, 8, 5), (2, 3, 5, 7), 1),
    "depthwise": (depthwise, (4, 9, 8, 5), (3, 3, 1, 5), 5),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_slow_thread_leaves_the_tiles_of_a_convolution_to_the_others(name, rng):
    way, x_shape, w_shape, groups = WAYS[name]
    x, w = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
    window = (1, 1), (1, 1), (1, 1), groups
    y_shape = 4, 9 + 3 - w_shape[0], 8, w_shape[3]
    others_are_done, seen = threading.Event(), []

    def done(part, tile):
        if tile.images.start == 0:  # this thread is busy with it until all others are done
            assert others_are_done.wait(WAIT)
        seen.append((tile.images.start, threading.get_ident()))
        if len(seen) == 3:
            others_are_done.set()

    with split(2, 1, squares=name == "squares"), pytest.MonkeyPatch.context() as patch:
        for module in (im2col, winograd):
            patch.setattr(module, "tiles", one_image_each)
        y, _ = way.convolve(x, w, y_shape, window, lambda: done)
        alone, _ = way.convolve(x, w, y_shape, window, share=lambda work, count, *_: [work(range(count))])
    *others, (last, slow) = seen
    assert last == 0
    assert slow not in [who for _, who in others]
    assert np.array_equal(y, alone)


@pytest.mark.parametrize("slow", [0, 3])
def test_a_slow_thread_has_its_part_of_what_is_summed_up(slow, rng, monkeypatch):
    x, w = rng.standard_normal((6, 8, 8, 5)), rng.standard_normal((3, 3, 5, 7))
    window = (1, 1), (1, 1), (1, 1), 1
    real, others_are_done, seen = norm.Sums.__call__, threading.Event(), []

    def one_is_slow(self, part, tile):
        if tile.images.start == slow:
            assert others_are_done.wait(WAIT)
        real(self, part, tile)
        seen.append((tile.images.start, threading.get_ident()))
        if len(seen) == 3:
            others_are_done.set()

    monkeypatch.setattr(norm.Sums, "__call__", one_is_slow)
    with split(2), monkeypatch.context() as patch:
        patch.setattr(winograd, "tiles", one_image_each)
        kernel.conv2d_moments(x, w, None, *window)
    by_thread = [[n for n, who in seen if who == one] for one in {who for _, who in seen}]
    assert sorted(by_thread) == [[0, 1, 2], [3, 4, 5]]


def test_work_inside_work_is_not_split_again():
    def work(part):
        inner = in_pieces(as_it_is, 12)
        again = in_pieces(lambda _: in_pieces(as_it_is, 8), 2)
        return inner, again

    with in_threads(3):
        assert in_pieces(work, 3) == [([range(12)], [[range(8)]])] * 3
        assert len(in_pieces(as_it_is, 12)) == 3  # and afterwards it is


@pytest.mark.parametrize("guilty", [[0], [1], [2], [0, 1, 2], [1, 2]])
def test_an_exception_is_raised_when_all_parts_are_done(guilty):
    done, first_is_done = [], threading.Event()

    def work(part):
        if part.start:
            assert first_is_done.wait(WAIT)
        done.append(part.start)
        try:
            if part.start in guilty:
                raise ZeroDivisionError(str(part.start))
        finally:
            first_is_done.set()

    with in_threads(3):
        before = blas_threads()
        with pytest.raises(ZeroDivisionError, match=f"^{guilty[0]}$"):
            in_pieces(work, 3)
        assert sorted(done) == [0, 1, 2]
        assert blas_threads() == before
        assert in_pieces(as_it_is, 3) == [range(1), range(1, 2), range(2, 3)]


class Held:
    """Something that can be asked whether it is still there."""


def test_what_a_part_held_is_free_when_its_exception_is():
    def work(part):
        held = Held()
        alive.append(weakref.ref(held))
        raise ZeroDivisionError

    alive = []
    gc.disable()
    try:
        with in_threads(2), contextlib.suppress(ZeroDivisionError):
            in_pieces(work, 2)
        minires.empty_cache()  # without the interpreter's lock the helper frees what it made when it next runs
        assert [reference() for reference in alive] == [None, None]
    finally:
        gc.enable()


def test_what_work_holds_is_free_when_it_is_done():
    held = Held()
    alive = weakref.ref(held)

    def work(part, held=held):
        return part

    gc.disable()
    try:
        with in_threads(3):
            in_pieces(work, 3)
        del work, held
        assert alive() is None
    finally:
        gc.enable()


@pytest.fixture
def no_helpers(monkeypatch):
    """As if no thread had been started yet."""
    monkeypatch.setattr(threads, "_idle", deque())
    monkeypatch.setattr(threads, "_helpers", 0)


@pytest.mark.usefixtures("no_helpers")
def test_helpers_are_made_when_they_are_needed_and_used_again():
    together = threading.Barrier(3)

    def work(part):
        together.wait(WAIT)
        return threading.get_ident()

    with in_threads(2):
        in_pieces(as_it_is, 2)
        assert threads._helpers == 1
    with in_threads(3):
        _, *first = in_pieces(work, 3)
        _, *again = in_pieces(work, 3)
    assert threads._helpers == 2
    assert set(first) == set(again)


def test_who_has_done_its_part_is_there_for_the_next_work_before_it_says_so(monkeypatch):
    told = []

    class Done:
        """A lock."""

        def __init__(self):
            self.lock = threading.Lock()
            self.acquire = self.lock.acquire

        def release(self):
            told.append("done")
            self.lock.release()

    class Idle(deque):
        """Threads."""

        def append(self, helper):
            told.append("idle")
            super().append(helper)

    with in_threads(2):
        in_pieces(as_it_is, 2)
        monkeypatch.setattr(threads, "threading", SimpleNamespace(Lock=Done))
        monkeypatch.setattr(threads, "_idle", Idle(threads._idle))
        in_pieces(as_it_is, 2)
    assert told == ["idle", "done"]


@pytest.mark.usefixtures("no_helpers")
def test_helpers_of_somebody_else_are_not_waited_for():
    inside, leave = threading.Event(), threading.Event()

    def hold(part):
        inside.set()
        assert leave.wait(WAIT)

    def who(part):
        return part, threading.get_ident()

    with in_threads(2):
        other = threading.Thread(target=in_pieces, args=(hold, 2))
        other.start()
        try:
            assert inside.wait(WAIT)
            while not threads._helpers or threads._idle:
                pass  # until the only helper has its part, too
            assert in_pieces(who, 2) == [(range(1), threading.get_ident()), (range(1, 2), threading.get_ident())]
        finally:
            leave.set()
            other.join()
    assert threads._helpers == 1


@pytest.mark.usefixtures("no_helpers")
@pytest.mark.parametrize("possible", [0, 1, 2])
def test_without_new_threads_the_caller_does_what_is_left(monkeypatch, possible):
    start = threads._Helper.start

    def start_or_fail(helper):
        if threads._helpers == possible:
            raise RuntimeError("can't start new thread")
        start(helper)

    monkeypatch.setattr(threads._Helper, "start", start_or_fail)
    done = []
    with in_threads(4):
        assert in_pieces(lambda part: done.append(part) or part, 8) == [range(i, i + 2) for i in (0, 2, 4, 6)]
    assert len(done) == 4
    assert threads._helpers == possible


@pytest.mark.usefixtures("no_helpers")
def test_a_new_thread_tells_blas_that_it_wants_one(monkeypatch):
    told = []
    monkeypatch.setattr(settings, "hold_in_this_thread", lambda: told.append(threading.get_ident()))
    with in_threads(3):
        _, *others = in_pieces(lambda part: threading.get_ident(), 3)
        in_pieces(as_it_is, 3)
    assert sorted(told) == sorted(others)


def test_what_the_caller_said_about_floating_point_holds_in_every_thread():
    dy, y = np.full((4000, 300), np.inf), np.zeros((4000, 300))
    with split(2):
        with np.errstate(invalid="ignore"):
            assert np.isnan(kernel.relu_dx(dy, y)).all()
        dy[:3000] = 1  # the first thread has nothing to complain of
        with np.errstate(invalid="raise"), pytest.raises(FloatingPointError):
            kernel.relu_dx(dy, y)


# -- BLAS -------------------------------------------------------------------------------------------------------------


def blas_threads():
    """How many threads each BLAS library that was there when minires was imported would use now."""
    ours = {library.filepath for library in settings.libraries}
    found = threadpoolctl.ThreadpoolController().lib_controllers
    return [c.get_num_threads() for c in found if c.filepath in ours]


@pytest.fixture
def blas():
    """A number of threads of BLAS that nobody else would choose."""
    if not blas_threads():
        pytest.skip("this BLAS has no number of threads")
    with threadpoolctl.threadpool_limits(3, "blas"):
        assert set(blas_threads()) == {3}
        yield
        assert set(blas_threads()) == {3}


@pytest.mark.usefixtures("blas")
@pytest.mark.parametrize("number", [1, 2, 3])
def test_blas_has_one_thread_inside(number):
    with in_threads(number):
        for seen in in_pieces(lambda part: (blas_threads(), in_pieces(lambda _: blas_threads(), 1), blas_threads()), 3):
            one, [inside], still = seen
            assert {*one, *inside, *still} == {1}
        assert set(blas_threads()) == {3}
        with pytest.raises(ZeroDivisionError):
            in_pieces(lambda part: 1 // 0, 3)


@pytest.mark.usefixtures("blas")
@pytest.mark.parametrize("last", ["caller", "other"])
def test_blas_has_one_thread_until_the_last_has_left(last):
    in_pieces(as_it_is, 1)  # in this thread too BLAS was spoken to before
    inside, may_leave, seen = threading.Event(), threading.Event(), []

    def visit():
        def work(part):
            seen.append(blas_threads())
            inside.set()
            assert may_leave.wait(WAIT)
            seen.append(blas_threads())

        in_pieces(work, 1)

    other = threading.Thread(target=visit)

    def meet(part):
        if last == "other":  # then this thread was the first
            other.start()
        assert inside.wait(WAIT)
        seen.append(blas_threads())
        if last == "caller":
            may_leave.set()
            other.join()
            seen.append(blas_threads())

    if last == "caller":
        other.start()
        assert inside.wait(WAIT)
    try:
        in_pieces(meet, 1)
        if last == "other":
            seen.append(blas_threads())
    finally:
        may_leave.set()
        other.join()
    assert len(seen) == 4
    assert {number for numbers in seen for number in numbers} == {1}
    assert set(blas_threads()) == {3}


@pytest.mark.usefixtures("blas")
def test_who_begins_while_the_last_one_leaves_has_one_thread_of_blas(monkeypatch):
    inside, leave = threading.Event(), threading.Event()

    def visit(part):
        inside.set()
        assert leave.wait(WAIT)

    class Users(list):
        """Those who work."""

        def append(self, user):
            leave.set()
            other.join()
            super().append(user)

    other = threading.Thread(target=in_pieces, args=(visit, 1))
    other.start()
    assert inside.wait(WAIT)
    monkeypatch.setattr(settings, "_users", Users([settings._users.pop()]))
    [seen] = in_pieces(lambda part: blas_threads(), 1)
    assert set(seen) == {1}


@pytest.mark.parametrize("when", ["holding", "restoring"])
def test_a_handler_that_computes_while_settings_change_leaves_them_right(monkeypatch, when):
    numbers, interrupted = [3], []

    def use(number):
        numbers.append(number)
        if not interrupted and (number == 1) == (when == "holding"):
            interrupted.append(True)
            settings.during(lambda: None)

    monkeypatch.setattr(settings, "_blas", [(lambda: numbers[-1], use)])
    interval = sys.getswitchinterval()
    for _ in range(2):
        assert settings.during(lambda: numbers[-1]) == 1
        assert numbers[-1] == 3
        assert abs(sys.getswitchinterval() - interval) < 1e-6
        assert not settings._held
    assert interrupted


@pytest.mark.usefixtures("blas")
def test_blas_has_one_thread_in_a_thread_that_threadpoolctl_does_not_listen_to():
    seen = []
    other = threading.Thread(target=lambda: seen.extend(in_pieces(lambda part: blas_threads(), 1)))
    other.start()
    other.join()
    assert set(seen[0]) == {1}
    assert set(blas_threads()) == {3}


@pytest.mark.usefixtures("blas")
def test_nothing_is_set_for_small_products():
    with in_threads(2):
        assert set(in_pieces(lambda part: blas_threads(), 1, small=True)[0]) == {3}
        inside = in_pieces(lambda part: in_pieces(lambda _: blas_threads(), 1, small=True)[0], 2, small=True)
        assert {n for numbers in inside for n in numbers} == {1}  # of a work that is split they are small no more


@pytest.mark.usefixtures("blas")
def test_what_is_not_split_may_be_split_inside():
    with in_threads(2):
        [(parts, seen)] = in_pieces(lambda part: (in_pieces(as_it_is, 4), blas_threads()), 1)
    assert parts == [range(2), range(2, 4)]
    assert set(seen) == {1}  # also after the others have left


@pytest.mark.parametrize("pass_", ["forward", "backward"])
@pytest.mark.parametrize("way", [im2col, winograd])
@pytest.mark.parametrize(("pictures", "calls"), [(1, "shared"), (2, "split")])
def test_the_threads_share_the_products_of_a_single_picture(pictures, calls, way, pass_, monkeypatch):
    size, channels, filters = (8, 256, 128) if way is im2col else (24, 64, 96)
    x, dy = (np.zeros((pictures, size, size, c), np.float32) for c in (channels, filters))
    w, window, seen = np.zeros((3, 3, channels, filters), np.float32), ((1, 1), (1, 1), (1, 1), 1), []
    monkeypatch.setattr(threads, "_in_threads", lambda work, parts: seen.append(parts) or [work(p) for p in parts])
    with in_threads(2):
        if pass_ == "forward":
            way.convolve(x, w, dy.shape, window)
        elif way is im2col:
            way.gradients(dy, x, w, x.shape, w.shape, window)
        else:
            way.gradients(dy, x, w, x.shape, w.shape[:2], window[1])
    # of a product rather than of the tiles
    several = [parts for parts in seen if isinstance(parts[-1], range) and parts[-1].stop > pictures]
    assert len(seen) - len(several) == (calls == "split")
    assert len(several) == {"split": 0, "shared": {"forward": 1, "backward": 2}[pass_]}[calls]


class Library:
    """A BLAS as threadpoolctl describes it."""

    check_symbols = "openblas_get_num_threads", "scipy_openblas_get_num_threads64_"

    def __init__(self, internal_api, threading_layer, **symbols):
        self.internal_api, self.threading_layer, self.calls = internal_api, threading_layer, []
        self.dynlib = SimpleNamespace(**symbols)

    def get_num_threads(self):
        return 7

    def set_num_threads(self, number):
        self.calls.append(number)


OWN = {"scipy_openblas_get_num_threads64_": lambda: 5, "scipy_openblas_set_num_threads64_": lambda number: None}


@pytest.mark.parametrize(
    ("api", "layer", "symbols"),
    [
        ("mkl", "gnu", {}),
        ("openblas", "openmp", OWN),  # there each thread has its own number
        ("openblas", "pthreads", {}),
        ("openblas", "pthreads", {"scipy_openblas_get_num_threads64_": lambda: 5}),
    ],
)
@pytest.mark.parametrize("clears", [False, True])
def test_a_blas_of_another_kind_is_told_through_threadpoolctl(api, layer, symbols, clears):
    library = Library(api, layer, **symbols)
    if clears:
        library.clear_controlling_thread = lambda: library.calls.append("clear")
    threads, use = process._functions(library)
    assert threads() == 7
    use(3)
    assert library.calls == ([3, "clear"] if clears else [3])


def test_openblas_is_told_by_its_own_function():
    library = Library("openblas", "pthreads", **OWN)
    assert process._functions(library) == tuple(OWN.values())


def test_blas_is_told_nothing_that_it_knows(monkeypatch):
    told = []
    monkeypatch.setattr(settings, "_blas", [(threads, told.append) for threads, _ in settings._blas])
    for number in (3, 1):
        with threadpoolctl.threadpool_limits(number, "blas"):
            before = blas_threads()
            in_pieces(as_it_is, 1)
        expected = [n for n in before if n != 1]
        assert told == [1] * len(expected) + expected
        told.clear()


# -- the interpreter's lock -------------------------------------------------------------------------------------------


@pytest.fixture
def switching():
    """As if the user had set it, and gives back what it was."""
    before = sys.getswitchinterval()
    yield sys.setswitchinterval
    sys.setswitchinterval(before)


fine = pytest.mark.skipif(not process._FINE, reason="Python waits for whole milliseconds here")


@fine
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("before", [0.004, 1e-4])  # the second is a microsecond less after each careless round trip
def test_threads_switch_sooner_inside(switching, number, before):
    switching(before + 5e-7)
    as_set = sys.getswitchinterval()
    with in_threads(number):
        inside = in_pieces(lambda part: (in_pieces(as_it_is, 1), sys.getswitchinterval())[1], 3)
        assert inside == [pytest.approx(5e-5)] * number
        assert sys.getswitchinterval() == as_set
        with pytest.raises(ZeroDivisionError):
            in_pieces(lambda part: 1 // 0, 3)
        assert sys.getswitchinterval() == as_set


@pytest.mark.parametrize("sooner", [2e-5, 1e-7])
def test_threads_that_switch_sooner_already_are_left_alone(switching, sooner):
    switching(sooner)
    as_set = sys.getswitchinterval()  # in whole microseconds, which may be none
    with in_threads(2):
        assert in_pieces(lambda part: sys.getswitchinterval(), 2) == [as_set] * 2
    assert sys.getswitchinterval() == as_set


def test_what_somebody_sets_meanwhile_stays(switching):
    in_pieces(lambda part: switching(0.001), 1)
    assert sys.getswitchinterval() == pytest.approx(0.001)


class Lock:
    """One that is free when it has been asked so often, and notes for how long somebody waits asleep; 0 is awake."""

    def __init__(self, free_at):
        self.free_at, self.asked = free_at, []

    def acquire(self, blocking=True, timeout=-1):
        self.asked.append(timeout if blocking else 0)
        return len(self.asked) == self.free_at


@pytest.mark.parametrize(("gil", "enough", "awake", "stays"), [
    (False, True, True, True), (False, False, False, False), (True, True, True, False), (True, False, False, False),
])  # fmt: skip
def test_threads_wait_awake_where_that_takes_nothing_from_each_other(monkeypatch, gil, enough, awake, stays):
    monkeypatch.setattr(threads, "has_gil", lambda: gil)
    monkeypatch.setattr(threads, "enough_for", lambda count: enough if count == 2 else None)
    job = threads._Job(as_it_is, [range(1), range(1, 2)])
    assert (job.awake, job.stays_awake) == (awake, stays)


@pytest.mark.parametrize(("awake", "times", "free_at", "asked"), [
    (True, [0.0] * 4, 3, [0, 0, 0]), (False, [], 1, [5]), (False, [], 2, [5]),  # in vain
    (True, [0.0, 0.0, threads._AWAKE / 2, 2 * threads._AWAKE], 3, [0, 0, 5]),  # it takes too long
])  # fmt: skip
def test_who_waits_looks_for_a_while_and_then_sleeps(awake, times, free_at, asked):
    lock, now = Lock(free_at), iter(times)
    assert threads._acquire(lock, awake, 5, lambda: next(now)) == (len(asked) == free_at)
    assert lock.asked == asked


@pytest.mark.parametrize("gil", [False, True])
def test_who_has_no_work_sleeps_under_the_interpreters_lock(monkeypatch, gil):
    waits, waiting, acquire = [], threading.Semaphore(0), threads._acquire

    def noted(lock, awake, rest=-1):
        if rest == threads._REST:
            waits.append(awake)
            waiting.release()
        return acquire(lock, False, rest)

    monkeypatch.setattr(threads, "has_gil", lambda: gil)
    monkeypatch.setattr(threads, "enough_for", lambda count: True)
    with in_threads(2):
        in_pieces(as_it_is, 2)  # so there is a helper
        monkeypatch.setattr(threads, "_acquire", noted)
        in_pieces(as_it_is, 2)
        assert waiting.acquire(timeout=WAIT)
        assert set(waits) == {not gil}


@pytest.mark.parametrize("enough", [False, True])
def test_who_waits_for_a_part_waits_as_long_as_it_takes(monkeypatch, enough):
    waits, acquire = [], threads._acquire

    def noted(lock, awake, *rest):
        if not rest:
            waits.append(awake)
        return acquire(lock, False, *rest)

    monkeypatch.setattr(threads, "enough_for", lambda count: enough)
    with in_threads(3):
        in_pieces(as_it_is, 3)
        monkeypatch.setattr(threads, "_acquire", noted)
        in_pieces(as_it_is, 3)
    assert waits == [enough] * 2


def test_who_waits_awake_passes_the_time_without_the_interpreters_lock(monkeypatch):
    passed, now = [], iter([0.0] * 4)
    monkeypatch.setattr(threads, "crc32", passed.append)
    threads._acquire(Lock(3), True, 5, lambda: next(now))
    assert len(passed) == 2  # between the looks
    assert min(map(len, passed)) > 5 * 1024  # for less zlib keeps the lock


def test_an_emptied_cache_lets_every_thread_free_what_it_made(monkeypatch):
    together = threading.Barrier(3)
    with in_threads(3):
        in_pieces(lambda part: together.wait(WAIT), 3)  # so there are two helpers
        ran, do = [], threads._Job.do
        monkeypatch.setattr(threads._Job, "do", lambda job, i: (ran.append(threading.get_ident()), do(job, i)))
        monkeypatch.setattr(threads, "has_gil", lambda: False)
        monkeypatch.setattr(threads, "enough_for", lambda count: False)
        idle = {helper.ident for helper in threads._idle}
        minires.empty_cache()
        assert len(idle) >= 2
        assert sorted(ran) == sorted({*idle, threading.get_ident()})
        assert {helper.ident for helper in threads._idle} == idle
        monkeypatch.setattr(threads, "has_gil", lambda: True)
        minires.empty_cache()
        assert len(ran) == len(idle) + 1  # nothing to do


def test_whether_there_is_a_gil(monkeypatch):
    monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    assert minires.backend.has_gil()
    for answer in (True, False):
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda answer=answer: answer, raising=False)
        assert minires.backend.has_gil() is answer


# -- kernels in threads -----------------------------------------------------------------------------------------------

OPTIONS = {"winograd": ((1, 1), (1, 1), (1, 1), 1), "im2col": ((2, 1), (1, 2), (1, 1), 2),
           "depthwise": ((1, 2), (1, 0), (1, 1), 4), "squares": ((1, 1), (1, 1), (1, 1), 1)}  # fmt: skip


def convolution(way, rng, dtype):
    """Everything that a convolution and a batch norm compute, forward and backward."""
    options = OPTIONS[way]
    x, w = rng.standard_normal((7, 11, 10, 4)).astype(dtype), rng.standard_normal((3, 3, 4 // options[3], 4))
    w, gamma, beta = w.astype(dtype), *rng.standard_normal((2, 4)).astype(dtype)
    z, mean, var = kernel.conv2d_moments(x, w, None, *options)
    y = kernel.batch_norm(z, gamma, beta, mean, var, 1e-5, None, True)
    dy = rng.standard_normal(y.shape).astype(dtype)
    return [
        z, mean, var, y, kernel.conv2d(x, w, beta, *options, y, True),
        *kernel.conv2d_backward(dy, x, w, x.shape, w.shape, *options), kernel.channel_sum(dy), *kernel.moments(x),
        *kernel.batch_norm_backward(dy, y, z, gamma, mean, var, 1e-5),
        *kernel.conv2d_norm_backward(dy, y, z, gamma, mean, var, 1e-5, x, w, x.shape, w.shape, *options, residual=True),
    ]  # fmt: skip


def training_step(rng, dtype):
    """The loss, the gradients, the statistics and the new parameters of a step of a small network."""
    model = cifar_resnet(8, width=4, shortcut="B", generator=1).astype(dtype)
    optimiser = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, labels = rng.standard_normal((6, 9, 8, 3)).astype(dtype), rng.integers(0, 10, 6)
    loss = F.cross_entropy(model(tensor(x)), labels)
    loss.backward()
    optimiser.step()
    return [loss.numpy(), *(p.grad for p in model.parameters()), *model.state_dict().values()]


RUNS = {way: lambda rng, dtype, way=way: convolution(way, rng, dtype) for way in OPTIONS} | {"step": training_step}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("tile", [None, 1000])
def test_the_same_number_gives_the_same_bits(run, number, tile):
    with split(number, tile, run == "squares"):
        once, again, cached = (RUNS[run](np.random.default_rng(3), "float32") for _ in range(3))
    for i, (a, b, c) in enumerate(zip(once, again, cached, strict=True)):
        assert a.dtype == np.float32
        assert a.tobytes() == b.tobytes() == c.tobytes(), f"result {i}"


@pytest.mark.parametrize("run", RUNS)
def test_another_number_differs_by_rounding_only(run):
    with split(1, None, run == "squares"):
        expected = RUNS[run](np.random.default_rng(3), "float64")
    for number in (2, 3, 8):
        with split(number, None, run == "squares"):
            for got, whole in zip(RUNS[run](np.random.default_rng(3), "float64"), expected, strict=True):
                np.testing.assert_allclose(got, whole, rtol=1e-9, atol=1e-11 * np.abs(whole).max())


def test_several_threads_of_the_caller_may_compute_at_once():
    number, rounds, wrong = 4, 3, []
    together = threading.Barrier(number)
    ways = ["winograd", "im2col", "depthwise", "winograd"]
    with split(2, 1000):
        expected = [convolution(way, np.random.default_rng(i), "float32") for i, way in enumerate(ways)]

        def user(i):
            for _ in range(rounds):
                together.wait(WAIT)
                got = convolution(ways[i], np.random.default_rng(i), "float32")
                wrong.extend(a for a, b in zip(got, expected[i], strict=True) if a.tobytes() != b.tobytes())
            finished.append(i)

        finished = []
        users = [threading.Thread(target=user, args=(i,)) for i in range(number)]
        for u in users:
            u.start()
        for u in users:
            u.join()
    assert sorted(finished) == list(range(number))
    assert not wrong


# -- processes --------------------------------------------------------------------------------------------------------

FORKING = """
import os, select, signal, threading
import numpy as np
import minires
from minires import kernels
from minires.backend import empty, in_pieces, memory, threads
from minires.backend.settings import settings
from minires.tensor.node import clock

minires.set_num_threads(2)
rng = np.random.default_rng(1)
x, w = rng.standard_normal((8, 40, 40, 16)), rng.standard_normal((3, 3, 16, 16))

def compute():
    assert len(in_pieces(list, 2)) == 2
    t = minires.Tensor(x)
    t += 0.0  # a change in place, which the clock notes
    return kernels.active().conv2d(x, w, None, (1, 1), (1, 1), (1, 1), 1)

def blas():
    return [library.get_num_threads() for library in settings.libraries]

for library in settings.libraries:
    library.set_num_threads(3)
expected, before = compute(), blas()

def fork(where=lambda fork: fork()):
    "Whether a child computes the same, and what it found."
    read, write = os.pipe()
    child = where(os.fork)
    if not child:
        try:
            same = np.array_equal(compute(), expected) and blas() == before
            os.write(write, b"same" if same else b"different")
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    if not select.select([read], [], [], 30)[0]:
        os.kill(child, signal.SIGKILL)  # it hangs
    os.close(write)
    os.waitpid(child, 0)
    return os.read(read, 1000).decode()

print("idle", fork())

def hold(part):  # a thread that holds every lock there is, in the middle of its work
    with memory._store._lock, threads._lock, settings._lock, clock.lock:
        inside.set()
        leave.wait()

inside, leave = threading.Event(), threading.Event()
other = threading.Thread(target=in_pieces, args=(hold, 1))
other.start()
inside.wait()
# released at the last moment: too late for the child, but in time for somebody who takes the locks before a fork
os.register_at_fork(before=leave.set)
print("busy", fork())
other.join()
print("work", in_pieces(lambda part: fork() if part.start == 0 else "", 2)[0])
print("work", in_pieces(lambda part: fork() if part.start == 1 else "", 2)[1])
print("alone", fork(lambda fork: in_pieces(lambda part: fork(), 1)[0]))
print("parent", np.array_equal(compute(), expected) and blas() == before)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_process_computes_like_its_parent():
    shown = run_program(FORKING, "-W", "ignore::DeprecationWarning")  # Python 3.12 warns of forks beside threads
    assert shown.stderr == ""
    same = [f"{where} same" for where in ("idle", "busy", "work", "work", "alone")]
    assert shown.stdout.splitlines() == [*same, "parent True"]


# -- interruptions and the end ----------------------------------------------------------------------------------------


def test_who_is_interrupted_waits_for_the_others_all_the_same(monkeypatch):
    leave, done = threading.Event(), []

    def work(part):
        if part.start:
            assert leave.wait(WAIT)
            done.append(part)

    def interrupted(*call):
        raise KeyboardInterrupt

    def impatient(seconds):
        if not leave.is_set():
            assert not done
            leave.set()
            raise KeyboardInterrupt  # the second Ctrl-C

    with in_threads(2):
        in_pieces(as_it_is, 2)
        monkeypatch.setattr(threads, "time", SimpleNamespace(sleep=impatient))
        acquire = threads._acquire
        monkeypatch.setattr(threads, "_acquire", lambda *call: (interrupted if len(call) == 2 else acquire)(*call))
        with pytest.raises(KeyboardInterrupt):
            in_pieces(work, 2)
    assert done == [range(1, 2)]


INTERRUPTED = """
import sys, threading
from minires import set_num_threads
from minires.backend import in_pieces, processors, settings, threads

def set_now():
    return [library.get_num_threads() for library in settings.settings.libraries], sys.getswitchinterval()

for library in settings.settings.libraries:
    library.set_num_threads(3)
set_num_threads(3)
threads.enough_for = lambda count: False  # nobody looks as often as there is time
idle = {*in_pieces(lambda part: threading.current_thread(), 3)[1:]}
before, at_work, places, files = set_now(), [], set(), (threads.__file__, processors.__file__, settings.__file__)


def work(part):
    at_work.append(part)
    for _ in range(100):
        pass
    at_work.remove(part)
    return part


def after(number):
    "Raises KeyboardInterrupt where Python looks for it: where a call of the pool begins, or one of C ends."

    def look(frame, event, argument):
        nonlocal number
        if event in ("call", "c_return") and frame.f_code.co_filename in files:
            number -= 1
            if number == 0:
                places.add(frame.f_code.co_name)
                raise KeyboardInterrupt

    return look


for number in range(1, 10_000):
    was_interrupted = False
    sys.setprofile(after(number))
    try:
        in_pieces(work, 3)
    except KeyboardInterrupt:
        was_interrupted = True
    finally:
        sys.setprofile(None)
    assert not at_work, (number, at_work)
    while len(threads._idle) < 2:
        pass  # who has done its part is idle a moment later
    assert {*threads._idle} == idle, (number, threads._idle)
    assert len(threads._idle) == 2, (number, threads._idle)
    assert in_pieces(work, 3) == [range(1), range(1, 2), range(2, 3)]
    assert set_now() == before, (number, set_now())
    if not was_interrupted:
        break
expected = {"in_pieces", "during", "_hold", "_restore", "_find", "prepare", "do", "_acquire", "results"}
print(number > 40, expected - places)
"""


def test_wherever_ctrl_c_comes_nobody_works_afterwards_and_all_are_idle():
    shown = run_program(INTERRUPTED)
    assert (shown.stdout, shown.stderr) == ("True set()\n", "")


@pytest.mark.usefixtures("no_helpers")
def test_helpers_that_are_few_are_all_taken(monkeypatch):
    with in_threads(3):
        in_pieces(as_it_is, 3)
        monkeypatch.setattr(threads._Helper, "start", None)  # no new ones
        for number in (1, 2, 3):
            found = []
            monkeypatch.setattr(threads, "_helpers", number)  # of which others use what is missing
            threads._find(found, number)
            assert len(found) == min(number, 2)
            threads._idle.extend(found)


def test_helpers_that_were_not_woken_are_idle_again(monkeypatch):
    with in_threads(3):
        in_pieces(as_it_is, 3)
        idle, prepare, calls = set(threads._idle), threads._Helper.prepare, []

        def interrupted(helper, job, i):
            calls.append(i)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return prepare(helper, job, i)

        with monkeypatch.context() as patch:
            patch.setattr(threads._Helper, "prepare", interrupted)
            with pytest.raises(KeyboardInterrupt):
                in_pieces(as_it_is, 3)
        assert set(threads._idle) == idle
        assert len(in_pieces(as_it_is, 3)) == 3  # not taken for work inside work


@pytest.mark.skipif(
    sys.version_info < (3, 14) and bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="free-threaded Python 3.13 empties all modules before the program's last objects go",
)
def test_an_object_may_compute_when_the_program_ends():
    shown = run_program(
        "import numpy as np, minires\n"
        "minires.set_num_threads(2)\n"
        "x = minires.Tensor(np.ones((64, 64, 64, 16), np.float32))\n"
        "x.relu()\n"
        "class Late:\n"
        "    def __del__(self, x=x):\n"
        "        print(x.relu().shape)\n"
        "late = Late()"
    )
    assert (shown.stdout, shown.stderr) == ("(64, 64, 64, 16)\n", "")
