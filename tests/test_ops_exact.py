"""Operations at the points that no difference can judge: kinks, ties, overflow and nothing at all; and their values."""

import array
import operator as operators

import hypothesis.extra.numpy as some
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minires import Tensor, tensor
from minires import functional as F
from minires.kernels import KERNELS
from minires.tensor.operators import OPERATIONS
from tests.devices import here

FORWARD = {  # each beside the NumPy expression that defines it
    "subtract": (lambda x: x[0] - x[1], lambda a: a[0] - a[1]),
    "divide": (lambda x: 2 / x, lambda a: 2 / a),
    "power": (lambda x: abs(x) ** 1.7, lambda a: np.abs(a) ** 1.7),
    "matmul": (lambda x: x @ x.transpose(0, 2, 1), lambda a: np.einsum("nij,nkj->nik", a, a)),
    "maximum": (lambda x: F.maximum(x, 0.2), lambda a: np.maximum(a, 0.2)),
    "minimum": (lambda x: F.minimum(x, 0.2), lambda a: np.minimum(a, 0.2)),
    "where": (lambda x: F.where(x > 0, x, -2 * x), lambda a: np.where(a > 0, a, -2 * a)),
    "clip": (lambda x: x.clip(-0.5, 0.2), lambda a: np.clip(a, -0.5, 0.2)),
    "sigmoid": (Tensor.sigmoid, lambda a: 1 / (1 + np.exp(-a))),
    "softmax": (lambda x: x.softmax(1), lambda a: np.exp(a) / np.exp(a).sum(1, keepdims=True)),
    "log_softmax": (Tensor.log_softmax, lambda a: np.log(np.exp(a) / np.exp(a).sum(-1, keepdims=True))),
    "var": (lambda x: x.var((0, 2)), lambda a: a.var((0, 2))),
    "var, ddof 1": (lambda x: x.var(1, True, ddof=1), lambda a: a.var(1, keepdims=True, ddof=1)),
    "mean": (lambda x: x.mean((0, -1)), lambda a: a.mean((0, 2))),
    "max, ten axes": (lambda x: x.reshape(2, 1, 1, 1, 1, 1, 1, 1, 3, 5).max((8, 1), True),
                      lambda a: a.max(1).reshape(2, 1, 1, 1, 1, 1, 1, 1, 1, 5)),
    "transpose": (Tensor.transpose, lambda a: a.T),
    "transpose, axes": (lambda x: x.transpose(-1, 0, 1), lambda a: np.moveaxis(a, 2, 0)),
    "flatten": (lambda x: F.flatten(x), lambda a: a.reshape(2, -1)),
    "pad": (lambda x: F.pad(x, ((1, 0), (0, 2), (0, 0)), 3.0),
            lambda a: np.pad(a, ((1, 0), (0, 2), (0, 0)), constant_values=3)),
    "stack": (lambda x: F.stack([x, 2 * x], 1), lambda a: np.stack([a, 2 * a], 1)),
    "layer_norm": (lambda x: F.layer_norm(x, np.full(5, 2.0), np.ones(5)),
                   lambda a: 2 * (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5) + 1),
    "linear": (lambda x: F.linear(x, np.ones((5, 2)), np.arange(2.0)), lambda a: a @ np.ones((5, 2)) + np.arange(2)),
    "mse_loss": (lambda x: F.mse_loss(x, np.ones((2, 3, 5))), lambda a: ((a - 1) ** 2).mean()),
    "pad2d": (lambda x: F.pad2d(x[None], (1, 2), -1.0),
              lambda a: np.pad(a[None], ((0, 0), (1, 1), (2, 2), (0, 0)), constant_values=-1)),
    "global_avg_pool2d": (lambda x: F.global_avg_pool2d(x[None]), lambda a: a[None].mean((1, 2))),
    "subsample_pad": (lambda x: F.subsample_pad(x[None], (1, 2), 6),
                      lambda a: np.pad(a[None, :, ::2], ((0, 0), (0, 0), (0, 0), (0, 1)))),
    "one_hot": (lambda x: F.one_hot([[0, 2], [1, 1]], 3, "float64"), lambda a: np.eye(3)[[[0, 2], [1, 1]]]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARD)
def test_the_forward_is_what_numpy_says(name, rng):
    a = rng.standard_normal((2, 3, 5))
    compute, define = FORWARD[name]
    y = compute(tensor(a, requires_grad=True))
    assert y.dtype == np.float64
    np.testing.assert_allclose(y.numpy(), define(a), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    ("compute", "x", "grad"),
    [
        (Tensor.relu, [-1, 0, -0.0, 2], [0, 0, 0, 1]),
        (abs, [-1, 0, -0.0, 2], [-1, 0, 0, 1]),
        (lambda x: x.clip(-1, 2), [-2, -1, 0, 2, 3], [0, 1, 1, 1, 0]),
        (lambda x: F.maximum(x, 0.0), [-1, 0, 1], [0, 1, 1]),
        (lambda x: F.maximum(0.0, x), [-1, 0, 1], [0, 0, 1]),
        (lambda x: F.minimum(x, 0.0), [-1, 0, 1], [1, 1, 0]),
        (lambda x: F.minimum(0.0, x), [-1, 0, 1], [1, 0, 0]),
        (lambda x: x**0, [0, 2], [0, 0]),
        (lambda x: x**1, [0, 2], [1, 1]),
        (lambda x: x**2, [0, -3], [0, -6]),
        (lambda x: x**3.0, [0, -2], [0, 12]),
        (lambda x: 0.0**x, [0.5, 2], [0, 0]),
        (lambda x: x**x, [1, 2], [1, 4 * (np.log(2) + 1)]),
        (Tensor.max, [1, 3, 3, 2], [0, 1, 0, 0]),
        (Tensor.min, [2, 1, 1, 3], [0, 1, 0, 0]),
        (lambda x: x.max(0), [[3, 1], [3, 1]], [[1, 1], [0, 0]]),
        (lambda x: x.max((0, 1)), [[1, 3], [3, 3]], [[0, 1], [0, 0]]),
        (lambda x: F.max_pool2d(x.reshape(1, 2, 3, 1), 2, 1), [1, 1, 2, 1, 1, 2], [1, 0, 1, 0, 0, 0]),
        (lambda x: F.max_pool2d(x.reshape(1, 2, 2, 1), 2, padding=1), [-1, -2, -3, -np.inf], [1, 1, 1, 1]),
        (lambda x: x.max(), [-np.inf, -np.inf], [1, 0]),
        (lambda x: x.sigmoid(), [-1000, 1000], [0, 0]),
        # what was not chosen gets nothing, also of an infinite gradient
        (lambda x: x.clip(0, None).sqrt(), [-1, 4], [0, 0.25]),
        (lambda x: F.maximum(x, 0.0).sqrt(), [-1, 4], [0, 0.25]),
        (lambda x: F.maximum(0.0, x).sqrt(), [-1, 4], [0, 0.25]),
        (lambda x: (-F.minimum(-x, 0.0)).sqrt(), [-1, 4], [0, 0.25]),
        (lambda x: (-F.minimum(0.0, -x)).sqrt(), [-1, 4], [0, 0.25]),
        (lambda x: F.where(np.array([False, True]), x, 0.0).sqrt(), [-1, 4], [0, 0.25]),
        (lambda x: F.where(np.array([True, False]), 0.0, x).sqrt(), [-1, 4], [0, 0.25]),
        (lambda x: x.clip(-np.inf, np.inf), [-1, 4], [1, 1]),
        (lambda x: x.clip(-np.inf, 2), [-1, 4], [1, 0]),
        (lambda x: x.softmax(), [1000, -1000], [0, 0]),
        (lambda x: F.cross_entropy(x.reshape(1, 2), [1]), [1000, 0], [1, -1]),
    ],
)
def test_at_a_kink_the_documented_choice_is_made(compute, x, grad, kernels):
    x = tensor(np.array(x, float), requires_grad=True)
    with np.errstate(divide="ignore"):
        y = compute(x)
        y.backward(np.ones(y.shape))
    np.testing.assert_allclose(x.grad, np.array(grad, float), rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_gradient_is_selected_alike_in_small_arrays_and_in_large_ones(dtype, rng):
    x, y = (rng.standard_normal((50, 100)).astype(dtype) for _ in range(2))
    dy = np.where(rng.random(x.shape) < 0.2, np.inf, rng.standard_normal(x.shape)).astype(dtype)
    for i in (slice(None), slice(0, 1)):
        a, b = Tensor(x[i], requires_grad=True), Tensor(y[i, :1], requires_grad=True)
        F.maximum(a, b).backward(dy[i])
        chosen = x[i] >= y[i, :1]
        assert a.grad.dtype == dtype
        np.testing.assert_array_equal(a.grad, np.where(chosen, dy[i], 0))
        expected = np.where(chosen, 0, dy[i]).sum(1, keepdims=True, dtype=dtype)
        np.testing.assert_allclose(b.grad, expected, rtol=1e-2 if dtype == "float16" else 1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("operator", ["add", "sub", "mul", "truediv"])
def test_two_numbers_give_the_number_that_arrays_of_them_give(operator, dtype, kernels):
    compute = getattr(operators, operator)
    a, b = np.array(0.7, dtype), np.array(-0.3, dtype)
    y = compute(tensor(a, requires_grad=True), tensor(b))
    assert type(y.data) is type(here(a))
    assert (y.shape, y.dtype) == ((), a.dtype)
    assert y.numpy() == compute(a.reshape(1), b.reshape(1))[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["exp", "tanh", "__neg__"])
def test_a_function_of_a_number_is_that_of_an_array_of_one(name, dtype, kernels):
    for value in (0.7, -1.3, 0.0, np.inf, np.nan):
        number, array = (getattr(tensor(np.full(shape, value, dtype)), name)() for shape in ((), (1,)))
        assert (number.shape, number.dtype) == ((), np.dtype(dtype))
        np.testing.assert_array_equal(number.numpy(), array.numpy()[0])


def test_an_operation_takes_plain_numbers():
    assert [OPERATIONS[name].apply(-0.5).item() for name in ("negative", "abs")] == [0.5, 0.5]


@pytest.mark.parametrize("shape", [(), (2,)])
@pytest.mark.parametrize("operator", ["add", "sub", "mul", "truediv"])
def test_whole_numbers_beside_those_of_python(operator, shape, kernels):
    compute, x = getattr(operators, operator), np.full(shape, 3)
    assert compute(tensor(x), 2).numpy().tolist() == np.full(shape, compute(3, 2)).tolist()
    assert compute(2, tensor(x)).numpy().tolist() == np.full(shape, compute(2, 3), "f").tolist()


@pytest.mark.parametrize("operator", ["add", "sub", "mul"])
def test_a_whole_number_leaves_its_range_as_several_do(operator, kernels):
    compute, a, b = getattr(operators, operator), np.array(100, np.uint8), np.array(200, np.uint8)
    y = compute(tensor(a), tensor(b))  # without a warning, which would be an error here
    assert (y.dtype, y.item()) == (np.uint8, compute(100, 200) % 256)
    assert (-tensor(a)).item() == 156


@pytest.mark.parametrize(
    ("x", "y", "dy", "dx"),
    [(0.5, 0.5, 3, 3), (-0.5, 0, 3, 0), (0, 0, 3, 0), (np.nan, np.nan, 3, 0), (-1, 0, np.inf, np.nan)],
)
def test_the_relu_of_a_number(x, y, dy, dx, kernels):
    x = tensor(np.array(x, np.float32), requires_grad=True)
    result = x.relu()
    with np.errstate(invalid="ignore"):  # infinity times 0
        result.backward(np.array(dy, np.float32))
    assert (result.shape, result.dtype, x.grad.dtype) == ((), np.float32, np.float32)
    np.testing.assert_array_equal([result.item(), x.grad.item()], [y, dx])


def test_the_relu_of_a_number_is_a_number_of_its_own(kernels):
    x = tensor(2.0)
    y = x.relu()
    y += 1.0
    assert (x.item(), y.item()) == (2, 3)


@pytest.mark.parametrize(
    ("compute", "shapes", "result"),
    [
        (lambda x: x.sum(), [(0, 3)], ()),
        (lambda x: x.sum(0), [(0, 3)], (3,)),
        (lambda x: x.mean(1), [(0, 3)], (0,)),
        (lambda x: x.max(1), [(0, 3)], (0,)),
        (lambda x: x.min((1, 2), keepdims=True), [(0, 3, 2)], (0, 1, 1)),
        (lambda x: x.var(1), [(0, 3)], (0,)),
        (lambda x: x.reshape(3, 0), [(0, 5)], (3, 0)),
        (lambda x: x[:0], [(4, 3)], (0, 3)),
        (lambda x: x[here(np.array([], int))], [(4, 3)], (0, 3)),
        (lambda x: x.relu().exp() * 2 - 1, [(0, 3)], (0, 3)),
        (lambda x: x.softmax(), [(0, 3)], (0, 3)),
        (lambda a, b: a + b, [(0, 3), (1, 3)], (0, 3)),
        (lambda a, b: a * b, [(3,), (0, 3)], (0, 3)),
        (lambda a, b: a @ b, [(2, 0), (0, 5)], (2, 5)),
        (lambda a, b: a @ b, [(0, 3), (3, 5)], (0, 5)),
        (lambda a, b: F.concatenate([a, b]), [(0, 3), (2, 3)], (2, 3)),
        (F.linear, [(0, 3), (3, 5), (5,)], (0, 5)),
        (F.linear, [(2, 0), (0, 5), (5,)], (2, 5)),
        (F.linear, [(2, 3), (3, 0), (0,)], (2, 0)),
        (lambda x, w, b: F.conv2d(x, w, b, padding=1), [(0, 4, 5, 2), (3, 3, 2, 6), (6,)], (0, 4, 5, 6)),
        (lambda x: F.max_pool2d(x, 2), [(0, 4, 6, 2)], (0, 2, 3, 2)),
        (lambda x: F.avg_pool2d(x, 2), [(0, 4, 6, 2)], (0, 2, 3, 2)),
        (F.global_avg_pool2d, [(0, 4, 6, 2)], (0, 2)),
        (lambda x: F.subsample_pad(x, 2, 5), [(0, 4, 6, 2)], (0, 2, 3, 5)),
        (F.layer_norm, [(0, 5), (5,), (5,)], (0, 5)),
    ],
)
def test_nothing_in_gives_nothing_out_and_gradients_of_zero(compute, shapes, result, kernels):
    inputs = [Tensor(np.ones(shape, np.float32), requires_grad=True) for shape in shapes]
    y = compute(*inputs)
    assert (y.shape, y.dtype) == (result, np.float32)
    y.backward(np.ones(result))
    for x in inputs:
        assert (x.grad.shape, x.grad.dtype) == (x.shape, np.float32)
        assert y.size or not x.grad.any()


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32"), ("float16", "float32")])
def test_astype_returns_the_gradient_in_the_dtype_of_its_input(dtypes):
    x = tensor([1.0, 2.0], requires_grad=True, dtype=dtypes[0])
    y = x.astype(dtypes[1])
    y.backward(np.array([3.0, 4.0]))
    assert (y.dtype, x.grad.dtype, x.grad.tolist()) == (dtypes[1], dtypes[0], [3, 4])
    assert not x.astype("int64").requires_grad


@pytest.mark.parametrize("compute", [Tensor.softmax, Tensor.log_softmax, lambda x: x.clip(None, 0.5)])
def test_integers_become_float32_where_they_must(compute):
    assert compute(tensor([1, 2, 4])).dtype == np.float32


@pytest.mark.parametrize(
    "index", [([2, 1, 2, 2, 0, 2, 2, 1],), ([2, 2, 2, 0, 2, 2], [3, 3, 1, 0, 3, 3]), ([[0], [2]], [[1, 1, 1]])]
)
def test_an_element_that_is_named_often_receives_all_its_gradients(index, rng):
    index = tuple(map(np.array, index))
    x = tensor(rng.standard_normal((3, 4)), requires_grad=True)
    y = x[here(index)]
    dy, expected = rng.standard_normal(y.shape), np.zeros((3, 4))
    np.add.at(expected, index, dy)
    y.backward(dy)
    np.testing.assert_allclose(x.grad, expected, rtol=1e-13)


@pytest.mark.host_only("other libraries' arrays are on the CPU")
@pytest.mark.parametrize("index", [
    range(-1, 3), array.array("i", [2, 0, 2]), memoryview(np.array([1, 1, 0])), (range(2), array.array("q", [1, 1])),
])  # fmt: skip
def test_any_sequence_is_an_index(index):
    x = tensor(np.arange(9.0).reshape(3, 3), requires_grad=True)
    y = x[index]
    as_arrays = tuple(map(np.array, index)) if isinstance(index, tuple) else np.array(index)
    dy, expected = np.arange(1.0, 1 + y.size).reshape(y.shape), np.zeros((3, 3))
    np.add.at(expected, as_arrays, dy)
    if isinstance(index, array.array):
        index[0] = 1  # the caller's own
    y.backward(dy)
    np.testing.assert_array_equal(y.numpy(), x.numpy()[as_arrays])
    np.testing.assert_array_equal(x.grad, expected)


@pytest.mark.host_only("CuPy has no such arrays")
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4"])
def test_numbers_in_another_processors_order_of_bytes(dtype, rng):
    numbers = (10 * rng.standard_normal((2, 5, 5, 3))).astype(dtype)
    x = Tensor(numbers.astype(numbers.dtype.newbyteorder()))
    assert x.dtype == dtype
    assert x.dtype.isnative
    assert tensor([1, 2], dtype=numbers.dtype.newbyteorder()).dtype.isnative
    np.testing.assert_array_equal(x.numpy(), numbers)


@pytest.mark.parametrize("shapes", [((3, 2, 5), (5, 4)), ((2, 5), (5,))])
def test_a_product_with_a_matrix_or_a_vector_is_that_of_our_kernel(shapes, device, monkeypatch, rng):
    """On a GPU: CuPy's own cannot be recorded as a part of a CUDA graph."""
    kernel, calls = KERNELS["cuda-implicit"], []
    plain = kernel.matmul
    monkeypatch.setattr(kernel, "matmul", lambda *given: calls.append(given) or plain(*given))
    a, b = (tensor(rng.standard_normal(shape).astype(np.float32)) for shape in shapes)
    np.testing.assert_allclose((a @ b).numpy(), a.numpy() @ b.numpy(), rtol=1e-5, atol=1e-5)
    assert len(calls) == (device != "cpu")


def test_half_precision_goes_both_ways(rng):
    x, w, b = (
        tensor(rng.standard_normal(shape).astype("float16"), requires_grad=True) for shape in ((3, 5), (5, 2), (2,))
    )
    y = F.linear(x, w, b)
    y.backward(np.ones((3, 2)))
    assert {t.dtype for t in (y, x, w, b)} | {t.grad.dtype for t in (x, w, b)} == {np.dtype("float16")}
    np.testing.assert_array_equal(b.grad, [3, 3])


def test_dropout_keeps_what_is_drawn_at_p_itself():
    """Generators draw k / 2^24 with k < 2^24: exactly the part p of them lies below p."""

    class AtP:
        @staticmethod
        def random(shape, dtype):
            return np.full(shape, 0.75, dtype)

    assert F.dropout(tensor([1.0, 2.0]), 0.75, generator=AtP).numpy().tolist() == [4, 8]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data(), shape=some.array_shapes(min_dims=1, max_dims=4, max_side=5))
def test_reductions_and_indices_of_any_shape(data, shape):
    x = tensor(np.random.default_rng(9).standard_normal(shape), requires_grad=True)
    index = data.draw(some.basic_indices(shape, allow_newaxis=True))
    axis = data.draw(some.valid_tuple_axes(len(shape)))
    upstream = np.random.default_rng(10).standard_normal(x.numpy()[index].shape)
    x[index].backward(upstream)
    expected = np.zeros(shape)
    expected[index] += upstream
    np.testing.assert_array_equal(x.grad, expected)
    for name in ("sum", "mean", "max", "min"):
        y = getattr(x, name)(axis, keepdims=True)
        np.testing.assert_allclose(y.numpy(), getattr(np, name)(x.numpy(), axis, keepdims=True), rtol=1e-12, atol=1e-14)
        x.grad = None
        y.sum().backward()  # conservation: each result hands out exactly what it received
        share = 1 / (x.size / y.size) if name == "mean" else 1
        np.testing.assert_allclose(
            x.grad.sum(axis, keepdims=True), share * (x.size / y.size if name in ("sum", "mean") else 1)
        )
