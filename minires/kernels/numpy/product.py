"""Matrix products, shared among the threads of the pool.

BLAS would divide them among its own, and these stay awake for a tenth of a second in case there is more to do, on the
processors that the pool needs for everything else: the product of a classifier and the transforms of large filters made
a training step of ResNet-18 two fifths longer.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ...backend import empty, in_pieces

SMALL = 1 << 18  # multiply-adds: of fewer BLAS makes nothing for several threads (OpenBLAS of 2^18 or 2^19)
_LEAST_WORK = 1 << 23  # multiply-adds that are worth another thread
_MEMORY = 16  # multiply-adds that take about as long as to read or write a number


def matmul(a, b, transpose_a: bool = False, transpose_b: bool = False):
    """a (..., M, K) @ b (..., K, N) -> (..., M, N), leading axes and vectors as for NumPy.

    Args:
        a, b: arrays.
        transpose_a, transpose_b: exchange the last two axes first.
    """
    a = a.swapaxes(-1, -2) if transpose_a else a
    b = b.swapaxes(-1, -2) if transpose_b else b
    columns = b[:, None] if b.ndim == 1 else b
    rows = a[None, :] if a.ndim == 1 else a
    leading = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    y = empty((*leading, rows.shape[-2], columns.shape[-1]), np.result_type(a, b))
    if columns.ndim == 2:  # one matrix for all rows
        count = prod(y.shape[:-1])
        product(rows.reshape(count, rows.shape[-1]), columns, y.reshape(count, y.shape[-1]))
    else:
        product(rows, columns, y)
    if a.ndim == 1:
        y = y[..., 0, :]
    return y[..., 0] if b.ndim == 1 else y


def product(a, b, out) -> None:
    """Write a (..., M, K) @ b (..., K, N) into ``out`` (..., M, N), divided along the longest axis of that.

    Leading axes of a and b may be missing or 1.
    """
    *_, m, n = out.shape
    one, all_of_them = m * n * a.shape[-1], out.size * a.shape[-1]
    if one < SMALL and all_of_them < _LEAST_WORK:
        np.matmul(a, b, out=out)
        return
    lengths = out.shape[::-1]
    axis = lengths.index(max(lengths)) + 1  # counted from the end: 1 are the columns, 2 the rows
    others = (slice(None),) * (axis - 1)

    def work(part: range) -> None:
        some = (..., slice(part.start, part.stop), *others)
        left, right = (
            m[some] if axis != whole and m.ndim >= axis and m.shape[-axis] > 1 else m for m, whole in ((a, 1), (b, 2))
        )
        np.matmul(left, right, out=out[some])

    price = max(all_of_them, _MEMORY * (a.size + b.size + out.size), 1)
    count = max(lengths)
    in_pieces(work, count, max(1, count * _LEAST_WORK // price), small=one < SMALL)
