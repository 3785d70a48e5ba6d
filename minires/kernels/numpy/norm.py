"""Batch normalisation in chunks that stay in the cache, with the ReLU and the addition that may follow it: forward."""

from __future__ import annotations

import numpy as np

from ...backend import empty, in_pieces
from ..reference.norm import update_running
from .tiles import LONG, Tile, along_rows, as_rows, chunks, least_rows, together, zero_row

_SMALL = 1 << 14  # numbers up to which everything at once costs less than cutting it up: 5 to 45 microseconds less


def is_small(x) -> bool:
    """Whether cutting it into rows would cost more than it gains."""
    return x.size <= _SMALL


class Pairs:
    """Pairs of rows, one pair for each piece of an array: in one table, so that they are added up in one call."""

    def __init__(self) -> None:
        self.table, self.count = np.empty((0, 2, 1)), 0

    def next(self, length: int, dtype) -> np.ndarray:
        """The next pair (2, ``length``), to be written."""
        if self.count == len(self.table):
            table = empty((max(16, 2 * self.count), 2, length), dtype)
            table[: self.count] = self.table
            self.table = table
        self.count += 1
        return self.table[self.count - 1]

    def by_channel(self, channels: int) -> np.ndarray:
        """The sum of all pairs, (2, k C), as two sums for each channel, in float64."""
        total = np.add.reduce(self.table[: self.count], 0, np.float64)
        return np.add.reduce(total.reshape(2, -1, channels), 1)


class Sums:
    """Count, sum and sum of squares of each channel over what one thread is given, piece by piece.

    All values are taken relative to the mean of the first piece, so that the variance is not the difference of two
    large numbers: what rounding takes from it is small beside what the pieces' different means add to it.
    """

    def __init__(self, channels: int) -> None:
        self.channels, self.count = channels, 0
        self.pairs = Pairs()
        self.both = np.empty((2, 0, 0))

    def __call__(self, part, tile: Tile) -> None:
        """Take a tile of a convolution's result into account."""
        self.add(part.reshape(-1, part.shape[2] * part.shape[3]))

    def add(self, rows) -> None:
        """Take a few rows into account, (R, k C) in the layout of `as_rows`; k is the same each time."""
        if self.both.shape[1:] != rows.shape:
            self.both = empty((2, *rows.shape), rows.dtype)
            self.ones = np.ones(len(rows), rows.dtype)
            if not self.count:
                self.origin = (self.ones @ rows).reshape(-1, self.channels).mean(0) / rows.dtype.type(len(rows))
            self.long = -1, rows.shape[1] * together(*rows.shape)
            self.origins = along_rows(self.origin, self.long[1])
        self.count += rows.size // self.channels
        centred, squared = self.both
        np.subtract(rows.reshape(self.long), self.origins, out=centred.reshape(self.long))
        np.square(centred, out=squared)
        np.matmul(self.ones, self.both, out=self.pairs.next(rows.shape[1], rows.dtype))

    def moments(self) -> tuple[int, np.ndarray, np.ndarray]:
        """The number of values in each channel, their mean, and the sum of squared deviations from it."""
        total, squares = self.pairs.by_channel(self.channels)
        return self.count, self.origin + total / self.count, squares - total * total / self.count


def merged(sums: list[Sums], dtype) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of the whole from those of its parts, one after the other, some of which may be empty.

    How far the parts' means lie apart is what no part could see (Chan, Golub and LeVeque 1983).
    """
    (count, mean, squares), *others = [s.moments() for s in sums if s.count]
    for more, its_mean, its_squares in others:
        apart = its_mean - mean
        mean = mean + apart * (more / (count + more))
        squares = squares + its_squares + apart * apart * (count * more / (count + more))
        count += more
    return mean.astype(dtype), (squares / count).astype(dtype)


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
    source, target = as_rows(x, LONG), as_rows(y, LONG)
    added = None if residual is None else as_rows(residual, LONG)
    length = source.shape[1]
    mean, scale, beta = along_rows(np.array((mean, scale, beta)), length)
    zeros = zero_row(length, x.dtype)

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
