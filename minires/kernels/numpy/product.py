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
    if columns.ndim == 2:
        count = prod(y.shape[:-1])
        product(rows.reshape(count, rows.shape[-1]), columns, y.reshape(count, y.shape[-1]))
    else:
        rows, columns = (np.broadcast_to(m, (*leading, *m.shape[-2:])) for m in (rows, columns))
        _stacks(rows, columns, y)
    if a.ndim == 1:
        y = y[..., 0, :]
    return y[..., 0] if b.ndim == 1 else y


def product(a, b, out) -> None:
    """Write a (M, K) @ b (K, N) into ``out`` (M, N): rows or columns divided, whichever are more."""
    m, n = out.shape
    if m * n * a.shape[1] < SMALL:
        np.matmul(a, b, out=out)
        return

    def work(part: range) -> None:
        some = slice(part.start, part.stop)
        if m >= n:
            np.matmul(a[some], b, out=out[some])
        else:
            np.matmul(a, b[:, some], out=out[:, some])

    count = max(m, n)
    in_pieces(work, count, _least(count, a, b, out))


def _stacks(a, b, out) -> None:
    """Write a (n, ..., M, K) @ b (n, ..., K, N) into ``out`` (n, ..., M, N)."""
    if out.size * a.shape[-1] < SMALL:
        np.matmul(a, b, out=out)
        return

    def work(part: range) -> None:
        some = slice(part.start, part.stop)
        np.matmul(a[some], b[some], out=out[some])

    in_pieces(work, len(out), _least(len(out), a, b, out))


def _least(count: int, a, b, out) -> int:
    """How many of ``count`` equal parts of a product are worth a thread."""
    price = max(out.size * a.shape[-1], _MEMORY * (a.size + b.size + out.size), 1)
    return max(1, count * _LEAST_WORK // price)
