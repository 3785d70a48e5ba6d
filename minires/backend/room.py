"""What to say when the memory of the GPU is full."""

from __future__ import annotations

import re

from .arrays import cupy, gpu


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the GPU had no memory left for an array."""
    return gpu.module is not None and isinstance(error, gpu.module.cuda.memory.OutOfMemoryError)


def free_memory() -> tuple[int, int]:
    """Bytes of the GPU that an array could still have, and all of its bytes."""
    free, total = cupy().cuda.runtime.memGetInfo()
    return free + cupy().get_default_memory_pool().free_bytes(), total


def out_of_memory(error: BaseException) -> str:
    """What was asked for and what is free, as the beginning of a sentence."""
    asked = re.search(r"allocating ([\d,]+) bytes", str(error))
    amount = in_bytes(int(asked[1].replace(",", ""))) + " were" if asked else "more was"
    free, total = free_memory()
    return f"the GPU is out of memory: {amount} asked for, and {in_bytes(free)} of {in_bytes(total)} are free"


def in_bytes(number: float) -> str:
    """1300000 as "1.3 MB"."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
