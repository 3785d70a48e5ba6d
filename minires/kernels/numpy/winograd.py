"""Convolutions of three rows and stride 1 by Winograd's minimal filtering: fewer multiplications than im2col.

Four rows of the result need six rows of the picture, and six multiplications instead of twelve (`toom_cook`).  Windows
of three columns may be filtered along the columns as well, which leaves a quarter of the multiplications instead of
half.  The transforms of that cost more, and so does rounding: it is done where there are enough channels for it.

`winograd_rows` and `winograd_squares` say how a tile is filtered; here is what they have in common.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ...backend import by_turns, empty, get_num_threads, in_pieces
from ..window import Pair
from .buffers import Shelf, Shelves, zeros
from .product import DIRECT, SMALL, multiplier
from .tiles import Finish, tiles, transposed
from .toom_cook import POINTS, RESULTS, transforms_in
from .winograd_rows import Rows
from .winograd_squares import Squares
from .winograd_tile import Plan

# what is transformed of one tile: it and its products stay in the second-level cache, unless filters are large
_TILE_BYTES = 430_000
# channels, up to which tiles of rows are twice as large: else the calls on them are too short for two threads
_NARROW = 16
# weights in a row of the filters, from which on a tile has at least so many windows; fewer where BLAS repacks the
# filters for each product, however small (measured with AVX-512 and with AVX2)
_LARGE_FILTERS = 1 << 14 if DIRECT else 1 << 11
_WINDOWS = 1024
_SQUARES = 64  # about as many in a tile at least, and twice as many from so many weights of a tap on
_LARGE_SQUARES = 1 << 15
# From so many multiply-adds for each number that is transformed, C O / (C + O), and so many squares on, squares take
# less time than rows: from 64 channels; with 48 both take as long.
_WIDE = 32
_FEW_SQUARES = 128
_FULL = 3  # columns of a square, on average, that must be in the picture
_FLAT = 2  # rows, up to which im2col is faster
_COLOURS, _FILTERS = 3, 32  # channels of a picture; filters, from which fewer channels, too, are left to im2col
# pixels times weights of a tap, up to which each of the products is small, see `CALL` in `product`
_UNPACKED = 3_600_000
_KEPT = 8  # sets of buffers in each thread
_LEAST_WORK = 1 << 24  # multiply-adds that are worth another thread


def applies(y_shape, w_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> bool:
    """Whether `convolve` and `gradients` can do it, and are worth it for this result.

    They need three rows of stride 1 and no more padding than a window.  Of one or two rows the four that are computed
    are too many.  It takes some pixels to save what it costs to transform the filters, and more where BLAS repacks
    these for each product (measured for 16 to 512 channels, with AVX2 and AVX-512).
    """
    fits = all(p < k for p, k in zip(padding, w_shape, strict=False))
    fits = fits and w_shape[0] == 3 and stride == dilation == (1, 1) and groups == 1 and y_shape[1] > _FLAT
    pixels, weights = prod(y_shape[:3]), w_shape[2] * w_shape[3]
    repacked = not DIRECT or pixels * weights > _UNPACKED
    return fits and pixels >= (min(weights // 32, 512) if repacked else weights // 128)


def applies_to_dw(channels: int, out: int) -> bool:
    """Whether it is worth it for dw, of which the layer that sees the pictures wants nothing else.

    The transforms of dy, with its many channels, then cost more than the few of x save; im2col takes dy as it is.
    Measured for 1 to 6 channels, with AVX2 and AVX-512: where it is chosen, it takes 0.4 to 1.07 of the time.  Whether
    dx is wanted, too, does not count: dw is to have the same bits.
    """
    return channels > _COLOURS or (channels < _COLOURS and out < _FILTERS)


def _way(y_shape, kernel: Pair, channels: int, itemsize: int) -> type[Rows] | type[Squares]:
    """Whether to filter rows only, or squares; the sums that these take are too large for float16."""
    (images, rows, width, out), columns = y_shape, -(-y_shape[2] // RESULTS)
    many = images * -(-rows // RESULTS) * columns >= _FEW_SQUARES
    full = width >= _FULL * columns
    wide = channels * out >= _WIDE * (channels + out)
    return Squares if kernel == (3, 3) and many and full and wide and itemsize > 2 else Rows


@lru_cache(maxsize=64)
def _planned(x_shape, kernel: Pair, padding: Pair, out_channels: int, itemsize: int, threads: int, limit: int) -> Plan:
    n, height, width, channels = x_shape
    rows, columns = (s + 2 * p - k + 1 for s, p, k in zip((height, width), padding, kernel, strict=True))
    y_shape = n, rows, columns, out_channels
    widest, work = max(channels, out_channels), prod(y_shape) * channels * 3 * kernel[1]
    way, groups = _way(y_shape, kernel, channels, itemsize), -(-rows // RESULTS)
    taps, windows = (1, -(-columns // RESULTS)) if way is Squares else (kernel[1], width + padding[1])
    one = way.points * windows * widest * 4  # bytes of four rows of an image, in float32
    # filters that are larger than the cache should meet many windows each time they pass through it
    if way is Squares:
        large = channels * out_channels > _LARGE_SQUARES
        limit = max(limit, (2 * _SQUARES if large else _SQUARES) // windows * one)
    else:
        large = taps * channels * out_channels > _LARGE_FILTERS
        limit = 2 * limit if widest <= _NARROW else limit
        limit = max(limit, _WINDOWS // windows * one) if large else limit
    parts = tiles(n, groups, one, limit, threads)
    least = max(1, int(len(parts) * _LEAST_WORK / max(work, 1)))
    of_tile = windows * max((prod(tile.shape) for tile in parts), default=0)
    # rows: the product with the filters of a point, or the transforms; squares have many channels
    small = way is Rows and of_tile * max(channels * out_channels, POINTS**2 * widest) < SMALL
    return Plan(way, taps, x_shape, y_shape, kernel, padding, groups, windows, parts, least, small)


def _plan(x, kernel: Pair, padding: Pair, out_channels: int) -> Plan:
    """What was planned for the same sizes before, or a new plan."""
    return _planned(x.shape, kernel, padding, out_channels, x.dtype.itemsize, get_num_threads(), _TILE_BYTES)


def convolve(x, w, y_shape, window, finish: Finish | None = None, share=by_turns) -> tuple[np.ndarray, list[Any]]:
    """x (N, H, W, C), w (3, KW, C, O) -> y (N, OH, OW, O), and what ``finish`` returned in each thread.

    ``share`` gives the tiles to the threads; a ``finish`` that sums up wants `in_pieces`.
    """
    plan, y = _plan(x, w.shape[:2], window[1], w.shape[3]), empty(y_shape, x.dtype)
    filters, (bt, _, at), multiply = _filters(plan, w), transforms_in(x.dtype), multiplier(plan.tiles)

    def work(some: Iterable[int]) -> Any:
        done, buffers, shelf = finish and finish(), None, _shelves.take()
        for i in some:
            tile = plan.tiles[i]
            if buffers is None or buffers.shape != tile.shape:
                buffers = _buffers(shelf, plan, tile.shape, x.dtype)
            buffers.load(x, tile, bt)
            multiply(buffers.windows, filters, out=buffers.products)
            written = buffers.store(y, tile, at)
            if done is not None:
                done(*written)
        _shelves.give(shelf)
        return done

    return y, share(work, len(plan.tiles), plan.least, plan.small)


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
    plan = _plan(dy, kernel, around, x_shape[3])
    dx = None if w is None else empty(x_shape, dy.dtype)
    filters: Any = None if w is None else _filters(plan, transposed(w[::-1, ::-1]))
    (bt, g, at), multiply = transforms_in(dy.dtype), multiplier(plan.tiles)
    of_total = plan.way.points, plan.taps, x_shape[3], dy.shape[3]

    def work(part: range) -> tuple[np.ndarray | None, Any]:
        total, of_tile = None, None
        done, buffers, shelf = finish and finish(), None, _shelves.take()
        for i in part:
            tile = plan.tiles[i]
            if buffers is None or buffers.shape != tile.shape:
                buffers = _buffers(shelf, plan, tile.shape, dy.dtype)
            buffers.load(dy, tile, bt)
            if dx is not None:
                multiply(buffers.windows, filters, out=buffers.products)
                written = buffers.store(dx, tile, at)
                if done is not None:
                    done(*written)
            if x is not None:
                upstream = buffers.upstream(x, tile, at.T)
                of_tile = empty(of_total, dy.dtype) if of_tile is None else of_tile
                multiply(upstream, buffers.shifted, out=of_tile)
                if total is None:
                    total, of_tile = of_tile, None
                else:
                    total += of_tile
        _shelves.give(shelf)
        return total, done

    totals, seen = map(list, zip(*in_pieces(work, len(plan.tiles), plan.least, plan.small), strict=True))
    if x is None:
        return dx, None, seen
    total, *others = totals if plan.tiles else [zeros(of_total, dy.dtype)]
    for other in others:
        total += other
    turned = np.ascontiguousarray(g.T[::-1])  # BLAS takes no negative strides
    return dx, plan.way.transform(turned, total, (*kernel, *of_total[2:])), seen


def _filters(plan: Plan, w) -> np.ndarray:
    """The transformed filters as matrices, (points, 1, taps C, O)."""
    shape = plan.way.points, 1, plan.taps * w.shape[2], w.shape[3]
    return plan.way.transform(transforms_in(w.dtype)[1], w, shape)


_shelves = Shelves(_KEPT)


def _buffers(shelf: Shelf, plan: Plan, shape: tuple[int, int], dtype) -> Rows | Squares:
    """The buffers of this thread for tiles of so many images and groups of rows."""
    sizes = plan.way, plan.x_shape[1:], plan.y_shape[3], plan.kernel, plan.padding, shape, dtype
    return shelf.get(sizes, lambda: plan.way(plan, *shape, dtype))
