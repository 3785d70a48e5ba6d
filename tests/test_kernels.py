"""The kernels against their definition, against torch, and against the one law that ties a backward to its forward.

That law is adjointness: for a linear map A, <A x, y> = <x, A' y> for every x and y, and the backward of A is A'.  It
needs no step size, so it holds to rounding.
"""

import itertools
import threading
import weakref
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import hypothesis.extra.numpy as some
import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

import minires
from minires import asnumpy
from minires import functional as F
from minires.backend.settings import settings as process
from minires.kernels import KERNELS, numpy, reference
from minires.kernels.numpy import (
    blocks,
    columns,
    conv,
    depthwise,
    descent,
    im2col,
    pointwise,
    pool,
    product,
    tiles,
    toom_cook,
    winograd,
    winograd_rows,
    winograd_squares,
)
from minires.kernels.numpy.norm_gradient import NormGradient
from minires.kernels.window import output_size

from .devices import here
from .pieces import in_squares, in_threads, split

pytestmark = pytest.mark.host_only("the kernels of the CPU, side by side; a test of `kernels` takes those of a GPU too")

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
def convolutions(draw, least_images=0, products=3000):
    """Shapes x, w and the options of a convolution that fits, of any of the ways to compute one."""
    pair = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))
    way = draw(
        st.sampled_from(
            ["any", "any", "three rows", "three rows", "strided", "strided", "few windows", "one pixel", "depthwise"]
        )
    )
    stride, dilation, groups = pair(1, 4), pair(1, 3), draw(st.integers(1, 3))
    kernel, per_group, filters = pair(1, 5), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    padding, more = pair(0, 5), pair(0, 4)
    if way == "three rows":
        kernel, stride, dilation, groups = (3, draw(st.integers(1, 4))), (1, 1), (1, 1), 1
        padding, more = (draw(st.integers(0, 3)), draw(st.integers(0, kernel[1]))), pair(0, 9)
    elif way == "strided":
        kernel, stride = pair(1, 7), draw(st.sampled_from([(1, 2), (2, 1), (2, 2), (3, 2), (1, 1)]))
        padding, more, dilation, groups = pair(0, 7), pair(0, 9), (1, 1), 1
    elif way == "few windows":
        kernel, stride, dilation, groups = pair(1, 4), pair(1, 3), pair(1, 2), 1
        padding, more, filters = pair(0, 4), pair(0, 3), draw(st.sampled_from([9, 20]))
    elif way == "one pixel":
        kernel, stride, padding, dilation, groups = (1, 1), draw(st.sampled_from([(1, 1), (2, 3)])), (0, 0), (1, 1), 1
    elif way == "depthwise":
        groups, per_group, filters = draw(st.integers(2, 4)), 1, draw(st.sampled_from([1, 1, 2]))
        kernel, padding = pair(1, 4), pair(0, 3)
    smallest = (max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True))
    height, width = (s + m for s, m in zip(smallest, more, strict=True))
    w_shape = *kernel, per_group, groups * filters
    outputs = [output_size(height, kernel[0], stride[0], padding[0], dilation[0]),
               output_size(width, kernel[1], stride[1], padding[1], dilation[1])]  # fmt: skip
    affordable = max(1, products // int(np.prod([*outputs, *w_shape])))
    images = min(affordable, draw(st.integers(least_images, 7)))
    return (images, height, width, groups * per_group), w_shape, (stride, padding, dilation, groups)


# how the work is cut: threads, bytes of a tile (with 1 each row of a picture is a tile, with 4000 a few images are),
# and whether Winograd filters squares
CUTS = st.tuples(st.integers(1, 3), st.sampled_from([None, 1, 1000, 4000]), st.booleans())
DTYPES = st.sampled_from(["float64", "float32"])
LAYOUTS = {
    "C": lambda a: a,
    "Fortran": np.asfortranarray,
    "backwards": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "every other": lambda a: np.repeat(a, 2, a.ndim - 1)[..., ::2],
    "cut out": lambda a: np.pad(a, 1)[(slice(1, -1),) * a.ndim],
}


def laid_out(arrays, layout):
    """The same arrays with other strides."""
    changed = [LAYOUTS[layout](a) for a in arrays]
    for a, b in zip(arrays, changed, strict=True):
        assert np.array_equal(a, b)
    return changed


@contextmanager
def all_signs_positive():
    """Winograd's matrices without their signs.

    The same arithmetic with the absolute values of everything bounds every sum on the way, so its result, times the
    number of terms and eps, bounds the error: as in `agree`, but for sums that neighbouring rows take part in.
    """
    with pytest.MonkeyPatch.context() as patch:
        for dtype, matrices in toom_cook._TRANSFORMS.items():
            patch.setitem(toom_cook._TRANSFORMS, dtype, tuple(map(np.abs, matrices)))
        yield


MORE_TERMS = 48  # the transforms have 6, 3 and 6, twice for squares; their matrices are rounded too; bias, residual


@contextmanager
def small_pieces(threads):
    """As if an image were much to pool, and a few numbers were long rows: this many threads for the least amount."""
    least = {pool: ["_TILE_BYTES", "_LEAST_WORK"], pointwise: ["_LEAST_ROWS", "_SMALL"], descent: ["_LEAST"]}
    with in_threads(threads), pytest.MonkeyPatch.context() as patch:
        for module, names in least.items():
            for name in names:
                patch.setattr(module, name, 1)
        patch.setattr(pointwise, "_ROW", 4)
        patch.setattr(descent, "_CHUNK", 4)
        yield


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
    assert set(numpy.__all__) == {*reference.__all__, "norm_receiver"}


@st.composite
def products(draw):
    """Two shapes that a product has, and which of them are given with their last two axes exchanged."""
    m, k, n = (draw(st.integers(0, 7)) for _ in range(3))
    leading = draw(st.lists(st.integers(0, 4), max_size=2))
    a, b = (  # either with all leading axes, with some, or with ones
        [s if draw(st.booleans()) else 1 for s in leading][draw(st.integers(0, len(leading))) :] for _ in range(2)
    )
    a, b = draw(st.sampled_from([(*a, m, k), (k,)])), draw(st.sampled_from([(*b, k, n), (k,)]))
    return a, b, *(len(s) > 1 and draw(st.booleans()) for s in (a, b))


@THOROUGH
@given(case=products(), dtype=DTYPES, cut=CUTS, layout=st.sampled_from(list(LAYOUTS)))
def test_matmul_is_that_of_numpy(case, dtype, cut, layout):
    *shapes, transpose_a, transpose_b = case
    rng = np.random.default_rng([*shapes[0], 9, *shapes[1]])
    a, b = (rng.standard_normal(s).astype(dtype) for s in shapes)
    a, b = a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b
    slow = reference.matmul(a, b, transpose_a, transpose_b)
    with split(*cut):
        fast = numpy.matmul(*laid_out((a, b), layout), transpose_a, transpose_b)
    sizes = reference.matmul(np.abs(a), np.abs(b), transpose_a, transpose_b)
    agree(np.asarray(fast), np.asarray(slow), shapes[1][0], sizes)


@pytest.fixture
def products(monkeypatch):
    """The shapes of the two factors of every matrix product, as they come."""
    shapes, plain = [], np.matmul
    monkeypatch.setattr(np, "matmul", lambda a, b, out: shapes.append((a.shape, b.shape)) or plain(a, b, out=out))
    return shapes


@pytest.mark.parametrize(
    ("a", "b", "parts"),
    [
        ((80, 7), (7, 5), [(27, 7), (26, 7), (27, 7)]),  # rows
        ((5, 7), (7, 80), [(7, 27), (7, 26), (7, 27)]),  # columns
        ((3, 4, 7), (7, 5), [(4, 7)] * 3),  # rows of all matrices at once
        ((9, 4, 7), (9, 7, 5), [(3, 4, 7)] * 3),  # matrices
        ((9, 4, 7), (1, 7, 5), [(3, 4, 7)] * 3),
        ((2, 7), (9, 7, 5), [(3, 7, 5)] * 3),
        ((2, 12, 7), (2, 7, 5), [(2, 4, 7)] * 3),  # rows of each
        ((2, 4, 7), (2, 7, 12), [(2, 7, 4)] * 3),  # columns of each
    ],
)
def test_a_large_product_is_divided(a, b, parts, products):
    with split(3):
        numpy.matmul(np.ones(a), np.ones(b))
    assert sorted(next(s for s in shapes if s in parts) for shapes in products) == sorted(parts)


@pytest.mark.parametrize(
    ("a", "b", "parts"),
    [
        ((3, 8), (8, 6), [((2, 3, 4), (1, 2, 4, 2)), ((2, 3, 4), (2, 2, 4, 2))]),  # three strips of two terms
        ((1, 1, 3, 8), (1, 1, 8, 6), [((2, 3, 4), (1, 2, 4, 2)), ((2, 3, 4), (2, 2, 4, 2))]),
        ((3, 4), (4, 4), [((1, 3, 4), (1, 1, 4, 2))] * 2),  # of one
        ((4, 14), (14, 4), [((7, 4, 2), (1, 7, 2, 2))] * 2),  # of seven
        ((3, 7), (7, 6), [((3, 7), (7, 3))] * 2),  # a sum of seven numbers cannot be cut
        ((3, 8), (8, 5), [((3, 8), (8, 2)), ((3, 8), (8, 3))]),  # nor can five columns
        ((5, 8), (8, 6), [((5, 8), (8, 3))] * 2),  # these rows are not few
        ((1, 8), (8, 6), [((1, 8), (8, 3))] * 2),  # nor is one alone
        ((2, 10), (10, 2), [((2, 10), (10, 1))] * 2),  # forty multiply-adds are small by themselves
        ((2, 12), (12, 2), [((2, 2, 6), (1, 2, 6, 2))]),  # not so forty-eight
        ((4, 3), (3, 2), [((2, 3), (3, 2))] * 2),  # and these do not meet many weights
    ],
)
def test_a_product_of_few_rows_is_a_sum_of_small_ones(a, b, parts, products):
    with split(2):
        product.product(np.ones(a), np.ones(b), np.empty((*a[:-1], b[-1])))
    assert sorted(products) == sorted(parts)


def test_few_rows_are_not_cut_where_blas_repacks_small_products_too(products):
    with split(2), pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "DIRECT", False)
        product.product(np.ones((3, 8)), np.ones((8, 6)), np.empty((3, 6)))
    assert products == [((3, 8), (8, 3))] * 2


@pytest.mark.parametrize(
    ("rows", "layout", "parts"),
    [
        (3, "transposed", [((2, 3, 4), (1, 2, 4, 2)), ((2, 3, 4), (2, 2, 4, 2))]),
        (4, "transposed", [((4, 8), (8, 3))] * 2),
        (4, "upside down", [((2, 4, 4), (1, 2, 4, 2)), ((2, 4, 4), (2, 2, 4, 2))]),
    ],
)
def test_beside_a_transposed_matrix_fewer_rows_are_few(rows, layout, parts, products):
    with split(2):
        b = np.ones((6, 8)).T if layout == "transposed" else np.ones((8, 6))[::-1]
        product.product(np.ones((rows, 8)), b, np.empty((rows, 6)))
    assert sorted(products) == sorted(parts)


@pytest.mark.parametrize(("direct", "pieces"), [(True, 32), (False, 1)])
def test_columns_are_cut_where_blas_multiplies_small_matrices_as_they_are(direct, pieces, monkeypatch):
    monkeypatch.setattr(columns, "DIRECT", direct)
    assert columns.pieces(2048, 128, 64) == pieces


@pytest.mark.parametrize(
    ("direct", "windows", "channels", "filters", "copied"),
    [
        (True, 2048, 64, 128, True),
        (True, 122, 64, 128, False),  # one small product
        (True, 2048, 65, 128, False),
        (True, 2048, 64, 1000, False),  # never small
        (False, 2048, 64, 128, False),
    ],
)
def test_filters_of_one_pixel_are_copied_if_their_product_is_cut(
    direct, windows, channels, filters, copied, monkeypatch
):
    monkeypatch.setattr(columns, "DIRECT", direct)
    sizes = (1, 5, 5, channels), (1, 3, 3, filters), (1, 1, channels, filters)
    w = np.arange(1.0 * filters * channels).reshape(1, 1, channels, filters)
    [[turned]] = blocks.turned(w, blocks.sides_of(*sizes, (2, 2), (0, 0), (1, 1), 1, 0), 1, windows)
    turned = turned.reshape(filters, channels)
    assert np.array_equal(turned, w[0, 0].T)
    assert np.shares_memory(turned, w) is not copied


@pytest.mark.parametrize("number", [1, 2])
def test_the_filters_know_how_many_windows_they_meet_at_once(number, monkeypatch):
    seen, plain = [], im2col.turned
    monkeypatch.setattr(im2col, "turned", lambda *given: seen.append(given[-1]) or plain(*given))
    x, w, dy = np.ones((6, 5, 7, 3)), np.ones((1, 1, 3, 4)), np.ones((6, 3, 4, 4))
    with in_threads(number):
        numpy.conv2d_backward(dy, None, w, x.shape, w.shape, (2, 2), (0, 0), (1, 1), 1)
    assert seen == [6 // number * 3 * 4]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Haswell", "SkylakeX"], True),
        (["Cooperlake"], True),
        (["SapphireRapids"], True),
        (["Zen", None], False),
        ([], False),
    ],
)
def test_the_blas_that_multiplies_small_matrices_as_they_are_is_known_by_its_processor(names, expected):
    libraries = [SimpleNamespace(architecture=name) for name in names] + [SimpleNamespace()]  # MKL has no such name
    assert product._is_direct(libraries) is expected


@pytest.mark.parametrize("columns", [6, 11])
def test_a_product_is_written_where_it_is_to_go(columns, rng):
    """Into every second column of an array: what is reshaped would be a copy."""
    a, b, whole = rng.standard_normal((3, 8)), rng.standard_normal((8, columns)), np.zeros((3, 2 * columns))
    with split(2):
        product.product(a, b, whole[:, ::2])
    agree(whole[:, ::2], a @ b, 8, np.abs(a) @ np.abs(b))
    assert not whole[:, 1::2].any()


@pytest.mark.skipif(not process.libraries, reason="this BLAS has no number of threads")
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("b", [(600, 450), (1, 600, 450), (600,)], ids=["matrix", "stack", "vector"])
def test_blas_has_one_thread_for_a_large_product(b, number, monkeypatch):
    seen, plain = [], np.matmul

    def watched(*arrays, out):
        seen.extend(library.num_threads for library in process.libraries)
        return plain(*arrays, out=out)

    monkeypatch.setattr(np, "matmul", watched)
    with in_threads(number), threadpoolctl.threadpool_limits(3, "blas"):
        numpy.matmul(np.ones((600, 600)), np.ones(b))
    assert seen
    assert set(seen) == {1}


@THOROUGH
@given(case=convolutions(), dtype=DTYPES, cut=CUTS, layout=st.sampled_from(list(LAYOUTS)), bias=st.booleans(),
       added=st.booleans(), relu=st.booleans(), scaled=st.booleans())  # fmt: skip
def test_conv2d_is_its_seven_loops(case, dtype, cut, layout, bias, added, relu, scaled):
    x, w, b, dy = conv_arrays(case, dtype)
    options = case[2]
    scale = np.linspace(-1, 3, w.shape[3]).astype(dtype) if scaled else None
    b, residual = b if bias else None, dy if added else None  # any array of that shape
    slow = reference.conv2d(x, w, b, *options, residual, relu, scale)
    with split(*cut):
        fast = numpy.conv2d(*laid_out((x, w), layout), b, *options, *laid_out([a for a in [residual] if added], layout)
                            or [None], relu, scale)  # fmt: skip
        with all_signs_positive():
            sizes = numpy.conv2d(np.abs(x), np.abs(w), None, *options)
    sizes = sizes * (np.abs(scale) if scaled else 1) + (np.abs(b) if bias else 0) + (np.abs(residual) if added else 0)
    agree(fast, slow, int(np.prod(w.shape[:3])) + MORE_TERMS, sizes)


@pytest.mark.parametrize(("pictures", "folded"), [(1, False), (3, False), (4, True), (5, True)])
def test_the_fewer_of_weights_and_results_are_scaled(pictures, folded, monkeypatch, rng):
    x, w, scale = (rng.standard_normal(s) for s in ((pictures, 3, 3, 4), (3, 3, 4, 5), (5,)))  # 180 weights, 45 results
    scaled, plain = [], conv.times
    monkeypatch.setattr(conv, "times", lambda a, b: scaled.append(a) or plain(a, b))
    given = numpy.conv2d(x, w, None, (1, 1), (1, 1), (1, 1), 1, scale=scale)
    agree(given, reference.conv2d(x, w, None, (1, 1), (1, 1), (1, 1), 1, scale=scale))
    assert len(scaled) == folded


@THOROUGH
@given(case=convolutions(), dtype=DTYPES, cut=CUTS, layout=st.sampled_from(list(LAYOUTS)),
       wanted=st.sampled_from(["x and w", "x", "w", ""]))  # fmt: skip
def test_conv2d_backward_is_its_seven_loops(case, dtype, cut, layout, wanted):
    x, w, _, dy = conv_arrays(case, dtype)
    options = case[2]
    given_x, given_w = x if "w" in wanted else None, w if "x" in wanted else None
    slow = reference.conv2d_backward(dy, given_x, given_w, x.shape, w.shape, *options)
    with split(*cut):
        a, b, c = laid_out((dy, x, w), layout)
        fast = numpy.conv2d_backward(a, b if "w" in wanted else None, c if "x" in wanted else None, x.shape, w.shape,
                                     *options)  # fmt: skip
        with all_signs_positive():
            sizes = numpy.conv2d_backward(np.abs(dy), np.abs(x), np.abs(w), x.shape, w.shape, *options)
    assert [a is not None for a in fast] == [a is not None for a in slow] == ["x" in wanted, "w" in wanted]
    for a, b, terms, size in zip(fast, slow, (w.size, dy.size // w.shape[3]), sizes, strict=True):
        if b is not None:
            agree(a, b, terms + MORE_TERMS, size)
    agree(numpy.channel_sum(dy), reference.channel_sum(dy), dy.size, reference.channel_sum(np.abs(dy)))


@THOROUGH
@given(case=convolutions(least_images=1, products=60_000), cut=CUTS, bias=st.booleans())
def test_conv2d_moments_are_those_of_its_result(case, cut, bias):
    x, w, b, _ = conv_arrays(case)
    with split(*cut):
        y, mean, var = numpy.conv2d_moments(x, w, b if bias else None, *case[2])
        agree(y, numpy.conv2d(x, w, b if bias else None, *case[2]))
        for fast, slow in zip(numpy.moments(y), reference.moments(y), strict=True):
            agree(fast, slow)
    for fast, slow in zip((mean, var), reference.moments(y), strict=True):
        agree(fast, slow)


@THOROUGH
@given(case=convolutions(least_images=1, products=60_000), cut=CUTS, relu=st.booleans(), residual=st.booleans(),
       wanted=st.sampled_from(["x and w", "x", "w", ""]), layout=st.sampled_from(list(LAYOUTS)))  # fmt: skip
def test_conv2d_norm_backward_is_one_after_the_other(case, cut, relu, residual, wanted, layout):
    x, w, gamma, dy = conv_arrays(case)
    rng = np.random.default_rng(dy.shape)
    z, y = rng.standard_normal((2, *dy.shape)) + 1
    y = np.maximum(y - 1, 0)
    norm = gamma, *reference.moments(z), 0.1
    dz, dgamma, dbeta, g = reference.batch_norm_backward(dy, y if relu else None, z, *norm)
    with split(*cut):
        plain = numpy.conv2d_backward(dz, x, w, x.shape, w.shape, *case[2])
        dy, y, z, x, w = laid_out((dy, y, z, x, w), layout)
        together = numpy.conv2d_norm_backward(
            dy, y if relu else None, z, *norm, x if "w" in wanted else None, w if "x" in wanted else None, x.shape,
            w.shape, *case[2], residual=residual
        )  # fmt: skip
    expected = [plain[0] if "x" in wanted else None, plain[1] if "w" in wanted else None, dgamma, dbeta]
    expected.append(g if residual else None)
    for fast, slow in zip(together, expected, strict=True):
        assert (fast is None) == (slow is None)
        if slow is not None:
            agree(fast, slow)


@THOROUGH
@given(case=convolutions(least_images=1, products=60_000), cut=CUTS, relu=st.booleans(), more=st.booleans(),
       normed=st.booleans(), layout=st.sampled_from(list(LAYOUTS)))  # fmt: skip
def test_a_gradient_that_is_received_as_it_is_written(case, cut, relu, more, normed, layout):
    x, w, gamma, dy = conv_arrays(case)
    rng = np.random.default_rng(dy.shape)
    below_z, so_far = rng.standard_normal((2, *x.shape)) + 1
    norm_below = rng.standard_normal(x.shape[3]), *reference.moments(below_z), 0.1
    z, y = rng.standard_normal((2, *dy.shape))
    norm = gamma, *reference.moments(z), 0.1
    so_far, y, below_y = so_far if more else None, np.maximum(y, 0), np.maximum(x, 0) if relu else None
    slow_dz = reference.batch_norm_backward(dy, y, z, *norm)[0] if normed else dy
    slow_dx, slow_dw = reference.conv2d_backward(slow_dz, x, w, x.shape, w.shape, *case[2])
    slow_dx = slow_dx if so_far is None else slow_dx + so_far
    slow = reference.batch_norm_backward(slow_dx, below_y, below_z, *norm_below)
    with split(*cut):
        dy, y, z, x, w, below_z = laid_out((dy, y, z, x, w, below_z), layout)
        receiver = numpy.norm_receiver(so_far, below_y, below_z, norm_below[1])
        assert not receiver.complete
        sizes = x.shape, w.shape, *case[2]
        if normed:
            both = numpy.conv2d_norm_backward(dy, y, z, *norm, x, w, *sizes, residual=False, onward=receiver)
        else:
            both = numpy.conv2d_backward(dy, x, w, *sizes, onward=receiver)
        assert receiver.complete == (not depthwise.applies(w.shape, case[2][3]))
        if receiver.complete:
            fast = numpy.batch_norm_backward(both[0], below_y, below_z, *norm_below, received=receiver)
            for a, b in zip((both[1], *fast), (slow_dw, *slow), strict=True):
                agree(a, b)
        else:
            agree(both[0] if so_far is None else both[0] + so_far, slow_dx)


def test_nobody_receives_what_is_small_or_no_picture(rng):
    for shape, received in [((16, 32, 32, 1), False), ((16, 32, 32, 2), True), ((1024, 32), False)]:
        x = rng.standard_normal(shape)
        assert (numpy.norm_receiver(None, x, x, np.zeros(shape[-1])) is not None) == received


@pytest.mark.parametrize(
    ("windows", "w_shape", "groups", "limit", "scattered"),
    [
        ((2, 2, 3), (3, 3, 2, 12), 1, 1 << 21, True),
        ((2, 2, 3), (3, 3, 2, 11), 1, 1 << 21, False),  # filters for that many windows are soon turned around
        ((2, 2, 3), (1, 1, 2, 12), 1, 1 << 21, False),  # these need not be turned
        ((2, 2, 3), (3, 3, 2, 12), 2, 1 << 21, False),
        ((2, 2, 3), (3, 3, 2, 12), 1, 4 * 3 * 18 * 8, True),
        ((2, 2, 3), (3, 3, 2, 12), 1, 4 * 3 * 18 * 8 - 1, False),  # an image is several tiles
    ],
)
def test_dx_is_scattered_where_few_windows_meet_many_filters(windows, w_shape, groups, limit, scattered):
    n, rows, columns = windows
    x_shape = n, rows + w_shape[0] - 1, columns + w_shape[1] - 1, w_shape[2] * groups
    plan = im2col._Plan(x_shape, (*windows, w_shape[3]), w_shape, (1, 1), (0, 0), (1, 1), groups)
    assert plan.scatters(8, limit) == scattered


def test_dx_is_not_scattered_over_much_padding():
    sizes = (1, 1, 1, 2), (1, 1, 1, 9), (3, 3, 2, 9), (1, 1)
    assert im2col._Plan(*sizes, (1, 1), (1, 1), 1).scatters(8, 1 << 21)
    assert not im2col._Plan(*sizes, (9, 9), (9, 9), 1).scatters(8, 1 << 21)


def test_filters_that_scatter_are_not_turned_around(monkeypatch):
    monkeypatch.setattr(im2col, "turned", lambda *_: pytest.fail("turned around"))
    x, w, _, dy = conv_arrays(((1, 4, 4, 2), (3, 3, 2, 4), ((2, 2), (1, 1), (1, 1), 1)))
    dx, _ = numpy.conv2d_backward(dy, x, w, x.shape, w.shape, (2, 2), (1, 1), (1, 1), 1)
    agree(dx, reference.conv2d_backward(dy, None, w, x.shape, w.shape, (2, 2), (1, 1), (1, 1), 1)[0])


@pytest.mark.parametrize(
    ("pixels", "channels", "direct", "faster"),
    [(31, 64, True, False), (32, 64, True, True), (127, 128, True, False), (128, 128, True, True),
     (219, 128, True, True), (220, 128, True, False), (511, 128, True, False), (512, 128, True, True),
     (511, 256, True, False), (512, 256, True, True), (1, 8, True, True), (390, 96, True, True), (391, 96, True, True),
     (250, 120, True, True), (287, 96, False, False), (288, 96, False, True),
     (7, 16, False, False), (8, 16, False, True), (127, 64, False, False), (128, 64, False, True),
     (511, 256, False, False), (512, 256, False, True), (1, 4, False, True)],
)  # fmt: skip
def test_winograd_is_for_pictures_that_are_worth_its_filters(pixels, channels, direct, faster, monkeypatch):
    monkeypatch.setattr(winograd, "DIRECT", direct)
    assert (
        winograd.applies((1, 4, pixels / 4, channels), (3, 3, channels, channels), (1, 1), (1, 1), (1, 1), 1) == faster
    )


@pytest.mark.parametrize(
    ("y_shape", "kernel", "channels", "way"),
    [
        ((8, 16, 16, 64), (3, 3), 64, winograd_squares.Squares),  # 128 squares
        ((2, 29, 32, 64), (3, 3), 64, winograd_squares.Squares),
        ((2, 32, 29, 64), (3, 3), 64, winograd_squares.Squares),
        ((1, 8, 64 * 4, 64), (3, 3), 64, winograd_squares.Squares),
        ((127, 4, 4, 64), (3, 3), 64, winograd_rows.Rows),
        ((2, 28, 32, 64), (3, 3), 64, winograd_rows.Rows),
        ((2, 32, 28, 64), (3, 3), 64, winograd_rows.Rows),
        ((64, 4, 6, 64), (3, 3), 64, winograd_squares.Squares),
        ((64, 4, 5, 64), (3, 3), 64, winograd_rows.Rows),
        ((8, 16, 16, 64), (3, 2), 64, winograd_rows.Rows),
        ((8, 16, 16, 64), (3, 3), 63, winograd_rows.Rows),
        ((8, 16, 16, 63), (3, 3), 64, winograd_rows.Rows),
        ((8, 16, 16, 48), (3, 3), 96, winograd_squares.Squares),
        ((8, 16, 16, 512), (3, 3), 34, winograd_rows.Rows),
        ((8, 16, 16, 512), (3, 3), 35, winograd_squares.Squares),
    ],
)
def test_squares_are_for_many_channels_and_pixels(y_shape, kernel, channels, way):
    assert winograd._way(y_shape, kernel, channels, 4) is way
    assert winograd._way(y_shape, kernel, channels, 2) is winograd_rows.Rows  # float16


@pytest.mark.parametrize(
    ("channels", "filters", "way"),
    [
        (1, 31, "winograd"),
        (1, 32, "im2col"),
        (2, 31, "winograd"),
        (2, 32, "im2col"),
        (3, 2, "im2col"),
        (3, 64, "im2col"),
        (4, 64, "winograd"),
    ],
)
@pytest.mark.parametrize("wanted", ["dw alone", "dx alone", "both"])
def test_dw_of_pictures_is_for_im2col(channels, filters, way, wanted, rng, monkeypatch):
    x, w = rng.standard_normal((8, 9, 10, channels)), rng.standard_normal((3, 3, channels, filters))
    dy, window = rng.standard_normal((8, 9, 10, filters)), ((1, 1), (1, 1), (1, 1), 1)
    given = {"dw alone": (x, None), "dx alone": (None, w), "both": (x, w)}[wanted]
    expected = reference.conv2d_backward(dy, *given, x.shape, w.shape, *window)
    asked = []
    for name, module in (("winograd", winograd), ("im2col", im2col)):

        def gradients(dy, x, w, *rest, name=name, really=module.gradients):
            asked.extend((name, what) for what, other in (("dx", w), ("dw", x)) if other is not None)
            return really(dy, x, w, *rest)

        monkeypatch.setattr(module, "gradients", gradients)
    found = numpy.conv2d_backward(dy, *given, x.shape, w.shape, *window)
    assert sorted(asked) == sorted(
        [("winograd", "dx")] * (wanted != "dw alone") + [(way, "dw")] * (wanted != "dx alone")
    )
    for gradient, right in zip(found, expected, strict=True):
        assert gradient is right is None or np.abs(gradient - right).max() < 1e-11 * np.abs(right).max()


@pytest.mark.parametrize(
    ("groups", "pieces", "rows", "taps", "out", "expected"),
    [
        (1, 1, 16384, 27, 16, 2),  # 432 numbers
        (1, 1, 16384, 25, 20, 2),  # 500
        (1, 1, 16384, 9, 56, 1),  # 504
        (2, 1, 16384, 9, 28, 1),
        (1, 2, 8192, 9, 28, 2),
        (1, 2, 8192, 9, 16, 4),  # 288
        (1, 1, 32768, 9, 4, 16),  # 36: 14 pieces would do, but each is to have as many rows
        (1, 1, 16381, 27, 16, 1),  # a prime
        (1, 1, 16382, 10, 20, 1),  # twice a prime, to be divided by three or more
        (1, 1, 4095, 16, 16, 1),  # fewer than 2^20 multiply-adds
        (1, 1, 4096, 16, 16, 2),
        (1, 8, 63, 9, 64, 1),  # too few rows to be added up
        (1, 8, 64, 9, 64, 8),
    ],
)
def test_dw_of_few_filters_leaves_the_lock_to_others(groups, pieces, rows, taps, out, expected, rng):
    unrolled = rng.integers(9, size=(groups, pieces, rows, taps)).astype(np.float32)
    parts = columns.for_dw(unrolled, out)
    assert parts.shape == (groups, expected, pieces * rows // expected, taps)
    assert np.array_equal(parts.reshape(groups, -1, taps), unrolled.reshape(groups, -1, taps))


@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_half_precision_overflows_no_sooner_by_winograd_than_in_the_sum(pass_, rng):
    x, w = (rng.standard_normal(s).astype(np.float16) for s in ((8, 16, 16, 64), (3, 3, 64, 64)))
    window = (1, 1), (1, 1), (1, 1), 1
    if pass_ == "forward":
        results = [way.convolve(30 * x, w, x.shape, window)[0] for way in (winograd, im2col)]
    else:
        results = [
            winograd.gradients(x, np.abs(30 * x), None, x.shape, (3, 3), (1, 1))[1],
            im2col.gradients(x, np.abs(30 * x), None, x.shape, w.shape, window)[1],
        ]
    for result in results:
        assert np.isfinite(result).all()


@pytest.mark.parametrize(
    ("size", "kernel", "channels", "shape"),
    [
        (8, (3, 3), 64, (16, 2)),  # 64 squares
        (16, (3, 3), 128, (4, 4)),
        (16, (3, 3), 181, (4, 4)),
        (16, (3, 3), 182, (8, 4)),  # 128
        (4, (3, 3), 512, (64, 1)),  # as many for each of two threads
        (40, (3, 3), 64, (1, 6)),  # 60 of 100
        (16, (3, 3), 16, (32, 4)),  # rows: twice as many as
        (16, (3, 3), 17, (8, 4)),
        (8, (3, 2), 90, (8, 2)),
        (8, (3, 2), 91, (32, 2)),  # up to 1024 windows
    ],
)
def test_a_tile_is_as_large_as_its_filters_are_worth(size, kernel, channels, shape, monkeypatch):
    monkeypatch.setattr(winograd, "_LARGE_FILTERS", 1 << 14)
    plan = winograd._planned((128, size, size, channels), kernel, (1, 1), channels, 4, 2, 430_000)
    assert plan.tiles[0].shape == shape


def test_a_part_of_a_convolution_is_worth_a_thread():
    """2^24 multiply-adds, counted as those of the direct sum."""
    for size, kernel, channels, filters in [(32, (3, 3), 16, 7), (8, (3, 2), 7, 16), (16, (3, 3), 65, 70)]:
        plan = winograd._planned((128, size, size, channels), kernel, (1, 1), filters, 4, 2, 20_000)
        of_tile = np.prod(plan.y_shape) * channels * kernel[0] * kernel[1] / len(plan.tiles)
        assert plan.least == max(1, 2**24 // of_tile)
    assert winograd._planned((0, 8, 8, 3), (3, 3), (1, 1), 3, 4, 2, 20_000).least == 1


@pytest.mark.parametrize(
    ("images", "channels", "filters", "small"),
    [(25, 16, 16, True), (26, 16, 16, False), (12, 32, 4, True), (13, 32, 4, False), (12, 4, 32, True),
     (13, 4, 32, False), (6, 48, 48, True), (7, 48, 48, False), (0, 48, 48, True)],
)  # fmt: skip
def test_a_convolution_is_small_if_each_of_its_products_is(images, channels, filters, small):
    """18 windows a picture; the transforms are the largest products, or with 48 channels those with the filters."""
    limit = 10**9  # all of them in one tile
    assert winograd._planned((images, 8, 8, channels), (3, 3), (1, 1), filters, 4, 1, limit).small is small


def test_a_convolution_is_not_small_if_only_its_last_tile_is():
    plan = winograd._planned((53, 8, 8, 16), (3, 3), (1, 1), 16, 4, 1, 26 * 6912 // 2)
    assert [tile.shape[0] for tile in plan.tiles] == [26, 26, 1]
    assert not plan.small


@pytest.mark.parametrize("images", [47, 128])
def test_squares_are_never_small(images):
    """Forty-seven of one picture each: the products with the filters are, but the transforms are not."""
    assert not winograd._planned((4 * images, 4, 4, 64), (3, 3), (1, 1), 64, 4, 1, 430_000).small


@pytest.mark.parametrize(("rows", "faster"), [(1, False), (2, False), (3, True)])
def test_winograd_is_for_three_rows_and_more(rows, faster):
    assert winograd.applies((100, rows, 9, 16), (3, 3, 16, 16), (1, 1), (1, 1), (1, 1), 1) == faster


# one convolution for each of the ways to compute it: kernel, channels of a group, filters, options
WAYS = {
    "winograd": ((3, 3), 3, 5, ((1, 1), (1, 1), (1, 1), 1)),
    "winograd, squares": ((3, 3), 3, 5, ((1, 1), (1, 1), (1, 1), 1)),
    "winograd, squares, wide": ((3, 3), 3, 5, ((1, 1), (0, 2), (1, 1), 1)),
    "winograd, one column": ((3, 1), 3, 5, ((1, 1), (2, 0), (1, 1), 1)),
    "too much padding for winograd": ((3, 3), 3, 5, ((1, 1), (3, 1), (1, 1), 1)),
    "strided": ((3, 2), 3, 5, ((2, 3), (1, 1), (1, 1), 1)),
    "strided, one filter": ((3, 3), 3, 1, ((2, 2), (1, 1), (1, 1), 1)),
    "strided, large": ((7, 5), 3, 5, ((2, 2), (3, 2), (1, 1), 1)),
    "five rows": ((5, 5), 3, 5, ((1, 1), (2, 2), (1, 1), 1)),
    "one pixel": ((1, 1), 3, 5, ((1, 1), (0, 0), (1, 1), 1)),
    "one pixel, strided": ((1, 1), 3, 5, ((2, 1), (0, 0), (1, 1), 1)),
    "dilated": ((3, 3), 3, 5, ((1, 1), (2, 2), (2, 3), 1)),
    "grouped": ((3, 3), 2, 6, ((1, 1), (1, 1), (1, 1), 2)),
    "depthwise": ((3, 3), 1, 4, ((2, 1), (1, 1), (1, 1), 4)),
    "depthwise, several filters": ((3, 3), 1, 6, ((1, 1), (1, 1), (1, 1), 3)),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_convolution_goes_its_way(way):
    kernel, per_group, filters, options = WAYS[way]
    assert winograd.applies((10**4, 10, 10, filters), (*kernel, per_group, filters), *options) == way.startswith(
        "winograd"
    )
    assert depthwise.applies((*kernel, per_group, filters), options[3]) == (way == "depthwise")


@pytest.fixture(params=WAYS)
def by_every_way(request, monkeypatch):
    """The case, as `convolutions` gives it, of a picture large enough for several tiles in each direction."""
    kernel, per_group, filters, options = WAYS[request.param]
    in_squares("squares" in request.param, monkeypatch)
    return (7, 13, 10, per_group * options[3]), (*kernel, per_group, filters), options


def test_every_way_is_the_seven_loops(by_every_way):
    x, w, b, dy = conv_arrays(by_every_way)
    options = by_every_way[2]
    for tile in (None, 1000):  # whole images, and rows of one
        with split(2, tile):
            agree(numpy.conv2d(x, w, b, *options), reference.conv2d(x, w, b, *options))
            fast, slow = (k.conv2d_backward(dy, x, w, x.shape, w.shape, *options) for k in (numpy, reference))
            for ours, theirs in zip(fast, slow, strict=True):
                agree(ours, theirs)


def test_as_many_pictures_as_a_group_has_rows_but_one_row_is_missing():
    x, w, b, _ = conv_arrays(((4, 3, 5, 2), (3, 3, 2, 3), ((1, 1), (1, 1), (1, 1), 1)))
    with in_threads(1):  # all of them in one tile
        fast = numpy.conv2d(x, w, b, (1, 1), (1, 1), (1, 1), 1)
    agree(fast, reference.conv2d(x, w, b, (1, 1), (1, 1), (1, 1), 1))


def test_how_the_work_is_cut_changes_nothing(by_every_way, rng):
    x, w, b, dy = conv_arrays(by_every_way)
    options = by_every_way[2]
    z, y = rng.standard_normal((2, *dy.shape))
    y = np.maximum(y, 0)
    norm = b, *reference.moments(z), 0.1

    def everything():
        return (numpy.conv2d(x, w, b, *options, dy, True), *numpy.conv2d_moments(x, w, None, *options),
                *numpy.conv2d_backward(dy, x, w, x.shape, w.shape, *options),
                *numpy.conv2d_norm_backward(dy, y, z, *norm, x, w, x.shape, w.shape, *options, residual=True)
                )  # fmt: skip

    with split(1):
        whole = everything()
    # 1 and 1000: some rows at a time; 6000: about an image; 30 000 and more: several
    for threads, tile in [
        (1, 1),
        (1, 1000),
        (1, 6000),
        (1, 30_000),
        (1, 80_000),
        (2, 1),
        (3, 1000),
        (3, 6000),
        (9, None),
    ]:
        with split(threads, tile):
            for cut, uncut in zip(everything(), whole, strict=True):
                agree(cut, uncut)


@pytest.mark.parametrize(
    ("way", "tile", "largest"),
    [
        *((way, 1000, "part of one") for way in ("winograd", "winograd, squares", "strided")),
        *((way, tile, "one") for way, tile in (("winograd", 6000), ("winograd, squares", 10_000), ("strided", 6000))),
        *((way, 30_000, "several") for way in ("winograd", "winograd, squares", "strided")),
    ],
)
def test_tiles_are_parts_of_an_image_or_several(monkeypatch, way, tile, largest):
    module = im2col if way == "strided" else winograd
    made, cut = [], module.tiles
    monkeypatch.setattr(module, "tiles", lambda *sizes: made.append((sizes, cut(*sizes))) or made[-1][1])
    in_squares("squares" in way, monkeypatch)  # with no plan of before
    kernel, per_group, filters, options = WAYS[way]
    x, w, _, _ = conv_arrays(((7, 13, 10, per_group), (*kernel, per_group, filters), options))
    with split(1, tile):
        numpy.conv2d(x, w, None, *options)
    (((images, rows, row_bytes, limit, _), parts),) = made
    covered = np.zeros((images, rows), int)
    for part in parts:
        covered[part.images, part.rows] += 1
        assert np.prod(part.shape) * row_bytes <= max(limit, row_bytes)
    assert np.all(covered == 1)
    height, width = np.max([part.shape for part in parts], 0)
    assert ("part of one" if width < rows else "one" if height == 1 else "several") == largest


def test_four_results_are_filtered_with_six_products(rng):
    bt, g, at = toom_cook.transforms_in(np.dtype(np.float64))
    for _ in range(20):
        x, w = rng.standard_normal(6), rng.standard_normal(3)
        direct = [x[i : i + 3] @ w for i in range(4)]
        np.testing.assert_allclose(at @ ((g @ w) * (bt @ x)), direct, rtol=0, atol=1e-13)


def test_a_part_of_a_picture_is_that_of_one_with_a_wide_border(rng):
    x = rng.standard_normal((2, 4, 5, 3))
    wide = np.pad(x, ((0, 0), (9, 9), (9, 9), (0, 0)))
    for height, left, width in itertools.product(range(1, 8), range(-4, 6), range(1, 8)):
        border = columns.Border(2, 5, 3, (left, left + width), height, x.dtype)
        for top in [*range(-4, 6), *rng.integers(-4, 6, 20)]:  # one after the other, in the same memory
            part, row, column = border.of(x, top)
            seen = part[:, row : row + height, column + left : column + left + width]
            assert np.array_equal(seen, wide[:, 9 + top : 9 + top + height, 9 + left : 9 + left + width])


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 40, 33), (1, 100, 1), (3, 1, 17), (2, 16, 4), (0, 3)])
@pytest.mark.parametrize("near", [-1, 1 << 14])
def test_a_transposed_array_is_that_of_numpy(rng, shape, near, monkeypatch):
    monkeypatch.setattr(tiles, "_NEAR", near)
    w = rng.standard_normal(shape)
    for array in (w, np.asfortranarray(w)):
        result = tiles.transposed(array)
        assert result.flags.c_contiguous
        assert not np.shares_memory(result, array)
        np.testing.assert_array_equal(result, w.swapaxes(-1, -2), strict=True)


def test_what_lies_in_new_memory_does_not_matter(by_every_way, monkeypatch):
    x, w, _, dy = conv_arrays(by_every_way)
    options = by_every_way[2]

    def everything():
        return numpy.conv2d(x, w, None, *options), *numpy.conv2d_backward(dy, x, w, x.shape, w.shape, *options)

    def nothing_but_nan(shape, dtype=float, order="C", plain=np.empty):
        array = plain(shape, dtype, order)
        array.ravel("K").view(np.uint8)[...] = 255
        return array

    expected = everything()
    for module in (im2col, tiles, winograd, winograd_rows, winograd_squares, np):
        monkeypatch.setattr(module, "empty", nothing_but_nan)
    for tile in (None, 1, 1000, 6000):
        with split(1, tile):
            for a, b in zip(in_a_new_thread(everything), expected, strict=True):
                agree(a, b)


@THOROUGH
@given(case=convolutions(least_images=1), cut=CUTS, wanted=st.sampled_from(["x and w", "x"]), whole=st.booleans(),
       filtered=st.booleans())  # fmt: skip
def test_each_tile_of_dx_is_shown_when_it_is_written(case, cut, wanted, whole, filtered):
    x, w, _, dy = conv_arrays(case)
    before = [a.copy() for a in (x, w, dy)]
    seen = []

    def finish():
        tiles_of_thread = []
        seen.append(tiles_of_thread)

        def done(part, tile):
            tiles_of_thread.append((part.copy(), tile))
            return None

        done.tiles = tiles_of_thread
        return done

    norm = dy.shape[3:], *reference.moments(dy), 0.1
    source = dy if whole else NormGradient(dy, None, dy, np.ones(norm[0]), *norm[1:], keep_g=False)
    plain = None if whole else source.whole() / source.scale
    with split(*cut):
        if filtered and winograd.applies((10**4, *dy.shape[1:]), w.shape, *case[2]):
            way, sizes = winograd, (x.shape, w.shape[:2], case[2][1])
        else:
            way, sizes = im2col, (x.shape, w.shape, case[2])
        arguments = x if "w" in wanted else None, w, *sizes
        dx, dw, finished = way.gradients(source, *arguments, finish)
        again = way.gradients(source, *arguments)
        if plain is not None:
            for a, b in zip((dx, dw), way.gradients(plain, *arguments)[:2], strict=True):
                if a is not None:
                    agree(a, b)
    assert np.array_equal(dx, again[0])
    assert "w" not in wanted or np.array_equal(dw, again[1])
    assert again[2] == [None] * len(finished)
    covered = np.zeros(x.shape[:2], int)
    for tile in (t for done in finished for t in done.tiles):
        covered[tile[1]] += 1
        assert np.array_equal(tile[0], dx[tile[1]])
    assert np.all(covered == 1)
    order = [(t.images.start, t.rows.start) for done in finished for _, t in done.tiles]
    assert order == sorted(order)
    for a, b in zip((x, w, dy), before, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble])
@pytest.mark.parametrize("squares", [True, False])
def test_winograd_in_other_dtypes(dtype, squares, rng, monkeypatch):
    in_squares(squares, monkeypatch)
    x, w = rng.standard_normal((2, 9, 8, 3)).astype(dtype), rng.standard_normal((3, 3, 3, 4)).astype(dtype)
    window = (1, 1), (1, 1), (1, 1), 1
    y = numpy.conv2d(x, w, None, *window)
    exact = numpy.conv2d(x.astype(np.float64), w.astype(np.float64), None, *window)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype(np.float64), exact, rtol=0, atol=0.1 if dtype == np.float16 else 1e-12)


def test_the_points_of_winograd_are_those_that_lose_little():
    """The terms of its sums beside those of the direct sum, in the root mean square; 2.9 for 0, 1, -1, 2, -2."""
    b, g, a = (matrix**2 for matrix in toom_cook._transforms())
    assert 1 < np.sqrt(a @ (g.sum(1) * b.sum(1))).mean() / np.sqrt(3) < 2.21


def test_what_is_not_finite_reaches_all_who_see_it(by_every_way):
    x, w, b, dy = conv_arrays(by_every_way)
    options = by_every_way[2]
    residual = dy.copy()
    for bad in (np.nan, np.inf):
        x[2, 6, 6, 1], residual[1, 2, 3, 0] = bad, bad
        with np.errstate(invalid="ignore"):
            fast, slow = (k.conv2d(x, w, b, *options, residual) for k in (numpy, reference))
            clipped = numpy.conv2d(x, w, b, *options, residual, True)
        touched = ~np.isfinite(slow)
        assert 1 < touched.sum() < touched.size
        assert not np.isfinite(fast[touched]).any()
        np.testing.assert_array_equal(np.isnan(clipped), np.isnan(fast))  # the ReLU hides no NaN
        untouched = np.ones(len(x), bool)
        untouched[[1, 2]] = False
        agree(fast[untouched], slow[untouched])  # other images are not concerned


def in_a_new_thread(function):
    """What a function returns in a thread that has computed nothing yet."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("tile", [None, 1000])
def test_one_convolution_leaves_nothing_behind_for_the_next(by_every_way, tile):
    options = by_every_way[2]

    def everything(dtype, factor=1):
        x, w, b, dy = conv_arrays(by_every_way, dtype)
        with np.errstate(invalid="ignore"), split(1, tile):
            x, dy = factor * x, factor * dy
            return numpy.conv2d(x, w, b, *options), *numpy.conv2d_backward(dy, x, w, x.shape, w.shape, *options)

    expected = in_a_new_thread(lambda: everything("float64"))
    for other in (("float32",), ("float64", np.nan)):
        again = in_a_new_thread(lambda other=other: (everything(*other), everything("float64"))[1])
        for a, b in zip(again, expected, strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize(("module", "stride"), [(winograd, 1), (im2col, 2)])
def test_a_thread_keeps_buffers_of_few_sizes_and_none_when_it_ends(rng, module, stride):
    w = rng.standard_normal((3, 3, 2, 2))
    options = (stride, stride), (1, 1), (1, 1), 1

    def convolve():
        for height in range(5, 40):
            x = rng.standard_normal((1, height, 6, 2))
            for _ in range(2):
                y = numpy.conv2d(x, w, None, *options)
                numpy.conv2d_backward(y, x, w, x.shape, w.shape, *options)
        kept = module._shelves.take()._things.values()
        made = sum(len(getattr(buffers, "made", ())) for buffers in kept)
        return len(kept), made, [weakref.ref(buffers) for buffers in kept]

    number, made, references = in_a_new_thread(convolve)
    assert 1 <= number <= module._KEPT < 35
    assert made <= 2 * number  # what is needed is what was needed before
    assert [reference() for reference in references] == [None] * number


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("module", "stride", "kernel"), [(winograd, 1, 3), (im2col, 2, 3), (im2col, 1, 5)])
def test_who_computes_in_the_middle_of_a_convolution_does_not_disturb_it(
    rng, monkeypatch, module, stride, kernel, threads
):
    """As a signal handler does, or the destructor of an object that the garbage collector finds."""
    x, other = rng.standard_normal((2, 3, 9, 10, 6))
    w, options = rng.standard_normal((kernel, kernel, 6, 7)), ((stride, stride), (1, 1), (1, 1), 1)
    dy, other_dy = rng.standard_normal((2, *numpy.conv2d(x, w, None, *options).shape))

    def both(x, dy):
        return (numpy.conv2d(x, w, None, *options),
                *numpy.conv2d_backward(dy, x, w, x.shape, w.shape, *options))  # fmt: skip

    with split(threads, 200):
        expected, of_others, interrupting = both(x, dy), both(other, other_dy), []

        def multiplier(tiles):
            def multiply(*arguments, **options):
                if not interrupting:
                    interrupting.append(True)
                    found = both(other, other_dy)
                    seen.append(all(map(np.allclose, found, of_others)))  # its sums are not split
                    interrupting.clear()
                return np.matmul(*arguments, **options)

            return multiply

        seen = []
        monkeypatch.setattr(module, "multiplier", multiplier)
        assert all(map(np.array_equal, both(x, dy), expected))
    assert len(seen) > 2 * threads
    assert all(seen)


def test_kept_buffers_keep_no_pictures(by_every_way):
    """Neither those that were unrolled where they lie nor those that were copied."""
    x, w, _, dy = conv_arrays(by_every_way)
    options = by_every_way[2]
    numpy.conv2d(x, w, None, *options)
    numpy.conv2d_backward(dy, x, w, x.shape, w.shape, *options)
    seen = [weakref.ref(a) for a in (x, w, dy)]
    del x, w, dy
    assert [reference() for reference in seen] == [None] * 3


def test_a_convolution_keeps_the_dtype_and_gives_whole_arrays(by_every_way):
    for dtype in ("float32", "float64"):
        x, w, b, dy = conv_arrays(by_every_way, dtype)
        options = by_every_way[2]
        z, y = dy + 1, dy - 1
        norm = b, *numpy.moments(z), 1e-5
        results = (numpy.conv2d(x, w, b, *options), *numpy.conv2d_moments(x, w, None, *options),
                   *numpy.conv2d_backward(dy, x, w, x.shape, w.shape, *options), numpy.channel_sum(dy),
                   *numpy.conv2d_norm_backward(dy, y, z, *norm, x, w, x.shape, w.shape, *options, residual=True)
                   )  # fmt: skip
        assert {a.dtype for a in results} == {np.dtype(dtype)}
        assert all(a.flags.c_contiguous for a in results)


@THOROUGH
@given(case=poolings(), dtype=DTYPES, special=st.sampled_from([None, np.nan, -np.inf, np.inf]),
       threads=st.integers(1, 3), layout=st.sampled_from(list(LAYOUTS)))  # fmt: skip
def test_pooling_is_its_loops(case, dtype, special, threads, layout):
    shape, options = case
    rng = np.random.default_rng(list(shape))
    x = rng.integers(-3, 4, shape).astype(dtype)  # whole numbers: plenty of ties
    if special is not None:
        x[rng.random(shape) < 0.6] = special
    slow, expected = reference.max_pool2d(x, *options)
    dy = rng.standard_normal(slow.shape).astype(dtype)
    changed, upstream, cells = laid_out((x, dy, expected), layout) if special is None else (x, dy, expected)
    with small_pieces(threads):
        fast, chosen = numpy.max_pool2d(changed, *options)
        maxima, not_wanted = numpy.max_pool2d(changed, *options, choose=False)
        dx = numpy.max_pool2d_dx(upstream, cells, shape, *options)
        average = numpy.avg_pool2d(changed, *options)
        average_dx = numpy.avg_pool2d_dx(upstream, shape, *options)
    assert not_wanted is None
    dx_expected = reference.max_pool2d_dx(dy, expected, shape, *options)
    for a, b in ((fast, slow), (maxima, slow), (chosen, expected), (dx, dx_expected)):
        np.testing.assert_array_equal(a, b, strict=True)  # a pixel of several windows adds in the same order
    # all of it arrives, even where a window holds only -inf
    sizes = reference.max_pool2d_dx(np.abs(dy), expected, shape, *options)
    assert abs(dx.sum() - dy.sum()) <= 2 * dy.size * np.finfo(dtype).eps * sizes.sum()
    if special is None:  # 16 terms and a division
        agree(average, reference.avg_pool2d(x, *options), 17, reference.avg_pool2d(abs(x), *options))
    sizes = reference.avg_pool2d_dx(abs(dy), shape, *options)
    agree(average_dx, reference.avg_pool2d_dx(dy, shape, *options), 17, sizes)


def test_images_of_several_tiles_are_pooled_whole(rng, monkeypatch):
    x, options = rng.standard_normal((7, 6, 5, 3)), ((3, 2), (2, 1), (1, 1))
    y, chosen = numpy.max_pool2d(x, *options)
    dx = numpy.max_pool2d_dx(y, chosen, x.shape, *options)
    for images in (1, 2, 3):
        monkeypatch.setattr(pool, "_TILE_BYTES", images * x[0].nbytes)
        for a, b in zip(numpy.max_pool2d(x, *options), (y, chosen), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(numpy.max_pool2d_dx(y, chosen, x.shape, *options), dx)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 4, 4, 0)])
def test_pooling_of_nothing(kernels, shape):
    kernel, x, options = KERNELS[kernels], here(np.ones(shape)), ((3, 3), (2, 2), (1, 1))
    y, chosen = kernel.max_pool2d(x, *options)
    assert y.shape == chosen.shape == kernel.avg_pool2d(x, *options).shape == (shape[0], 2, 2, shape[3])
    assert kernel.max_pool2d(x, *options, choose=False)[0].shape == y.shape
    assert kernel.max_pool2d_dx(y, chosen, shape, *options).shape == shape
    assert kernel.avg_pool2d_dx(y, shape, *options).shape == shape


def test_what_lies_in_memory_between_the_pictures_does_not_matter(monkeypatch):
    """Windows that straddle two rows are computed too: what they see must not overflow, a warning that nobody needs."""
    x, options = np.ones((2, 5, 4, 1), np.float32), ((3, 3), (2, 2), (1, 1))
    largest = np.finfo(np.float32).max
    monkeypatch.setattr(
        pool, "empty", lambda s, dtype: np.full(s, largest if np.dtype(dtype).kind == "f" else 1, dtype)
    )
    y, chosen = numpy.max_pool2d(x, *options)
    numpy.max_pool2d_dx(y, chosen, x.shape, *options)
    numpy.avg_pool2d_dx(numpy.avg_pool2d(x, *options), x.shape, *options)


def test_an_infinite_gradient_goes_where_it_belongs(kernels):
    x = here(np.array([1, 2, 4, 3.0]).reshape(1, 1, 4, 1))
    options = (1, 2), (1, 1), (0, 0)
    _, chosen = KERNELS[kernels].max_pool2d(x, *options)
    dy = here(np.array([1, np.inf, 2]).reshape(1, 1, 3, 1))
    dx = KERNELS[kernels].max_pool2d_dx(dy, chosen, x.shape, *options)
    assert dx.ravel().tolist() == [0, 1, np.inf, 0]


def test_a_nan_is_the_maximum_of_its_window(kernels):
    x = here(np.array([1, np.nan, 3, 2, np.nan, 0, 1, 0.0]).reshape(1, 2, 4, 1))
    y, chosen = KERNELS[kernels].max_pool2d(x, (2, 2), (2, 2), (0, 0))
    assert np.isnan(y[0, 0, 0, 0])
    assert y[0, 0, 1, 0] == 3
    assert chosen.ravel().tolist() == [1, 0]  # the first NaN


def test_maxima_without_their_cells(kernels, rng):
    x, window = here(rng.standard_normal((2, 7, 6, 3))), ((3, 2), (2, 1), (1, 1))
    y, _ = KERNELS[kernels].max_pool2d(x, *window)
    maxima, chosen = KERNELS[kernels].max_pool2d(x, *window, choose=False)
    assert chosen is None
    np.testing.assert_array_equal(asnumpy(maxima), asnumpy(y), strict=True)


@pytest.mark.host_only("the operation asks every set of kernels alike")
@pytest.mark.parametrize("recorded", [True, False])
def test_only_a_gradient_needs_to_know_which_cell_was_chosen(recorded, monkeypatch):
    asked, plain = [], numpy.max_pool2d
    monkeypatch.setattr(numpy, "max_pool2d", lambda *a: asked.append(a[-1]) or plain(*a))
    x = minires.Tensor(np.ones((1, 2, 2, 1)), requires_grad=recorded)
    F.max_pool2d(x, 2)
    assert asked == [recorded]


@pytest.mark.parametrize("kernel", [(1, 33_000), (33_000, 1)])
def test_a_window_of_many_cells(kernels, rng, kernel):
    x = rng.random((1, *kernel, 2))  # more cells than an int16 counts
    x.reshape(33_000, 2)[[32_900, 300], [0, 1]] = 2, 3
    y, chosen = KERNELS[kernels].max_pool2d(here(x), kernel, (1, 1), (0, 0))
    assert (y.ravel().tolist(), chosen.ravel().tolist()) == ([2, 3], [32_900, 300])


@THOROUGH
@given(shape=some.array_shapes(min_dims=2, max_dims=4, max_side=5), dtype=DTYPES, cut=st.none() | CUTS,
       relu=st.booleans(), added=st.booleans(), layout=st.sampled_from(list(LAYOUTS)))  # fmt: skip
def test_batch_norm_is_its_chain_rule(shape, dtype, cut, relu, added, layout):
    rng = np.random.default_rng(list(shape))
    x, dy, residual = (rng.standard_normal((3, *shape)) + 2).astype(dtype)
    gamma, beta = rng.standard_normal((2, shape[-1])).astype(dtype)
    eps = 0.1
    mean, var = reference.moments(x)
    norm = gamma, mean, var, eps
    y = reference.batch_norm(x, gamma, beta, mean, var, eps, residual if added else None, relu)
    slow = mean, var, y, *reference.batch_norm_backward(dy, y if relu else None, x, *norm)
    with split(*cut) if cut else nullcontext():  # uncut, small arrays have a way of their own
        a, b, c, d = laid_out((x, dy, residual, y), layout)
        fast = (*numpy.moments(a), numpy.batch_norm(a, gamma, beta, mean, var, eps, c if added else None, relu),
                *numpy.batch_norm_backward(b, d if relu else None, a, *norm))  # fmt: skip
    # every result is a sum over at most n pixels, an error of n eps, of products of at most one dy, one gamma, and two
    # x / std, in each of which the mean and the variance bring an error of n eps more
    sizes = (1 + abs(x).max() / np.sqrt(eps)) ** 2 * (1 + abs(gamma).max()) * (1 + abs(dy).max())
    sizes += abs(residual).max()
    n = x.size // x.shape[-1]
    for fast_one, slow_one, size in zip(fast, slow, (1, 1, 1, 1, n, n, 1), strict=True):
        agree(fast_one, slow_one, 4 * n, size * sizes)


@pytest.mark.parametrize("channels", [1, 3])
def test_moments_move_the_running_ones(kernels, rng, channels):
    x = rng.standard_normal((4, 3, 2, channels))
    running = here((np.full(channels, 5.0), np.full(channels, 7.0)))
    KERNELS[kernels].moments(here(x), (*running, 0.3))
    np.testing.assert_allclose(running[0], 0.7 * 5 + 0.3 * x.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(running[1], 0.7 * 7 + 0.3 * x.var((0, 1, 2), ddof=1), rtol=1e-12)


def near_and_far(rng):
    """Pictures in single precision that make a variance hard: several chunks of them, and hundreds of rows each."""
    shape = 12, 40, 40, 17  # 326 400 numbers
    x = rng.standard_normal(shape)
    apart = np.linspace(-1, 1, 12)[:, None, None, None]
    return {
        "a mean 10 000 deviations from zero": x + 1e4,
        "each channel its own": x * np.geomspace(1e-3, 1e3, 17) + 1e4 * np.geomspace(1e-3, 1e3, 17),
        "images far from each other": x + 1e4 * apart,
        "rows far from each other": x + 1e4 * np.cos(np.arange(40.0))[:, None, None],
        "far from zero and from each other": x + 1e5 + 1e3 * apart,
        "only the first row is elsewhere": x + 1e4 * (np.arange(12 * 40).reshape(12, 40, 1, 1) > 0),
    }


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_single_precision_is_enough_for_a_variance(rng, threads):
    for what, x in near_and_far(rng).items():
        x = x.astype(np.float32)
        with split(threads):
            mean, var = numpy.moments(x)
        # the mean is exact but for the rounding of what is summed, relative to how far from zero and apart things are
        np.testing.assert_allclose(mean, x.mean((0, 1, 2), "d"), rtol=2e-7, atol=1e-6 * np.abs(x).max(), err_msg=what)
        np.testing.assert_allclose(var, x.var((0, 1, 2), "d"), rtol=1e-3, err_msg=what)


@pytest.mark.parametrize("window", [(3, 1), (1, 0)], ids=["winograd", "one pixel"])
@pytest.mark.parametrize("tile", [None, 100_000])
def test_a_convolution_gathers_a_variance_as_well(rng, window, tile):
    kernel, padding = window
    w = np.zeros((kernel, kernel, 17, 17), np.float32)
    w[kernel // 2, kernel // 2] = np.eye(17)  # the picture comes out as it went in
    for what, x in near_and_far(rng).items():
        with split(2, tile):
            y, mean, var = numpy.conv2d_moments(x.astype(np.float32), w, None, (1, 1), (padding, padding), (1, 1), 1)
        np.testing.assert_allclose(mean, y.mean((0, 1, 2), "d"), rtol=2e-7, atol=1e-6 * np.abs(y).max(), err_msg=what)
        np.testing.assert_allclose(var, y.var((0, 1, 2), "d"), rtol=1e-3, err_msg=what)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (4, 3, 2, 5)])
def test_a_channel_sum_over_any_number_of_axes(kernels, rng, shape):
    x = rng.standard_normal(shape)
    result = asnumpy(KERNELS[kernels].channel_sum(here(x)))
    assert result.shape == (5,)
    np.testing.assert_allclose(result, x.sum(tuple(range(x.ndim - 1))), rtol=1e-12)


def test_no_gradient_in_none_out(kernels, rng):
    kernel = KERNELS[kernels]
    x = here(rng.standard_normal((4, 3, 2, 5)).astype(np.float32))
    gamma, mean, var = here(np.ones(5, "f")), *kernel.moments(x)
    # none at all, or none that passes the ReLU
    for dy, y in ((np.zeros_like(x), None), (np.ones_like(x), np.zeros_like(x))):
        for result in kernel.batch_norm_backward(dy, y, x, gamma, mean, var, 1e-5):
            assert not result.any()


@pytest.mark.parametrize("cut", [False, True])
def test_the_mean_of_a_gradient_is_subtracted_whatever_its_size(cut):
    """With pictures of 1 and -1 the mean of g xhat is exactly 0, that of g all there is, and nothing is left of dx."""
    x = np.ones((6, 2, 2, 3), np.float32)
    x[::2] = -1
    mean, var, gamma = np.zeros(3, "f"), np.ones(3, "f"), np.array([0.5, 1, -2], "f")
    for size in (2.0**-80, 2.0**-40, 1.0, 2.0**40, 2.0**70):
        with split(1, 100) if cut else nullcontext():
            dx, dgamma, dbeta, _ = numpy.batch_norm_backward(np.full_like(x, size), None, x, gamma, mean, var, 0.0)
        assert np.all(abs(dx) <= 1e-5 * size)
        np.testing.assert_array_equal(dgamma, 0)
        np.testing.assert_array_equal(dbeta, np.full(3, 24 * size, "f"))


def test_what_a_relu_after_a_batch_norm_hides_and_what_not(kernels, rng):
    kernel = KERNELS[kernels]
    x, dy, residual = rng.standard_normal((3, 4, 3, 2, 5))
    x[1, 0, 1, 3], residual[2, 1, 0, 2], residual[0, 0, 0, 0] = np.nan, np.nan, -np.inf
    gamma, beta, var = np.ones((3, 5))
    norm = gamma, np.zeros(5), var, 1e-5
    y = asnumpy(kernel.batch_norm(*here((x, gamma, beta, *norm[1:], residual)), True))
    assert np.argwhere(np.isnan(y)).tolist() == [[1, 0, 1, 3], [2, 1, 0, 2]]
    assert y[0, 0, 0, 0] == 0
    y, x = np.where(np.isnan(y), 1, y), np.nan_to_num(x)
    y[3, 2, 1, 1], y[3, 2, 1, 4], dy[3, 2, 1, 1], dy[3, 2, 1, 4] = 0, 2, np.inf, np.inf
    with np.errstate(invalid="ignore"):
        dx, dgamma, dbeta, g = map(asnumpy, kernel.batch_norm_backward(*here((dy, y, x, *norm))))
    assert np.isnan(g[3, 2, 1, 1])  # an infinite dy is not hidden by a 0
    assert g[3, 2, 1, 4] == np.inf
    bad = [False, True, False, False, True]  # and spoils its channel, no other
    for array in (dx.reshape(-1, 5).sum(0), dgamma, dbeta):
        assert (~np.isfinite(array)).tolist() == bad


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
        np.float64,
        some.array_shapes(min_dims=0, min_side=0, max_side=7),
        elements=st.sampled_from([-2.5, -0.0, 0.0, 1e-300, 3, np.nan]),
    ),
    threads=st.integers(1, 3),
)
def test_relu_and_addition_are_their_loops(x, threads):
    dy = np.random.default_rng(11).standard_normal(x.shape)
    with small_pieces(threads):
        fast = numpy.relu(x), numpy.relu_dx(dy, x), numpy.add(dy, x)
    for a, b in zip(fast, (reference.relu(x), reference.relu_dx(dy, x), reference.add(dy, x)), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "int64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_elements_of_any_dtype_and_layout(rng, dtype, layout):
    a, b = laid_out(list(rng.integers(-3, 4, (2, 2, 3, 7)).astype(dtype)), layout)
    for pieces in (nullcontext(), small_pieces(2)):
        with pieces:
            results = numpy.relu(a), numpy.relu_dx(a, b), numpy.add(a, b)
        for y, expected in zip(results, (np.maximum(a, 0), a * (b > 0), a + b), strict=True):
            np.testing.assert_array_equal(y, expected, strict=True)
            assert y.flags.c_contiguous


@THOROUGH
@given(shape=some.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7), dtype=DTYPES,
       layout=st.sampled_from(list(LAYOUTS)), threads=st.integers(1, 3), decay=st.sampled_from([0.0, 0.01]),
       momentum=st.sampled_from([None, "plain", "Nesterov"]))  # fmt: skip
def test_sgd_is_its_formula_to_the_bit(shape, dtype, layout, threads, decay, momentum):
    rng = np.random.default_rng([3, *shape])
    value, grad, velocity = (np.array(rng.standard_normal(shape), dtype) for _ in range(3))
    fast = [value.copy(), grad, velocity.copy()]
    if shape:
        fast = laid_out(fast, layout)
    settings = 0.1, 0.9, decay, momentum == "Nesterov"
    with small_pieces(threads):
        numpy.sgd(*fast[:2], fast[2] if momentum else None, *settings)
    reference.sgd(value, grad, velocity if momentum else None, *settings)
    for a, b in zip(fast, (value, grad, velocity), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_sgd_writes_into_each_array_whatever_its_layout(rng, which):
    expected = list(rng.standard_normal((3, 5, 7)))
    arrays = [a.copy() for a in expected]
    arrays[which] = np.asfortranarray(arrays[which])
    with small_pieces(1):
        numpy.sgd(*arrays, 0.1, 0.9, 0.01, False)
    reference.sgd(*expected, 0.1, 0.9, 0.01, False)
    for a, b in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# -- adjoints ---------------------------------------------------------------------------------------------------------


@THOROUGH
@given(case=convolutions(products=60_000), cut=CUTS)
def test_conv2d_its_dx_and_its_dw_are_adjoint(case, cut):
    x, w, _, dy = conv_arrays(case)
    options = case[2]
    with split(*cut):
        through_y = dot(numpy.conv2d(x, w, None, *options), dy)
        dx, dw = numpy.conv2d_backward(dy, x, w, x.shape, w.shape, *options)
        with all_signs_positive():
            sizes = numpy.conv2d(np.abs(x), np.abs(w), None, *options)
    bound = 1e-12 * (1 + dot(sizes, np.abs(dy)))
    assert abs(through_y - dot(x, dx)) <= bound
    assert abs(through_y - dot(w, dw)) <= bound


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
@given(case=convolutions(products=10_000_000), cut=CUTS)
def test_conv2d_is_that_of_torch(case, cut):
    torch = pytest.importorskip("torch")
    (x, w, b, dy), (stride, padding, dilation, groups) = conv_arrays(case), case[2]
    tx, tw, tb = (
        torch.tensor(np.ascontiguousarray(a), requires_grad=True)
        for a in (x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1), b)
    )
    ty = torch.nn.functional.conv2d(tx, tw, tb, stride, padding, dilation, groups)
    ty.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    with split(*cut):
        agree(numpy.conv2d(x, w, b, *case[2]), to_nhwc(ty))
        dx, dw = numpy.conv2d_backward(dy, x, w, x.shape, w.shape, *case[2])
    agree(dx, to_nhwc(tx.grad))
    agree(dw, tw.grad.numpy().transpose(2, 3, 1, 0))
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
    kernel = KERNELS[kernels]
    losses, probabilities = kernel.cross_entropy(*here((np.array([[0, -np.inf, 1.0]]), np.array([0]))), 0.0)
    np.testing.assert_allclose(losses, np.log1p(np.e))
    np.testing.assert_allclose(probabilities[:, 1], 0)
    with np.errstate(invalid="ignore"):
        dx = kernel.relu_dx(*here((np.array([np.inf, 1.0]), np.array([0.0, 2.0]))))
    np.testing.assert_array_equal(dx, [np.nan, 1])
