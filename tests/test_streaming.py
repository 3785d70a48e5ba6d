"""Gradients that the operation below sees while they are being written: the same numbers, and only where it may."""

import numpy as np
import pytest

import minires
from minires import detect_anomaly, nn, no_fusion, tensor
from minires import functional as F
from minires.kernels.numpy import norm_gradient

from .pieces import split
from .test_fusion import both, made, picture, same, upstream

pytestmark = pytest.mark.host_only("the kernels of a GPU write a gradient as a whole")


@pytest.fixture
def received(monkeypatch):
    """The receivers that saw the whole of a gradient, in order; whatever its size."""
    seen, finish = [], norm_gradient.NormReceiver.finish
    monkeypatch.setattr(norm_gradient.NormReceiver, "finish", lambda self, by: seen.append(self) or finish(self, by))
    with split(2):
        yield seen


# All batch norms but the last, which pooling follows: 7 in resnet8, and those of two projections, which nothing but an
# addition follows.  In the bottlenecks the stem is followed by pooling, too, and three blocks have 9.
@pytest.mark.parametrize(("name", "number"), [("plain8", 6), ("resnet8 A", 6), ("resnet8 B", 6), ("bottlenecks", 8)])
def test_networks_train_as_they_do_without(name, number, received, rng):
    network, x = made(name, rng), picture(rng)
    both(network, x, upstream(network, x, rng))
    assert len(received) == number


class Branches(nn.Module):
    """A batch norm with ReLU whose result several operations use."""

    def __init__(self, uses):
        super().__init__()
        self.first, self.norm = nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.second, self.third = (nn.Conv2d(5, 5, 3, padding=1) for _ in range(2))
        self.uses = uses

    @minires.fused
    def forward(self, x):
        h = F.relu(self.norm(self.first(x)))
        return self.uses(self, h)


USES = {
    "one convolution": (lambda m, h: m.second(h), True),
    "two convolutions": (lambda m, h: m.second(h) * m.third(h), True),
    "the same convolution twice": (lambda m, h: m.second(h) * m.second(h), True),
    "a convolution and a skip": (lambda m, h: m.second(h) + h, None),  # None: either may be the last
    "a convolution with itself for its residual": (lambda m, h: F.relu(m.second(h) + h), False),
    "three": (lambda m, h: m.third(m.second(h) + h) + h, None),
    "a product": (lambda m, h: h * h, False),
}


@pytest.mark.parametrize("uses", USES)
def test_whoever_speaks_last_hands_on(uses, received, rng):
    minires.manual_seed(1)
    model, x = Branches(USES[uses][0]).astype("float64"), picture(rng)
    both(model, x, upstream(model, x, rng))
    if USES[uses][1] is not None:
        assert len(received) == USES[uses][1]


def gradients(model, x, dy, **options):
    y = model(tensor(x))
    y.backward(dy, **options)
    return y, {name: p.grad.copy() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def branch(rng):
    """A model with one use, a picture and an upstream gradient."""
    minires.manual_seed(1)
    model, x = Branches(USES["one convolution"][0]).astype("float64"), picture(rng)
    return model, x, upstream(model, x, rng)


def test_a_graph_that_is_kept_gives_the_same_again(branch, received):
    y, once = gradients(*branch, retain_graph=True)
    y.backward(branch[2], retain_graph=True)
    same(
        {name: p.grad for name, p in branch[0].named_parameters() if name in once}, {n: 2 * g for n, g in once.items()}
    )
    with no_fusion():  # what was received before is not taken for what comes now
        y.backward(3 * branch[2])
    same(
        {name: p.grad for name, p in branch[0].named_parameters() if name in once}, {n: 5 * g for n, g in once.items()}
    )
    assert len(received) == 2


@pytest.mark.parametrize("switch", [no_fusion, detect_anomaly])
def test_what_turns_fusion_off_turns_this_off(branch, received, switch):
    _, once = gradients(*branch)
    branch[0].zero_grad()
    received.clear()
    with switch():
        _, without = gradients(*branch)
    same(once, without)
    assert not received


def test_a_hook_sees_the_whole_gradient_and_may_replace_it(received, rng):
    minires.manual_seed(1)
    seen = []

    def uses(model, h):
        if hooked:
            h.register_hook(lambda grad: seen.append(grad) or 2 * grad)
        return model.second(h)

    model, x = Branches(uses).astype("float64"), picture(rng)
    hooked = False
    dy = upstream(model, x, rng)
    _, plain = gradients(model, x, dy)
    assert len(received) == 1
    model.zero_grad()
    hooked = True
    _, doubled = gradients(model, x, dy)
    assert len(received) == 1
    for name in ("first.weight", "norm.gamma", "norm.beta"):
        plain[name] = 2 * plain[name]
    same(doubled, plain)
    (grad,) = seen
    assert (grad[..., 0] != 0).all()  # not masked by the ReLU yet


def test_a_gradient_that_two_operations_wait_for_is_not_written_over(received, rng):
    """What arrived before is only read: it may be somebody's own array."""
    kept = []

    def uses(model, h):
        skipped = h + 0.0
        if skipped.requires_grad:
            skipped.register_hook(lambda grad: kept.append((grad, grad.copy())))
        return model.second(h) + skipped

    minires.manual_seed(1)
    model, x = Branches(uses).astype("float64"), picture(rng)
    both(model, x, upstream(model, x, rng))
    assert kept
    for array, copy in kept:
        np.testing.assert_array_equal(array, copy)
