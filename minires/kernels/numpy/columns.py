"""What the windows of a convolution see, unrolled: im2col of a tile, in memory that the thread keeps."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..window import Pair
from .buffers import Scratch, view, zeros
from .product import CALL, DIRECT, SLIM

_LEAST_ROWS = 16  # of a small product, see `CALL`
_LEAST_SUMMED = 64  # of one whose result, as large as the filters, is added to the others
# NumPy lets go of the interpreter's lock only for a product whose result has more numbers than this, however long the
# sums are: other threads would stand still for that of a few filters.
_LOCKED = 500
_LONG = 1 << 20  # multiply-adds for which that matters


class Border:
    """Some rows and columns of ``n`` pictures, with zeros where there is no picture.

    Args:
        n, width, channels: of the pictures.
        columns: from where to where, the end excluded; the rows are told by `of`.
        height: how many rows.
    """

    def __init__(self, n: int, width: int, channels: int, columns: Pair, height: int, dtype) -> None:
        left, right = columns
        a, b = max(0, left), min(width, right)
        self.columns, self.height, self.dtype = columns, height, dtype
        self.shape = n, height, right - left, channels
        self.seen, self.inside = slice(a, max(a, b)), slice(a - left, max(a, b) - left)
        self.beside = (a, b) != columns  # zeros, not only above and below
        self.pixels: Any = None

    def of(self, pictures, top: int) -> tuple[np.ndarray, int, int]:
        """An array with the rows from ``top`` on, and where in it that row and column 0 of the pictures are."""
        if not self.beside and top >= 0 and top + self.height <= pictures.shape[1]:
            return pictures, top, 0
        if self.pixels is None:
            self.pixels, self.filled = zeros(self.shape, self.dtype), (0, 0)
        a = min(max(0, -top), self.height)
        b = max(a, min(self.height, pictures.shape[1] - top))
        if self.filled != (a, b):
            self.pixels[:, :a] = self.pixels[:, b:] = 0
            self.filled = a, b
        self.pixels[:, a:b, self.inside] = pictures[:, a + top : b + top, self.seen]
        return self.pixels, 0, -self.columns[0]


class Columns:
    """What the windows on ``n`` pictures see, unrolled.

    The pixels that a window sees in a row, or each of them if they do not lie side by side, are copied as one element.
    NumPy's loop over their numbers takes a quarter more time, and three times as much where groups make them few.

    Args:
        counts: rows and columns of windows.
        out: how many filters will meet them, in a group.
        memory: for them.
    """

    def __init__(self, n: int, channels: int, counts: Pair, kernel: Pair, stride: Pair, dilation: Pair, groups: int,
                 out: int, dtype, memory: Scratch) -> None:  # fmt: skip
        taps, rows, per_group = prod(kernel), n * prod(counts), channels // groups
        self.pieces = pieces(rows, taps * per_group, out)
        self.matrix = groups, self.pieces, rows // self.pieces, taps * per_group
        self.as_they_are = kernel == stride == (1, 1)  # the pixels are their columns
        together = kernel[1] if dilation[1] == groups == 1 else 1
        self.element = np.dtype((np.void, together * per_group * dtype.itemsize))
        self.shape = groups, n, *counts, kernel[0], kernel[1] // together
        self.steps, self.dtype, self.memory = (*stride, *dilation), dtype, memory
        self.columns: Any = None
        self.windows: Any = None

    def of(self, source, top: int, left: int, again: bool) -> np.ndarray:
        """(groups, pieces, windows, KH * KW * C/groups), the first window at this pixel; until others are made.

        Args:
            again: ``source`` and the pixel are those of the last call.
        """
        n, height, width, channels = source.shape
        groups, _, rows, columns = self.shape[:4]
        if self.as_they_are and width == columns and (n == 1 or rows == height):
            return by_group(source[:, top : top + rows], groups, self.pieces)
        if self.columns is None:
            self.columns = self.memory.array(self.matrix, self.dtype)
            self.target = np.ndarray(self.shape, self.element, self.columns)
        windows = self.windows
        if windows is None or not again:
            (s, t, d, e), row = self.steps, width * channels
            windows = view(source, top * row + left * channels, self.shape,
                           (channels // groups, height * row, s * row, t * channels, d * row, e * channels),
                           self.element)  # fmt: skip
        self.windows = windows if again else None  # nobody else should keep x
        self.target[...] = windows
        return self.columns


def pieces(rows: int, taps: int, columns: int) -> int:
    """In how many products of equal size BLAS does it best."""
    most = CALL // max(1, taps * columns)
    if not DIRECT or columns > SLIM or rows <= most or most < _LEAST_ROWS:
        return 1
    number = -(-rows // most)
    return next((k for k in range(number, 2 * number) if rows % k == 0), 1)


def for_dw(columns, out: int) -> np.ndarray:
    """The same columns (groups, pieces, windows, taps), in pieces whose products with dy are worth being added up.

    Args:
        columns: what `Columns.of` gave, for as many windows in a group as there are pixels of dy.
        out: how many filters dy has, in a group.
    """
    groups, pieces, rows, taps = columns.shape
    if rows < _LEAST_SUMMED:
        pieces, rows = 1, pieces * rows
    numbers = groups * pieces * taps * out
    if rows * numbers >= _LONG:
        least = _LOCKED // numbers + 1
        factor = next((k for k in range(least, rows // _LEAST_SUMMED) if rows % k == 0), 1)
        pieces, rows = pieces * factor, rows // factor
    return columns.reshape(groups, pieces, rows, taps)


def by_group(y, groups: int, pieces: int):
    """(n, OH, OW, O) -> a view (groups, pieces, pixels, O/groups) that the matrix product can read and write."""
    return y.reshape(pieces, -1, groups, y.shape[3] // groups).transpose(2, 0, 1, 3)
