"""Loss and error of a model on a data set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .. import functional as F
from ..data import DataLoader, Dataset
from ..nn import Module
from ..tensor import Tensor, no_grad


@dataclass(frozen=True)
class Metrics:
    """What `evaluate` measures.

    Attributes:
        loss: mean cross-entropy in nats.
        error: share of images whose most probable class is wrong, 0 to 1.
        confusion: (K, K) counts, true class down, predicted class across.
    """

    loss: float
    error: float
    confusion: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of images classified rightly."""
        return 1 - self.error


@contextlib.contextmanager
def evaluation_mode(model: Module) -> Iterator[None]:
    """Nothing is recorded and every module evaluates; each gets its own mode back, so that what was frozen stays so."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def evaluate(model: Module, dataset: Dataset, transform: Callable, batch_size: int = 250) -> Metrics:
    """Run the model over a data set in evaluation mode; every module's mode is put back afterwards.

    Args:
        model: pictures (N, H, W, C) -> logits (N, K).
        dataset: what to measure on.
        transform: as for `DataLoader`; without augmentation.
        batch_size: images at a time; does not change the result beyond rounding.
    """
    classes = len(dataset.classes)
    loss, confusion = 0.0, np.zeros((classes, classes), np.int64)
    with evaluation_mode(model):
        for images, labels in DataLoader(dataset, batch_size, transform=transform):
            logits = model(Tensor(images))
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            np.add.at(confusion, (labels, logits.numpy().argmax(1)), 1)
    return Metrics(loss / len(dataset), 1 - float(np.trace(confusion)) / len(dataset), confusion)
