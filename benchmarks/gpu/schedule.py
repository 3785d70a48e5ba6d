"""The paper's whole schedule on CIFAR-10, by minires's own trainer, and once in PyTorch through the same batches."""

from __future__ import annotations

import copy
import itertools
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minires.data import DataLoader
from minires.data.resident import Resident
from minires.train import Config, Interrupted, Trainer
from minires.train.build import model_for
from minires.train.folder import CHECKPOINT, CURVES, LOG
from minires.train.log import append_line, cut_after, draw_curves, read_lines
from minires.train.sets import Sets, load_sets

from . import cifar
from .lab import Lab, Unfinished
from .nets import the_network
from .peers import TorchStep
from .record import tell

_MARGIN = 8.0  # seconds to save and to write in
_TORCH_STATE = "torch.pt"
_LAST = 5  # epochs, whose mean error is told beside the last one


def minires(lab: Lab, name: str) -> dict[str, Any]:
    """Section schedule-NETWORK: as far as there is time, from the checkpoint if there is one."""
    config, sets, label = _recipe(lab, name)
    folder = lab.out / f"schedule-{name}"
    stopping = False

    def watch(trainer: Trainer) -> None:
        nonlocal stopping
        if not stopping and lab.left() < _MARGIN:
            stopping = True
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C: the trainer saves and stops

    lab.check_time(2 * _MARGIN)
    resume = (folder / CHECKPOINT).exists()
    trainer = Trainer(config, folder, sets, resume=resume, on_step=watch, report=_now_and_then(), device="cuda",
                      precision=_precision(lab), graph=True)  # fmt: skip
    began, first = time.perf_counter(), trainer.iteration
    try:
        trainer.fit()
    except Interrupted as stopped:
        raise Unfinished(f"{name}: {stopped}") from None
    found = _result(lab, folder, label, config, trainer.iterations)
    call = {"iterations": trainer.iterations - first, "seconds": time.perf_counter() - began}
    return found | {"this call": call}


def _now_and_then() -> Callable[[str], None]:
    """Tells some of the lines: there are 164 epochs."""
    lines = itertools.count()

    def report(line: str) -> None:
        if next(lines) % 20 == 0:
            tell(f"  {line}")

    return report


def pytorch(lab: Lab, name: str) -> dict[str, Any]:
    """Section schedule-NETWORK-torch: the trainer's data, seed, initial weights, batches and rates."""
    config, sets, label = _recipe(lab, name)
    folder = lab.out / f"schedule-{name}-torch"
    folder.mkdir(parents=True, exist_ok=True)
    lab.check_time(2 * _MARGIN)
    run = _TorchRun(lab, config, sets, folder)
    run.fit()
    draw_curves(folder / LOG, folder / CURVES, f"{config.model} on {label}, PyTorch")
    return _result(lab, folder, label, config, run.iterations)


def _precision(lab: Lab) -> str:
    """Of both; in a rehearsal PyTorch has no TF32, and the two runs are to be the same."""
    return lab.pick("tf32", "fp32")


def _recipe(lab: Lab, name: str) -> tuple[Config, Sets, str]:
    if lab.rehearsal:
        net, model = the_network(lab, name), "plain8" if name.startswith("plain") else "resnet8"
        width = net.build().conv.weight.shape[3]
        config = Config(model=model, width=width, iterations=9, batch_size=8, log_every=4, padding=1)
        return config, cifar.rehearsal_sets(), "a rehearsal"
    path, label = cifar.ready(lab)
    config = Config(data=path, model=name, checkpoint_every=4000)
    return config, load_sets(config), label


def _result(lab: Lab, folder: Path, label: str, config: Config, iterations: int) -> dict[str, Any]:
    log = read_lines(folder / LOG)
    tests = [record for record in log if record["kind"] == "test"]
    trains = [record for record in log if record["kind"] == "train"]
    errors = [record["error"] for record in tests]
    found = {
        "data": label, "network": config.model, "iterations": iterations, "batch": config.batch_size,
        "seed": config.seed, "precision": _precision(lab), "training seconds": log[-1]["seconds"],
        "test error": errors[-1], f"mean test error of the last {_LAST} epochs": float(np.mean(errors[-_LAST:])),
        "tests": [[r["iteration"], r["error"], r["loss"]] for r in tests],
        "training": [[r["iteration"], r["error"], r["loss"]] for r in trains[:: max(1, len(trains) // 200)]],
    }  # fmt: skip
    tell(f"  {config.model}: test error {100 * errors[-1]:.2f}%, {iterations} iterations in {log[-1]['seconds']:.1f} s")
    return found


class _TorchRun:
    """The trainer's run in PyTorch: batches from the same kernel, steps recorded after three of each size."""

    def __init__(self, lab: Lab, config: Config, sets: Sets, folder: Path) -> None:
        self.lab, self.config, self.sets, self.folder = lab, config, sets, folder
        self.loader = DataLoader(sets.train, config.batch_size, shuffle=True, seed=config.seed,
                                 transform=sets.train_transform(config))  # fmt: skip
        self.iterations = config.length(len(self.loader))
        self.drops = config.drops(self.iterations)
        model = model_for(config, sets.train.image_shape, len(sets.train.classes))
        net = the_network(lab, config.model)
        self.step = TorchStep(lab, net, model, config.batch_size, _precision(lab), config.lr, config.momentum,
                              config.weight_decay, tracking=True)  # fmt: skip
        self.batches = Resident(self.loader)
        self.iteration, self.seconds = 0, 0.0
        self.images, self.sums = 0, (0.0, 0)  # seen since the last line of the log; their losses and wrong answers
        self._by_size: dict[int, tuple[Any, Any, TorchStep]] = {}
        self._calls: dict[int, int] = {}
        self._recorded: dict[int, Callable[[], Any]] = {}
        images = sets.test_transform(sets.test.images)
        self._test_images = lab.tensor(images).permute(0, 3, 1, 2)
        self._test_labels = lab.tensor(sets.test.labels)
        if (folder / _TORCH_STATE).exists():
            self._load()
        else:
            (folder / LOG).unlink(missing_ok=True)
        lab.synchronize()

    def fit(self) -> None:
        """To the end, or as far as there is time."""
        started = time.perf_counter() - self.seconds
        rate = None
        with self.lab.stream, self.lab.torch_stream(), self.lab.torch_precision(_precision(self.lab)):
            while self.iteration < self.iterations:
                wanted = self.config.lr * self.config.gamma ** sum(self.iteration >= drop for drop in self.drops)
                if wanted != rate:
                    rate = wanted
                    self._recorded.clear()  # the rate is a number in the recording
                    for group in self.step.optimizer.param_groups:
                        group["lr"] = rate
                self.images += self._advance()
                self.iteration += 1
                self.seconds = time.perf_counter() - started
                epoch_ends = self.iteration % len(self.loader) == 0 or self.iteration == self.iterations
                if self.iteration % self.config.log_every == 0:
                    self._log("train", rate)
                if epoch_ends:
                    self._log("test", rate)
                if self.lab.left() < _MARGIN and self.iteration < self.iterations:
                    self._save()
                    raise Unfinished(f"{self.config.model} in PyTorch: iteration {self.iteration} of {self.iterations}")

    def _advance(self) -> int:
        rows = self.batches.advance()
        if rows not in self._by_size:
            self._by_size[rows] = self._of_size(rows)
        images, labels, step = self._by_size[rows]
        self.batches.fill(images, labels)
        calls = self._calls[rows] = self._calls.get(rows, 0) + 1
        if calls > 3 and rows not in self._recorded:
            self.step.optimizer.zero_grad(set_to_none=True)
            self._recorded[rows] = self.lab.torch_graph(step, warm_up=0)
        self._recorded.get(rows, step)()
        return rows

    def _of_size(self, rows: int) -> tuple[Any, Any, TorchStep]:
        """Memory for a batch that both libraries see, and the step that reads it."""
        xp = self.lab.xp
        images, labels = xp.empty((rows, *self.sets.train.image_shape), np.float32), xp.empty(rows, np.int64)
        step = copy.copy(self.step)
        step.images, step.labels = self.lab.shared(images).permute(0, 3, 1, 2), self.lab.shared(labels)
        return images, labels, step

    def _read(self) -> tuple[float, int]:
        """Losses and wrong answers since the last line of the log."""
        loss, wrong = self.step.read()
        return loss + self.sums[0], wrong + self.sums[1]

    def _log(self, kind: str, rate: float) -> None:
        if kind == "train":
            loss, wrong = self._read()
            numbers = {"loss": loss / self.images, "error": wrong / self.images}
            self.images, self.sums = 0, (0.0, 0)
        else:
            numbers = self._test()
            if self.iteration % (20 * len(self.loader)) == 0:
                tell(f"  PyTorch, iteration {self.iteration}: test error {100 * numbers['error']:.2f}%")
        where = {"iteration": self.iteration, "epoch": round(self.iteration / len(self.loader), 4), "lr": rate,
                 "seconds": round(self.seconds, 3)}  # fmt: skip
        append_line(self.folder / LOG, {"kind": kind, **where, **numbers})

    def _test(self) -> dict[str, float]:
        torch, model = self.lab.torch, self.step.model
        model.eval()
        loss, wrong, size = 0.0, 0, 2000
        with torch.no_grad():
            for i in range(0, len(self._test_labels), size):
                logits, labels = model(self._test_images[i : i + size]), self._test_labels[i : i + size]
                loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
                wrong += int((logits.argmax(1) != labels).sum().item())
        model.train()
        return {"loss": loss / len(self._test_labels), "error": wrong / len(self._test_labels)}

    def _save(self) -> None:
        state = {"model": self.step.model.state_dict(), "optimizer": self.step.optimizer.state_dict(),
                 "loader": self.loader.state_dict(), "iteration": self.iteration, "seconds": self.seconds,
                 "images": self.images, "sums": self._read()}  # fmt: skip
        self.lab.torch.save(state, self.folder / _TORCH_STATE)

    def _load(self) -> None:
        state = self.lab.torch.load(self.folder / _TORCH_STATE, map_location=self.lab.device)
        self.step.model.load_state_dict(state["model"])
        self.step.optimizer.load_state_dict(state["optimizer"])
        self.loader.load_state_dict(state["loader"])
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.images, self.sums = state["images"], tuple(state["sums"])
        cut_after(self.folder / LOG, self.iteration)
        tell(f"  PyTorch goes on at iteration {self.iteration}")
