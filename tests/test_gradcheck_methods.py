"""How a derivative is measured, and what is checked before anything is: each method where it belongs, and no other."""

import json

import numpy as np
import pytest

from minires import functional as F
from minires import gradcheck, gradcheck_fn
from minires.errors import ArgumentError
from minires.gradcheck.measure import EVERY

from .test_gradcheck import function

pytestmark = pytest.mark.host_only("its Functions are written with NumPy")


def check(forward, backward, *arrays, **options):
    """gradcheck_fn of functions of x, or of x and w."""
    inputs = dict(zip("xw", arrays, strict=False))
    return gradcheck_fn(
        lambda **given: forward(*given.values()), lambda dy, **given: backward(dy, *given.values()), inputs, **options
    )


# -- which method -----------------------------------------------------------------------------------------------------


def test_an_affine_function_is_measured_to_the_last_bits(rng):
    x, w = rng.standard_normal((5, 3)), rng.standard_normal((3, 4))
    report = check(lambda x, w: x @ w + 3, lambda dy, x, w: (dy @ w.T, x.T @ dy), x, w)
    assert {r.method for r in report.inputs.values()} == {"affine"}
    assert max(r.error for r in report.inputs.values()) < 1e-13
    assert report["x"].adjoint < 1e-14


@pytest.mark.parametrize("forward", [np.tanh, np.abs, lambda x: x**3, lambda x: np.maximum(x, 0), np.floor])
@pytest.mark.parametrize("at", [np.zeros(3), np.array([1.5, 2.0, 4.0]), np.array([1e3, -1e3, 5.0])])
def test_what_is_curved_or_bent_is_not_affine(forward, at):
    report = check(forward, lambda dy, x: dy, np.concatenate([at] * 3))
    assert report["x"].method != "affine"


def test_a_complex_step_is_exact(rng):
    report = check(
        lambda x: np.exp(np.sin(x)), lambda dy, x: dy * np.exp(np.sin(x)) * np.cos(x), rng.standard_normal(12)
    )
    assert report["x"].method == "complex step"
    assert report["x"].error < 1e-13


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: np.abs(x) ** 3,  # real, in silence
        lambda x: x**2 + 2 * np.abs(x) * x,  # in part
        lambda x: (x - x.mean()) / x.std(),  # the deviation of complex numbers is real
        lambda x: np.asarray(x, np.float64) ** 2,  # with a warning
        lambda x: np.array([float(v) ** 2 for v in x]),  # with an error
    ],
)
def test_what_loses_imaginary_parts_is_measured_with_real_steps(forward, rng):
    x = rng.standard_normal(12)
    slope = np.array([(forward(x + h) - forward(x - h)) / 2e-6 for h in 1e-6 * np.eye(12)])
    report = check(forward, lambda dy, x: slope @ dy, x, rtol=1e-5)
    assert report["x"].method == "central"
    report.assert_ok()


def test_tensors_are_measured_with_real_steps(rng):
    x = {"x": rng.standard_normal((4, 5))}
    assert gradcheck(F.tanh, x)["x"].method == "central"
    assert gradcheck(lambda x: 3 * x, x)["x"].method == "affine"


def test_a_method_can_be_insisted_on(rng):
    x = rng.standard_normal(12)
    for method in ("central", "complex step"):
        report = check(lambda x: 2 * x, lambda dy, x: 2 * dy, x, method=method)
        assert report["x"].method == method
        report.assert_ok()
    with pytest.raises(ArgumentError, match="must be 'auto', 'central' or 'complex step', got 'forward'"):
        check(np.tanh, lambda dy, x: dy, x, method="forward")


def test_kinks_are_found_whatever_the_method(rng):
    x = rng.standard_normal(100)
    x[7] = 0
    report = check(lambda x: np.maximum(x, 0) * np.exp(x), lambda dy, x: dy * (x > 0) * (1 + x) * np.exp(x), x)
    assert report["x"].kinks == [(7,)]
    report.assert_ok()


# -- large inputs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def large(rng):
    return rng.standard_normal((5, 30, 31))


def test_a_large_input_is_moved_as_a_whole(large):
    assert large.size > EVERY
    report = check(np.sin, lambda dy, x: dy * np.cos(x), large)
    report.assert_ok()
    assert (report["x"].checked, report["x"].directions) == (64, 8)
    assert "64/4650 entries and 8 directions, complex step" in str(report)
    assert not np.isnan(report["x"].numeric[4, 29, 30])  # a corner, always


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ((3, 17, 11), "x[3, 17, 11]"),
        ((slice(None), slice(None), 7), "x[:, :, 7]"),
        ((slice(None), slice(4, 7)), "x[:, 3:7, :]"),
    ],
)
@pytest.mark.parametrize("method", ["central", "complex step"])
def test_what_is_wrong_in_a_large_input_is_located(large, where, said, method):
    def backward(dy, x):
        dx = dy * np.cos(x)
        dx[where] *= 1.01
        return dx

    report = check(np.sin, backward, large, method=method)
    assert report["x"].verdict == "FAIL"
    assert f"all that is wrong lies in {said}." in str(report)
    assert report["x"].error == pytest.approx(0.01, rel=0.05)  # a wrong entry is shown


def test_the_adjoint_test_sees_all_of_a_large_linear_operation(large):
    def backward(dy, x):
        dx = 2 * dy
        dx[2, 13, 5] += 1e-4
        return dx

    report = check(lambda x: 2 * x + 1, backward, large)
    assert report["x"].method == "affine"
    assert report["x"].adjoint > 1e-10
    assert report["x"].verdict == "FAIL"


def test_a_factor_shows_in_a_large_input_too(large):
    report = check(np.sin, lambda dy, x: dy * np.cos(x) / 5, large)
    assert report["x"].hints == ["it is N = 5 times too small: divided by it once too often, or averaged"]


# -- before anything is measured --------------------------------------------------------------------------------------


def test_a_gradient_that_is_kept_between_calls(rng):
    kept = {}

    def backward(dy, x):
        kept["dx"] = kept.get("dx", 0) + 2 * dy  # of the last call too
        return kept["dx"]

    report = check(lambda x: 2 * x, backward, rng.standard_normal(4))
    assert report["x"].verdict == "FAIL"


def test_a_second_backward_that_adds_something_else(rng):
    calls = []

    def backward(dy, x):
        calls.append(dy)
        return 2 * dy * (1 + (len(calls) > 4))  # right in every call but the last

    report = check(lambda x: 2 * x, backward, rng.standard_normal(4))
    assert report["x"].verdict == "FAIL"
    assert "a second backward pass does not add the same gradient once more" in str(report)


def test_an_upstream_gradient_changed_by_a_function(rng):
    def backward(dy, x):
        dy *= x > 0
        return dy

    report = gradcheck(function(lambda x: np.maximum(x, 0), backward), {"x": rng.standard_normal((4, 5))})
    assert not report.ok
    assert "backward changed dy in place" in str(report)


# -- what comes back --------------------------------------------------------------------------------------------------


def test_gradients_may_come_in_a_tuple_or_alone(rng):
    x, w, labels = rng.standard_normal((5, 3)), rng.standard_normal((3, 4)), np.arange(5)
    product = {"x": x, "labels": labels, "w": w}
    forward = lambda x, labels, w: x @ w
    gradcheck_fn(forward, lambda dy, x, labels, w: (dy @ w.T, x.T @ dy), product).assert_ok()
    gradcheck_fn(forward, lambda dy, x, labels, w: (dy @ w.T, None, x.T @ dy), product).assert_ok()
    gradcheck_fn(lambda x: np.tanh(x), lambda dy, x: dy * (1 - np.tanh(x) ** 2), {"x": x}).assert_ok()
    with pytest.raises(ArgumentError, match="returned ndarray; it must return a dict"):
        gradcheck_fn(forward, lambda dy, x, labels, w: dy @ w.T, product)


def test_the_report_as_json(rng):
    x = rng.standard_normal((3, 4))
    report = check(np.sin, lambda dy, x: dy * np.cos(x) * np.where(x == x[1, 2], np.inf, 2), x)
    data = json.loads(report.to_json())
    assert (data["ok"], data["inputs"]["x"]["verdict"], data["inputs"]["x"]["shape"]) == (False, "FAIL", [3, 4])
    worst = data["inputs"]["x"]["worst"]
    assert (worst[0]["index"], worst[0]["error"]) == ([1, 2], "inf")
    assert len(worst) == 5
    assert [w["error"] for w in worst[1:]] == pytest.approx([0.5] * 4)  # |2n - n| / |2n|
    assert report["x"].worst_entries(2)[1][1] == pytest.approx(2 * report["x"].worst_entries(2)[1][2])
