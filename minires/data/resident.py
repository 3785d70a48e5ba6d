"""A data set that stays on the GPU: what a `DataLoader` would give, made there."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import cupy
from ..errors import ArgumentError
from ..kernels.cuda.augment import augment
from .loader import DataLoader
from .transforms import Compose, CropFlip, Normalise


class Resident:
    """The batches of a loader, cropped, mirrored and normalised on the GPU from bytes that lie there.

    They are the loader's own, to the bit: the same order, crops and mirrors, drawn on the host an epoch at a time and
    uploaded as a table of four numbers a picture.

    Args:
        loader: its data set is copied to the GPU (CIFAR-10: 154 MB); its transform must be one that `suits`.

    Raises:
        ArgumentError: it is not.
    """

    def __init__(self, loader: DataLoader) -> None:
        xp, dataset = cupy(), loader.dataset
        self.loader = loader
        parts = _parts(loader.transform)
        if parts is None:
            raise ArgumentError(f"Resident: the GPU knows Normalise and CropFlip, not {loader.transform!r}.")
        normalise, self._crop = parts
        mean = np.broadcast_to(normalise.mean, dataset.image_shape)
        self._mean, self._scale = xp.asarray(np.ascontiguousarray(mean)), float(normalise.scale)
        self._pictures, self._labels = xp.asarray(dataset.images), xp.asarray(dataset.labels)
        self._plan = xp.empty((len(loader) * loader.batch_size, 4), np.int32)
        self._batch = xp.zeros(1, np.int64)
        self._next: tuple[int, int] | None = None  # the epoch and batch that `fill` writes next

    @staticmethod
    def suits(loader: DataLoader) -> bool:
        """Whether the loader's transform is the paper's: `Normalise`, then `CropFlip` or nothing."""
        return _parts(loader.transform) is not None

    def advance(self) -> int:
        """Let the loader go on by a batch, which `fill` will write; how many pictures it has.

        The plan of an epoch is uploaded with its first batch, or wherever the loader was told to go on.
        """
        epoch, batch, rows = self.loader.skip()
        if self._next != (epoch, batch):
            self._plan.set(self._plan_of(epoch))
            self._batch.set(np.array([batch], np.int64))
        self._next = epoch, batch + 1
        return rows

    def fill(self, images: Any, labels: Any) -> None:
        """Write the batch that `advance` announced into arrays on the GPU that have room for it.

        Only launches, so that a graph can record it.
        """
        padding = 0 if self._crop is None else self._crop.padding
        size = self.loader.batch_size
        augment(
            self._pictures,
            self._labels,
            self._plan,
            self._batch,
            size,
            self._mean,
            self._scale,
            padding,
            images,
            labels,
        )

    def _plan_of(self, epoch: int) -> np.ndarray:
        loader = self.loader
        plan = np.zeros(self._plan.shape, np.int32)
        order = loader.order(epoch)
        plan[: len(order), 0] = order
        if self._crop is not None:
            for b in range(len(loader)):
                rows = plan[b * loader.batch_size : min((b + 1) * loader.batch_size, len(order))]
                rows[:, 1], rows[:, 2], rows[:, 3] = self._crop.draw(len(rows), loader.generator(epoch, b))
        return plan


def _parts(transform: Any) -> tuple[Normalise, CropFlip | None] | None:
    steps = transform.transforms if isinstance(transform, Compose) else (transform,)
    if not steps or type(steps[0]) is not Normalise or len(steps) > 2:
        return None
    if len(steps) == 1:
        return steps[0], None
    return (steps[0], steps[1]) if type(steps[1]) is CropFlip else None
