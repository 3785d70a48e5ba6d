"""dx of a convolution by im2col: which pixels take which columns of dy, and through which filters.

Tap u of window i sees pixel i s - p + u d.  So pixel s t + a receives from window t + (a + p - u d) / s, for the taps u
that make this a whole number: the same windows around t for every t.  The pixels a, s + a, 2 s + a, ... of dx are an
ordinary convolution of dy, with the filters of those taps, and dx is s x s of them, interlaced (Shi et al. 2016 call it
a sub-pixel convolution).  Nothing is added up in place.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import gcd, prod
from typing import NamedTuple

import numpy as np

from ..window import Pair
from .columns import pieces
from .tiles import transposed


class Side(NamedTuple):
    """How dy reaches some pixels of each block of dx along one axis."""

    pixels: tuple[int, ...]
    first: int  # the window, perhaps one that does not exist, that the first tap of the first block belongs to
    last: int  # that of the last tap
    step: int  # from the window of one tap to that of the next
    taps: int
    reach: tuple[tuple[tuple[int, int], ...], ...]  # for each pixel: tap here, tap of the filter

    @classmethod
    def make(cls, windows: dict[int, list[tuple[int, int]]]) -> Side:
        """Of these pixels, each with its windows and their taps."""
        offsets = sorted({i for pairs in windows.values() for i, _ in pairs})
        step = gcd(*(i - offsets[0] for i in offsets)) or 1
        reach = tuple(tuple(((i - offsets[0]) // step, u) for i, u in pairs) for pairs in windows.values())
        return cls(tuple(windows), offsets[0], offsets[-1], step, (offsets[-1] - offsets[0]) // step + 1, reach)


@lru_cache(maxsize=64)
def sides_of(x_shape, y_shape, w_shape, stride: Pair, padding: Pair, dilation: Pair, groups: int, narrow: int):
    """The pixels of a block that take the same columns of dy: one pixel each time, of those that windows see.

    A convolution of few channels makes narrow products.  Then all pixels take the same, and the s columns of a row come
    from one product, whose filters are zero where a column is not reached: with 3 columns and stride 2, a third more
    multiplications of a higher rate.
    """
    rows, columns = (
        _reached(*sizes) for sizes in zip(x_shape[1:3], w_shape[:2], stride, padding, dilation, strict=True)
    )
    rows = {a: windows for a, windows in rows.items() if windows}
    if groups == 1 and w_shape[2] * w_shape[3] <= narrow and rows and any(columns.values()):
        return ((Side.make(rows), Side.make(columns)),)
    apart = ([Side.make({a: windows}) for a, windows in side.items() if windows] for side in (rows, columns))
    return tuple(product(*apart))


def _reached(size: int, kernel: int, stride: int, padding: int, dilation: int) -> dict[int, list[tuple[int, int]]]:
    """For pixel a of each block of dx along one axis: the windows, counted from the block's number, and their taps."""
    return {
        a: [
            ((a + padding - u * dilation) // stride, u)
            for u in range(kernel)
            if (a + padding - u * dilation) % stride == 0
        ]
        for a in range(min(stride, size))
    }


def turned(w, sides, groups: int, count: int) -> list[list[np.ndarray]]:
    """w (KH, KW, C/groups, O) -> the filters through which each row of a block sees dy, for each of the sides.

    They are (groups, 1, taps * O/groups, pixels * C/groups), and meet ``count`` windows at once.
    """
    kh, kw, per_group, out = w.shape
    if (kh, kw, groups) == (1, 1, 1) and [len(beside.pixels) for _, beside in sides] == [1]:
        # a product that is cut is a product of small ones, and with those a transposed matrix is repacked
        return [[transposed(w) if pieces(count, out, per_group) > 1 else w.swapaxes(2, 3)]]
    turned: list[list[np.ndarray]] = []
    for above, beside in sides:
        if (len(above.pixels), len(beside.pixels)) == (1, 1):  # all their taps, the last one first
            filters = transposed(w[_backwards(above.reach[0])][:, _backwards(beside.reach[0])])
            by_group = np.moveaxis(filters.reshape(*filters.shape[:2], groups, out // groups, per_group), 2, 0)
            turned.append([by_group.reshape(groups, 1, prod(by_group.shape[1:4]), per_group)])
            continue
        turned.append([])
        columns = [(j, *tap) for j, taps in enumerate(beside.reach) for tap in taps]
        for windows in above.reach:
            first, last = taps_of(windows)
            filters = np.zeros((last - first, beside.taps, out, len(beside.pixels), per_group), w.dtype)
            for (k, u), (j, m, v) in product(windows, columns):
                filters[k - first, m, :, j] = w[u, v].T
            turned[-1].append(filters.reshape(1, 1, prod(filters.shape[:3]), len(beside.pixels) * per_group))
    return turned


def _backwards(windows) -> slice:
    """The taps of the filter, as a slice from the last to the first."""
    taps = sorted(u for _, u in windows)
    step = taps[1] - taps[0] if len(taps) > 1 else 1
    return slice(taps[-1], taps[0] - 1 if taps[0] else None, -step)


def taps_of(windows) -> tuple[int, int]:
    """From where to where the taps are."""
    return min(k for k, _ in windows), max(k for k, _ in windows) + 1
