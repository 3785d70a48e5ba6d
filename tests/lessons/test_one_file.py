"""lessons/resnet_in_one_file.py is the network of minires.models, with the recipe of the paper."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from minires import Tensor, data, models
from minires import functional as F

pytestmark = pytest.mark.host_only("the lesson trains on the CPU")


@pytest.fixture(scope="module")
def lesson():
    path = Path(__file__).resolve().parents[2] / "lessons" / "resnet_in_one_file.py"
    spec = importlib.util.spec_from_file_location("resnet_in_one_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def twins(lesson, rng, depth=14):
    """The lesson's network and the engine's, in float64 and with the same weights, gammas and betas random too."""
    mine = lesson.ResNet(depth, classes=7, in_channels=2, width=3).astype("float64")
    theirs = models.cifar_resnet(depth, classes=7, in_channels=2, width=3).astype("float64")
    for p in mine.parameters():
        p.data[...] = rng.standard_normal(p.shape)
    for b in (b for name, b in mine.named_buffers() if b.ndim):
        b.data[...] = rng.uniform(0.5, 2, b.shape)
    theirs.load_state_dict(mine.state_dict())
    return mine, theirs


@pytest.mark.parametrize("training", [True, False])
def test_the_same_logits_and_gradients_as_the_engine_s_network(lesson, rng, training):
    mine, theirs = (m.train(training) for m in twins(lesson, rng))
    pictures = rng.standard_normal((3, 9, 7, 2))
    x, y = (Tensor(pictures, requires_grad=True) for _ in range(2))
    logits, right = mine(x), theirs(y)
    np.testing.assert_allclose(logits.numpy(), right.numpy(), rtol=1e-9)
    upstream = rng.standard_normal(logits.shape)
    logits.backward(upstream)
    right.backward(upstream)
    grads = {"x": (x.grad, y.grad)} | {
        name: (p.grad, q.grad)
        for (name, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True)
    }  # fmt: skip
    for name, (found, expected) in grads.items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9 * scale, err_msg=name)
    for (name, b), (_, c) in zip(mine.named_buffers(), theirs.named_buffers(), strict=True):
        np.testing.assert_allclose(b.data, c.data, rtol=1e-9, err_msg=name)


def test_the_same_first_weights(lesson):
    mine, theirs = lesson.ResNet(8, seed=5).state_dict(), models.cifar_resnet(8, generator=5).state_dict()
    assert list(mine) == list(theirs)
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_parameters(lesson, depth):
    assert lesson.count(lesson.ResNet(depth)) == lesson.PARAMETERS[depth]
    assert lesson.PARAMETERS[depth] == sum(p.size for p in models.cifar_resnet(depth).parameters())


@pytest.mark.parametrize("depth", [2, 9, 19, 54])
def test_other_depths_are_refused(lesson, depth):
    with pytest.raises(ValueError, match=f"6n \\+ 2 .*, got {depth}"):
        lesson.ResNet(depth)


def test_the_schedule_is_the_paper_s(lesson):
    at = {0: 0.1, 399: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}
    assert {i: lesson.learning_rate(i) for i in at} == at
    warm = {0: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01, 48_000: 0.001}
    assert {i: lesson.learning_rate(i, depth=110) for i in warm} == warm
    assert lesson.learning_rate(0, depth=1202) == 0.1
    short = [lesson.learning_rate(i, 640, 110) for i in range(640)]
    assert [short.count(rate) for rate in (0.1, 0.01, 0.001)] == [316, 4 + 160, 160]


def test_augmentation_cuts_windows_and_mirrors(lesson, rng):
    images = rng.standard_normal((200, 5, 4, 2))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    found = lesson.augment(images, rng, pad=2)
    seen = set()
    for k, picture in enumerate(found):
        places = [
            (i, j, m) for i in range(5) for j in range(5) for m in (False, True)
            if np.array_equal(picture, padded[k, i : i + 5, j : j + 4][:, :: -1 if m else 1])
        ]  # fmt: skip
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 45, "some of the 50 windows never come"
    mirrored = lesson.augment(images, np.random.default_rng(0), pad=0)
    share = np.mean([not np.array_equal(a, b) for a, b in zip(images, mirrored, strict=True)])
    assert 0.35 < share < 0.65
    np.testing.assert_array_equal(lesson.augment(images, rng, pad=0, flip=False), images)


def test_the_test_error(lesson, rng):
    """Running statistics, so that the batch does not matter; and the model goes on training afterwards."""
    model, pictures = twins(lesson, rng)[0].eval(), rng.standard_normal((251, 8, 8, 2))
    logits = np.concatenate([model(Tensor(pictures[k : k + 1])).numpy() for k in range(251)])
    model.fc.bias.data -= np.median(logits, 0)  # otherwise all may be of one class
    labels = (logits - np.median(logits, 0)).argmax(1)
    assert len(set(labels)) > 3
    model.train()
    assert lesson.test_error(model, pictures, labels) == 0
    assert model.training
    labels[:17] = (labels[:17] + 1) % 7
    assert lesson.test_error(model, pictures, labels) == 17 / 251


def test_a_step_is_sgd_with_momentum_and_weight_decay(lesson, monkeypatch):
    """Two steps against v <- 0.9 v + g + 1e-4 p, p <- p - 0.1 v, on pictures less the mean of the training set."""
    train_set, test_set = (s.take(6) for s in data.digits())
    monkeypatch.setattr(lesson, "augment", lambda images, *options: images)
    monkeypatch.setattr(lesson, "learning_rate", lambda *at: 0.1)
    model, twin = lesson.ResNet(8, in_channels=1, width=3), lesson.ResNet(8, in_channels=1, width=3)
    lesson.train(model, train_set, test_set, 2, batch=6, log=lambda line: None)
    images = (train_set.images / 255 - train_set.images.mean(0) / 255).astype("float32")
    velocity = [0 * p.data for p in twin.parameters()]
    for _ in range(2):
        F.cross_entropy(twin(Tensor(images)), train_set.labels).backward()
        for v, p in zip(velocity, twin.parameters(), strict=True):
            v[...] = 0.9 * v + p.grad + 1e-4 * p.data
            p.data -= np.float32(0.1) * v
        twin.zero_grad()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_short_run_learns(lesson, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(lesson, "FAST", True)
    error = lesson.main(["--iterations", "36", "--batch", "96", "--save", str(tmp_path / "weights.npz")])
    out = capsys.readouterr().out
    assert error < 0.4, out  # 0.9 is chance
    assert out.startswith("ResNet-8, 75,002 parameters, 1,437 pictures, 36 iterations\n")
    assert out.count("\nepoch ") == 3
    with np.load(tmp_path / "weights.npz") as saved:
        models.cifar_resnet(8, in_channels=1).load_state_dict(dict(saved))


def test_cifar_through_minires_data(lesson, monkeypatch, capsys):
    monkeypatch.setattr(lesson, "FAST", True)
    asked = []

    def cifar10(path):
        asked.append(path)
        return data.shapes(24, 0), data.shapes(20, 1)

    monkeypatch.setattr(lesson.data, "cifar10", cifar10)
    lesson.main(["--data", "somewhere", "--depth", "14", "--iterations", "3", "--batch", "8"])
    assert asked == ["somewhere"]
    assert capsys.readouterr().out.startswith("ResNet-14, 172,506 parameters, 24 pictures, 3 iterations\n")
