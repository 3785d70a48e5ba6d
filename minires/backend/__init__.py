"""What everything above stands on: which array module, how many threads, and where large arrays come from."""

from .arrays import (
    DEVICES,
    Array,
    array_module,
    asnumpy,
    check_device,
    cupy,
    cupy_problem,
    default_generator,
    device_of,
    gpu,
    host_copy,
    manual_seed,
    on_gpu,
    on_one_device,
    to_device,
)
from .memory import empty, empty_cache, memory_in_use, times
from .threads import by_turns, get_num_threads, has_gil, in_pieces, set_num_threads

__all__ = [
    "DEVICES",
    "Array",
    "array_module",
    "asnumpy",
    "check_device",
    "cupy",
    "cupy_problem",
    "default_generator",
    "device_of",
    "empty",
    "empty_cache",
    "get_num_threads",
    "gpu",
    "has_gil",
    "host_copy",
    "in_pieces",
    "manual_seed",
    "memory_in_use",
    "on_gpu",
    "on_one_device",
    "set_num_threads",
    "times",
    "to_device",
]
