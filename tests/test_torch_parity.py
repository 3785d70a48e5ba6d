"""PyTorch as an independent witness: the same numbers to 1e-9 in float64, layer by layer, network by network.

A difference names the first tensor that is out of tolerance, in the order forward, running statistics, gradients from
the output back to the input.
"""

import numpy as np
import pytest

from minires import Tensor, asnumpy, nn, no_grad, optim
from minires import functional as F
from minires.models import cifar_resnet, imagenet_resnet

torch = pytest.importorskip("torch")

from minires.bench.torch_twin import (  # noqa: E402 - it needs torch
    buffers,
    cifar_twin,
    copy_weights,
    gradients,
    imagenet_twin,
    named_tensors,
    nchw,
    nhwc,
)

from .devices import affordable, here  # noqa: E402
from .networks import shuffled  # noqa: E402

TOLERANCE = 1e-9


def assert_close(ours, theirs, tolerance=TOLERANCE):
    """Arrays by name, equal norm-wise and entry by entry relative to the largest; the first that is not is named."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        got = asnumpy(ours[name])
        assert got.shape == expected.shape, f"first difference: {name} is {got.shape}, PyTorch's {expected.shape}"
        if not expected.size:
            continue
        largest, norm = np.abs(expected).max(), np.linalg.norm(expected)
        assert norm > 0, f"{name} is zero everywhere: nothing was compared"
        worst, whole = np.abs(got - expected).max() / largest, np.linalg.norm(got - expected) / norm
        assert max(worst, whole) <= tolerance, f"first difference: {name}, {worst:.1e} at most, {whole:.1e} norm-wise"


def compare(model, twin, x, rng, pictures=True, training=True):
    """Run both forward and backward from the same weights and upstream gradient, and compare everything."""
    copy_weights(shuffled(model, rng).train(training), twin).train(training)
    to_torch, to_numpy = (nchw, nhwc) if pictures else (torch.from_numpy, lambda t: t.detach().numpy())
    ours, theirs = Tensor(x, requires_grad=True), to_torch(x).requires_grad_()
    y, expected = model(ours), twin(theirs)
    out = to_numpy if expected.ndim == x.ndim else lambda t: t.detach().numpy()
    assert_close({"output": y.numpy()}, {"output": out(expected)})

    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    expected.backward((nchw if out is nhwc else torch.from_numpy)(dy))
    assert_close({n: b.numpy() for n, b in model.named_buffers()}, buffers(twin))
    assert_close(
        {n: p.grad for n, p in reversed(list(model.named_parameters()))} | {"x": ours.grad},
        dict(reversed(gradients(twin).items())) | {"x": to_numpy(theirs.grad)},
    )


CONVOLUTIONS = [
    # kernel, stride, padding, dilation, groups, bias
    (3, 1, 1, 1, 1, True),
    (3, 2, 1, 1, 1, False),
    (1, 1, 0, 1, 1, False),
    (1, 2, 0, 1, 1, True),  # the last row and column are never seen
    (7, 2, 3, 1, 1, False),
    (3, 1, 2, 2, 1, True),
    (3, 3, 0, 1, 1, True),
    ((2, 3), (3, 2), (1, 2), (2, 1), 1, True),
    (3, 2, 1, 1, 2, True),
    (3, 1, 1, 1, 4, False),  # depthwise with a multiplier
    ((5, 1), 1, (2, 0), 1, 2, False),
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "groups", "bias"), CONVOLUTIONS)
def test_conv2d(rng, kernel, stride, padding, dilation, groups, bias):
    arguments = (4, 6 if groups < 4 else 8, kernel, stride, padding, dilation, groups, bias)
    model, twin = nn.Conv2d(*arguments, generator=rng), torch.nn.Conv2d(*arguments)
    compare(model, twin, rng.standard_normal((3, 10, 9, 4)), rng)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4, 7), (7,)])
def test_linear(rng, shape, bias):
    model, twin = nn.Linear(7, 4, bias, generator=rng), torch.nn.Linear(7, 4, bias)
    compare(model, twin, rng.standard_normal(shape), rng, pictures=False)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("eps", "momentum"), [(1e-5, 0.1), (1e-2, 0.3)])
def test_batch_norm(rng, training, eps, momentum):
    model, twin = nn.BatchNorm2d(6, eps, momentum), torch.nn.BatchNorm2d(6, eps, momentum)
    compare(model, twin, 3 * rng.standard_normal((3, 5, 4, 6)) + 2, rng, training=training)


def test_norms_start_as_in_pytorch():
    for ours, theirs in (
        (nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)),
        (nn.LayerNorm((2, 3)), torch.nn.LayerNorm((2, 3))),
    ):
        expected = {n: t.tolist() for n, t in named_tensors(theirs).items()}
        assert {n: a.tolist() for n, a in ours.state_dict().items()} == expected


def test_batch_norm_statistics_of_several_batches(rng):
    model, twin = nn.BatchNorm2d(4).astype(np.float64), torch.nn.BatchNorm2d(4)
    copy_weights(model, twin)
    for n in (2, 3, 5):  # of different sizes: the unbiased variance depends on the number of values
        x = 2 * rng.standard_normal((n, 3, 1, 4)) - 1
        model(Tensor(x))
        twin(nchw(x))
        assert_close({n: b.numpy() for n, b in model.named_buffers()}, buffers(twin))
    x = rng.standard_normal((2, 3, 1, 4))
    assert_close({"eval": model.eval()(Tensor(x)).numpy()}, {"eval": nhwc(twin.eval()(nchw(x)))})


@pytest.mark.parametrize(("shape", "eps"), [((6,), 1e-5), ((4, 6), 1e-5), ((5, 4, 6), 1e-2)])
def test_layer_norm(rng, shape, eps):
    x = 3 * rng.standard_normal((3, 5, 4, 6)) + 2
    compare(nn.LayerNorm(shape, eps), torch.nn.LayerNorm(shape, eps), x, rng, pictures=False)


@pytest.mark.parametrize("kind", ["MaxPool2d", "AvgPool2d"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, None, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (1, 2), (1, 0)), (2, 3, 1)]
)
def test_pools(rng, kind, kernel, stride, padding):
    model, twin = getattr(nn, kind)(kernel, stride, padding), getattr(torch.nn, kind)(kernel, stride, padding)
    compare_stateless(model, twin, rng.standard_normal((3, 8, 7, 4)) - 2, rng)  # mostly negative: padding must not win


def compare_stateless(model, twin, x, rng, pictures=True):
    """As `compare`, for layers without parameters."""
    to_torch, to_numpy = (nchw, nhwc) if pictures else (torch.from_numpy, lambda t: t.detach().numpy())
    ours, theirs = Tensor(x, requires_grad=True), to_torch(x).requires_grad_()
    y, expected = model(ours), twin(theirs)
    assert_close({"output": y.numpy()}, {"output": to_numpy(expected)})
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    expected.backward(to_torch(dy))
    assert_close({"x": ours.grad}, {"x": to_numpy(theirs.grad)})


def test_global_average_pool(rng):
    twin = lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 1).permute(0, 2, 3, 1).flatten(1)
    x = rng.standard_normal((3, 5, 4, 6))
    ours, theirs, dy = Tensor(x, requires_grad=True), nchw(x).requires_grad_(), rng.standard_normal((3, 6))
    y, expected = nn.GlobalAvgPool2d()(ours), twin(theirs)
    y.backward(dy)
    expected.backward(torch.from_numpy(dy))
    assert_close({"output": y.numpy(), "x": ours.grad}, {"output": expected.detach().numpy(), "x": nhwc(theirs.grad)})


POINTWISE = {
    "relu": (nn.ReLU(), torch.nn.ReLU()),
    "dropout in evaluation": (nn.Dropout(0.5).eval(), torch.nn.Dropout(0.5).eval()),
    "dropout with p = 0": (nn.Dropout(0.0), torch.nn.Dropout(0.0)),
    "flatten": (nn.Flatten(), torch.nn.Flatten()),
    "log_softmax": (F.log_softmax, torch.nn.LogSoftmax(-1)),
    "log_softmax of axis 1": (lambda x: F.log_softmax(x, 1), torch.nn.LogSoftmax(1)),
    "softmax": (F.softmax, torch.nn.Softmax(-1)),
    "sigmoid": (F.sigmoid, torch.nn.Sigmoid()),
    "tanh": (F.tanh, torch.nn.Tanh()),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_layers_without_parameters(rng, name):
    compare_stateless(*POINTWISE[name], 3 * rng.standard_normal((3, 4, 5)), rng, pictures=False)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_cross_entropy(rng, reduction, smoothing, scale):
    labels = rng.integers(0, 7, 5)
    options = {"label_smoothing": smoothing, "reduction": reduction}
    compare_stateless(
        lambda x: F.cross_entropy(x, labels, **options),
        lambda x: torch.nn.functional.cross_entropy(x, torch.from_numpy(labels), **options),
        scale * rng.standard_normal((5, 7)), rng, pictures=False,
    )  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse_loss(rng, reduction):
    target = rng.standard_normal((4, 3))
    compare_stateless(
        lambda x: F.mse_loss(x, Tensor(target), reduction),
        lambda x: torch.nn.functional.mse_loss(x, torch.from_numpy(target), reduction=reduction),
        rng.standard_normal((4, 3)), rng, pictures=False,
    )  # fmt: skip


# -- networks ---------------------------------------------------------------------------------------------------------

CIFAR = {
    "A": {"shortcut": "A"},
    "B": {"shortcut": "B"},
    "C": {"shortcut": "C"},
    "plain": {"residual": False},
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("variant", CIFAR)
def test_resnet20(rng, variant, training):
    model, twin = cifar_resnet(20, **CIFAR[variant], generator=1), cifar_twin(20, **CIFAR[variant])
    compare(model, twin, rng.standard_normal((4, 15, 16, 3)), rng, training=training)


IMAGENET = {
    "18": (18, {}),
    "18 A": (18, {"shortcut": "A"}),
    "50 stride in 3x3": (50, {"stride_in": "3x3"}),
    "50 stride in 1x1": (50, {"stride_in": "1x1"}),
}
SHORT = pytest.mark.host_only("the stand-in takes its time: there ResNet-18 stands for them all")


@pytest.mark.parametrize("variant", ["18", *(pytest.param(name, marks=SHORT) for name in list(IMAGENET)[1:])])
def test_imagenet_resnets(rng, variant):
    depth, options = IMAGENET[variant]
    model, twin = imagenet_resnet(depth, **options, classes=7, generator=1), imagenet_twin(depth, **options, classes=7)
    compare(model, twin, rng.standard_normal((4, 33, 40, 3)), rng)


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [False, True], ids=["momentum", "nesterov"])
def test_fifty_steps_of_training_follow_pytorch(rng, nesterov):
    model, twin = cifar_resnet(8, width=8, generator=1).astype(np.float64), cifar_twin(8, width=8)
    copy_weights(model, twin)
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": nesterov}
    ours, theirs = optim.SGD(model.parameters(), **settings), torch.optim.SGD(twin.parameters(), **settings)
    schedule = optim.MultiStepLR(ours, [20, 40])  # where Caffe's momentum and PyTorch's part
    their_schedule = torch.optim.lr_scheduler.MultiStepLR(theirs, [20, 40])
    pictures, labels = rng.standard_normal((4, 12, 12, 12, 3)), rng.integers(0, 10, (4, 12))
    for step in range(affordable(50, 4)):
        x, t = pictures[step % 4], labels[step % 4]
        ours.zero_grad()
        loss = F.cross_entropy(model(Tensor(x)), t)
        loss.backward()
        ours.step()
        schedule.step()
        theirs.zero_grad()
        expected = torch.nn.functional.cross_entropy(twin(nchw(x)), torch.from_numpy(t))
        expected.backward()
        theirs.step()
        their_schedule.step()
        difference = abs(loss.item() - expected.item())
        assert difference <= 1e-7 * max(1, expected.item()), (
            f"first difference: {difference:.1e} in the loss of step {step}"
        )
    with no_grad():
        y = model.eval()(Tensor(pictures[0])).numpy()
    assert_close({"evaluation after training": y},
                 {"evaluation after training": twin.eval()(nchw(pictures[0])).detach().numpy()}, 1e-7)  # fmt: skip
    assert named_tensors(twin).keys() == model.state_dict().keys()


OPTIMISERS = {
    "sgd": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "weight decay": ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    "momentum and decay": ("SGD", {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05}),
    "nesterov and decay": ("SGD", {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05, "nesterov": True}),
    "adam": ("Adam", {"lr": 0.01}),
    "adam and decay": ("Adam", {"lr": 0.01, "weight_decay": 0.1}),
    "adam settings": ("Adam", {"lr": 0.01, "betas": (0.7, 0.95), "eps": 1e-2}),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_step_by_step(rng, name):
    kind, settings = OPTIMISERS[name]
    values = [rng.standard_normal(shape) for shape in [(3, 4), (5,), (2, 2, 3)]]
    ours = [nn.Parameter(v.copy()) for v in values]
    theirs = [torch.nn.Parameter(torch.from_numpy(v.copy())) for v in values]
    groups = lambda p: [{"params": p[:2]}, {"params": p[2:], "lr": 0.003, "weight_decay": 0.2}]
    optimiser = getattr(optim, kind)(groups(ours), **settings)
    their_optimiser = getattr(torch.optim, kind)(groups(theirs), **settings)
    for step in range(30):
        if step == 15:
            for groups_of in (optimiser.groups, their_optimiser.param_groups):
                groups_of[0]["lr"] *= 0.1
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            grad = None if (i + step) % 7 == 0 else rng.standard_normal(p.shape)  # now and then nothing arrives
            p.grad, q.grad = here(grad), None if grad is None else torch.from_numpy(grad.copy())
        optimiser.step()
        their_optimiser.step()
        names = [f"parameter {i} after step {step}" for i in range(3)]
        got, expected = (p.numpy() for p in ours), (q.detach().numpy() for q in theirs)
        assert_close(dict(zip(names, got, strict=True)), dict(zip(names, expected, strict=True)), 1e-12)


SCHEDULES = {
    "multi-step": (
        lambda o: optim.MultiStepLR(o, [1, 10, 11, 25], 0.3),
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 10, 11, 25], 0.3),
    ),
    "cosine": (lambda o: optim.CosineLR(o, 30), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 30)),
    "constant": (optim.ConstantLR, lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda i: 1.0)),
    "linear warm-up": (
        lambda o: optim.WarmUp(optim.ConstantLR(o), 8, 0.25, "linear"),
        lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.25, 1.0, 8),
    ),
    "constant warm-up": (
        lambda o: optim.WarmUp(optim.ConstantLR(o), 8, 0.25),
        lambda o: torch.optim.lr_scheduler.ConstantLR(o, 0.25, 8),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    make, make_theirs = SCHEDULES[name]
    ours = optim.SGD([{"params": [nn.Parameter(np.ones(2))]}, {"params": [nn.Parameter(np.ones(2))], "lr": 0.01}], 0.1)
    theirs = torch.optim.SGD([{"params": [torch.ones(2)]}, {"params": [torch.ones(2)], "lr": 0.01}], 0.1)
    schedule, their_schedule = make(ours), make_theirs(theirs)
    for iteration in range(31):
        rates, expected = [g["lr"] for g in ours.groups], [g["lr"] for g in theirs.param_groups]
        assert rates == pytest.approx(expected, rel=1e-12, abs=1e-16), f"first difference: iteration {iteration}"
        ours.step()
        schedule.step()
        theirs.step()
        their_schedule.step()


def test_cosine_ends_where_pytorch_ends():
    ours, theirs = optim.SGD([nn.Parameter(np.ones(2))], 0.1), torch.optim.SGD([torch.ones(2)], 0.1)
    schedule = optim.CosineLR(ours, 30, final=0.2)
    their_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 30, eta_min=0.2 * 0.1)
    for _ in range(30):
        theirs.step()
        schedule.step()
        their_schedule.step()
        assert ours.groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
