"""Raw kernels: CUDA text, compiled for the CPU by the emulator, launched with arguments that are checked.

CuPy passes pointers and checks nothing.  Here an argument is a C-contiguous device array or a NumPy scalar, which has a
size that a kernel can rely on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.gpu import emulator

from . import memory
from .array import ndarray
from .launches import count, quietly

_MOST_THREADS, _MOST_BLOCKS = (1024, 1024, 64), (2**31 - 1, 65535, 65535)
_modules: dict[tuple[str, tuple[str, ...]], Any] = {}


class RawModule:
    """CUDA text.  Compiled when a kernel of it is first asked for, once for each text."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        if not isinstance(code, str) or not isinstance(options, tuple) or not all(isinstance(o, str) for o in options):
            raise TypeError("RawModule: code is a string and options are a tuple of strings")
        self.code, self.options = code, options

    def compile(self, log_stream: Any = None) -> None:
        """Compile now."""
        if (self.code, self.options) not in _modules:
            _modules[self.code, self.options] = emulator.compile(self.code, self.options)

    def get_function(self, name: str) -> RawKernel:
        """A kernel by its name."""
        self.compile()
        return RawKernel(name, _modules[self.code, self.options].get_function(name))


class RawKernel:
    """A kernel: ``kernel(grid, block, args)``."""

    def __init__(self, name: str, function: Any) -> None:
        self.name, self._function = name, function

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *,
                 shared_mem: int = 0) -> None:  # fmt: skip
        """One launch."""
        for what, sizes, most in (("grid", grid, _MOST_BLOCKS), ("block", block, _MOST_THREADS)):
            if not isinstance(sizes, tuple) or not 1 <= len(sizes) <= 3:
                raise TypeError(f"{self.name}: {what} must be a tuple of 1 to 3 whole numbers, got {sizes!r}")
            if not all(isinstance(n, int | np.integer) and 1 <= n <= m for n, m in zip(sizes, most, strict=False)):
                raise ValueError(f"{self.name}: CUDA_ERROR_INVALID_VALUE: {what} {sizes} must lie in 1 to {most}")
        if np.prod(block) > _MOST_THREADS[0]:
            raise ValueError(f"{self.name}: CUDA_ERROR_INVALID_VALUE: a block of {block} has more than 1024 threads")
        if shared_mem:
            raise NotImplementedError(f"{self.name}: the emulator has no dynamic shared memory")
        if not isinstance(args, tuple):
            raise TypeError(f"{self.name}: args must be a tuple, got {type(args)}")
        given = [self._argument(i, a) for i, a in enumerate(args)]
        count("launches", self.name)
        launch = lambda: self._function(grid, block, tuple(given))
        if (capture := memory.capturing()) is not None:
            # not now: where a kernel writes is its own affair, a table of pointers may say it, so nothing could undo it
            capture.record(launch, tuple(a._memory for a in args if isinstance(a, ndarray)))
        else:
            quietly(launch)
            self._look_at_fences(args)

    def _look_at_fences(self, args: tuple[Any, ...]) -> None:
        for i, value in enumerate(args):
            fence = value._memory.fence if isinstance(value, ndarray) else None
            if fence is not None and fence.min() != 0xFF:
                raise RuntimeError(f"{self.name}: writes past the end of argument {i} of shape {value.shape}")

    def _argument(self, i: int, value: Any) -> Any:
        if isinstance(value, ndarray):
            if not value._array.flags.c_contiguous:
                raise TypeError(
                    f"{self.name}: argument {i} of shape {value.shape} is not C-contiguous (strides {value.strides}); "
                    "a raw kernel gets its pointer and knows of no strides"
                )
            return value._array
        if isinstance(value, np.generic):
            return value
        raise TypeError(
            f"{self.name}: argument {i} is {type(value)}; give a device array or a NumPy scalar such as np.int32(n), "
            "whose size is known"
        )
