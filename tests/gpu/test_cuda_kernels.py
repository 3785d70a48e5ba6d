"""The kernels for a GPU against float64, on the shapes that they find hardest.

That they do what every set of kernels does is in tests/test_kernels.py and wherever a test has the fixture `kernels`.
"""

import numpy as np
import pytest

import minires
from minires import data, optim
from minires.backend import cupy, graphs
from minires.data.resident import Resident
from minires.kernels import KERNELS, reference
from minires.kernels.cuda import (
    PRECISIONS,
    augment,
    get_precision,
    im2col,
    implicit,
    module,
    norm,
    plain,
    use_precision,
)
from minires.kernels.cuda.descent import Descent, scaling_of
from tests.gpu import standin

pytestmark = [pytest.mark.host_only("uses both devices in one test"), pytest.mark.usefixtures("gpu")]

# N, H, W, C, O, kernel, stride, padding, dilation, groups: channels that come in fours or not, are few or more than a
# block computes, blocks that are not full, strides with classes of pixels that no tap reaches
CASES = [
    (2, 7, 5, 4, 6, 3, 1, 1, 1, 1),
    (2, 9, 8, 3, 16, 3, 1, 1, 1, 1),
    (1, 8, 9, 16, 32, 3, 2, 1, 1, 1),
    (3, 5, 7, 8, 8, 1, 1, 0, 1, 1),
    (2, 6, 7, 8, 12, 1, 2, 0, 1, 1),
    (1, 11, 10, 12, 20, 5, 2, 2, 1, 1),
    (1, 9, 8, 8, 8, 3, 1, 2, 2, 1),
    (2, 6, 7, 8, 8, 3, 1, 1, 1, 2),
    (1, 6, 7, 6, 6, 3, 2, 1, 1, 6),
    (1, 9, 12, 5, 7, 3, 3, 0, 1, 1),
    (1, 10, 11, 3, 70, 7, 2, 3, 1, 1),
    (1, 10, 9, 36, 68, 3, 1, 1, 1, 1),
    (1, 7, 6, 4, 4, 3, 2, 0, 2, 1),
    (1, 5, 7, 7, 10, 2, 3, 1, 1, 1),
    (2, 1, 1, 9, 10, 1, 1, 0, 1, 1),
    (2, 1, 2, 4, 8, 1, 3, 0, 1, 1),
    (3, 15, 13, 4, 8, 3, 2, 1, 1, 1),
    (30, 1, 2, 4, 8, 1, 1, 0, 1, 1),
    (30, 3, 1, 5, 7, 1, 1, 0, 1, 1),
    (1, 5, 6, 70, 4, 3, 1, 1, 1, 1),
    (1, 6, 7, 12, 12, 3, 1, 1, 1, 2),
    (1, 5, 6, 8, 20, 3, 1, 1, 1, 4),
    (1, 5, 6, 8, 12, 3, 1, 1, 1, 4),
]
# half the distance of two neighbouring numbers: each factor of a product is that far off at most
ROUNDING = {"fp32": 2**-24, "tf32": 2**-11, "bf16": 2**-8, "fp16": 2**-11}


def window(case):
    *_, stride, padding, dilation, groups = case
    return (stride, stride), (padding, padding), (dilation, dilation), groups


def arrays(case, rng, draw=None):
    """x, w and dy in float32."""
    n, height, width, channels, out, kernel, *_, groups = case
    draw = draw or (lambda shape: rng.standard_normal(shape))
    x, w = draw((n, height, width, channels)), draw((kernel, kernel, channels // groups, out))
    y = KERNELS["numpy"].conv2d(x, w, None, *window(case))
    return tuple(a.astype(np.float32) for a in (x, w, draw(y.shape)))


def exact(x, w, dy, case):
    """y, dx and dw in float64."""
    x, w, dy = (a.astype(np.float64) for a in (x, w, dy))
    y = KERNELS["numpy"].conv2d(x, w, None, *window(case))
    return y, *KERNELS["numpy"].conv2d_backward(dy, x, w, x.shape, w.shape, *window(case))


def on_gpu(*given):
    return [cupy().asarray(a) for a in given]


def distance(got, expected):
    return np.linalg.norm(got.get() - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution(case, precision, rng):
    given = arrays(case, rng)
    expected = exact(*given, case)
    x, w, dy = on_gpu(*given)
    with use_precision(precision):
        y = implicit.conv2d(x, w, None, *window(case))
        dx, dw = implicit.conv2d_backward(dy, x, w, x.shape, w.shape, *window(case))
    terms = max(w.size // w.shape[3], dy.size // w.shape[3])  # of a sum in float32, in whatever order
    bound = 2 * ROUNDING[precision] + np.sqrt(terms) * 2**-24
    for one, other in zip((y, dx, dw), expected, strict=True):
        assert distance(one, other) < bound


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_of_small_whole_numbers_is_exact(case, precision, rng):
    given = arrays(case, rng, lambda shape: rng.integers(-4, 5, shape))
    x, w, dy = on_gpu(*given)
    with use_precision(precision):
        results = (
            implicit.conv2d(x, w, None, *window(case)),
            *implicit.conv2d_backward(dy, x, w, x.shape, w.shape, *window(case)),
        )
    for one, other in zip(results, exact(*given, case), strict=True):  # which is exact but for rounding (Winograd)
        np.testing.assert_array_equal(one.get(), np.rint(other))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_convolution_does_besides(case, rng):
    x, w, residual = arrays(case, rng)
    b = rng.standard_normal(w.shape[3]).astype(np.float32)
    y = exact(x, w, residual, case)[0]
    fused = implicit.conv2d(*on_gpu(x, w, b), *window(case), *on_gpu(residual), True)
    assert distance(fused, np.maximum(y + b + residual, 0)) < 1e-6
    scale = np.linspace(-1, 3, w.shape[3]).astype(np.float32)
    wide = [a.astype(np.float64) for a in (x, w, b, scale)]  # for which there is only the one that unrolls
    for kind, given in ((implicit, (x, w, b, scale)), (im2col, (x, w, b, scale)), (implicit, wide)):
        *three, factors = on_gpu(*given)
        assert distance(kind.conv2d(*three, *window(case), scale=factors), y * scale + b) < 1e-6

    running = np.ones((2, w.shape[3]))
    moments = reference.moments(y, (*running, 0.3))
    mean, var = on_gpu(*np.ones((2, w.shape[3]), np.float32))
    results = implicit.conv2d_moments(*on_gpu(x, w), None, *window(case), (mean, var, 0.3))
    for one, other in zip((*results, mean, var), (y, *moments, *running), strict=True):
        np.testing.assert_allclose(one.get(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_readable_convolution(case, rng):
    given = [a.astype(np.float64) for a in arrays(case, rng)]
    x, w, dy = on_gpu(*given)
    results = (
        im2col.conv2d(x, w, None, *window(case)),
        *im2col.conv2d_backward(dy, x, w, x.shape, w.shape, *window(case)),
    )
    for one, other in zip(results, exact(*given, case), strict=True):
        assert distance(one, other) < 1e-12


@pytest.mark.parametrize("kind", [im2col, implicit])
def test_the_moments_of_a_convolution_with_a_bias(kind, rng):
    case = CASES[0]
    x, w, _ = arrays(case, rng)
    b = rng.standard_normal(w.shape[3]).astype(np.float32)
    y = reference.conv2d(x, w, b, *window(case))
    results = kind.conv2d_moments(*on_gpu(x, w, b), *window(case))
    for one, other in zip(results, (y, *reference.moments(y)), strict=True):
        np.testing.assert_allclose(one.get(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [im2col, implicit])
def test_a_gradient_that_nobody_wants_is_not_computed(kind, rng):
    case = CASES[0]
    x, w, dy = on_gpu(*arrays(case, rng))
    rest = x.shape, w.shape, *window(case)
    dx, dw = kind.conv2d_backward(dy, x, w, *rest)
    only_dx, nothing = kind.conv2d_backward(dy, None, w, *rest)
    assert nothing is None
    np.testing.assert_array_equal(only_dx.get(), dx.get())
    nothing, only_dw = kind.conv2d_backward(dy, x, None, *rest)
    assert nothing is None
    np.testing.assert_array_equal(only_dw.get(), dw.get())


@pytest.mark.parametrize(
    ("channels", "groups", "wide"), [(16, 1, 16), (17, 1, 32), (32, 1, 32), (33, 1, 64), (32, 2, 16)]
)
def test_a_convolution_is_one_launch_each_way(channels, groups, wide, gpu, rng):
    """Of the kernel that is as wide as the channels of a group: a wider one computes numbers that nobody needs."""
    if gpu != "standin":
        pytest.skip("only the stand-in counts")
    case = (1, 4, 4, channels, channels, 3, 1, 1, 1, groups)
    x, w, dy = on_gpu(*arrays(case, rng))
    with standin.counter() as counts:
        implicit.conv2d(x, w, None, *window(case))
        implicit.conv2d_backward(dy, x, w, x.shape, w.shape, *window(case))
    assert counts.names == [f"conv_{wide}", f"conv_dx_{wide}", f"conv_dw_{wide}"]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("channels", [(4, 8), (3, 5)])
@pytest.mark.parametrize("sizes", [((1, 2), (1, 0), (1, 2), (3, 2)), ((2, 3), (2, 1), (1, 2), (5, 3)),
                                   ((3, 2), (0, 2), (2, 1), (4, 3)), ((4, 1), (1, 1), (2, 3), (5, 2))])  # fmt: skip
@pytest.mark.parametrize("kind", [im2col, implicit])
def test_rows_are_not_columns(kind, sizes, channels, order, rng):
    """Strides, padding, dilation and windows that differ, either way round, and more than one block of pixels."""
    height, width = (16, 20)[::order]
    *options, kernel = (size[::order] for size in sizes)
    options = *options, 1
    given = (1, height, width, channels[0]), (*kernel, *channels)
    x, w = (rng.integers(-4, 5, s).astype(np.float32) for s in given)
    y = reference.conv2d(x, w, None, *options)
    dy = rng.integers(-4, 5, y.shape).astype(np.float32)
    there = on_gpu(x, w, dy)
    results = (
        kind.conv2d(*there[:2], None, *options),
        *kind.conv2d_backward(there[2], *there[:2], x.shape, w.shape, *options),
    )
    expected = y, *reference.conv2d_backward(dy, x, w, x.shape, w.shape, *options)
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(one.get(), other)


def test_the_variance_of_numbers_far_from_zero(rng):
    case = (3, 12, 11, 4, 8, 1, 1, 0, 1, 1)  # four blocks
    x, w, _ = arrays(case, rng)
    x = x + np.float32(3000)
    w[0, 0, 1:], w[0, 0, 0] = 0, 1  # every channel is the first one
    _, mean, var = implicit.conv2d_moments(*on_gpu(x, w), None, *window(case))
    np.testing.assert_allclose(mean.get(), x[..., 0].astype(np.float64).mean().repeat(8), rtol=1e-6)
    np.testing.assert_allclose(var.get(), x[..., 0].astype(np.float64).var().repeat(8), rtol=1e-4)


@pytest.mark.parametrize("transpose", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(5, 7, 3), (40, 12, 10), (130, 33, 66)])
def test_products(shape, transpose, rng):
    m, k, n = shape
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    given = on_gpu(a.T.copy() if transpose[0] else a, b.T.copy() if transpose[1] else b)
    assert distance(implicit.matmul(*given, *transpose), a.astype(np.float64) @ b) < 1e-6


def test_a_precision_holds_inside_its_block():
    """However the block ends, and if it is inside itself."""
    chosen = use_precision("tf32")
    with chosen, pytest.raises(ZeroDivisionError), use_precision("bf16"), chosen:
        1 / 0  # noqa: B018
    assert get_precision() == "fp32"


def test_an_old_card_computes_in_fp32_and_says_so_once(gpu, rng, monkeypatch):
    if gpu != "standin":
        pytest.skip("a card cannot be made older")
    a, b = on_gpu(*rng.standard_normal((2, 8, 8)).astype(np.float32))
    exactly = implicit.matmul(a, b).get()

    def on_a_card_of(capability):
        monkeypatch.setattr(type(cupy().cuda.Device()), "compute_capability", capability)
        implicit._has_tensor_cores.cache_clear()
        return implicit.matmul(a, b).get()

    with use_precision("bf16"):
        assert not np.array_equal(on_a_card_of("80"), exactly)
    np.testing.assert_array_equal(on_a_card_of("75"), exactly)  # and nothing is said: fp32 was asked for
    with use_precision("bf16"):
        with pytest.warns(UserWarning, match=r"compute capability 7\.5; tf32, bf16 and fp16 need 8\.0"):
            np.testing.assert_array_equal(on_a_card_of("75"), exactly)
        np.testing.assert_array_equal(implicit.matmul(a, b).get(), exactly)
    implicit._has_tensor_cores.cache_clear()


@pytest.mark.parametrize("channels", [8, 5])
def test_a_nan_stays_one(channels, rng):
    """And where it is: what stands beside the channels and the taps that there are is not multiplied by zero."""
    x = rng.standard_normal((2, 5, 5, channels)).astype(np.float32)
    x[1, 2, 3, 4] = np.nan
    w = rng.standard_normal((3, 3, channels, 8)).astype(np.float32)
    y = implicit.conv2d(*on_gpu(x, w), None, (1, 1), (1, 1), (1, 1), 1, None, True).get()
    assert np.isnan(y[1, 1:4, 2:5]).all()
    assert np.isnan(y).sum() == 9 * 8
    if channels % 4:
        return
    one = on_gpu(np.ones(8, np.float32))[0]
    assert np.isnan(implicit.batch_norm(*on_gpu(x), one, one, one, one, 1e-5, None, True).get()[1, 2, 3, 4])


@pytest.mark.parametrize("channels", [3, 16, 20])
@pytest.mark.parametrize("parts", [1, 2, 31, 32, 33, 100])
def test_moments_of_parts_are_joined(parts, channels, rng):
    """A thread joins every 32nd part, and the last part may be smaller."""
    x = rng.standard_normal((3 * parts - 1, channels)) + 5
    blocks = [x[3 * b : 3 * b + 3] for b in range(parts)]
    given = np.array([[b.mean(0), ((b - b.mean(0)) ** 2).sum(0)] for b in blocks], np.float32)
    running = on_gpu(*np.ones((2, channels), np.float32))
    mean, var = norm.join_moments(on_gpu(given)[0], 3, len(x), (*running, 0.25))
    np.testing.assert_allclose(mean.get(), x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var.get(), x.var(0), rtol=1e-4)
    np.testing.assert_allclose(running[0].get(), 0.75 + 0.25 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(running[1].get(), 0.75 + 0.25 * x.var(0, ddof=1), rtol=1e-4)
    for one, other in zip(norm.join_moments(on_gpu(given)[0], 3, len(x), None), (mean, var), strict=True):
        np.testing.assert_array_equal(one.get(), other.get())


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_what_a_batch_norm_does_besides(residual, relu, rng):
    x, r = rng.standard_normal((2, 2, 5, 3, 12))
    gamma, beta, mean = rng.standard_normal((3, 12))
    var = rng.random(12) + 0.5
    given = x, gamma, beta, mean, var
    there = on_gpu(*(a.astype(np.float32) for a in (*given, r)))
    y = implicit.batch_norm(*there[:5], 1e-3, there[5] if residual else None, relu)
    expected = reference.batch_norm(*given, 1e-3, r if residual else None, relu)
    np.testing.assert_allclose(y.get(), expected, rtol=1e-5, atol=1e-5)


def test_a_relu_stops_what_is_negative_however_small():
    x = np.array([-1e-3, -1e-6, -0.0, 1e-5, 1e-6, 1e-4, 9e-4, 1], np.float32)
    one, zero = on_gpu(np.ones(8, np.float32), np.zeros(8, np.float32))
    normed = implicit.batch_norm(*on_gpu(x[None]), one, zero, zero, one, 0, None, True)
    np.testing.assert_array_equal(normed.get(), np.maximum(x, 0)[None])
    picture, filters = on_gpu(x.reshape(1, 1, 1, 8), np.eye(8, dtype=np.float32).reshape(1, 1, 8, 8))
    convolved = implicit.conv2d(picture, filters, None, (1, 1), (0, 0), (1, 1), 1, None, True)
    np.testing.assert_array_equal(convolved.get().reshape(-1), np.maximum(x, 0))


def test_threads_stay_with_their_channels(rng, monkeypatch):
    """Whatever the grid: three quads of channels, and every thread goes round several times."""
    monkeypatch.setattr(norm, "_BLOCKS", 2)
    x, dy = rng.standard_normal((2, 3, 20, 19, 12))
    gamma, beta = rng.standard_normal((2, 12))
    mean, var = reference.moments(x)
    there = on_gpu(*(a.astype(np.float32) for a in (x, gamma, beta, mean, var)))
    y = implicit.batch_norm(*there, 1e-5)
    assert distance(y, reference.batch_norm(x, gamma, beta, mean, var, 1e-5)) < 1e-5
    dx = implicit.batch_norm_backward(*on_gpu(dy.astype(np.float32)), None, there[0], there[1], *there[3:], 1e-5)[0]
    assert distance(dx, reference.batch_norm_backward(dy, None, x, gamma, mean, var, 1e-5)[0]) < 1e-5


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("pixels", "channels"), [((20, 19), 12), ((3, 2), 128), ((3, 2), 132)])
@pytest.mark.parametrize("parts", [3, norm._PARTS])
def test_the_backward_pass_of_batch_norm_can_be_repeated(parts, pixels, channels, relu, rng, monkeypatch):
    """The block that is done last is told by a counter, which must be zero again; 128 channels are one block's."""
    x, dy, y = rng.standard_normal((3, 3, *pixels, channels)).astype(np.float32)
    y = np.maximum(y, 0)  # as of a ReLU, which has zeros
    monkeypatch.setattr(norm, "_PARTS", parts)
    gamma = rng.standard_normal(channels).astype(np.float32)
    mean, var = reference.moments(x)
    given = [dy, y if relu else None, x, gamma, mean, var]
    expected = reference.batch_norm_backward(*(a if a is None else a.astype(np.float64) for a in given), 0.5)
    there = [a if a is None else on_gpu(a)[0] for a in given]
    first = implicit.batch_norm_backward(*there, 0.5)
    for one, again, other in zip(first, implicit.batch_norm_backward(*there, 0.5), expected, strict=True):
        assert distance(one, other) < 1e-5
        np.testing.assert_array_equal(one.get(), again.get())
    np.testing.assert_array_equal(there[0].get(), dy)  # the masked gradient is written elsewhere


STRIDED = {  # a function and the shapes that it takes
    "conv2d": (lambda k, x, w, b, r: k.conv2d(x, w, b, *window(CASES[0]), r),
               (2, 7, 5, 4), (3, 3, 4, 6), (6,), (2, 7, 5, 6)),
    "conv2d_backward": (lambda k, dy, x, w: k.conv2d_backward(dy, x, w, x.shape, w.shape, *window(CASES[0])),
                        (2, 7, 5, 6), (2, 7, 5, 4), (3, 3, 4, 6)),
    "matmul": (lambda k, a, b: k.matmul(a, b), (5, 7), (7, 3)),
    "matmul of transposes": (lambda k, a, b: k.matmul(a, b, True, True), (7, 5), (3, 7)),
    "moments": (lambda k, x: k.moments(x), (2, 3, 8)),
    "batch_norm": (lambda k, x, g, b, m, v, r: k.batch_norm(x, g, b, m, v, 1e-5, r), (6, 8), *[(8,)] * 4, (6, 8)),
    "batch_norm_backward": (lambda k, dy, y, x, g, m, v: k.batch_norm_backward(dy, y, x, g, m, v, 0.5),
                            *[(6, 8)] * 3, *[(8,)] * 3),
    "relu_dx": (lambda k, dy, y: k.relu_dx(dy, y), (3, 4), (3, 4)),
    "channel_sum": (lambda k, x: k.channel_sum(x), (3, 5)),
    "max_pool2d": (lambda k, x: k.max_pool2d(x, (2, 2), (2, 2), (0, 0)), (1, 4, 6, 3)),
    "avg_pool2d": (lambda k, x: k.avg_pool2d(x, (2, 2), (2, 2), (0, 0)), (1, 4, 6, 3)),
    "avg_pool2d_dx": (lambda k, dy: k.avg_pool2d_dx(dy, (1, 4, 6, 3), (2, 2), (2, 2), (0, 0)), (1, 2, 3, 3)),
    "cross_entropy": (lambda k, z, t: k.cross_entropy(z, t > 1, 0.1), (5, 3), (5,)),
    "cross_entropy_dx": (lambda k, d, p, t: k.cross_entropy_dx(d, p, t > 1, 0.1), (5,), (5, 3), (5,)),
}  # fmt: skip


@pytest.mark.parametrize("kind", [im2col, implicit])
@pytest.mark.parametrize("name", STRIDED)
def test_what_is_not_contiguous_is_copied(name, kind, rng):
    """A kernel gets a pointer and knows of no strides."""
    function, *shapes = STRIDED[name]
    given = [(rng.random(shape) + 0.5).astype(np.float32) for shape in shapes]  # one of them is a variance
    expected = function(kind, *on_gpu(*given))
    results = function(kind, *(a[..., 1] for a in on_gpu(*(np.stack([0 * a, a], -1) for a in given))))
    for one, other in zip(*(r if isinstance(r, tuple) else (r,) for r in (results, expected)), strict=True):
        np.testing.assert_allclose(one.get(), other.get(), rtol=1e-5, atol=1e-5)


def test_an_empty_batch_is_normalised_to_an_empty_one():
    x, dy, gamma = (cupy().ones(shape, np.float32) for shape in ((0, 3, 8), (0, 3, 8), 8))
    assert implicit.batch_norm(x, gamma, gamma, gamma, gamma, 1e-5).shape == x.shape
    dx, dgamma, dbeta, _ = implicit.batch_norm_backward(dy, None, x, gamma, gamma, gamma, 1e-5)
    assert dx.shape == x.shape
    assert dgamma.get().tolist() == dbeta.get().tolist() == [0] * 8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 7, 8, 255, 256, 257, 700])
@pytest.mark.parametrize("columns", [32, 33, 94])
def test_sums_over_rows(columns, rows, dtype, rng):
    x = rng.integers(-8, 9, (rows, columns)).astype(dtype)  # a block adds up 32 of them
    np.testing.assert_array_equal(implicit.channel_sum(*on_gpu(x)).get(), x.sum(0))


@pytest.mark.parametrize("shape", [(2**24, 1), (1, 2**21), (257, 2**17)])
def test_sums_of_any_shape_fit_a_grid(shape, monkeypatch):
    """Of whose axes only the first has more than 65,535 places."""
    grids = []
    monkeypatch.setattr(plain, "kernel", lambda name: lambda grid, block, arguments: grids.append(grid))
    implicit.channel_sum(cupy().empty(shape, np.float32))
    assert grids[0][0] == -(-shape[0] // 256) * -(-shape[1] // 32)
    assert all(len(grid) == 1 for grid in grids)


def test_sums_over_nothing():
    assert implicit.channel_sum(cupy().ones((0, 5), np.float32)).get().tolist() == [0] * 5
    assert implicit.channel_sum(cupy().ones((3, 0), np.float32)).shape == (0,)
    assert [a.shape for a in implicit.moments(cupy().ones((3, 0), np.float32))] == [(0,), (0,)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mask_of_a_relu(dtype, rng):
    y, dy = rng.standard_normal((2, 7, 37)).astype(dtype)
    y[0, :9], y[1, :9], y[2, :9], dy[:, 3] = 0, 0.5, -0.5, np.inf
    with np.errstate(invalid="ignore"):
        expected = dy * (y > 0)
    np.testing.assert_array_equal(implicit.relu_dx(*on_gpu(dy, y)).get(), expected)


def gone_round(rng):
    """What every kernel gives that goes through an array in steps of the grid, on arrays larger than a block."""
    x, y = rng.standard_normal((2, 2, 15, 14, 5))
    window = (3, 2), (2, 1), (1, 1)
    results = []
    for dtype in (np.float32, np.float64):
        there = on_gpu(x.astype(dtype), y.astype(dtype))
        results += [implicit.relu_dx(*there), implicit.avg_pool2d(there[0], *window)]
        pooled, chosen = implicit.max_pool2d(there[0], *window)
        results += [pooled, chosen, implicit.max_pool2d_dx(pooled, chosen, x.shape, *window)]
        results += [implicit.avg_pool2d_dx(pooled, x.shape, *window)]
        w = on_gpu(rng.standard_normal((3, 3, 5, 4)).astype(dtype))[0]
        z = im2col.conv2d(there[0], w, None, *window_of_one)
        results += [z, *im2col.conv2d_backward(z, there[0], w, x.shape, w.shape, *window_of_one)]
        logits, labels = there[0].reshape(-1, 70), on_gpu(rng.integers(0, 70, x.size // 70))[0]
        losses, probabilities = implicit.cross_entropy(logits, labels, 0.1)
        results += [implicit.cross_entropy_dx(losses, probabilities, labels, 0.1)]
    images = rng.integers(0, 256, (5, 9, 7, 3)).astype(np.uint8)
    train = data.Dataset(images, rng.integers(0, 4, 5), tuple("abcd"))
    resident = Resident(data.DataLoader(train, 4, transform=data.eval_transform(data.Normalise.fit(train).mean)))
    resident.advance()
    pictures, labels = cupy().empty((4, 9, 7, 3), np.float32), cupy().empty(4, np.int64)
    resident.fill(pictures, labels)
    return [a.get() for a in (*results, pictures, labels)]


window_of_one = (1, 1), (1, 1), (1, 1), 1


def test_threads_go_round_if_there_are_few(monkeypatch):
    expected = gone_round(np.random.default_rng(4))
    monkeypatch.setattr(module, "_MOST_BLOCKS", 2)
    for one, other in zip(gone_round(np.random.default_rng(4)), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_labels_of_a_large_batch(rng):
    labels = rng.integers(0, 4, 1600)
    train = data.Dataset(np.zeros((1600, 1, 1, 3), np.uint8), labels, tuple("abcd"))
    resident = Resident(data.DataLoader(train, 1500, transform=data.eval_transform(data.Normalise.fit(train).mean)))
    for part in (labels[:1500], labels[1500:]):
        rows = resident.advance()
        there = cupy().empty((rows, 1, 1, 3), np.float32), cupy().empty(rows, np.int64)
        resident.fill(*there)
        np.testing.assert_array_equal(there[1].get(), part)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("window", [((3, 3), (2, 2), (1, 1)), ((2, 3), (1, 2), (0, 1)), ((3, 2), (3, 3), (1, 0)),
                                    ((2, 2), (2, 2), (0, 0))], ids=str)  # fmt: skip
@pytest.mark.parametrize("special", [None, np.nan, -np.inf])
@pytest.mark.parametrize("size", [(7, 6), (6, 7)])
def test_pooling(size, special, window, dtype, rng):
    x = rng.integers(-3, 4, (2, *size, 3)).astype(dtype)  # plenty of ties
    if special is not None:
        x[rng.random(x.shape) < 0.5] = special
    y, chosen = reference.max_pool2d(x, *window)
    dy = rng.standard_normal(y.shape).astype(dtype)
    there = implicit.max_pool2d(*on_gpu(x), *window)
    dx = implicit.max_pool2d_dx(*on_gpu(dy), there[1], x.shape, *window)
    for one, other in zip(
        (*there, dx), (y, chosen, reference.max_pool2d_dx(dy, chosen, x.shape, *window)), strict=True
    ):
        np.testing.assert_array_equal(one.get(), other)
    if special is None:
        tolerance = {"rtol": 8 * np.finfo(dtype).eps, "atol": 8 * np.finfo(dtype).eps}
        np.testing.assert_allclose(
            implicit.avg_pool2d(*on_gpu(x), *window).get(), reference.avg_pool2d(x, *window), **tolerance
        )
        there, here = (f.avg_pool2d_dx(d, x.shape, *window) for f, d in ((implicit, on_gpu(dy)[0]), (reference, dy)))
        np.testing.assert_allclose(there.get(), here, **tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1, 1000])
@pytest.mark.parametrize("smoothing", [0, 0.3, 1 - 2**-10])
@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (5, 1), (7, 3), (33, 33), (71, 70)])
def test_cross_entropy(rows, classes, smoothing, scale, dtype, rng):
    """Whichever logit is the largest, in whichever lane, none overflows."""
    logits = scale * rng.standard_normal((rows, classes)).astype(dtype)
    logits[np.arange(rows), np.arange(rows) % classes] += 4 * scale
    labels, dlosses = rng.integers(0, classes, rows), rng.standard_normal(rows).astype(dtype)
    there = on_gpu(logits, labels, dlosses)
    losses, probabilities = implicit.cross_entropy(*there[:2], smoothing)
    expected = reference.cross_entropy(logits.astype(np.float64), labels, smoothing)
    tolerance = {"rtol": 64 * np.finfo(dtype).eps, "atol": 64 * scale * np.finfo(dtype).eps}
    np.testing.assert_allclose(losses.get(), expected[0], **tolerance)
    np.testing.assert_allclose(probabilities.get(), expected[1], **tolerance)
    dx = implicit.cross_entropy_dx(there[2], probabilities, there[1], smoothing)
    right = reference.cross_entropy_dx(
        dlosses.astype(np.float64), probabilities.get().astype(np.float64), labels, smoothing
    )
    np.testing.assert_allclose(dx.get(), right, rtol=64 * np.finfo(dtype).eps, atol=64 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_class_that_is_impossible(dtype):
    logits = np.array([[0, -np.inf, 1], [-np.inf, 2, 2]], dtype)
    losses, probabilities = implicit.cross_entropy(*on_gpu(logits, np.array([0, 2])), 0)
    np.testing.assert_allclose(losses.get(), [np.log1p(np.e), np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(probabilities.get().sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (5, 7), (700, 3)])
def test_losses_and_wrong_answers_are_counted(rows, classes, rng):
    logits = rng.integers(-3, 4, (rows, classes)).astype(np.float32)  # plenty of ties: the first of them counts
    labels, loss, sums = rng.integers(0, classes, rows), np.array(1.25, np.float32), np.array([2.0, 3.0])
    there = on_gpu(loss, logits, labels, sums)
    for _ in range(2):
        augment.track(*there)
    wrong = (logits.argmax(1) != labels).sum()
    assert there[3].get().tolist() == [2 + 2.5 * rows, 3 + 2 * wrong]


@pytest.mark.parametrize("classes", [3, 70])
def test_a_label_out_of_range_makes_its_loss_nan(classes, rng):
    logits, labels = rng.standard_normal((5, classes)).astype(np.float32), np.array([0, classes, 1, -1, classes - 1])
    losses, probabilities = implicit.cross_entropy(*on_gpu(logits, labels), 0.1)
    assert np.isnan(losses.get()).tolist() == [False, True, False, True, False]
    np.testing.assert_allclose(probabilities.get().sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_labels_of_any_whole_numbers(dtype, rng):
    logits, labels = rng.standard_normal((5, 3)).astype(np.float32), np.array([0, 2, 1, 1, 0])
    there, expected = on_gpu(logits, labels)
    every_second = on_gpu(labels.repeat(2).astype(dtype))[0][::2]
    losses, probabilities = implicit.cross_entropy(there, every_second, 0.1)
    np.testing.assert_array_equal(losses.get(), implicit.cross_entropy(there, expected, 0.1)[0].get())
    gradients = [implicit.cross_entropy_dx(losses, probabilities, kind, 0.1).get() for kind in (every_second, expected)]
    np.testing.assert_array_equal(*gradients)


# -- descent ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [(0.1, 0, 0, False), (0.1, 0.9, 0, False), (0.3, 0.9, 0.01, False), (0.1, 0.8, 0.1, True)]
)
def test_descent_of_many_parameters_is_that_of_each(settings, rng):
    sizes = [(1,), (3, 5), (1025,), (2, 1024)]
    values, grads = ([rng.standard_normal(s).astype(np.float32) for s in sizes] for _ in range(2))
    velocities = [np.ones_like(v) if settings[1] else None for v in values]
    there = [[None if a is None else on_gpu(a)[0] for a in group] for group in (values, grads, velocities)]
    descent = Descent()
    for _ in range(2):
        descent.set(*settings)
        descent.step(*there)
        for v, g, m in zip(values, grads, velocities, strict=True):
            reference.sgd(v, g, m, *settings)
        there[1] = [g.copy() for g in there[1]]  # elsewhere in memory
    for one, other in zip(there[0], values, strict=True):
        np.testing.assert_allclose(one.get(), other, rtol=1e-5, atol=1e-6)


def test_a_step_that_overflows_is_skipped_and_the_next_is_scaled_less(rng):
    value, grad = (on_gpu(rng.standard_normal(2000).astype(np.float32))[0] for _ in range(2))
    before, scaling, descent = value.get(), scaling_of(1024.0), Descent()
    descent.set(0.5, 0.0, 0.0, 0.0)
    for bad in (np.inf, np.nan):
        overflown = grad * 1
        overflown[1999] = bad
        descent.step([value], [overflown], [None], scaling)
        np.testing.assert_array_equal(value.get(), before)
    assert scaling.get().tolist() == [256, 0, 2, 0]
    descent.step([value], [grad], [None], scaling)
    np.testing.assert_allclose(value.get(), before - 0.5 * grad.get() / 256, rtol=1e-5, atol=1e-6)
    assert scaling.get().tolist() == [256, 1, 0, 0]
    scaling[1] = 1999  # steps that went well
    descent.step([value], [grad], [None], scaling)
    assert scaling.get().tolist() == [512, 0, 0, 0]


@pytest.mark.parametrize(
    ("array", "place"), [(0, 0), (1, 14), (2, 0), (2, 255), (2, 256), (2, 1023), (2, 1024), (3, 2047)]
)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_an_overflow_is_found_wherever_it_is(array, place, bad):
    sizes = 1, 15, 1025, 2048
    values, grads = ([on_gpu(np.ones(s, np.float32))[0] for s in sizes] for _ in range(2))
    grads[array][place] = bad
    descent = Descent()
    descent.set(0.5, 0.0, 0.0, 0.0)
    descent.step(values, grads, [None] * 4, scaling_of(1024.0))
    for value in values:
        np.testing.assert_array_equal(value.get(), 1)


def test_what_lies_beside_a_gradient_is_not_looked_at_and_the_largest_number_is_finite():
    grads = [on_gpu(np.full(n + 8, np.inf, np.float32))[0] for n in (3, 1024, 1500)]
    for grad in grads:
        grad[:-8] = np.finfo(np.float32).max
    values = [on_gpu(np.ones(g.size - 8, np.float32))[0] for g in grads]
    scaling, descent = scaling_of(1024.0), Descent()
    descent.set(0.5, 0.0, 0.0, 0.0)
    descent.step(values, [g[:-8] for g in grads], [None] * 3, scaling)
    assert scaling.get().tolist() == [1024, 1, 0, 0]


def test_the_scale_stays_within_its_bounds():
    value, grad = on_gpu(np.ones(4, np.float32), np.full(4, np.inf, np.float32))
    scaling, descent = scaling_of(4.0), Descent()
    descent.set(0.5, 0.0, 0.0, 0.0)
    seen = []
    for _ in range(4):
        descent.step([value], [grad], [None], scaling)
        seen.append(scaling.get().tolist())
    assert seen == [[2, 0, 1, 0], [1, 0, 2, 0], [1, 0, 3, 0], [1, 0, 4, 0]]
    scaling[0], scaling[1], scaling[2] = 2.0**23, 1999, 0
    for scale in (2.0**24, 2.0**24):
        descent.step([value], on_gpu(np.ones(4, np.float32)), [None], scaling)
        assert scaling.get()[0] == scale
        scaling[1] = 1999


def test_a_recorded_step_keeps_its_table(rng):
    """A graph reads it whenever it is replayed, and by then other steps have filled the others with other places."""
    value, grad, other = on_gpu(*rng.standard_normal((3, 5)).astype(np.float32))
    descent, before = Descent(), value.get()
    graph = graphs.Graph(lambda: descent.step([value], [grad], [None]), warm_up=0)
    with graph.stream:
        descent.set(0.5, 0.0, 0.0, 0.0)
        descent.step([value[:2]], [grad[:2]], [None])  # of another size: neither table fits the next
        descent.step([value], [grad], [None])
        graph()
        assert graph.problem is None
        descent.step([value], [other], [None])
        graph()
        moved = 3 * grad.get() + other.get()
        moved[:2] += grad.get()[:2]
        np.testing.assert_allclose(value.get(), before - 0.5 * moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_moves_everything_in_one_launch(momentum, gpu, rng):
    parameters = [
        minires.Tensor(a, requires_grad=True) for a in on_gpu(*rng.standard_normal((3, 4)).astype(np.float32))
    ]
    sgd = optim.SGD(parameters, lr=0.5, momentum=momentum)
    for p in parameters[:2]:
        p.grad = cupy().ones(4, np.float32)
    before = [p.numpy() for p in parameters]
    sgd.step()
    for p, old, moved in zip(parameters, before, (0.5, 0.5, 0), strict=True):
        np.testing.assert_allclose(p.numpy(), old - moved, rtol=1e-6)
    with standin.counter() as counts:
        sgd.step()
    if gpu == "standin":  # only it counts
        assert (counts.names, counts.copies_to_device) == (["descend"], 0)  # all is where the table says


def test_sgd_follows_a_gradient_that_is_laid_out_otherwise(rng):
    """It has to go another way: the kernel of many parameters knows of no strides."""
    value, grad = rng.standard_normal((2, 3, 4)).astype(np.float32)
    parameter = minires.Tensor(*on_gpu(value), requires_grad=True)
    parameter.grad = on_gpu(grad.T.copy())[0].T
    optim.SGD([parameter], lr=0.5).step()
    np.testing.assert_allclose(parameter.numpy(), value - 0.5 * grad, rtol=1e-6)


# -- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["normalise", "crop", "crop and flip"])
def test_batches_made_on_the_gpu_are_the_loaders(transform, rng):
    images = rng.integers(0, 256, (23, 6, 5, 3)).astype(np.uint8)
    train = data.Dataset(images, rng.integers(0, 4, 23), tuple("abcd"))
    mean = data.Normalise.fit(train).mean
    prepare = (
        data.eval_transform(mean) if transform == "normalise" else data.train_transform(mean, 2, "flip" in transform)
    )
    loader = data.DataLoader(train, 5, shuffle=True, seed=3, transform=prepare)
    assert Resident.suits(loader)
    resident, other = Resident(loader), data.DataLoader(train, 5, shuffle=True, seed=3, transform=prepare)
    for _ in range(2):
        for expected, labels in other:
            assert resident.advance() == len(labels)
            there = cupy().empty(expected.shape, np.float32), cupy().empty(len(labels), np.int64)
            resident.fill(*there)
            np.testing.assert_array_equal(there[0].get(), expected)
            np.testing.assert_array_equal(there[1].get(), labels)
            assert loader.state_dict() == other.state_dict()
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "batch": 3})
    expected, _ = next(iter(loader))
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "batch": 3})
    resident.advance()
    there = cupy().empty((5, 6, 5, 3), np.float32), cupy().empty(5, np.int64)
    resident.fill(*there)
    np.testing.assert_array_equal(there[0].get(), expected)


def test_a_transform_of_ones_own_is_left_to_the_host(rng):
    train = data.Dataset(rng.integers(0, 256, (4, 6, 5, 3)).astype(np.uint8), np.zeros(4, int), ("a",))
    for transform in (None, lambda images, generator: images / 255, data.CropFlip(1)):
        assert not Resident.suits(data.DataLoader(train, 2, transform=transform))


def test_losses_and_wrong_answers_are_counted_there(rng):
    logits, labels = rng.integers(-2, 3, (300, 7)).astype(np.float32), rng.integers(0, 7, 300)  # with ties
    loss, sums = np.float32(1.25), np.array([10.0, 20.0])
    there = on_gpu(loss.reshape(()), logits, labels, sums)
    augment.track(*there)
    assert there[-1].get().tolist() == [10 + 300 * 1.25, 20 + int((logits.argmax(1) != labels).sum())]


# -- the text of the kernels ------------------------------------------------------------------------------------------


def test_all_of_it_is_compiled_when_asked_and_kept_until_forgotten():
    module.forget()
    told = []
    assert minires.cuda.compile_all(told.append) > 0
    assert told[:-1] == ["compiling the kernels", *(f"compiling the convolutions in {p}" for p in PRECISIONS)]
    assert module._compiled.cache_info().currsize == 1 + len(PRECISIONS)
    module.forget()
    assert module._compiled.cache_info().currsize == module.kernel.cache_info().currsize == 0
