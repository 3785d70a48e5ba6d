"""Whole runs on the GPU: the CPU's run, whatever interrupts it and wherever it goes on."""

import json

import numpy as np
import pytest

from minires import data
from minires.errors import ArgumentError, DivergedError
from minires.train import Config, Interrupted, Trainer
from minires.train.sets import Sets

pytestmark = [pytest.mark.host_only("uses both devices in one test"), pytest.mark.usefixtures("gpu")]

RECIPE = {"data": "cifar10", "model": "resnet8", "epochs": 3, "batch_size": 16, "width": 4, "lr": 0.02, "log_every": 2,
          "checkpoint_every": 4, "padding": 2, "milestones": (4, 7)}  # fmt: skip


@pytest.fixture
def sets(rng):
    """Three batches in an epoch, the last of them smaller."""
    train = data.Dataset(rng.integers(0, 256, (46, 8, 8, 3)).astype(np.uint8), rng.integers(0, 3, 46), tuple("abc"))
    return Sets(train, train.take(20), "cifar10", data.Normalise.fit(train).mean)


@pytest.fixture
def train(sets, tmp_path):
    """Make a trainer: train(folder, device, **options of the recipe or the trainer)."""

    def make(folder, device, resume=False, **options):
        others = {k: options.pop(k) for k in ("precision", "graph", "on_step", "report") if k in options}
        config = Config(**{**RECIPE, **options})
        return Trainer(config, tmp_path / folder, sets=sets, device=device, resume=resume, **others)

    return make


def log_of(trainer):
    lines = [json.loads(line) for line in (trainer.out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def assert_same_log(one, other, rtol=1e-4):
    for a, b in zip(log_of(one), log_of(other), strict=True):
        assert {k: v for k, v in a.items() if k != "loss"} == pytest.approx({k: v for k, v in b.items() if k != "loss"})
        assert a["loss"] == pytest.approx(b["loss"], rel=rtol)


OPTIONS = [
    {},
    {"epochs": 6},  # until the step of the smaller batch is recorded as well
    {"graph": False},
    {"shortcut": "B", "nesterov": True},
    {"optimizer": "adam", "lr": 1e-3},
    {"augment": False, "label_smoothing": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_run_on_the_gpu_is_the_run_on_the_cpu(train, options):
    there, here = (
        train("gpu", "cuda", **options),
        train("cpu", "cpu", **{k: v for k, v in options.items() if k != "graph"}),
    )
    ended = there.fit(), here.fit()
    assert ended[0].loss == pytest.approx(ended[1].loss, rel=1e-4)
    np.testing.assert_array_equal(ended[0].confusion, ended[1].confusion)
    assert_same_log(there, here)
    for (name, a), b in zip(there.model.state_dict().items(), here.model.state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("at", [2, 3, 5])
def test_a_run_goes_on_where_it_was_stopped_with_the_same_bits(train, at):
    def stop(trainer):
        if trainer.iteration == at:
            raise KeyboardInterrupt

    whole = train("whole", "cuda", checkpoint_every=1)
    whole.fit()
    part = train("part", "cuda", checkpoint_every=1, on_step=stop)
    with pytest.raises(KeyboardInterrupt):
        part.fit()
    rest = train("part", "cuda", checkpoint_every=1, resume=True)
    assert rest.iteration == at
    rest.fit()
    assert log_of(rest) == log_of(whole)
    for (name, a), b in zip(rest.model.state_dict().items(), whole.model.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_on_another_device(train, devices):
    def stop(trainer):
        if trainer.iteration == 4:
            raise KeyboardInterrupt

    first = train("moved", devices[0], on_step=stop)
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = train("moved", devices[1], resume=True)
    second.fit()
    whole = train("whole", devices[1])
    whole.fit()
    assert_same_log(second, whole)


def test_fit_can_be_called_again_after_an_interruption(train):
    trainer = train("twice", "cuda")
    trainer.on_step = lambda t: t.iteration == 4 and (_ for _ in ()).throw(Interrupted("here"))
    with pytest.raises(Interrupted):
        trainer.fit()
    trainer.on_step = None
    trainer.fit()
    whole = train("whole", "cuda")
    whole.fit()
    assert_same_log(trainer, whole, 1e-6)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_a_run_in_less_precision_stays_near(train, precision):
    there, here = train("gpu", "cuda", precision=precision), train("cpu", "cpu")
    losses = there.fit().loss, here.fit().loss
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] != losses[1]


def test_the_scale_of_a_loss_survives_a_checkpoint(train):
    trainer = train("scaled", "cuda", precision="fp16")
    trainer._scale = [256.0, 7.0, 0.0, 0.0]
    trainer.fit()
    assert train("scaled", "cuda", precision="fp16", resume=True)._scale == [256.0, 7.0 + 9, 0.0, 0.0]


def test_a_run_that_overflows_for_good_is_stopped_with_advice(train):
    trainer = train("overflow", "cuda", precision="fp16", epochs=30, milestones=(80,))
    trainer._scale = [1e38, 0.0, 0.0, 0.0]  # halved fifty times it is still far too large
    with pytest.raises(DivergedError, match=r"the last \d+ steps up to iteration \d+ were skipped.*bf16"):
        trainer.fit()
    assert trainer.iteration < 60


def test_what_cannot_be_recorded_is_said_once(train, monkeypatch):
    from minires.kernels.cuda import augment

    def look(loss, *others):
        loss.get()

    monkeypatch.setattr(augment, "track", look)
    said = []
    train("said", "cuda", report=said.append).fit()
    assert [line for line in said if "CUDA graph" in line] == [line for line in said if "launch by launch" in line]
    assert sum("launch by launch" in line for line in said) == 1


def test_precisions_that_are_not_there(train):
    with pytest.raises(ArgumentError, match="fp8"):
        train("a", "cuda", precision="fp8")
    with pytest.raises(ArgumentError, match="on the CPU leave it at fp32"):
        train("b", "cpu", precision="bf16")
    with pytest.raises(ArgumentError, match="adam"):
        train("c", "cuda", precision="fp16", optimizer="adam", lr=1e-3)
