"""Trainer: the loop, and everything that has to survive an interruption."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .. import functional as F
from ..backend import array_module, asnumpy, check_device, default_generator, manual_seed
from ..data import DataLoader
from ..errors import CheckpointError, DivergedError
from ..kernels.cuda import use_precision
from ..nn import Module
from ..tensor import Tensor, fused
from .build import build_optimizer, build_schedule, model_for
from .checkpoint import load_checkpoint, save_checkpoint, with_prefix, without_prefix
from .config import Config
from .evaluate import Metrics, evaluate, evaluation_mode
from .folder import CHECKPOINT, CONFIG, CURVES, LOG, check_folder
from .log import append_line, cut_after, draw_curves
from .on_gpu import Steps, check_precision
from .room import batch_that_fits
from .sets import Sets, load_sets
from .stop import Interrupted, StopOnRequest

_PATIENCE = 50  # steps skipped in a row: a scale of 65536 has been halved to 1 long before


class Trainer:
    """A run: a model, its data, an optimiser and a schedule, in a folder.

        trainer = Trainer(Config(data="digits", model="resnet8", epochs=12), out="runs/mine")
        trainer.fit()

    Everything random is counted or saved, so that a run that was killed and resumed ends with the same weights, bit for
    bit, as one that was not.

    Args:
        config: the recipe.
        out: folder for config.json, log.jsonl, checkpoint.npz and curves.png; None writes nothing.
        sets: the data; loaded as the configuration says if left out.
        model: the network; built as the configuration says if left out.
        resume: go on from the checkpoint in ``out``, or start there if the run was killed before its first one.
        on_step: called with the trainer after every iteration.
        report: called with a line of text now and then; `print`, for example.
        device: ``"cpu"`` or ``"cuda"``.  Not a part of the recipe: a run may be resumed on another device.
        precision: of convolutions and products on a GPU, see `minires.cuda.set_precision`.  With "fp16" the loss is
            scaled, and steps that overflow are skipped.
        graph: record the step as a CUDA graph and replay it, where momentum SGD and the paper's transforms allow it.

    Attributes:
        iteration: optimiser steps done.
        iterations: optimiser steps in all.
        last_loss, last_lr: of the last iteration; the loss of the last one that was looked at, on a GPU.

    Starts the default generator (`minires.manual_seed`) from the seed of the configuration.

    Raises:
        CheckpointError: ``out`` holds a run and ``resume`` was not asked for, or one of another configuration.
        DataError: the data is not there.
        DeviceError: there is no usable GPU.
        ArgumentError: a precision that the device or the optimiser does not have.
    """

    def __init__(
        self,
        config: Config,
        out: str | Path | None = None,
        sets: Sets | None = None,
        model: Module | None = None,
        resume: bool = False,
        on_step: Callable[[Trainer], Any] | None = None,
        report: Callable[[str], Any] | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        graph: bool = True,
    ) -> None:
        self.config, self.on_step, self.device = config, on_step, check_device(device)
        self.precision, self.graph = check_precision(precision, device, config.optimizer), graph
        self.report = report or (lambda line: None)
        self.out = None if out is None else Path(out)
        if self.out is not None:
            check_folder(self.out, config, resume)
        self.sets = sets or load_sets(config)
        manual_seed(config.seed)
        self.model = model or model_for(config, self.sets.train.image_shape, len(self.sets.train.classes))
        self.model.to(device)
        self.loader = DataLoader(
            self.sets.train,
            config.batch_size,
            shuffle=True,
            seed=config.seed,
            transform=self.sets.train_transform(config),
        )
        self.iterations = config.length(len(self.loader))
        self.optimizer = build_optimizer(config, self.model)
        self.schedule = build_schedule(config, self.optimizer, self.iterations)
        self.iteration = 0
        self._sums = {"loss": 0.0, "wrong": 0, "images": 0}  # since the last line of the log
        self._epoch_sums = dict(self._sums)
        self._unread: list[tuple[Any, Any, int]] = []  # loss, wrong answers and images of steps since then
        self._steps: Steps | None = None  # while steps are taken on a GPU without being looked at
        self._images = 0  # seen in such steps, since they were last looked at
        self._told = False  # that the step cannot be recorded
        self._scale: list[float] | None = None  # of a scaled loss, from a checkpoint
        self.last_loss, self.last_lr = float("nan"), config.lr
        self._saved_at: int | None = None
        self._seconds = 0.0  # spent training, in earlier sittings too
        if self.out is not None:
            self._open_folder(self.out, resume)

    # -- the loop -----------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> float:
        """How many times the training set has been seen, with fractions."""
        return self.iteration / len(self.loader)

    def fit(self) -> Metrics:
        """Train to the end of the schedule, and return the metrics on the test set.

        Raises:
            DivergedError: the loss became NaN or infinite; the last good checkpoint is kept.
            DeviceError: the memory of the GPU is too small; with the batch that would fit.
            Interrupted: after Ctrl-C; everything was saved.
        """
        metrics = None
        self.model.train()
        started = time.perf_counter() - self._seconds
        # what overflows becomes an infinite loss, which is told in a sentence; NumPy need not warn on the way
        quiet = np.errstate(all="ignore")
        fits = batch_that_fits(self.model, self.sets.train.image_shape, self.config.batch_size, training=True)
        with quiet, fits, self._on_device(), StopOnRequest() as stop, contextlib.closing(self._taken()) as steps:
            for images, labels in itertools.islice(steps, self.iterations - self.iteration):
                self._seconds = time.perf_counter() - started
                last = self.iteration == self.iterations
                end_of_epoch = last or self.iteration % len(self.loader) == 0
                stopping = stop.requested and not last  # asked once: a later request waits for the next iteration
                saving = end_of_epoch or stopping or self.iteration % self.config.checkpoint_every == 0
                if saving:
                    self._read()
                if last and self._sums["images"]:
                    self._log("train", self._sums)
                if end_of_epoch:
                    metrics = self._test()
                    self.save()
                elif saving:
                    self._confirm(images, labels)
                    self.save()
                if self.on_step is not None:
                    self.on_step(self)
                if stopping:
                    self._draw()
                    raise Interrupted(f"stopped at iteration {self.iteration} of {self.iterations}")
        self._draw()
        return metrics or self.evaluate()

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        """Everything inside computes with the precision of the run, and on the stream of its steps if they have one."""
        with use_precision(self.precision):
            if self.device == "cpu" or not Steps.suits(self.optimizer, self.loader):
                yield
                return
            scaled = self.precision == "fp16"
            self._steps = steps = Steps(
                self.model, self.optimizer, self.loader, self.config.label_smoothing, self.graph, scaled, self._scale
            )
            try:
                with steps.stream:
                    yield
            finally:
                self._scale = steps.scale()
                steps.stream.synchronize()
                self._steps = None

    def _taken(self) -> Generator[tuple[Any, Any], None, None]:
        """Take step after step, epoch after epoch, without end, from where the loader stands; the batch of each."""
        while self._steps is not None:
            self._images += self._steps()
            self._advance()
            yield self._steps.last.images, self._steps.last.labels
        self.loader.load_state_dict(self.loader.state_dict())  # in the middle of an epoch too: fit() after Ctrl-C
        while True:
            with contextlib.closing(iter(self.loader)) as batches:
                for images, labels in batches:
                    self._step(images, labels)
                    yield images, labels

    def _step(self, images: np.ndarray, labels: np.ndarray) -> None:
        """One iteration: forward, backward, update."""
        self.optimizer.zero_grad()
        right = Tensor(labels).to(self.device)
        logits, loss = self._forward(Tensor(images).to(self.device), right)
        if self.device == "cpu":
            self._finite(loss.item(), self.iteration)  # before it does any harm
        loss.backward()
        self.optimizer.step()
        self._unread.append((loss.data, (logits.data.argmax(1) != right.data).sum(), len(labels)))
        self._advance()

    @fused
    def _forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and loss: on a GPU the last layer and the cross-entropy may be one."""
        logits = self.model(images)
        return logits, F.cross_entropy(logits, labels, self.config.label_smoothing)

    def _advance(self) -> None:
        """After a step: the schedule goes on, and now and then a line is logged."""
        self.last_lr = self.optimizer.groups[0]["lr"]
        self.schedule.step()
        self.iteration += 1
        logging = self.iteration % self.config.log_every == 0
        if logging or self.device == "cpu":  # to look at a number on a GPU is to wait until it has computed it
            self._read()
        if logging:
            self._log("train", self._sums)

    def _read(self) -> None:
        """Look at the losses and errors of the steps since this was last done."""
        if self._steps is not None and self._images:
            self._read_sums(self._steps)
        if not self._unread:
            return
        losses, wrongs, images = zip(*self._unread, strict=True)
        xp = array_module(losses[0])
        numbers = asnumpy(xp.stack(losses)).tolist(), asnumpy(xp.stack(wrongs)).tolist(), images
        first, self._unread = self.iteration - len(losses), []
        for i, (loss, wrong, count) in enumerate(zip(*numbers, strict=True)):
            self.last_loss = self._finite(loss, first + i)
            for sums in (self._sums, self._epoch_sums):
                sums["loss"] += loss * count
                sums["wrong"] += wrong
                sums["images"] += count

    def _read_sums(self, steps: Steps) -> None:
        """The same for steps that only sum up."""
        (loss, wrong), images, self._images = steps.read(), self._images, 0
        self.last_loss = self._finite(loss / images, self.iteration - 1)
        if steps.skipped() >= _PATIENCE:
            raise DivergedError(
                f"the last {steps.skipped()} steps up to iteration {self.iteration} were skipped: gradients overflow "
                "in fp16 however little the loss is scaled. Try a smaller learning rate, or the precision bf16."
            )
        if steps.problem and not self._told:
            self._told = True
            self.report(steps.problem)
        for sums in (self._sums, self._epoch_sums):
            sums["loss"] += loss
            sums["wrong"] += wrong
            sums["images"] += images

    def _confirm(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Before a checkpoint in the middle of an epoch: do these weights still give a finite loss?

        The loss of the step came from the weights before it.  One forward pass in evaluation mode changes nothing.
        """
        with evaluation_mode(self.model):
            logits = self.model(Tensor(images).to(self.device))
            self._finite(F.cross_entropy(logits, Tensor(labels).to(self.device)).item(), self.iteration)

    def evaluate(self) -> Metrics:
        """Loss and error on the test set, or on the images held out."""
        batch_size = 250 if self.device == "cpu" else min(250, self.config.batch_size)  # what there is room for
        return evaluate(self.model, self.sets.test, self.sets.test_transform, batch_size)

    def _test(self) -> Metrics:
        """The line at the end of an epoch."""
        metrics = self.evaluate()
        self._finite(metrics.loss, self.iteration)
        train = _means(self._epoch_sums)
        if self.out is not None:
            append_line(self.out / LOG, {"kind": "test", **self._where(), "loss": metrics.loss, "error": metrics.error})
        self.report(
            f"epoch {self.epoch:6.2f}   train loss {train['loss']:.4f} error {100 * train['error']:6.2f}%"
            f"   test loss {metrics.loss:.4f} error {100 * metrics.error:6.2f}%   lr {self.last_lr:.4g}"
        )
        self._epoch_sums = dict.fromkeys(self._epoch_sums, 0)
        return metrics

    def _log(self, kind: str, sums: dict[str, Any]) -> None:
        if self.out is not None:
            append_line(self.out / LOG, {"kind": kind, **self._where(), **_means(sums)})
        for name in sums:
            sums[name] = 0

    def _where(self) -> dict[str, Any]:
        seconds = round(self._seconds, 3)
        return {"iteration": self.iteration, "epoch": round(self.epoch, 4), "lr": self.last_lr, "seconds": seconds}

    def _draw(self) -> None:
        if self.out is not None:
            draw_curves(self.out / LOG, self.out / CURVES, f"{self.config.model} on {self.sets.kind}")

    def _finite(self, loss: float, iteration: int) -> float:
        """The loss of the weights that an iteration made, if it is a number."""
        if np.isfinite(loss):
            return loss
        kept = "" if self._saved_at is None else f" The checkpoint of iteration {self._saved_at} is kept in {self.out}."
        raise DivergedError(
            f"the loss became {loss} after iteration {iteration} (epoch {self.epoch:.2f}, learning rate "
            f"{self.last_lr:g}).{kept} Try a smaller learning rate, or a warm-up."
        )

    # -- the folder ---------------------------------------------------------------------------------------------------

    def _open_folder(self, out: Path, resume: bool) -> None:
        out.mkdir(parents=True, exist_ok=True)
        if resume and (out / CHECKPOINT).exists():
            self.load(out / CHECKPOINT)
            cut_after(out / LOG, self.iteration)
            self.report(f"resumed {out} at iteration {self.iteration} of {self.iterations}")
            return
        (out / LOG).unlink(missing_ok=True)  # of a run that was killed before its first checkpoint
        self.config.write(out / CONFIG)
        self.save()

    def save(self) -> None:
        """Write the checkpoint: weights, momentum, statistics, and where every source of randomness stands."""
        if self.out is None:
            return
        optimizer = self.optimizer.state_dict()
        arrays = with_prefix("model", self.model.state_dict()) | with_prefix("optimizer", optimizer["state"])
        arrays["mean"] = self.sets.mean
        meta = {
            "config": asdict(self.config),
            "model": {"classes": list(self.sets.train.classes), "image_shape": list(self.sets.train.image_shape)},
            "groups": optimizer["groups"],
            "schedule": self.schedule.state_dict(),
            "loader": self.loader.state_dict(),
            "generator": default_generator().bit_generator.state,
            "iteration": self.iteration,
            "seconds": self._seconds,
            "sums": [self._sums, self._epoch_sums],
            "scale": self._scale if self._steps is None else self._steps.scale(),
        }
        save_checkpoint(self.out / CHECKPOINT, arrays, meta)
        self._saved_at = self.iteration

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same configuration."""
        arrays, meta = load_checkpoint(path)
        differences = self.config.differences(Config.from_dict(meta["config"]))
        if differences:
            raise CheckpointError(f"{path} is of a run with other settings: {'; '.join(differences)}.")
        self.model.load_state_dict(without_prefix("model", arrays))
        self.optimizer.load_state_dict({"groups": meta["groups"], "state": without_prefix("optimizer", arrays)})
        self.schedule.load_state_dict(meta["schedule"])
        self.loader.load_state_dict(meta["loader"])
        default_generator().bit_generator.state = meta["generator"]
        self.iteration, self._seconds = meta["iteration"], meta["seconds"]
        self._sums, self._epoch_sums = meta["sums"]
        self._scale = meta.get("scale")
        self._saved_at = self.iteration


def _means(sums: dict[str, Any]) -> dict[str, float]:
    images = max(1, sums["images"])
    return {"loss": sums["loss"] / images, "error": sums["wrong"] / images}
