"""The kernels against their definition, against torch, and against the one law that ties a backward to its forward.

That law is adjointness: for a linear map A, <A x, y> = <x, A' y> for every x and y, and the backward of A is A'.  It
needs no step size, so it holds to rounding.
"""

import hypothesis.extra.numpy as some
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minires
from minires import functional as F
from minires.kernels import KERNELS, numpy, reference
from minires.kernels.numpy import conv
from minires.kernels.window import output_size

THOROUGH = settings(derandomize=True, deadline=None, max_examples=200)


def agree(fast, slow, terms=1, sizes=1.0):
    """Equal up to rounding: to 1e-10 in float64, and in float32 to what a sum of ``terms`` numbers can lose at worst.

    In whatever order n products are summed, the error is at most n eps times the sum of their absolute values, which is
    ``sizes`` (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).  Two such sums may differ by twice
    that.
    """
    assert (fast.dtype, fast.shape) == (slow.dtype, slow.shape)
    if fast.dtype == np.float64:
        np.testing.assert_allclose(fast, slow, rtol=1e-10, atol=1e-10)
    else:
        assert np.all(np.abs(fast - slow) <= 2 * terms * np.finfo(np.float32).eps * sizes)


def dot(a, b):
    return float((a * b).sum())


@st.composite
def convolutions(draw):
    """Shapes x, w and the options of a convolution that fits."""
    pair = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))
    kernel, stride, padding, dilation = pair(1, 4), pair(1, 3), pair(0, 3), pair(1, 2)
    groups, per_group, filters = draw(
        st.sampled_from([(1, 1, 1), (1, 3, 2), (2, 2, 1), (3, 1, 1), (3, 1, 2), (2, 1, 3)])
    )
    smallest = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    height, width = (s + draw(st.integers(0, 3)) for s in smallest)
    x_shape = draw(st.sampled_from([3, 1, 3, 1, 0])), height, width, groups * per_group
    return x_shape, (*kernel, per_group, groups * filters), (stride, padding, dilation, groups)


@st.composite
def poolings(draw):
    """A shape and the options of a pooling that fits."""
    pair = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))
    kernel, stride = pair(1, 4), pair(1, 3)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    height, width = (max(1, k - 2 * p) + draw(st.integers(0, 4)) for k, p in zip(kernel, padding, strict=True))
    return (draw(st.sampled_from([3, 1, 3, 1, 0])), height, width, draw(st.integers(1, 3))), (kernel, stride, padding)


def conv_arrays(case, dtype="float64"):
    """x, w, b and dy for a case; the numbers depend on nothing but the shapes."""
    (n, height, width, c), w_shape, (stride, padding, dilation, _) = case
    rows, columns = (
        output_size(s, w_shape[a], stride[a], padding[a], dilation[a]) for a, s in enumerate((height, width))
    )
    rng = np.random.default_rng([n, height, width, *w_shape])
    shapes = (n, height, width, c), w_shape, w_shape[3:], (n, rows, columns, w_shape[3])
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


# -- fast against slow ------------------------------------------------------------------------------------------------


def test_all_sets_of_kernels_have_the_same_functions():
    assert set(KERNELS) >= {"numpy", "reference"}
    assert set(numpy.__all__) == set(reference.__all__)


@THOROUGH
@given(case=convolutions(), dtype=st.sampled_from(["float64", "float32"]))
def test_conv2d_is_its_seven_loops(case, dtype):
    x, w, b, dy = conv_arrays(case, dtype)
    options = case[2]
    window, pixels = int(np.prod(w.shape[:3])), int(np.prod(dy.shape[:3]))
    ax, aw, ab, ady = (np.abs(a) for a in (x, w, b, dy))
    for bias, size in ((None, 0), (b, ab)):
        sizes = numpy.conv2d(ax, aw, None, *options) + size
        agree(numpy.conv2d(x, w, bias, *options), reference.conv2d(x, w, bias, *options), window + 1, sizes)
    fast, slow, sizes = (
        (k.conv2d_dx(d, f, x.shape, *options), k.conv2d_dw(d, p, w.shape, *options), k.channel_sum(d))
        for k, p, f, d in ((numpy, x, w, dy), (reference, x, w, dy), (reference, ax, aw, ady))
    )
    for a, b, terms, size in zip(fast, slow, (w.size, pixels, pixels), sizes, strict=True):
        agree(a, b, terms, size)


def test_a_batch_of_many_tiles_is_convolved_whole(rng, monkeypatch):
    options = (1, 2), (1, 1), (1, 1), 2
    x, w = rng.standard_normal((7, 6, 5, 4)), rng.standard_normal((3, 3, 2, 6))
    dy = rng.standard_normal((7, 6, 3, 6))
    whole = numpy.conv2d(x, w, None, *options), numpy.conv2d_dx(dy, w, x.shape, *options)
    whole += (numpy.conv2d_dw(dy, x, w.shape, *options),)
    for tile in (1, 12_000, 30_000):  # one, two and five images at a time
        monkeypatch.setattr(conv, "_TILE_BYTES", tile)
        agree(numpy.conv2d(x, w, None, *options), whole[0])
        agree(numpy.conv2d_dx(dy, w, x.shape, *options), whole[1])
        agree(numpy.conv2d_dw(dy, x, w.shape, *options), whole[2])


@THOROUGH
@given(case=poolings(), dtype=st.sampled_from(["float64", "float32"]), special=st.sampled_from([None, np.nan, -np.inf]))
def test_pooling_is_its_loops(case, dtype, special):
    shape, options = case
    rng = np.random.default_rng(list(shape))
    x = rng.integers(-3, 4, shape).astype(dtype)  # whole numbers: plenty of ties
    if special is not None:
        x[rng.random(shape) < 0.6] = special
    (fast, chosen), (slow, expected) = numpy.max_pool2d(x, *options), reference.max_pool2d(x, *options)
    np.testing.assert_array_equal(fast, slow)
    np.testing.assert_array_equal(chosen, expected)
    dy = rng.standard_normal(fast.shape).astype(dtype)
    dx, expected, sizes = (
        k.max_pool2d_dx(d, chosen, shape, *options) for k, d in ((numpy, dy), (reference, dy), (reference, np.abs(dy)))
    )
    agree(dx, expected, 16, sizes)
    # all of it arrives, even where a window holds only -inf
    assert abs(dx.sum() - dy.sum()) <= 2 * dy.size * np.finfo(dtype).eps * sizes.sum()
    if special is None:  # 16 terms and a division
        agree(
            numpy.avg_pool2d(x, *options), reference.avg_pool2d(x, *options), 17, reference.avg_pool2d(abs(x), *options)
        )
        sizes = reference.avg_pool2d_dx(abs(dy), shape, *options)
        agree(numpy.avg_pool2d_dx(dy, shape, *options), reference.avg_pool2d_dx(dy, shape, *options), 17, sizes)


def test_a_nan_is_the_maximum_of_its_window(kernels):
    x = np.array([1, np.nan, 3, 2, np.nan, 0, 1, 0.0]).reshape(1, 2, 4, 1)
    y, chosen = minires.kernels.active().max_pool2d(x, (2, 2), (2, 2), (0, 0))
    assert np.isnan(y[0, 0, 0, 0])
    assert y[0, 0, 1, 0] == 3
    assert chosen.ravel().tolist() == [1, 0]  # the first NaN


def test_a_window_of_many_cells(kernels):
    x = np.arange(33_000.0).reshape(1, 1, 33_000, 1)  # more cells than an int16 counts
    y, chosen = minires.kernels.active().max_pool2d(x, (1, 33_000), (1, 1), (0, 0))
    assert (y.item(), chosen.item()) == (32_999, 32_999)


@THOROUGH
@given(shape=some.array_shapes(min_dims=2, max_dims=4, max_side=5), dtype=st.sampled_from(["float64", "float32"]))
def test_batch_norm_is_its_chain_rule(shape, dtype):
    rng = np.random.default_rng(list(shape))
    x, dy = (rng.standard_normal((2, *shape)) + 2).astype(dtype)
    gamma, beta = rng.standard_normal((2, shape[-1])).astype(dtype)
    eps = 0.1
    fast, slow = (k.batch_norm(x, gamma, beta, eps) for k in (numpy, reference))
    _, mean, var = slow
    backward = [k.batch_norm_backward(dy, x, gamma, mean, var, eps) for k in (numpy, reference)]
    # every result is a sum over at most n pixels, an error of n eps, of products of at most one dy, one gamma, and two
    # x / std, in each of which the mean and the variance bring an error of n eps more
    sizes = (1 + abs(x).max() / np.sqrt(eps)) ** 2 * (1 + abs(gamma).max()) * (1 + abs(dy).max())
    n = x.size // x.shape[-1]
    for (a, b), size in zip(
        zip((*fast, *backward[0]), (*slow, *backward[1]), strict=True), (1, 1, 1, 1, n, n), strict=True
    ):
        agree(a, b, 4 * n, size * sizes)


def test_batch_norm_of_a_large_mean_keeps_its_variance():
    x = (np.random.default_rng(4).standard_normal((500, 2)) + 1000).astype(np.float32)
    # the numbers themselves are rounded to 6e-5, their spread is 1: single precision is enough if x is centred first
    np.testing.assert_allclose(
        numpy.batch_norm(x, np.ones(2, "f"), np.zeros(2, "f"), 1e-5)[2], x.var(0, "d"), rtol=1e-4
    )


@THOROUGH
@given(n=st.integers(1, 5), k=st.integers(1, 6), smoothing=st.sampled_from([0.0, 0.1, 0.5]),
       scale=st.sampled_from([1, 500]), dtype=st.sampled_from(["float64", "float32"]))  # fmt: skip
def test_cross_entropy_is_its_sum(n, k, smoothing, scale, dtype):
    rng = np.random.default_rng([n, k])
    logits, labels = (scale * rng.standard_normal((n, k))).astype(dtype), rng.integers(0, k, n)
    with np.errstate(under="ignore"):
        fast, slow = (kernel.cross_entropy(logits, labels, smoothing) for kernel in (numpy, reference))
        # log p is logit - largest - log(sum of k), so it errs by k + 3 roundings of the largest logit; p = e^(log p) by
        # p |log p| <= 1/e times as much
        for a, b, size in zip(fast, slow, (1 + 2 * abs(logits).max(), 1.0), strict=True):
            agree(a, b, 2 * k + 4, size)
        dlosses = rng.standard_normal(n).astype(dtype)
        dx = [kernel.cross_entropy_dx(dlosses, slow[1], labels, smoothing) for kernel in (numpy, reference)]
        agree(*dx, 4, abs(dlosses).max())
    # softmax and target both sum to 1; the softmax as exactly as its logits were rounded
    assert np.all(abs(dx[0].sum(1)) <= 8 * k * np.finfo(dtype).eps * (1 + abs(logits).max()) * abs(dlosses))


@THOROUGH
@given(
    x=some.arrays(
        np.float64, some.array_shapes(min_side=0), elements=st.sampled_from([-2.5, -0.0, 0.0, 1e-300, 3, np.nan])
    )
)
def test_relu_is_its_loop(x):
    dy = np.random.default_rng(11).standard_normal(x.shape)
    for fast, slow in ((numpy.relu(x), reference.relu(x)), (numpy.relu_dx(dy, x), reference.relu_dx(dy, x))):
        np.testing.assert_array_equal(fast[~np.isnan(x)], slow[~np.isnan(x)])
    assert np.array_equal(np.isnan(numpy.relu(x)), np.isnan(x))
    assert np.array_equal(np.isnan(reference.relu(x)), np.isnan(x))


# -- adjoints ---------------------------------------------------------------------------------------------------------


@THOROUGH
@given(case=convolutions())
def test_conv2d_its_dx_and_its_dw_are_adjoint(case):
    x, w, _, dy = conv_arrays(case)
    options = case[2]
    through_y = dot(numpy.conv2d(x, w, None, *options), dy)
    bound = 1e-12 * (1 + dot(np.abs(numpy.conv2d(np.abs(x), np.abs(w), None, *options)), np.abs(dy)))
    assert abs(through_y - dot(x, numpy.conv2d_dx(dy, w, x.shape, *options))) <= bound
    assert abs(through_y - dot(w, numpy.conv2d_dw(dy, x, w.shape, *options))) <= bound


@THOROUGH
@given(case=convolutions())
def test_col2im_is_the_adjoint_of_im2col(case):
    x, w, _, dy = conv_arrays(case)
    stride, padding, dilation, groups = case[2]
    window = w.shape[:2], dy.shape[1:3], stride, padding, dilation, groups
    columns = conv.im2col(x, *window)
    assert columns.shape == (groups, dy.shape[0] * dy.shape[1] * dy.shape[2], int(np.prod(w.shape[:3])))
    other = np.random.default_rng(6).standard_normal(columns.shape)
    assert abs(dot(columns, other) - dot(x, conv.col2im(other, x.shape, *window))) <= 1e-12 * (1 + columns.size)


@THOROUGH
@given(case=poolings())
def test_pools_are_adjoint(case):
    shape, options = case
    x = np.random.default_rng(list(shape)).standard_normal(shape)
    averages, (maxima, chosen) = numpy.avg_pool2d(x, *options), numpy.max_pool2d(x, *options)
    dy = np.random.default_rng(7).standard_normal(maxima.shape)
    assert abs(dot(averages, dy) - dot(x, numpy.avg_pool2d_dx(dy, shape, *options))) <= 1e-12 * (1 + x.size)
    # for the choice made at x, the maximum is linear too
    assert abs(dot(maxima, dy) - dot(x, numpy.max_pool2d_dx(dy, chosen, shape, *options))) <= 1e-12 * (1 + x.size)


@THOROUGH
@given(shape=some.array_shapes(min_dims=4, max_dims=4, max_side=5), stride=st.tuples(*[st.integers(1, 3)] * 2),
       more=st.integers(0, 3))  # fmt: skip
def test_the_shortcut_is_adjoint(shape, stride, more):
    rng = np.random.default_rng(list(shape))
    x = minires.tensor(rng.standard_normal(shape), requires_grad=True)
    y = F.subsample_pad(x, stride, shape[3] + more)
    assert y.shape == (shape[0], -(-shape[1] // stride[0]), -(-shape[2] // stride[1]), shape[3] + more)
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    assert abs(dot(y.numpy(), dy) - dot(x.numpy(), x.grad)) <= 1e-12 * (1 + y.size)


@THOROUGH
@given(shapes=some.mutually_broadcastable_shapes(num_shapes=1, base_shape=(2, 3, 1, 4), max_dims=4, min_side=0))
def test_unbroadcast_is_the_adjoint_of_broadcasting(shapes):
    (shape,), result = shapes.input_shapes, shapes.result_shape
    rng = np.random.default_rng(12)
    x, dy = rng.standard_normal(shape), rng.standard_normal(result)
    dx = minires.unbroadcast(dy, shape)
    assert dx.shape == shape
    assert abs(dot(np.broadcast_to(x, result), dy) - dot(x, dx)) <= 1e-12 * (1 + dy.size)


# -- torch ------------------------------------------------------------------------------------------------------------


def to_nhwc(t):
    return t.detach().numpy().transpose(0, 2, 3, 1)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(case=convolutions())
def test_conv2d_is_that_of_torch(case):
    torch = pytest.importorskip("torch")
    (x, w, b, dy), (stride, padding, dilation, groups) = conv_arrays(case), case[2]
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1), b))
    ty = torch.nn.functional.conv2d(tx, tw, tb, stride, padding, dilation, groups)
    agree(numpy.conv2d(x, w, b, *case[2]), to_nhwc(ty))
    ty.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    agree(numpy.conv2d_dx(dy, w, x.shape, *case[2]), to_nhwc(tx.grad))
    agree(numpy.conv2d_dw(dy, x, w.shape, *case[2]), tw.grad.numpy().transpose(2, 3, 1, 0))
    agree(numpy.channel_sum(dy), tb.grad.numpy())


@settings(derandomize=True, deadline=None, max_examples=60)
@given(case=poolings(), name=st.sampled_from(["max_pool2d", "avg_pool2d"]))
def test_pooling_is_that_of_torch(case, name):
    torch = pytest.importorskip("torch")
    shape, options = case
    rng = np.random.default_rng(list(shape))
    x = minires.tensor(rng.standard_normal(shape), requires_grad=True)
    tx = torch.tensor(x.numpy().transpose(0, 3, 1, 2), requires_grad=True)
    y, ty = getattr(F, name)(x, *options), getattr(torch.nn.functional, name)(tx, *options)
    agree(y.numpy(), to_nhwc(ty))
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    ty.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    agree(x.grad, to_nhwc(tx.grad))


def test_infinite_logits_and_gradients_are_judged_alike(kernels):
    kernel = minires.kernels.active()
    losses, probabilities = kernel.cross_entropy(np.array([[0, -np.inf, 1.0]]), np.array([0]), 0.0)
    np.testing.assert_allclose(losses, np.log1p(np.e))
    np.testing.assert_allclose(probabilities[0, 1], 0)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(kernel.relu_dx(np.array([np.inf, 1.0]), np.array([0.0, 2.0])), [np.nan, 1])
