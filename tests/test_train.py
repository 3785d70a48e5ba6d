"""A run can be stopped at any moment and go on as if nothing had happened."""

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from minires import Tensor, nn
from minires.data import Dataset
from minires.errors import ArgumentError, CheckpointError, DataError, DivergedError
from minires.train import Config, Interrupted, Run, Sets, Trainer, evaluate, load_checkpoint, recipe, save_checkpoint
from minires.train import checkpoint as checkpoint_module

pytestmark = pytest.mark.host_only("tests/gpu/test_train_on_gpu.py has whole runs on a GPU")

TINY = {"data": "digits", "model": "resnet8", "width": 2, "batch_size": 240, "epochs": 3, "log_every": 2,
        "checkpoint_every": 4, "seed": 7}  # fmt: skip
ITERATIONS = 18  # 1437 images make 6 batches of 240

# a run in a process of its own that kills itself, with no chance to clean up, at a given moment
KILLED = """
import os, signal, sys
import minires.train.checkpoint as checkpoint
from minires.train import Config, Trainer

out, when, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
die = lambda: os.kill(os.getpid(), signal.SIGKILL)

if when == "writing":  # in the middle of the at-th checkpoint: half of the file is written
    savez, count = checkpoint.np.savez, [0]
    def half(file, **arrays):
        count[0] += 1
        savez(file, **arrays)
        if count[0] == at:
            file.truncate(file.tell() // 2)
            file.flush()
            die()
    checkpoint.np.savez = half

trainer = Trainer(Config(**CONFIG), out, resume="resume" in sys.argv,
                  on_step=lambda t: when == "step" and t.iteration == at and die())
trainer.fit()
""".replace("CONFIG", repr(TINY))


def run_and_kill(out, when, at):
    return subprocess.run([sys.executable, "-c", KILLED, str(out), when, str(at)], capture_output=True, text=True)


def outcome(folder):
    """Everything that two equal runs have in common."""
    arrays, meta = load_checkpoint(folder / "checkpoint.npz")
    meta.pop("seconds")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return arrays, meta, [{k: v for k, v in record.items() if k != "seconds"} for record in log]


def assert_same(one, other):
    arrays, meta, log = outcome(one)
    arrays2, meta2, log2 = outcome(other)
    assert arrays.keys() == arrays2.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], arrays2[name], err_msg=name)
    assert meta == meta2
    assert log == log2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    Trainer(Config(**TINY), out).fit()
    return out


def test_a_run_leaves_its_four_files(undisturbed):
    assert {p.name for p in undisturbed.iterdir()} == {"checkpoint.npz", "config.json", "curves.png", "log.jsonl"}
    assert (undisturbed / "curves.png").read_bytes().startswith(b"\x89PNG")
    _, meta, log = outcome(undisturbed)
    assert meta["iteration"] == ITERATIONS
    assert [r["iteration"] for r in log if r["kind"] == "train"] == list(range(2, 19, 2))
    assert [r["iteration"] for r in log if r["kind"] == "test"] == [6, 12, 18]
    assert log[-2]["loss"] < log[0]["loss"]


def test_the_same_seed_gives_the_same_run(undisturbed, tmp_path):
    Trainer(Config(**TINY), tmp_path / "again").fit()
    assert_same(undisturbed, tmp_path / "again")
    Trainer(Config(**{**TINY, "seed": 8}), tmp_path / "other").fit()
    arrays, other = (load_checkpoint(f / "checkpoint.npz")[0] for f in (undisturbed, tmp_path / "other"))
    assert not np.array_equal(arrays["model/fc.weight"], other["model/fc.weight"])


@pytest.mark.parametrize(
    ("when", "at"),
    [("step", int(at)) for at in np.random.default_rng(3).choice(np.arange(1, ITERATIONS), 4, replace=False)]
    + [("writing", 1), ("writing", 3)],
)
def test_killed_and_resumed_is_never_stopped(undisturbed, tmp_path, when, at):
    killed = run_and_kill(tmp_path / "run", when, at)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    Trainer(Config(**TINY), tmp_path / "run", resume=True).fit()
    assert_same(undisturbed, tmp_path / "run")


def test_killed_twice(undisturbed, tmp_path):
    (tmp_path / "run").mkdir()  # an empty folder: the run was killed before it wrote anything
    for at in (5, 13):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "run"), "step", str(at), "resume"]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    Trainer(Config(**TINY), tmp_path / "run", resume=True).fit()
    assert_same(undisturbed, tmp_path / "run")


def test_ctrl_c_saves_and_the_run_goes_on(undisturbed, tmp_path):
    handler = signal.getsignal(signal.SIGINT)

    def press(trainer):
        if trainer.iteration == 8:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="iteration 9 of 18"):  # the iteration under way is finished
        Trainer(Config(**TINY), tmp_path / "run", on_step=press).fit()
    assert signal.getsignal(signal.SIGINT) is handler
    assert load_checkpoint(tmp_path / "run" / "checkpoint.npz")[1]["iteration"] == 9
    Trainer(Config(**TINY), tmp_path / "run", resume=True).fit()
    assert_same(undisturbed, tmp_path / "run")


def test_fit_again_goes_on(undisturbed, tmp_path):
    trainer = Trainer(Config(**TINY), tmp_path / "run", on_step=lambda t: t.iteration == 8 and os.kill(os.getpid(), 2))
    with pytest.raises(Interrupted):
        trainer.fit()
    trainer.fit()
    assert_same(undisturbed, tmp_path / "run")


def test_resuming_a_finished_run_changes_nothing(undisturbed):
    before = outcome(undisturbed)[2]
    metrics = Trainer(Config(**TINY), undisturbed, resume=True).fit()
    assert metrics.error == before[-1]["error"]
    assert outcome(undisturbed)[2] == before


def test_dropout_resumes_bit_for_bit(tmp_path):
    def with_dropout():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8, generator=np.random.default_rng(1)), nn.Dropout(0.5),
                             nn.Linear(8, 10, generator=np.random.default_rng(2)))  # fmt: skip

    def stop(trainer):
        if trainer.iteration == 4:
            os.kill(os.getpid(), signal.SIGINT)

    Trainer(Config(**TINY), tmp_path / "whole", model=with_dropout()).fit()
    with pytest.raises(Interrupted):
        Trainer(Config(**TINY), tmp_path / "parts", model=with_dropout(), on_step=stop).fit()
    Trainer(Config(**TINY), tmp_path / "parts", model=with_dropout(), resume=True).fit()
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_folder_with_a_run_is_not_overwritten(undisturbed):
    with pytest.raises(CheckpointError, match="already holds a run"):
        Trainer(Config(**TINY), undisturbed)


def test_resuming_with_other_settings_is_refused(undisturbed):
    with pytest.raises(CheckpointError, match=r"lr 0\.1 there, 0\.2 here"):
        Trainer(Config(**{**TINY, "lr": 0.2}), undisturbed, resume=True)


def poisoned(at):
    """Sets whose training images make the loss NaN after a while: the mean picture is not finite there."""

    class Poison(nn.Module):
        def __init__(self):
            self.inside = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, generator=np.random.default_rng(0)))
            self.calls = 0

        def forward(self, x):
            if self.training:
                self.calls += 1
            return self.inside(x) * (float("nan") if self.calls == at else 1.0)

    return Poison()


def test_a_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    trainer = Trainer(Config(**TINY), tmp_path / "run", model=poisoned(at=7))
    with pytest.raises(DivergedError, match=r"nan after iteration 6 .*checkpoint of iteration 6 is kept"):
        trainer.fit()
    arrays, meta = load_checkpoint(tmp_path / "run" / "checkpoint.npz")
    assert meta["iteration"] == 6
    assert all(np.isfinite(a).all() for a in arrays.values())


@pytest.mark.parametrize("lr", [1e3, 1e20])
def test_no_checkpoint_is_written_of_weights_that_have_diverged(tmp_path, lr):
    config = Config(**{**TINY, "lr": lr, "schedule": "constant", "checkpoint_every": 1, "epochs": 20})
    with pytest.raises(DivergedError, match="checkpoint of iteration"):
        Trainer(config, tmp_path / "run").fit()
    arrays, _ = load_checkpoint(tmp_path / "run" / "checkpoint.npz")
    assert all(np.isfinite(a).all() for a in arrays.values())
    run = Run(tmp_path / "run")
    assert np.isfinite(run.probabilities(np.zeros((2, 8, 8, 1), np.uint8))).all()
    log = tmp_path / "run" / "log.jsonl"
    for line in log.read_text().splitlines() if log.exists() else []:
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_divergence_in_the_last_step_is_noticed(tmp_path):
    with pytest.raises(DivergedError, match="checkpoint of iteration 0 is kept"):
        Trainer(Config(**{**TINY, "epochs": None, "iterations": 1, "lr": 1e30}), tmp_path / "run").fit()


def test_a_short_run_still_has_a_training_line(tmp_path):
    Trainer(Config(**{**TINY, "epochs": None, "iterations": 1}), tmp_path / "run").fit()
    assert [(r["kind"], r["lr"]) for r in outcome(tmp_path / "run")[2]] == [("train", 0.1), ("test", 0.1)]


@pytest.mark.parametrize("name", ["config.json", "checkpoint.npz", "log.jsonl"])
def test_no_part_of_a_run_is_overwritten(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(CheckpointError, match=f"already holds a run .{name}"):
        Trainer(Config(**TINY), tmp_path)
    assert (tmp_path / name).read_text() == "precious"


def test_evaluate_leaves_a_frozen_part_frozen():
    trainer = Trainer(Config(**TINY))
    trainer.model.bn.eval()
    trainer.evaluate()
    assert not trainer.model.bn.training
    assert trainer.model.fc.training


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, {"w": np.arange(5)}, {"iteration": 1})

    def full(file, **arrays):
        file.write(b"PK half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_module.np, "savez", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*previous checkpoint .* is untouched"):
        save_checkpoint(path, {"w": np.arange(6)}, {"iteration": 2})
    arrays, meta = load_checkpoint(path)
    assert meta == {"iteration": 1}
    np.testing.assert_array_equal(arrays["w"], np.arange(5))
    assert os.listdir(tmp_path) == ["checkpoint.npz"]


@pytest.mark.parametrize("damage", ["half", "tail", "flipped", "empty", "text", "pickle", "other npz"])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, {"w": np.random.default_rng(0).standard_normal(1000)}, {"iteration": 1})
    whole = path.read_bytes()
    contents = {
        "half": whole[: len(whole) // 2],
        "tail": whole[:-30],
        "flipped": whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:],
        "empty": b"",
        "text": b"not a checkpoint",
    }
    if damage == "pickle":
        np.savez(path, w=np.array([{"a": 1}], dtype=object), meta=np.array("{}"))
    elif damage == "other npz":
        np.savez(path, w=np.arange(3))
    else:
        path.write_bytes(contents[damage])
    with pytest.raises(CheckpointError, match="not a whole minires checkpoint"):
        load_checkpoint(path)


def test_another_version_and_another_model_are_refused(tmp_path, undisturbed, monkeypatch):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "nothing.npz")
    monkeypatch.setattr(checkpoint_module, "VERSION", 99)
    save_checkpoint(tmp_path / "new.npz", {}, {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="version 99"):
        load_checkpoint(tmp_path / "new.npz")
    save_checkpoint(tmp_path / "bare.npz", {}, {})
    with pytest.raises(CheckpointError, match="not the checkpoint of a run"):
        Run(tmp_path / "bare.npz")
    trainer = Trainer(Config(**TINY), model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(CheckpointError, match="weights are of another model"):
        trainer.load(undisturbed / "checkpoint.npz")


def test_run_reads_a_model_back(undisturbed):
    run = Run(undisturbed)
    trainer = Trainer(Config(**TINY), undisturbed, resume=True)
    metrics = evaluate(run.model, trainer.sets.test, run.transform)
    assert metrics.error == trainer.evaluate().error
    p = run.probabilities(trainer.sets.test.images[:5])
    assert p.shape == (5, 10)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)


def test_evaluate_counts_by_hand(rng):
    images = rng.integers(0, 256, (7, 1, 1, 3), dtype=np.uint8)
    dataset = Dataset(images, np.array([0, 1, 2, 0, 1, 2, 0]), ("a", "b", "c"))

    class Always(nn.Module):  # says b with probability 1/2, a and c with 1/4
        def forward(self, x):
            return Tensor(np.tile(np.log([[0.25, 0.5, 0.25]]), (len(x), 1)))

    model = Always()
    metrics = evaluate(model, dataset, lambda images, generator: images.astype(np.float32), batch_size=3)
    assert metrics.error == pytest.approx(5 / 7)
    assert metrics.loss == pytest.approx((5 * np.log(4) + 2 * np.log(2)) / 7)
    np.testing.assert_array_equal(metrics.confusion, [[0, 3, 0], [0, 2, 0], [0, 2, 0]])
    assert model.training


def test_the_paper_is_the_default():
    config = recipe("cifar10")
    assert (config.model, config.lr, config.momentum, config.weight_decay, config.batch_size) == (
        "resnet20", 0.1, 0.9, 1e-4, 128)  # fmt: skip
    assert config.length(391) == 64_000
    assert config.drops(64_000) == (32_000, 48_000)
    assert config.warmup_length(64_000) == 0
    deep = recipe("cifar10", model="resnet110")
    assert (deep.warmup_length(64_000), deep.warmup_length(6400), deep.warmup_lr) == (400, 40, 0.01)
    assert recipe("cifar10", model="resnet1202").warmup_length(64_000) == 0
    assert recipe("cifar10", epochs=2).length(391) == 782
    assert recipe("cifar10", iterations=10).drops(10) == (5, 7)
    assert recipe("cifar10", iterations=10, milestones=[3]).drops(10) == (3,)


def test_the_schedule_reaches_the_optimiser(tmp_path):
    rates = []
    config = Config(**{**TINY, "epochs": None, "iterations": 8, "warmup": 2, "warmup_lr": 0.01})
    Trainer(config, on_step=lambda t: rates.append(t.optimizer.groups[0]["lr"])).fit()
    # the rate that the next iteration will use: warm-up for 2, then 0.1, divided by 10 at 4 and 6
    np.testing.assert_allclose(rates, [0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001])


def test_the_factor_of_the_steps_can_be_chosen():
    rates = []
    config = Config(**{**TINY, "epochs": None, "iterations": 4, "gamma": 0.5})
    Trainer(config, on_step=lambda t: rates.append(t.last_lr)).fit()
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.05, 0.025])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam"),
        ({"schedule": "poly"}, "schedule must be one of steps, cosine, constant"),
        ({"lr": -1}, "lr must be a number of at least 0"),
        ({"lr": float("nan")}, "lr must be a number of at least 0"),
        ({"lr": "0.1"}, "lr must be a number of at least 0"),
        ({"epochs": 0}, "epochs must be a number"),
        ({"epochs": float("inf")}, "epochs must be a number"),
        ({"batch_size": 1.5}, "batch_size must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"momentum": 5.0}, "momentum must be a number of at least 0 and below 1"),
        ({"label_smoothing": 1.5}, "label_smoothing must be a number of at least 0 and below 1"),
        ({"nesterov": True, "optimizer": "adam"}, "nesterov belongs to"),
        ({"nesterov": True, "momentum": 0}, "nesterov belongs to"),
        ({"warmup_shape": "bent"}, "warmup_shape must be one of"),
        ({"iterations": 5, "epochs": 5}, "not both"),
        ({"milestones": (3,), "schedule": "cosine"}, "milestones belong to the schedule 'steps'"),
        ({"shortcut": "D"}, "shortcut must be one of A, B, C"),
    ],
)
def test_wrong_settings_are_told(wrong, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        Config(**wrong)


def test_validation_is_held_out_of_training():
    trainer = Trainer(Config(**{**TINY, "validation": 300}))
    assert (len(trainer.sets.train), len(trainer.sets.test)) == (1137, 300)
    rows = {image.tobytes() for image in trainer.sets.train.images}
    assert not any(image.tobytes() in rows for image in trainer.sets.test.images)
    with pytest.raises(DataError, match="cannot hold 1437"):
        Trainer(Config(**{**TINY, "validation": 1437}))


def test_only_weights_decay_if_asked():
    trainer = Trainer(Config(**{**TINY, "decay": "weights"}))
    decayed, free = trainer.optimizer.groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (1e-4, 0)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in free["params"])
    assert sum(p.size for g in (decayed, free) for p in g["params"]) == sum(p.size for p in trainer.model.parameters())


def test_sets_can_be_given(rng):
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    dataset = Dataset(images, rng.integers(0, 3, 40), ("a", "b", "c"), "mine")
    sets = Sets(dataset, dataset.take(10), "mine", np.zeros((8, 8, 3), np.float32))
    trainer = Trainer(Config(model="resnet8", width=2, batch_size=16, iterations=4), sets=sets)
    trainer.fit()
    assert trainer.model.fc.weight.shape == (8, 3)
