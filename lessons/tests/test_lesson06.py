"""Lesson 06: the gradient of ReLU, max pooling with a border and ties, average pooling."""

import numpy as np
import pytest

from minires import functional as F

pytestmark = pytest.mark.lesson06

WINDOWS = pytest.mark.parametrize(("size", "stride", "padding"), [(3, 2, 1), (3, 2, 0), (2, 2, 0), (3, 1, 1)])


def engine_max_pool(x, size, stride, padding):
    return F.max_pool2d(np.asarray(x, float), size, stride, padding).numpy()


def pictures(rng, sizes):
    return rng.standard_normal((2, *sizes(H=8, W=5, C=3)))


@pytest.mark.task1
def test_relu(mine, sizes, rng, gradcheck):
    gradcheck(mine.relu, mine.relu_backward, {"x": rng.standard_normal(sizes(M=5, N=6))})


@pytest.mark.task1
def test_relu_at_zero(mine):
    yours = mine.relu_backward(np.array([2.0, 3.0, 5.0, 7.0]), np.array([-1.0, -0.0, 0.0, 1.0]))["x"]
    assert np.array_equal(yours, [0, 0, 0, 7]), (
        f"x = -1, -0, 0, 1 and dy = 2, 3, 5, 7: expected 0, 0, 0, 7, yours {np.asarray(yours).tolist()}. At 0 the "
        "slope is taken as 0, so the mask is x > 0, not x >= 0"
    )


@pytest.mark.task2
@WINDOWS
def test_max_pool(mine, sizes, rng, size, stride, padding):
    x = pictures(rng, sizes)
    yours, right = mine.max_pool(x, size, stride, padding), engine_max_pool(x, size, stride, padding)
    assert np.shape(yours) == right.shape, f"expected shape {right.shape}, yours {np.shape(yours)}"
    usual = {
        "this is the smallest": -engine_max_pool(-x, size, stride, padding),
        "this is the mean": F.avg_pool2d(x, size, stride, padding).numpy(),
        "the border wins over negative pixels": np.maximum(right, 0),
    }
    named = [what for what, wrong in usual.items() if np.allclose(yours, wrong)]
    assert np.allclose(yours, right), (
        named[0] if named else (f"expected {right[0, 0].tolist()} in the first row, yours {yours[0, 0].tolist()}")
    )


@pytest.mark.task2
@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_the_border_never_wins(mine, sizes, rng, scale):
    x = -scale * (1 + rng.random((2, *sizes(H=8, W=5, C=3))))
    yours = mine.max_pool(x, 3, 2, 1)
    assert np.isfinite(yours).all(), "the -inf of the border has come through: take the largest of each window"
    strangers = yours[~np.isin(yours, x)]
    assert not strangers.size, (
        f"all pixels are negative, the largest {x.max():.4g}, but {strangers.size} windows give {strangers[0]:.4g}, "
        "which is nowhere in the picture: the border has won. Fill it with -np.inf, not with 0 or any other number"
    )


@pytest.mark.task3
@WINDOWS
def test_max_pool_gradient(mine, sizes, rng, gradcheck, monkeypatch, size, stride, padding):
    monkeypatch.setattr(mine, "max_pool", engine_max_pool)  # whatever became of task 2
    inputs = {"x": pictures(rng, sizes), "size": size, "stride": stride, "padding": padding}
    gradcheck(engine_max_pool, mine.max_pool_backward, inputs)


@pytest.mark.task3
@WINDOWS
def test_ties(mine, sizes, rng, monkeypatch, size, stride, padding):
    """Where pixels are equal no difference can judge: but all of each dy must arrive, once, at the largest."""
    monkeypatch.setattr(mine, "max_pool", engine_max_pool)
    x = rng.integers(-2, 1, (2, *sizes(H=8, W=5, C=3))).astype(float)
    y = engine_max_pool(x, size, stride, padding)
    for window in np.ndindex(y.shape[:3]):
        one = np.zeros(y.shape)
        one[window] = 1
        parts = mine.max_pool_backward(one.copy(), x, size, stride, padding)["x"]
        arrived, places = parts.sum((0, 1, 2)), (parts != 0).sum((0, 1, 2))
        assert not (np.allclose(arrived, places) and places.max() > 1), (
            f"a dy of 1 for each channel of window {window} arrives {arrived} times: where several pixels of a window "
            "are the largest only one of them wins (or they share), not each"
        )
        assert np.allclose(arrived, 1), f"a dy of 1 for each channel of window {window} arrives as {arrived}"
        assert parts.min() >= 0, f"a dy of 1 for each channel of window {window} arrives with a minus sign"
        for c in range(y.shape[3]):
            got = x[..., c][parts[..., c] > 0]
            assert (got == y[(*window, c)]).all(), f"the dy of window {window} went to a pixel that is not the largest"
    dy = rng.standard_normal(y.shape)
    sent, arrived = dy.sum((1, 2)), mine.max_pool_backward(dy.copy(), x, size, stride, padding)["x"].sum((1, 2))
    assert np.allclose(arrived, sent), (
        f"of each channel as much must arrive as was sent, {sent[0]}, but {arrived[0]} did: a pixel adds up, +="
    )


@pytest.mark.task4
@WINDOWS
def test_average_gradient(mine, sizes, rng, gradcheck, size, stride, padding):
    inputs = {"x": pictures(rng, sizes), "size": size, "stride": stride, "padding": padding}
    gradcheck(mine.avg_pool, mine.avg_pool_backward, inputs)


@pytest.mark.task4
@WINDOWS
def test_average_is_an_adjoint(mine, sizes, rng, size, stride, padding):
    x = pictures(rng, sizes)
    y = mine.avg_pool(x, size, stride, padding)
    dy = rng.standard_normal(y.shape)
    left, right = (y * dy).sum(), (x * mine.avg_pool_backward(dy.copy(), x, size, stride, padding)["x"]).sum()
    assert abs(left - right) <= 1e-12 * np.linalg.norm(y) * np.linalg.norm(dy), (
        f"<pool x, dy> = {left:.12f}, but <x, dx> = {right:.12f}: each pixel gets dy / size^2 from each window it is in"
    )
