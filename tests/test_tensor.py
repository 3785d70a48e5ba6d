"""What a Tensor is: its dtype, its memory, and its manners towards NumPy."""

import operator

import numpy as np
import pytest

from minires import Tensor, tensor
from minires import functional as F
from minires.errors import ArgumentError, GraphError, ShapeError
from tests.devices import here

# -- making one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, "float32"),
        ([1.0, 2.0], "float32"),
        ([[1, 2], [3, 4.5]], "float32"),
        (3, "int64"),
        ([1, 2], "int64"),
        ([True, False], "bool"),
        ([], "float32"),
        (np.float64(1.5), "float64"),
        (np.zeros(2), "float64"),
        (np.zeros(2, np.float16), "float16"),
        (np.zeros(2, np.uint8), "uint8"),
        (np.array(1.5), "float64"),
    ],
)
def test_python_numbers_get_the_default_dtype_and_arrays_keep_theirs(data, dtype):
    for make in (Tensor, tensor):
        assert make(data).dtype == dtype
        assert make(data).shape == np.shape(data)
        assert make(data, dtype="float64").dtype == np.float64


@pytest.mark.host_only("what NumPy and a tensor share")
def test_tensor_copies_and_the_class_shares():
    array = np.arange(3.0)
    shared, copied = Tensor(array), tensor(array)
    array[0] = 7
    assert shared.data is array
    assert copied.numpy().tolist() == [0, 1, 2]


@pytest.mark.parametrize("make", [Tensor, tensor])
@pytest.mark.parametrize("data", [[1, 2], [True], np.zeros(2, np.int8)])
def test_only_floating_point_can_require_a_gradient(make, data):
    with pytest.raises(TypeError, match=r"cannot require a gradient; only floating point can.*dtype='float32'"):
        make(data, requires_grad=True)


@pytest.mark.parametrize("data", [None, "text", [None], object()])
def test_a_tensor_holds_numbers(data):
    with pytest.raises(TypeError, match="a Tensor holds numbers, not"):
        Tensor(data)


def test_requires_grad_is_for_leaves():
    x = tensor([1.0], requires_grad=True)
    with pytest.raises(GraphError, match=r"was computed from others. Use .detach\(\)"):
        (x * 2).requires_grad_(False)
    assert not x.requires_grad_(False).requires_grad
    assert x.is_leaf
    assert (x * 2).is_leaf  # nothing was recorded


# -- dtypes do not drift ----------------------------------------------------------------------------------------------

BINARY = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
    "maximum": F.maximum,
    "minimum": F.minimum,
    "where": lambda a, b: F.where(np.array([True, False, True]), a, b),
}
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
NEIGHBOURS = {
    "int": 2,
    "bool": True,
    "float": 0.5,
    "float64 scalar": np.float64(0.5),
    "float32 scalar": np.float32(0.5),
    "int64 scalar": np.int64(2),
    "list": [0.5, 1.5, 2.5],
    "float64 array": np.array([0.5, 1.5, 2.5]),
    "0-d float64 array": np.array(0.5),
    "int array": np.array([1, 2, 3]),
    "int tensor": Tensor([1, 2, 3]),
    "0-d int tensor": Tensor(2),
    "bool tensor": Tensor([True, True, True]),
}


def moved(neighbour):
    """On the device of the test, except for numbers, which may stay where they are."""
    return here(neighbour) if isinstance(neighbour, Tensor) or np.ndim(neighbour) else neighbour


@pytest.mark.parametrize("neighbour", NEIGHBOURS.values(), ids=NEIGHBOURS)
@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_floating_tensor_keeps_its_dtype_beside_anything(dtype, name, neighbour):
    neighbour = moved(neighbour)
    for values in ([1.0, 2.0, 4.0], 4.0):
        if name == "where" and not np.shape(values) and not np.shape(neighbour):
            continue
        for swapped in (False, True):
            x = tensor(values, requires_grad=True, dtype=dtype)
            y = BINARY[name](neighbour, x) if swapped else BINARY[name](x, neighbour)
            assert isinstance(y, Tensor)
            assert y.dtype == dtype
            y.sum().backward()
            assert type(x.grad) is type(x.data)
            assert (x.grad.dtype, x.grad.shape) == (x.dtype, x.shape)


@pytest.mark.parametrize("neighbour", NEIGHBOURS.values(), ids=NEIGHBOURS)
@pytest.mark.parametrize("compare", COMPARISONS)
def test_comparisons_are_boolean_tensors_without_a_gradient(compare, neighbour):
    x = tensor([0.5, 2.0, 2.5], requires_grad=True)
    plain = neighbour.numpy() if isinstance(neighbour, Tensor) else np.asarray(neighbour)
    neighbour = moved(neighbour)
    for result, expected in ((compare(x, neighbour), compare(x.numpy(), plain)),
                             (compare(neighbour, x), compare(plain, x.numpy()))):  # fmt: skip
        assert isinstance(result, Tensor)
        assert not result.requires_grad
        assert result.dtype == np.bool_
        assert np.array_equal(result.numpy(), expected)


METHODS = {
    "T": lambda x: x.T, "abs": abs, "astype": lambda x: x.astype(x.dtype), "clip": lambda x: x.clip(0.5, 1.5),
    "exp": Tensor.exp, "flatten": Tensor.flatten, "log": Tensor.log, "max": Tensor.max,
    "log_softmax": lambda x: x.reshape(1, -1).log_softmax(), "mean": Tensor.mean, "min": Tensor.min,
    "sigmoid": Tensor.sigmoid, "reshape": lambda x: x.reshape(-1), "relu": Tensor.relu,
    "softmax": lambda x: x.reshape(1, -1).softmax(), "sqrt": Tensor.sqrt,
    "sum": Tensor.sum, "tanh": Tensor.tanh, "transpose": Tensor.transpose, "var": Tensor.var,
}  # fmt: skip
NO_OPERATIONS = {
    "argmax", "backward", "data", "detach", "device", "dtype", "grad", "is_leaf", "item", "like", "ndim", "numpy",
    "register_hook", "requires_grad", "requires_grad_", "retain_grad", "shape", "size", "to", "cpu", "cuda",
}  # fmt: skip
MORE = {
    "neg": operator.neg, "getitem": lambda x: x[...], "dropout": lambda x: F.dropout(x, 0.5),
    "matmul": lambda x: x.reshape(-1, 1) @ here(np.ones((1, 2))),
    "rmatmul": lambda x: here(np.ones((2, 1))) @ x.reshape(1, -1),
    "pad": lambda x: F.pad(x.reshape(-1), 1, 0.5), "broadcast_to": lambda x: F.broadcast_to(x, (2, *x.shape)),
    "stack": lambda x: F.stack([x, np.zeros(x.shape), np.ones(x.shape, int)]),
    "concatenate": lambda x: F.concatenate([x.reshape(-1), np.zeros(2), [0.5], Tensor([1, 2])]),
    "mse_loss": lambda x: F.mse_loss(x, np.zeros(x.shape)),
}  # fmt: skip


@pytest.mark.parametrize("name", [*METHODS, *MORE])
@pytest.mark.parametrize("shape", [(3,), ()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_methods_keep_the_dtype(name, shape, dtype):
    x = Tensor(np.full(shape, 0.7), requires_grad=True, dtype=dtype)
    y = (METHODS | MORE)[name](x)
    assert (type(y.data), y.dtype) == (type(x.data), dtype)
    (y * np.float64(2)).sum().backward()
    assert (type(x.grad), x.grad.dtype, x.grad.shape) == (type(x.data), dtype, shape)


def test_every_method_is_in_the_table_above():
    assert {name for name in dir(Tensor) if not name.startswith("_")} == set(METHODS) | NO_OPERATIONS


def test_integers_become_float32_where_the_result_is_floating():
    i = tensor([1, 2, 4])
    with_numbers = [i + 0.5, 0.5 - i, i * np.float64(2), i**0.5, i / 2, 1 / i, F.maximum(i, 0.5)]
    with_arrays = [i / i, i * [0.5, 1.5, 2.5], i * here(np.ones(3, np.float32))]
    for floating in (*with_numbers, *with_arrays, i.mean(), i.var(), i.exp(), i.log(), i.sqrt(), i.tanh(), i.sigmoid()):
        assert floating.dtype == np.float32
    for integer in (i + 1, i * i, i - np.int64(2), i + here(np.arange(3)), -i, abs(i), i.sum(), i.max(), i @ [1, 2, 3]):
        assert integer.dtype == np.int64
    assert (tensor([1.0]) + tensor([1.0], dtype="float64")).dtype == np.float64  # of two tensors the wider wins


@pytest.mark.parametrize("other", [None, "a", 1j, [None, 1]])
def test_what_is_no_number_cannot_be_combined(other):
    for x in (tensor([1.0, 2.0]), tensor([1, 2])):
        with pytest.raises(TypeError, match="a Tensor cannot be combined with"):
            x + other


# -- NumPy beside it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow])
@pytest.mark.parametrize("neighbour", [2, 2.5, np.float64(2.5), [2.0, 3.0, 4.0], np.array([[2.0], [3.0]]), Tensor(2.5)])
def test_operators_compute_what_numpy_does_on_either_side(op, neighbour):
    x = tensor([1.0, 2.0, 3.0], dtype="float64")
    plain = neighbour.numpy() if isinstance(neighbour, Tensor) else np.asarray(neighbour)
    neighbour = moved(neighbour)
    np.testing.assert_allclose(op(x, neighbour).numpy(), op(x.numpy(), plain), rtol=1e-15)
    np.testing.assert_allclose(op(neighbour, x).numpy(), op(plain, x.numpy()), rtol=1e-15)


def test_the_matrix_product_takes_lists_on_either_side():
    x = tensor([[1.0, 2.0], [3.0, 4.0]])
    assert ([1.0, 10.0] @ x).numpy().tolist() == [31, 42]
    assert (x @ [1.0, 10.0]).numpy().tolist() == [21, 43]


@pytest.mark.parametrize(
    "op", [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.matmul]
)
def test_an_array_on_the_left_is_recorded_too(op, rng):
    a, b = rng.uniform(1, 2, (3, 3)), rng.uniform(1, 2, (3, 3))
    x = tensor(b, requires_grad=True)
    y = op(here(a), x)
    assert isinstance(y, Tensor)
    np.testing.assert_allclose(y.numpy(), op(a, b), rtol=1e-15)
    y.sum().backward()
    assert x.grad.shape == (3, 3)


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "tanh", "negative", "absolute"])
def test_a_ufunc_of_numpy_gives_a_recorded_tensor(name, rng):
    x = tensor(rng.uniform(1, 2, 3), requires_grad=True)
    y = getattr(np, name)(x)
    assert np.array_equal(y.numpy(), getattr(np, name)(x.numpy()))
    y.sum().backward()
    assert x.grad is not None


REDUCE = pytest.param(np.add.reduce, marks=pytest.mark.host_only("NumPy never lets go of what refuses to be reduced"))


@pytest.mark.parametrize(
    "call", [np.sin, REDUCE, lambda x: np.exp(x, out=np.zeros(2)), lambda x: np.add(x, x, where=True)]
)
def test_a_ufunc_that_would_lose_the_gradient_is_refused(call):
    with pytest.raises(TypeError, match=r"does not take a Tensor.*its gradient would be lost"):
        call(tensor([1.0, 2.0], requires_grad=True))


@pytest.mark.host_only("what NumPy and a tensor share")
def test_numpy_may_read_only_what_needs_no_gradient():
    x = tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match=r"NumPy would lose without a word. Write t.numpy\(\)"):
        np.asarray(x)
    assert x.numpy() is x.data
    assert np.asarray(x.detach()) is x.data
    assert x.detach().__array__(copy=False) is x.data
    with pytest.raises(ValueError, match="a tensor of float32 cannot be an array of float64 without a copy"):
        x.detach().__array__(np.float64, copy=False)
    assert np.array(x.detach(), dtype="float64").dtype == np.float64
    assert not np.shares_memory(np.array(x.detach()), x.data)


# -- one number, length, printing -------------------------------------------------------------------------------------


def test_one_number_and_many(device):
    assert (float(tensor([[2.5]])), int(tensor(3)), bool(tensor(0.0)), tensor(1.5).item()) == (2.5, 3, False, 1.5)
    assert [10, 20, 30][tensor(1)] == 20
    x = tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    for convert in (bool, float, int, Tensor.item):
        with pytest.raises(ShapeError, match=r"a tensor of shape \(2, 2\) has 4 elements and is not one number"):
            convert(x)
    assert len(x) == 2
    assert [row.numpy().tolist() for row in x] == [[1, 2], [3, 4]]
    assert all(row.requires_grad for row in x)
    with pytest.raises(TypeError, match="0-d tensor"):
        len(tensor(1.0))
    assert (x.ndim, x.size, x.device, x.argmax().item(), x.argmax(1).numpy().tolist()) == (2, 4, device, 3, [1, 1])


@pytest.mark.host_only("on a GPU it says so")
def test_repr_says_what_matters():
    x = tensor([1.0, 2.0], requires_grad=True)
    assert repr(x) == "Tensor([1., 2.], requires_grad=True)"
    assert repr(x + 1) == "Tensor([2., 3.], from=Add)"
    assert repr(tensor([1, 2])) == "Tensor([1, 2])"
    assert repr(tensor([1.0], dtype="float64")) == "Tensor([1.], dtype=float64)"
    assert len(repr(Tensor(np.zeros(100_000)))) < 200


def test_errors_of_an_index_and_of_an_axis():
    x = tensor(np.zeros((2, 3)))
    with pytest.raises(IndexError):
        x[2]
    with pytest.raises(ArgumentError, match="axis 2 does not exist in an array of 2 axes: use -2 to 1"):
        x.sum(2)
    with pytest.raises(ArgumentError, match="names the same axis twice"):
        x.mean((0, -2))
    with pytest.raises(ShapeError, match=r"transpose: \(0, 5\) is not an order of the 2 axes"):
        x.transpose(0, 5)
    with pytest.raises(ShapeError, match=r"reshape: 6 elements of shape \(2, 3\) do not fill the shape \(4, -1\)"):
        x.reshape(4, -1)


def test_requires_grad_is_checked_however_it_is_set():
    t = Tensor([1, 2])
    with pytest.raises(TypeError, match="int64 cannot require a gradient"):
        t.requires_grad = True
    assert not t.requires_grad


def test_integers_clipped_to_a_fraction_become_floating():
    np.testing.assert_array_equal(Tensor([0, 1, 2]).clip(0.5, 1.5).data, np.array([0.5, 1, 1.5], np.float32))
    assert Tensor([0, 1, 2]).clip(0, 1).dtype == np.int64


def test_booleans_combine():
    x = Tensor([-1.0, 0.5, 2.0])
    inside = (x > 0) & (x < 1)
    np.testing.assert_array_equal(inside.data, [False, True, False])
    np.testing.assert_array_equal((~inside).data, [True, False, True])
    np.testing.assert_array_equal(((x < 0) | (x > 1)).data, [True, False, True])
    np.testing.assert_array_equal((here(np.array([True, True, False])) ^ inside).data, [True, False, False])
    np.testing.assert_array_equal(x[inside].data, np.float32([0.5]))


@pytest.mark.parametrize("value", [1j, np.complex128(1j), np.array([1j])])
def test_complex_numbers_are_refused(value):
    with pytest.raises(TypeError):
        Tensor([1.0]) + here(value)
    with pytest.raises(TypeError, match="holds numbers, not complex"):
        Tensor(value)


def test_the_mean_of_many_float16_has_a_gradient():
    x = Tensor(np.ones(70_000, np.float16), requires_grad=True)
    x.mean().backward()
    np.testing.assert_array_equal(x.grad, np.full(70_000, 1 / 70_000, np.float16))
