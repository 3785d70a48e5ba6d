"""How the kernels cut their work: parts small enough for the second-level cache, and long rows for NumPy's loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ...backend import empty

ROW = 1024  # numbers in a row of `as_rows`: long enough that the loop over it dwarfs what starting it costs
# where the same row meets all others: NumPy takes up to twice as long if it is shorter than about 5000 numbers
LONG = 1 << 14
_STRIP = 16  # numbers in a row of `transposed`: as many as the processor fetches at once
_NEAR = 1 << 14  # numbers that are still in the cache when they are read again
_CHUNK = 1 << 18  # numbers in a chunk of rows: a few such arrays fit in the second-level cache


class Tile(NamedTuple):
    """Several whole images, or some rows of one."""

    images: slice
    rows: slice

    @property
    def shape(self) -> tuple[int, int]:
        """How many images and how many rows."""
        return self.images.stop - self.images.start, self.rows.stop - self.rows.start


# called once in each thread; what it returns is called with every part of the result that this thread has just
# computed, and with the tile that it is
Finish = Callable[[], Callable[[np.ndarray, Tile], Any]]


def tiles(images: int, rows: int, bytes_per_row: int, limit: int, threads: int) -> list[Tile]:
    """Cut images of so many rows into tiles of at most ``limit`` bytes, one row at least, and a tile for each thread.

    If that takes less than twice as many, all tiles are of one size, so that the threads are done at the same time.
    """
    per_image = max(1, rows * bytes_per_row)
    per_thread = max(1, -(-images // threads))
    most = max(1, min(limit // per_image, per_thread))
    step = next(s for s in range(most, 0, -1) if per_thread % s == 0)
    step = step if 2 * step > most else most
    rows_step = rows if per_image <= limit else max(1, limit // max(1, bytes_per_row))
    return [
        Tile(slice(n, min(n + step, images)), slice(r, min(r + rows_step, rows)))
        for n in range(0, images, step)
        for r in range(0, rows, rows_step)
    ]


def fill(source, out, images: slice, rows: slice) -> None:
    """Write these rows of pictures into ``out``: of an array, or of what can compute them."""
    if isinstance(source, np.ndarray):
        out[...] = source[images, rows]
    else:
        source.fill(out, images, rows)


def as_rows(x, length: int = ROW) -> np.ndarray:
    """x (..., C) as a matrix of long rows, each of several pixels: a view, or a copy of what is not contiguous.

    NumPy's inner loop runs along the last axis; along 16 channels it would spend its time on starting.
    """
    channels = x.shape[-1]
    return np.ascontiguousarray(x).reshape(-1, channels * together(x.size // max(1, channels), channels, length))


@lru_cache(maxsize=256)
def together(rows: int, length: int, limit: int = LONG) -> int:
    """How many rows of this length make one of at most ``limit`` numbers, so that none is left over."""
    return next((k for k in range(max(1, limit // max(1, length)), 0, -1) if rows % k == 0), 1)


def transposed(w) -> np.ndarray:
    """w (..., C, O) -> (..., O, C), of large filters a strip of columns after the other.

    NumPy writes each row of the result as a whole, and then the lines of memory that it reads for the first row are no
    longer in the cache for the second: 4.5 ns for a number of 1024 x 2048 instead of 0.5.
    """
    result = empty((*w.shape[:-2], w.shape[-1], w.shape[-2]), w.dtype)
    strip = _STRIP if w.shape[-2] * w.shape[-1] > _NEAR else max(1, w.shape[-2])
    for c in range(0, w.shape[-2], strip):
        result[..., c : c + strip] = w[..., c : c + strip, :].swapaxes(-1, -2)
    return result


def along_rows(per_channel, length: int) -> np.ndarray:
    """Values for each channel (..., C), repeated for the pixels of a row of ``length`` numbers: (..., length)."""
    *several, channels = per_channel.shape
    return per_channel[..., None, :].repeat(length // max(1, channels), -2).reshape(*several, length)


@lru_cache(maxsize=16)
def zero_row(length: int, dtype) -> np.ndarray:
    """A row of zeros to compare with: NumPy's maximum with a number is four times slower than with a row."""
    zeros = np.zeros(length, dtype)
    zeros.flags.writeable = False
    return zeros


def chunks(part: range, length: int) -> list[slice]:
    """Cut a range of rows of ``length`` numbers into pieces that stay in the cache."""
    step = max(1, _CHUNK // max(1, length))
    return [slice(a, min(a + step, part.stop)) for a in range(part.start, part.stop, step)]


def least_rows(length: int) -> int:
    """How many rows of ``length`` numbers are worth a thread, for a few simple operations on each."""
    return max(1, _CHUNK // max(1, length))
