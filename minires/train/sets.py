"""The data of a run: the sets a configuration names, the mean picture, and the transforms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import data
from ..data import Dataset
from ..errors import DataError
from .config import Config

# pictures whose mirror image is of the same class; a mirrored digit is not a digit
_FLIPPED = {"cifar10", "cifar100", "shapes"}
_SHAPES = 10_000, 2_000  # how many are generated for training and for testing


@dataclass(frozen=True)
class Sets:
    """Training and test set, and how their images are prepared.

    Attributes:
        train, test: the data sets.
        kind: "digits", "shapes", "cifar10" or "cifar100".
        mean: the mean picture of the training set, (H, W, C) in units of 0 to 1.
    """

    train: Dataset
    test: Dataset
    kind: str
    mean: np.ndarray

    def train_transform(self, config: Config) -> Any:
        """Normalisation, and the augmentation that the configuration asks for."""
        if not config.augment:
            return self.test_transform
        padding = self.train.image_shape[0] // 8 if config.padding is None else config.padding
        flip = self.kind in _FLIPPED if config.flip is None else config.flip
        return data.train_transform(self.mean, padding=padding, flip=flip)

    @property
    def test_transform(self) -> Any:
        """Normalisation only."""
        return data.eval_transform(self.mean)


def load_sets(config: Config) -> Sets:
    """The sets that ``config.data`` names, with ``config.validation`` images held out if asked for.

    Raises:
        DataError: the data is not there, or not what it claims to be.
    """
    kind, train, test = load_named(config.data)
    if config.validation:
        if config.validation >= len(train):
            raise DataError(f"validation: cannot hold {config.validation} images out of {len(train)} for training.")
        train, test = train.split(len(train) - config.validation, seed=config.seed)
    return Sets(train, test, kind, data.Normalise.fit(train).mean)


def load_named(name: str) -> tuple[str, Dataset, Dataset]:
    """(kind, training set, test set) for a name or a path; a path may hold CIFAR-10 or CIFAR-100."""
    if name == "digits":
        return name, *data.digits()
    if name == "shapes":
        return name, data.shapes(_SHAPES[0], seed=1), data.shapes(_SHAPES[1], seed=2)
    if name == "cifar10":
        return name, *data.cifar10()
    if name == "cifar100":
        return name, *data.cifar100()
    if not Path(name).exists():
        raise DataError(f"no data {name!r}: give digits, shapes, cifar10, cifar100, or a path that holds CIFAR.")
    families = data.families_at(name)
    if len(families) > 1:
        raise DataError(f"{name} holds both CIFAR-10 and CIFAR-100: give the path of the folder or archive of one.")
    return ("cifar100", *data.cifar100(name)) if families == ["cifar100"] else ("cifar10", *data.cifar10(name))
