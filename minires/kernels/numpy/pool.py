"""Pooling, one cell of the window at a time for all windows of a tile at once.

NumPy wants long runs of memory: the maximum of two arrays takes 0.07 ns for each element in one run of 50,000, 0.24 ns
in rows of 900, and 0.6 ns in pixels of 16 channels that lie two apart.  So the bordered pictures of a tile are first
split into their *phases*: with stride (s, t) the s t pictures made of every s-th row and every t-th column.  What cell
(u, v) of window (i, j) sees is pixel (i + u // s, j + v // t) of phase (u % s, v % t).  With the results laid out in
rows as long as those of the phases, it is equally far from result (i, j) for all i, j, images and channels: what a cell
sees is one run.  The results of windows that straddle two rows are computed with the others, and left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import NamedTuple

import numpy as np

from ...backend import empty, get_num_threads, in_pieces
from ..window import Pair, output_size
from .tiles import tiles

# of pictures: far more than the second-level cache holds, but two threads whose calls of NumPy take a few microseconds
# wait for each other; 4.7 ms at 32x112x112x16, 14 with tiles of 400 kB
_TILE_BYTES = 4_000_000
_LEAST_WORK = 1 << 20  # cells of windows that are worth another thread


def max_pool2d(x, kernel: Pair, stride: Pair, padding: Pair, choose: bool = True):
    """x (N, H, W, C) -> the maxima (N, OH, OW, C), and for each the number of its cell in the window, row by row.

    Of equal elements the first is chosen.  A NaN anywhere in the window is its maximum, so that it is not hidden.
    If not told to ``choose``, as without a gradient, the second result is None.
    """
    sizes, number = _Sizes.of(x.shape, kernel, stride, padding), kernel[0] * kernel[1]
    y = empty(sizes.y_shape, x.dtype)
    if not choose:
        _maxima(x, y, sizes)
        return y, None
    chosen = empty(y.shape, np.min_scalar_type(number))

    def pool(images: slice) -> None:
        phases = _Phases(sizes, images, x.dtype)
        phases.load(x[images], -np.inf)
        cells, best = phases.cells(), empty(phases.shape, x.dtype)
        best[...] = -np.inf
        for seen in cells:
            np.maximum(best, seen, out=best)
        phases.border(np.nan)  # equals nothing: padding is not chosen even where a window holds only -inf
        from_end = _first(cells, partial(np.equal, best), chosen.dtype)
        if not phases.results(from_end).all():  # nor does a NaN in the picture
            phases.border(0)
            np.copyto(from_end, _first(cells, np.isnan, chosen.dtype), where=np.isnan(best))
        y[images] = phases.results(best)
        np.subtract(chosen.dtype.type(number), phases.results(from_end), out=chosen[images])

    sizes.for_each_tile(pool, x.dtype)
    return y, chosen


def _maxima(x, y, sizes: _Sizes) -> None:
    """The maxima alone: of the rows of a window, then of its columns.  Whole rows of pictures are long runs as it is.

    Half the time of the above: 0.3 and 0.8 ms at 1x112x112x64.
    """

    def pool(images: slice) -> None:
        some = x[images]
        tall = empty((len(some), sizes.y_shape[1], *some.shape[2:]), x.dtype)
        for axis, source, maxima in ((0, some, tall), (1, tall, y[images])):
            maxima[...] = -np.inf
            lines, size = maxima.shape[1 + axis], source.shape[1 + axis]
            for tap in range(sizes.kernel[axis]):
                seen_by, seen = _inside(lines, tap, sizes.stride[axis], sizes.padding[axis], size)
                here, there = ((slice(None),) * (1 + axis) + (which,) for which in (seen_by, seen))
                np.maximum(maxima[here], source[there], out=maxima[here])

    sizes.for_each_tile(pool, x.dtype)


def _first(cells: list[np.ndarray], holds: Callable[..., np.ndarray], dtype) -> np.ndarray:
    """For each window the first cell for which it holds, counted from the end: 1 is the last cell, 0 is none.

    A product and a maximum of bytes take a twentieth of an assignment with a mask.
    """
    here, number, from_end = (empty(cells[0].shape, kind) for kind in (np.uint8, dtype, dtype))
    from_end[...] = 0
    for cell, seen in enumerate(cells):
        holds(seen, out=here.view(np.bool_))
        np.multiply(here, dtype.type(len(cells) - cell), out=number)
        np.maximum(from_end, number, out=from_end)
    return from_end


def max_pool2d_dx(dy, chosen, x_shape, kernel: Pair, stride: Pair, padding: Pair):
    """Each gradient goes to the cell that was chosen; where windows overlap a pixel collects several."""
    sizes = _Sizes.of(x_shape, kernel, stride, padding)
    dx, bits = empty(x_shape, dy.dtype), np.dtype(f"i{dy.dtype.itemsize}")

    def spread(images: slice) -> None:
        phases = _Phases(sizes, images, dy.dtype)
        upstream, choice = phases.laid_out(dy[images]).view(bits), phases.laid_out(chosen[images])
        here, mask = empty(choice.shape, np.int8), empty(choice.shape, bits)
        phases.flat[...] = 0
        for cell, received in reversed([*enumerate(phases.cells())]):  # a pixel's windows in the reference's order
            np.equal(choice, choice.dtype.type(cell), out=here.view(np.bool_))
            np.negative(here, out=here)
            mask[...] = here
            mask &= upstream  # all bits or none: 0 times infinity would be a NaN
            received += mask.view(dy.dtype)
        phases.store(dx[images])

    sizes.for_each_tile(spread, dy.dtype)
    return dx


def avg_pool2d(x, kernel: Pair, stride: Pair, padding: Pair):
    """x (N, H, W, C) -> the mean of each window, padding counted as zeros, (N, OH, OW, C)."""
    sizes = _Sizes.of(x.shape, kernel, stride, padding)
    y, share = empty(sizes.y_shape, x.dtype), x.dtype.type(1 / (kernel[0] * kernel[1]))

    def pool(images: slice) -> None:
        phases = _Phases(sizes, images, x.dtype)
        phases.load(x[images], 0)
        total = empty(phases.shape, x.dtype)
        total[...] = 0
        for seen in phases.cells():
            total += seen
        np.multiply(phases.results(total), share, out=y[images])

    sizes.for_each_tile(pool, x.dtype)
    return y


def avg_pool2d_dx(dy, x_shape, kernel: Pair, stride: Pair, padding: Pair):
    """Each cell of a window receives 1 / (KH * KW) of its gradient."""
    sizes = _Sizes.of(x_shape, kernel, stride, padding)
    dx, share = empty(x_shape, dy.dtype), dy.dtype.type(1 / (kernel[0] * kernel[1]))

    def spread(images: slice) -> None:
        phases = _Phases(sizes, images, dy.dtype)
        upstream = phases.laid_out(dy[images])
        upstream *= share
        phases.flat[...] = 0
        for received in phases.cells():
            received += upstream
        phases.store(dx[images])

    sizes.for_each_tile(spread, dy.dtype)
    return dx


class _Sizes(NamedTuple):
    """The sizes of one pooling."""

    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    kernel: Pair
    stride: Pair
    padding: Pair
    over: Pair  # rows and columns of the phases that a window spans beyond its first
    lines: Pair  # rows and columns of a phase: enough for all windows and for all pixels

    @classmethod
    def of(cls, x_shape, kernel: Pair, stride: Pair, padding: Pair) -> _Sizes:
        """Those of a pooling with this window."""
        axes = [*zip(x_shape[1:3], kernel, stride, padding, strict=True)]
        positions = [output_size(*axis) for axis in axes]
        over = [(k - 1) // s for _, k, s, _ in axes]
        lines = [max(o + b, -(-(size + p) // s)) for o, b, (size, _, s, p) in zip(positions, over, axes, strict=True)]
        y_shape = x_shape[0], *positions, x_shape[3]
        return cls(x_shape, y_shape, kernel, stride, padding, (over[0], over[1]), (lines[0], lines[1]))

    def for_each_tile(self, work: Callable[[slice], None], dtype: np.dtype) -> None:
        """Call it with all images, some at a time."""
        images, height, width, channels = self.x_shape
        parts = tiles(
            images if channels else 0, 1, height * width * channels * dtype.itemsize, _TILE_BYTES, get_num_threads()
        )

        def some(part: range) -> None:
            for tile in parts[part.start : part.stop]:
                work(tile.images)

        cells = prod(self.y_shape) * prod(self.kernel)
        in_pieces(some, len(parts), len(parts) * _LEAST_WORK // max(1, cells))


class _Phases:
    """The phases of some bordered pictures, one behind the other in ``flat``."""

    def __init__(self, sizes: _Sizes, images: slice, dtype) -> None:
        self.sizes, self.shape = sizes, (images.stop - images.start, *sizes.lines, sizes.x_shape[3])
        self.size = prod(self.shape)
        # the last windows see what comes after the last picture: a window that straddles two rows has a place, too
        after = (sizes.over[0] * sizes.lines[1] + sizes.over[1]) * sizes.x_shape[3]
        self.flat = empty((*sizes.stride, self.size + after), dtype)

    def cells(self) -> list[np.ndarray]:
        """For each cell of the window, row by row, what it sees from every place."""
        (s, t), (_, _, columns, channels) = self.sizes.stride, self.shape
        runs = [
            (self.flat[u % s, v % t], (u // s * columns + v // t) * channels) for u, v in np.ndindex(self.sizes.kernel)
        ]
        return [phase[start : start + self.size].reshape(self.shape) for phase, start in runs]

    def load(self, x, border: float) -> None:
        """Split pictures into their phases, with a border."""
        self.border(border)
        x = np.ascontiguousarray(x)
        for picture, inside, pixels in self._pictures():
            _as_pixels(picture)[inside] = _as_pixels(x)[pixels]

    def border(self, value: float) -> None:
        """Write a value all around the pictures."""
        self.flat[..., self.size :] = value
        for picture, (_, rows, columns), _ in self._pictures():
            for outside in (slice(0, rows.start), slice(rows.stop, None)):
                picture[:, outside] = value
            for outside in (slice(0, columns.start), slice(columns.stop, None)):
                picture[:, :, outside] = value

    def store(self, x) -> None:
        """Put the pictures together again."""
        for picture, inside, pixels in self._pictures():
            _as_pixels(x)[pixels] = _as_pixels(picture)[inside]

    def _pictures(self) -> Iterator[tuple[np.ndarray, tuple[slice, ...], tuple[slice, ...]]]:
        """Each phase, with its border; where it is inside the picture; and which of the picture's pixels it has."""
        sizes, every = self.sizes, slice(None)
        for phase in np.ndindex(sizes.stride):
            rows, columns = (
                _inside(sizes.lines[a], phase[a], sizes.stride[a], sizes.padding[a], sizes.x_shape[1 + a])
                for a in (0, 1)
            )
            picture = self.flat[phase][: self.size].reshape(self.shape)
            yield picture, (every, rows[0], columns[0]), (every, rows[1], columns[1])

    def laid_out(self, y) -> np.ndarray:
        """The results of windows in their places, and zeros in the others."""
        results = empty(self.shape, y.dtype)
        results[...] = 0
        self.results(results)[...] = y
        return results

    def results(self, laid_out) -> np.ndarray:
        """The results of windows."""
        _, rows, columns, _ = self.sizes.y_shape
        return laid_out[:, :rows, :columns]


def _inside(lines: int, phase: int, stride: int, padding: int, size: int) -> tuple[slice, slice]:
    """Which of a phase's lines lie in the picture, and which of the picture's ``size`` lines these are.

    And of the windows, which see a pixel through their tap number ``phase``, and which pixels.
    """
    start = min(lines, max(0, -((phase - padding) // stride)))
    stop = max(start, min(lines, (size - 1 - phase + padding) // stride + 1))
    first = start * stride + phase - padding
    return slice(start, stop), slice(first, first + (stop - start) * stride, stride)


def _as_pixels(pictures) -> np.ndarray:
    """A pixel, channels and all, as one element: with few channels it is copied four times as fast."""
    return pictures.view(f"V{pictures.shape[-1] * pictures.itemsize}")[..., 0]
