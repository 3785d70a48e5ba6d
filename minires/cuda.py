"""The GPU: whether there is one, what it is, its memory, and its kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .backend import cupy, cupy_problem
from .backend.arrays import cuda_version
from .kernels.cuda import get_precision, module, set_precision, use_precision


def is_available() -> bool:
    """Whether ``"cuda"`` can be used here; imports CuPy."""
    return cupy_problem() is None


def problem() -> str | None:
    """Why it cannot be used, in a sentence that says what to do; None if it can."""
    return cupy_problem()


def properties() -> dict[str, Any]:
    """What the GPU and its software are: name, compute_capability, memory in bytes, driver, runtime, cupy.

    Raises:
        DeviceError: there is no usable GPU.
    """
    module = cupy()
    runtime = module.cuda.runtime
    card = runtime.getDeviceProperties(runtime.getDevice())
    name = card["name"]
    capability = str(module.cuda.Device().compute_capability)  # "90" is 9.0, "120" is 12.0
    return {
        "name": name.decode() if isinstance(name, bytes) else str(name),
        "compute_capability": f"{capability[:-1]}.{capability[-1]}",
        "memory": runtime.memGetInfo()[1],
        "driver": cuda_version(runtime.driverGetVersion()),
        "runtime": cuda_version(runtime.runtimeGetVersion()),
        "cupy": module.__version__,
    }


def synchronize() -> None:
    """Wait until the GPU has done everything that it was given: before and after what is timed."""
    cupy().cuda.Device().synchronize()


def memory_in_use() -> tuple[int, int]:
    """Bytes of arrays that are alive on the GPU, and bytes that CuPy keeps idle for the next ones."""
    pool = cupy().get_default_memory_pool()
    return pool.used_bytes(), pool.free_bytes()


def empty_cache() -> None:
    """Give idle memory back to the GPU, for other programs."""
    cupy().get_default_memory_pool().free_all_blocks()


def compile_all(report: Callable[[str], Any] = print) -> float:
    """Compile every kernel now, with lines of progress, and return the seconds that took.

    Otherwise a kernel is compiled when it is first used.  CuPy keeps what was compiled on the disk.
    """
    started = time.perf_counter()
    module.compile_all(report=report)
    synchronize()
    seconds = time.perf_counter() - started
    report(f"compiled in {seconds:.1f} s")
    return seconds


__all__ = [
    "compile_all",
    "empty_cache",
    "get_precision",
    "is_available",
    "memory_in_use",
    "problem",
    "properties",
    "set_precision",
    "synchronize",
    "use_precision",
]
