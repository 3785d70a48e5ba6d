"""Layers: their gradients, running statistics, masks and initial weights."""

import numpy as np
import pytest

import minires
from minires import functional as F
from minires import gradcheck, nn, tensor


def lively(module, rng):
    """Random biases, gammas and statistics: at 0 and 1 a wrong formula may look right."""
    for name, t in (*module.named_parameters(), *module.named_buffers()):
        t.data = rng.uniform(0.5, 2.0, t.shape) if "var" in name else rng.standard_normal(t.shape)
    return module


class Residual(nn.Module):
    """Two paths that meet: relu(norm(conv(x)) + x)."""

    def __init__(self, generator):
        self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False, generator=generator)
        self.norm = nn.BatchNorm2d(2, eps=0.1)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)) + x)


LAYERS = {
    "Conv2d": (lambda g: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), generator=g), (2, 5, 4, 3)),
    "Conv2d, groups": (lambda g: nn.Conv2d(4, 6, 2, dilation=2, groups=2, bias=False, generator=g), (2, 4, 5, 4)),
    "Linear": (lambda g: nn.Linear(5, 4, generator=g), (3, 5)),
    "Linear, 3 axes": (lambda g: nn.Linear(5, 4, bias=False, generator=g), (2, 3, 5)),
    "BatchNorm2d": (lambda g: nn.BatchNorm2d(3, eps=0.1), (4, 3, 2, 3)),
    "BatchNorm2d, 2 axes": (lambda g: nn.BatchNorm2d(3, eps=0.1), (7, 3)),
    "BatchNorm2d, eval": (lambda g: nn.BatchNorm2d(3).eval(), (4, 3, 2, 3)),
    "BatchNorm2d, eval, 1 value": (lambda g: nn.BatchNorm2d(3).eval(), (1, 3)),
    "LayerNorm": (lambda g: nn.LayerNorm(5, eps=0.1), (3, 4, 5)),
    "LayerNorm, 2 axes": (lambda g: nn.LayerNorm((4, 5), eps=0.1), (3, 4, 5)),
    "ReLU": (lambda g: nn.ReLU(), (3, 5)),
    "MaxPool2d": (lambda g: nn.MaxPool2d(3, 2, 1), (2, 5, 6, 3)),
    "AvgPool2d": (lambda g: nn.AvgPool2d((2, 3), padding=(1, 0)), (2, 5, 6, 3)),
    "GlobalAvgPool2d": (lambda g: nn.GlobalAvgPool2d(), (2, 4, 5, 3)),
    "Flatten": (lambda g: nn.Sequential(nn.Flatten(), nn.Linear(30, 2, generator=g)), (3, 2, 5, 3)),
    "Identity": (lambda g: nn.Sequential(nn.Identity(), nn.Linear(5, 2, generator=g)), (3, 5)),
    "Dropout, eval": (lambda g: nn.Sequential(nn.Linear(5, 2, generator=g), nn.Dropout(0.5)).eval(), (3, 5)),
    "Residual": (Residual, (3, 4, 5, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name, kernels, rng):
    make, shape = LAYERS[name]
    report = gradcheck(lively(make(rng), rng), {"x": rng.standard_normal(shape)}, rtol=1e-6).assert_ok()
    assert set(report.inputs) == {"x"} | {n for n, _ in make(rng).named_parameters()}
    assert not any(r.kinks for r in report.inputs.values())


@pytest.mark.parametrize("training", [True, False])
def test_dtype_stays_float32(training, rng):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.AvgPool2d(1),
        nn.GlobalAvgPool2d(), nn.LayerNorm(4), nn.Flatten(), nn.Linear(4, 2),
    ).train(training)  # fmt: skip
    x = tensor(rng.standard_normal((2, 6, 7, 3)), dtype="float32", requires_grad=True)
    y = net(x)
    (y * y).sum().backward()
    assert {t.dtype.name for t in (y, *net.parameters(), *(b for _, b in net.named_buffers()))} == {"float32"}
    assert {p.grad.dtype.name for p in (x, *net.parameters())} == {"float32"}


# -- batch normalisation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, 0.25, 1.0])
def test_running_statistics_by_hand(momentum, kernels, rng):
    layer = nn.BatchNorm2d(3, momentum=momentum).astype("float64")
    mean, var = np.zeros(3), np.ones(3)
    for n in (2, 5):
        x = 3 * rng.standard_normal((n, 2, 4, 3)) + 1
        y = layer(tensor(x))
        mean = (1 - momentum) * mean + momentum * x.mean((0, 1, 2))
        var = (1 - momentum) * var + momentum * x.var((0, 1, 2), ddof=1)  # the running one is unbiased, ...
        expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)  # ... that of the batch is not
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-13)
    np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-13)
    layer.eval()
    expected = (x - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(layer(tensor(x)).numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-13)  # evaluation does not move them


def test_training_batch_norm_ignores_shift_and_scale_and_evaluation_does_not(rng):
    layer, x = nn.BatchNorm2d(3, eps=1e-12).astype("float64"), rng.standard_normal((5, 3))
    np.testing.assert_allclose(layer(tensor(x)).numpy(), layer(tensor(7 * x - 2)).numpy(), atol=1e-9)
    layer.eval()
    assert np.abs(layer(tensor(x)).numpy() - layer(tensor(7 * x - 2)).numpy()).max() > 1


def test_a_graph_of_evaluation_survives_a_later_training_step(rng):
    layer = nn.BatchNorm2d(3).astype("float64")
    x, upstream = tensor(rng.standard_normal((4, 3)), requires_grad=True), rng.standard_normal((4, 3))
    grads = []
    for step_between in (False, True):
        layer.load_state_dict(nn.BatchNorm2d(3).state_dict())
        layer.zero_grad()
        y = layer.eval()(x)
        if step_between:
            layer.train()(tensor(rng.standard_normal((4, 3))))  # moves the running mean and variance in place
        y.backward(upstream)
        grads.append(layer.gamma.grad)
    np.testing.assert_array_equal(*grads)


def test_running_statistics_take_part_in_no_graph(rng):
    layer = nn.BatchNorm2d(3)
    layer(tensor(rng.standard_normal((4, 3)), dtype="float32", requires_grad=True))
    assert not layer.running_mean.requires_grad
    assert layer.running_mean.is_leaf
    assert set(layer.state_dict()) == {"gamma", "beta", "running_mean", "running_var"}


# -- dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_expected_value(p):
    n = 40_000
    x = tensor(np.ones(n), requires_grad=True)
    y = nn.Dropout(p, np.random.default_rng(1))(x)
    scale = 1 / (1 - p)
    assert set(np.unique(y.numpy())) == {0, scale}
    # the mean of n masks of variance p / (1 - p): within five standard deviations
    assert abs(y.numpy().mean() - 1) < 5 * np.sqrt(p / (1 - p) / n)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.numpy())  # the same mask, the same scale


def test_dropout_follows_its_generator():
    x = tensor(np.ones(50))
    layers = [nn.Dropout(0.5, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    first, again, other = ([layer(x).numpy() for _ in range(2)] for layer in layers)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])  # a new mask in each call
    assert not np.array_equal(first[0], other[0])
    results = []
    for _ in range(2):
        minires.manual_seed(5)
        results.append(nn.Dropout()(x).numpy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5).eval(), nn.Dropout(0.0)])
def test_dropout_that_drops_nothing_passes_x_through(layer):
    x = tensor([1.0, 2.0])
    assert layer(x) is x


# -- initial weights --------------------------------------------------------------------------------------------------

SHAPE = (3, 5, 20, 70)  # fan_in 3*5*20 = 300, fan_out 3*5*70 = 1050
INITIALISERS = {  # the variance, and whether it is uniform
    "he_normal": (nn.init.he_normal, 2 / 300, False),
    "he_normal, out": (lambda shape, g: nn.init.he_normal(shape, g, fan="out"), 2 / 1050, False),
    "he_uniform": (nn.init.he_uniform, 2 / 300, True),
    "glorot_normal": (nn.init.glorot_normal, 2 / 1350, False),
    "glorot_uniform": (nn.init.glorot_uniform, 2 / 1350, True),
}


@pytest.mark.parametrize(("shape", "fans"), [(SHAPE, (300, 1050)), ((4, 9), (4, 9)), ((1, 1, 8, 16), (8, 16))])
def test_fans(shape, fans):
    assert nn.init.fans(shape) == fans


@pytest.mark.parametrize("name", INITIALISERS)
def test_moments_of_initial_weights(name):
    initialise, variance, uniform = INITIALISERS[name]
    w = initialise(SHAPE, np.random.default_rng(2))
    assert (w.shape, w.dtype) == (SHAPE, np.float32)
    # five standard deviations of the mean of n values, and of the mean of their squares: sqrt((kurtosis - 1) / n)
    kurtosis = 9 / 5 if uniform else 3
    assert abs(w.mean(dtype=float)) < 5 * np.sqrt(variance / w.size)
    assert abs(np.square(w, dtype=float).mean() / variance - 1) < 5 * np.sqrt((kurtosis - 1) / w.size)
    limit = np.sqrt(3 * variance)
    assert (np.abs(w).max() <= limit * (1 + 1e-6)) == uniform  # a uniform one ends at sqrt(3) sigma
    if uniform:
        assert np.abs(w).max() > 0.999 * limit
    np.testing.assert_array_equal(w, initialise(SHAPE, np.random.default_rng(2)))
    assert not np.array_equal(w, initialise(SHAPE, np.random.default_rng(3)))


@pytest.mark.parametrize(
    "make", [lambda g: nn.Conv2d(4, 6, 3, groups=2, generator=g), lambda g: nn.Linear(4, 6, generator=g)]
)
def test_layers_start_from_their_generator_or_the_default_one(make):
    given = [make(np.random.default_rng(1)) for _ in range(2)]
    default = []
    for _ in range(2):
        minires.manual_seed(1)
        default.append(make(None))
    for a, b in (given, default):
        np.testing.assert_array_equal(a.weight.numpy(), b.weight.numpy())
        assert a.weight.requires_grad
        assert not a.bias.numpy().any()
    expected = nn.init.he_normal(given[0].weight.shape, np.random.default_rng(1))
    np.testing.assert_array_equal(given[0].weight.numpy(), expected)
    assert not np.array_equal(make(None).weight.numpy(), default[1].weight.numpy())
