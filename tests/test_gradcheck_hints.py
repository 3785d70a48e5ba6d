"""The checker says what the mistake is: the right thing, for every seed, and nothing where it does not know."""

import re

import numpy as np
import pytest

from minires import Tensor, gradcheck
from minires import functional as F

from .test_gradcheck import MISTAKES, OPERATIONS, SEEDS, function, point, residual, residual_backward

pytestmark = pytest.mark.host_only("its Functions are written with NumPy")

# what a hint must say, by operation and mistake; None where no formula is known, and only places may be told
EXPECTED = {
    ("multiply", "operands swapped"): "the gradients of a and b are exchanged",
    ("multiply", "upstream gradient dropped"): "not linear in dy",
    ("multiply", "upstream gradient averaged"): "the mean of dy",
    ("multiply", "a factor of two"): "2 times too large",
    ("multiply", "half of it"): "2 times too small",
    ("bias", "wrong axis on a square"): "summed over axis 1 instead of axis 0",
    ("bias", "mean for sum"): "N .*= 4 times too small",
    ("bias", "first row only"): "the first of dy along axis 0",
    ("bias", "zero"): "zero everywhere",
    ("subtract", "sign of the second"): "the sign is wrong",
    ("linear", "dx without the transpose"): r"dy @ w, and should be dy @ w\.T",
    ("linear", "dw transposed"): "transposed",
    ("linear", "dw averaged over the batch"): "N .*= 4 times too small",
    ("relu", "no mask"): "this is dy itself",
    ("relu", "mask from dy"): "a mask made from dy",
    ("relu", "guided backpropagation"): "a mask made from dy",
    ("relu", "times x"): "just where x is positive",
    ("relu", "leaky"): "just where x is negative",
    ("tanh", "y for y squared"): None,
    ("softmax", "diagonal only"): "must sum to zero along axis 1",
    ("softmax", "zero"): "zero everywhere",
    ("softmax", "sum over the batch"): "must sum to zero along axis 1",
    ("log softmax", "sum of dy forgotten"): "not linear in dy",
    ("cross entropy", "not divided by N"): "N = 3 times too large: a division by it is missing",
    ("cross entropy", "divided by N twice"): "N = 3 times too small: divided by it once too often",
    ("cross entropy", "sign"): "the sign is wrong",
    ("cross entropy", "one-hot forgotten"): "must sum to zero along axis 1",
    ("cross entropy", "upstream gradient dropped"): "not linear in dy",
    ("conv", "kernel flipped in dx"): None,
    ("conv", "channels swapped in dx"): None,
    ("conv", "dx shifted"): "shifted by 1 along axis 1",
    ("conv", "dx zero"): "zero everywhere",
    ("conv", "kernel flipped in dw"): "the kernel is turned around",
    ("conv", "dw from shifted x"): "shifted by 1 along axis 1",
    ("conv", "dw averaged"): "2 times too small",
    ("conv", "db averaged over pixels"): "OH OW .*= 6 times too small",
    ("max pool", "to every cell"): "dy arrives 9 times",
    ("max pool", "shared by all cells"): "at the wrong places",
    ("max pool", "to the first cell"): "at the wrong places",
    ("max pool", "rows and columns swapped"): "at the wrong places",
    ("max pool", "overlaps overwritten"): r"\+= instead of =",
    ("global average", "not divided"): "H W = 20 times too large",
    ("global average", "divided by H"): "W = 5 times too large",
    ("batch norm", "zero"): "zero everywhere",
    ("batch norm", "no mean term"): "the mean of dy is not subtracted",
    ("batch norm", "no variance term"): r"the term xhat mean\(dy xhat\) is missing",
    ("batch norm", "constants"): "the means of dy and of dy xhat",
    ("batch norm", "eps omitted"): None,
    ("batch norm", "biased and unbiased mixed"): None,
    ("batch norm", "means over N only"): None,
    ("batch norm", "variance for deviation"): "the variance in place of its root",
    ("batch norm", "gamma forgotten"): "the factor gamma is missing",
    ("batch norm", "dgamma and dbeta swapped"): "the gradients of gamma and beta are exchanged",
    ("batch norm", "dgamma zero"): "zero everywhere",
    ("batch norm", "dgamma from raw x"): "x must be normalised first",
    ("layer norm", "wrong axis"): "must sum to zero along axis 1",
    ("residual", "missing the +1"): r"the \+1 is missing: dL/dx = dL/dH \(dF/dx \+ 1\)",
    ("residual", "the skip twice"): "the skip is counted twice",
    ("residual", "branch dropped"): "or of the branch, is missing",
    ("subsample and pad", "channels from the end"): "at one place in 2 along axis 1",
    ("subsample and pad", "copied to the pixels left out"): None,
    ("concatenate", "halves swapped"): "the gradients of a and b are exchanged",
}


@pytest.mark.parametrize(("operation", "mistake", "backward"), MISTAKES, ids=[f"{o}: {m}" for o, m, _ in MISTAKES])
def test_the_hint_names_the_mistake(operation, mistake, backward):
    expected = EXPECTED[operation, mistake]
    for seed in SEEDS:
        report = gradcheck(function(OPERATIONS[operation][0], backward), point(operation, seed), seed)
        wrong = [r for r in report.inputs.values() if not r.ok]
        if expected is None:
            assert all(h.startswith("it is wrong only at") for r in wrong for h in r.hints), report  # a fact
            continue
        first = [r.hints[0] for r in wrong if r.hints]
        assert any(_matches(expected, hint) for hint in first), report


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


def test_an_unmasked_mean_of_a_sample_says_nothing_it_cannot_know(rng):
    """Formulas need all entries: of a sample only what needs none is said."""
    x = {"a": rng.standard_normal((9, 9)), "b": rng.standard_normal((9, 9))}
    half = gradcheck(function(np.multiply, lambda dy, a, b: (dy * b / 2, dy * a)), x, max_entries=10)
    assert half["a"].verdict == "FAIL"
    assert half["a"].hints == []
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


def test_right_gradients_get_no_hints(rng):
    x, w = rng.standard_normal((2, 5, 6, 3)), rng.standard_normal((3, 3, 3, 4))
    report = gradcheck(lambda x, w: F.relu(F.conv2d(x, w, padding=1)), {"x": x, "w": Tensor(w)})
    assert report.ok
    assert not any(r.hints for r in report.inputs.values())
