"""What a training run is made of: every choice by name, in plain values that JSON can hold."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, CheckpointError
from ..models import parse_name
from ..models.blocks import SHORTCUTS
from .checkpoint import replace_file

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("steps", "cosine", "constant")
DECAYED = ("all", "weights")
WARMUP_SHAPES = ("constant", "linear")

_CHOICES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "decay": DECAYED, "warmup_shape": WARMUP_SHAPES}
_INFINITY = float("inf")
_NUMBERS = {  # kind, least value, and the value to stay below
    "iterations": (int, 1, _INFINITY),
    "epochs": (float, 1e-9, _INFINITY),
    "width": (int, 1, _INFINITY),
    "batch_size": (int, 1, _INFINITY),
    "log_every": (int, 1, _INFINITY),
    "checkpoint_every": (int, 1, _INFINITY),
    "warmup": (int, 0, _INFINITY),
    "padding": (int, 0, _INFINITY),
    "validation": (int, 0, _INFINITY),
    "seed": (int, 0, 2**64),
    "lr": (float, 0, _INFINITY),
    "gamma": (float, 0, _INFINITY),
    "warmup_lr": (float, 0, _INFINITY),
    "weight_decay": (float, 0, _INFINITY),
    "momentum": (float, 0, 1),
    "label_smoothing": (float, 0, 1),
}


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
        schedule: "steps" (multiply by gamma at each milestone), "cosine" or "constant".
        gamma: the factor of "steps"; the paper divides by 10.
        milestones: iterations at which the rate drops; None for 1/2 and 3/4 of the run, the paper's 32k and 48k of 64k.
        warmup: iterations of the warm-up; None for 1/160 of the run (the paper's 400) with 110 layers, otherwise 0.
        warmup_lr: the rate at its beginning.
        warmup_shape: "constant" stays at that rate, "linear" rises to the full one.
        augment: random crops after padding, and flips.
        padding: pixels on each side before a crop; None for an eighth of the height, the paper's 4 of 32.
        flip: mirror half of the pictures; None to do so where the mirror image is of the same class: not for digits.
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
    gamma: float = 0.1
    milestones: tuple[int, ...] | None = None
    warmup: int | None = None
    warmup_lr: float = 0.01
    warmup_shape: str = "constant"
    augment: bool = True
    padding: int | None = None
    flip: bool | None = None
    label_smoothing: float = 0.0
    validation: int = 0
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        if self.iterations is not None and self.epochs is not None:
            raise ArgumentError("give the length of the run as iterations or as epochs, not both.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ArgumentError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        if self.shortcut is not None and self.shortcut not in SHORTCUTS:
            raise ArgumentError(f"shortcut must be one of {', '.join(SHORTCUTS)}, got {self.shortcut!r}.")
        for name, (kind, least, most) in _NUMBERS.items():
            value = getattr(self, name)
            whole = kind is not int or (isinstance(value, int) and not isinstance(value, bool))
            if value is not None and not (isinstance(value, int | float) and whole and least <= value < most):
                what = "a whole number" if kind is int else "a number"
                bound = "" if most == _INFINITY else f" and below {most:g}"
                raise ArgumentError(f"{name} must be {what} of at least {least:g}{bound}, got {value!r}.")
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise ArgumentError("nesterov belongs to the optimizer 'sgd' with a momentum above 0.")
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
        """The iterations at which the learning rate is multiplied by ``gamma``."""
        if self.milestones is not None:
            return self.milestones
        return tuple(sorted({iterations // 2, iterations * 3 // 4} - {0}))

    def warmup_length(self, iterations: int) -> int:
        """The iterations of the warm-up: section 4.2 has about 400 of 64,000, for 110 layers only."""
        if self.warmup is not None:
            return self.warmup
        return iterations // 160 if parse_name(self.model)[0] == 110 else 0

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
        try:
            return cls(**values)
        except (TypeError, ArgumentError) as error:
            raise CheckpointError(f"the configuration cannot be used: {error}") from None

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


# What `minires train` does with data other than CIFAR, unless told otherwise; CIFAR gets the paper's recipe.  Batch
# and weight decay of the digits were chosen on training images held out (benchmarks/NOTES.md).
_RECIPES: dict[str, dict[str, Any]] = {
    "digits": {"model": "resnet14", "epochs": 20, "batch_size": 32, "schedule": "cosine", "weight_decay": 5e-3,
               "augment": False, "log_every": 10, "checkpoint_every": 100},
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
