"""``cupy.cuda``: one pretended card."""

from __future__ import annotations

from typing import Any

from . import memory
from .streams import (
    CUDARuntimeError,
    Event,
    Graph,
    Stream,
    get_current_stream,
    get_elapsed_time,
    synchronised,
)

MemoryPool, MemoryPointer, using_allocator = memory.MemoryPool, memory.MemoryPointer, memory.using_allocator
__all__ = ["Device", "Event", "Graph", "MemoryPointer", "MemoryPool", "Stream", "get_allocator", "get_current_stream",
           "get_elapsed_time", "is_available", "set_allocator", "using_allocator"]  # fmt: skip

available = True  # a test may pretend that there is no card


def is_available() -> bool:
    """Whether there is a card; never raises."""
    return available


def get_allocator() -> Any:
    """Where arrays of this thread come from."""
    return memory.here.allocator or memory.default_pool.malloc


def set_allocator(allocator: Any = None) -> None:
    """Take the memory of all arrays of this thread from here on from this allocator."""
    memory.here.allocator = memory._unless_default(allocator)


class Device:
    """The card."""

    compute_capability = "90"

    def __init__(self, device: int = 0) -> None:
        if device != 0:
            raise CUDARuntimeError("cudaErrorInvalidDevice")
        self.id = 0

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exception: Any) -> None:
        pass

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Device)

    def __hash__(self) -> int:
        return 0

    def __int__(self) -> int:
        return 0

    def use(self) -> Device:
        """Make it the current one."""
        return self

    def synchronize(self) -> None:
        """Wait for all its streams."""
        get_current_stream()._not_capturing()
        synchronised()

    @property
    def mem_info(self) -> tuple[int, int]:
        """Bytes free and in all."""
        return memGetInfo()


class runtime:  # noqa: N801 - CuPy's name of the module
    """``cupy.cuda.runtime``."""

    CUDARuntimeError = CUDARuntimeError

    @staticmethod
    def getDeviceCount() -> int:  # noqa: N802
        """How many cards there are."""
        if not available:
            raise CUDARuntimeError("cudaErrorNoDevice")
        return 1

    @staticmethod
    def getDeviceProperties(device: int) -> dict[str, Any]:  # noqa: N802
        """What the card says of itself."""
        return {"name": b"a stand-in for CuPy", "totalGlobalMem": memory.card.limit, "major": 9, "minor": 0,
                "multiProcessorCount": 132, "sharedMemPerBlock": 49152, "warpSize": 32, "l2CacheSize": 52428800,
                "maxThreadsPerBlock": 1024, "memoryBusWidth": 6144, "clockRate": 1980000}  # fmt: skip

    @staticmethod
    def driverGetVersion() -> int:  # noqa: N802
        """The newest CUDA that the driver knows."""
        return 13000

    @staticmethod
    def runtimeGetVersion() -> int:  # noqa: N802
        """The CUDA that CuPy was built for."""
        return 13000

    @staticmethod
    def getDevice() -> int:  # noqa: N802
        """The current card."""
        return 0

    @staticmethod
    def memGetInfo() -> tuple[int, int]:  # noqa: N802
        """Bytes free and in all."""
        return memory.card.limit - memory.card.taken, memory.card.limit

    @staticmethod
    def deviceSynchronize() -> None:  # noqa: N802
        """Wait for the card."""
        Device().synchronize()


memGetInfo = runtime.memGetInfo  # noqa: N816
