"""Matrix products, shared among the threads of the pool.

BLAS would divide them among its own, and these stay awake for a tenth of a second in case there is more to do, on the
processors that the pool needs for everything else: the product of a classifier and the transforms of large filters made
a training step of ResNet-18 two fifths longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import numpy as np

from ...backend import empty, in_pieces
from ...backend.settings import settings

SMALL = 1 << 18  # multiply-adds: of fewer BLAS makes nothing for several threads (OpenBLAS of 2^18 or 2^19)
# With AVX-512 OpenBLAS multiplies small matrices as they lie (its pull request 3335).  Larger ones it repacks first, so
# that it may pay to cut a product into small ones.
CALL = 10**6  # multiply-adds, up to which a product is small;
_TURNED = 1200  # if only the second matrix is transposed, numbers of the result, the sums being of 32 terms or more
SLIM = 64  # columns, up to which cutting pays
AVX512 = ("SkylakeX", "Cooperlake", "SapphireRapids")  # as OpenBLAS calls these processors
# Rows for which it takes longer to repack what meets them than to add up small products, if for each of them it is so
# many weights.  One alone makes a product with a vector, for which nothing is repacked.
_FEW = range(2, 33)
_MANY = 1 << 12
_SHORT = 64  # terms of a sum, below which these are too many; see `_TURNED`, too
_LEAST_WORK = 1 << 23  # multiply-adds that are worth another thread
_MEMORY = 16  # multiply-adds that take about as long as to read or write a number


def _is_direct(libraries: Iterable[Any]) -> bool:
    """Whether one of the BLAS libraries of this process multiplies small matrices as they lie.

    Which of them is NumPy's cannot be told; with a wrong guess products take longer, and are right.
    """
    return any(getattr(library, "architecture", None) in AVX512 for library in libraries)


DIRECT = _is_direct(settings.libraries)


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


def multiplier(tiles: Sequence[Any]) -> Callable[..., Any]:
    """What multiplies a convolution's tiles: all threads together, if there is but one tile for them."""
    return product if len(tiles) == 1 else np.matmul


def product(a, b, out) -> None:
    """Write a (..., M, K) @ b (..., K, N) into ``out`` (..., M, N), divided along the longest axis of that.

    Leading axes of a and b may be missing or 1.
    """
    (m, n), k = out.shape[-2:], a.shape[-1]
    if m * n * k < SMALL and out.size * k < _LEAST_WORK:
        np.matmul(a, b, out=out)
        return
    few = DIRECT and m in _FEW and m * n * k > CALL and k * n >= _MANY * m
    two_matrices = (a.size, b.size, out.size) == (m * k, k * n, m * n)
    if few and two_matrices and _few_rows(a, b, out):
        return
    lengths = out.shape[::-1]
    count = max(lengths)
    axis = lengths.index(count) + 1  # counted from the end: 1 are the columns, 2 the rows
    others = (slice(None),) * (axis - 1)

    def work(part: range) -> None:
        if len(part) == count:  # by one thread: a microsecond less
            np.matmul(a, b, out=out)
            return
        some = (..., slice(part.start, part.stop), *others)
        left, right = (
            f[some] if axis != whole and f.ndim >= axis and f.shape[-axis] > 1 else f for f, whole in ((a, 1), (b, 2))
        )
        np.matmul(left, right, out=out[some])

    in_pieces(work, count, _least(count, a, b, out), small=m * n * k < SMALL)


def _few_rows(a, b, out) -> bool:
    """Write a (M, K) @ b (K, N) into ``out`` as sums of small products, if it can be cut so; whether it could.

    Few rows meet many weights: with 16 x 4608 and 4608 x 512 nothing takes longer than to repack these.
    """
    (m, n), k = out.shape[-2:], a.shape[-1]
    strips = n // SLIM
    terms = next((t for t in range(1, k // _SHORT + 1) if k % t == 0 and m * (k // t) * SLIM <= CALL), 0)
    transposed = abs(b.strides[-2]) < abs(b.strides[-1])
    if not terms or n % SLIM or (transposed and m * SLIM > _TURNED):
        return False
    left = a.reshape(m, terms, k // terms).swapaxes(0, 1)
    right = b.reshape(terms, k // terms, strips, SLIM).transpose(2, 0, 1, 3)
    columns = out.reshape(m, strips, SLIM).swapaxes(0, 1)

    def work(part: range) -> None:
        some = slice(part.start, part.stop)
        products = np.matmul(left, right[some], out=empty((len(part), terms, m, SLIM), out.dtype))
        products.sum(1, out=columns[some])

    in_pieces(work, strips, _least(strips, a, b, out))
    return True


def _least(count: int, a, b, out) -> int:
    """How many of ``count`` equal parts of a product are worth a thread."""
    price = max(out.size * a.shape[-1], _MEMORY * (a.size + b.size + out.size), 1)
    return max(1, count * _LEAST_WORK // price)
