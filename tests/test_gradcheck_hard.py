"""Points and functions that are hard on a checker: exact zeros and ties, edges of the domain, large constants."""

import numpy as np
import pytest

from minires import Tensor, data, gradcheck, gradcheck_fn
from minires import functional as F
from minires.errors import ArgumentError
from minires.gradcheck.source import load

pytestmark = pytest.mark.host_only("plain NumPy")


@pytest.fixture(scope="module")
def digits():
    """Pictures with many zeros that are exactly zero."""
    return data.digits()[0].images[:8].astype(np.float64)


@pytest.mark.parametrize("seed", range(4))
def test_kinks_of_several_outputs_do_not_cancel(digits, rng, seed):
    """A pixel that is 0 in a picture with zeros around it moves many ReLUs at their corner."""
    w = rng.standard_normal((3, 3, 1, 4))
    report = gradcheck(lambda x: F.relu(F.conv2d(x, Tensor(w), None, 1, 1)), {"x": digits}, seed)
    assert report["x"].verdict == "inconclusive"
    assert len(report["x"].kinks) > 50
    assert report["x"].hints == []
    assert gradcheck(lambda x: F.max_pool2d(x, 2), {"x": digits}, seed)["x"].verdict in ("ok", "inconclusive")


def test_a_mistake_is_found_among_kinks(digits, rng):
    w = rng.standard_normal((3, 3, 1, 4))
    conv = lambda x: F.conv2d(x, Tensor(w), None, 1, 1)
    right = gradcheck(lambda x: F.relu(conv(x)), {"x": digits})["x"]
    wrong = gradcheck(lambda x: F.relu(conv(x)) + 0.1 * (conv(x) - conv(x).detach()), {"x": digits})["x"]
    assert right.verdict == "inconclusive"
    assert wrong.verdict == "FAIL"


def test_directions_that_all_meet_a_kink_are_no_proof(rng):
    x = rng.standard_normal((60, 50)) * (rng.random((60, 50)) > 0.3)
    backward = lambda dy, x: dy * (x > 0) * np.where(np.arange(50) == 27, 1.5, 1)
    report = gradcheck_fn(lambda x: np.maximum(x, 0), backward, {"x": x})
    assert report["x"].verdict in ("FAIL", "inconclusive")


@pytest.mark.parametrize("seed", range(3))
def test_an_imaginary_part_lost_beside_a_large_one(seed):
    """The absolute values of a lasso, whose derivative a complex step misses, weigh little beside its squares."""
    rng = np.random.default_rng(seed)
    a, t = rng.standard_normal((50, 6)) * [1, 1e3, 1e3, 1e3, 1e3, 1], rng.standard_normal(50)
    forward = lambda w: ((a @ w - t) ** 2).mean() + np.abs(w).sum()
    squares = lambda dy, w: dy * 2 * a.T @ (a @ w - t) / 50
    w = {"w": rng.standard_normal(6)}
    assert not gradcheck_fn(forward, squares, w)
    gradcheck_fn(forward, lambda dy, w: squares(dy, w) + dy * np.sign(w), w, rtol=1e-5).assert_ok()


def test_a_layer_that_keeps_what_it_computed(rng):
    class Layer:
        def forward(self, x):
            self.y = np.tanh(x)
            return self.y

        def backward(self, dy, x):
            return dy * (1 - self.y**2)

    layer = Layer()
    gradcheck_fn(layer.forward, layer.backward, {"x": rng.standard_normal((3, 4))}).assert_ok()


def test_near_the_end_of_the_domain():
    p = {"p": np.array([1e-6, 1e-3, 0.3, 0.5, 0.2, 0.7])}
    gradcheck_fn(lambda p: -np.log(p), lambda dy, p: -dy / p, p).assert_ok()
    gradcheck(lambda p: -F.log(p), p).assert_ok()
    gradcheck(lambda p: F.sqrt(p), p).assert_ok()
    assert not gradcheck_fn(lambda p: -np.log(p), lambda dy, p: -dy / (p + 1e-7), p)


def test_large_constants_beside_what_moves(rng):
    x, w = rng.standard_normal((6, 8)), rng.standard_normal((6, 8))
    mask = rng.random((6, 6)) < 0.3
    gradcheck_fn(
        lambda x, w: x @ w.T + np.where(mask, 0, -1e9), lambda dy, x, w: (dy @ w, dy.T @ x), {"x": x, "w": w}
    ).assert_ok()
    gradcheck_fn(lambda x: x + 1e7, lambda dy, x: dy, {"x": x}).assert_ok()
    square = x[:, :6]
    gradcheck_fn(lambda x: np.where(mask, x**2, -1e30), lambda dy, x: dy * 2 * x * mask, {"x": square}).assert_ok()


def test_a_loose_tolerance_is_loose_everywhere():
    gradcheck_fn(lambda x: x / 3, lambda dy, x: dy * 0.33333333, {"x": np.arange(5.0)}, rtol=1e-3).assert_ok()
    assert not gradcheck_fn(lambda x: x / 3, lambda dy, x: dy * 0.33333, {"x": np.arange(5.0)}, rtol=1e-6)


def test_what_cannot_be_checked_is_said(rng):
    x = rng.standard_normal((3, 4))
    with pytest.raises(ArgumentError, match="returned a gradient for 'x', which is not of floating point"):
        gradcheck_fn(lambda x, w: x * w, lambda dy, x, w: (dy * w, dy * x), {"x": np.arange(4), "w": rng.random(4)})
    with pytest.raises(ArgumentError, match="forward returned NoneType, not one array"):
        gradcheck_fn(lambda x: None, lambda dy, x: dy, {"x": x})
    with pytest.raises(ArgumentError, match="forward returned tuple, not one array"):
        gradcheck_fn(lambda x: (x, x), lambda dy, x: dy, {"x": x})
    assert gradcheck_fn(lambda x: x, lambda dy, x: dy, {"x": np.zeros((0, 3))})["x"].verdict == "vacuous"
    assert list(gradcheck_fn(lambda a: 2 * a, lambda dy, a: 2 * dy, {"a": np.float32(2)}).inputs) == ["a"]


def test_a_nan_in_an_entry_that_was_not_measured(rng):
    def backward(dy, x):
        dx = dy * np.cos(x)
        dx[7, 23] = np.nan
        return dx

    report = gradcheck_fn(lambda x: np.sin(x), backward, {"x": rng.standard_normal((60, 50))})
    assert report["x"].verdict == "FAIL"
    assert "1 of its entries are not finite, first x[7, 23]: yours nan" in str(report)


def test_the_mask_of_the_last_relu_forgotten(rng):
    inputs = {"x": rng.standard_normal((6, 8)), "w": rng.standard_normal((8, 5)), "b": rng.standard_normal(5)}
    report = gradcheck_fn(
        lambda x, w, b: np.maximum(x @ w + b, 0), lambda dy, x, w, b: (dy @ w.T, x.T @ dy, dy.sum(0)), inputs
    )
    assert all("the mask of the ReLU is missing" in r.hints[0] for r in report.inputs.values())


def test_a_file_does_not_stand_in_the_way_of_a_module(tmp_path):
    import random

    (tmp_path / "random.py").write_text("x = 1")
    assert load(tmp_path / "random.py").x == 1
    import random as again

    assert again is random
