"""What a training run is made of: every choice by name, in plain values that JSON can hold."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, CheckpointError
from ..models.blocks import SHORTCUTS
from .checkpoint import replace_file

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("steps", "cosine", "constant")
DECAYED = ("all", "weights")


@dataclass(frozen=True)
class Config:
    """The recipe of section 4.2 of He et al. 2015, unless a field says otherwise.

    Attributes:
        data: "digits", "shapes", "cifar10", "cifar100", or a path that holds CIFAR-10 or CIFAR-100.
        model: a name for `minires.models.build`.
        shortcut: "A", "B" or "C"; None for the model's own (A for small pictures, B for large).
        width: channels of the first stage of a small-picture network.
        zero_init_residual: start every residual branch at zero.
        iterations: optimiser steps in all; None takes ``epochs``.
        epochs: passes through the training set; None takes ``iterations``.
        batch_size: images in a step.
        optimizer: "sgd" (momentum) or "adam".
        lr: base learning rate.
        momentum: of SGD.
        nesterov: Nesterov's variant of SGD.
        weight_decay: L2 penalty.
        decay: "all" parameters, as the paper's code, or only the "weights" of convolutions and linear layers.
        schedule: "steps" (divide by 10 at each milestone), "cosine" or "constant".
        milestones: iterations at which the rate drops; None for 1/2 and 3/4 of the run, the paper's 32k and 48k of 64k.
        warmup: iterations at the lower rate first; None for 400 if the network has 110 layers or more, otherwise 0.
        warmup_lr: the rate during the warm-up.
        augment: random crops after padding, and flips where the mirror image is of the same class.
        label_smoothing: see `functional.cross_entropy`.
        validation: images held out of the training set and tested on instead of the test set (the paper: 5000).
        seed: of the weights, the order of the images and the augmentation.
        log_every: iterations between lines of training loss.
        checkpoint_every: iterations between checkpoints, beside those at the end of each epoch.
    """

    data: str = "cifar10"
    model: str = "resnet20"
    shortcut: str | None = None
    width: int = 16
    zero_init_residual: bool = False
    iterations: int | None = None
    epochs: float | None = None
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay: str = "all"
    schedule: str = "steps"
    milestones: tuple[int, ...] | None = None
    warmup: int | None = None
    warmup_lr: float = 0.01
    augment: bool = True
    label_smoothing: float = 0.0
    validation: int = 0
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        if self.iterations is not None and self.epochs is not None:
            raise ArgumentError("give the length of the run as iterations or as epochs, not both.")
        for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("decay", DECAYED)):
            if getattr(self, name) not in choices:
                raise ArgumentError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        if self.shortcut is not None and self.shortcut not in SHORTCUTS:
            raise ArgumentError(f"shortcut must be one of {', '.join(SHORTCUTS)}, got {self.shortcut!r}.")
        for name in ("iterations", "epochs", "width", "batch_size", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ArgumentError(f"{name} must be positive, got {value!r}.")
        for name in ("lr", "momentum", "weight_decay", "warmup", "warmup_lr", "validation", "seed", "label_smoothing"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ArgumentError(f"{name} must be a finite number of at least 0, got {value!r}.")
        if self.milestones is not None:
            object.__setattr__(self, "milestones", tuple(self.milestones))  # JSON gives a list
            if self.schedule != "steps":
                raise ArgumentError(f"milestones belong to the schedule 'steps', not to {self.schedule!r}.")

    def length(self, batches_per_epoch: int) -> int:
        """How many iterations the run has: the paper's 64,000 unless something else was asked for."""
        if self.epochs is not None:
            return max(1, round(self.epochs * batches_per_epoch))
        return 64_000 if self.iterations is None else self.iterations

    def drops(self, iterations: int) -> tuple[int, ...]:
        """The iterations at which the learning rate is divided by 10."""
        if self.milestones is not None:
            return self.milestones
        return tuple(sorted({iterations // 2, iterations * 3 // 4} - {0}))

    def warmup_length(self) -> int:
        """The iterations of the warm-up; section 4.2 needs one for 110 layers and about 400 iterations of it."""
        if self.warmup is not None:
            return self.warmup
        depth = int("0" + "".join(c for c in self.model if c.isdigit()))
        return 400 if 110 <= depth < 152 else 0

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        replace_file(path, lambda file: file.write(text.encode()))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """A Config from `dataclasses.asdict`, refusing names that this version does not know."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise CheckpointError(f"the configuration has unknown entries {sorted(unknown)}: it is of another version.")
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> Config:
        """Read what `write` wrote.

        Raises:
            CheckpointError: the file is missing, cut off, or of another version.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"there is no {path.name} in {path.parent}: it does not hold a run.") from None
        except ValueError as error:
            raise CheckpointError(f"{path} is not readable as JSON ({error}). Start the run again.") from None
        return cls.from_dict(values)

    def differences(self, other: Config) -> list[str]:
        """The fields in which two configurations differ, as ``lr 0.1 there, 0.2 here``."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name} {theirs[name]!r} there, {mine[name]!r} here" for name in mine if mine[name] != theirs[name]]


# What `minires train` does with data other than CIFAR, unless told otherwise; CIFAR gets the paper's recipe.
_RECIPES: dict[str, dict[str, Any]] = {
    "digits": {"model": "resnet14", "epochs": 20, "batch_size": 64, "schedule": "cosine", "weight_decay": 5e-4,
               "augment": False, "log_every": 5, "checkpoint_every": 100},
    "shapes": {"epochs": 10, "schedule": "cosine"},
}  # fmt: skip


def recipe(data: str = "digits", **choices: Any) -> Config:
    """The usual configuration for a data set, with some of its fields chosen differently."""
    usual = dict(_RECIPES.get(data, {}))
    if "iterations" in choices or "epochs" in choices:
        usual.pop("epochs", None)
    if "milestones" in choices:
        usual.pop("schedule", None)
    return Config(data=data, **{**usual, **choices})
