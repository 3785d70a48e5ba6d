"""The emulator runs CUDA text as a card would, and says where a card would fail or the result is undefined."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from tests.gpu import emulator
from tests.gpu.emulator import EmulatorError

pytestmark = [
    pytest.mark.host_only,
    pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++ with C++20"),
]

KERNELS = Path(emulator.__file__).with_name("samples.cu").read_text(encoding="utf-8")


@lru_cache
def kernels(*options):
    return emulator.compile(KERNELS, ("-std=c++17", *options))


@pytest.fixture(params=["fibers", "threads"])
def run(request):
    """Launch a kernel: run(name, grid, block, *arguments)."""
    module = kernels() if request.param == "fibers" else kernels("-DEMU_THREADS")
    return lambda name, grid, block, *arguments: module.get_function(name)(grid, block, arguments)


@pytest.fixture(params=[False, True], ids=["forwards", "backwards"])
def either_order(request, monkeypatch):
    monkeypatch.setattr(emulator.Function, "backwards", request.param)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 255, 1025])
def test_threads_cover_an_array_with_a_tail(rng, run, n, dtype):
    x, y = rng.standard_normal((2, n)).astype(dtype)
    z = np.full(n + 1, 7, dtype)
    run(
        f"add_{dtype(0).dtype.name.replace('float32', 'float').replace('float64', 'double')}",
        (3,),
        (128,),
        x,
        y,
        z,
        np.int64(n),
    )
    np.testing.assert_array_equal(z, [*(x + y), 7])


@pytest.mark.parametrize(("dtype", "name"), [(np.float32, "sum_float"), (np.float64, "sum_double")])
@pytest.mark.parametrize("threads", [32, 96, 1024])
def test_a_block_adds_up_with_shuffles_and_shared_memory(rng, run, dtype, name, threads):
    x = rng.standard_normal(4099).astype(dtype)
    y = np.empty(3, dtype)
    run(name, (3,), (threads,), x, y, np.int32(x.size))
    np.testing.assert_allclose(y.sum(), x.sum(dtype=np.float64), rtol=0, atol=1e-4 if dtype is np.float32 else 1e-11)


def test_transposition_in_blocks_of_three_axes(run, either_order):
    x = np.arange(2 * 13 * 21, dtype=np.int32).reshape(2, 13, 21)
    y = np.empty((2, 21, 13), np.int32)
    run("transpose", (3, 2), (8, 8, 2), x, y, np.int32(13), np.int32(21))
    np.testing.assert_array_equal(y, x.transpose(0, 2, 1))


def fragments(a, b, d, pack):
    """What the 32 lanes hold of a (16, K), b (K, 8) and d (16, 8), as PTX lays them out; pack makes a register."""
    each = a.shape[1] // 8  # numbers in a register
    A, B, D = [], [], []
    for lane in range(32):
        g, q = divmod(lane, 4)
        near, far = slice(q * each, q * each + each), slice((q + 4) * each, (q + 5) * each)
        A.append([pack(a[g, near]), pack(a[g + 8, near]), pack(a[g, far]), pack(a[g + 8, far])])
        B.append([pack(b[near, g]), pack(b[far, g])])
        D.append([d[g, 2 * q], d[g, 2 * q + 1], d[g + 8, 2 * q], d[g + 8, 2 * q + 1]])
    return np.array(A, np.uint32), np.array(B, np.uint32), np.array(D, np.float32)


def as_tf32(values):
    return np.asarray(values, np.float32).view(np.uint32)[0]


def as_bf16(values):
    low, high = np.asarray(values, np.float32).view(np.uint32) >> 16
    return low | high << 16


def as_fp16(values):
    low, high = np.asarray(values, np.float16).view(np.uint16).astype(np.uint32)
    return low | high << 16


# what the operands are first rounded to, so that packing them loses nothing
def no_more_bits(values, bits):
    return (np.asarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)).view(
        np.float32
    )


MMA = {
    "mma_tf32": (8, as_tf32, lambda v: no_more_bits(v, 13)),
    "mma_bf16": (16, as_bf16, lambda v: no_more_bits(v, 16)),
    "mma_fp16": (16, as_fp16, lambda v: np.asarray(v, np.float16).astype(np.float32)),
}


@pytest.mark.parametrize("name", MMA)
def test_mma_of_small_integers_is_exact(rng, run, name):
    depth, pack, _ = MMA[name]
    a, b, d = (rng.integers(-9, 10, shape).astype(float) for shape in ((16, depth), (depth, 8), (16, 8)))
    A, B, D = fragments(a, b, d, pack)
    run(f"{name}_test", (1,), (32,), D, A, B)
    np.testing.assert_array_equal(D, fragments(a, b, a @ b + d, pack)[2])


@pytest.mark.parametrize("name", MMA)
def test_mma_of_rounded_operands_is_as_good_as_float(rng, run, name):
    depth, pack, rounded = MMA[name]
    a, b = rounded(rng.standard_normal((16, depth))), rounded(rng.standard_normal((depth, 8)))
    d = rng.standard_normal((16, 8)).astype(np.float32)
    A, B, D = fragments(a, b, d, pack)
    run(f"{name}_test", (1,), (32,), D, A, B)
    expected = fragments(a, b, a.astype(float) @ b.astype(float) + d, pack)[2]
    np.testing.assert_allclose(D, expected, rtol=0, atol=4e-6)


def test_mma_of_tf32_sees_no_more_than_its_19_bits(run):
    one_and_a_bit = np.float32(1).view(np.uint32) | np.uint32(0x1FFF)
    A, B = np.full((32, 4), one_and_a_bit), np.full((32, 2), one_and_a_bit)
    D = np.zeros((32, 4), np.float32)
    run("mma_tf32_test", (1,), (32,), D, A, B)
    np.testing.assert_array_equal(D, 8)


def convert(run, x):
    results = np.empty((3, x.size), np.uint32)
    run("convert", (x.size // 256,), (256,), x, *results)
    return results


def test_conversions_round_as_the_card_does(rng, run):
    ties = [1 + n * 2.0**-bits for bits in (8, 11) for n in (1, 3)]
    special = [*ties, 0, 1, 65504, 65519.996, 65520, 2.0**-14, 2.0**-25, 2.0**-24, 3e-8, 1e-45, 3.4e38, np.inf]
    x = np.concatenate(
        [special, rng.integers(0, 2**32, 2**14 - len(special), np.uint32).view(np.float32)], dtype=np.float32
    )
    x[np.isnan(x)] = 2.5
    u = x.view(np.uint32).astype(np.uint64)
    tf32, bf16, fp16 = convert(run, x)

    finite = np.isfinite(x)
    np.testing.assert_array_equal(tf32, np.where(finite, (u + 0x1000) & 0xFFFFE000, u))
    to_even = (u + 0x7FFF + (u >> 16 & 1)) >> 16
    np.testing.assert_array_equal(bf16 & 0xFFFF, to_even)
    np.testing.assert_array_equal(bf16 >> 16, to_even ^ 0x8000)
    with np.errstate(over="ignore", under="ignore"):
        half = x.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(fp16 & 0xFFFF, half)
    np.testing.assert_array_equal(fp16 >> 16, half ^ 0x8000)


def test_conversions_keep_a_nan(run):
    tf32, bf16, fp16 = convert(run, np.array([0x7FC00000, 0xFF800001] * 128, np.uint32).view(np.float32))
    assert np.isnan(tf32.view(np.float32)).all()
    assert np.isnan((bf16 << 16).view(np.float32)).all()
    assert np.isnan((fp16 & 0xFFFF).astype(np.uint16).view(np.float16)).all()


def test_functions(run):
    x = np.array([0.25, 1, 3, np.nan], np.float32)
    y = np.empty((4, 14), np.float32)
    run("functions", (1,), (4,), x, y)
    n = np.arange(4.0)
    expected = [x**-0.5, x**0.5, np.exp(x), np.log(x), np.fmax(x, 1), np.fmax(x, 1), np.fmin(x, 1), x * x - 1, -x,
                np.maximum(n, 3), np.minimum(n, 2), x, x * x - 1, x]  # fmt: skip
    np.testing.assert_allclose(y, np.transpose(expected), rtol=3e-7)


@pytest.mark.parametrize("leave", [1, 32, 45, 99])
def test_nobody_waits_for_threads_that_returned(run, leave, either_order):
    y = np.full(100, -7, np.int32)
    run("leave_early", (1,), (100,), y, np.int32(leave))
    np.testing.assert_array_equal(y, [*[-7] * leave, *range(leave + 1, 100), leave])


def test_the_last_block_sees_what_all_have_written(rng, run, either_order):
    x = rng.standard_normal(9).astype(np.float32)
    part, done, y = np.full(9, np.nan, np.float32), np.zeros(1, np.uint32), np.full(1, np.nan, np.float32)
    run("last_block", (9,), (64,), x, part, done, y)
    assert done == 9
    np.testing.assert_allclose(y, x.sum(dtype=float), rtol=1e-6)


@pytest.mark.parametrize("width", [8, 32])
def test_shuffles_within_segments(run, width):
    y = np.empty((4, 32), np.int32)
    run("shuffles", (1,), (32,), y, np.int32(width))
    lane = np.arange(32)
    place, first = lane % width, lane - lane % width
    np.testing.assert_array_equal(y[0], first + 5)
    np.testing.assert_array_equal(y[1], lane ^ 3)
    np.testing.assert_array_equal(y[2], np.where(place + 2 < width, lane + 2, lane))
    np.testing.assert_array_equal(y[3], np.where(place >= 2, lane - 2, lane))


def test_halves_of_a_warp_go_their_own_ways(run):
    y = np.empty(32, np.int32)
    run("half_warps", (1,), (32,), y)
    lane = np.arange(32)
    np.testing.assert_array_equal(y, np.where(lane < 16, lane ^ 1, lane ^ 2))


def test_a_shuffle_from_a_lane_that_returned_is_undefined(run):
    y = np.zeros(32, np.float32)
    run("shuffle_from_returned", (1,), (32,), y)
    assert np.isnan(y[6])
    assert y[7] == 0
    assert (np.delete(y, [6, 7]) == 1).all()


@pytest.mark.parametrize("groups", [0, 1, 2, 3])
def test_an_asynchronous_copy_is_there_once_it_was_waited_for(run, groups):
    x = np.arange(3 * 32 * 4, dtype=np.float32).reshape(3, 32, 4)
    y = np.zeros_like(x)
    run("copy_later", (1,), (32,), x, y, np.int32(groups))
    x[:, 31] = 0  # said to be not valid
    np.testing.assert_array_equal(y[: 3 - groups], x[: 3 - groups])
    assert np.isnan(y[3 - groups :]).all()


@pytest.mark.parametrize(
    ("name", "dtype"), [("read_unwritten_float", np.float32), ("read_unwritten_double", np.float64)]
)
def test_shared_memory_that_this_block_did_not_write_is_nan(run, name, dtype):
    y = np.zeros((3, 32), dtype)
    run(name, (3,), (32,), y)
    assert (y[0] == 1).all()
    assert np.isnan(y[1:]).all()


def test_a_missing_barrier_shows_in_one_order_or_the_other(monkeypatch):
    found = []
    for backwards in (False, True):
        monkeypatch.setattr(emulator.Function, "backwards", backwards)
        y = np.empty(64, np.int32)
        kernels().get_function("race")((1,), (64,), (y,))
        found.append((y == 63 - np.arange(64)).sum())
    assert found == [32, 32]  # the half that is read before it is written


@pytest.mark.parametrize(
    ("name", "block", "message"),
    [
        ("never_meet", 64, r"deadlock: threads 0-39 have returned, threads 40-49 wait at __syncthreads in line \d+, "
                           r"threads 50-50 wait at __syncwarp in line \d+, threads 51-63 wait at __syncthreads"),
        ("meet_elsewhere", 64, r"different barriers: thread \d+ in line \d+, thread \d+ in line \d+"),
        ("lanes_elsewhere", 32, r"places: thread 0 at __syncwarp\(0xffffffff\) .* thread 7 at __shfl_xor_sync"),
        ("lane_outside", 32, r"__syncwarp in line \d+: lane 0 is not in its own mask 0xfffffffe"),
        ("half_a_product", 16, r"mma: needs the 32 lanes of a warp, has the lanes 0x0000ffff"),
    ],
)  # fmt: skip
def test_threads_that_cannot_meet_are_an_error_and_not_a_hang(run, name, block, message):
    with pytest.raises(EmulatorError, match=f"^{name}: .*{message}"):
        run(name, (2,), (block,))
    x = np.ones(40, np.float32)  # and the next launch is none the worse for it
    run("add_float", (1,), (64,), x, x, x, np.int64(40))
    assert (x == 2).all()


def test_a_copy_to_a_crooked_address_is_an_error(run):
    with pytest.raises(EmulatorError, match="copy_async16: an address is no multiple of 16"):
        run("copy_crooked", (1,), (1,), np.zeros(8, np.float32))


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        ((1,), (257,), "more than 256 threads"),
        ((1,), (0,), "a block has 1 to 3 sizes"),
        ((1,), (1, 1, 65), "a block has 1 to 3 sizes"),
        ((0,), (32,), "a grid has 1 to 3 sizes"),
        ((1, 65536), (32,), "a grid has 1 to 3 sizes"),
        ((2**31,), (32,), "a grid has 1 to 3 sizes"),
    ],
)
def test_launches_that_a_card_refuses(grid, block, message):
    x = np.zeros(1, np.float32)
    with pytest.raises(EmulatorError, match=f"add_float: .*{message}"):
        kernels().get_function("add_float")(grid, block, (x, x, x, np.int64(1)))


def test_a_block_has_at_most_1024_threads():
    with pytest.raises(EmulatorError, match="more than 1024 threads"):
        kernels().get_function("transpose")((1,), (32, 33), (np.zeros(1, np.int32),) * 2 + (np.int32(1),) * 2)


GOOD = (np.zeros(1, np.int32), np.int32(1), np.int64(2), np.float32(3), np.float64(4), np.full(1, 5, np.uint8))


def test_arguments_of_each_type(run):
    y = np.zeros(1, np.int32)
    run("scalars", (1,), (1,), y, *GOOD[1:])
    assert y == 15


@pytest.mark.parametrize(
    ("i", "wrong", "message"),
    [
        (0, np.zeros(1, np.float32), "array of float32, expected int32"),
        (0, np.zeros((4, 4), np.int32).T[:2], "make it C-contiguous"),
        (0, 12345, "expected an array"),
        (0, np.uintp(12345), "expected an array"),
        (1, 1, r"int 1, expected np\.int32"),
        (1, np.int64(1), r"int64 .*expected np\.int32"),
        (2, np.int32(1), r"expected np\.int64"),
        (3, np.float64(1), r"expected np\.float32"),
        (3, 1.0, r"expected np\.float32"),
        (4, np.float32(1), r"expected np\.float64"),
        (4, np.zeros(1), r"expected np\.float64"),
        (5, np.zeros(1, np.int8), "array of int8, expected uint8"),
    ],
)
def test_an_argument_of_the_wrong_type(i, wrong, message):
    arguments = (*GOOD[:i], wrong, *GOOD[i + 1 :])
    with pytest.raises(EmulatorError, match=f"scalars: argument {i} .*{message}"):
        kernels().get_function("scalars")((1,), (1,), arguments)


def test_the_number_of_arguments():
    with pytest.raises(EmulatorError, match="takes 6 arguments, 5 were given"):
        kernels().get_function("scalars")((1,), (1,), GOOD[:5])


def test_a_kernel_that_is_not_there():
    with pytest.raises(EmulatorError, match="no kernel is called 'add'; the text has add_double, add_float, "):
        kernels().get_function("add")


def test_text_that_is_no_cuda():
    with pytest.raises(EmulatorError, match=r"kernels\.cu:2:\d+: error: .*nonsense"):
        emulator.compile('\nextern "C" __global__ void f() { nonsense(); }')


def test_options_are_definitions():
    text = 'extern "C" __global__ void put(int* y) { *y = VALUE; }'
    y = np.zeros(1, np.int32)
    for value in (3, 4):
        emulator.compile(text, ("-std=c++17", f"-DVALUE={value}")).get_function("put")((1,), (1,), (y,))
        assert y == value
    with pytest.raises(ValueError, match="not --use_fast_math"):
        emulator.compile(text, ("-DVALUE=3", "--use_fast_math"))


def test_a_text_is_loaded_once():
    assert emulator.compile(KERNELS) is emulator.compile(KERNELS, ("-std=c++17",))
    assert emulator.compile(KERNELS) is not emulator.compile(KERNELS, ("-DEMU_THREADS",))


def test_what_was_compiled_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIRES_EMULATOR_CACHE", str(tmp_path))
    text = 'extern "C" __global__ void nothing() {}'
    emulator.compile(text).get_function("nothing")((1,), (1,), ())
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]
    monkeypatch.setattr(emulator, "_run_compiler", lambda *arguments: pytest.fail("compiled again"))
    emulator.compile(text).get_function("nothing")((1,), (1,), ())
