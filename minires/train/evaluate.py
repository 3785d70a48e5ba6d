"""Loss and error of a model on a data set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .. import functional as F
from ..data import DataLoader, Dataset
from ..nn import Module
from ..nn.module import device_of_module
from ..tensor import Tensor, no_grad
from .room import batch_that_fits


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
    """Run the model over a data set in evaluation mode, where it is; every module's mode is put back afterwards.

    Args:
        model: pictures (N, H, W, C) -> logits (N, K).
        dataset: what to measure on.
        transform: as for `DataLoader`; without augmentation.
        batch_size: images at a time; does not change the result beyond rounding.

    Raises:
        DeviceError: the memory of the GPU is too small; with the batch that would fit.
    """
    classes, device = len(dataset.classes), device_of_module(model)
    loss, confusion = 0.0, np.zeros((classes, classes), np.int64)
    done = []  # looked at in the end: the host does not wait for a GPU after each batch
    fits = batch_that_fits(model, dataset.image_shape, batch_size, training=False)
    with evaluation_mode(model), fits:
        for images, labels in DataLoader(dataset, batch_size, transform=transform):
            logits = model(Tensor(images).to(device))
            losses = F.cross_entropy(logits, Tensor(labels).to(device), reduction="sum")
            done.append((labels, losses, logits.argmax(1)))
        for labels, losses, predicted in done:
            loss += losses.item()
            np.add.at(confusion, (labels, predicted.numpy()), 1)
    return Metrics(loss / len(dataset), 1 - float(np.trace(confusion)) / len(dataset), confusion)
