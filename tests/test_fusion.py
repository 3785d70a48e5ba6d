"""Fusion changes how fast a network is, how much it keeps, and nothing else."""

import copy
import gc
import pickle
import threading
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import minires
from minires import Tensor, fused, gradcheck, inspect, nn, no_fusion, no_grad, optim, tensor
from minires import functional as F
from minires.errors import AnomalyError, GraphError
from minires.models import BasicBlock, Bottleneck, ResNet, cifar_resnet
from minires.models.blocks import make_shortcut
from minires.tensor import Node, Pending
from minires.tensor.modes import modes

from .devices import here
from .networks import shuffled

TOLERANCE = 1e-10


def operations(output):
    """The names of all operations below a result, sorted."""
    names, seen, todo = [], set(), [output._node]
    while todo:
        node = todo.pop()
        if isinstance(node, Node) and id(node) not in seen:
            seen.add(id(node))
            names.append(node.name)
            todo += node.parents
    return sorted(names)


def same(ours, theirs):
    """Arrays by name, equal to rounding, relative to the largest entry."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        got = ours[name]
        if expected is None or got is None:
            assert got is expected is None, name
            continue
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype), name
        worst = np.abs(got - expected).max()
        assert worst <= TOLERANCE * np.abs(expected).max(), f"{name}: {worst:.1e}"
        assert np.abs(expected).max() > 0, f"{name} is zero everywhere: nothing was compared"


# -- blocks and networks ----------------------------------------------------------------------------------------------


def basic(option, stride, out=5):
    return lambda: BasicBlock(4, out, stride, option and make_shortcut(option, 4, out, stride))


def bottleneck(option, stride, stride_in="3x3"):
    return lambda: Bottleneck(4, 2, stride, option and make_shortcut(option, 4, 8, stride), stride_in)


NETWORKS = {
    f"{name} {option or 'plain'} stride {stride}": make(option, stride)
    for name, make in {"basic": basic, "bottleneck": bottleneck}.items()
    for option in ("A", "B", "C", None)
    for stride in (1, 2)
}
NETWORKS |= {
    "basic A of one shape": basic("A", 1, 4),
    "basic C of one shape": basic("C", 1, 4),
    "bottleneck B stride 2 in 1x1": bottleneck("B", 2, "1x1"),
    "resnet8 A": lambda: cifar_resnet(8, width=3, in_channels=4),
    "resnet8 B": lambda: cifar_resnet(8, "B", width=3, in_channels=4),
    "resnet8 C": lambda: cifar_resnet(8, "C", width=3, in_channels=4),
    "plain8": lambda: cifar_resnet(8, residual=False, width=3, in_channels=4),
    "bottlenecks": lambda: ResNet(Bottleneck, (1, 2), (2, 3), 5, 4, "imagenet", "B"),
}


@pytest.fixture(params=NETWORKS)
def network(request, rng):
    """A network of 4 channels in float64 with random parameters and statistics."""
    return made(request.param, rng)


def made(name, rng):
    """One of the networks, in which every ReLU lets something pass and stops something, in evaluation too."""
    minires.manual_seed(3)
    model = shuffled(NETWORKS[name](), rng)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.beta.data *= 0.3
        norm.momentum = 1.0
    with no_fusion():
        model(Tensor(rng.standard_normal((3, 9, 8, 4)) + 0.2))
    for norm in norms:
        norm.momentum = 0.1
    return model


def run(model, x, dy=None):
    """Everything that comes of one pass: the result, the statistics, and with an upstream gradient all gradients."""
    for parameter in model.parameters():
        parameter.grad = None
    before = {name: buffer.numpy().copy() for name, buffer in model.named_buffers()}
    x = tensor(x, requires_grad=dy is not None)
    y = model(x)
    found = {"output": y.numpy().copy()} | {name: b.numpy().copy() for name, b in model.named_buffers()}
    if dy is not None:
        found["operations"] = operations(y)
        y.backward(dy)
        found |= {f"d {name}": p.grad for name, p in model.named_parameters()} | {"dx": x.grad}
    for name, buffer in model.named_buffers():
        buffer.data[...] = here(before[name])
    return found


def picture(rng):
    return rng.standard_normal((3, 9, 8, 4))


def both(model, x, dy=None):
    """The same pass with and without fusion, and the operations of each."""
    with_fusion = run(model, x, dy)
    with no_fusion():
        without = run(model, x, dy)
    names = with_fusion.pop("operations", None), without.pop("operations", None)
    same(with_fusion, without)
    return names


def upstream(model, x, rng):
    with no_grad():
        return rng.standard_normal(run(model, x)["output"].shape)


def test_training_is_the_same(network, rng):
    x = picture(rng)
    with_fusion, without = both(network, x, upstream(network, x, rng))
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert with_fusion.count("ConvBatchNorm") == norms
    assert not {"Conv2d", "BatchNorm", "ReLU", "Add"} & set(with_fusion)
    assert without.count("BatchNorm") == without.count("Conv2d") == norms
    assert "ReLU" in without


def test_evaluation_is_the_same(network, rng):
    network.eval()
    both(network, picture(rng))
    with no_grad():
        both(network, picture(rng))


def test_evaluation_with_gradients_is_the_same(network, rng):
    network.eval()
    x = picture(rng)
    both(network, x, upstream(network, x, rng))


def test_training_without_gradients_gathers_the_same_statistics(network, rng):
    x = picture(rng)
    with no_grad():
        both(network, x)
        first = run(network, x)
        for name, buffer in network.named_buffers():
            assert not np.array_equal(first[name], buffer.numpy()), name


def test_the_reference_kernels_are_fused_too(rng):
    block = shuffled(BasicBlock(2, 3, 2, make_shortcut("B", 2, 3, 2)), rng)
    x, dy = rng.standard_normal((2, 5, 4, 2)), rng.standard_normal((2, 3, 2, 3))
    expected = run(block, x, dy)
    with minires.use_kernels("reference", "cuda-im2col"):
        both(block, x, dy)
        slow = run(block, x, dy)
    assert slow.pop("operations") == expected.pop("operations") == ["ConvBatchNorm"] * 3
    same(slow, expected)
    block.eval()
    with no_grad():
        expected = run(block, x)
        with minires.use_kernels("reference", "cuda-im2col"):
            both(block, x)
            same(run(block, x), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["basic B stride 2", "bottleneck C stride 1"])
def test_gradients_of_a_fused_block_are_those_of_differences(rng, name, training):
    block = made(name, rng).train(training)
    gradcheck(block, {"x": rng.standard_normal((2, 5, 4, 4))}, max_entries=12).assert_ok()


def test_training_follows_the_same_path(rng):
    ends = []
    for fusion in (True, False):
        model = cifar_resnet(8, "B", width=4, generator=1).astype(np.float64)
        optimiser = optim.SGD(model.parameters(), 0.1, momentum=0.9)
        x, labels = np.random.default_rng(2).standard_normal((5, 9, 8, 3)), [0, 3, 9, 1, 3]
        for _ in range(4):
            optimiser.zero_grad()
            with modes_of(fusion):
                loss = F.cross_entropy(model(tensor(x)), np.array(labels))
            loss.backward()
            optimiser.step()
        ends.append(model.state_dict())
    for name, fast in ends[0].items():
        np.testing.assert_allclose(fast, ends[1][name], rtol=1e-7, atol=1e-9, err_msg=name)


def modes_of(fusion):
    return minires.enable_grad() if fusion else no_fusion()


# -- functions of one's own -------------------------------------------------------------------------------------------


class Things:
    """What the functions below are made of; everything requires a gradient."""

    def __init__(self, dtype="float64"):
        rng = np.random.default_rng(8)
        new = lambda *shape: tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True)
        self.x, self.r, self.one, self.row = new(3, 7, 6, 4), new(3, 7, 6, 4), new(3, 7, 6, 1), new(4)
        self.w, self.w2, self.wide = new(3, 3, 4, 4), new(1, 1, 4, 4), new(3, 7, 6, 4)
        self.gamma, self.beta, self.gamma2, self.beta2, self.b = new(4), new(4), new(4), new(4), new(4)
        self.mean, self.var = tensor(np.ones(4, dtype)), tensor(np.full(4, 2.0, dtype))

    def conv(self, x=None, bias=False):
        return F.conv2d(self.x if x is None else x, self.w, self.b if bias else None, padding=1)

    def conv2(self, x=None):
        return F.conv2d(self.x if x is None else x, self.w2)

    def norm(self, x, running=False):
        return F.batch_norm(x, self.gamma, self.beta, *((self.mean, self.var) if running else ()))

    def norm2(self, x):
        return F.batch_norm(x, self.gamma2, self.beta2)

    def evaluated(self, x):
        return F.batch_norm(x, self.gamma, self.beta, self.mean, self.var, training=False)

    def found(self, y, dy):
        """The result, all gradients and the running statistics."""
        y.backward(dy)
        arrays = {name: t.grad for name, t in vars(self).items() if t.requires_grad}
        return {"output": y.numpy()} | arrays | {"mean": self.mean.numpy(), "var": self.var.numpy()}


# what is computed, and the operations that are left of it
FUNCTIONS = {
    "conv": (lambda t: t.conv(), ["Conv2d"]),
    "conv with a bias": (lambda t: t.conv(bias=True), ["Conv2d"]),
    "bn": (lambda t: t.norm(t.x), ["BatchNorm"]),
    "conv, bn": (lambda t: t.norm(t.conv()), ["ConvBatchNorm"]),
    "conv, bn with statistics": (lambda t: t.norm(t.conv(), True), ["ConvBatchNorm"]),
    "bn with statistics": (lambda t: t.norm(t.x, True), ["BatchNorm"]),
    "conv with a bias, bn": (lambda t: t.norm(t.conv(bias=True)), ["BatchNorm", "Conv2d"]),
    "conv, bn, relu": (lambda t: F.relu(t.norm(t.conv())), ["ConvBatchNorm"]),
    "conv, bn, relu as a method": (lambda t: t.norm(t.conv()).relu(), ["ConvBatchNorm"]),
    "conv, bn, relu, relu": (lambda t: F.relu(F.relu(t.norm(t.conv()))), ["ConvBatchNorm", "ReLU"]),
    "bn, relu": (lambda t: F.relu(t.norm(t.x)), ["BatchNorm"]),
    "conv, relu": (lambda t: F.relu(t.conv()), ["Conv2d"]),
    "conv with a bias, relu": (lambda t: F.relu(t.conv(bias=True)), ["Conv2d"]),
    "conv + r": (lambda t: t.conv() + t.r, ["Conv2d"]),
    "r + conv": (lambda t: t.r + t.conv(), ["Conv2d"]),
    "conv + r, relu": (lambda t: F.relu(t.conv() + t.r), ["Conv2d"]),
    "conv with a bias + r, relu": (lambda t: F.relu(t.conv(bias=True) + t.r), ["Conv2d"]),
    "conv + its input, relu": (lambda t: F.relu(t.conv() + t.x), ["Conv2d"]),
    "bn + r": (lambda t: t.norm(t.x) + t.r, ["BatchNorm"]),
    "r + bn": (lambda t: t.r + t.norm(t.x), ["BatchNorm"]),
    "bn + its input, relu": (lambda t: F.relu(t.norm(t.x) + t.x), ["BatchNorm"]),
    "conv, bn + r, relu": (lambda t: F.relu(t.norm(t.conv()) + t.r), ["ConvBatchNorm"]),
    "r + conv, bn, relu": (lambda t: F.relu(t.r + t.norm(t.conv())), ["ConvBatchNorm"]),
    "conv, bn, + r + r": (lambda t: t.norm(t.conv()) + t.r + t.r, ["Add", "ConvBatchNorm"]),
    "conv, bn, relu + r": (lambda t: F.relu(t.norm(t.conv())) + t.r, ["Add", "ConvBatchNorm"]),
    "conv + r, bn": (lambda t: t.norm(t.conv() + t.r), ["BatchNorm", "Conv2d"]),
    "conv, relu, bn": (lambda t: t.norm(F.relu(t.conv())), ["BatchNorm", "Conv2d"]),
    "bn, bn": (lambda t: t.norm2(t.norm(t.x)), ["BatchNorm", "BatchNorm"]),
    "conv, conv": (lambda t: t.conv2(t.conv()), ["Conv2d", "Conv2d"]),
    "conv, bn, relu, conv, bn": (lambda t: t.norm2(t.conv2(F.relu(t.norm(t.conv())))), ["ConvBatchNorm"] * 2),
    "conv, bn + conv, bn, relu": (lambda t: F.relu(t.norm(t.conv()) + t.norm2(t.conv2())), ["ConvBatchNorm"] * 2),
    "conv + conv": (lambda t: t.conv() + t.conv2(), ["Conv2d"] * 2),
    "conv + bn": (lambda t: t.conv() + t.norm(t.x), ["BatchNorm", "Conv2d"]),
    # what is not taken in
    "conv + a row": (lambda t: t.conv() + t.row, ["Add", "Conv2d"]),
    "a row + conv": (lambda t: t.row + t.conv(), ["Add", "Conv2d"]),
    "bn + one channel": (lambda t: t.norm(t.x) + t.one, ["Add", "BatchNorm"]),
    "wider + conv of a part": (lambda t: t.wide + t.conv(t.x[:1]), ["Add", "Conv2d", "GetItem"]),
    "conv + a number": (lambda t: t.conv() + 2, ["Add", "Conv2d"]),
    "a number + bn": (lambda t: 0.5 + t.norm(t.x), ["Add", "BatchNorm"]),
    "conv + an array": (lambda t: t.conv() + here(np.ones((3, 7, 6, 4))), ["Add", "Conv2d"]),
    "an array + conv": (lambda t: here(np.ones((3, 7, 6, 4))) + t.conv(), ["Add", "Conv2d"]),
    "conv + float32": (lambda t: t.conv() + t.r.astype("float32"), ["Add", "AsType", "AsType", "Conv2d"]),
    "float32 + bn": (lambda t: t.r.astype("float32") + t.norm(t.x), ["Add", "AsType", "AsType", "BatchNorm"]),
    "conv - r": (lambda t: t.conv() - t.r, ["Conv2d", "Subtract"]),
    "conv * r, relu": (lambda t: F.relu(t.conv() * t.r), ["Conv2d", "Multiply", "ReLU"]),
    "conv, tanh": (lambda t: t.conv().tanh(), ["Conv2d", "Tanh"]),
    # used more than once: computed more than once, but never wrong
    "h, relu + h": (lambda t: (lambda h: F.relu(h) + h)(t.conv()), None),
    "h + h": (lambda t: (lambda h: h + h)(t.conv()), None),
    "bn h + h": (lambda t: (lambda h: h + h)(t.norm(t.x)), None),
    "h + h, conv and bn": (lambda t: (lambda h: F.relu(h + h))(t.norm(t.conv())), None),
    "h + relu h": (lambda t: (lambda h: h + F.relu(h))(t.norm(t.conv())), None),
    "h, bn + h": (lambda t: (lambda h: t.norm(h) + h)(t.conv()), None),
    "h, bn twice": (lambda t: (lambda h: t.norm(h) + t.norm2(h))(t.conv()), None),
    "h, relu, relu": (lambda t: (lambda h: F.relu(h) * F.relu(h))(t.norm(t.conv())), None),
    "h * h": (lambda t: (lambda h: h * h)(t.norm(t.conv())), None),
    "h += r": (lambda t: _plus_in_place(t.conv(), t.r), None),
    "r += h": (lambda t: _plus_in_place(t.r * 1.0, t.conv()), None),
}


def _plus_in_place(a, b):
    a += b
    return a


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_function_is_the_same(name, rng):
    function, expected = FUNCTIONS[name]
    plain, things = Things(), Things()
    y = function(plain)
    dy = rng.standard_normal(y.shape)
    fast = fused(function)(things)
    left = operations(fast)
    assert type(fast) is Tensor or not fast.due
    assert expected is None or left == sorted(expected)
    unused = {"w", "w2", "b", "x", "r", "one", "row", "wide", "gamma", "beta", "gamma2", "beta2"}
    found, true = things.found(fast, dy), plain.found(y, dy)
    for key in unused:
        assert (found[key] is None) == (true[key] is None), key
        if true[key] is None:
            del found[key], true[key]
    # a sum over all that a batch norm gives is 0: its rounding is relative to what was added
    for key, array in true.items():
        scale = max(np.abs(array).max(), 1.0)
        assert found[key].dtype == array.dtype
        assert np.abs(found[key] - array).max() <= TOLERANCE * scale, key


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_function_is_the_same_without_recording(name):
    function, _ = FUNCTIONS[name]
    with no_grad():
        expected, y = function(Things()), fused(function)(Things())
    assert not y.requires_grad
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("function", [
    lambda t: t.evaluated(t.conv()), lambda t: F.relu(t.evaluated(t.conv())), lambda t: t.evaluated(t.conv(bias=True)),
    lambda t: F.relu(t.evaluated(t.conv()) + t.r), lambda t: t.r + t.evaluated(t.conv()), lambda t: t.evaluated(t.x),
    lambda t: F.relu(t.evaluated(t.conv()) + t.evaluated(t.conv2())), lambda t: t.evaluated(F.relu(t.conv())),
    lambda t: t.evaluated(t.conv() + t.r), lambda t: t.evaluated(t.evaluated(t.conv())),
])  # fmt: skip
def test_evaluation_of_any_function_is_the_same(function, rng):
    for recording in (minires.enable_grad, no_grad):
        things, plain = Things(), Things()
        with recording():
            y, expected = fused(function)(things), function(plain)
        np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=TOLERANCE, atol=TOLERANCE)
        assert y.requires_grad == expected.requires_grad == (recording is minires.enable_grad)
        if y.requires_grad:
            dy = rng.standard_normal(y.shape)
            got, true = things.found(y, dy), plain.found(expected, dy)
            for key in got:
                assert (got[key] is None) == (true[key] is None), key
                if got[key] is not None:
                    np.testing.assert_allclose(got[key], true[key], rtol=1e-9, atol=1e-9, err_msg=key)
        # folding must not touch what it was folded from
        for name, t in vars(things).items():
            assert np.array_equal(t.numpy(), getattr(Things(), name).numpy()), name


@pytest.fixture
def kernel():
    """The set of kernels in use."""
    return minires.kernels.active(here(np.zeros(1)))


def test_a_folded_batch_norm_is_no_pass_of_its_own(kernel, monkeypatch):
    def forbidden(*arguments):
        raise AssertionError("not in one pass")

    for name in ("batch_norm", "relu", "add", "moments", "conv2d_moments"):
        monkeypatch.setattr(kernel, name, forbidden)
    things = Things("float32")
    with no_grad():
        y = fused(lambda t: F.relu(t.evaluated(t.conv()) + t.r))(things)
    assert y.dtype == np.float32
    with pytest.raises(AssertionError, match="not in one pass"):
        fused(lambda t: F.relu(t.evaluated(t.conv()) + t.r))(things)  # with gradients it is


def test_statistics_are_gathered_with_the_convolution_and_once(kernel, monkeypatch):
    calls = []
    for name in ("conv2d_moments", "conv2d", "moments", "batch_norm", "relu", "add"):
        computed = getattr(kernel, name)
        counting = lambda *a, name=name, computed=computed, **k: (calls.append(name), computed(*a, **k))[1]
        monkeypatch.setattr(kernel, name, counting)
    fused(lambda t: F.relu(t.norm(t.conv()) + t.r))(Things())
    assert calls == ["conv2d_moments", "batch_norm"]
    calls.clear()
    fused(lambda t: F.relu(t.norm(t.x) + t.r))(Things())
    assert calls == ["moments", "batch_norm"]
    calls.clear()
    fused(lambda t: F.relu(t.conv() + t.r))(Things())
    assert calls == ["conv2d"]


# -- looking ----------------------------------------------------------------------------------------------------------

LOOKS = {
    "data": lambda h: h.data,
    "numpy": lambda h: h.numpy(),
    "repr": repr,
    "index": lambda h: h[0],
    "iteration": list,
    "comparison": lambda h: h > 0,
    "equality": lambda h: h == h,
    "argmax": lambda h: h.argmax(),
    "requires_grad": lambda h: h.requires_grad,
    "is_leaf": lambda h: h.is_leaf,
    "grad": lambda h: h.grad,
    "detach": lambda h: h.detach(),
    "Tensor of it": Tensor,
    "a method": lambda h: h.tanh(),
    "sum": lambda h: h.sum(),
    "np.exp": np.exp,
    "np.maximum": lambda h: np.add(h, 1.0),
    "pool": lambda h: F.max_pool2d(h, 2),
    "copy": copy.copy,
}


@pytest.mark.parametrize("start", [lambda t: t.conv(), lambda t: t.norm(t.x), lambda t: t.norm(t.conv()) + t.r])
@pytest.mark.parametrize("look", LOOKS)
def test_looking_computes_and_changes_nothing(look, start):
    @fused
    def function(t):
        h = start(t)
        assert h.due
        LOOKS[look](h)
        assert not h.due
        assert LOOKS[look](h) is not NotImplemented  # and once more, now that it is there
        np.testing.assert_allclose(h.numpy(), start(Things()).numpy(), rtol=TOLERANCE, atol=TOLERANCE)
        return F.relu(h)

    y = function(Things())
    assert operations(y).count("ReLU") == 1  # the value was there: nothing to take in
    np.testing.assert_allclose(y.numpy(), F.relu(start(Things())).numpy(), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_single_number_is_computed_when_it_is_asked_for():
    @fused
    def function():
        h = F.conv2d(Tensor([[[[2.0]]]]), Tensor([[[[3.0]]]]))
        assert h.due
        assert (h.item(), float(h), int(h), bool(h)) == (6.0, 6.0, 6, True)

    function()


def test_what_is_known_beforehand_computes_nothing(device):
    @fused
    def function(t):
        for h in (t.conv(), t.norm(t.x), t.norm(t.conv()), t.conv() + t.r, F.conv2d(t.x, t.w, stride=(2, 3))):
            shape = (3, 3, 2, 4) if h.shape[1] == 3 else (3, 7, 6, 4)
            assert (h.shape, h.dtype, h.ndim, h.size, len(h)) == (shape, np.float64, 4, np.prod(shape), 3)
            assert h.like == (shape, np.dtype("float64"))
            assert h.device == device
            assert isinstance(h, Tensor)
            assert hash(h) == hash(h)
            assert h.due
            assert h.numpy().shape == shape
            assert not hasattr(h, "no_such_thing")
        return h

    function(Things())


@pytest.mark.parametrize("held", ["dataclass", "set", "attribute", "closure", "absorbed"])
def test_nothing_waits_outside_wherever_it_was_put(held):
    """What computes later would find the next batch in the arrays of this one."""
    kept = SimpleNamespace()

    @fused
    def function(t):
        h = kept.h = t.conv()
        if held == "absorbed":
            return F.relu(t.norm(h))
        made = {"dataclass": lambda: SimpleNamespace(h=h), "set": lambda: {h}, "closure": lambda: lambda: h}
        return made.get(held, lambda: None)()

    things = Things()
    output = function(things)
    assert not kept.h.due
    assert modes.waiting == []
    expected = kept.h.numpy().copy()
    things.x.data[...] = 0
    np.testing.assert_array_equal(kept.h.numpy(), expected)
    assert expected.any()
    del output


def test_what_waits_when_a_function_fails_is_forgotten():
    kept = []

    @fused
    def function(t, fails):
        kept.append(t.conv())
        if fails:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        function(Things(), True)
    assert modes.waiting == []
    function(Things(), False)
    assert [h.due for h in kept] == [True, False]


def test_nothing_waits_outside():
    t = Things()
    kept = []

    @fused
    def inner():
        h = t.conv()
        kept.append(h)
        return t.conv()

    @fused
    def outer():
        h = inner()
        assert h.due  # still inside
        assert modes.fusing
        return F.relu(h)

    assert operations(outer()) == ["Conv2d"]
    assert not inner().due
    assert not isinstance(t.conv(), Pending)
    several = fused(lambda: (t.conv(), [t.norm(t.x)], {"h": t.conv()}))()
    assert [h.due for h in (several[0], several[1][0], several[2]["h"])] == [False] * 3


def test_an_exception_leaves_the_modes_as_they_were():
    @fused
    def wrong():
        assert modes.fusing
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            wrong()
        assert not modes.fusing
    t = Things()

    @fused
    def goes_on():
        with pytest.raises(ZeroDivisionError):
            wrong()
        assert modes.fusing
        return t.conv().due

    assert goes_on()


def test_an_exception_while_computing_leaves_recording_as_it_was(kernel, monkeypatch):
    def forbidden(*arguments):
        raise ZeroDivisionError

    @fused
    def function(t):
        with no_grad():
            h = t.conv()
        monkeypatch.setattr(kernel, "conv2d", forbidden)
        with pytest.raises(ZeroDivisionError):
            h.numpy()
        assert minires.is_grad_enabled()
        monkeypatch.undo()
        return h.requires_grad, h.numpy()

    recorded, values = function(Things())
    assert not recorded
    np.testing.assert_array_equal(values, Things().conv().numpy())


def test_no_fusion_and_another_thread_compute_at_once():
    t, seen = Things(), []
    note = lambda: seen.append(isinstance(t.conv(), Pending))

    @fused
    def function():
        note()
        with no_fusion():
            note()  # inside a function that is fused
            fused(note)()
        other = threading.Thread(target=note)
        other.start()
        other.join()
        note()

    function()
    with no_fusion():
        function()
    assert seen == [True, False, False, False, True] + [False] * 5


def test_what_is_decorated_keeps_its_name():
    @fused
    def forward(x, *, factor=2):
        """What it says."""
        return x * factor

    assert (forward.__name__, forward.__doc__) == ("forward", "What it says.")
    assert forward(tensor([1.0, 2.0]), factor=3).numpy().tolist() == [3, 6]


# -- recording --------------------------------------------------------------------------------------------------------

NEXT = {
    "relu": lambda t, h: F.relu(h),
    "add": lambda t, h: h + t.r,
    "radd": lambda t, h: t.r + h,
    "bn": lambda t, h: t.norm(h),
    "bn in evaluation": lambda t, h: t.evaluated(h),
}


@pytest.mark.parametrize("then", NEXT)
@pytest.mark.parametrize("recorded", [(True, False), (False, True)], ids=["first", "second"])
def test_each_operation_is_recorded_as_it_would_be_alone(then, recorded):
    switches = [minires.enable_grad if record else no_grad for record in recorded]
    results = []

    def function(t):
        with switches[0]():
            h = t.conv()
        with switches[1]():
            y = NEXT[then](t, h)
        return y

    for decorate in (lambda f: f, fused):
        things = Things()
        y = decorate(function)(things)
        results.append([y.requires_grad, {}])
        if y.requires_grad:
            y.backward(np.random.default_rng(1).standard_normal(y.shape))
            results[-1][1] = {name: t.grad for name, t in vars(things).items() if t.grad is not None}
    (alone, expected), (together, got) = results
    assert together == alone
    assert got.keys() == expected.keys()
    for name, grad in expected.items():
        np.testing.assert_allclose(got[name], grad, rtol=1e-9, atol=1e-9)


def test_whether_to_record_is_decided_when_the_operation_is_called():
    @fused
    def function(t):
        h = t.conv()
        with no_grad():
            n = t.conv()
            h.numpy()
        n.numpy()
        return h.requires_grad, n.requires_grad

    assert function(Things()) == (True, False)


def test_the_kernels_are_chosen_when_the_operation_is_called(kernel, monkeypatch):
    def forbidden(*arguments):
        raise AssertionError("other kernels were chosen")

    t = Things()

    @fused
    def function():
        with minires.use_kernels("reference", "cuda-im2col"):
            h = t.conv()
        return h.numpy()

    monkeypatch.setattr(kernel, "conv2d", forbidden)
    function()


def in_place(t):
    with no_grad():
        t[...] = 0.5


def replaced(t):
    t.data = 0.5 * t.data


@pytest.mark.parametrize("then", [None, *NEXT])
@pytest.mark.parametrize("change", [in_place, replaced])
@pytest.mark.parametrize("what", ["x", "w"])
def test_an_input_that_changed_before_a_result_was_looked_at(then, change, what):
    t = Things()

    @fused
    def function():
        h = t.conv()
        change(getattr(t, what))
        return (h.numpy() if then is None else NEXT[then](t, h)).shape

    with pytest.raises(GraphError, match=r"^Conv2d: an input was changed before this result of a fused "
                       r"function was looked at\. Look at it earlier, or turn fusion off with "
                       r"minires\.no_fusion\(\)\.$"):  # fmt: skip
        function()
    with no_fusion():
        assert function() == (3, 7, 6, 4)


FOLDED = [(False, what) for what in ("x", "w")] + [
    (m, n) for m in (False, True) for n in ("gamma", "beta", "mean", "var")
]


@pytest.mark.parametrize("change", [in_place, replaced])
@pytest.mark.parametrize(("many", "what"), FOLDED)
def test_what_an_evaluated_batch_norm_is_folded_from_may_not_change_either(many, what, change):
    t = Things()
    if many:  # weights, so that the result is scaled
        t.x, t.r = t.x[:, :2, :2].detach(), t.r[:, :2, :2].detach()

    @fused
    def function(look):
        y = t.evaluated(t.conv())
        if look:
            y.numpy()
        change(getattr(t, what))
        return F.relu(y + t.r).numpy()

    with no_grad():
        assert function(True).shape == t.r.shape
        with pytest.raises(GraphError, match=r"BatchNorm: an input was changed before this result"):
            function(False)


def test_what_was_added_may_not_change_either():
    t = Things()

    @fused
    def function(look):
        y = t.norm(t.x) + t.r
        if look:
            y.numpy()
        with no_grad():
            t.r += 1.0
        return y.numpy()

    assert function(True).shape == (3, 7, 6, 4)
    with pytest.raises(GraphError, match=r"^BatchNorm: an input was changed before this result"):
        function(False)


def test_running_statistics_do_not_follow_an_input_that_changed():
    t = Things()

    @fused
    def function():
        h = t.conv()
        with no_grad():
            t.x[...] = 0.0
        return t.norm(h, running=True)

    with pytest.raises(GraphError, match=r"^Conv2d: an input was changed before this result"):
        function()
    np.testing.assert_array_equal(t.mean.numpy(), np.ones(4))
    np.testing.assert_array_equal(t.var.numpy(), np.full(4, 2.0))


# -- gradients of what is in between ----------------------------------------------------------------------------------


def ask(h, how, heard):
    if how == "retain_grad":
        h.retain_grad()
    else:
        h.register_hook(lambda grad: heard.append(grad.copy()) or (2 * grad if how == "change" else None))


@pytest.mark.parametrize("how", ["retain_grad", "hook", "change"])
@pytest.mark.parametrize("what", ["conv", "bn", "sum"])
def test_a_gradient_in_between_that_is_asked_for_in_time(how, what, rng):
    dy, found = rng.standard_normal((3, 7, 6, 4)), []
    for decorate in (fused, lambda f: f):
        t, heard, kept = Things(), [], []

        @decorate
        def function(t=t, heard=heard, kept=kept):
            h = t.conv() if what == "conv" else t.norm(t.conv())
            h = h + t.r if what == "sum" else h
            ask(h, how, heard)
            kept.append(h)
            return F.relu(t.norm2(h) if what == "conv" else h)

        y = function()
        y.backward(dy)
        found.append([kept[0].grad if how == "retain_grad" else heard[0], t.x.grad, t.w.grad, t.r.grad])
    for got, expected in zip(*found, strict=True):
        assert (got is None) == (expected is None)
        if got is not None:
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("how", ["retain_grad", "register_hook"])
@pytest.mark.parametrize("then", ["relu", "add", "radd", "bn"])
def test_a_gradient_in_between_that_is_asked_for_too_late(how, then):
    @fused
    def function(t):
        h = t.conv()
        y = NEXT[then](t, h)
        with pytest.raises(GraphError, match=rf"^{how}: this Conv2d was computed in one pass with the operation after "
                           r"it, so no gradient arrives here\. Ask before that operation, or turn fusion off with "
                           r"minires\.no_fusion\(\)\.$"):  # fmt: skip
            ask(h, "retain_grad" if how == "retain_grad" else "hook", [])
        return y

    y = function(Things())
    y.retain_grad()  # the result itself is there
    y.backward(np.ones(y.shape))
    np.testing.assert_array_equal(y.grad, np.ones(y.shape))
    with no_fusion(), pytest.raises(pytest.fail.Exception):  # alone, it never is too late
        function(Things())


# -- hooks, copies, memory --------------------------------------------------------------------------------------------


def test_hooks_see_the_same_values(network, rng):
    x = picture(rng)

    def seen():
        values = {}
        removers = [
            m.register_forward_hook(lambda m, i, o, name=name: values.__setitem__(name, o.numpy().copy()))
            for name, m in network.named_modules()
            if isinstance(m, nn.Conv2d | nn.BatchNorm2d | BasicBlock | Bottleneck)
        ]
        found = run(network, x, dy)
        found.pop("operations")
        for remove in removers:
            remove()
        return values, found

    dy = upstream(network, x, rng)
    (values, found) = seen()
    with no_fusion():
        expected, plain = seen()
    assert len(values) >= 4
    same(values, expected)
    same(found, plain)
    both(network, x, dy)  # and without hooks all is as before


def test_a_hook_may_keep_what_it_gets(rng):
    block = shuffled(BasicBlock(4, 5, 2, make_shortcut("B", 4, 5, 2)), rng)
    x, kept = picture(rng), {}
    for name, module in block.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(lambda m, i, o, name=name: kept.__setitem__(name, o))
    y = block(tensor(x))
    assert operations(y) == ["ConvBatchNorm"] * 3
    with_fusion = {name: o.numpy().copy() for name, o in kept.items()}
    with no_fusion():
        block(tensor(x))
    same(with_fusion, {name: o.numpy() for name, o in kept.items()})
    dy = rng.standard_normal(y.shape)
    y.backward(dy)  # what was looked at since does not disturb it
    assert all(p.grad is not None for p in block.parameters())


def test_a_hook_may_replace_a_result(rng):
    block = shuffled(BasicBlock(4, 4, 1, make_shortcut("A", 4, 4, 1)), rng)
    block.conv1.register_forward_hook(lambda m, i, o: o * 2.0)
    block.bn2.register_forward_hook(lambda m, i, o: o + i[0])
    x = picture(rng)
    both(block, x, upstream(block, x, rng))


def test_anomalies_are_found_where_they_are(rng):
    block = shuffled(BasicBlock(4, 5, 1), rng)
    x = picture(rng)
    with minires.detect_anomaly():
        y = block(tensor(x, requires_grad=True))
        assert "Conv2d" in operations(y)
        assert "ConvBatchNorm" not in operations(y)
        y.backward(rng.standard_normal(y.shape))
        block.conv2.weight.data[1, 1, 0, 0] = np.nan
        with pytest.raises(AnomalyError, match=r"^forward: Conv2d has .* NaN .* called at test_fusion\.py"):
            block(tensor(x))
        block.conv2.weight.data[1, 1, 0, 0] = 0
        block.bn2.gamma.data[0] = np.inf
        with pytest.raises(AnomalyError, match=r"^forward: BatchNorm has"):
            block(tensor(x))
    assert not np.isfinite(block(tensor(x)).numpy()).all()  # nobody looks


@pytest.mark.parametrize("recording", [True, False])
def test_what_waits_is_looked_at_if_anomalies_are_looked_for_by_then(recording, rng):
    x, w = tensor(np.full((1, 4, 4, 2), np.nan)), tensor(rng.standard_normal((3, 3, 2, 3)), requires_grad=recording)

    @fused
    def look():
        y = F.conv2d(x, w)
        assert y.due
        with minires.detect_anomaly():
            return y.numpy()

    with nullcontext() if recording else no_grad(), pytest.raises(AnomalyError, match="Conv2d"):
        look()


def test_a_model_can_be_copied_and_pickled_after_a_fused_pass(rng):
    block = shuffled(BasicBlock(4, 5, 2, make_shortcut("B", 4, 5, 2)), rng)
    x = picture(rng)
    dy = upstream(block, x, rng)
    expected = run(block, x, dy)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        found = run(other, x, dy)
        assert found["operations"] == expected["operations"]
        for name in expected.keys() - {"operations"}:
            assert np.array_equal(found[name], expected[name]), name


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("use", ["nothing", "backward", "no_grad", "looked at"])
def test_what_waited_dies_with_its_last_name(use):
    def function():
        made, t = [], Things()

        def forward():
            h = t.conv()
            n = t.norm(h)
            if use == "looked at":
                h.numpy()
                n.numpy()
            s = n + t.r
            y = F.relu(s)
            z = t.norm2(t.conv2(y)) + y
            made.extend([h, n, s, y, z])
            return F.relu(z)

        if use == "no_grad":
            with no_grad():
                out = fused(forward)()
        else:
            out = fused(forward)()
        if use == "backward":
            out.backward(np.ones(out.shape))
        return [weakref.ref(thing) for thing in (*made, out, out.data, t.x, t.w)]

    nodes = sum(type(thing) is Node for thing in gc.get_objects())
    assert [reference() for reference in function() if reference() is not None] == []
    assert sum(type(thing) is Node for thing in gc.get_objects()) == nodes


@pytest.mark.usefixtures("without_collector")
def test_backward_lets_go_of_what_it_has_used():
    t = Things()
    made = []

    @fused
    def forward():
        h = t.conv()
        made.append(weakref.ref(h))
        return F.relu(t.norm(h) + t.r)

    y = forward()
    assert made[0]() is None  # it never was
    saved = [weakref.ref(a) for a in y._node.saved_arrays]
    z = weakref.ref(y._node.saved_arrays[1])
    assert z() is not None
    y.backward(np.ones(y.shape))
    assert z() is None
    assert sum(r() is not None for r in saved) == 4  # y, and the parameters: x, w and gamma


@pytest.mark.parametrize("name", ["resnet8 B", "bottlenecks", "basic A stride 2"])
def test_a_summary_is_the_same(name, rng):
    model = made(name, rng)
    summary = inspect.summary(model, (9, 8, 4))
    with no_fusion():
        expected = inspect.summary(model, (9, 8, 4))
    assert str(summary) == str(expected)
    assert summary == expected
    x = tensor(rng.standard_normal((2, 9, 8, 4)))
    parameters = {id(p.data) for p in model.parameters()}
    # what fusion keeps is no more: z and y of each batch norm, as without it
    assert inspect.saved_bytes(model(x), parameters) <= 2 * expected.saved_bytes


@pytest.mark.parametrize("folded", [True, False])
def test_statistics_may_be_of_a_wider_dtype_than_the_weights(folded):
    t, wide = Things("float32"), Things()
    t.mean, t.var = wide.mean, wide.var
    if not folded:
        t.x, wide.x = t.x[:1, :2, :2], wide.x[:1, :2, :2]  # fewer numbers than the weights have
    with no_grad():
        y, expected = (fused(lambda one: one.evaluated(one.conv()))(one) for one in (t, wide))
    assert y.dtype == y.numpy().dtype == np.float32
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
