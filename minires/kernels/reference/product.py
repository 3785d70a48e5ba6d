"""The matrix product."""

from __future__ import annotations


def matmul(a, b, transpose_a: bool = False, transpose_b: bool = False):
    """a (..., M, K) @ b (..., K, N) as NumPy has it, the last two axes of a or b exchanged first if that is said."""
    return (a.swapaxes(-1, -2) if transpose_a else a) @ (b.swapaxes(-1, -2) if transpose_b else b)
