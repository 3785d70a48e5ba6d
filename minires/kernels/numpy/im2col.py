"""Convolution by im2col: every window unrolled into a row, so that one matrix product does the work.

The columns of a whole batch are nine times the picture and fall out of every cache; those of a few images do not.  So
all passes go through the batch a tile at a time.  Any kernel, stride, padding, dilation and groups.
"""

from __future__ import annotations

from itertools import product
from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np

from ...backend import empty, in_pieces
from ..window import Pair, extent
from .tiles import Finish, Tile, fill, tiles

# columns of one tile: they stay near the processor between being written and being multiplied; smaller ones, of the
# size of the second-level cache, are a tenth slower, as more calls are made
_TILE_BYTES = 1 << 21
_NARROW = 1 << 11  # weights of a tap, up to which zeros are multiplied rather than looked for
_LEAST_WORK = 1 << 23  # multiply-adds that are worth another thread


def convolve(x, w, y_shape, window, finish: Finish | None = None) -> tuple[np.ndarray, list[Any]]:
    """x (N, H, W, C), w (KH, KW, C/groups, O) -> y, and what ``finish`` returned in each thread, in order."""
    stride, padding, dilation, groups = window
    y = empty(y_shape, x.dtype)
    weights = _weights_by_group(w, groups)
    parts = tiles(len(y), y_shape[1], _bytes_per_row(y_shape, w.shape, groups, x.dtype), _TILE_BYTES)

    def work(part: range) -> Any:
        done = finish and finish()
        for tile in parts[part.start : part.stop]:
            rows = y[tile]
            seen = _seen(x, tile, w.shape[:2], y_shape[2], stride, padding, dilation)
            columns = im2col(seen, w.shape[:2], rows.shape[1:3], stride, dilation, groups)
            np.matmul(columns, weights, out=_pixels_by_group(rows, groups))
            if done is not None:
                done(rows, tile)
        return done

    return y, in_pieces(work, len(parts), _least(parts, y_shape, w.shape))


def gradients(
    dy, x, w, x_shape, w_shape, window, finish: Finish | None = None
) -> tuple[np.ndarray | None, np.ndarray | None, list[Any]]:
    """dx if w is given and dw if x is; dy (N, OH, OW, O) may be a `NormGradient`.

    The third result is what ``finish``, which sees the tiles of dx, returned in each thread, in order.

    dw is the product of the columns of x with dy.  dx gathers as the forward pass does, see `_Blocks`.
    """
    stride, padding, dilation, groups = window
    kernel, per_group, n_out = w_shape[:2], w_shape[2], w_shape[3]
    dx: Any = None if w is None else empty(x_shape, dy.dtype)
    blocks = [] if w is None else _blocks(w, x_shape, stride, padding, dilation, groups)
    row = _bytes_per_row(dy.shape, w_shape, groups, dy.dtype)
    parts = [Tile(t.images, slice(0, dy.shape[1])) for t in tiles(dy.shape[0], 1, dy.shape[1] * row, _TILE_BYTES)]

    def work(part: range) -> tuple[np.ndarray, Any]:
        done = finish and finish()
        total = empty((groups, kernel[0] * kernel[1] * per_group, n_out // groups), dy.dtype)
        total[...] = 0
        for tile in parts[part.start : part.stop]:
            if isinstance(dy, np.ndarray):
                upstream = dy[tile]
            else:
                upstream = empty((*tile.shape, *dy.shape[2:]), dy.dtype)
                fill(dy, upstream, *tile)
            for block in blocks:
                block.write(dx[tile.images], upstream)
            if done is not None and dx is not None:
                done(dx[tile.images], Tile(tile.images, slice(0, x_shape[1])))
            if x is not None:
                seen = _seen(x, tile, kernel, dy.shape[2], stride, padding, dilation)
                columns = im2col(seen, kernel, upstream.shape[1:3], stride, dilation, groups)
                total += columns.swapaxes(1, 2) @ _pixels_by_group(upstream, groups)
        return total, done

    totals, seen = map(list, zip(*in_pieces(work, len(parts), _least(parts, dy.shape, w_shape)), strict=True))
    if x is None:
        return dx, None, seen
    dw = sum(totals[1:], totals[0]).reshape(groups, *kernel, per_group, n_out // groups)
    return dx, np.ascontiguousarray(np.moveaxis(dw, 0, 3)).reshape(w_shape), seen


def _blocks(w, x_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> list[_Blocks]:
    """The convolutions of dy that make up dx: one for all pixels of a block, or with wide filters one for each.

    All in one multiplies by the zeros of `_Blocks` too, but copies less and in longer runs.
    """
    rows, columns = (
        _reached(*sizes) for sizes in zip(x_shape[1:3], w.shape[:2], stride, padding, dilation, strict=True)
    )
    if w.shape[2] * w.shape[3] <= _NARROW and w.shape[0] >= stride[0] and w.shape[1] >= stride[1]:
        return [_Blocks(w, x_shape, rows, columns, stride, groups)]
    apart = ([{a: windows} for a, windows in side.items()] for side in (rows, columns))
    return [_Blocks(w, x_shape, above, beside, stride, groups) for above, beside in product(*apart)]


def _reached(size: int, kernel: int, stride: int, padding: int, dilation: int) -> dict[int, list[tuple[int, int]]]:
    """For pixel a of each block of dx along one axis: the windows, counted from the block's number, and their taps.

    Tap u of window i sees pixel i s - p + u d.  So pixel s t + a receives from window t + (a + p - u d) / s, for the
    taps u that make this a whole number: the same windows around t for every block t.
    """
    return {
        a: [
            ((a + padding - u * dilation) // stride, u)
            for u in range(kernel)
            if (a + padding - u * dilation) % stride == 0
        ]
        for a in range(min(stride, size))
    }


class _Blocks:
    """dx of a convolution with stride s, as an ordinary convolution of dy whose pixels are blocks of s x s of dx's.

    With the filters sorted by `_reached`, zeros where a pixel of the block is not reached, one product gives all pixels
    of a block (Shi et al. 2016 call it a sub-pixel convolution).  For s = 1 it is the convolution with the filters
    turned around.

    Args:
        rows, columns: which pixels of a block, and what reaches them.
    """

    def __init__(self, w, x_shape, rows, columns, stride: Pair, groups: int) -> None:
        self.stride, self.groups = stride, groups
        self.rows, self.columns = _Side.make(rows, x_shape[1], stride[0]), _Side.make(columns, x_shape[2], stride[1])
        kh, kw, per_group, out = w.shape
        by_group = w.reshape(kh, kw, per_group, groups, out // groups).transpose(0, 1, 3, 4, 2)
        block = len(rows), len(columns)
        filters = np.zeros((groups, self.rows.taps, self.columns.taps, out // groups, *block, per_group), w.dtype)
        for i, above in enumerate(self.rows.reach.values()):
            for j, beside in enumerate(self.columns.reach.values()):
                for (k, u), (m, v) in product(above, beside):
                    filters[:, k, m, :, i, j] = by_group[u, v]
        self.block = *block, per_group
        self.filters = filters.reshape(groups, prod(filters.shape[1:4]), prod(self.block))

    def write(self, dx, dy) -> None:
        """Write these pixels of dx for a few images."""
        rows, columns = self.rows, self.columns
        if not (any(rows.reach.values()) and any(columns.reach.values())):  # no window sees them
            for a, b in product(rows.reach, columns.reach):
                dx[:, a :: self.stride[0], b :: self.stride[1]] = 0
            return
        areas = [(side.first, side.blocks + side.step * (side.taps - 1)) for side in (rows, columns)]
        counts = rows.blocks, columns.blocks
        unrolled = im2col(_cropped(dy, *areas), (rows.taps, columns.taps), counts, (1, 1), (rows.step, columns.step),
                          self.groups)  # fmt: skip
        blocks = empty((self.groups, len(dx), *counts, *self.block), dx.dtype)
        np.matmul(unrolled, self.filters, out=blocks.reshape(self.groups, len(dx) * prod(counts), prod(self.block)))
        blocks = np.moveaxis(blocks, 0, -2)  # (n, rows, columns, block's rows, block's columns, groups, C/groups)

        n, height, width, channels = dx.shape
        (s, t), pixels = self.stride, dx.reshape(n, height, width, self.groups, channels // self.groups)
        for i, a in enumerate(rows.reach):
            if len(columns.reach) == t and width % t == 0:  # whole rows at once, in longer runs
                target = pixels[:, a::s]
                target = target.reshape(n, target.shape[1], width // t, t, *target.shape[3:])
                target[...] = blocks[:, : target.shape[1], :, i]
                continue
            for j, b in enumerate(columns.reach):
                target = pixels[:, a::s, b::t]
                target[...] = blocks[:, : target.shape[1], : target.shape[2], i, j]


class _Side(NamedTuple):
    """How dy reaches the blocks of dx along one axis."""

    blocks: int
    first: int  # the window, perhaps one that does not exist, that the first tap of the first block belongs to
    step: int  # from the window of one tap to that of the next
    taps: int
    reach: dict[int, list[tuple[int, int]]]  # for each pixel of a block: tap here, tap of the filter

    @classmethod
    def make(cls, windows: dict[int, list[tuple[int, int]]], size: int, stride: int) -> _Side:
        offsets = sorted({i for pairs in windows.values() for i, _ in pairs}) or [0]
        step = gcd(*(i - offsets[0] for i in offsets)) or 1
        reach = {a: [((i - offsets[0]) // step, u) for i, u in pairs] for a, pairs in windows.items()}
        return cls(-(-size // stride), offsets[0], step, (offsets[-1] - offsets[0]) // step + 1, reach)


def im2col(x, kernel: Pair, positions: Pair, stride: Pair, dilation: Pair, groups: int):
    """x (n, H, W, C), padded -> (groups, n * OH * OW, KH * KW * C/groups): each row is what one window sees."""
    n, _, _, channels = x.shape
    sn, sh, sw, sc = x.strides
    windows = np.lib.stride_tricks.as_strided(  # a view: no copy yet
        x,
        (groups, n, *positions, *kernel, channels // groups),
        (sc * (channels // groups), sn, sh * stride[0], sw * stride[1], sh * dilation[0], sw * dilation[1], sc),
        writeable=False,
    )
    rows = groups, n * positions[0] * positions[1], kernel[0] * kernel[1] * (channels // groups)
    if kernel == (1, 1) and stride == (1, 1) and x.flags.c_contiguous:
        return windows.reshape(rows)  # nothing to unroll
    columns = empty(windows.shape, x.dtype)
    columns[...] = windows
    return columns.reshape(rows)


def _seen(x, tile: Tile, kernel: Pair, columns: int, stride: Pair, padding: Pair, dilation: Pair) -> np.ndarray:
    """The pixels that the windows of a tile see, padding included."""
    first = tile.rows.start * stride[0] - padding[0]
    sizes = tile.shape[1], columns
    rows, wide = ((n - 1) * s + extent(k, d) for n, s, k, d in zip(sizes, stride, kernel, dilation, strict=True))
    return _cropped(x[tile.images], (first, rows), (-padding[1], wide))


def _cropped(x, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """So many rows and columns of pictures from a first one on, zeros where they lie outside."""
    (top, height), (left, width) = rows, columns
    inside = [(max(0, first), min(size, first + count)) for first, count, size in
              ((top, height, x.shape[1]), (left, width, x.shape[2]))]  # fmt: skip
    (a, b), (c, d) = inside
    if (b - a, d - c) == (height, width):
        return x[:, a:b, c:d]
    result = empty((len(x), height, width, x.shape[3]), x.dtype)
    b, d = max(a, b), max(c, d)
    target = result[:, a - top : b - top, c - left : d - left]
    if target.size < result.size // 2:
        result[...] = 0
    else:
        result[:, : a - top], result[:, b - top :] = 0, 0
        result[:, :, : c - left], result[:, :, d - left :] = 0, 0
    target[...] = x[:, a:b, c:d]
    return result


def _weights_by_group(w, groups: int):
    """(KH, KW, C/groups, O) -> (groups, KH * KW * C/groups, O/groups)."""
    return np.moveaxis(w.reshape(-1, groups, w.shape[3] // groups), 1, 0)


def _pixels_by_group(y, groups: int):
    """(n, OH, OW, O) -> a view (groups, n * OH * OW, O/groups) that the matrix product can read and write."""
    pixels = y.reshape(-1, groups, y.shape[3] // groups)
    return np.moveaxis(pixels, 1, 0)


def _bytes_per_row(y_shape, w_shape, groups: int, dtype) -> int:
    """Bytes of the columns for one row of y."""
    return y_shape[2] * w_shape[0] * w_shape[1] * w_shape[2] * groups * dtype.itemsize


def _least(parts: list[Tile], y_shape, w_shape) -> int:
    """How many tiles are worth a thread."""
    work = prod(y_shape) * w_shape[0] * w_shape[1] * w_shape[2]
    return max(1, int(len(parts) * _LEAST_WORK / max(work, 1)))
