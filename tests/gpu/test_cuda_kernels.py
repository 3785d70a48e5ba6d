"""The kernels for a GPU against float64, on the shapes that they find hardest.

That they do what every set of kernels does is in tests/test_kernels.py and wherever a test has the fixture `kernels`.
"""

import numpy as np
import pytest

import minires
from minires import data, optim
from minires.backend import cupy
from minires.data.resident import Resident
from minires.kernels import KERNELS, reference
from minires.kernels.cuda import PRECISIONS, augment, im2col, implicit, norm, use_precision
from minires.kernels.cuda.descent import Descent, scaling_of

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


def test_an_old_card_computes_in_fp32_and_says_so_once(gpu, rng, monkeypatch):
    if gpu != "standin":
        pytest.skip("a card cannot be made older")
    a, b = on_gpu(*rng.standard_normal((2, 8, 8)).astype(np.float32))
    exactly = implicit.matmul(a, b).get()
    with use_precision("bf16"):
        assert not np.array_equal(implicit.matmul(a, b).get(), exactly)
        monkeypatch.setattr(type(cupy().cuda.Device()), "compute_capability", "75")
        implicit._has_tensor_cores.cache_clear()
        with pytest.warns(UserWarning, match=r"compute capability 7\.5; tf32, bf16 and fp16 need 8\.0"):
            np.testing.assert_array_equal(implicit.matmul(a, b).get(), exactly)
        np.testing.assert_array_equal(implicit.matmul(a, b).get(), exactly)
    implicit._has_tensor_cores.cache_clear()


def test_a_nan_stays_one(rng):
    x = rng.standard_normal((2, 5, 5, 8)).astype(np.float32)
    x[1, 2, 3, 4] = np.nan
    w = rng.standard_normal((3, 3, 8, 8)).astype(np.float32)
    y = implicit.conv2d(*on_gpu(x, w), None, (1, 1), (1, 1), (1, 1), 1, None, True).get()
    assert np.isnan(y[1, 1:4, 2:5]).all()
    assert np.isfinite(y[0]).all()
    one = on_gpu(np.ones(8, np.float32))[0]
    assert np.isnan(implicit.batch_norm(*on_gpu(x), one, one, one, one, 1e-5, None, True).get()[1, 2, 3, 4])


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


def test_the_backward_pass_of_batch_norm_can_be_repeated(rng):
    """The block that is done last is told by a counter, which must be zero again."""
    x, dy, y = rng.standard_normal((3, 3, 20, 19, 12)).astype(np.float32)
    gamma = rng.standard_normal(12).astype(np.float32)
    mean, var = reference.moments(x)
    given = on_gpu(dy, y, x, gamma, mean, var)
    expected = reference.batch_norm_backward(*(a.astype(np.float64) for a in (dy, y, x, gamma, mean, var)), 1e-5)
    first = implicit.batch_norm_backward(*given, 1e-5)
    for one, again, other in zip(first, implicit.batch_norm_backward(*given, 1e-5), expected, strict=True):
        assert distance(one, other) < 1e-5
        np.testing.assert_array_equal(one.get(), again.get())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 7, 8, 255, 256, 257, 700])
def test_sums_over_rows(rows, dtype, rng):
    x = rng.integers(-8, 9, (rows, 35)).astype(dtype)
    np.testing.assert_array_equal(implicit.channel_sum(*on_gpu(x)).get(), x.sum(0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("window", [((3, 3), (2, 2), (1, 1)), ((2, 3), (1, 2), (0, 1)), ((3, 2), (3, 3), (1, 0)),
                                    ((2, 2), (2, 2), (0, 0))], ids=str)  # fmt: skip
@pytest.mark.parametrize("special", [None, np.nan, -np.inf])
def test_pooling(special, window, dtype, rng):
    x = rng.integers(-3, 4, (2, 7, 6, 3)).astype(dtype)  # plenty of ties
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


@pytest.mark.parametrize("classes", [3, 70])
def test_a_label_out_of_range_makes_its_loss_nan(classes, rng):
    logits, labels = rng.standard_normal((5, classes)).astype(np.float32), np.array([0, classes, 1, -1, classes - 1])
    losses, probabilities = implicit.cross_entropy(*on_gpu(logits, labels), 0.1)
    assert np.isnan(losses.get()).tolist() == [False, True, False, True, False]
    np.testing.assert_allclose(probabilities.get().sum(1), 1, rtol=1e-5)


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


def test_sgd_moves_everything_in_one_launch(rng):
    parameters = [
        minires.Tensor(a, requires_grad=True) for a in on_gpu(*rng.standard_normal((3, 4)).astype(np.float32))
    ]
    sgd = optim.SGD(parameters, lr=0.5, momentum=0.9)
    for p in parameters[:2]:
        p.grad = cupy().ones(4, np.float32)
    before = [p.numpy() for p in parameters]
    sgd.step()
    for p, old, moved in zip(parameters, before, (0.5, 0.5, 0), strict=True):
        np.testing.assert_allclose(p.numpy(), old - moved, rtol=1e-6)


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
