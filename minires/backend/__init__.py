"""What everything above stands on: which array module, how many threads, and where large arrays come from."""

from .arrays import Array, array_module, asnumpy, cupy, cupy_problem, default_generator, device_of, manual_seed
from .memory import empty, empty_cache, memory_in_use
from .threads import get_num_threads, in_pieces, set_num_threads

__all__ = [
    "Array",
    "array_module",
    "asnumpy",
    "cupy",
    "cupy_problem",
    "default_generator",
    "device_of",
    "empty",
    "empty_cache",
    "get_num_threads",
    "in_pieces",
    "manual_seed",
    "memory_in_use",
    "set_num_threads",
]
