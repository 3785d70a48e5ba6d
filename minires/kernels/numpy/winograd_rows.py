"""F(4, 3) along rows: windows of three rows and any number of columns, half the multiplications of im2col.

    y = A^T [(G w) * (B^T x)]

Here the rows of x are rows of pictures, so each of the six products is a convolution along the columns only.

Two things make it fast in NumPy.  The transforms of a tile are themselves matrix products, one call each.  And the
three columns that a window sees are neighbours in memory, channels and all, so that the pictures, laid out flat, *are*
the matrix of windows: rows of ``KW * C`` numbers, each starting C further on.  BLAS wants rows that do not overlap, so
windows 0, KW, 2 KW, ... make one matrix, windows 1, KW + 1, ... the next: KW products, no copy.  One border of zeros
between two rows of a picture serves both.

The error: with random x and w the root mean square is 1.4 to 2.8 times that of im2col in the same precision (float32,
16 to 512 channels), that of dw up to 4 times.  An infinity or a NaN in a picture makes NaN of all rows that are
computed with it, up to three more than in the direct sum.
"""

from __future__ import annotations

import numpy as np

from ...backend import empty
from .buffers import view
from .product import product
from .tiles import Tile
from .toom_cook import POINTS, RESULTS
from .winograd_tile import Plan, WinogradTile


class Rows(WinogradTile):
    """The arrays of one thread, and the views of them that a tile of ``n`` images and ``groups`` row groups needs.

    What can be prepared is prepared here.  Between two NumPy calls a thread holds the interpreter's lock, and one that
    finds it taken falls asleep: a microsecond of Python for each tile costs more than a microsecond.
    """

    points = POINTS

    def __init__(self, plan: Plan, n: int, groups: int, dtype) -> None:
        (_, _, width, channels), (_, _, out_width, out) = plan.x_shape, plan.y_shape
        kw, before, pitch = plan.kernel[1], plan.padding[1], plan.windows
        rows = np.zeros((n, RESULTS * groups + 2, width, channels), dtype)
        super().__init__(plan, n, groups, rows)
        row, image = width * channels, rows[0].size
        self.six_rows = view(rows, 0, (n, groups, POINTS, row), (image, RESULTS * row, row, 1))

        count = n * groups * pitch  # windows, those that straddle two rows included
        matrix_rows = -(-count // kw)
        flat = np.empty((POINTS, kw * (matrix_rows + 1) + before, channels), dtype)
        flat[...] = 0  # and so it stays before the first pixel, between two rows and after the last pixel
        one, line = flat[0].size, pitch * channels
        self.transformed = view(flat, before * channels, (n, groups, POINTS, row), (groups * line, line, one, 1))
        windows, shifted = (POINTS, kw, matrix_rows, kw * channels), (POINTS, kw, count, channels)
        self.windows = view(flat, 0, windows, (one, channels, kw * channels, 1))
        # the last column of a window first: the filters of dx are turned around, and dw is to be turned back
        self.shifted = view(flat, (kw - 1) * channels, shifted, (one, -channels, channels, 1))

        by_pixel = np.empty((POINTS, matrix_rows * kw, out), dtype)
        self.products = by_pixel.reshape(POINTS, matrix_rows, kw, out).swapaxes(1, 2)
        self.by_channel = by_pixel[:, None, :count].swapaxes(2, 3)
        row, line = out_width * out, pitch * out
        self.result_shape = n, groups, RESULTS, row
        strides = groups * line, line, by_pixel[0].size, 1
        self.to_rows = view(by_pixel, 0, (n, groups, POINTS, row), strides)
        self.straddling = view(by_pixel, row, (n, groups, POINTS, line - row), strides)

    @staticmethod
    def transform(matrix, w, shape) -> np.ndarray:
        """A (p, q) matrix along the rows of filters, (q, ...) -> (p, ...), in this shape."""
        result = empty(shape, w.dtype)
        product(matrix, w.reshape(matrix.shape[1], -1), result.reshape(len(matrix), -1))
        return result

    def load(self, x, tile: Tile, bt) -> None:
        """B^T x of a tile."""
        self.fill(x, tile)
        np.matmul(bt, self.six_rows, out=self.transformed)

    def store(self, y, tile: Tile, at) -> tuple[np.ndarray, Tile]:
        """A^T of the six products, as rows of y; returns the rows written, and which they are."""
        written = self.written(y, tile)
        part = y[written]
        if part.shape[1] == RESULTS * self.groups:
            np.matmul(at, self.to_rows, out=part.reshape(self.result_shape))
        else:  # the last group has fewer than four
            whole = (at @ self.to_rows).reshape(self.n, -1, *part.shape[2:])
            part[...] = whole[:, : part.shape[1]]
        return part, written

    def upstream(self, x, tile: Tile, a) -> np.ndarray:
        """A x of a tile, (6, 1, C, pixels), laid out as the windows are: zeros where a window straddles two rows."""
        rows = x[self.written(x, tile)]
        if rows.shape[1] < RESULTS * self.groups:
            rows = np.concatenate([rows, np.zeros((self.n, -rows.shape[1] % RESULTS, *rows.shape[2:]), rows.dtype)], 1)
        np.matmul(a, rows.reshape(self.result_shape), out=self.to_rows)
        self.straddling[...] = 0
        return self.by_channel
