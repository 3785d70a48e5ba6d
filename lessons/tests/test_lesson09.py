"""Lesson 09: the gradient of a residual block, by hand."""

import numpy as np
import pytest

import minires
from minires import Tensor
from minires import functional as F

pytestmark = pytest.mark.lesson09


@pytest.fixture
def inputs(sizes, rng):
    """A batch and the two matrices of a branch."""
    n, c, d = sizes(N=4, C=5, D=7)
    shapes = {"x": (n, c), "w1": (c, d), "w2": (d, c)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def by_engine(inputs, dy, after):
    """The gradients as minires finds them."""
    t = {name: Tensor(value, requires_grad=True) for name, value in inputs.items()}
    h = F.relu(t["x"] @ t["w1"]) @ t["w2"] + t["x"]
    (F.relu(h) if after else h).backward(dy)
    return {name: tensor.grad for name, tensor in t.items()}


def test_the_forward_passes_are_those_of_the_lesson(mine, inputs):
    h = mine.residual(**inputs)
    np.testing.assert_allclose(h - mine.branch(**inputs), inputs["x"], rtol=1e-12)
    np.testing.assert_array_equal(mine.block(**inputs), np.maximum(h, 0))


@pytest.mark.task1
def test_the_gradients_without_the_last_relu(mine, inputs, gradcheck):
    gradcheck(mine.residual, mine.residual_backward, inputs)


@pytest.mark.task1
def test_they_are_those_of_the_engine(mine, inputs, rng):
    dy = rng.standard_normal(inputs["x"].shape)
    expected = by_engine(inputs, dy, after=False)
    for name, gradient in mine.residual_backward(dy.copy(), **inputs).items():
        apart = np.linalg.norm(gradient - expected[name]) / np.linalg.norm(expected[name])
        assert apart < 1e-12, f"the engine finds another gradient of {name}: they differ by {apart:.1e} of its size"


@pytest.mark.task2
def test_the_gradients_with_the_last_relu(mine, inputs, gradcheck):
    gradcheck(mine.block, mine.block_backward, inputs)


@pytest.mark.task2
def test_an_identity_passes_what_is_on(mine, inputs, rng):
    """With W2 = 0 the block is relu(x), and its gradient dy where x > 0."""
    dy = rng.standard_normal(inputs["x"].shape)
    dx = mine.block_backward(dy.copy(), inputs["x"], inputs["w1"], 0 * inputs["w2"])["x"]
    expected = dy * (inputs["x"] > 0)
    assert np.array_equal(dx, expected), (
        f"where the branch is zero the block is relu(x): expected {expected.ravel()[:4]}..., yours {dx.ravel()[:4]}... "
        "Is the skip masked by [H > 0] too?"
    )


@pytest.mark.task3
def test_the_jacobian(mine, inputs, rng):
    x, w1, w2 = inputs["x"][0], inputs["w1"], inputs["w2"]
    jacobian = np.asarray(mine.branch_jacobian(x, w1, w2))
    measured = np.array(
        [(mine.branch(x + h, w1, w2) - mine.branch(x - h, w1, w2)) / 2e-6 for h in 1e-6 * np.eye(len(x))]
    )
    assert jacobian.shape == measured.shape, f"J_F is {len(x)} by {len(x)}, yours has shape {jacobian.shape}"
    transposed = " Yours is its transpose." if np.allclose(jacobian, measured, atol=1e-6) else ""
    added = " Yours is J_F + I, of the block." if np.allclose(jacobian, measured.T + np.eye(len(x)), atol=1e-6) else ""
    assert np.allclose(jacobian, measured.T, atol=1e-6), (
        f"J_F[0] is {np.round(measured.T[0], 4)}, yours {np.round(jacobian[0], 4)}.{transposed}{added}"
    )


@pytest.mark.task3
def test_the_block_by_its_jacobian(mine, inputs, rng):
    """dL/dx = J_F^T g + g, example by example."""
    dy = rng.standard_normal(inputs["x"].shape)
    dx = by_engine(inputs, dy, after=False)["x"]
    for x, g, expected in zip(inputs["x"], dy, dx, strict=True):
        gradient = mine.branch_jacobian(x, inputs["w1"], inputs["w2"]).T @ g + g
        apart = np.linalg.norm(gradient - expected) / np.linalg.norm(expected)
        assert apart < 1e-12, f"J_F^T g + g is not dL/dx: they differ by {apart:.1e} of its size"


@pytest.mark.task4
def test_the_split(mine, inputs, rng):
    dy = rng.standard_normal(inputs["x"].shape)
    given = dy.copy()
    through_branch, through_skip = mine.split(given, **inputs)
    assert np.array_equal(given, dy), "split changed dy in place, which belongs to the layer above. Work on a copy."
    total = by_engine(inputs, dy, after=True)["x"]
    skip = dy * (np.maximum(inputs["x"] @ inputs["w1"], 0) @ inputs["w2"] + inputs["x"] > 0)
    swapped = np.allclose(through_branch, skip) and np.allclose(through_skip, total - skip)
    assert not swapped, "the two parts are exchanged: return (through the branch, through the skip)"
    whole_dy = " Yours is dy itself: the ReLU after the addition masks it." if np.allclose(through_skip, dy) else ""
    assert np.allclose(through_skip, skip, rtol=1e-10), f"through the skip comes dL/dH, dy where H > 0.{whole_dy}"
    missing = np.linalg.norm(total - through_branch - through_skip)
    assert missing < 1e-12 * np.linalg.norm(total), (
        f"the two parts must sum to dL/dx to 1e-12 of it; {missing / np.linalg.norm(total):.1e} is missing"
    )


@pytest.mark.task4
def test_a_branch_of_zero_sends_nothing(mine, inputs, rng):
    dy = rng.standard_normal(inputs["x"].shape)
    through_branch, _ = mine.split(dy, inputs["x"], inputs["w1"], 0 * inputs["w2"])
    assert not np.any(through_branch), "with W2 = 0 nothing comes back through the branch"


def test_minires_knows_the_same_split(inputs, rng):
    """The instrument of the lesson on this block."""

    class Block(minires.nn.Module):
        def __init__(self):
            self.w1, self.w2 = (minires.nn.Parameter(inputs[name]) for name in ("w1", "w2"))
            self.before = minires.nn.Parameter(np.eye(len(inputs["w1"])))

        def forward(self, x):
            x = x @ self.before
            return F.relu(F.relu(x @ self.w1) @ self.w2 + x)

    (entry,) = minires.inspect.gradient_flow(Block(), inputs["x"]).blocks
    assert entry.skip_share + entry.branch_share == pytest.approx(1, abs=1e-12)
