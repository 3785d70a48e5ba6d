"""Residual networks: their sizes, their gradients, and what makes them residual."""

import sys

import numpy as np
import pytest

import minires
from minires import Tensor, asnumpy, gradcheck, nn, no_grad, optim
from minires import functional as F
from minires.errors import ArgumentError
from minires.models import (
    BasicBlock,
    Bottleneck,
    IdentityShortcut,
    ProjectionShortcut,
    ResNet,
    build,
    cifar_resnet,
    imagenet_resnet,
    make_shortcut,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)


class Blank:
    """A generator of zeros, for tests that only count: 60 million normal numbers take their time."""

    standard_normal = staticmethod(np.zeros)


def count(model):
    return sum(p.size for p in model.parameters())


def randomise(module, rng):
    """Random gamma and beta, and running statistics away from 0 and 1, where a wrong factor could hide."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            shape = part.gamma.shape
            part.gamma.data = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
            part.beta.data = rng.standard_normal(shape)
            part.running_mean.data = 0.3 * rng.standard_normal(shape)
            part.running_var.data = rng.uniform(0.5, 2, shape)
    return module


def norms_before_additions(model):
    return [block.last_norm for block in model.blocks()]


# -- sizes ------------------------------------------------------------------------------------------------------------

CIFAR_PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962, 1202: 19_421_274}


@pytest.mark.parametrize("depth", CIFAR_PARAMETERS)
def test_parameters_of_cifar_networks(depth):
    expected = CIFAR_PARAMETERS[depth]
    assert count(cifar_resnet(depth, generator=Blank())) == expected
    assert count(cifar_resnet(depth, residual=False, generator=Blank())) == expected  # the plain twin: exactly as many
    assert count(cifar_resnet(depth, shortcut="B", generator=Blank())) == expected + 2_752


def test_parameters_of_cifar_networks_by_name_and_option():
    assert count(cifar_resnet(20, shortcut="C", generator=Blank())) == 283_962
    assert count(build("resnet20", generator=Blank())) == count(build("plain20", generator=Blank())) == 269_722
    assert count(build("resnet56", shortcut="B", generator=Blank())) == 855_770
    assert count(cifar_resnet(20, classes=100, in_channels=1, generator=Blank())) == 269_722 + 90 * 65 - 2 * 9 * 16


IMAGENET_PARAMETERS = {
    18: (11_689_512, 11_515_688),
    34: (21_797_672, 21_623_848),
    50: (25_557_032, 22_780_456),
    101: (44_549_160, 41_772_584),
    152: (60_192_808, 57_416_232),
}


@pytest.mark.parametrize("depth", IMAGENET_PARAMETERS)
def test_parameters_of_imagenet_networks(depth):
    by_projection, by_padding = IMAGENET_PARAMETERS[depth]
    make = {18: resnet18, 34: resnet34, 50: resnet50, 101: resnet101, 152: resnet152}[depth]
    assert count(make(generator=Blank())) == by_projection
    assert count(make(shortcut="A", generator=Blank())) == by_padding
    assert count(make(residual=False, generator=Blank())) == by_padding
    assert count(build(f"resnet{depth}", stride_in="1x1", generator=Blank())) == by_projection


def test_parameters_of_resnet34_with_projections_everywhere():
    assert count(resnet34(shortcut="C", generator=Blank())) == 22_716_840


@pytest.mark.parametrize(("name", "layers"), [("resnet8", 8), ("resnet20", 20), ("plain56", 56), ("resnet110", 110),
                                              ("resnet18", 18), ("resnet34", 34), ("resnet50", 50), ("plain18", 18),
                                              ("resnet101", 101), ("resnet152", 152)])  # fmt: skip
def test_the_number_in_the_name_counts_the_layers_with_weights(name, layers):
    modules = dict(build(name, generator=Blank()).named_modules())
    weighted = [n for n, m in modules.items() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in n]
    assert len(weighted) == layers


def stage_shapes(model, x):
    """The shape after each stage, and of the logits."""
    shapes = []
    for stage in range(1, model.stages + 1):
        getattr(model, f"stage{stage}").register_forward_hook(lambda module, x, y: shapes.append(y.shape))
    with no_grad():
        shapes.append(model(Tensor(np.zeros(x, np.float32))).shape)
    return shapes


@pytest.mark.parametrize("options", [{}, {"shortcut": "B"}, {"shortcut": "C"}, {"residual": False}])
@pytest.mark.parametrize("depth", [8, 20])
def test_shapes_of_cifar_networks(depth, options):
    model = cifar_resnet(depth, **options, classes=7, generator=0).eval()
    assert stage_shapes(model, (2, 32, 32, 3)) == [(2, 32, 32, 16), (2, 16, 16, 32), (2, 8, 8, 64), (2, 7)]
    model = cifar_resnet(depth, **options, width=4, in_channels=1, generator=0).eval()
    assert stage_shapes(model, (3, 11, 14, 1)) == [(3, 11, 14, 4), (3, 6, 7, 8), (3, 3, 4, 16), (3, 10)]  # odd sizes


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize(("depth", "factor"), [(18, 1), (34, 1), (50, 4)])
def test_shapes_of_imagenet_networks(depth, factor, shortcut):
    model = imagenet_resnet(depth, shortcut, classes=5, generator=Blank()).eval()
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    expected = [(1, *size, width * factor) for size, width in zip(sizes, (64, 128, 256, 512), strict=True)]
    assert stage_shapes(model, (1, 64, 96, 3)) == [*expected, (1, 5)]


@pytest.mark.parametrize(("rows", "after_conv", "after_pool"), [(224, 112, 56), (64, 32, 16), (33, 17, 9), (5, 3, 2)])
def test_the_stem_halves_and_halves_again(rows, after_conv, after_pool):
    model, x = resnet18(generator=Blank()), Tensor(np.zeros((1, rows, 8, 3), np.float32))
    assert model.conv(x).shape == (1, after_conv, 4, 64)
    assert model.pool(model.conv(x)).shape == (1, after_pool, 2, 64)
    assert cifar_resnet(8, generator=0).conv(x).shape == (1, rows, 8, 16)


@pytest.mark.parametrize(("stride_in", "middle"), [("3x3", (9, 7)), ("1x1", (5, 4))])
def test_where_a_bottleneck_has_its_stride(stride_in, middle):
    block = Bottleneck(6, 4, 2, make_shortcut("B", 6, 16, 2), stride_in)
    seen = []
    block.conv1.register_forward_hook(lambda module, x, y: seen.append(y.shape[1:3]))
    y = block(Tensor(np.zeros((2, 9, 7, 6), np.float32)))
    assert seen == [middle]
    assert y.shape == (2, 5, 4, 16)


# -- shortcuts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "shape", "kind"),
    [
        ("A", (4, 4, 1), IdentityShortcut),
        ("A", (4, 8, 2), IdentityShortcut),
        ("B", (4, 4, 1), IdentityShortcut),
        ("B", (4, 8, 1), ProjectionShortcut),
        ("B", (4, 4, 2), ProjectionShortcut),
        ("C", (4, 4, 1), ProjectionShortcut),
        ("C", (4, 8, 2), ProjectionShortcut),
    ],
)
def test_which_shortcut_an_option_means(option, shape, kind):
    assert type(make_shortcut(option, *shape)) is kind


def test_shortcut_a_keeps_every_second_pixel_and_appends_zero_channels(rng):
    x = rng.standard_normal((2, 5, 6, 3))
    y = IdentityShortcut(3, 7, 2)(Tensor(x)).numpy()
    np.testing.assert_array_equal(y[..., :3], x[:, ::2, ::2])
    np.testing.assert_array_equal(y[..., 3:], 0)
    assert y.shape == (2, 3, 3, 7)


def test_a_shortcut_that_keeps_the_shape_is_its_input():
    x = Tensor(np.ones((1, 2, 2, 3)))
    assert IdentityShortcut(3, 3)(x) is x


def test_unknown_options_are_refused():
    with pytest.raises(ArgumentError, match="shortcut must be one of A, B, C, got 'D'"):
        cifar_resnet(8, shortcut="D")
    with pytest.raises(ArgumentError, match="stride_in must be '3x3' or '1x1', got '2x2'"):
        resnet50(stride_in="2x2")
    with pytest.raises(ArgumentError, match="cannot reduce 8 channels to 4"):
        IdentityShortcut(8, 4)


# -- gradients --------------------------------------------------------------------------------------------------------

BLOCKS = [
    (kind, option, stride) for kind in (BasicBlock, Bottleneck) for option in ("A", "B", "C", None) for stride in (1, 2)
]


def random_block(kind, option, stride, rng, channels=None, **options):
    channels = (4 if kind is Bottleneck else 3) if channels is None else channels
    width = 2 if kind is Bottleneck else 4
    path = None if option is None else make_shortcut(option, channels, width * kind.expansion, stride, rng)
    return randomise(kind(channels, width, stride, path, generator=rng, **options), rng)


@pytest.mark.parametrize(("kind", "option", "stride"), BLOCKS)
def test_gradients_of_blocks(rng, kind, option, stride):
    block = random_block(kind, option, stride, rng)
    x = rng.standard_normal((3, 5, 6, block.conv1.weight.shape[2]))
    gradcheck(block, {"x": x}).assert_ok()


@pytest.mark.parametrize(("kind", "option", "stride"), BLOCKS)
def test_gradients_of_blocks_with_both_kernels(kernels, rng, kind, option, stride):
    block = random_block(kind, option, stride, rng)
    x = rng.standard_normal((2, 3, 4, block.conv1.weight.shape[2]))
    gradcheck(block, {"x": x}, max_entries=4).assert_ok()


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_gradients_of_same_shape_blocks(rng, kind):
    block = random_block(kind, "A", 1, rng, channels=8 if kind is Bottleneck else 4)
    assert not block.shortcut.changes_shape
    gradcheck(block, {"x": rng.standard_normal((3, 5, 6, block.conv1.weight.shape[2]))}).assert_ok()


def test_gradients_of_a_bottleneck_with_its_stride_in_the_first_convolution(rng):
    block = random_block(Bottleneck, "B", 2, rng, stride_in="1x1")
    gradcheck(block, {"x": rng.standard_normal((3, 5, 6, 4))}).assert_ok()


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_gradients_of_blocks_in_evaluation(rng, kind):
    block = random_block(kind, "B", 2, rng).eval()
    gradcheck(block, {"x": rng.standard_normal((3, 5, 6, block.conv1.weight.shape[2]))}).assert_ok()


class WithLoss(nn.Module):
    """A network and its loss."""

    def __init__(self, model, labels):
        self.model, self.labels = model, labels

    def forward(self, x):
        return F.cross_entropy(self.model(x), self.labels)


def trained(model, rng, steps):
    """The model after a few steps on random pictures: no longer at a special point."""
    optimiser = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(Tensor(rng.standard_normal((8, 7, 6, 3)))), rng.integers(0, 10, 8)).backward()
        optimiser.step()
    return model


@pytest.mark.parametrize("steps", [0, 20])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("options", [{"shortcut": "A"}, {"shortcut": "B"}, {"residual": False}],
                         ids=["A", "B", "plain"])  # fmt: skip
def test_gradients_of_a_whole_network(rng, options, training, steps):
    model = randomise(cifar_resnet(8, width=4, generator=3, **options), rng).astype(np.float64)
    trained(model, rng, steps).train(training)
    x, labels = rng.standard_normal((4, 7, 6, 3)), rng.integers(0, 10, 4)
    report = gradcheck(WithLoss(model, labels), {"x": x}, max_entries=6)
    report.assert_ok()
    assert len(report.inputs) == 1 + len(list(model.parameters()))  # every parameter was checked


def test_gradients_of_an_imagenet_network(rng):
    model = ResNet(Bottleneck, (1, 2), (2, 3), 4, generator=5)
    randomise(model, rng)
    gradcheck(model, {"x": rng.standard_normal((3, 13, 14, 3))}, max_entries=6).assert_ok()


# -- what makes it residual -------------------------------------------------------------------------------------------


def same_shape_block(kind, rng, dtype=np.float64):
    width = 3
    channels = width * kind.expansion
    block = kind(channels, width, 1, IdentityShortcut(channels, channels), generator=rng)
    return randomise(block, rng).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_a_block_whose_last_gamma_is_zero_is_the_identity(rng, kind, training, dtype):
    block = same_shape_block(kind, rng, dtype).train(training)
    block.last_norm.gamma.data[...] = 0
    block.last_norm.beta.data[...] = 0
    x = np.maximum(rng.standard_normal((3, 5, 4, 3 * kind.expansion)), 0).astype(dtype)  # as a ReLU leaves it
    y = block(Tensor(x)).numpy()
    assert y.dtype == dtype
    assert y.tobytes() == x.tobytes()


@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_the_plus_one(rng, kind):
    block = same_shape_block(kind, rng)
    x = Tensor(rng.standard_normal((3, 5, 4, 3 * kind.expansion)), requires_grad=True)
    y = block(x)
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    total, skip = asnumpy(x.grad), dy * (y.numpy() > 0)

    x.grad, block.shortcut = None, None
    branch_output = []
    block.last_norm.register_forward_hook(lambda module, x, h: branch_output.append(h))
    block(x)
    branch_output[0].backward(skip)
    branch = asnumpy(x.grad)
    assert np.linalg.norm(total - branch - skip) <= 1e-12 * np.linalg.norm(total)
    assert np.linalg.norm(branch) > 0.1 * np.linalg.norm(skip) > 0  # neither part is negligible


def test_zero_init_residual_starts_every_block_as_the_identity(rng):
    model = cifar_resnet(14, width=4, zero_init_residual=True, generator=0)
    assert all((norm.gamma.numpy() == 0).all() for norm in norms_before_additions(model))
    others = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m not in norms_before_additions(model)]
    assert all((norm.gamma.numpy() == 1).all() for norm in others)
    seen = []
    model.stage1.register_forward_hook(lambda module, x, y: seen.extend((x[0].numpy(), y.numpy())))
    model(Tensor(rng.standard_normal((2, 8, 8, 3)).astype(np.float32)))
    assert seen[0].tobytes() == seen[1].tobytes()
    assert (seen[0] > 0).any()

    usual = cifar_resnet(14, width=4, generator=0)
    assert all((norm.gamma.numpy() == 1).all() for norm in norms_before_additions(usual))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_inserting_identity_blocks_leaves_the_loss_unchanged(rng, training):
    shallow = trained(randomise(cifar_resnet(8, width=4, generator=0), rng).astype(np.float64), rng, 5)
    deep = randomise(cifar_resnet(20, width=4, generator=1), rng).astype(np.float64)  # two more blocks in each stage
    known, state = shallow.state_dict(), deep.state_dict()
    deep.load_state_dict(state | known)
    for norm in (b.last_norm for stage in (deep.stage1, deep.stage2, deep.stage3) for b in list(stage)[1:]):
        norm.gamma.data[...] = 0
        norm.beta.data[...] = 0
    x, labels = Tensor(rng.standard_normal((6, 8, 8, 3))), rng.integers(0, 10, 6)
    losses = [F.cross_entropy(model.train(training)(x), labels).item() for model in (shallow, deep)]
    assert abs(losses[1] - losses[0]) <= 1e-12
    assert losses[0] > 0.1


def test_1202_layers_go_backward_within_the_default_recursion_limit(rng):
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # Python's default, whatever an earlier import may have made of it
    try:
        model = cifar_resnet(1202, width=1, generator=0)
        loss = F.cross_entropy(model(Tensor(rng.standard_normal((3, 4, 4, 3)).astype(np.float32))), [1, 2, 3])
        loss.backward()
        forgotten = model(Tensor(rng.standard_normal((3, 4, 4, 3)).astype(np.float32)))
        del forgotten  # a graph that nobody walked is freed without recursion too
    finally:
        sys.setrecursionlimit(before)
    first = model.conv.weight.grad
    assert np.isfinite(first).all()
    assert np.abs(first).max() > 0
    assert all(p.grad is not None for p in model.parameters())


# -- building ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "blocks", "residual"),
    [
        ("resnet8", BasicBlock, 3, True),
        ("resnet20", BasicBlock, 9, True),
        ("plain20", BasicBlock, 9, False),
        ("resnet110", BasicBlock, 54, True),
        ("resnet18", BasicBlock, 8, True),
        ("plain34", BasicBlock, 16, False),
        ("resnet50", Bottleneck, 16, True),
        ("resnet101", Bottleneck, 33, True),
        ("resnet152", Bottleneck, 50, True),
    ],
)
def test_build(name, kind, blocks, residual):
    model = build(name, generator=Blank())
    assert [type(block) for block in model.blocks()] == [kind] * blocks
    assert all((block.shortcut is not None) == residual for block in model.blocks())


def test_build_passes_options_on():
    model = build("resnet8", classes=3, width=2, shortcut="C", generator=0)
    assert model.fc.weight.shape == (8, 3)
    assert all(isinstance(block.shortcut, ProjectionShortcut) for block in model.blocks())


@pytest.mark.parametrize("name", ["vgg16", "resnet", "20", "", "Resnet20", "resnet20x", "resnet-20", "wideresnet28"])
def test_build_refuses_unknown_names(name):
    with pytest.raises(ArgumentError) as error:
        build(name)
    assert f"there is no model {name!r}; choose resnetN or plainN" in str(error.value)
    assert "18, 34, 50, 101, 152 for 224x224" in str(error.value)


@pytest.mark.parametrize(("depth", "near"), [(2, 8), (9, 8), (12, 14), (21, 20), (55, 56), (111, 110), (0, 8), (-4, 8)])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth, near):
    with pytest.raises(ArgumentError, match=rf"the depth must be 6n \+ 2 .*, got {depth}; {near} is near\."):
        cifar_resnet(depth)


def test_an_imagenet_depth_that_is_not_in_the_table_is_refused():
    with pytest.raises(ArgumentError, match="one of 18, 34, 50, 101, 152, got 20"):
        imagenet_resnet(20)


def same(a, b):
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


def test_the_same_seed_gives_the_same_weights():
    first = cifar_resnet(8, shortcut="B", generator=7).state_dict()
    assert same(first, cifar_resnet(8, shortcut="B", generator=7).state_dict())
    assert same(first, cifar_resnet(8, shortcut="B", generator=np.random.default_rng(7)).state_dict())
    assert not same(first, cifar_resnet(8, shortcut="B", generator=8).state_dict())
    minires.manual_seed(3)
    first = cifar_resnet(8).state_dict()
    minires.manual_seed(3)
    assert same(first, cifar_resnet(8).state_dict())
    assert not same(first, cifar_resnet(8).state_dict())  # the default generator has gone on


def test_a_given_generator_leaves_the_default_one_alone():
    minires.manual_seed(3)
    expected = minires.default_generator().random()
    minires.manual_seed(3)
    build("resnet8", shortcut="C", generator=7)
    assert minires.default_generator().random() == expected


def test_the_plain_twin_can_start_from_the_same_weights():
    residual, plain = (cifar_resnet(20, residual=r, generator=7).state_dict() for r in (True, False))
    assert same(residual, plain)


def test_float32_stays_float32(rng):
    model = cifar_resnet(8, width=4, shortcut="C", generator=0)
    y = model(Tensor(rng.standard_normal((2, 8, 8, 3)).astype(np.float32)))
    F.cross_entropy(y, [1, 2]).backward()
    assert y.dtype == np.float32
    assert {p.grad.dtype for p in model.parameters()} == {np.dtype(np.float32)}
    assert {b.dtype for _, b in model.named_buffers()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: cifar_resnet(8, residual=False, zero_init_residual=True), "a plain network that starts at zero"),
        (lambda: resnet18(stride_in="2x2"), "stride_in must be '3x3' or '1x1'"),
        (lambda: ResNet(BasicBlock, (1,), (4,), 10, stem="big"), "stem must be one of cifar, imagenet"),
    ],
)
def test_choices_that_make_no_network(make, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        make()


def test_a_seed_of_numpy_is_a_seed():
    one, other = cifar_resnet(8, width=2, generator=np.int64(3)), cifar_resnet(8, width=2, generator=3)
    np.testing.assert_array_equal(one.conv.weight.data, other.conv.weight.data)
