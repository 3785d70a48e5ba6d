"""The backward pass of a batch norm, as a source of tiles and with sums that may be gathered before it begins."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import empty, in_pieces
from .norm import Pairs, is_small
from .tiles import LONG, ROW, Tile, along_rows, as_rows, chunks, least_rows, together


class _Sums:
    """Sums of g and of g (x - mean) over the columns of rows, piece by piece, as one thread is given them."""

    def __init__(self, mean, length: int) -> None:
        self.mean, self.length, self.pairs = mean, length, Pairs()
        self.centred = np.empty((0, 0))

    def add(self, g, x) -> None:
        """Take a few rows into account, (R, k C) in the layout of `as_rows`."""
        if self.centred.shape != x.shape:
            self.centred = empty(x.shape, x.dtype)
            self.ones = np.ones(len(x), x.dtype)
            self.long = -1, self.length * together(*x.shape)
            self.means = along_rows(self.mean, self.long[1])
        np.subtract(x.reshape(self.long), self.means, out=self.centred.reshape(self.long))
        np.multiply(self.centred, g, out=self.centred)
        of_g, of_both = self.pairs.next(self.length, x.dtype)
        np.matmul(self.ones, g, out=of_g)
        np.matmul(self.ones, self.centred, out=of_both)


class NormGradient:
    """The backward pass of a batch norm, a ReLU after it and an addition between them, in two steps.

    With g = dy (y > 0), or dy where no ReLU followed (``y`` None), and m values in a channel,

        dx = gamma / std (g - sum(g) / m - xhat sum(g xhat) / m) = scale (g + slope (x - origin))

    The sums are taken at once, unless a `NormReceiver` has them.  `fill` then computes any part of dx / scale, so that
    a convolution can have it tile by tile, the scale in its weights, and the whole need not exist.  g itself, the
    gradient of what was added, is kept if asked for.
    """

    def __init__(self, dy, y, x, gamma, mean, var, eps, keep_g: bool, received: NormReceiver | None = None) -> None:
        self.shape, self.dtype = x.shape, x.dtype
        y = None if received else y  # what was received is g already
        self.dy, self.x = np.ascontiguousarray(dy), np.ascontiguousarray(x)
        self.y = None if y is None else np.ascontiguousarray(y)
        self.g = self.dy if y is None else empty(x.shape, x.dtype) if keep_g else None
        std = np.sqrt(var.astype(np.float64) + eps)
        count = x.size // x.shape[-1]
        sum_g, sum_gx = self._sums(mean) if received is None else received.sums
        self.dbeta, self.dgamma = sum_g.astype(x.dtype), (sum_gx / std).astype(x.dtype)
        self.scale = (gamma / std).astype(x.dtype)
        # slope (x - origin) = -sum(g) / m - xhat sum(g xhat) / m
        constant, slope = sum_g / count, sum_gx / (std * std * -count)
        small = 1e-20 * np.abs(constant) + 1e-30
        if (np.abs(slope) < small).any():
            # a slope of 0 beside a constant is made too small to matter, so that the constant need not be added apart
            slope = np.where((np.abs(slope) < small) & (constant != 0), small, slope)
            origin = mean + np.divide(constant, slope, out=np.zeros_like(slope), where=slope != 0)
        else:
            origin = mean + constant / slope
        self._row_values = np.array((slope, origin), x.dtype)
        self._known: dict[int, np.ndarray] = {}

    def _sums(self, mean) -> np.ndarray:
        """The sums of g and of g (x - mean), (2, C) in float64."""
        if is_small(self.x):
            g = self.dy if self.y is None else np.multiply(self.dy, self.y > 0, out=self.g)
            centred = self.x - mean
            centred *= g
            return np.array([g.reshape(-1, len(mean)).sum(0), centred.reshape(-1, len(mean)).sum(0)], np.float64)
        dy, y, x, kept = self._rows()

        def work(part: range) -> np.ndarray:
            sums = _Sums(mean, x.shape[1])
            for chunk in chunks(part, x.shape[1]):
                g = dy[chunk]
                if y is not None:
                    g = np.multiply(g, y[chunk] > 0, out=empty(g.shape, g.dtype) if kept is None else kept[chunk])
                sums.add(g, x[chunk])
            return sums.pairs.by_channel(len(mean))

        return np.add.reduce(in_pieces(work, len(x), least_rows(x.shape[1])))

    def whole(self) -> np.ndarray:
        """All of dx."""
        if is_small(self.x) and self.g is not None:
            slope, origin = self._row_values
            dx = self.x - origin
            dx *= slope
            dx += self.g
            dx *= self.scale
            return dx
        dx = empty(self.shape, self.dtype)
        target, arrays = as_rows(dx, LONG), self._rows(LONG)
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
        if not out[0].flags.c_contiguous:  # an image is not one row of numbers there
            apart = empty(out.shape, self.dtype)
            self.fill(apart, images, rows)
            out[...] = apart
            return
        row = self.shape[2] * self.shape[3]
        shape = len(out), out.shape[1] * row  # there may be other rows between the images in `out`
        if shape[1] > LONG:
            shape = *out.shape[:2], row
        arrays = self.dy, self.y, self.x, self.g
        self._write(out.reshape(shape), *(None if a is None else a[images, rows].reshape(shape) for a in arrays))

    def _write(self, out, dy, y, x, g) -> None:
        length = out.shape[-1]
        if length not in self._known:
            self._known[length] = along_rows(self._row_values, length)
        slope, origin = self._known[length]
        np.subtract(x, origin, out=out)
        out *= slope
        out += np.multiply(dy, y > 0, out=empty(out.shape, out.dtype)) if g is None else g

    def _rows(self, length: int = ROW) -> list[Any]:
        return [None if a is None else as_rows(a, length) for a in (self.dy, self.y, self.x, self.g)]


class NormReceiver:
    """Sees the upstream gradient of a batch norm while it is being written, a tile at a time, for a `NormGradient`.

    To a tile is added what arrived from elsewhere before (``so_far``, or None), and it is multiplied by y > 0 (if y is
    not None), both in place: so it is g, and its sums are gathered while it is in the cache.

    Attributes:
        sums: of g and of g (x - mean), (2, C) in float64; None until all of it has been seen.
    """

    def __init__(self, so_far, y, x, mean) -> None:
        self._arrays, self._mean = (so_far, y, x), mean
        self.sums: Any = None

    @property
    def complete(self) -> bool:
        """Whether all of the gradient has been seen."""
        return self.sums is not None

    def __call__(self) -> _Received:
        """What one thread calls with the tiles that it writes."""
        return _Received(*self._arrays, self._mean)

    def finish(self, seen: list[_Received]) -> None:
        """Take the sums of all threads, in order, when all tiles have been seen."""
        pairs = [one.sums.pairs for one in seen]
        self.sums = np.add.reduce([p.by_channel(len(self._mean)) for p in pairs if p.count])


class _Received:
    def __init__(self, so_far, y, x, mean) -> None:
        self.so_far, self.y, self.x = so_far, y, x
        self.sums = _Sums(mean, x.shape[2] * x.shape[3])
        self.positive = np.empty(0, np.bool_)

    def __call__(self, part, tile: Tile) -> None:
        if self.so_far is not None:
            part += self.so_far[tile]
        if self.y is not None:
            if self.positive.shape != part.shape:
                self.positive = np.empty(part.shape, np.bool_)
            part *= np.greater(self.y[tile], 0, out=self.positive)
        rows = -1, part.shape[2] * part.shape[3]
        self.sums.add(part.reshape(rows), self.x[tile].reshape(rows))


def norm_receiver(so_far, y, x, mean) -> NormReceiver | None:
    """A `NormReceiver` for pictures x (N, H, W, C), if they are large enough to gain by it."""
    return NormReceiver(so_far, y, x, mean) if x.ndim == 4 and not is_small(x) else None


def batch_norm_backward(dy, y, x, gamma, mean, var, eps, received: NormReceiver | None = None):
    """dx, dgamma, dbeta, and the gradient of the residual: see `NormGradient`."""
    gradient = NormGradient(dy, y, x, gamma, mean, var, eps, True, received)
    return gradient.whole(), gradient.dgamma, gradient.dbeta, gradient.g
