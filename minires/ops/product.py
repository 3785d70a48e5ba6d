"""The matrix product, on either device."""

from __future__ import annotations

from .. import kernels
from ..backend import Array, array_module, gpu, on_gpu
from ..kernels.numpy.product import SMALL


def product(a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False) -> Array:
    """a @ b, the last two axes of a or b exchanged first where asked.

    On the CPU a kernel of ours divides large ones among the threads.  On a GPU one computes it wherever b is a matrix
    or a vector, because CuPy's own product (cuBLAS) is refused while a CUDA graph is captured; CuPy has the rest:
    stacks of matrices on both sides, integers, float16.
    """
    if gpu.used and on_gpu(a) and on_gpu(b) and _ours(a, b, transpose_a):
        columns = b[:, None] if b.ndim == 1 else b
        rows = a if transpose_a else a.reshape(-1, a.shape[-1])
        y = kernels.active(a).matmul(*_contiguous(rows, columns), transpose_a, transpose_b)
        leading = y.shape[:1] if transpose_a else a.shape[:-1]
        return y.reshape(leading if b.ndim == 1 else (*leading, y.shape[1]))
    if a.size * b.size >= SMALL and not (gpu.used and (on_gpu(a) or on_gpu(b))):
        columns = b.shape[-2 if transpose_b else -1] if b.ndim > 1 else 1
        if a.size * columns >= SMALL:
            return kernels.active(a).matmul(a, b, transpose_a, transpose_b)
    a = a.swapaxes(-1, -2) if transpose_a else a
    b = b.swapaxes(-1, -2) if transpose_b else b
    return a.dot(b) if a.ndim == b.ndim == 2 else a @ b  # the same product; `@` takes 0.5 us longer to begin


def _ours(a: Array, b: Array, transpose_a: bool) -> bool:
    return (
        b.ndim <= 2
        and (a.ndim == 2 or not transpose_a)
        and a.dtype == b.dtype
        and a.dtype.kind == "f"
        and a.dtype.itemsize >= 4
        and 0 not in (a.size, b.size)
    )


def _contiguous(*arrays: Array) -> tuple[Array, ...]:
    return tuple(map(array_module(*arrays).ascontiguousarray, arrays))
