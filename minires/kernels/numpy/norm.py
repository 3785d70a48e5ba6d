"""Batch normalisation in chunks that stay in the cache, with the ReLU and the addition that may follow it: forward."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import empty, in_pieces
from ..reference.norm import update_running
from .tiles import Tile, along_rows, as_rows, chunks, least_rows

_SMALL = 1 << 14  # numbers up to which everything at once costs less than cutting it up: 5 to 45 microseconds less
_LONG = 8192  # for three or four operations with the same row, a third faster than 1024


def is_small(x) -> bool:
    """Whether cutting it into rows would cost more than it gains."""
    return x.size <= _SMALL


class Sums:
    """Count, sum and sum of squares of each channel over what one thread is given, piece by piece.

    All values are taken relative to the mean of the first piece, so that the variance is not the difference of two
    large numbers: what rounding takes from it is small beside what the pieces' different means add to it.
    """

    def __init__(self, channels: int) -> None:
        self.channels, self.count = channels, 0
        self.pieces: list[np.ndarray] = []
        self.both = np.empty((2, 0, 0))

    def __call__(self, part, tile: Tile) -> None:
        """Take a tile of a convolution's result into account."""
        self.add(part.reshape(-1, part.shape[2] * part.shape[3]))

    def add(self, rows) -> None:
        """Take a few rows into account, (R, k C) in the layout of `as_rows`."""
        if self.both.shape[1:] != rows.shape:
            self.both = empty((2, *rows.shape), rows.dtype)
            self.ones = np.ones(len(rows), rows.dtype)
            if not self.count:
                self.origin = (self.ones @ rows).reshape(-1, self.channels).mean(0) / rows.dtype.type(len(rows))
            self.origins = along_rows(self.origin, rows.shape[1])
        self.count += rows.size // self.channels
        centred, squared = self.both
        np.subtract(rows, self.origins, out=centred)
        np.square(centred, out=squared)
        self.pieces.append(self.ones @ self.both)

    def moments(self) -> tuple[int, np.ndarray, np.ndarray]:
        """The number of values in each channel, their mean, and the sum of squared deviations from it."""
        total, squares = by_channel(self.pieces, self.channels)
        return self.count, self.origin + total / self.count, squares - total * total / self.count


def by_channel(pieces, channels: int) -> np.ndarray:
    """Sums over the columns of rows (R, k C), two of each piece, -> the two sums of each channel, in float64."""
    by_length: dict[int, list[Any]] = {}
    for piece in pieces:
        by_length.setdefault(piece[0].size, []).append(piece)
    return np.sum([np.array(p).sum(0, np.float64).reshape(2, -1, channels).sum(1) for p in by_length.values()], 0)


def merged(sums, dtype) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of the whole from those of its parts (Chan, Golub and LeVeque 1983).

    How far the parts' means lie from the mean is what no part could see.
    """
    parts = [s.moments() for s in sums if s.count]
    counts, means, squares = (np.array([p[i] for p in parts], np.float64) for i in range(3))
    mean = counts @ means / counts.sum()
    var = (squares.sum(0) + counts @ (means - mean) ** 2) / counts.sum()
    return mean.astype(dtype), var.astype(dtype)


def moments(x, running=None):
    """x (..., C) -> the mean and the biased variance (C,) over all other axes; ``running`` as in the reference."""
    mean, var = _moments(x)
    update_running(running, mean, var, x.size // max(1, x.shape[-1]))
    return mean, var


def _moments(x) -> tuple[np.ndarray, np.ndarray]:
    if is_small(x):
        pixels = x.reshape(-1, x.shape[-1])
        mean = pixels.mean(0)
        centred = pixels - mean
        return mean, np.square(centred, out=centred).mean(0)
    rows = as_rows(x)

    def work(part: range) -> Sums:
        sums = Sums(x.shape[-1])
        for chunk in chunks(part, rows.shape[1]):
            sums.add(rows[chunk])
        return sums

    return merged(in_pieces(work, len(rows), least_rows(rows.shape[1])), x.dtype)


def batch_norm(x, gamma, beta, mean, var, eps, residual=None, relu=False):
    """x (..., C) -> gamma (x - mean) / std + beta, plus ``residual`` of the same shape if given, then ReLU if asked."""
    scale = gamma / np.sqrt(var + x.dtype.type(eps))
    if is_small(x):
        y = x - mean
        y *= scale
        y += beta
        if residual is not None:
            y += residual
        return np.maximum(y, 0, out=y) if relu else y
    y = empty(x.shape, x.dtype)
    source, target = as_rows(x, _LONG), as_rows(y, _LONG)
    added = None if residual is None else as_rows(residual, _LONG)
    length = source.shape[1]
    mean, scale, beta = (along_rows(v, length) for v in (mean, scale, beta))
    zeros = np.zeros(length, x.dtype)  # NumPy's maximum with a number is four times slower than with a row

    def work(part: range) -> None:
        for chunk in chunks(part, length):
            rows = target[chunk]
            np.subtract(source[chunk], mean, out=rows)
            rows *= scale
            rows += beta
            if added is not None:
                rows += added[chunk]
            if relu:
                np.maximum(rows, zeros, out=rows)

    in_pieces(work, len(target), least_rows(length))
    return y
