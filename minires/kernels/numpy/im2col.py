"""Convolution by im2col: every window unrolled into a row, so that one matrix product does the work.

    y (n OH OW, O) = columns (n OH OW, KH KW C) @ w (KH KW C, O)        dw = columns^T @ dy

The columns of a whole batch are nine times the picture and fall out of every cache; those of a few images do not.  So
all passes go through the batch a tile at a time, and through arrays that the thread keeps.  Any kernel, stride,
padding, dilation and groups.

dx is gathered, by convolutions of dy: see `blocks`.  These need the filters turned around, a copy of all of them, and
where a few windows meet many filters that takes longer than the convolution; there dx is scattered, tap by tap.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...backend import by_turns, empty, get_num_threads, in_pieces
from ..window import Pair, extent, reach
from .blocks import sides_of, taps_of, turned
from .buffers import Scratch, Shelf, Shelves, view, zeros
from .columns import Border, Columns, by_group, for_dw
from .product import SMALL, multiplier
from .tiles import Finish, Tile, fill, tiles

# columns of one tile: they stay near the processor between being written and being multiplied, and there are few tiles
_TILE_BYTES = 1 << 21
_LARGE_FILTERS = 1 << 18  # bytes; these meet twice as many windows each time they pass through the cache
_NARROW = 1 << 9  # weights of a tap, up to which zeros are multiplied to have wider products
_KEPT = 16  # sets of buffers in each thread
_LEAST_WORK = 1 << 23  # multiply-adds that are worth another thread


class _Plan(NamedTuple):
    """The sizes of one convolution."""

    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @property
    def blocks(self) -> Pair:
        """Blocks of s x s pixels of dx, the last ones perhaps beyond its edges."""
        return -(-self.x_shape[1] // self.stride[0]), -(-self.x_shape[2] // self.stride[1])

    def tiles(self, rows: int, row: int, itemsize: int, limit: int, threads: int) -> list[Tile]:
        """Tiles of so many rows of an image, of y or of the blocks of dx, with so many numbers of columns in a row."""
        large = prod(self.w_shape) // self.groups * itemsize > _LARGE_FILTERS
        return tiles(self.y_shape[0], rows, row * itemsize, 2 * limit if large else limit, threads)

    def scatters(self, itemsize: int, limit: int) -> bool:
        """Whether dx is scattered: few windows meet many filters, and to turn these around takes longer.

        Measured for 3x3 windows and 16 to 512 channels: 0.54 to 1.01 of the time of a backward pass.
        """
        windows, one = prod(self.y_shape[:3]), max(self.y_shape[1], self.blocks[0]) * max(self.row(), self.block_row())
        padded = prod(s + 2 * p for s, p in zip(self.x_shape[1:3], self.padding, strict=True)) * self.x_shape[3]
        several = self.groups == 1 and self.w_shape[:2] != (1, 1)
        return several and windows <= self.y_shape[3] and max(one, padded) * itemsize <= limit and padded <= one

    def block_row(self) -> int:
        """Numbers in a row of blocks of dx."""
        return prod(self.stride) * self.blocks[1] * self.x_shape[3]

    def row(self) -> int:
        """Numbers in the columns of x for a row of y."""
        return self.y_shape[2] * prod(self.w_shape[:3]) * self.groups

    def least(self, parts: list[Tile]) -> int:
        """How many tiles are worth a thread."""
        return max(1, int(len(parts) * _LEAST_WORK / max(self.work(), 1)))

    def work(self) -> int:
        """Multiply-adds of the convolution."""
        return prod(self.y_shape) * prod(self.w_shape[:3])


class _Cut(NamedTuple):
    """How a pass goes through the batch: its tiles, how many of them are worth a thread, the way to dx."""

    plan: _Plan
    tiles: list[Tile]
    least: int
    small: bool  # whether BLAS takes one thread for all of it whatever is set
    sides: Any = ()  # see `sides_of`; none if dx is scattered or not wanted, or if no window sees a pixel
    scattered: bool = False
    windows: int = 0  # of dy that meet the filters of dx at once


@lru_cache(maxsize=64)
def _plan_forward(x_shape, y_shape, w_shape, window, itemsize: int, limit: int, threads: int) -> _Cut:
    plan = _Plan(x_shape, y_shape, w_shape, *window)
    parts = plan.tiles(y_shape[1], plan.row(), itemsize, limit, threads)
    return _Cut(plan, parts, plan.least(parts), plan.work() < SMALL)


@lru_cache(maxsize=64)
def _plan_backward(x_shape, y_shape, w_shape, window, wants_x: bool, itemsize: int, limit: int, threads: int) -> _Cut:
    plan = _Plan(x_shape, y_shape, w_shape, *window)
    scattered = wants_x and plan.scatters(itemsize, limit)
    sides = sides_of(*plan, _NARROW) if wants_x and not scattered else ()
    row = max(plan.row(), plan.block_row(), *(plan.blocks[1] * a.taps * b.taps * w_shape[3] for a, b in sides))
    parts = plan.tiles(max(y_shape[1], plan.blocks[0]), row, itemsize, limit, threads)
    small = plan.work() * prod(window[0]) < SMALL  # zeros may be multiplied, too, see `_NARROW`
    windows = prod(parts[0].shape) * plan.blocks[1] if parts else 0
    return _Cut(plan, parts, plan.least(parts), small, sides, scattered, windows)


def convolve(x, w, y_shape, window, finish: Finish | None = None, share=by_turns) -> tuple[np.ndarray, list[Any]]:
    """x (N, H, W, C), w (KH, KW, C/groups, O) -> y, and what ``finish`` returned in each thread.

    ``share`` gives the tiles to the threads; a ``finish`` that sums up wants `in_pieces`.
    """
    cut = _plan_forward(x.shape, y_shape, w.shape, window, x.itemsize, _TILE_BYTES, get_num_threads())
    plan, y = cut.plan, empty(y_shape, x.dtype)
    weights, multiply = _weights_by_group(w, plan.groups), multiplier(cut.tiles)

    def work(some: Iterable[int]) -> Any:
        done, buffers, shelf = finish and finish(), None, _shelves.take()
        for i in some:
            tile = cut.tiles[i]
            if buffers is None or buffers.shape != tile.shape:
                buffers = _buffers(shelf, plan, tile, x.dtype)
            rows = y[tile]
            columns = buffers.columns(x[tile.images], tile.rows)
            multiply(columns, weights, out=by_group(rows, plan.groups, columns.shape[1]))
            if done is not None:
                done(rows, tile)
        _shelves.give(shelf)
        return done

    return y, share(work, len(cut.tiles), cut.least, cut.small)


def gradients(dy, x, w, x_shape, w_shape, window, finish: Finish | None = None):
    """dx if w is given and dw if x is, and what ``finish`` returned in each thread; dy may be a `NormGradient`.

    ``finish`` is called with each tile of dx.  Both gradients come from one pass over dy.
    """
    itemsize = dy.dtype.itemsize
    cut = _plan_backward(x_shape, dy.shape, w_shape, window, w is not None, itemsize, _TILE_BYTES, get_num_threads())
    plan, sides, multiply = cut.plan, cut.sides, multiplier(cut.tiles)
    dx: Any = None if w is None else empty(x_shape, dy.dtype)
    filters: list[list[np.ndarray]] = [] if w is None or cut.scattered else turned(w, sides, plan.groups, cut.windows)

    def work(part: range) -> Any:
        total: Any = None
        done, buffers, shelf = finish and finish(), None, _shelves.take()
        for tile in cut.tiles[part.start : part.stop]:
            if buffers is None or buffers.shape != tile.shape:
                buffers = _buffers(shelf, plan, tile, dy.dtype)
            rows, blocks = (slice(tile.rows.start, min(tile.rows.stop, n)) for n in (dy.shape[1], plan.blocks[0]))
            upstream, above = buffers.upstream(dy, tile.images, rows, blocks, sides)
            if dx is not None and blocks.start < blocks.stop:
                first = blocks.start * plan.stride[0]
                rows_of_dx = slice(first, min(blocks.stop * plan.stride[0], x_shape[1]))
                part_of_dx = dx[tile.images, rows_of_dx]
                if cut.scattered:
                    buffers.scatter(part_of_dx, upstream, w, multiply)
                else:
                    buffers.write(part_of_dx, blocks, upstream, above, sides, filters, multiply)
                if done is not None:
                    done(part_of_dx, Tile(tile.images, rows_of_dx))
            if x is not None and rows.start < rows.stop:
                columns = for_dw(buffers.columns(x[tile.images], rows), w_shape[3] // plan.groups)
                pixels = upstream[:, rows.start - above : rows.stop - above]
                pixels = by_group(pixels, plan.groups, columns.shape[1])
                products = empty((*columns.shape[:2], columns.shape[3], pixels.shape[3]), dy.dtype)
                multiply(columns.swapaxes(2, 3), pixels, out=products)
                gradient = products.sum(1) if columns.shape[1] > 1 else products[:, 0]
                total = gradient if total is None else np.add(total, gradient, out=total)
        _shelves.give(shelf)
        return total, done

    results = in_pieces(work, len(cut.tiles), cut.least, cut.small)
    finished = [done for _, done in results]
    if x is None:
        return dx, None, finished
    totals = [total for total, _ in results if total is not None]
    dw = sum(totals[1:], totals[0]) if totals else zeros(w_shape, dy.dtype)
    dw = dw.reshape(plan.groups, *w_shape[:3], w_shape[3] // plan.groups)
    return dx, np.ascontiguousarray(dw.transpose(1, 2, 3, 0, 4)).reshape(w_shape), finished


class _Buffers:
    """The arrays of one thread for the tiles of one size, and views of them, made when they are asked for.

    What can be kept is kept here.  Between two NumPy calls a thread holds the interpreter's lock, and one that finds it
    taken falls asleep: a microsecond of Python for each tile costs more than a microsecond.
    """

    def __init__(self, plan: _Plan, shape: Pair, dtype, memory: Scratch) -> None:
        self.plan, self.shape, self.n, self.dtype, self.memory = plan, shape, shape[0], dtype, memory
        self.made: dict[tuple, Any] = {}

    def get(self, make, *sizes) -> Any:
        """What ``make`` makes for these buffers and sizes, or made before."""
        found = self.made.get((make, sizes))
        if found is None:
            found = self.made[make, sizes] = make(self, *sizes)
        return found

    def columns(self, x, rows: slice) -> np.ndarray:
        """The columns of x for some rows of y."""
        border, columns = self.get(_of_x, rows.stop - rows.start)
        above, before = self.plan.padding
        source, top, left = border.of(x, rows.start * self.plan.stride[0] - above)
        return columns.of(source, top, left - before, source is border.pixels)

    def upstream(self, dy, images: slice, rows: slice, blocks: slice, sides) -> tuple[np.ndarray, int]:
        """dy with these rows and those that the blocks of dx receive from; which row is its first."""
        if isinstance(dy, np.ndarray):
            return dy[images], 0
        above = max(0, min([rows.start, *(blocks.start + side.first for side, _ in sides)]))
        below = min(dy.shape[1], max([rows.stop, *(blocks.stop + side.last for side, _ in sides)]))
        upstream = self.get(_rows_of_dy, max(0, below - above))
        fill(dy, upstream, images, slice(above, max(above, below)))
        return upstream, above

    def write(self, dx, blocks: slice, dy, above: int, sides, filters, multiply) -> None:
        """Write these blocks of rows of dx for a few images; dy begins with row ``above``."""
        count, s = blocks.stop - blocks.start, self.plan.stride[0]
        if not sides:  # no window sees any pixel
            dx[...] = 0
            return
        first, border, target, convolutions = self.get(_of_dy, count)
        source, top, left = border.of(dy, blocks.start + first - above)
        for (columns, down, right, products), matrices in zip(convolutions, filters, strict=True):
            unrolled = columns.of(source, top + down, left + right, source is border.pixels)
            for (taps, out), matrix in zip(products, matrices, strict=True):
                if out is None:
                    out = by_group(dx, self.plan.groups, columns.pieces)
                multiply(unrolled[..., taps], matrix, out=out)
        if target is not None:
            pixels = dx.reshape(*dx.shape[:2], -1)
            if dx.shape[1] == s * count:
                pixels.reshape(self.n, count, s, -1)[...] = target
            else:
                for a in range(min(s, dx.shape[1])):
                    rows = pixels[:, a::s]
                    rows[...] = target[:, : rows.shape[1], a]

    def scatter(self, dx, dy, w, multiply) -> None:
        """dx of whole images as the sum over the taps of what each gives to the pixels that it sees."""
        padded, inside, targets = self.get(_of_taps)
        kh, kw, channels, out = w.shape
        products = self.memory.array((*dy.shape[:3], kh, kw, channels), dx.dtype)
        multiply(dy.reshape(-1, out), w.reshape(-1, out).T, out=products.reshape(-1, kh * kw * channels))
        padded[...] = 0
        for (u, v), target in targets:
            target += products[:, :, :, u, v]
        dx[...] = inside


def _of_taps(buffers: _Buffers):
    """A place for padded images, these without the padding, and what each tap sees of them."""
    plan = buffers.plan
    (_, height, width, channels), (_, *counts, _) = plan.x_shape, plan.y_shape
    (top, left), (kh, kw) = plan.padding, plan.w_shape[:2]
    padded = empty((buffers.n, height + 2 * top, width + 2 * left, channels), buffers.dtype)
    steps = list(zip(counts, plan.stride, plan.dilation, strict=True))
    targets = []
    for tap in itertools.product(range(kh), range(kw)):
        rows, columns = (reach(k, *step) for k, step in zip(tap, steps, strict=True))
        targets.append((tap, padded[:, rows, columns]))
    return padded, padded[:, top : top + height, left : left + width], targets


def _of_x(buffers: _Buffers, rows: int) -> tuple[Border, Columns]:
    """What the windows of so many rows of y see."""
    plan, n, dtype = buffers.plan, buffers.n, buffers.dtype
    (_, _, width, channels), (kh, kw, _, out) = plan.x_shape, plan.w_shape
    counts, kernel, before = (rows, plan.y_shape[2]), (kh, kw), plan.padding[1]
    height, wide = (
        (c - 1) * s + extent(k, d) for c, s, k, d in zip(counts, plan.stride, kernel, plan.dilation, strict=True)
    )
    border = Border(n, width, channels, (-before, wide - before), height, dtype)
    per_group = out // plan.groups
    return border, Columns(n, channels, counts, kernel, plan.stride, plan.dilation, plan.groups, per_group, dtype,
                           buffers.memory)  # fmt: skip


def _of_dy(buffers: _Buffers, count: int):
    """What so many blocks of rows of dx see of dy, and a place for them with zeros where no window sees a pixel."""
    plan, n, dtype = buffers.plan, buffers.n, buffers.dtype
    (_, _, width, out), (s, t) = plan.y_shape, plan.stride
    groups, channels, blocks, sides = plan.groups, plan.x_shape[3], plan.blocks[1], sides_of(*plan, _NARROW)
    (top, bottom), (left, right) = (
        (min(side.first for side in axis), max(side.last for side in axis)) for axis in zip(*sides, strict=True)
    )
    border = Border(n, width, out, (left, blocks + right), count + bottom - top, dtype)
    target = None if (s, t) == (1, 1) else zeros((s, n, count, blocks, t, channels), dtype)
    convolutions = []
    for above, beside in sides:
        filters, products = len(beside.pixels) * (channels // groups), []
        kernel, steps = (above.taps, beside.taps), (above.step, beside.step)
        columns = Columns(n, out, (count, blocks), kernel, (1, 1), steps, groups, filters, dtype, buffers.memory)
        for a, windows in zip(above.pixels, above.reach, strict=True):
            taps = slice(*(k * beside.taps * (out // groups) for k in taps_of(windows)))
            rows = columns.matrix[2]
            products.append((taps, target if target is None else view(
                target, target[0].size * a + channels * beside.pixels[0], (*columns.matrix[:3], filters),
                (channels // groups, rows * t * channels, t * channels, 1))))  # fmt: skip
        convolutions.append((columns, above.first - top, beside.first, products))
    if target is not None:
        target = target.reshape(s, n, count, -1)[..., : plan.x_shape[2] * channels].transpose(1, 2, 0, 3)
    return top, border, target, convolutions


def _rows_of_dy(buffers: _Buffers, rows: int) -> np.ndarray:
    return empty((buffers.n, rows, *buffers.plan.y_shape[2:]), buffers.dtype)


_shelves = Shelves(_KEPT)


def _buffers(shelf: Shelf, plan: _Plan, tile: Tile, dtype) -> _Buffers:
    """The buffers of this thread for a tile."""
    sizes = plan.x_shape[1:], plan.y_shape[1:], *plan[2:], tile.shape, dtype
    return shelf.get(sizes, lambda: _Buffers(plan, tile.shape, dtype, shelf.memory))


def _weights_by_group(w, groups: int):
    """(KH, KW, C/groups, O) -> (groups, 1, KH * KW * C/groups, O/groups)."""
    return w.reshape(1, -1, groups, w.shape[3] // groups).transpose(2, 0, 1, 3)
