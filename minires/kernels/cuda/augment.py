"""Batches from pictures that lie on the device as bytes: cropped, mirrored and normalised there."""

from __future__ import annotations

from typing import Any

import numpy as np

from .module import each, ints, kernel


def augment(pictures, labels, plan, batch, size, mean, scale: float, padding: int, images_out, labels_out) -> None:
    """Fill a batch, and count ``batch`` up.

    Args:
        pictures: (all, H, W, C) uint8.
        labels: (all,) int64.
        plan: (all batches' pictures, 4) int32: picture, rows and columns that its window begins at, mirrored or not.
        batch: (1,) int64, which of the batches it is.
        size: pictures in every batch but perhaps the last.
        mean: (H, W, C) float32, subtracted from scale * byte.
        padding: zeros around the normalised picture.
        images_out: (rows, H, W, C) float32, rows at most ``size``.
        labels_out: (rows,) int64.
    """
    rows, *shape = images_out.shape
    count, size = images_out.size, np.int32(size)
    each("augment", count, pictures, plan, batch, size, mean, np.float32(scale), np.int32(padding), images_out,
         np.int64(count), *ints(*shape))  # fmt: skip
    kernel("take_labels")((1,), (256,), (labels, plan, batch, size, labels_out, np.int32(rows)))


def track(loss: Any, logits: Any, labels: Any, sums: Any) -> None:
    """Add rows * loss and the number of wrong answers to ``sums`` (2,) float64, on the device."""
    kernel("track")((1,), (256,), (loss, logits, labels, sums, *ints(*logits.shape)))
