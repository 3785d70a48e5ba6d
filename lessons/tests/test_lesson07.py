"""Lesson 07: the backward pass of batch norm, its running statistics, and evaluation.

Where a task needs the rest of a backward pass, minires lends it.
"""

import numpy as np
import pytest

from minires import Tensor
from minires import functional as F

pytestmark = pytest.mark.lesson07


def expect(right, otherwise):
    """Fail with this sentence and nothing else."""
    __tracebackhide__ = True
    if not right:
        raise AssertionError(otherwise)


def lent(dy, x, gamma, beta, eps=1e-5):
    """All gradients of a batch norm in training, computed by minires."""
    tensors = {"x": Tensor(x, True), "gamma": Tensor(gamma, True), "beta": Tensor(beta, True)}
    F.batch_norm(**tensors, eps=eps).backward(dy)
    return {name: tensor.grad for name, tensor in tensors.items()}


def draw(rng, *shape):
    """dy, x, gamma and beta for x of this shape; no channel has mean 0 or variance 1."""
    scale, shift, gamma, beta = rng.uniform(0.5, 2, (4, shape[-1]))
    return rng.standard_normal(shape), shift + scale * rng.standard_normal(shape), gamma, -beta


def close(mine, true):
    """Whether they agree to nine digits."""
    return np.shape(mine) == np.shape(true) and np.allclose(mine, true, rtol=1e-9, atol=1e-12)


def wrong_deviation(mine, expected, x, eps):
    """What is wrong with a standard deviation, if that is all: ``expected(eps)`` is the result with another eps."""
    m = x.size // x.shape[-1]
    for other, words in (
        (0.0, "eps is left out: std = sqrt(var + eps), in the backward pass as in the forward"),
        (
            eps + x.var() / (m - 1),
            "the variance is divided by m - 1: the batch is normalised with the biased one, by m",
        ),
        (2 * eps * x.std() + eps**2, "eps is added to the deviation: std = sqrt(var + eps)"),
        ((x.var() + eps) ** 2 - x.var(), "the variance stands in place of its root: std = sqrt(var + eps)"),
    ):
        if close(mine, expected(other)):
            return words
    return ""


# -- task 1 -----------------------------------------------------------------------------------------------------------


@pytest.mark.task1
def test_gamma_and_beta(mine, rng, sizes, gradcheck):
    n, c = sizes(N=6, C=5)
    _, x, gamma, beta = draw(rng, n, c)

    def backward(dy, x, gamma, beta):
        dgamma, dbeta = mine.parameter_gradients(dy, x)
        return {"x": lent(dy, x, gamma, beta)["x"], "gamma": dgamma, "beta": dbeta}

    gradcheck(mine.batch_norm, backward, {"x": x, "gamma": gamma, "beta": beta})


@pytest.mark.task1
def test_gamma_and_beta_of_pictures(mine, rng, sizes):
    n, h, w, c = sizes(N=3, H=2, W=4, C=5)
    dy, x, gamma, beta = draw(rng, n, h, w, c)
    given, true = mine.parameter_gradients(dy, x), lent(dy, x, gamma, beta)
    for name, gradient in zip(("gamma", "beta"), given, strict=True):
        expect(
            close(gradient, true[name]),
            f"x {x.shape}: the gradient of {name} should have shape ({c},) and be the sum over N, H and W, axes 0, 1 "
            f"and 2; yours has shape {np.shape(gradient)}"
            + (f" and is {np.mean(gradient / true[name]):.3g} times that." if np.shape(gradient) == (c,) else "."),
        )


@pytest.mark.task1
def test_eps_in_the_gradient_of_gamma(mine, rng, sizes):
    (n,) = sizes(N=6)
    dy, x, gamma, beta = draw(rng, n, 1)
    given = mine.parameter_gradients(dy, x, eps=0.3)[0]
    expect(
        close(given, lent(dy, x, gamma, beta, eps=0.3)["gamma"]),
        "with eps = 0.3 the gradient of gamma is wrong. "
        + wrong_deviation(given, lambda eps: lent(dy, x, gamma, beta, eps)["gamma"], x, 0.3),
    )


# -- task 2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.task2
def test_input(mine, rng, sizes, gradcheck):
    n, c = sizes(N=6, C=5)
    _, x, gamma, beta = draw(rng, n, c)

    def backward(dy, x, gamma, beta):
        return {**lent(dy, x, gamma, beta), "x": mine.input_gradient(dy, x, gamma)}

    gradcheck(mine.batch_norm, backward, {"x": x, "gamma": gamma, "beta": beta})


@pytest.mark.task2
def test_input_of_pictures(mine, rng, sizes):
    n, h, w, c = sizes(N=3, H=2, W=4, C=5)
    dy, x, gamma, beta = draw(rng, n, h, w, c)
    given, true = mine.input_gradient(dy, x, gamma), lent(dy, x, gamma, beta)["x"]
    as_rows = mine.input_gradient(dy.reshape(-1, c), x.reshape(-1, c), gamma).reshape(x.shape)
    expect(np.shape(given) == x.shape, f"dx must have the shape of x, {x.shape}; yours has {np.shape(given)}.")
    expect(
        close(given, true) or not close(as_rows, true),
        f"the same numbers give the right dx as rows ({n * h * w}, {c}) and a wrong one as pictures {x.shape}: in "
        f"pictures a channel has m = N*H*W = {n * h * w} values, not N = {n}; the means are over axes 0, 1 and 2.",
    )
    expect(close(given, true), "dx is wrong for pictures and for rows: see test_input first.")


@pytest.mark.task2
def test_eps_and_the_variance_in_dx(mine, rng, sizes):
    (n,) = sizes(N=6)
    dy, x, gamma, beta = draw(rng, n, 1)
    given = mine.input_gradient(dy, x, gamma, eps=0.3)
    expect(
        close(given, lent(dy, x, gamma, beta, eps=0.3)["x"]),
        "with eps = 0.3 dx is wrong. " + wrong_deviation(given, lambda eps: lent(dy, x, gamma, beta, eps)["x"], x, 0.3),
    )


@pytest.mark.task2
def test_what_the_line_leaves_is_orthogonal(mine, rng, sizes):
    n, c = sizes(N=6, C=5)
    dy, x, gamma, _ = draw(rng, n, c)
    dx = mine.input_gradient(dy, x, gamma, eps=0.0)
    along_one, along_x = np.abs(dx.sum(0)).max(), np.abs((dx * (x - x.mean(0))).sum(0)).max()
    expect(
        along_one < 1e-10,
        f"the sum of dx over a channel should be 0, as adding a constant to x changes nothing; it is {along_one:.2g}. "
        "Is the mean of dy subtracted?",
    )
    expect(
        along_x < 1e-10,
        f"with eps = 0 the sum of dx xhat should be 0, as stretching x changes nothing; it is {along_x:.2g}. "
        "Is the term xhat mean(dy xhat) there?",
    )


# -- task 3 -----------------------------------------------------------------------------------------------------------


@pytest.mark.task3
def test_running_statistics(mine, rng, sizes):
    n, h, w, c = sizes(N=2, H=3, W=1, C=5)
    _, x, mean, var = draw(rng, n, h, w, c)
    var, p = -var, 0.25
    kept = mean.copy(), var.copy(), x.copy()
    given = mine.update_running(mean, var, x, p)
    expect(
        all(np.array_equal(now, then) for now, then in zip((mean, var, x), kept, strict=True)),
        "update_running changed what it was given: return new arrays, (1 - momentum) * old + momentum * new, and leave "
        "the old ones alone.",
    )
    running = Tensor(mean.copy()), Tensor(var.copy())
    F.batch_norm(x, np.ones(c), np.zeros(c), *running, momentum=p)
    for name, mine_, true, old in zip(("mean", "variance"), given, (r.numpy() for r in running), kept, strict=False):
        expect(np.shape(mine_) == (c,), f"the running {name} should have shape ({c},); yours has {np.shape(mine_)}.")
        new = old + (true - old) / p
        biased = new * (1 - 1 / (n * h * w))
        told = f"the running {name} should go from {old[0]:.4f} to {true[0]:.4f}; yours goes to {mine_[0]:.4f}. "
        for weight, what, words in (
            (1 - p, new, "The weights are exchanged: PyTorch's momentum is the weight of the new batch."),
            (1, new, "The old value is lost: it keeps the weight 1 - momentum."),
            (p, biased, "The variance is the biased one: the running variance gets m / (m - 1) times as much."),
            (1 - p, biased, "The weights are exchanged, and the variance is the biased one."),
            (p, np.sqrt(np.abs(new)), "The standard deviation is averaged, not the variance."),
        ):
            if not close(mine_, true) and close(mine_, (1 - weight) * old + weight * what):
                told += words
                break
        expect(close(mine_, true), told)


@pytest.mark.task3
def test_running_statistics_of_the_same_batch_settle(mine, rng, sizes):
    n, c = sizes(N=7, C=3)
    _, x, mean, var = draw(rng, n, c)
    target = x.mean(0), x.var(0, ddof=1)
    state = mean, -var
    for _ in range(300):
        state = mine.update_running(*state, x)
    expect(
        close(state[0], target[0]) and close(state[1], target[1]),
        "after 300 updates with the same batch the running statistics should be those of that batch, the variance "
        f"divided by m - 1: {target[0][0]:.4f}, {target[1][0]:.4f}; yours are {state[0][0]:.4f}, {state[1][0]:.4f}.",
    )


# -- task 4 -----------------------------------------------------------------------------------------------------------


@pytest.mark.task4
def test_evaluation(mine, rng, sizes, gradcheck):
    n, c = sizes(N=6, C=5)
    _, x, gamma, beta = draw(rng, n, c)
    running = rng.standard_normal(c), rng.uniform(0.3, 3, c)
    gradcheck(
        lambda x, gamma, beta: mine.batch_norm_eval(x, gamma, beta, running),
        lambda dy, x, gamma, beta: mine.batch_norm_eval_backward(dy, x, gamma, beta, running),
        {"x": x, "gamma": gamma, "beta": beta},
    )


@pytest.mark.task4
def test_gamma_in_evaluation(mine, rng, sizes):
    n, c = sizes(N=6, C=5)
    dy, x, gamma, beta = draw(rng, n, c)
    mean, var = rng.standard_normal(c), rng.uniform(0.3, 3, c)
    given = mine.batch_norm_eval_backward(dy, x, gamma, beta, (mean, var))["gamma"]

    def dgamma(*running, eps=1e-5):
        return (dy * mine.batch_norm_eval(x, np.ones(c), np.zeros(c), running, eps)).sum(0)

    told = ""
    for other, words in (
        (dgamma(mean, 1, eps=0), "it is the sum of dy (x - mean): divide by the running standard deviation"),
        (dgamma(0, 1, eps=0), "it is the sum of dy x: x must be normalised first, with the running statistics"),
        (dgamma(mean, var**2, eps=0), "it is divided by the running variance, not by its root"),
        (dgamma(x.mean(0), x.var(0)), "x is normalised with the moments of the batch, not with the running ones"),
    ):
        told = words if np.shape(given) == (c,) and np.allclose(given, other, rtol=1e-3) else told
    expect(close(given, dgamma(mean, var)), f"the gradient of gamma is wrong in evaluation. {told}")


@pytest.mark.task4
def test_evaluation_of_pictures(mine, rng, sizes, gradcheck):
    n, h, w, c = sizes(N=2, H=3, W=1, C=4)
    dy, x, gamma, beta = draw(rng, n, h, w, c)
    running = rng.standard_normal(c), rng.uniform(0.3, 3, c)
    alone = mine.batch_norm_eval_backward(dy[:1], x[:1], gamma, beta, running)["x"]
    together = mine.batch_norm_eval_backward(dy, x, gamma, beta, running)["x"]
    expect(
        np.shape(together) == x.shape and close(together[:1], alone),
        "in evaluation dx of a picture must not depend on the others in the batch, and yours does: the means of the "
        "training formula have no place here, since the running statistics do not move with x.",
    )
    gradcheck(
        lambda x, gamma, beta: mine.batch_norm_eval(x, gamma, beta, running, 0.3),
        lambda dy, x, gamma, beta: mine.batch_norm_eval_backward(dy, x, gamma, beta, running, 0.3),
        {"x": x, "gamma": gamma, "beta": beta},
    )


# -- given ------------------------------------------------------------------------------------------------------------


def test_forward_passes_agree_with_minires(mine, rng, sizes):
    n, h, w, c = sizes(N=3, H=2, W=4, C=5)
    _, x, gamma, beta = draw(rng, n, h, w, c)
    running = rng.standard_normal(c), rng.uniform(0.3, 3, c)
    tensors = Tensor(running[0]), Tensor(running[1])
    assert close(mine.batch_norm(x, gamma, beta), F.batch_norm(x, gamma, beta).numpy())
    expected = F.batch_norm(x, gamma, beta, *tensors, training=False).numpy()
    assert close(mine.batch_norm_eval(x, gamma, beta, running), expected)
