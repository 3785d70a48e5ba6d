"""Recycled memory: never used twice at once, always used again, and given back when asked."""

import contextlib
import copy
import ctypes
import gc
import itertools
import pickle
import sys
import threading

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import minires
from minires import Tensor, optim
from minires import functional as F
from minires.backend import empty, memory, memory_in_use
from minires.errors import GraphError
from minires.kernels import numpy as kernel
from minires.models import cifar_resnet

from .programs import run_program

pytestmark = pytest.mark.host_only("the host's memory is recycled here; CuPy has its own pool")

SHAPE = 301, 257  # of float32: 309 428 bytes, not a whole number of pages
PAGES = 76 * 4096


@pytest.fixture(autouse=True, scope="module")
def little_garbage():
    """What is there before these tests is no garbage of theirs: looking through it each time would take long."""
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401 - many things
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_idle_memory():
    """Start and end with nothing idle, so that what becomes idle was in use in the test."""
    gc.collect()
    minires.empty_cache()
    yield
    minires.empty_cache()


def address(array):
    return array.__array_interface__["data"][0]


def in_use():
    return memory_in_use()[0]


# -- memory that somebody sees ----------------------------------------------------------------------------------------


class _Picture(np.ndarray):
    """A subclass of somebody else's."""


def _by_torch(array):
    import torch

    return torch.from_numpy(array)


VIEWS = {
    "the array": lambda a: a,
    "a slice": lambda a: a[3:, ::-2],
    "a row": lambda a: a[300],
    "a 0-d view": lambda a: a[5, 5, ...],
    "reshape": lambda a: a.reshape(-1),
    "transpose": lambda a: a.T,
    "a new axis": lambda a: a[None],
    "another dtype": lambda a: a.view(np.uint8),
    "another class": lambda a: a.view(_Picture),
    "as it is not": lambda a: np.asarray(a.view(_Picture)[1:])[1:],
    "broadcast": lambda a: np.broadcast_to(a, (2, *SHAPE)),
    "windows": lambda a: np.lib.stride_tricks.sliding_window_view(a, (3, 3)),
    "strides": lambda a: np.lib.stride_tricks.as_strided(a, (5, 5), (4, 4)),
    "ndarray over it": lambda a: np.ndarray((7, 7), np.float32, a, 400),
    "ndarray over a view of it": lambda a: np.ndarray((7,), np.float32, a[1:].reshape(-1)),
    "memoryview": memoryview,
    "array of a memoryview": lambda a: np.asarray(memoryview(a)),
    "frombuffer": lambda a: np.frombuffer(a, np.float32),
    "a part of a memoryview": lambda a: memoryview(a)[2:],
    "flat": lambda a: a.flat,
    "nditer": np.nditer,
    "ctypes": lambda a: a.ctypes.data_as(ctypes.c_void_p),
    "ctypes array": lambda a: (ctypes.c_char * a.nbytes).from_buffer(a),
    "pickle buffer": pickle.PickleBuffer,
    "DLPack": lambda a: np.from_dlpack(a),
    "torch": _by_torch,
    "a view by torch": lambda a: _by_torch(a)[4:].T,
    "numpy of torch": lambda a: _by_torch(a).numpy(),
    "Tensor": Tensor,
    "detach": lambda a: Tensor(a).detach(),
    "Tensor of a Tensor": lambda a: Tensor(Tensor(a)),
    "reshape of a Tensor": lambda a: Tensor(a).reshape(-1),
    "part of a Tensor": lambda a: Tensor(a)[5:],
    "numpy of a Tensor": lambda a: Tensor(a)[5:].numpy(),
    "the base": lambda a: a.base,
    "a part of the base": lambda a: a.base[4096:],
    "a part of a part of the base": lambda a: a.base[4096:][:7],
    "a view of a view of a view": lambda a: a[1:].T[2:][..., 1:],
}


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("view", VIEWS)
def test_memory_is_used_again_when_the_last_view_is_gone_and_not_before(view):
    if "torch" in view:
        pytest.importorskip("torch")
    before = in_use()
    array = empty(SHAPE, np.float32)
    at, kept = address(array), VIEWS[view](array)
    del array
    assert memory_in_use() == (before + PAGES, 0)
    other = empty(SHAPE, np.float32)
    assert abs(address(other) - at) >= PAGES
    del other
    assert memory_in_use() == (before + PAGES, PAGES)
    del kept
    assert memory_in_use() == (before, 2 * PAGES)
    again = [empty(SHAPE, np.float32) for _ in range(2)]  # the one used last comes first
    assert address(again[0]) == at
    assert memory_in_use() == (before + 2 * PAGES, 0)
    assert address(again[1]) != at


def test_what_a_view_shows_stays():
    kept = []
    for i in range(20):
        array = empty(SHAPE, np.float32)
        array[...] = i
        kept.append(array[i:, i:].T if i % 3 else memoryview(array))
    del array
    for i, view in enumerate(kept):
        assert np.all(np.asarray(view) == i)


def test_a_copy_keeps_nothing():
    before, array = in_use(), empty(SHAPE, np.float32)
    array[...] = 1  # what is in fresh memory may be no number
    kept = array.copy(), array + 1, array[:2].copy(), np.sort(array, None), pickle.dumps(array), copy.deepcopy(array)
    del array
    assert in_use() == before
    del kept
    assert in_use() == before


# -- what one gets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "bool", "int64", "complex128", np.dtype("<f2"), float])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (1,), (301, 257), (70_000,), (3, 5, 7, 1009)])
def test_an_array_like_any_other(shape, dtype):
    for array in (empty(shape, dtype), empty(shape, dtype)):
        assert type(array) is np.ndarray
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        flags = array.flags
        assert flags.c_contiguous
        assert flags.aligned
        assert flags.writeable
        assert address(array) % 16 == 0
        array[...] = 1
        assert np.all(array == 1)


def test_small_arrays_are_ordinary():
    before = memory_in_use()
    arrays = [empty((65_535,), np.uint8), empty((), "f8"), empty((0, 10**6), "f4"), empty((16_383,), "f4")]
    assert all(array.base is None and array.flags.owndata for array in arrays)
    assert memory_in_use() == before
    large = empty((65_536,), np.uint8)
    assert not large.flags.owndata
    assert in_use() == before[0] + 65_536


def test_memory_serves_whatever_needs_as_many_pages():
    array = empty(SHAPE, np.float32)
    at = address(array)
    del array
    array = empty((75 * 4096 + 1,), np.uint8)
    assert address(array) == at


def test_memory_that_there_is_not_is_not_counted(monkeypatch):
    monkeypatch.setattr(memory, "_store", memory._Store())
    before = memory_in_use()
    with pytest.raises(MemoryError):
        empty((1 << 46,), np.float64)
    assert memory_in_use() == before


def test_who_takes_memory_in_the_middle_of_taking_some_disturbs_nobody(monkeypatch):
    """As a signal handler that computes does, or the destructor of an object that the garbage collector finds."""
    gc.collect()
    minires.empty_cache()
    collect, meanwhile, before = memory._store._collect, [], memory_in_use()

    def interrupted():
        collect()
        meanwhile.append(empty(SHAPE, np.float32))
        meanwhile.append(memory_in_use())
        minires.empty_cache()

    monkeypatch.setattr(memory._store, "_collect", interrupted)
    first = empty(SHAPE, np.float32)
    monkeypatch.setattr(memory._store, "_collect", collect)
    other, told = meanwhile
    assert told == before
    assert not np.shares_memory(first, other)
    size = -(-first.nbytes // 4096) * 4096
    assert memory_in_use() == (before[0] + size, 0)
    meanwhile.clear()
    del other
    assert memory_in_use() == (before[0] + size, 0)
    del first
    assert memory_in_use() == (before[0], size)


# -- how much is kept -------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_spare(monkeypatch):
    monkeypatch.setattr(memory, "_SPARE", 0)


@pytest.mark.parametrize("spare", [0, 4096 * 100])
@settings(derandomize=True, deadline=None, max_examples=60)
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(17, 24)), min_size=10, max_size=60))
def test_idle_and_in_use_never_exceed_what_was_in_use_or_is_spare(spare, steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_SPARE", spare)
        _take_and_drop(steps, spare)


def _take_and_drop(steps, spare):
    gc.collect()
    minires.empty_cache()
    peak = before = in_use()
    alive = []
    for take, pages in steps:
        if take or not alive:
            alive.append(empty((pages * 4096 - pages,), np.uint8))
        else:
            del alive[pages % len(alive)]
        used, idle = memory_in_use()
        assert used == before + sum(-(-a.nbytes // 4096) * 4096 for a in alive)
        peak = max(peak, used)
        assert used + idle <= max(peak, spare)
        held = [m for blocks in memory._store._idle.values() for m in blocks]
        assert idle == sum(m.nbytes for m in held)  # the count is true
        everything = sorted([(address(m), m.nbytes) for m in held] + [(address(a), a.nbytes) for a in alive])
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(everything))


@pytest.mark.usefixtures("nothing_spare")
def test_the_size_that_was_not_used_for_longest_is_given_up_first():
    arrays = [empty((size,), np.uint8) for size in (100_000, 200_000, 300_000)]
    places = {a.size: address(a) for a in arrays}
    while arrays:
        del arrays[0]
    assert memory_in_use()[1] == 25 * 4096 + 49 * 4096 + 74 * 4096
    a = empty((100_000,), np.uint8)
    assert address(a) == places[100_000]
    del a
    one_more = empty((220_000,), np.uint8)  # 54 pages: more than the 49 of the one that waits for longest
    sizes = {size: len(idle) for size, idle in memory._store._idle.items()}
    assert sizes == {25 * 4096: 1}  # 200 000 was the oldest, 300 000 next
    del one_more


def test_a_few_sizes_stay_however_little_was_in_use():
    gc.collect()
    minires.empty_cache()
    assert in_use() < memory._SPARE - 600_000
    places = set()
    for size in (100_000, 200_000, 300_000) * 2:  # one after the other
        array = empty((size,), np.uint8)
        places.add((size, address(array)))
        del array
    assert len(places) == 3
    assert memory_in_use()[1] == 25 * 4096 + 49 * 4096 + 74 * 4096


@pytest.mark.usefixtures("nothing_spare")
def test_empty_cache_gives_idle_memory_back_and_nothing_else():
    before, kept, dropped = in_use(), empty(SHAPE, np.float32), empty((200_000,), np.float32)
    kept[...] = 3
    del dropped
    assert memory_in_use()[1] == 196 * 4096
    minires.empty_cache()
    assert memory_in_use() == (before + PAGES, 0)
    assert np.all(kept == 3)
    other = empty((90_000,), np.float32)
    del other
    del kept
    assert sum(memory_in_use()) <= before + PAGES + 88 * 4096  # the peak since, not the one before


# -- threads, cycles and the end --------------------------------------------------------------------------------------


def test_no_two_threads_get_the_same_memory():
    number, rounds, wrong = 6, 100, []
    together = threading.Barrier(number)

    def fill(me):
        rng, mine = np.random.default_rng(me), []
        together.wait(60)
        for _ in range(rounds):
            array = empty((int(rng.integers(17_000, 20_000)),), np.float32)
            array[...] = me
            mine.append(array[::7])
            if len(mine) > 3:
                del mine[int(rng.integers(4))]
            wrong.extend(a for a in mine if np.any(a != me))
        done.append(me)

    done, before, often = [], in_use(), sys.getswitchinterval()
    threads = [threading.Thread(target=fill, args=(i,)) for i in range(number)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(often)
    assert sorted(done) == list(range(number))
    assert not wrong
    assert in_use() == before


class _Ring:
    """Something that only the garbage collector frees, with an array."""

    def __init__(self):
        self.me, self.array = self, empty(SHAPE, np.float32)


@pytest.mark.usefixtures("without_collector")
def test_an_array_in_a_cycle_comes_back_with_the_cycle():
    before = in_use()
    for _ in range(3):
        _Ring()
    assert memory_in_use() == (before + 3 * PAGES, 0)
    gc.collect()
    assert memory_in_use() == (before, 3 * PAGES)


@pytest.mark.usefixtures("without_collector")
def test_the_garbage_collector_may_run_while_memory_is_taken(monkeypatch):
    before = in_use()
    _Ring()
    forget, taken = memory._store._forget, []
    monkeypatch.setattr(memory._store, "_forget", lambda excess: (gc.collect(), forget(excess)))
    # a thread, because a lock that a thread cannot take twice would stop it for ever
    thread = threading.Thread(target=lambda: taken.append(empty((200_000,), np.uint8)), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert memory_in_use()[0] == before + 49 * 4096
    taken.clear()
    assert memory_in_use()[0] == before


ENDING = """
import atexit, builtins, sys, threading
import numpy as np
from minires import Tensor
from minires.backend import empty
from minires.kernels import active

class Ring:
    def __init__(self):
        self.me, self.array = self, empty((100_000,), "f8")
    def __del__(self):
        self.array[...] = 1

array = empty((100_000,), "f8")
builtins.kept, sys.kept, np.kept = array[3:], empty((100_000,), "f8"), Ring()
ring, view, tensor = Ring(), memoryview(empty((100_000,), "f8")), Tensor(empty((300, 300), "f8"))
local = threading.local()
local.array = empty((100_000,), "f8")
x = np.ones((4, 30, 30, 8))
y = active().conv2d(x, np.ones((3, 3, 8, 8)), None, (1, 1), (1, 1), (1, 1), 1)
atexit.register(lambda: empty((200_000,), "f8"))
print("end")
"""


def test_a_program_ends_without_a_word():
    shown = run_program(ENDING, MINIRES_NUM_THREADS="2")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "end\n", "")


# -- tensors ----------------------------------------------------------------------------------------------------------


def result(rng):
    """A recorded result in recycled memory, and the picture it was computed from."""
    x = Tensor(rng.standard_normal((5, 21, 20, 8)), requires_grad=True)
    y = F.conv2d(x, Tensor(rng.standard_normal((3, 3, 8, 8))), padding=1)
    assert not y.numpy().flags.owndata
    return x, y


TENSOR_VIEWS = {
    "itself": lambda t: t,
    "reshape": lambda t: t.reshape(-1),
    "transpose": lambda t: t.T,
    "part": lambda t: t[2:, 1:],
    "detach": lambda t: t.detach(),
    "Tensor of it": Tensor,
    "several": lambda t: t.detach().reshape(5, -1)[1:].T,
}


@pytest.mark.parametrize("view", TENSOR_VIEWS)
@pytest.mark.parametrize("saved", ["the result", "the view"])
def test_a_saved_array_that_changed_through_a_view_is_noticed(rng, view, saved):
    _, y = result(rng)
    seen = TENSOR_VIEWS[view](y)
    kept, changed = (y, seen) if saved == "the result" else (seen.detach().requires_grad_(), y)
    loss = (kept * kept).sum()
    with minires.no_grad():
        changed[1:] = 5.0
    with pytest.raises(GraphError, match="an array that it saved in the forward pass was changed in place since"):
        loss.backward()


def test_memory_of_others_may_change(rng):
    x, y = result(rng)
    dropped = result(rng)[1].detach()  # computed, freed, and its memory used by the next
    used = address(dropped.numpy())
    del dropped
    _, other = result(rng)
    assert address(other.numpy()) == used
    loss = (y * other.detach()).sum() + (y * y).sum()
    fresh = result(rng)[1].detach()
    with minires.no_grad():
        fresh += 1.0  # large, recycled, and nobody's
        fresh[0] = 2.0
    loss.backward()
    assert np.isfinite(x.grad).all()


def test_a_gradient_belongs_to_its_tensor(rng):
    x, y = result(rng)
    y.retain_grad()
    y.sum().backward()
    kept = x.grad.copy(), y.grad.copy()
    minires.empty_cache()
    for _ in range(3):
        _, again = result(rng)
        (again * 7.0).sum().backward()
    assert np.array_equal(x.grad, kept[0])
    assert np.array_equal(y.grad, kept[1])


@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.usefixtures("without_collector")
def test_a_training_step_leaves_no_memory_behind(rng, fusion):
    model = cifar_resnet(8, width=8, generator=1)
    optimiser = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, labels = Tensor(rng.standard_normal((16, 16, 16, 3)), dtype=np.float32), rng.integers(0, 10, 16)
    totals = []
    for step in range(5):
        if step < 2:  # until the kernels have what they keep for the next time
            before = in_use()
        optimiser.zero_grad()
        if fusion:
            logits = model(x)
        else:
            with minires.no_fusion():
                logits = model(x)
        loss = F.cross_entropy(logits, labels)
        assert in_use() > before + 5 * 16 * 16 * 16 * 8 * 4  # the graph holds the results
        loss.backward()
        optimiser.step()
        assert step < 1 or in_use() == before, f"step {step}: backward did not let go"
        totals.append(sum(memory_in_use()))
    del loss, logits
    assert in_use() == before
    assert len(set(totals[1:])) == 1  # the later steps needed nothing new
    logits = model(x)
    assert in_use() > before
    del logits  # a graph without a backward pass
    assert in_use() == before
    model.eval()
    for _ in range(2):
        after_training = in_use()
        with minires.no_grad():
            model(x)
    assert in_use() == after_training


def test_an_emptied_cache_holds_no_buffers_of_kernels(rng):
    minires.backend.empty_cache()
    before, _ = memory_in_use()
    x, w = rng.standard_normal((8, 32, 32, 16)), rng.standard_normal((3, 3, 16, 16))
    for stride in (1, 2):
        options = (stride, stride), (1, 1), (1, 1), 1
        dy = kernel.conv2d(x, w, None, *options)
        kernel.conv2d_backward(dy, x, w, x.shape, w.shape, *options)
    del dy
    assert memory_in_use()[0] > before
    minires.backend.empty_cache()
    assert memory_in_use() == (before, 0)
