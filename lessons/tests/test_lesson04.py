"""Lesson 04: the cross-entropy of scores, its gradient, and a step of SGD."""

import numpy as np
import pytest

from minires import Tensor, optim
from minires import functional as F

pytestmark = pytest.mark.lesson04


def compare(yours, right, usual):
    """Fail unless both agree; where yours is what a usual mistake gives, say which."""
    __tracebackhide__ = True
    if np.allclose(yours, right, rtol=1e-9, atol=1e-12):
        return
    named = [what for what, wrong in usual.items() if np.allclose(yours, wrong, rtol=1e-9, atol=1e-12)]
    pytest.fail(f"expected {right}\nyours    {yours}\n{named[0] if named else 'none of the usual mistakes'}")


def batch(rng, n, k):
    return rng.standard_normal((n, k)), rng.integers(0, k, n)


@pytest.mark.task1
def test_loss(mine, sizes, rng):
    z, labels = batch(rng, *sizes(N=4, K=6))
    n, k = z.shape
    right = F.cross_entropy(Tensor(z), labels).item()
    over_batch = (np.log(np.exp(z).sum(0))[labels] - z[np.arange(n), labels]).mean()
    usual = {
        "this is the sum over the batch: the loss is its mean": right * n,
        "this is divided by N K: the mean is over the N examples, each of which has one loss": right / k,
        "the sign is wrong: the loss is -log p, so LSE(z) - z_y": -right,
        "the score of the label is not subtracted: LSE(z) - z_y": np.log(np.exp(z).sum(1)).mean(),
        "the sum in LSE runs over the batch: it must run over the classes, axis 1": over_batch,
    }
    compare(mine.cross_entropy(z, labels), right, usual)


@pytest.mark.task1
def test_loss_of_large_scores(mine):
    z = np.array([[1000.0, 0.0, -1000.0], [-1e4, -1e4, -1e4], [3.0, 1e5, 2.0]])
    with np.errstate(all="ignore"):
        yours = mine.cross_entropy(z, np.array([1, 2, 1]))
    right = (1000 + np.log(3) + 0) / 3
    assert np.isfinite(yours), (
        f"expected {right:.6g} for scores {z.tolist()}, yours {yours}: exp() overflowed, or a probability was rounded "
        "to 0 before its logarithm. Take the largest score out: LSE(z) = m + log(sum(exp(z - m)))"
    )
    np.testing.assert_allclose(yours, right, rtol=1e-12)


@pytest.mark.task1
def test_loss_leaves_the_scores_as_they_were(mine, sizes, rng):
    z, labels = batch(rng, *sizes(N=4, K=6))
    before = z.copy()
    mine.cross_entropy(z, labels)
    assert np.array_equal(z, before), "the scores were changed in place: write z = z - m, not z -= m"


@pytest.mark.task2
def test_gradient(mine, sizes, rng, gradcheck):
    z, labels = batch(rng, *sizes(N=5, K=7))

    def loss(z, labels):
        return F.cross_entropy(Tensor(z), labels).numpy()

    gradcheck(loss, mine.cross_entropy_backward, {"z": z, "labels": labels})


@pytest.mark.task2
def test_gradient_of_large_scores(mine):
    z, labels = np.array([[1000.0, 0.0, -1000.0], [-1e4, -1e4, 1e4]]), np.array([1, 2])
    with np.errstate(all="ignore"):
        yours = mine.cross_entropy_backward(-3.0, z, labels)["z"]
    right = -3 * np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]) / 2
    assert np.isfinite(yours).all(), (
        f"expected {right.tolist()} for scores {z.tolist()}, yours {np.asarray(yours).tolist()}: exp() overflowed, or "
        "1 / p met a p that was rounded to 0. p - Y needs no division: use the given softmax"
    )
    compare(yours, right, {"dy, which is -3 here, is ignored": right / -3, "not divided by N = 2": 2 * right})


def run(step, w, gradients, rates, momentum, weight_decay):
    """w after several steps, each with a learning rate of its own."""
    v = np.zeros_like(w)
    for g, lr in zip(gradients, rates, strict=True):
        w, v = step(w, g, v, lr, momentum, weight_decay)
    return w


def by_engine(w, gradients, rates, momentum, weight_decay):
    parameter = Tensor(w.copy(), requires_grad=True)
    sgd = optim.SGD([parameter], lr=0.0, momentum=momentum, weight_decay=weight_decay)
    for g, lr in zip(gradients, rates, strict=True):
        sgd.groups[0]["lr"], parameter.grad = lr, g.copy()
        sgd.step()
    return parameter.numpy()


# what else goes by the name of a step with momentum: (w, g, v, lr, m, decay) -> w, v
ELSE = {
    "the learning rate is in the velocity, Caffe's convention: here v = m v + g and the step is lr v": (
        lambda w, g, v, lr, m, d: (w - (u := m * v + lr * (g + d * w)), u)
    ),
    "the gradient is scaled by (1 - m), a running mean: here v = m v + g": (
        lambda w, g, v, lr, m, d: (w - lr * (u := m * v + (1 - m) * (g + d * w)), u)
    ),
    "the step goes uphill: w - lr v": lambda w, g, v, lr, m, d: (w + lr * (u := m * v + g + d * w), u),
    "the step is along the gradient: the velocity is never used": lambda w, g, v, lr, m, d: (w - lr * (g + d * w), v),
    "the velocity is returned as it came: the next step needs the new one": (
        lambda w, g, v, lr, m, d: (w - lr * (m * v + g + d * w), v)
    ),
    "the step is Nesterov's, along g + m v": (
        lambda w, g, v, lr, m, d: (w - lr * (g + d * w + m * (u := m * v + g + d * w)), u)
    ),
    "the old velocity is used for the step: form the new one first": (
        lambda w, g, v, lr, m, d: (w - lr * v, m * v + g + d * w)
    ),
    "the weight decay is missing: g + decay w": lambda w, g, v, lr, m, d: (w - lr * (u := m * v + g), u),
    "the weight decay has the wrong sign, and the weights grow: g + decay w": (
        lambda w, g, v, lr, m, d: (w - lr * (u := m * v + g - d * w), u)
    ),
    "the weight decay is twice too large: decay |w|^2 / 2 has the gradient decay w": (
        lambda w, g, v, lr, m, d: (w - lr * (u := m * v + g + 2 * d * w), u)
    ),
    "the weight decay by-passes the velocity: it belongs to the gradient, before v is formed": (
        lambda w, g, v, lr, m, d: (w - lr * (u := m * v + g) - lr * d * w, u)
    ),
}


@pytest.mark.task3
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("rates", [(0.1, 0.1, 0.1, 0.1), (0.3, 0.3, 0.03, 0.1)], ids=["constant", "changing"])
def test_steps(mine, sizes, rng, momentum, weight_decay, rates):
    (n,) = sizes(N=3)
    w, gradients = rng.standard_normal(n), rng.standard_normal((4, n))
    settings = w, gradients, rates, momentum, weight_decay
    usual = {what: run(step, *settings) for what, step in ELSE.items()}
    compare(run(mine.sgd_step, *settings), by_engine(*settings), usual)


@pytest.mark.task3
def test_a_step_leaves_its_arguments_as_they_were(mine, rng):
    arrays = w, g, v = rng.standard_normal((3, 5))
    before = arrays.copy()
    mine.sgd_step(w, g, v, 0.1, 0.9, 0.01)
    changed = [name for name, now, old in zip("wgv", arrays, before, strict=True) if not np.array_equal(now, old)]
    assert not changed, f"{changed[0]} was changed in place: write {changed[0]} = ..., which makes a new array"
