"""A data set in memory: the pictures, their labels and the names of the classes."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ArgumentError, DataError


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Pictures with their labels, held in memory as bytes.

    Attributes:
        images: (N, H, W, C) uint8, 0 (black) to 255.
        labels: (N,) integers from 0 to ``len(classes) - 1``, kept as int64.
        classes: the names that the labels stand for.
        name: where the pictures come from.

    Raises:
        DataError: these do not fit together, or there is no picture at all.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str = "dataset"

    def __post_init__(self) -> None:
        images, labels, classes = np.asarray(self.images), np.asarray(self.labels), tuple(self.classes)
        if images.ndim != 4 or images.dtype != np.uint8:
            raise DataError(
                f"{self.name}: images must be a uint8 array (N, H, W, C), got {images.dtype} {images.shape}; "
                "a single channel still needs its axis, as in images[..., np.newaxis]."
            )
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DataError(
                f"{self.name}: labels must be whole numbers of shape (N,), got {labels.dtype} {labels.shape}; "
                "turn one-hot rows into numbers with labels.argmax(axis=1)."
            )
        if len(images) != len(labels):
            raise DataError(
                f"{self.name}: {len(images)} images but {len(labels)} labels; give one label for each image."
            )
        if images.size == 0:
            raise DataError(f"{self.name}: no images, got shape {images.shape}; a data set holds at least one.")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise DataError(
                f"{self.name}: labels run from {labels.min()} to {labels.max()}, but {len(classes)} classes allow "
                f"0 to {len(classes) - 1}; correct the labels or name every class."
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels.astype(np.int64, copy=False))
        object.__setattr__(self, "classes", classes)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        height, width, channels = self.image_shape
        return f"Dataset({self.name!r}: {len(self)} images {height}x{width}x{channels}, {len(self.classes)} classes)"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one picture."""
        return self.images.shape[1:]

    def subset(self, index: slice | np.ndarray | list[int]) -> Dataset:
        """Return some of the pictures.

        Args:
            index: a slice (shares memory), whole numbers (copies) or a mask of N booleans (copies).

        Raises:
            ArgumentError: the index is of another kind or out of range.
            DataError: nothing is left.
        """
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.ndim != 1 or (index.size and index.dtype.kind not in "iub"):
                raise ArgumentError(
                    f"subset: expected a slice or a row of whole numbers, got {index.dtype} {index.shape}."
                )
            index = index if index.size else index.astype(np.int64)
        try:
            return replace(self, images=self.images[index], labels=self.labels[index])
        except IndexError as error:
            raise ArgumentError(f"subset: {self.name} has {len(self)} images: {error}.") from None

    def renamed(self, name: str) -> Dataset:
        """Return the same pictures under another name."""
        return replace(self, name=name)

    def take(self, n: int) -> Dataset:
        """Return the first ``n`` pictures.

        Raises:
            ArgumentError: ``n`` is not a whole number from 1 to N.
        """
        return self.subset(slice(self._count("take", n, len(self))))

    def split(self, n: int, seed: int | None = None) -> tuple[Dataset, Dataset]:
        """Cut the data set in two, to train on one part and hold the other out.

        ``train.split(45000, seed=0)`` is the 45k/5k split of He et al. 2015, section 4.2, up to their unpublished
        choice of pictures.

        Args:
            n: pictures in the first part, 1 to N - 1.
            seed: permutes the pictures first; without one the order stays.

        Returns:
            ``n`` pictures under the old name, and the rest, with " (held out)" added to the name.

        Raises:
            ArgumentError: ``n`` leaves one part empty.
        """
        n = self._count("split", n, len(self) - 1)
        if seed is None:
            first, rest = self.subset(slice(0, n)), self.subset(slice(n, None))
        else:
            order = np.random.default_rng(seed).permutation(len(self))
            first, rest = self.subset(order[:n]), self.subset(order[n:])
        return first, rest.renamed(f"{self.name} (held out)")

    def _count(self, action: str, n: int, most: int) -> int:
        if isinstance(n, bool) or not hasattr(n, "__index__") or not 1 <= operator.index(n) <= most:
            raise ArgumentError(
                f"{action}: n must be a whole number from 1 to {most}, got {n!r}: {self.name} has {len(self)} images."
            )
        return operator.index(n)
