"""F(4x4, 3x3): windows of three columns filtered along rows and columns, a quarter of the multiplications of im2col.

Sixteen results, a square of four by four pixels, come from six by six pixels:

    y = A^T [(G w G^T) * (B^T x B)] A

and each of the 36 points is a matrix product, (squares, C) by (C, O).

A transform is a product as well, of one small matrix with rows of numbers, and short rows are what makes it slow.  So a
tile is laid out (H, W, n, C): beside each pixel lie the same pixels of the other images.  The transform along rows sees
them beside all columns, that along columns by themselves.

The way back undoes the same steps in the same memory: the gradient of A^T m A with respect to m, for an upstream x, is
A x A^T.

The error: with random x and w the root mean square is 2 to 6 times that of im2col in the same precision (float32, 64
to 512 channels), at most 1.8e-6 of the result's; that of dw 2 to 9 times.  `winograd_rows` has 1.4 to 2.8, and up to 4.
An infinity or a NaN makes NaN of all squares that are computed with it.
"""

from __future__ import annotations

import numpy as np

from ...backend import empty
from .buffers import view
from .product import product
from .tiles import Tile
from .toom_cook import POINTS, RESULTS
from .winograd_tile import Plan, WinogradTile


class Squares(WinogradTile):
    """The arrays of one thread, laid out (H, W, n, C), and the views of them that a tile of ``n`` images needs.

    What is transformed along one axis only lies in one memory for both directions: `load` has done with it before
    `store` or `upstream` begins.  The products are done with before `upstream` writes there.
    """

    points = POINTS * POINTS

    def __init__(self, plan: Plan, n: int, groups: int, dtype) -> None:
        (_, _, width, channels), (_, _, out_width, out) = plan.x_shape, plan.y_shape
        columns, before = plan.windows, plan.padding[1]
        wide, squares, widest = RESULTS * columns + 2, groups * columns * n, max(channels, out)
        half = np.empty(groups * POINTS * wide * n * widest, dtype)

        pixels = np.zeros((RESULTS * groups + 2, wide, n, channels), dtype)
        super().__init__(plan, n, groups, pixels[:, before : before + width].transpose(2, 0, 1, 3))
        pixel, line = n * channels, wide * n * channels
        self.six_rows = view(pixels, 0, (groups, POINTS, line), (RESULTS * line, line, 1))
        self.rows_done = half[: groups * POINTS * line].reshape(groups, POINTS, line)
        six_columns = groups, POINTS, columns, POINTS, pixel
        self.six_columns = view(half, 0, six_columns, (POINTS * line, line, RESULTS * pixel, pixel, 1))
        points = np.empty((POINTS, POINTS, groups, columns, pixel), dtype)
        self.transformed = points.transpose(2, 0, 3, 1, 4)
        self.windows = points.reshape(self.points, 1, squares, channels)
        self.shifted = self.windows  # all taps are transformed, so no pixel is seen by several

        pixel, line = n * out, RESULTS * columns * n * out
        products = np.empty((POINTS, POINTS, groups, columns, pixel), dtype)
        self.products = products.reshape(self.points, 1, squares, out)
        self.by_column = products.transpose(2, 0, 3, 1, 4)
        self.columns_done = half[: groups * POINTS * line].reshape(groups, POINTS, line)
        self.four_columns = self.columns_done.reshape(groups, POINTS, columns, RESULTS, pixel)
        self.result = np.empty((groups, RESULTS, line), dtype)
        self.result_rows = self.result.reshape(RESULTS * groups, RESULTS * columns, n, out).transpose(2, 0, 1, 3)
        self.beyond = self.result_rows[:, :, out_width:]

    @staticmethod
    def transform(matrix, w, shape) -> np.ndarray:
        """A (p, q) matrix along rows and columns of filters, (q, q, ...) -> (p, p, ...), in this shape."""
        p, q = matrix.shape
        half, result = empty((p, w.size // q), w.dtype), empty(shape, w.dtype)
        product(matrix, w.reshape(q, -1), half)
        product(matrix, half.reshape(p, q, -1), result.reshape(p, p, -1))
        return result

    def load(self, x, tile: Tile, bt) -> None:
        """B^T x B of a tile."""
        self.fill(x, tile)
        np.matmul(bt, self.six_rows, out=self.rows_done)
        np.matmul(bt, self.six_columns, out=self.transformed)

    def store(self, y, tile: Tile, at) -> tuple[np.ndarray, Tile]:
        """A^T m A of the products m, as rows of y; returns the rows written, and which they are."""
        np.matmul(at, self.by_column, out=self.four_columns)
        np.matmul(at, self.columns_done, out=self.result)
        written = self.written(y, tile)
        part = y[written]
        part[...] = self.result_rows[:, : part.shape[1], : part.shape[2]]
        return part, written

    def upstream(self, x, tile: Tile, a) -> np.ndarray:
        """A x A^T of a tile, (36, 1, C, squares), in the memory of the products."""
        part = x[self.written(x, tile)]
        self.result_rows[:, : part.shape[1], : part.shape[2]] = part
        self.result_rows[:, part.shape[1] :] = self.beyond[...] = 0
        np.matmul(a, self.result, out=self.columns_done)
        np.matmul(a, self.four_columns, out=self.by_column)
        return self.products.swapaxes(2, 3)
