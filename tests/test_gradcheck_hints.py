"""The checker says what the mistake is: the right thing, for every seed, and nothing where it does not know."""

import re

import numpy as np
import pytest

from minires import Tensor, gradcheck, gradcheck_fn
from minires import functional as F
from minires.cli import main
from minires.mutants import CATALOGUE, OPERATIONS, Mutant, self_test, selftest
from minires.mutants.operations import residual, residual_backward
from minires.mutants.selftest import check, names

from .test_gradcheck import SEEDS, function

pytestmark = pytest.mark.host_only("its Functions are written with NumPy")


@pytest.mark.parametrize("mutant", CATALOGUE, ids=[f"{m.operation}: {m.mistake}" for m in CATALOGUE])
def test_the_hint_names_the_mistake(mutant):
    for seed in SEEDS:
        report = check(mutant.operation, mutant.backward, seed)
        assert names(report, mutant), report


def test_the_self_test_counts():
    ticks = []
    result = self_test(seeds=1, checks=26, advance=lambda: ticks.append(1))
    assert result.ok
    assert (result.seeds, result.checks, len(ticks)) == (1, 26, len(CATALOGUE) + 26)
    assert len(result.named) == len(CATALOGUE)
    assert len(result.named) + len(result.unnamed) == len(CATALOGUE) >= 73
    assert str(result).splitlines() == [
        f"{len(CATALOGUE)} of {len(CATALOGUE)} wrong backward passes are caught on each of 1 seeds",
        f"{len(result.named)} of them get the right hint with each",
        "0 false alarms in 26 checks of right ones",
    ]


def test_the_self_test_tells_what_it_missed(monkeypatch):
    right = OPERATIONS["tanh"].backward
    monkeypatch.setattr(selftest, "CATALOGUE", [Mutant("tanh", "none at all", right, "anything")])
    wrong = OPERATIONS["relu"]._replace(backward=lambda dy, x: dy)
    monkeypatch.setattr(selftest, "OPERATIONS", {"tanh": OPERATIONS["tanh"], "relu": wrong})
    result = self_test(seeds=2, checks=3)
    assert not result.ok
    assert result.missed == {("tanh", "none at all"): [0, 1]}
    assert result.alarms == [("relu", 1)]
    assert "missed: tanh, none at all, with the seeds [0, 1]\nfalse alarm: relu with seed 1" in str(result)


@pytest.mark.parametrize("argument", ["--self-test"])
def test_the_command(argument, capsys, monkeypatch):
    monkeypatch.setattr(selftest, "CATALOGUE", CATALOGUE[:2])
    monkeypatch.setattr("minires.cli.check._CHECKS", 26)
    assert main(["gradcheck", argument]) == 0
    assert "2 of 2 wrong backward passes are caught on each of 20 seeds" in capsys.readouterr().out
    monkeypatch.setattr(selftest, "CATALOGUE", [Mutant("tanh", "none", OPERATIONS["tanh"].backward, None)])
    assert main(["gradcheck", argument]) == 1


def _matches(pattern, text):
    return re.search(pattern, text) is not None


def test_a_report_shows_its_hints(rng):
    def without_the_skip(dy, x, w):
        dx, dw = residual_backward(dy, x, w)
        return dx - dy, dw

    inputs = {"x": rng.standard_normal((3, 4)), "w": rng.standard_normal((4, 4))}
    report = gradcheck(function(residual, without_the_skip), inputs)
    assert "hint: the +1 is missing" in str(report)
    assert str(report).count("hint:") == 1  # the gradient of w is right


def test_the_relu_after_the_addition_masks_the_skip_too(rng):
    """relu(x + tanh(x)) with dy sent through the skip before it is masked."""

    def forward(x):
        return np.maximum(x + np.tanh(x), 0)

    def branch(dy, x):
        return dy * (x > 0) * (1 - np.tanh(x) ** 2)

    x = {"x": rng.standard_normal((3, 5))}
    assert gradcheck(function(forward, lambda dy, x: branch(dy, x) + dy * (x > 0)), x)
    for backward, hint in (
        (lambda dy, x: branch(dy, x) + dy, "masks the skip as well"),
        (branch, r"the \+1 is missing.*y > 0"),
        (lambda dy, x: branch(dy, x) + 2 * dy * (x > 0), "counted twice"),
    ):
        report = gradcheck(function(forward, backward), x)
        assert _matches(hint, report["x"].hints[0]), report


def test_of_a_sample_only_what_can_be_known_is_said(rng):
    """A factor shows in any entries; that two axes are exchanged needs all of them."""
    x = {"a": rng.standard_normal((9, 9)), "b": rng.standard_normal((9, 9))}
    half = gradcheck(function(np.multiply, lambda dy, a, b: (dy * b / 2, dy * a)), x, max_entries=10)
    assert half["a"].hints == ["it is 2 times too small"]
    transposed = function(np.multiply, lambda dy, a, b: ((dy * b).T, dy * a))
    assert gradcheck(transposed, x)["a"].hints == ["it is transposed"]
    assert gradcheck(transposed, x, max_entries=10)["a"].hints == []
    squared = gradcheck(function(np.multiply, lambda dy, a, b: (dy * dy * b, dy * a)), x, max_entries=10)
    assert "not linear" in squared["a"].hints[0]


def test_a_backward_that_is_right_for_one_upstream_gradient_only_fails(rng):
    """It remembers the first dy it saw: at that dy every difference agrees."""
    seen = []

    def backward(dy, a, b):
        seen.append(dy)
        return seen[0] * b, dy * a

    report = gradcheck(
        function(np.multiply, backward), {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal((3, 4))}
    )
    assert report["a"].verdict == "FAIL"
    assert "not linear in dy" in report["a"].hints[0]
    assert report["b"].ok


def test_kinks_do_not_hide_a_hint(rng):
    x = rng.standard_normal((20, 20))
    x[3, 4] = x[7, 7] = x[1, 1] = 0
    report = gradcheck_fn(lambda x: np.maximum(x, 0), lambda dy, x: dy * np.where(x > 0, 1, 0.01), {"x": x})
    assert len(report["x"].kinks) == 3
    assert report["x"].hints == ["it is wrong just where x is negative: a mask that is missing, or another slope?"]


def test_a_right_gradient_that_fails_for_another_reason_gets_no_hint(rng):
    report = gradcheck_fn(
        lambda x: np.maximum(x, 0), lambda dy, x: np.multiply(dy, x > 0, out=dy), {"x": rng.standard_normal((4, 5))}
    )
    assert report["x"].verdict == "FAIL"
    assert "changed dy in place" in report["x"].note
    assert report["x"].hints == []


def test_what_a_bias_is_summed_over_comes_first(rng):
    x, b = rng.standard_normal((4, 3, 5, 2)), rng.standard_normal(2)
    report = gradcheck_fn(lambda x, b: x + b, lambda dy, x, b: (dy, dy.mean((0, 1, 2))), {"x": x, "b": b})
    assert report["b"].hints[0].startswith("it is N OH OW = 60 times too small")


def test_right_gradients_get_no_hints(rng):
    x, w = rng.standard_normal((2, 5, 6, 3)), rng.standard_normal((3, 3, 3, 4))
    report = gradcheck(lambda x, w: F.relu(F.conv2d(x, w, padding=1)), {"x": x, "w": Tensor(w)})
    assert report.ok
    assert not any(r.hints for r in report.inputs.values())
