"""The CUDA text of all kernels: read once, compiled when one of them is first launched."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...backend import cupy
from ...errors import ArgumentError

SOURCES = ("common.cuh", "sums.cu", "pointwise.cu", "unroll.cu", "pool.cu", "norm.cu", "loss.cu", "classifier.cu",
           "descent.cu")  # fmt: skip
CONVOLUTIONS = ("common.cuh", "product.cuh", "conv.cu")  # compiled once for each precision that is used

# what the operands of convolutions and products are rounded to on the tensor cores; sums and storage are float32
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

NULL = np.uintp(0)  # a pointer to nothing, where a kernel takes something or not
_BLOCK = 256
_MOST_BLOCKS = 132 * 16  # for kernels that go through an array in steps of the grid: enough for the largest cards


def source(precision: str | None = None) -> str:
    """The text of the convolutions for a precision, or of all other kernels."""
    names = SOURCES if precision is None else CONVOLUTIONS
    first = "" if precision is None else f"#define PRECISION {precision.upper()}\n"
    folder = Path(__file__).parent
    return first + "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


@functools.cache
def _compiled(precision: str | None) -> Any:
    return cupy().RawModule(code=source(precision), options=("-std=c++17",))


@functools.cache
def kernel(name: str, precision: str | None = None) -> Callable:
    """A kernel by its name; convolutions with their precision.  ``kernel(name)(grid, block, arguments)``."""
    return _compiled(precision).get_function(name)


def forget() -> None:
    """Compile anew when a kernel is next asked for."""
    kernel.cache_clear()
    _compiled.cache_clear()


def compile_all(precisions: tuple[str, ...] = PRECISIONS, report: Callable[[str], Any] = print) -> None:
    """Compile everything now, with a line before each part: a matter of seconds, kept on the disk by CuPy."""
    for precision in (None, *precisions):
        report(f"compiling {'the kernels' if precision is None else 'the convolutions in ' + precision}")
        kernel("relu_dx_float" if precision is None else "conv_16", precision)


def each(name: str, count: int, *arguments: Any) -> None:
    """Launch a kernel that goes through ``count`` elements in steps of the grid."""
    if count:
        blocks = min(_MOST_BLOCKS, -(-count // _BLOCK))
        kernel(name)((blocks,), (_BLOCK,), arguments)


def ints(*values: int) -> tuple[Any, ...]:
    """The values as a kernel takes them, which does not convert."""
    return tuple(np.int32(v) for v in values)


def typed(name: str, x: Any) -> str:
    """The name of a kernel for the dtype of an array.

    Raises:
        ArgumentError: there is none.
    """
    suffix = {"float32": "float", "float64": "double"}.get(x.dtype.name)
    if suffix is None:
        raise ArgumentError(f"{name}: on a GPU there are kernels for float32 and float64, not for {x.dtype}.")
    return f"{name}_{suffix}"
