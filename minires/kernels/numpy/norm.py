"""Batch normalisation in chunks that stay in the cache, with the ReLU and the addition that may follow it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import empty, in_pieces
from ..reference.norm import update_running
from .tiles import Tile, along_rows, as_rows, chunks, least_rows

_SMALL = 1 << 14  # numbers up to which everything at once costs less than cutting it up: 5 to 45 microseconds less
_LONG = 8192  # for three or four operations with the same row, a third faster than 1024


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
        by_channel = [p.reshape(2, -1, self.channels).sum(1, np.float64) for p in self.pieces]
        total, squares = np.sum(by_channel, 0)
        return self.count, self.origin + total / self.count, squares - total * total / self.count


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
    if x.size <= _SMALL:
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
    if x.size <= _SMALL:
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


class NormGradient:
    """The backward pass of a batch norm, a ReLU after it and an addition between them, in two steps.

    With g = dy (y > 0), or dy where no ReLU followed (``y`` None), and m values in a channel,

        dx = gamma / std (g - sum(g) / m - xhat sum(g xhat) / m) = scale (g + slope (x - origin))

    The sums are taken at once.  `fill` then computes any part of dx / scale, so that a convolution can have it tile by
    tile, the scale in its weights, and the whole need not exist.  g itself, the gradient of what was added, is kept if
    asked for.
    """

    def __init__(self, dy, y, x, gamma, mean, var, eps, keep_g: bool) -> None:
        self.shape, self.dtype = x.shape, x.dtype
        self.dy, self.x = np.ascontiguousarray(dy), np.ascontiguousarray(x)
        self.y = None if y is None else np.ascontiguousarray(y)
        self.g = self.dy if y is None else empty(x.shape, x.dtype) if keep_g else None
        std = np.sqrt(var.astype(np.float64) + eps)
        count = x.size // x.shape[-1]
        sum_g, sum_gx = np.sum(self._sums(mean), 0, np.float64).reshape(2, -1, x.shape[-1]).sum(1)
        self.dbeta, self.dgamma = sum_g.astype(x.dtype), (sum_gx / std).astype(x.dtype)
        self.scale = (gamma / std).astype(x.dtype)
        # slope (x - origin) = -sum(g) / m - xhat sum(g xhat) / m: a slope of 0 beside a constant is made too small to
        # matter, so that the constant need not be added apart
        constant, slope = sum_g / count, -sum_gx / (std * std * count)
        small = np.where(constant == 0, 0, 1e-20 * np.abs(constant) + 1e-30)
        slope = np.where(np.abs(slope) < small, small, slope)
        origin = mean + np.divide(constant, slope, out=np.zeros_like(slope), where=slope != 0)
        self._row_values = slope.astype(x.dtype), origin.astype(x.dtype)
        self._known: dict[int, list[np.ndarray]] = {}

    def _sums(self, mean) -> list[tuple[np.ndarray, np.ndarray]]:
        """Sums of g and of g (x - mean) over each column of the rows of `as_rows`, piece by piece."""
        if self.x.size <= _SMALL:
            g = self.dy if self.y is None else np.multiply(self.dy, self.y > 0, out=self.g)
            centred = self.x - mean
            centred *= g
            return [(g.reshape(-1, len(mean)).sum(0), centred.reshape(-1, len(mean)).sum(0))]
        dy, y, x, kept = self._rows()
        means = along_rows(mean, x.shape[1])

        def work(part: range) -> list[tuple[np.ndarray, np.ndarray]]:
            pieces = []
            for chunk in chunks(part, x.shape[1]):
                centred, g = empty(x[chunk].shape, x.dtype), dy[chunk]
                if y is not None:
                    g = np.multiply(g, y[chunk] > 0, out=empty(g.shape, g.dtype) if kept is None else kept[chunk])
                np.subtract(x[chunk], means, out=centred)
                centred *= g
                ones = np.ones(len(g), x.dtype)
                pieces.append((ones @ g, ones @ centred))
            return pieces

        return [p for pieces in in_pieces(work, len(x), least_rows(x.shape[1])) for p in pieces]

    def whole(self) -> np.ndarray:
        """All of dx."""
        if self.x.size <= _SMALL and self.g is not None:
            slope, origin = self._row_values
            dx = self.x - origin
            dx *= slope
            dx += self.g
            dx *= self.scale
            return dx
        dx = empty(self.shape, self.dtype)
        target, arrays = as_rows(dx), self._rows()
        scale = along_rows(self.scale, target.shape[1])

        def work(part: range) -> None:
            for chunk in chunks(part, target.shape[1]):
                rows = target[chunk]
                self._write(rows, *(None if a is None else a[chunk] for a in arrays))
                rows *= scale

        in_pieces(work, len(target), least_rows(target.shape[1]))
        return dx

    def fill(self, out, images: slice, rows: slice) -> None:
        """Write dx / scale of these rows of pictures into ``out``."""
        shape = (*out.shape[:2], self.shape[2] * self.shape[3])
        arrays = self.dy, self.y, self.x, self.g
        self._write(out.reshape(shape), *(None if a is None else a[images, rows].reshape(shape) for a in arrays))

    def _write(self, out, dy, y, x, g) -> None:
        length = out.shape[-1]
        if length not in self._known:
            self._known[length] = [along_rows(v, length) for v in self._row_values]
        slope, origin = self._known[length]
        np.subtract(x, origin, out=out)
        out *= slope
        out += np.multiply(dy, y > 0, out=empty(out.shape, out.dtype)) if g is None else g

    def _rows(self) -> list[Any]:
        return [None if a is None else as_rows(a) for a in (self.dy, self.y, self.x, self.g)]


def batch_norm_backward(dy, y, x, gamma, mean, var, eps):
    """dx, dgamma, dbeta, and the gradient of the residual: see `NormGradient`."""
    gradient = NormGradient(dy, y, x, gamma, mean, var, eps, keep_g=True)
    return gradient.whole(), gradient.dgamma, gradient.dbeta, gradient.g
