"""Every operation's derivative: measured, of the right dtype and shape, linear, and without side effects.

The cases stand in one table, by the name under which an operation is registered.  An operation without a case fails
`test_every_operation_has_a_case`, so that nothing can be added without being checked.
"""

import itertools
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

import hypothesis.extra.numpy as some
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires import Function, Tensor, asnumpy, gradcheck
from minires.kernels import reference
from minires.tensor import Node
from minires.tensor.modes import unusual
from minires.tensor.operators import OPERATIONS
from tests.devices import KERNELS, MARKS, here


class Case(NamedTuple):
    """One call: ``OPERATIONS[name].apply(*inputs, **options)``.  An option that is a function is called each time."""

    name: str
    inputs: tuple  # of functions rng -> array, or None
    options: dict[str, Any]
    derived: Callable[..., dict[str, Any]] | None = None  # further options, from the input arrays

    def arrays(self, rng):
        return [None if make is None else here(np.asarray(make(rng))) for make in self.inputs]

    def call(self, tensors):
        tensors = list(tensors)
        arrays = [None if t is None else t.data for t in tensors]
        return OPERATIONS[self.name].apply(*tensors, **self.fresh_options(arrays))

    def fresh_options(self, arrays):
        options = {k: here(v() if callable(v) else v) for k, v in self.options.items()}
        return options if self.derived is None else options | self.derived(*arrays)


def normal(*shape):
    return lambda rng: rng.standard_normal(shape)


def positive(*shape):
    return lambda rng: rng.uniform(0.5, 2, shape)


def distinct(*shape):
    """No two equal, none within 0.01 of 0 or 1: far from every kink and tie."""
    size = int(np.prod(shape))
    return lambda rng: ((rng.permutation(size) - size // 2 + 0.3) * (3.0 / size)).reshape(shape)


def labels(n, classes):
    return lambda: np.random.default_rng(2).integers(0, classes, n)


def mask(*shape):
    return lambda: np.random.default_rng(3).random(shape) < 0.5


def window(stride=(1, 1), padding=(0, 0), **more):
    return {"stride": stride, "padding": padding, **more}


def convolution(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    return {"window": (stride, padding, dilation, groups)}


def moments(x, *_):
    return {"mean": x.mean(tuple(range(x.ndim - 1))), "var": x.var(tuple(range(x.ndim - 1)))}


def convolved(options):
    """What `ConvBatchNorm` is told of its convolution: the result and the moments."""

    def derived(x, w, *_):
        z = here(reference.conv2d(asnumpy(x), asnumpy(w), None, *options))
        return {"z": z, **moments(z)}

    return derived


BROADCASTS = [
    ((3, 5), (3, 5)), ((3, 5), (5,)), ((5,), (3, 5)), ((3, 1), (1, 5)), ((2, 3, 5), (3, 1)), ((1, 1), (3, 5)),
    ((), (3, 5)), ((3, 5), ()), ((2, 1, 5), (3, 1)), ((), ()),
]  # fmt: skip
MATMULS = [
    ((3,), (3,)), ((3,), (3, 5)), ((2, 3), (3,)), ((2, 3), (3, 5)), ((7, 2, 3), (3, 5)), ((2, 3), (7, 3, 5)),
    ((7, 2, 3), (7, 3, 5)), ((4, 1, 2, 3), (7, 3, 5)), ((3,), (7, 3, 5)), ((7, 2, 3), (3,)), ((1, 2, 3), (7, 3, 5)),
    ((4, 7, 2, 3), (1, 3, 5)), ((3,), (4, 7, 3, 5)), ((2, 1), (1, 5)),
]  # fmt: skip
AXES = [(None, False), (0, False), ((0, 2), True), (-1, False), (1, True), ((), False), ([2, 0], False)]
INDICES = [
    slice(1, None, 2), (slice(None, None, -1), 2), None, (Ellipsis, None, -1), np.array([0, 2, 2, 0]), [1, 1], 1,
    (np.array([0, 1, 0]), slice(None), np.array([3, 3, 3])), np.array([[True, False, True]] * 1)[0],
    (np.array([[0], [1]]), np.array([[2, 2, 0]])), (), (np.array(1), 0, np.array([], int)),
]  # fmt: skip
CONVS = [  # x, w, options; all lengths distinct, so that no swapped axis can hide
    ((2, 5, 6, 3), (3, 2, 3, 4), convolution()),
    ((2, 7, 6, 4), (2, 3, 2, 6), convolution((2, 1), (1, 2), dilation=(1, 2), groups=2)),
    ((2, 6, 5, 3), (3, 1, 1, 6), convolution((1, 2), (2, 0), dilation=(2, 1), groups=3)),  # depthwise
    ((3, 5, 4, 2), (1, 1, 2, 3), convolution((2, 2))),  # a projection: pixels are skipped
]
FUSED_CONVS = [  # x, w, what is added to y, options: one for each way to convolve
    ((2, 5, 6, 3), (3, 2, 3, 4), (2, 3, 5, 4), convolution()),
    ((2, 7, 6, 4), (2, 3, 2, 6), (2, 4, 6, 6), convolution((2, 1), (1, 2), dilation=(1, 2), groups=2)),
    ((2, 6, 5, 3), (3, 1, 1, 3), (2, 6, 3, 3), convolution((1, 2), (2, 0), dilation=(2, 1), groups=3)),
]
POOLS = [
    ((2, 5, 7, 3), window((2, 2), kernel=(2, 2))),  # a row and a column left over
    ((2, 6, 5, 3), window((2, 1), (1, 1), kernel=(3, 2))),  # windows overlap
    ((2, 7, 6, 3), window((3, 3), (0, 1), kernel=(2, 3))),  # gaps between rows
]
CASES = [
    *(Case(n, (distinct(*a), lambda rng, b=b: distinct(*b)(rng) + 0.0101), {})
      for n in ("add", "subtract", "multiply", "divide") for a, b in BROADCASTS),
    *(Case(n, (distinct(*a), lambda rng, b=b: distinct(*b)(rng) + 0.0101), {})
      for n in ("maximum", "minimum") for a, b in BROADCASTS[:-1]),
    *(Case("power", (positive(*a), normal(*b)), {}) for a, b in BROADCASTS),
    *(Case("where", (normal(*a), normal(*b)), {"condition": mask(*np.broadcast_shapes(a, b))})
      for a, b in BROADCASTS[:-1]),
    Case("where", (normal(5), normal(1)), {"condition": mask(3, 1)}),
    *(Case("matmul", (normal(*a), normal(*b)), {}) for a, b in MATMULS),
    *(Case(n, (distinct(3, 5),), {}) for n in ("negative", "abs", "exp", "tanh", "sigmoid", "relu")),
    *(Case(n, (positive(3, 5),), {}) for n in ("log", "sqrt")),
    *(Case("clip", (distinct(3, 5),), {"low": low, "high": high}) for low in (-0.5, None) for high in (0.5, None)),
    Case("astype", (normal(3, 5),), {"dtype": "float64"}),
    Case("to", (normal(3, 5),), {"device": lambda: Tensor(0.0).device}),
    *(Case(n, (normal(3, 4, 5),), {"axis": axis}) for n in ("softmax", "log_softmax") for axis in (-1, 0, 1)),
    Case("dropout", (normal(5, 7),), {"p": 0.4, "generator": lambda: np.random.default_rng(1)}),
    *(Case(n, (distinct(2, 3, 5),), {"axis": axis, "keepdims": keep}) for n in ("sum", "mean", "max", "min")
      for axis, keep in AXES),
    *(Case("var", (normal(2, 3, 5),), {"axis": axis, "keepdims": keep, "ddof": ddof})
      for axis, keep in AXES[:5] for ddof in (0, 1)),
    *(Case("reshape", (normal(2, 3, 5),), {"shape": shape}) for shape in ((5, 6), (-1,), (3, -1, 1))),
    *(Case("transpose", (normal(2, 3, 5),), {"axes": axes}) for axes in (None, (1, 2, 0), (0, -1, 1))),
    *(Case("getitem", (normal(3, 4, 5),), {"index": index}) for index in INDICES[:-1]),
    *(Case("broadcast_to", (normal(*s),), {"shape": to})
      for s, to in (((3, 1), (2, 3, 5)), ((), (2, 3)), ((5,), (5,)))),
    *(Case("concatenate", (normal(2, 3, 1), normal(2, 3, 5), normal(2, 3, 2)), {"axis": axis}) for axis in (2, -1)),
    Case("concatenate", (normal(2, 5),), {"axis": 0}),
    *(Case("stack", (normal(2, 3), normal(2, 3), normal(2, 3)), {"axis": axis}) for axis in (0, 1, -1)),
    Case("pad", (normal(2, 3, 5),), {"widths": ((0, 0), (1, 2), (3, 0)), "value": 0.5}),
    *(Case("conv2d", (normal(*x), normal(*w), bias), options)
      for x, w, options in CONVS for bias in (normal(w[3]), None)),
    Case("subsample_pad", (normal(2, 5, 4, 3),), {"stride": (2, 3), "channels": 7}),
    Case("subsample_pad", (normal(2, 4, 5, 3),), {"stride": (1, 1), "channels": 3}),
    *(Case(n, (distinct(*x),), options) for n in ("max_pool2d", "avg_pool2d") for x, options in POOLS),
    *(Case("conv2d", (normal(*x), normal(*w), normal(w[3]), normal(*y)), {**options, "relu": relu})
      for x, w, y, options in FUSED_CONVS for relu in (False, True)),
    *(Case("batch_norm", (normal(*s), normal(s[-1]), normal(s[-1]), residual), {"eps": 0.1, "relu": relu}, moments)
      for s in ((7, 3), (3, 5, 4, 2), (2, 1, 1, 3)) for residual in (None, normal(*s)) for relu in (False, True)),
    *(Case("conv_batch_norm", (normal(*x), normal(*w), normal(w[3]), normal(w[3]), residual),
           {"eps": 0.1, "relu": relu, **options}, convolved(options["window"]))
      for x, w, y, options in FUSED_CONVS for residual in (None, normal(*y)) for relu in (False, True)),
    Case("fixed_batch_norm", (normal(3, 5, 4, 2), normal(2), normal(2)),
         {"eps": 0.1, "mean": lambda: np.array([0.3, -2.0]), "var": lambda: np.array([0.5, 3.0])}),
    *(Case("layer_norm", (normal(*s), normal(*of), normal(*of)), {"eps": 0.1})
      for s, of in (((3, 5), (5,)), ((2, 3, 4, 5), (4, 5)), ((5,), (5,)))),
    *(Case("cross_entropy", (normal(5, 3),), {"labels": labels(5, 3), "label_smoothing": s, "reduction": reduction})
      for s in (0.0, 0.3) for reduction in ("mean", "sum", "none")),
    *(Case("mse_loss", (normal(3, 5), normal(3, 5)), {"reduction": how}) for how in ("mean", "sum", "none")),
    *(Case("linear", (normal(*x), normal(5, 4), bias), {})
      for x in ((3, 5), (5,), (2, 3, 5)) for bias in (normal(4), None)),
    *(Case(n, (distinct(2, 1, 3, 1, 1, 1, 1, 1, 5, 2),), {"axis": (8, 1), "keepdims": False})
      for n in ("sum", "mean", "max")),  # axes that a set of small numbers does not sort by itself
    *(Case(n, (normal(2, 3, 5),), {"axis": (0, 1), "keepdims": keep})
      for n in ("sum", "mean") for keep in (True, False)),
    Case("stack", (normal(2, 5),), {"axis": 1}),
    Case("getitem", (normal(3, 4, 5),), {"index": ((1, 1, 0),)}),
]  # fmt: skip
IDS = [f"{case.name}-{i}" for i, case in enumerate(CASES)]
WITH_KERNELS = {
    "relu", "conv2d", "max_pool2d", "avg_pool2d", "batch_norm", "conv_batch_norm", "fixed_batch_norm", "cross_entropy"
}  # fmt: skip
each_case_and_kernel = pytest.mark.parametrize(
    ("case", "device", "kernels"),
    [
        pytest.param(case, device, kernel, id=f"{name}-{device}-{kernel}", marks=MARKS.get(device, ()))
        for case, name in zip(CASES, IDS, strict=True)
        for device, kernels in KERNELS.items()
        for kernel in kernels[: 2 if case.name in WITH_KERNELS else 1]
    ],
    indirect=["device", "kernels"],
)


def test_every_operation_has_a_case():
    built_in = {name for name, op in OPERATIONS.items() if op.__module__.startswith("minires.")}
    only_float32_on_a_gpu = {"linear_cross_entropy"}  # see tests/gpu/test_classifier.py
    assert {case.name for case in CASES} == built_in - only_float32_on_a_gpu


@each_case_and_kernel
def test_the_backward_is_the_derivative(case, kernels, rng):
    inputs = {f"input{i}": a for i, a in enumerate(case.arrays(rng))}

    def fn(**tensors):
        return case.call(tensors.values())

    report = gradcheck(fn, inputs, rtol=1e-6, name=case.name).assert_ok()
    assert not any(r.kinks for r in report.inputs.values())  # no entry was excused


def context(function, wanted):
    """What `apply` gives to a forward."""
    ctx = Node()
    ctx.function, ctx.needs_input_grad, ctx.saved_arrays = function, wanted, ()
    return ctx


def direct(case, arrays, wanted=None):
    """The Function itself, without the walk around it: (output, function from the upstream gradient to a tuple)."""
    function = OPERATIONS[case.name]
    ctx = context(function, tuple(a is not None for a in arrays) if wanted is None else wanted)
    y = Tensor(function.forward(ctx, *arrays, **case.fresh_options(arrays))).data

    def backward(dy):
        grads = function.backward(ctx, Tensor(dy).data)
        return grads if isinstance(grads, tuple) else (grads,)

    return y, backward


@each_case_and_kernel
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_and_shape_and_no_side_effects(case, dtype, kernels, rng):
    arrays = [a if a is None else a.astype(dtype, copy=False) for a in case.arrays(rng)]
    given = [a for a in arrays if a is not None]
    before = [a.copy() for a in given]
    y, backward = direct(case, arrays)
    assert y.dtype == (dtype if case.name != "astype" else "float64")
    dy = here(np.asarray(rng.standard_normal(y.shape), y.dtype))
    if isinstance(dy, np.ndarray):
        for a in (*given, dy):
            a.flags.writeable = False  # a forward or backward that writes into its inputs raises
    grads = [g for a, g in zip(arrays, backward(dy), strict=True) if a is not None]
    assert [g.shape for g in grads] == [a.shape for a in given]
    if case.name != "astype":  # there the walk turns dy back into the dtype of x
        # NumPy 1 computes 0-d arrays in float64; the walk mends that as well
        assert all(g.dtype == dtype for g, a in zip(grads, given, strict=True) if y.ndim and a.ndim)
    leaves = [Tensor(a, requires_grad=True) if a is not None else None for a in arrays]
    case.call(leaves).backward(dy)
    for t in leaves:
        if t is not None:
            assert (type(t.grad), t.grad.shape, t.grad.dtype) == (type(t.data), t.shape, dtype)
    np.testing.assert_equal(given, before)


@each_case_and_kernel
def test_backward_is_linear_in_the_upstream_gradient(case, kernels, rng):
    y, backward = direct(case, case.arrays(rng))
    a, b = rng.standard_normal((2, *y.shape))
    for g, g_a, g_b in zip(backward(2 * a - 3 * b), backward(a), backward(b), strict=True):
        if g is not None:
            g, g_a, g_b = asnumpy(g), asnumpy(g_a), asnumpy(g_b)
            scale = np.abs(g_a).max(initial=0) + np.abs(g_b).max(initial=0)
            np.testing.assert_allclose(g, 2 * g_a - 3 * g_b, rtol=1e-12, atol=1e-12 * scale)


@each_case_and_kernel
def test_one_gradient_alone_is_the_same_as_among_all(case, kernels, rng):
    arrays = case.arrays(rng)
    y, backward = direct(case, arrays)
    dy = rng.standard_normal(y.shape)
    together = backward(dy)
    for i, a in enumerate(arrays):
        if a is not None:
            alone = direct(case, arrays, tuple(j == i for j in range(len(arrays))))[1](dy)
            np.testing.assert_array_equal(alone[i], together[i])


@each_case_and_kernel
def test_a_gradient_is_an_array_of_its_own(case, kernels, rng):
    leaves, results = [], []
    for _ in range(2):  # two results to add up: the sum gives both of them the same gradient
        tensors = [None if a is None else Tensor(a.copy(), requires_grad=True) for a in case.arrays(rng)]
        leaves += [t for t in tensors if t is not None]
        results.append(case.call(tensors))
    dy = here(np.asarray(rng.standard_normal(results[0].shape)))
    (results[0] + results[1]).backward(dy)
    arrays = [*(leaf.grad for leaf in leaves), dy, *(leaf.data for leaf in leaves)]
    for i in range(len(leaves)):
        others = arrays[:i] + arrays[i + 1 :]
        before = [asnumpy(a).copy() for a in others]
        arrays[i][...] = np.nan
        np.testing.assert_equal(others, before)


def tried(call, arrays, wanted):
    """What is seen of a call with tensors, or plain arrays where ``wanted`` is None, and of going back through it."""
    inputs = [a if wants is None else Tensor(a, requires_grad=wants) for a, wants in zip(arrays, wanted, strict=True)]
    try:
        y = call(*inputs)
    except Exception as error:
        return type(error), str(error)
    if y.requires_grad:
        y.backward(np.arange(y.size, dtype=y.dtype).reshape(y.shape) + 1)
    grads = [getattr(x, "grad", None) for x in inputs]
    return type(y.data), y.data, y.dtype, y.is_leaf, grads, [getattr(g, "dtype", None) for g in grads]


@contextmanager
def the_whole_story():
    """As if another thread had set a switch: `apply` then asks for everything."""
    unusual.add(-1)
    yield
    unusual.discard(-1)


def same_story(call, arrays, wanted):
    usual = tried(call, arrays, wanted)
    with the_whole_story():
        np.testing.assert_equal(usual, tried(call, arrays, wanted))


ONE_OR_TWO = [c for c in CASES if len(c.inputs) == 1 or (len(c.inputs) == 2 and not c.options)]


@pytest.mark.host_only("with a GPU in use `apply` takes the long way")
@pytest.mark.parametrize("case", ONE_OR_TWO, ids=lambda case: case.name)
def test_what_is_written_out_for_one_and_for_two_is_the_whole_story(case, rng):
    given = case.arrays(rng)

    def call(*inputs):
        return OPERATIONS[case.name].apply(*inputs, **case.fresh_options(given))

    for arrays in (given, [a.astype("float32") for a in given], [np.asarray(a.flat[0]) for a in given]):
        for wanted in itertools.product((True, False, None), repeat=len(given)):
            same_story(call, arrays, wanted)
    same_story(call, [(4 * a).astype("int64") for a in given], [False] * len(given))


@pytest.mark.host_only("with a GPU in use `apply` takes the long way")
def test_what_a_forward_is_told_and_may_return():
    told = []

    class One(Function):
        @staticmethod
        def forward(ctx, x, *, y):
            told.append(ctx.needs_input_grad)
            return y

        @staticmethod
        def backward(ctx, dy):
            return (dy, None)[: len(ctx.needs_input_grad)]

    class Two(One):
        @staticmethod
        def forward(ctx, x, y):
            return One.forward(ctx, x, y=y)

    number = np.array(0.5, "float32")
    for y, wants in itertools.product((number, np.float32(0.1), np.float64(0.1), 0.1, "text", (1, 2)), (True, False)):
        same_story(lambda x, y=y: One.apply(x, y=y), [number], [wants])
        same_story(Two.apply, [number, y], [wants, None])
        same_story(Two.apply, [3, y], [None, None])
    assert told[::2] == told[1::2]
    assert set(told) == {(True,), (False,), (True, False), (False, False)}


KEPT = [  # which gradients are wanted, and which of the arrays that the operation can keep it then keeps
    ("multiply", (True, False), [1]),
    ("multiply", (False, True), [0]),
    ("divide", (True, False), [1]),
    ("power", (True, False), [0, 1]),
    ("matmul", (True, False), [1]),
    ("matmul", (False, True), [0]),
    ("linear", (True, False, True), [1]),
    ("conv2d", (True, False, True), [1]),
    ("conv2d", (False, True, True), [0]),
    ("conv_batch_norm", (True, False, True, True, True), [1, 2, 3, 4, 6]),
    ("conv_batch_norm", (False, True, True, True, True), [1, 2, 3, 4, 5]),
]


@pytest.mark.parametrize(("name", "wanted", "kept"), KEPT)
def test_what_no_wanted_gradient_needs_is_not_kept(name, wanted, kept, rng):
    case = next(c for c in CASES if c.name == name and None not in c.inputs)
    arrays = case.arrays(rng)
    ctx = context(OPERATIONS[name], wanted)
    OPERATIONS[name].forward(ctx, *arrays, **case.fresh_options(arrays))
    assert [i for i, a in enumerate(ctx.saved) if a is not None] == kept


LAYOUTS = {
    "fortran": lambda a: a.T.copy().T,
    "strided": lambda a: np.repeat(a, 3, -1)[..., 1::3],
    "reversed": lambda a: np.flip(a).copy()[(slice(None, None, -1),) * a.ndim],
    "channels first": lambda a: np.moveaxis(np.moveaxis(a, -1, 0).copy(), 0, -1),
}


@each_case_and_kernel
def test_memory_layout_makes_no_difference(case, kernels, rng):
    arrays = case.arrays(rng)
    y, backward = direct(case, arrays)
    dy = here(np.asarray(rng.standard_normal(y.shape)))
    expected = [y, *backward(dy)]
    for layout in LAYOUTS.values():
        laid_out = [layout(a) if a is not None and a.ndim else a for a in [*arrays, dy]]
        y, backward = direct(case, laid_out[:-1])
        for result, plain in zip([y, *backward(laid_out[-1])], expected, strict=True):
            if plain is not None:
                np.testing.assert_allclose(result, plain, rtol=1e-12, atol=1e-12)


# -- shapes that nobody thought of ------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    name=st.sampled_from(["add", "subtract", "multiply", "divide", "maximum", "minimum", "power"]),
    shapes=some.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4, min_side=0),
    c=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
)
def test_linearity_over_all_ways_to_broadcast(name, shapes, c):
    rng = np.random.default_rng(8)
    a, b = (rng.uniform(0.5, 2, shape) for shape in shapes.input_shapes)
    y, backward = direct(Case(name, (), {}), [here(np.asarray(a)), here(np.asarray(b))])
    assert y.shape == shapes.result_shape
    u, v = rng.standard_normal((2, *y.shape))
    for x, g, g_u, g_v in zip((a, b), backward(c[0] * u + c[1] * v), backward(u), backward(v), strict=True):
        assert g.shape == x.shape
        np.testing.assert_allclose(g, c[0] * g_u + c[1] * g_v, rtol=1e-12, atol=1e-12 * max(1, y.size))
