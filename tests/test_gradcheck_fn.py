"""Plain NumPy under the checker: what is right passes, and each thing that can be wrong has its sentence."""

import numpy as np
import pytest

from minires import gradcheck_fn
from minires.errors import ArgumentError

pytestmark = pytest.mark.host_only("plain NumPy")


def forward(x, w, b):
    return np.maximum(x @ w + b, 0)


def backward(dy, x, w, b):
    dz = dy * (x @ w + b > 0)
    return {"x": dz @ w.T, "w": x.T @ dz, "b": dz.sum(0)}


@pytest.fixture
def inputs(rng):
    return {"x": rng.standard_normal((5, 3)), "w": rng.standard_normal((3, 4)), "b": rng.standard_normal(4)}


def changed(**others):
    """The backward pass with some of its gradients replaced, by functions of (dz, x, w, b)."""

    def wrong(dy, x, w, b):
        dz = dy * (x @ w + b > 0)
        return {**backward(dy, x, w, b), **{n: f(dz, x, w, b) for n, f in others.items()}}

    return wrong


def test_what_is_right_passes(inputs):
    for seed in range(5):
        report = gradcheck_fn(forward, backward, inputs, seed)
        report.assert_ok()
        assert report.name == "backward"
        assert list(report.inputs) == ["x", "w", "b"]


def test_labels_are_passed_on(rng):
    labels = np.array([1, 0, 2])

    def loss(logits, labels):
        z = logits - logits.max(1, keepdims=True)
        return (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]).mean()

    def loss_backward(dy, logits, labels):
        e = np.exp(logits - logits.max(1, keepdims=True))
        p = e / e.sum(1, keepdims=True)
        p[np.arange(len(p)), labels] -= 1
        return {"logits": dy * p / len(p)}

    gradcheck_fn(loss, loss_backward, {"logits": rng.standard_normal((3, 4)), "labels": labels}).assert_ok()


@pytest.mark.parametrize(("wrong", "name", "said"), [
    ({"x": lambda dz, x, w, b: dz @ w.T * 2}, "x", "hint: it is 2 times too large"),
    ({"w": lambda dz, x, w, b: dz.T @ x}, "w", "its gradient has shape (4, 3), but w has shape (3, 4)."),
    ({"w": lambda dz, x, w, b: dz.T @ x}, "w", "hint: it is transposed"),
    ({"b": lambda dz, x, w, b: dz}, "b", "its gradient has shape (5, 4), but b has shape (4,)."),
    ({"b": lambda dz, x, w, b: dz}, "b", "hint: sum it over axis 0"),
    ({"b": lambda dz, x, w, b: dz.mean(0)}, "b", "N = 5 times too small"),
    ({"b": lambda dz, x, w, b: None}, "b", "backward returned no gradient for this input"),
    ({"b": lambda dz, x, w, b: dz.sum(0) * np.nan}, "b", "yours +nan"),
    ({"b": lambda dz, x, w, b: ["a", "b", "c", "d"]}, "b", "not numbers"),
    ({"x": lambda dz, x, w, b: np.zeros(7)}, "x", "its gradient has shape (7,)"),
    ({"w": lambda dz, x, w, b: (x.T @ dz).astype(np.float32)}, "w", "its gradient is float32, but w and dy are"),
])  # fmt: skip
def test_what_is_wrong_is_named(wrong, name, said, inputs):
    report = gradcheck_fn(forward, changed(**wrong), inputs)
    assert not report.ok
    assert said in str(report), report
    assert [n for n, r in report.inputs.items() if not r.ok] == [name]


def test_a_gradient_that_was_left_out(inputs):
    report = gradcheck_fn(
        forward, lambda dy, **given: {n: g for n, g in backward(dy, **given).items() if n != "w"}, inputs
    )
    assert report["w"].verdict == "missing"
    assert report["x"].ok


def test_what_is_no_dict_of_the_inputs(inputs):
    with pytest.raises(ArgumentError, match=r"returned a tuple of 1; it must return a dict .*'x': dx, 'w': dw"):
        gradcheck_fn(forward, lambda dy, **given: (dy,), inputs)
    with pytest.raises(ArgumentError, match="a gradient for 'W', which is no input; the inputs are x, w, b"):
        gradcheck_fn(forward, lambda dy, **given: {"W": dy}, inputs)


def test_an_upstream_gradient_that_is_changed(inputs):
    def careless(dy, x, w, b):
        dy *= x @ w + b > 0
        return {"x": dy @ w.T, "w": x.T @ dy, "b": dy.sum(0)}

    report = gradcheck_fn(forward, careless, inputs)
    assert not report.ok
    assert "changed dy in place" in str(report)


def test_an_input_that_is_changed(inputs):
    def careless(x, w, b):
        x += 1
        return x @ w + b

    with pytest.raises(ArgumentError, match="changed its input x in place"):
        gradcheck_fn(careless, backward, inputs)


def test_the_callers_arrays_stay_as_they_are(inputs):
    before = {n: a.copy() for n, a in inputs.items()}
    gradcheck_fn(forward, backward, inputs)
    for n, a in inputs.items():
        np.testing.assert_array_equal(a, before[n])


def test_passes_that_return_what_they_were_given(rng):
    x = rng.standard_normal((2, 3))
    gradcheck_fn(lambda x: x, lambda dy, x: {"x": dy}, {"x": x}).assert_ok()
    assert not gradcheck_fn(lambda x: x, lambda dy, x: {"x": x}, {"x": x})


def test_single_precision_is_checked_in_double():
    x = {"x": np.array([0.5, 2], np.float32)}
    gradcheck_fn(lambda x: np.tanh(x), lambda dy, x: {"x": dy * (1 - np.tanh(x) ** 2)}, x).assert_ok()
