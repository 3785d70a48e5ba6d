"""A whole training step on the GPU, launch by launch and as a graph, beside the CPU's."""

import numpy as np
import pytest

import minires
from minires import data, models, optim
from minires import functional as F
from minires.backend import graphs
from minires.data.resident import Resident
from minires.kernels.cuda.descent import scaling_of
from minires.train.step import DeviceStep
from tests.gpu import standin

pytestmark = [pytest.mark.host_only("uses both devices in one test"), pytest.mark.usefixtures("gpu")]

BATCH, SIZE = 5, 8


def network(depth=8, **options):
    return models.cifar_resnet(depth, width=4, classes=7, generator=0, **options)


def batches(rng, count):
    return [
        (rng.standard_normal((BATCH, SIZE, SIZE, 3)).astype(np.float32), rng.integers(0, 7, BATCH))
        for _ in range(count)
    ]


def sgd(model, lr=0.05):
    return optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3)


def by_hand(given, rates, **options):
    """The losses and the network after training it on the CPU."""
    model, losses = network(**options), []
    optimizer = sgd(model)
    for (images, labels), lr in zip(given, rates, strict=True):
        optimizer.groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss = F.cross_entropy(model(minires.Tensor(images)), labels, 0.1)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), model


def in_steps(given, rates, graph=True, scaling=None, shrink=1.0, **options):
    """The same with a `DeviceStep`."""
    model, losses = network(**options).to("cuda"), []
    model.conv.weight.data *= shrink  # the batch norm undoes that, and the gradient is as much larger
    optimizer = sgd(model)
    step = DeviceStep(model, optimizer, BATCH, (SIZE, SIZE, 3), label_smoothing=0.1, graph=graph, scaling=scaling)
    for (images, labels), lr in zip(given, rates, strict=True):
        optimizer.groups[0]["lr"] = lr
        with step.stream:
            step.images.set(images)
            step.labels.set(labels)
        step()
        losses.append(step.read()[0] / BATCH)
    return np.array(losses), model, step


@pytest.mark.parametrize("options", [{}, {"shortcut": "B"}, {"residual": False}], ids=str)
@pytest.mark.parametrize("graph", [True, False])
def test_a_step_on_the_gpu_is_the_step_on_the_cpu(graph, options, rng):
    given, rates = batches(rng, 6), [0.05, 0.05, 0.05, 0.05, 0.01, 0.02]  # a schedule goes on in a recorded step
    losses, here = by_hand(given, rates, **options)
    there_losses, there, step = in_steps(given, rates, graph, **options)
    assert step.problem is None
    assert step.recorded == graph
    np.testing.assert_allclose(there_losses, losses, rtol=1e-4)
    for (name, one), other in zip(there.state_dict().items(), here.state_dict().values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4, err_msg=name)


def test_wrong_answers_are_counted(rng):
    given = batches(rng, 5)
    model = network().to("cuda")
    step = DeviceStep(model, sgd(model, 0.0), BATCH, (SIZE, SIZE, 3))
    expected = 0
    for images, labels in given:
        with step.stream:
            step.images.set(images)
            step.labels.set(labels)
        step()
        logits = model(minires.Tensor(images).to("cuda")).numpy()
        expected += int((logits.argmax(1) != labels).sum())
    assert step.read()[1] == expected
    assert step.read() == (0.0, 0)


def test_a_step_fills_its_own_batch_if_it_is_told_how(rng):
    model = network().to("cuda")
    seen = minires.backend.cupy().zeros(1, np.int64)

    def fill(images, labels):
        images.fill(0.5)
        labels.fill(3)
        seen[...] += 1

    step = DeviceStep(model, sgd(model), BATCH, (SIZE, SIZE, 3), fill=fill)
    for _ in range(6):
        step()
    assert seen.get() == 6
    assert step.labels.get().tolist() == [3] * BATCH


def test_a_scaled_loss_takes_the_same_steps(rng):
    given, rates = batches(rng, 6), [0.05] * 6
    losses, _ = by_hand(given, rates)
    scaling = scaling_of(4096.0)
    there_losses, _, step = in_steps(given, rates, scaling=scaling)
    assert step.skipped() == 0
    np.testing.assert_allclose(there_losses, losses, rtol=1e-3)


def test_a_loss_that_is_scaled_too_far_skips_steps_until_it_is_not(rng):
    given, rates = batches(rng, 9), [0.05] * 9
    _, model, step = in_steps(given, rates, scaling=scaling_of(3e38), shrink=0.01)
    assert step.scaling.get()[0] < 1e38  # halved and halved again
    for name, value in model.named_parameters():
        assert np.isfinite(value.numpy()).all(), name


def test_a_step_of_resnet20_is_at_most_190_launches_and_waits_for_nothing(gpu):
    if gpu != "standin":
        pytest.skip("only the stand-in counts")
    model = models.cifar_resnet(20, generator=0).to("cuda")
    train = data.Dataset(np.zeros((128, 32, 32, 3), np.uint8), np.zeros(128, int), ("one",))
    loader = data.DataLoader(train, 128, transform=data.train_transform(0.5))
    step = DeviceStep(model, sgd(model), 128, (32, 32, 3), fill=Resident(loader).fill)
    for p in model.parameters():
        p.grad = p.data * 0
    step.optimizer.step()  # makes what later steps find there
    with standin.counter() as counts:
        step._record()  # nothing runs while it is recorded
    assert step.problem is None
    assert counts.launches == 181, counts.names  # as the README says; 190 at most
    assert (counts.synchronisations, counts.copies_to_host) == (1, 0)  # one before a recording begins


def test_what_cannot_be_recorded_is_run_as_it_is():
    cupy = minires.backend.cupy()
    calls, there = [], cupy.zeros(1, np.float32)

    def function():
        calls.append(graphs.capturing())
        there[...] += 1
        if graphs.capturing():
            there.get()

    graph = graphs.Graph(function, warm_up=2)
    for _ in range(5):
        graph()
    assert "launch by launch" in graph.problem
    assert calls == [False, False, True, False, False, False]
    assert there.get() == 5


def test_what_is_recorded_goes_on_with_what_lies_on_the_device():
    cupy = minires.backend.cupy()
    x, total, later = cupy.ones(3, np.float32), cupy.zeros(3, np.float32), []

    def function():
        graphs.after_capture(lambda: later.append(graphs.capturing()))
        y = x * 2
        total[...] += y
        return y

    graph = graphs.Graph(function, warm_up=1)
    for i in range(4):
        x.fill(i)
        y = graph()
        assert y.get().tolist() == [2 * i] * 3
    assert graph.recorded
    assert total.get().tolist() == [12] * 3
    assert later == [False, False]  # when it ran, and when it had been recorded
