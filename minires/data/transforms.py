"""From bytes to what a network sees: the paper's normalisation and augmentation.

A transform is called with a batch and the random generator that belongs to it, and returns a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..errors import ArgumentError, ShapeError
from .dataset import Dataset

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class Normalise:
    """y = scale * x - mean, bytes (B, H, W, C) to float32 of the same shape.

    He et al. 2015, section 4.2, subtract the mean picture of the training set and do not divide by a deviation; `fit`
    computes it.

    Args:
        mean: in the units of y, of a shape that fits (H, W, C): a whole picture, (C,), or a number.
        scale: what a step of one byte becomes.

    Raises:
        ArgumentError: the mean or the scale is not finite.
    """

    def __init__(self, mean: np.ndarray | float, scale: float = 1 / 255) -> None:
        self.mean = np.asarray(mean, dtype=np.float32)
        self.scale = np.float32(scale)
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scale)):
            raise ArgumentError(f"Normalise: mean and scale must be finite, got a mean {mean} and scale {scale}.")

    @classmethod
    def fit(cls, dataset: Dataset, scale: float = 1 / 255) -> Normalise:
        """Return the transform that subtracts the mean picture (H, W, C) of a data set, summed exactly."""
        total = np.zeros(dataset.image_shape, dtype=np.int64)
        for start in range(0, len(dataset), 4096):
            total += dataset.images[start : start + 4096].sum(axis=0, dtype=np.uint32)
        return cls(total / len(dataset) * scale, scale)

    def __call__(self, images: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """Normalise (B, H, W, C) bytes; the generator is not used.

        Raises:
            ShapeError: the mean does not fit the pictures.
        """
        if images.ndim != 4 or not self._fits(images.shape[1:]):
            raise ShapeError(
                f"Normalise: the mean {self.mean.shape} does not fit images {images.shape}; give (B, H, W, C), of the "
                "size that the mean was computed on."
            )
        y = np.multiply(images, self.scale, dtype=np.float32)  # NumPy 1 would choose float16 without the dtype
        y -= self.mean
        return y

    def _fits(self, shape: tuple[int, ...]) -> bool:
        try:
            return np.broadcast_shapes(self.mean.shape, shape) == shape
        except ValueError:
            return False

    def __repr__(self) -> str:
        return f"Normalise(mean {self.mean.shape} about {self.mean.mean():.3f}, scale={self.scale:.5f})"


class CropFlip:
    """Pad by zeros, cut a window of the old size at a random place, and mirror half of the pictures.

    (B, H, W, C) of any dtype to the same; each of the (2 padding + 1)^2 windows is equally likely.  He et al. 2015,
    section 4.2, after Lee et al. 2015, with a padding of 4.

    It belongs *after* `Normalise`.  A border of zero bytes is black, and far from zero once the mean is subtracted; a
    border of zeros in the normalised picture is the average pixel and says nothing.  The paper does not tell;
    this is the order of fb.resnet.torch.  The mean is thus subtracted where a pixel was, not where it is moved to.

    Args:
        padding: pixels on each side.
        flip: mirror half of the pictures; without it none.

    Raises:
        ArgumentError: the padding is not a whole number of at least 0.
    """

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            raise ArgumentError(f"CropFlip: padding must be a whole number of pixels, 0 or more, got {padding!r}.")
        self.padding = padding
        self.flip = bool(flip)

    def __call__(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Crop and mirror (B, H, W, C); the same generator state gives the same crops."""
        n, height, width, channels = images.shape
        p = self.padding
        top, left, mirrored = self.draw(n, generator)
        padded = np.zeros((n, height + 2 * p, width + 2 * p, channels), dtype=images.dtype)
        padded[:, p : p + height, p : p + width] = images
        # All windows of all pictures, as a view: (n, 2p + 1, 2p + 1, height, width, channels).
        windows = sliding_window_view(padded, (height, width), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
        crops = windows[np.arange(n), top, left]
        crops[mirrored] = crops[mirrored, :, ::-1]
        return crops

    def draw(self, n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For n pictures: the first row and the first column of the window, and whether it is mirrored, (n,) each."""
        top, left = generator.integers(0, 2 * self.padding + 1, size=(2, n))
        return top, left, generator.random(n) < 0.5 if self.flip else np.zeros(n, bool)

    def __repr__(self) -> str:
        return f"CropFlip(padding={self.padding}, flip={self.flip})"


class Compose:
    """Apply transforms one after the other; all draw from the batch's one generator.

    Args:
        transforms: in the order in which they are applied.
    """

    def __init__(self, *transforms: Transform) -> None:
        self.transforms = transforms

    def __call__(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Pass the batch through all transforms."""
        for transform in self.transforms:
            images = transform(images, generator)
        return images

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.transforms))})"


def train_transform(mean: np.ndarray | float, padding: int = 4, flip: bool = True) -> Transform:
    """Return the paper's training pipeline: subtract the mean, pad, crop, flip.

    Args:
        mean: ``Normalise.fit(train).mean``.
        padding: pixels on each side, see `CropFlip`.
        flip: mirror half of the pictures.  Digits should not be mirrored: give ``flip=False`` for them.
    """
    return Compose(Normalise(mean), CropFlip(padding, flip))


def eval_transform(mean: np.ndarray | float) -> Transform:
    """Return the paper's pipeline for testing: a single view, the mean subtracted.

    Args:
        mean: ``Normalise.fit(train).mean``, of the training set here too.
    """
    return Normalise(mean)
