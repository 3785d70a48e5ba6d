"""Gradients that the operation below sees while they are being written: the same numbers, and only where it may."""

import contextlib
import threading

import numpy as np
import pytest

import minires
from minires import detect_anomaly, nn, no_fusion, tensor
from minires import functional as F
from minires.kernels.numpy import norm_gradient
from minires.kernels.numpy.tiles import Tile
from minires.ops.norm import BatchNorm
from minires.tensor import graph

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


def test_a_subclass_with_another_backward_pass_does_not_take_part(received, rng):
    class Clipped(BatchNorm):
        @staticmethod
        def backward(ctx, dy):
            return BatchNorm.backward(ctx, np.clip(dy, -0.1, 0.1))

    x = rng.standard_normal((3, 9, 8, 4))
    w, gamma, beta = rng.standard_normal((3, 3, 4, 5)), rng.standard_normal(4), rng.standard_normal(4)
    found = []
    for switch in (contextlib.nullcontext, no_fusion):
        inputs = [tensor(a, requires_grad=True) for a in (x, gamma, beta)]
        with switch():
            y = Clipped.apply(*inputs, mean=x.mean((0, 1, 2)), var=x.var((0, 1, 2)), eps=1e-5)
            F.conv2d(y, w, padding=1).sum().backward()
        found.append({str(i): t.grad for i, t in enumerate(inputs)})
    same(*found)
    assert not received


def test_a_function_may_have_a_receiver_of_its_own(received, rng):
    class Mine(minires.Function):
        receiver = "somebody"

        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = tensor(picture(rng), requires_grad=True)
    F.conv2d(Mine.apply(x), rng.standard_normal((3, 3, 4, 5))).sum().backward()
    assert x.grad is not None


def test_a_hook_that_comes_during_the_walk_is_heeded(received, rng):
    def uses(model, h):
        if hooked and h.requires_grad:
            model.second.weight.register_hook(lambda grad: h.register_hook(lambda grad: grad * 0.5) and None)
        return model.second(h)

    minires.manual_seed(1)
    model, x = Branches(uses).astype("float64"), picture(rng)
    hooked = False
    dy = upstream(model, x, rng)
    _, plain = gradients(model, x, dy)
    model.zero_grad()
    hooked = True
    _, halved = gradients(model, x, dy)
    for name in ("first.weight", "norm.gamma", "norm.beta"):
        plain[name] = plain[name] * 0.5
    same(halved, plain)


def test_two_threads_may_go_back_through_one_graph(received, rng):
    minires.manual_seed(1)
    model, x = Branches(USES["one convolution"][0]).astype("float64"), picture(rng)
    dy = upstream(model, x, rng)
    y = model(tensor(x))
    seen, together = {}, threading.Barrier(2)
    run = graph._run_backward

    def run_together(node, grad, *streams):
        together.wait(60)
        return run(node, grad, *streams)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "_run_backward", run_together)
        model.norm.gamma.register_hook(lambda grad: seen.setdefault(threading.get_ident(), grad))
        others = [threading.Thread(target=y.backward, args=(k * dy, True)) for k in (1.0, 3.0)]
        for thread in others:
            thread.start()
        for thread in others:
            thread.join()
    one, three = sorted(seen.values(), key=lambda grad: np.abs(grad).max())
    np.testing.assert_allclose(three, 3 * one, rtol=1e-10)


def test_a_thread_that_wrote_none_of_it_has_nothing_to_say(rng):
    x, dx, mean = rng.standard_normal((3, 5, 4, 2)), rng.standard_normal((3, 5, 4, 2)), rng.standard_normal(2)
    with split(2):
        receiver = norm_gradient.norm_receiver(None, None, x, mean)
        idle, busy = receiver(), receiver()
        for n in range(3):
            busy(dx[n : n + 1], Tile(slice(n, n + 1), slice(0, 5)))
        receiver.finish([idle, busy])
    expected = [dx.sum((0, 1, 2)), (dx * (x - mean)).sum((0, 1, 2))]
    np.testing.assert_allclose(receiver.sums, expected, rtol=1e-12)
