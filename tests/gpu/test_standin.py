"""The stand-in for CuPy itself: what it refuses, what it counts, and that a graph does again what was captured."""

import gc
import operator
import pickle
from copy import deepcopy

import numpy as np
import pytest

from tests.gpu import emulator, standin


@pytest.fixture
def cupy(request):
    """The stand-in as ``cupy``; whatever a test allocated is gone after it."""
    gc.collect()
    before, failed = standin.memory_in_use(), request.session.testsfailed
    yield standin.install()
    standin.uninstall()
    request.node.funcargs.clear()  # what the other fixtures made for the test
    gc.collect()
    assert standin.memory_in_use() <= before or request.session.testsfailed > failed  # a traceback keeps its arrays


@pytest.fixture
def x(cupy):
    return cupy.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))


class Captured:
    """What happens inside the block becomes ``graph``."""

    def __init__(self, cupy):
        self.stream, self.pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
        self._allocator = cupy.cuda.using_allocator(self.pool.malloc)

    def __enter__(self):
        self.stream.__enter__()
        self._allocator.__enter__()
        self.stream.begin_capture()
        return self

    def __exit__(self, *exception):
        try:
            self.graph = self.stream.end_capture()
        finally:
            self._allocator.__exit__(*exception)
            self.stream.__exit__(*exception)


def test_it_is_imported_as_cupy_and_is_what_was_there_before_afterwards():
    import sys

    before = sys.modules.get("cupy")
    try:
        standin.install()
        import cupy
        import cupy.cuda.runtime

        assert cupy is standin.module
        assert cupy.cuda.is_available()
        assert type(cupy.zeros(1)).__module__ == "cupy"
    finally:
        standin.uninstall()
    assert sys.modules.get("cupy") is before


@pytest.mark.parametrize("name", ["linalg", "cuda.nvrtc", "ndarray.argpartition"])
def test_what_it_does_not_have_says_so(cupy, name):
    *path, last = name.split(".")
    home = cupy
    for part in path:
        home = getattr(home, part)
    with pytest.raises(AttributeError, match=last):
        getattr(home, last)


# -- nothing crosses to the host unseen -------------------------------------------------------------------------------

HOST = np.ones((2, 3), np.float32)


class Other:
    """An array of some other library."""

    def __array__(self, dtype=None, copy=None):
        return HOST


BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.mod, operator.eq,
          operator.lt, operator.iadd, np.add, np.maximum]  # fmt: skip


@pytest.mark.parametrize("operation", BINARY)
def test_a_host_array_is_no_operand(x, operation):
    for host in (HOST, HOST[0, :1]):
        with pytest.raises(TypeError, match=r"Unsupported type|all returned NotImplemented"):
            operation(x, host)
        if operation is not operator.iadd:
            with pytest.raises(TypeError, match=r"Unsupported type|all returned NotImplemented"):
                operation(host, x)


def test_a_host_array_of_one_number_is_only_compared(x):
    with pytest.raises(TypeError, match="Unsupported type"):
        x + np.array(1.0)
    assert (x > np.array(2.0)).sum().item() == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda cupy, x: np.asarray(x), lambda cupy, x: np.testing.assert_allclose(x, HOST), lambda cupy, x: x @ HOST.T,
        lambda cupy, x: HOST.T @ x, lambda cupy, x: cupy.maximum(x, HOST), lambda cupy, x: cupy.where(x > 0, x, HOST),
        lambda cupy, x: cupy.concatenate([x, HOST]), lambda cupy, x: cupy.sum(HOST), lambda cupy, x: x[np.array([0])],
        lambda cupy, x: cupy.zeros_like(HOST), lambda cupy, x: cupy.add(x, x, out=HOST),
        lambda cupy, x: [0, 1][x[0, 0]], lambda cupy, x: operator.add(x, [1.0, 2.0, 3.0]), lambda cupy, x: x + None,
        lambda cupy, x: cupy.asarray(Other()),
        lambda cupy, x: x.fill("1"), lambda cupy, x: operator.setitem(x, 0, [1, 2, 3]),
    ],
)  # fmt: skip
def test_what_would_copy_in_silence_is_a_type_error(cupy, x, call):
    with pytest.raises(TypeError):
        call(cupy, x)


def test_a_host_array_is_not_assigned(x):
    for index in (..., 0, (slice(None), [0, 1, 2])):
        with pytest.raises(ValueError, match="cannot be used for fill"):
            x[index] = HOST[0]
    x[0] = np.array(7.0)  # a number, which is an argument of the launch
    assert x.get()[0].tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    "read",
    [float, int, bool, repr, str, "{}".format, np.asarray, lambda a: a.item(), lambda a: a.get(), lambda a: a.tolist(),
     pickle.dumps],
)  # fmt: skip
def test_reading_on_the_host_is_a_synchronisation(cupy, read):
    number = cupy.ones((), np.float32)
    with standin.counter() as counts:
        if read is np.asarray:
            with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
                read(number)
        else:
            read(number)
    expected = 0 if read is np.asarray else 1
    assert (counts.synchronisations, counts.copies_to_host, counts.launches) == (expected, expected, 0)


def test_a_copy_to_the_host_is_a_copy(cupy, x):
    host = x.get()
    host[...] = 0
    assert x.sum().item() == 15
    assert type(host) is type(cupy.asnumpy(x)) is np.ndarray
    assert pickle.loads(pickle.dumps(x)).tolist() == deepcopy(x).tolist() == x.tolist()


def test_a_copy_to_the_device_is_counted_and_a_number_is_none(cupy):
    with standin.counter() as counts:
        cupy.asarray(HOST), cupy.array([1.0, 2.0]), cupy.asarray(3.0), cupy.asarray(np.float32(3))
    assert (counts.copies_to_device, counts.names, counts.synchronisations) == (2, ["fill", "fill"], 0)


def test_a_boolean_index_synchronises_to_know_its_shape(x):
    with standin.counter() as counts:
        mask = x > 2
        assert not counts.synchronisations
        assert x[mask].shape == (3,)
    assert counts.synchronisations == 1


# -- what an array is -------------------------------------------------------------------------------------------------


def test_one_element_is_an_array_of_no_axes(cupy, x):
    for one in (x[0, 0], x.sum(), x.max(), x.argmax(), x.mean(), cupy.any(x), x[0, 0] + 1, np.exp(x[0, 0]), *x[0]):
        assert type(one) is cupy.ndarray
        assert one.shape == ()
    with pytest.raises(TypeError, match="unsized"):
        len(x.sum())


def test_results_are_contiguous_whatever_the_operands_are(cupy, x):
    turned = x.T
    assert not turned.flags.c_contiguous
    results = (turned + 1, turned + turned, cupy.exp(turned), turned.astype("float64"), turned.copy(), turned.sum(0),
               turned[:, cupy.asarray([1, 0])], cupy.where(turned > 1, turned, 0), turned.clip(0, 1))  # fmt: skip
    for result in results:
        assert result.flags.c_contiguous
        assert result.base is None


def test_views_share_memory_and_know_their_base(x):
    views = [x[0], x[:, ::2], x.T, x.reshape(3, 2), x.ravel(), x[None], x.view(), x.swapaxes(0, 1), x[...].T[1:]]
    for view in views:
        assert view.base is x
        assert x.data.ptr <= view.data.ptr < x.data.ptr + x.nbytes
    assert (x[1].data.ptr - x.data.ptr, x[1].strides, x.T.strides) == (12, (4,), (4, 12))
    x[1] = -1
    assert views[2].get().tolist() == [[0, -1], [1, -1], [2, -1]]
    assert x.T.reshape(-1).base is None  # cannot be a view


def test_numbers_do_not_widen_and_numpy_scalars_do(cupy, x):
    assert {(x + 1.5).dtype, (2**0.5 * x).dtype, (x / 3).dtype, (x[0, 0] * 2.0).dtype} == {np.dtype("float32")}
    assert (x * np.float64(2)).dtype == (x.sum() * cupy.ones(3)).dtype == np.float64
    assert (cupy.ones((), np.float64) * x).dtype == np.float64  # whatever its shape, an array has its dtype
    assert (cupy.arange(3) / 2).dtype == np.float64


def test_a_gpu_does_not_warn(cupy, x):
    assert np.isinf((1 / x).get()[0, 0])
    assert np.isnan(cupy.log(-x - 1).get()).all()


def test_operators_ask_whoever_the_other_is(x):
    class Other:
        def __array_ufunc__(self, ufunc, method, *inputs, **options):
            return ufunc.__name__, [type(i).__name__ for i in inputs]

    class Refusing:
        __array_ufunc__ = None

        def __radd__(self, other):
            return "asked"

    assert x * Other() == ("multiply", ["ndarray", "Other"])
    assert Other().__array_ufunc__(np.add, "__call__", x) == ("add", ["ndarray"])
    assert x + Refusing() == "asked"


def test_functions_of_numpy_are_those_of_cupy(cupy, x):
    for result in (np.zeros_like(x), np.copy(x), np.concatenate([x, x]), np.sqrt(x), np.add.reduce(x)):
        assert type(result) is cupy.ndarray
    with pytest.raises(TypeError):
        np.linalg.norm(x)  # the stand-in does not have it


# -- what CuPy lets happen --------------------------------------------------------------------------------------------


def test_an_index_out_of_range_is_an_error(cupy, x):
    wrong = cupy.asarray([0, 3])
    calls = lambda: x[:, wrong], lambda: x[0][wrong], lambda: cupy.take(x, wrong, 1), lambda: x.__setitem__(wrong, 0)
    for call in calls:
        with pytest.raises(IndexError):
            call()


def test_a_broadcast_view_is_not_written_to(cupy, x):
    view = cupy.broadcast_to(x[:, :1], (2, 3))
    with pytest.raises(ValueError, match="share memory"):
        view += 1
    with pytest.raises(ValueError, match="share memory"):
        view[0, 0] = 1
    with pytest.raises(ValueError, match="share memory"):
        cupy.add(view, 1, out=view)


def test_floats_are_not_added_by_atomics(cupy, x):
    with pytest.raises(TypeError, match="fixed order"):
        cupy.add.at(x, cupy.asarray([0, 0]), 1.0)
    counts = cupy.zeros(3, np.int64)
    cupy.add.at(counts, cupy.asarray([0, 2, 0]), 1)
    assert counts.tolist() == [2, 0, 1]


def test_new_memory_is_poisoned(cupy):
    assert np.isnan(cupy.empty((2, 3)).get()).all()
    assert np.isnan(cupy.empty_like(cupy.ones(3, np.float16)).get()).all()
    for dtype in ("int64", "uint8", "int32"):
        assert (cupy.empty(3, dtype).get() > 100).all()


def test_flags_cannot_be_set(x):
    with pytest.raises(AttributeError, match="writeable"):
        x.flags.writeable = False


# -- counting ---------------------------------------------------------------------------------------------------------


def test_launches_are_counted_in_order(cupy, x):
    with standin.counter() as outer:
        y = x + 1
        with standin.counter() as inner:
            y *= 2
            y.sum((0, 1))
            y[0] = 3
            y[1] = x[0]
        y.T.reshape(-1)
        x[cupy.asarray([0])]
        x.reshape(3, 2), x.T, x[0], cupy.broadcast_to(x, (4, 2, 3)), cupy.empty(3), x.astype("float32", copy=False)
    assert inner.names == ["multiply", "sum", "fill", "setitem"]
    assert outer.names == ["add", *inner.names, "copy", "getitem"]
    assert outer.launches == 7


def test_memory_is_counted_and_limited(cupy):
    before = standin.memory_in_use()
    a = cupy.zeros(1000, np.float64)
    view = a[10:]
    assert standin.memory_in_use() - before == 8000
    del a
    assert standin.memory_in_use() - before == 8000
    with standin.memory_limit(before + 12000):
        assert cupy.cuda.runtime.memGetInfo() == (4000, before + 12000)
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="Out of memory allocating 8,000 bytes"):
            cupy.ones(1000)
    del view
    assert standin.memory_in_use() == before


def test_a_pool_hands_memory_out_again(cupy):
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        a = cupy.zeros(100)
        address = a.data.ptr
        assert (pool.used_bytes(), pool.free_bytes()) == (1024, 0)
        del a
        assert (pool.used_bytes(), pool.free_bytes(), pool.n_free_blocks()) == (0, 1024, 1)
        b = cupy.empty(100)
        assert b.data.ptr == address
        assert np.isnan(b.get()).all()  # poisoned again
    assert cupy.zeros(100).data.ptr != address
    del b
    pool.free_all_blocks()
    assert pool.total_bytes() == 0


def test_dlpack_shares_memory_on_the_device_only(cupy, x):
    assert x.__dlpack_device__() == (2, 0)
    other = cupy.from_dlpack(x)
    other[0, 0] = 9
    assert x[0, 0].item() == 9
    with pytest.raises(BufferError):
        cupy.from_dlpack(HOST)
    with pytest.raises((TypeError, BufferError, RuntimeError, ValueError)):
        np.from_dlpack(x)


# -- graphs -----------------------------------------------------------------------------------------------------------


def test_a_replay_does_the_same_to_new_inputs(cupy, x):
    total = cupy.zeros((), np.float32)
    with Captured(cupy) as captured:
        y = cupy.exp(x - x.max(1, keepdims=True))
        y = y / y.sum(1, keepdims=True)
        total += y[:, 0].sum()
    assert total.item() == 0  # nothing happens while it is captured
    assert np.isnan(y.get()).all()
    for shift in (0, 1):
        x[...] = cupy.asarray([[shift, 2, 3], [1, 0, 0]]).astype("float32")
        with standin.counter() as counts:
            captured.graph.launch(captured.stream)
        assert counts.names == ["graph"]
        e = np.exp(x.get())
        np.testing.assert_allclose(y.get(), e / e.sum(1, keepdims=True), rtol=1e-6)
    first = [np.exp(s) / (np.exp(s) + np.exp(2) + np.exp(3)) + np.e / (np.e + 2) for s in (0, 1)]
    assert total.item() == pytest.approx(sum(first), rel=1e-6)


def test_memory_that_is_used_twice_in_a_capture_gives_the_same_when_replayed(cupy, x):
    with Captured(cupy) as captured:
        y = x
        for _ in range(5):
            y = y * 2 + 1  # the product's memory is used by the next one
        assert captured.pool.total_bytes() <= 3 * 512
    captured.graph.launch()
    np.testing.assert_array_equal(y.get(), x.get() * 32 + 31)
    captured.graph.launch()
    np.testing.assert_array_equal(y.get(), x.get() * 32 + 31)


REFUSED = {
    "product": (lambda cupy, x: x @ x.T, NotImplementedError, "cuBLAS"),
    "dot": (lambda cupy, x: cupy.dot(x, x.T), NotImplementedError, "cuBLAS"),
    "tensordot": (lambda cupy, x: cupy.tensordot(x, x, ((0, 1), (0, 1))), NotImplementedError, "cuBLAS"),
    "einsum": (lambda cupy, x: cupy.einsum("ij,kj->ik", x, x), NotImplementedError, "cuBLAS"),
    "get": (lambda cupy, x: x.get(), RuntimeError, "D2H transfers are disallowed"),
    "item": (lambda cupy, x: x[0, 0].item(), RuntimeError, "D2H"),
    "float": (lambda cupy, x: float(x[0, 0]), RuntimeError, "D2H"),
    "bool": (lambda cupy, x: bool(x[0, 0]), RuntimeError, "D2H"),
    "asnumpy": (lambda cupy, x: cupy.asnumpy(x), RuntimeError, "D2H"),
    "asarray": (lambda cupy, x: cupy.asarray(HOST), RuntimeError, "H2D transfers are disallowed"),
    "set": (lambda cupy, x: x.set(HOST), RuntimeError, "H2D"),
    "list as index": (lambda cupy, x: x[[0, 1]], RuntimeError, "H2D"),
    "mask": (lambda cupy, x: x[x > 0], RuntimeError, "synchronous"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured_is_refused(cupy, x, name):
    call, error, message = REFUSED[name]
    with Captured(cupy), pytest.raises(error, match=message):
        call(cupy, x)
    call(cupy, x)


def test_to_synchronise_ruins_a_capture(cupy):
    error, captured = cupy.cuda.runtime.CUDARuntimeError, Captured(cupy)
    with pytest.raises(error, match="CaptureInvalidated"), captured, pytest.raises(error, match="CaptureUnsupported"):
        captured.stream.synchronize()
    with standin.counter() as counts:
        captured.stream.synchronize()
        cupy.cuda.Device().synchronize()
    assert counts.synchronisations == 2


def test_numbers_and_copies_on_the_device_can_be_captured(cupy, x):
    with Captured(cupy) as captured:
        y = cupy.asarray(2.0) * x.copy() + cupy.arange(3)
        y[0] = x[1]
    captured.graph.launch()
    assert y.tolist() == [[3, 4, 5], [6, 9, 12]]


def test_captures_that_make_no_sense(cupy):
    with pytest.raises(RuntimeError, match="default"):
        cupy.cuda.Stream.null.begin_capture()
    with pytest.raises(RuntimeError, match="non_blocking"):
        cupy.cuda.Stream().begin_capture()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        cupy.cuda.Stream(non_blocking=True).end_capture()


def test_capture_needs_a_pool_of_its_own(cupy, x):
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="default pool"):
            x + 1
        stream.end_capture()


def test_only_the_stream_that_captures_records(cupy, x):
    with Captured(cupy) as captured, cupy.cuda.Stream(non_blocking=True):
        x += 1
        assert x.sum().item() == 21
    captured.graph.launch()
    assert x.sum().item() == 21


@pytest.mark.parametrize("freed", ["an input", "the pool's blocks", "the pool"])
def test_a_graph_is_not_launched_on_freed_memory(cupy, freed):
    x = cupy.ones(1000)
    with Captured(cupy) as captured:
        y = (x + 1) * 2
    captured.graph.launch()
    assert y[0].item() == 4
    if freed == "an input":
        del x
    elif freed == "the pool's blocks":
        captured.pool.free_all_blocks()  # that of x + 1
    else:
        del captured.pool, captured._allocator
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="IllegalAddress"):
        captured.graph.launch()


# -- raw kernels ------------------------------------------------------------------------------------------------------

CODE = """
extern "C" __global__ void scale(const float* x, float* y, float factor, long long n) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < n) y[i] = factor * x[i];
}
"""


@pytest.fixture
def scale(cupy):
    if not emulator.available():
        pytest.skip("there is no C++20 compiler to compile CUDA text with")
    return cupy.RawModule(code=CODE, options=("-std=c++17",)).get_function("scale")


def test_a_raw_kernel_runs_and_is_a_launch(cupy, x, scale):
    y = cupy.empty(x.shape, x.dtype)
    with standin.counter() as counts:
        scale((1,), (32,), (x, y, np.float32(3), np.int64(5)))
    assert counts.names == ["scale"]
    np.testing.assert_array_equal(y.get(), [[0, 3, 6], [9, 12, np.nan]])  # what it does not write stays poison


def test_a_raw_kernel_that_writes_past_the_end_is_found_out(cupy, scale):
    x, y = cupy.zeros(40, np.float32), cupy.empty(30, np.float32)
    scale((1,), (64,), (x, y, np.float32(3), np.int64(30)))
    with pytest.raises(RuntimeError, match=r"scale: writes past the end of argument 1 of shape \(30,\)"):
        scale((1,), (64,), (x, y, np.float32(3), np.int64(31)))


def test_a_raw_kernel_is_captured(cupy, x, scale):
    y = cupy.zeros(x.shape, x.dtype)
    with Captured(cupy) as captured:
        z = x + 1
        scale((1,), (32,), (z, y, np.float32(3), np.int64(6)))
        del z
    assert not y.get().any()
    captured.graph.launch()
    np.testing.assert_array_equal(y.get(), 3 * x.get() + 3)


def test_a_raw_kernel_takes_nothing_whose_size_is_not_known(cupy, x, scale):
    y = cupy.empty(x.shape, x.dtype)
    good = [x, y, np.float32(3), np.int64(6)]
    for i, wrong in [(0, x.T), (0, x[:, ::2]), (0, x.get()), (2, 3.0), (3, 6), (0, None), (3, [6])]:
        arguments = [*good[:i], wrong, *good[i + 1 :]]
        with pytest.raises(TypeError, match=f"argument {i}"):
            scale((1,), (32,), tuple(arguments))
    for grid, block in [((0,), (32,)), ((1,), (2048,)), ((1,), (32, 64)), ((1, 70000), (32,)), ((1,), (1, 1, 65))]:
        with pytest.raises(ValueError, match="INVALID_VALUE"):
            scale(grid, block, tuple(good))
    for grid, block in [(1, (32,)), ((1,), 32), ((1, 1, 1, 1), (32,))]:
        with pytest.raises(TypeError):
            scale(grid, block, tuple(good))
