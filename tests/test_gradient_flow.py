"""Where the gradient goes: the parts of each block beside parts computed by cutting the other way off."""

import numpy as np
import pytest

import minires
from minires import Tensor, inspect, models, nn
from minires import functional as F
from minires.backend import asnumpy
from minires.errors import ArgumentError


class Block(nn.Module):
    """relu(F(x) + x) or x + F(x), with no attribute that says which way is the skip."""

    def __init__(self, channels, rng, skip_first=False, after=True):
        self.first, self.second = (nn.Linear(channels, channels, generator=rng) for _ in range(2))
        self.skip_first, self.after = skip_first, after

    def branch(self, x):
        return self.second(F.relu(self.first(x)))

    def forward(self, x):
        h = x + self.branch(x) if self.skip_first else self.branch(x) + x
        return F.relu(h) if self.after else h


def network(rng, **options):
    return nn.Sequential(
        nn.Linear(4, 6, generator=rng), Block(6, rng, **options), nn.Linear(6, 3, generator=rng)
    ).astype(np.float64)


@pytest.mark.parametrize("skip_first", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_the_two_parts_of_a_block(rng, skip_first, after, device):
    model, x = network(rng, skip_first=skip_first, after=after).to(device), rng.standard_normal((5, 4))
    labels = np.array([0, 2, 1, 1, 0])
    flow = inspect.gradient_flow(model, (x, labels))

    def part(through_skip, through_branch):
        h = model[0](Tensor(x).to(device)).detach()
        h.requires_grad_()
        ways = [h if wanted else h.detach() for wanted in (through_skip, through_branch)]
        y = ways[0] + model[1].branch(ways[1])
        F.cross_entropy(model[2](F.relu(y) if after else y), labels).backward()
        return asnumpy(h.grad)

    total, skip, branch = part(True, True), part(True, False), part(False, True)
    (block,) = flow.blocks
    assert block.name == "1"
    size = np.linalg.norm
    np.testing.assert_allclose(
        [block.gradient, block.skip, block.branch], [size(total), size(skip), size(branch)], rtol=1e-12
    )
    np.testing.assert_allclose(block.skip_share, (skip * total).sum() / (total * total).sum(), rtol=1e-12)
    np.testing.assert_allclose(block.branch_share, (branch * total).sum() / (total * total).sum(), rtol=1e-12)
    np.testing.assert_allclose(block.above, size(skip), rtol=1e-12)  # dL/dH, the 1 in dL/dH (dF/dx + 1)


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_every_block_of_a_resnet(rng, shortcut):
    model = models.cifar_resnet(14, width=4, shortcut=shortcut, generator=0).astype(np.float64)
    flow = inspect.gradient_flow(model, (rng.standard_normal((3, 8, 8, 3)), np.array([1, 5, 9])))
    assert [block.name for block in flow.blocks] == [f"stage{s}.{b}" for s in (1, 2, 3) for b in (0, 1)]
    for block in flow.blocks:
        assert block.difference < 1e-12
        assert block.skip_share + block.branch_share == pytest.approx(1, abs=1e-12)
        if shortcut == "A" and block.name.endswith("1"):
            assert block.skip == pytest.approx(block.above, rel=1e-12)  # the identity


def test_the_plain_twin_has_no_blocks(rng):
    model = models.cifar_resnet(14, width=4, residual=False, generator=0)
    flow = inspect.gradient_flow(model, rng.standard_normal((3, 8, 8, 3)))
    assert flow.blocks == []
    assert np.isnan(flow.loss)


def test_the_gradient_at_every_layer(rng):
    model, x = network(rng), rng.standard_normal((5, 4))
    labels = np.array([0, 2, 1, 1, 0])
    flow = inspect.gradient_flow(model, (x, labels))
    assert [(layer.name, layer.kind) for layer in flow.layers] == [
        (name, "Linear") for name in ("0", "1.first", "1.second", "2")
    ]
    assert all(p.grad is None for p in model.parameters())

    outputs = []
    removers = [
        m.register_forward_hook(lambda m, i, y: (y.retain_grad(), outputs.append(y))[0])
        for m in (model[0], model[1].first, model[1].second, model[2])
    ]
    loss = F.cross_entropy(model(Tensor(x)), labels)
    loss.backward()
    for remove in removers:
        remove()
    norms = [np.linalg.norm(asnumpy(y.grad)) for y in outputs]
    np.testing.assert_allclose([layer.gradient for layer in flow.layers], norms, rtol=1e-12)
    own = np.hypot(*(np.linalg.norm(asnumpy(p.grad)) for p in model[2].parameters()))
    assert flow.layers[-1].weights == pytest.approx(own, rel=1e-12)
    assert flow.loss == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_block_on_the_input_itself(rng, frozen):
    model = nn.Sequential(Block(6, rng), nn.Linear(6, 3, generator=rng)).astype(np.float64)
    x, labels = rng.standard_normal((5, 6)), np.array([0, 2, 1, 1, 0])
    for parameter in model.parameters():
        parameter.requires_grad = not frozen
    (block,) = inspect.gradient_flow(model, (x, labels)).blocks
    t = minires.tensor(x, requires_grad=True)
    F.cross_entropy(model(t), labels).backward()
    assert block.name == "0"
    assert block.gradient == pytest.approx(np.linalg.norm(asnumpy(t.grad)), rel=1e-12)
    assert block.skip == pytest.approx(block.above, rel=1e-12)
    assert block.skip_share + block.branch_share == pytest.approx(1, abs=1e-12)
    assert block.difference < 1e-12


def test_a_model_may_change_its_input(rng):
    class Shifting(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(4, 3, generator=rng)

        def forward(self, x):
            x -= 0.5
            return self.layer(x)

    assert len(inspect.gradient_flow(Shifting(), rng.standard_normal((5, 4))).layers) == 1


def test_a_weight_that_is_used_twice_is_no_block(rng):
    class Tied(nn.Module):
        def __init__(self):
            self.w = nn.Parameter(rng.standard_normal((4, 4)))

        def forward(self, x):
            return F.relu(x @ self.w) @ self.w + self.w[:1]

    assert inspect.gradient_flow(Tied(), rng.standard_normal((5, 4))).blocks == []


def test_relus_that_are_off(rng):
    model = network(rng)
    model[1].first.bias.data[:4] = -1000
    model[1].first.bias.data[4:] = 1000
    flow = inspect.gradient_flow(model, rng.standard_normal((5, 4)))
    first, second = flow.relus
    assert (first.name, second.name) == ("1 (1)", "1 (2)")
    assert (first.zeros, first.dead) == (pytest.approx(4 / 6), pytest.approx(4 / 6))
    assert "66.7%" in str(flow)


def test_the_model_is_left_as_it_was(rng):
    model = models.cifar_resnet(8, width=2, generator=0)
    x, labels = rng.standard_normal((3, 8, 8, 3)).astype(np.float32), np.array([1, 5, 9])
    F.cross_entropy(model(Tensor(x)), labels).backward()
    before = {n: asnumpy(b.data).copy() for n, b in model.named_buffers()}
    grads = {n: p.grad for n, p in model.named_parameters()}
    inspect.gradient_flow(model, (x, labels))
    inspect.responses(model, x)
    assert all(np.array_equal(asnumpy(b.data), before[n]) for n, b in model.named_buffers())
    assert all(p.grad is grads[n] for n, p in model.named_parameters())
    assert all(not m._hooks for m in model.modules())


def test_an_upstream_gradient_from_a_seed(rng):
    model, x = network(rng), rng.standard_normal((5, 4))
    norms = [inspect.gradient_flow(model, x, seed=seed).blocks[0].gradient for seed in (1, 1, 2)]
    assert norms[0] == norms[1] != norms[2]


def test_what_cannot_be_looked_into(rng):
    class Constant(nn.Module):
        def forward(self, x):
            return x.detach()

    with pytest.raises(ArgumentError, match="depends neither on its input nor on a parameter that is learned"):
        inspect.gradient_flow(Constant(), rng.standard_normal((5, 4)))
    with pytest.raises(ArgumentError, match="no convolution with a window larger than 1x1"):
        inspect.responses(network(rng), rng.standard_normal((5, 4)))


def test_responses_are_those_after_the_batch_norm(rng):
    model = models.cifar_resnet(8, width=3, shortcut="C", generator=0)
    for i, module in enumerate(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        module.gamma.data[...] = 1 + i  # and every response has the deviation gamma
    found = inspect.responses(model, rng.standard_normal((4, 8, 8, 3)))
    assert found.names == ["conv"] + [f"stage{s}.0.conv{c}" for s in (1, 2, 3) for c in (1, 2)]
    np.testing.assert_allclose(found.std, [1, 2, 3, 5, 6, 8, 9], rtol=1e-3)  # 4, 7 and 10 are the shortcuts'
    assert list(found.by_magnitude) == sorted(found.std, reverse=True)


def test_responses_without_a_batch_norm(rng):
    conv = nn.Conv2d(2, 3, 3, generator=rng)
    x = rng.standard_normal((2, 5, 6, 2)).astype(np.float32)
    found = inspect.responses(nn.Sequential(conv, nn.ReLU()), x)
    assert found.names == ["0"]
    assert found.std[0] == pytest.approx(asnumpy(conv(Tensor(x)).data).std(), rel=1e-5)


@pytest.mark.host_only("pictures are drawn on the CPU")
def test_the_pictures(rng):
    model = models.cifar_resnet(8, width=2, generator=0)
    x = rng.standard_normal((3, 8, 8, 3))
    flow = inspect.gradient_flow(model, (x, np.array([1, 5, 9])))
    norms, shares = flow.plot().axes
    assert len(norms.lines[0].get_xdata()) == len(flow.layers)
    heights = np.array([bar.get_height() for bar in shares.patches]).reshape(2, 3)
    np.testing.assert_allclose(heights, [[b.skip_share for b in flow.blocks], [b.branch_share for b in flow.blocks]])
    figure = inspect.responses(model, x).plot("one")
    inspect.responses(model, x).plot("two", figure.axes)
    assert [len(ax.lines) for ax in figure.axes] == [2, 2]
