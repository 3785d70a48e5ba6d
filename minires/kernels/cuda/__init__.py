"""Kernels for a GPU, through CuPy: ``im2col``, the readable set, and ``implicit``, the fast one."""

from . import im2col, implicit
from .module import PRECISIONS, compile_all
from .precision import get_precision, set_precision, use_precision

__all__ = ["PRECISIONS", "compile_all", "get_precision", "im2col", "implicit", "set_precision", "use_precision"]
