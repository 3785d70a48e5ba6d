"""A recorded model gives what the model gives, whatever becomes of its parameters, or says that it cannot."""

import copy
import pickle

import numpy as np
import pytest

import minires
from minires import Tensor, models, nn, no_grad, optim
from minires import functional as F
from minires.errors import ArgumentError, GraphError
from minires.tensor.modes import modes

from .devices import affordable
from .networks import shuffled

NETWORKS = {
    "A": lambda: models.cifar_resnet(8, width=3, generator=0),
    "B": lambda: models.cifar_resnet(8, "B", width=3, generator=0),
    "C, float64": lambda: models.cifar_resnet(8, "C", width=3, generator=0).astype(np.float64),
    "plain": lambda: models.cifar_resnet(8, residual=False, width=3, generator=0),
    "bottlenecks": lambda: models.ResNet(models.Bottleneck, (1, 2), (2, 3), 5, 3, "imagenet", "B", generator=0),
    "many weights": lambda: models.ResNet(models.BasicBlock, (1,), (200,), 5, 3, "cifar", "B", generator=0),
    "layers": lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten(),
                                    nn.Linear(45, 4), nn.LayerNorm(4)),
}  # fmt: skip


def made(name, rng):
    """A network in evaluation with random statistics."""
    model = shuffled(NETWORKS[name](), rng).eval()
    return model if "float64" in name else model.astype(np.float32)


def pictures(model, rng, n=2):
    dtype = next(p.dtype for p in model.parameters())
    return Tensor(rng.standard_normal((n, 8, 8, 3)).astype(dtype))


def same(replay, model, x):
    with no_grad():
        expected = model(x)
    found = replay(x)
    assert (found.shape, found.dtype, found.requires_grad) == (expected.shape, expected.dtype, False)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_numbers(name, rng):
    model = made(name, rng)
    replay = nn.Replay(model)
    for n in (2, 1, 2, 3):
        for _ in range(affordable(2, 1)):
            same(replay, model, pictures(model, rng, n))
    assert modes.tape is None


def test_operations_of_ones_own_and_several_inputs(rng):
    class Mixed(nn.Module):
        def __init__(self):
            self.w = nn.Parameter(rng.standard_normal((4, 3)).astype(np.float32))

        def forward(self, a, b):
            unused = a * 5.0  # noqa: F841 - is not computed again
            h = F.concatenate([a @ self.w, b], 1)[:, ::-1]
            return (F.softmax(h) * 2.0 + h.mean(1, keepdims=True)).reshape(-1)

    model = Mixed().eval()
    replay = nn.Replay(model)
    for _ in range(2):
        a, b = (Tensor(rng.standard_normal((5, k)).astype(np.float32)) for k in (4, 2))
        with no_grad():
            np.testing.assert_array_equal(replay(a, b).numpy(), model(a, b).numpy())
    (program,) = replay._programs.values()
    assert "Multiply" in (names := [step[0].__name__ for step in program._steps])
    assert names.count("Multiply") == 1


@pytest.mark.parametrize("name", ["A", "many weights"])
def test_it_follows_the_parameters(name, rng):
    model = made(name, rng)
    replay, x = nn.Replay(model), pictures(model, rng)
    seen = [same(replay, model, x).numpy()]

    def changed():
        now = same(replay, model, x).numpy()
        assert not any(np.array_equal(now, before) for before in seen)
        seen.append(now)

    model.fc.weight.data[...] *= 2  # in place, where nobody is told
    changed()
    model.conv.weight.data[...] *= 3
    changed()
    model.bn.running_mean.data[...] += 1
    changed()
    model.bn.gamma.data = model.bn.gamma.data * 2  # another array
    changed()
    model.load_state_dict({n: a * 1.5 for n, a in model.state_dict().items()})
    changed()
    model.train()
    F.cross_entropy(model(x), [0, 1]).backward()
    optim.SGD(model.parameters(), lr=0.5).step()
    model.eval()
    changed()


def test_results_are_ones_own(rng):
    model = made("A", rng)
    replay, x = nn.Replay(model), pictures(model, rng)
    first = replay(x)
    kept = first.numpy().copy()
    first.data[...] += 1
    np.testing.assert_array_equal(replay(x).numpy(), kept)
    replay(pictures(model, rng))
    np.testing.assert_array_equal(first.numpy(), kept + 1)


def test_what_is_not_needed_any_more_is_let_go(rng):
    (program,) = _programs(nn.Replay(made("plain", rng)), rng)
    ended = [number for *_, numbers in program._steps for number in numbers]
    made_on_the_way = {number for *_, number, _ in program._steps} - {program._result}
    assert made_on_the_way <= set(ended)
    assert len(ended) == len(set(ended))


def _programs(replay, rng):
    replay(pictures(replay.model, rng))
    return replay._programs.values()


def test_a_result_that_is_the_input(rng):
    model = nn.Sequential(nn.Identity()).eval()
    x = Tensor(rng.standard_normal((2, 3)))
    np.testing.assert_array_equal(nn.Replay(model)(x).numpy(), x.numpy())


class Doing(nn.Module):
    def __init__(self, what):
        self.what = what

    def forward(self, x):
        return self.what(x)


def _plus_one(h):
    h += 1.0
    return h * 3.0


REFUSED = {
    "random numbers": lambda x: F.dropout(x, 0.5, True),
    "something computed outside": lambda x: x * Tensor(x.data + 1.0),
    "a choice by the values": lambda x: x * 2.0 if float(x.numpy().max()) > 0.5 else x * 3.0,
    "a choice by the sign": lambda x: x * 2.0 if float(x.numpy().min()) >= 0 else x,
    "an operation outside": lambda x: x + Tensor(np.maximum(x.numpy(), 0)),
    "in place": lambda x: _plus_one(x * 2.0),
    "infinities": lambda x: F.concatenate([x + np.inf, x * Tensor(x.data + 1.0)], 0),
    "a constant": lambda x: Tensor(x.data * 0.0),
}


@pytest.mark.parametrize("first", [1, 0])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_replayed_is_refused(name, first):
    """Also if the first input is as dull as zeros."""
    model = Doing(REFUSED[name]).eval()
    with pytest.raises(GraphError, match=r"Replay: (Doing cannot be replayed|the model's output is a constant)"):
        nn.Replay(model)(Tensor(first * np.linspace(1, 2, 12).reshape(3, 4)))
    assert modes.tape is None


@pytest.mark.parametrize("function", [
    lambda x, i: F.cross_entropy(x, i), lambda x, i: x[i], lambda x, i: x[:, :2][(i, 0)],
    lambda x, i: F.where(x.max() > 50.0, x * 0.0, x), lambda x, i: x[x.argmax()],
])  # fmt: skip
def test_an_array_among_the_options_is_refused(function):
    x, i = Tensor(np.ones((1, 4))), Tensor(np.array([0]))

    class Looking(nn.Module):
        def forward(self, x, i):
            return function(x, i)

    with pytest.raises(GraphError, match="takes an array as its option"):
        nn.Replay(Looking().eval())(x, i)


def test_one_tensor_given_twice(rng):
    class Minus(nn.Module):
        def forward(self, a, b):
            return a - b * 2.0

    replay, (a, b) = nn.Replay(Minus().eval()), (Tensor(rng.standard_normal(3)) for _ in range(2))
    np.testing.assert_array_equal(replay(a, a).numpy(), (a - a * 2.0).numpy())
    np.testing.assert_array_equal(replay(a, b).numpy(), (a - b * 2.0).numpy())


def test_modules_and_parameters_that_are_replaced(rng):
    model = made("A", rng)
    replay, x = nn.Replay(model), pictures(model, rng)
    first = same(replay, model, x).numpy()
    model.fc = nn.Linear(12, 10).eval()
    second = same(replay, model, x).numpy()
    model.fc.weight = nn.Parameter(model.fc.weight.data * 2)
    third = same(replay, model, x).numpy()
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)
    model.bn.train()
    x = pictures(model, rng)
    with pytest.raises(GraphError, match="Replay: "):  # its statistics are of the batch, and move
        replay(x)


def test_modules_and_parameters_that_are_added(rng):
    linear, x = nn.Linear(3, 3, bias=False).eval(), Tensor(rng.standard_normal((2, 3)).astype(np.float32))
    replay = nn.Replay(linear)
    same(replay, linear, x)
    linear.bias = nn.Parameter(np.ones(3, np.float32))
    same(replay, linear, x)
    several = nn.Sequential(linear).eval()
    replay = nn.Replay(several)
    same(replay, several, x)
    setattr(several, "1", nn.Linear(3, 2).eval())
    same(replay, several, x)


def test_another_model(rng):
    replay, x = nn.Replay(made("A", rng)), pictures(made("A", rng), rng)
    replay(x)
    replay.model = made("A", rng)
    same(replay, replay.model, x)


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda r: pickle.loads(pickle.dumps(r))])
def test_a_copy_follows_its_own_model(copied, rng):
    replay, x = nn.Replay(made("A", rng)), pictures(made("A", rng), rng)
    replay(x)
    other = copied(replay)
    other.model.fc.weight = nn.Parameter(2 * other.model.fc.weight.data)
    same(other, other.model, x)
    same(replay, replay.model, x)


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint8"])
def test_buffers_and_inputs_that_are_no_floating_point_numbers(dtype, rng):
    class Masked(nn.Module):
        def __init__(self):
            self.register_buffer("mask", np.ones(3, dtype))

        def forward(self, x, k):
            return x * self.mask + k * x

    model, x = Masked().eval(), Tensor(rng.standard_normal((2, 3)).astype(np.float32))
    replay, numbers = nn.Replay(model), np.ones(3, dtype)
    for change in (lambda: None, lambda: model.mask.data.fill(0), lambda: numbers.fill(0)):
        change()
        k = Tensor(numbers)
        np.testing.assert_array_equal(replay(x, k).numpy(), model(x, k).numpy())


def test_a_scale_that_is_computed(rng):
    class Scaled(nn.Module):
        def __init__(self):
            self.conv, self.log = nn.Conv2d(3, 4, 3, bias=False), nn.Parameter(np.zeros(4, np.float32))
            self.mean, self.var = (Tensor(np.ones(4, np.float32)) for _ in range(2))

        @minires.fused
        def forward(self, x):
            return F.relu(F.batch_norm(self.conv(x), self.log.exp(), self.log, self.mean, self.var, training=False))

    model = Scaled().eval()
    replay, x = nn.Replay(model), pictures(model, rng)
    same(replay, model, x)
    model.log.data[...] += 0.7
    same(replay, model, x)


def test_numbers_on_the_host(rng):
    half = Tensor(np.float32(0.5))
    model = Doing(lambda x: (x * half + 1.0).sum()).eval()
    x = Tensor(rng.standard_normal((2, 3)).astype(np.float32))
    np.testing.assert_array_equal(nn.Replay(model)(x).numpy(), model(x).numpy())


def test_switches(rng):
    model = made("A", rng)
    replay, x = nn.Replay(model), pictures(model, rng)
    with minires.no_fusion():
        same(replay, model, x)
    same(replay, model, x)
    assert len(replay._programs) == 2
    with np.errstate(invalid="ignore"), minires.detect_anomaly(), pytest.raises(minires.errors.AnomalyError):
        nn.Replay(Doing(lambda x: (x * 0.0 - 1.0).log()).eval())(x)
    inside = minires.fused(lambda x: replay(F.relu(x + 0.0)))(x)
    with no_grad():
        np.testing.assert_array_equal(inside.numpy(), model(F.relu(x)).numpy())


def test_what_is_no_use(rng):
    model, x = made("A", rng), pictures(made("A", rng), rng)
    with pytest.raises(ArgumentError, match=r"the model is in training.*model\.eval\(\)"):
        nn.Replay(model.train())(x)
    with pytest.raises(ArgumentError, match="inputs must be Tensors, got ndarray"):
        nn.Replay(model.eval())(np.zeros((1, 8, 8, 3)))
    with pytest.raises(ArgumentError, match="must return one Tensor, got tuple"):
        nn.Replay(Doing(lambda x: (x, x)).eval())(x)
    with pytest.raises(ZeroDivisionError):
        nn.Replay(Doing(lambda x: 1 / 0).eval())(x)
    assert modes.tape is None


@pytest.mark.host_only("the sets of kernels are those of the CPU")
def test_kernels_are_chosen_anew(rng):
    model = made("A", rng)
    replay, x = nn.Replay(model), pictures(model, rng, 1)
    fast = replay(x)
    with minires.use_kernels("reference"):
        slow = same(replay, model, x)
    np.testing.assert_allclose(fast.numpy(), slow.numpy(), rtol=1e-4, atol=1e-5)
    assert len(replay._programs) == 2
