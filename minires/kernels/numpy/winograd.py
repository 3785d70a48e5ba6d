"""3-row convolutions of stride 1 by Winograd's minimal filtering, rows only: half the multiplications of im2col.

Four rows of the result need six rows of the picture.  Taken as polynomials, filtering is a product; six values of the
product at fixed points determine it (Toom and Cook; Winograd 1980; Lavin and Gray 2016, F(4, 3)):

    y = A^T [(G w) * (B^T x)]        B^T (6, 6), G (6, 3), A^T (4, 6)

and * multiplies six pairs of transformed rows where the direct sum multiplies twelve.  Here the rows of x are rows of
pictures, so each of the six products is a convolution along the columns only.

Two things make it fast in NumPy.  The transforms of a tile are themselves matrix products, one call each.  And the
three columns that a window sees are neighbours in memory, channels and all, so that the pictures, laid out flat, *are*
the matrix of windows: rows of ``KW * C`` numbers, each starting C further on.  BLAS wants rows that do not overlap, so
windows 0, KW, 2 KW, ... make one matrix, windows 1, KW + 1, ... the next: KW products, no copy.  One border of zeros
between two rows of a picture serves both.

The error: with random x and w the root mean square is 1.5 to 1.9 times that of im2col in the same precision (float32
and 16 to 192 terms; the points 0, 1, -1, 2, -2 of the paper give 2.1 to 2.7).  An infinity or a NaN in a picture makes
NaN of all rows that are computed with it, up to three more than in the direct sum.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...backend import empty, get_num_threads, in_pieces
from ..window import Pair
from .buffers import Kept, view
from .product import DIRECT, SMALL, multiplier, product
from .tiles import Finish, Tile, fill, tiles

_ROWS = 4  # of the result, from _ROWS + 2 of the picture
_POINTS = _ROWS + 2
# transformed rows of one tile: they and their products stay in the second-level cache
_TILE_BYTES = 430_000
_NARROW = 16  # channels, up to which tiles are twice as large: else the calls on them are too short for two threads
# weights in a row of the filters, from which on a tile has at least so many windows; fewer where BLAS repacks the
# filters for each product, however small (measured with AVX-512 and with AVX2)
_LARGE_FILTERS = 1 << 14 if DIRECT else 1 << 11
_WINDOWS = 1024
# pixels times weights of a tap, up to which each of the products is small, see `CALL` in `product`
_UNPACKED = 3_600_000
_KEPT = 8  # sets of buffers in each thread
_LEAST_WORK = 1 << 24  # multiply-adds that are worth another thread


def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T, G and A^T for the points 0, 3/4, -3/4, 3/2, -3/2 and infinity (Lavin and Gray 2016, section 4).

    A polynomial's value at infinity is its leading coefficient.  The rows of B^T are the polynomials that vanish at all
    points but one, those of G are divided by their values there.
    """
    finite = [0.0, 0.75, -0.75, 1.5, -1.5]
    b, g, a = np.zeros((_POINTS, _POINTS)), np.zeros((_POINTS, 3)), np.zeros((_ROWS, _POINTS))
    for i, point in enumerate(finite):
        others = [p for p in finite if p != point]
        b[i, :-1] = np.poly(others)[::-1]
        g[i] = [point**k / np.prod([point - p for p in others]) for k in range(3)]
        a[:, i] = [point**k for k in range(_ROWS)]
    b[-1], g[-1, -1], a[-1, -1] = np.poly(finite)[::-1], 1, 1
    return b, g, a


_TRANSFORMS = {np.dtype(d): tuple(m.astype(d) for m in _transforms()) for d in (np.float32, np.float64)}


def _transforms_in(dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """B^T, G and A^T in a dtype; the usual ones are there already."""
    return _TRANSFORMS.get(dtype) or tuple(m.astype(dtype) for m in _transforms())


def applies(pixels: int, w_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> bool:
    """Whether `convolve` and `gradients` can do it, and are worth it for so many pixels of the result.

    They need three rows of stride 1 and no more padding than a window.  It takes some pixels to save what it costs to
    transform the filters, and more where BLAS repacks these for each product (measured for 16 to 512 channels, with
    AVX2 and AVX-512).
    """
    fits = all(p < k for p, k in zip(padding, w_shape, strict=False))
    fits = fits and w_shape[0] == 3 and stride == dilation == (1, 1) and groups == 1
    weights = w_shape[2] * w_shape[3]
    repacked = not DIRECT or pixels * weights > _UNPACKED
    return fits and pixels >= (min(weights // 32, 512) if repacked else weights // 128)


class _Plan(NamedTuple):
    """The sizes of one convolution of ``x_shape`` to ``y_shape``, and its tiles."""

    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    kw: int
    padding: Pair
    pitch: int  # from one row of a picture to the next, in pixels
    groups: int  # of four rows of y
    tiles: list[Tile]  # images and such groups
    least: int  # tiles that are worth a thread
    small: bool  # whether BLAS takes one thread for all of it whatever is set


@lru_cache(maxsize=64)
def _planned(x_shape, kernel: Pair, padding: Pair, out_channels: int, threads: int, limit: int) -> _Plan:
    n, height, width, channels = x_shape
    rows, columns = (s + 2 * p - k + 1 for s, p, k in zip((height, width), padding, kernel, strict=True))
    pitch = width + padding[1]
    groups = -(-rows // _ROWS)
    one = _POINTS * pitch * max(channels, out_channels) * 4
    # filters that are larger than the cache should meet many windows each time they pass through it
    large = kernel[1] * channels * out_channels > _LARGE_FILTERS
    limit = 2 * limit if max(channels, out_channels) <= _NARROW else limit
    limit = max(limit, _WINDOWS // pitch * one) if large else limit
    parts, y_shape = tiles(n, groups, one, limit, threads), (n, rows, columns, out_channels)
    work = prod(y_shape) * channels * 3 * kernel[1]
    least = max(1, int(len(parts) * _LEAST_WORK / max(work, 1)))
    windows = max((prod(tile.shape) for tile in parts), default=0) * pitch
    # the product with the filters of a point, or the transforms
    largest = windows * max(channels * out_channels, _POINTS**2 * max(channels, out_channels))
    return _Plan(x_shape, y_shape, kernel[1], padding, pitch, groups, parts, least, largest < SMALL)


def _plan(x_shape, kernel: Pair, padding: Pair, out_channels: int) -> _Plan:
    """What was planned for the same sizes before, or a new plan."""
    return _planned(x_shape, kernel, padding, out_channels, get_num_threads(), _TILE_BYTES)


class _Buffers:
    """The arrays of one thread, and the views of them that a tile of ``n`` images and ``groups`` row groups needs.

    What can be prepared is prepared here.  Between two NumPy calls a thread holds the interpreter's lock, and one that
    finds it taken falls asleep: a microsecond of Python for each tile costs more than a microsecond.
    """

    def __init__(self, plan: _Plan, n: int, groups: int, dtype) -> None:
        (_, height, width, channels), out, kw, pitch = plan.x_shape, plan.y_shape[3], plan.kw, plan.pitch
        self.plan, self.n, self.groups, self.shape = plan, n, groups, (n, groups)
        above, before = plan.padding
        self.rows = np.empty((n, _ROWS * groups + 2, width, channels), dtype)
        self.rows[...] = 0
        # whole images lie where they always lie, with zeros above and below
        self.inside = self.rows[:, above : above + height] if groups == plan.groups else None
        row, image = width * channels, self.rows[0].size
        self.six_rows = view(self.rows, 0, (n, groups, _POINTS, row), (image, _ROWS * row, row, 1))

        count = n * groups * pitch  # windows, those that straddle two rows included
        matrix_rows = -(-count // kw)
        self.points = np.empty((_POINTS, kw * (matrix_rows + 1) + before, channels), dtype)
        self.points[...] = 0  # and so it stays before the first pixel, between two rows and after the last pixel
        one, line = self.points[0].size, pitch * channels
        self.transformed = view(
            self.points, before * channels, (n, groups, _POINTS, row), (groups * line, line, one, 1)
        )
        windows, shifted = (_POINTS, kw, matrix_rows, kw * channels), (_POINTS, kw, count, channels)
        self.windows = view(self.points, 0, windows, (one, channels, kw * channels, 1))
        # the last column of a window first: the filters of dx are turned around, and dw is to be turned back
        self.shifted = view(self.points, (kw - 1) * channels, shifted, (one, -channels, channels, 1))

        self.products = np.empty((_POINTS, matrix_rows, kw, out), dtype)
        self.by_phase = self.products.swapaxes(1, 2)
        self.result = n, groups, _ROWS, plan.y_shape[2] * out
        one, line = self.products[0].size, pitch * out
        self.to_rows = view(self.products, 0, (n, groups, _POINTS, self.result[3]), (groups * line, line, one, 1))

    def load(self, x, tile: Tile, bt) -> None:
        """B^T x of a tile: its rows, with zeros above and below the picture, and their six transforms."""
        if self.inside is not None:
            fill(x, self.inside, tile.images, slice(None))
        else:
            first = _ROWS * tile.rows.start - self.plan.padding[0]
            top, bottom = max(0, first), min(x.shape[1], first + self.rows.shape[1])
            self.rows[:, : top - first] = self.rows[:, bottom - first :] = 0
            fill(x, self.rows[:, top - first : bottom - first], tile.images, slice(top, bottom))
        np.matmul(bt, self.six_rows, out=self.transformed)

    def store(self, y, tile: Tile, at) -> tuple[np.ndarray, Tile]:
        """A^T of the six products, as rows of y; returns the rows written, and which they are."""
        part = y[tile.images, _ROWS * tile.rows.start : _ROWS * tile.rows.stop]
        if part.shape[1] == _ROWS * self.groups:
            np.matmul(at, self.to_rows, out=part.reshape(self.result))
        else:  # the last group has fewer than four
            whole = (at @ self.to_rows).reshape(self.n, -1, *part.shape[2:])
            part[...] = whole[:, : part.shape[1]]
        first = _ROWS * tile.rows.start
        return part, Tile(tile.images, slice(first, first + part.shape[1]))

    def upstream(self, x, tile: Tile, a) -> np.ndarray:
        """A x of a tile, (6, 1, C, pixels), laid out as the windows are: zeros where a window straddles two rows."""
        if not hasattr(self, "transposed"):
            _, _, width, channels = x.shape
            transposed = np.empty((_POINTS, 1, self.n * self.groups * self.plan.pitch, channels), x.dtype)
            transposed[...] = 0
            line, shape = self.plan.pitch * channels, (self.n, self.groups, _POINTS, width * channels)
            self.spread = view(transposed, 0, shape, (self.groups * line, line, transposed[0].size, 1))
            self.transposed = transposed.swapaxes(2, 3)
        rows = x[tile.images, _ROWS * tile.rows.start : _ROWS * tile.rows.stop]
        if rows.shape[1] < _ROWS * self.groups:
            rows = np.concatenate([rows, np.zeros((self.n, -rows.shape[1] % _ROWS, *rows.shape[2:]), rows.dtype)], 1)
        np.matmul(a, rows.reshape(self.result), out=self.spread)
        return self.transposed


def convolve(x, w, y_shape, window, finish: Finish | None = None) -> tuple[np.ndarray, list[Any]]:
    """x (N, H, W, C), w (3, KW, C, O) -> y (N, OH, OW, O), and what ``finish`` returned in each thread, in order."""
    plan, y = _plan(x.shape, w.shape[:2], window[1], w.shape[3]), empty(y_shape, x.dtype)
    filters, (bt, _, at), multiply = _filters(w), _transforms_in(x.dtype), multiplier(plan.tiles)

    def work(part: range) -> Any:
        done, buffers = finish and finish(), None
        for i in part:
            tile = plan.tiles[i]
            if buffers is None or buffers.shape != tile.shape:
                buffers = _buffers(plan, tile, x.dtype)
            buffers.load(x, tile, bt)
            multiply(buffers.windows, filters, out=buffers.by_phase)
            written = buffers.store(y, tile, at)
            if done is not None:
                done(*written)
        return done

    return y, in_pieces(work, len(plan.tiles), plan.least, plan.small)


def gradients(
    dy, x, w, x_shape, kernel: Pair, padding: Pair, finish: Finish | None = None
) -> tuple[np.ndarray | None, np.ndarray | None, list[Any]]:
    """dx if w is given and dw if x is, both from one transform of dy (N, OH, OW, O), an array or a `NormGradient`.

    The third result is what ``finish``, which sees the tiles of dx, returned in each thread, in order.

    dx is a convolution of dy with the filters turned around.  dw is the gradient of that convolution's filters if x
    were the gradient of its result; and the gradient of A^T [(G w) * (B^T dy)] with respect to w, for an upstream x, is
    G^T [(A x) * (B^T dy)].
    """
    around: Pair = (kernel[0] - 1 - padding[0], kernel[1] - 1 - padding[1])
    plan = _plan(dy.shape, kernel, around, x_shape[3])
    dx = None if w is None else empty(x_shape, dy.dtype)
    filters: Any = None if w is None else _filters(w[::-1, ::-1].swapaxes(2, 3))
    (bt, g, at), multiply = _transforms_in(dy.dtype), multiplier(plan.tiles)

    def work(part: range) -> tuple[np.ndarray, Any]:
        total, of_tile = empty((2, _POINTS, kernel[1], x_shape[3], dy.shape[3]), dy.dtype)
        total[...] = 0
        done, buffers = finish and finish(), None
        for i in part:
            tile = plan.tiles[i]
            if buffers is None or buffers.shape != tile.shape:
                buffers = _buffers(plan, tile, dy.dtype)
            buffers.load(dy, tile, bt)
            if dx is not None:
                multiply(buffers.windows, filters, out=buffers.by_phase)
                written = buffers.store(dx, tile, at)
                if done is not None:
                    done(*written)
            if x is not None:
                multiply(buffers.upstream(x, tile, at.T), buffers.shifted, out=of_tile)
                total += of_tile
        return total, done

    totals, seen = map(list, zip(*in_pieces(work, len(plan.tiles), plan.least, plan.small), strict=True))
    if x is None:
        return dx, None, seen
    total, *others = totals
    for other in others:
        total += other
    dw = empty((3, *total.shape[1:]), dy.dtype)
    turned = np.ascontiguousarray(g.T[::-1])  # BLAS takes no negative strides
    product(turned, total.reshape(_POINTS, -1), dw.reshape(3, -1))
    return dx, dw, seen


def _filters(w) -> np.ndarray:
    """G w as matrices (6, 1, KW * C, O)."""
    _, kw, channels, out = w.shape
    filters = empty((_POINTS, 1, kw * channels, out), w.dtype)
    product(_transforms_in(w.dtype)[1], w.reshape(3, -1), filters.reshape(_POINTS, -1))
    return filters


_kept = Kept(_KEPT)


def _buffers(plan: _Plan, tile: Tile, dtype) -> _Buffers:
    """The buffers of this thread for a tile."""
    sizes = plan.x_shape[1:], plan.y_shape[1:], plan.kw, plan.padding, tile.shape, dtype
    return _kept.get(sizes, lambda: _Buffers(plan, *tile.shape, dtype))
