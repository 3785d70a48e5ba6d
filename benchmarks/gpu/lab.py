"""Where things are measured: a card with CuPy and PyTorch.

In a rehearsal it is the tests' stand-in for CuPy, and PyTorch on the CPU.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from minires.backend import cupy, empty_cache

ROOT = Path(__file__).resolve().parents[2]  # where every process of the suite runs


class Unfinished(Exception):  # noqa: N818 - not an error: what there is was kept, and the next call goes on
    """The time is over; the section goes on when it is next run."""


class Lab:
    """The card, both libraries on it, and how much time there is.

    Args:
        out: folder of the results.
        data: folder with CIFAR-10, or None.
        rehearsal: everything is tiny and nothing is a measurement.
        stop_at: `time.monotonic` after which a section should begin nothing new.

    Attributes:
        xp: CuPy.
        stream: everything of PyTorch, and of CuPy without a stream of its own, is to run there.
        torch: PyTorch, or None if it is not there.
        device: PyTorch's name of the device.
        commit: of the source, where it is known better than git knows it.
        described, ceilings: filled by `card`, once in a process.
    """

    def __init__(
        self, out: Path, data: Path | None = None, rehearsal: bool = False, stop_at: float = float("inf")
    ) -> None:
        self.out, self.data, self.rehearsal, self.stop_at = out, data, rehearsal, stop_at
        if rehearsal:
            import_module("tests.gpu.standin").install()
        self.xp = cupy()
        self.stream = self.xp.cuda.Stream(non_blocking=True)
        self.torch: Any = import_module("torch") if find_spec("torch") else None
        if self.torch and rehearsal:
            self.torch.set_num_threads(1)
        self.device = "cpu" if rehearsal else "cuda"
        self._torch_stream: Any = None
        if self.torch and not rehearsal:
            self._torch_stream = self.torch.cuda.ExternalStream(self.stream.ptr)
            self.torch.backends.cudnn.benchmark = True
        self.l2 = int(self.pick(self.xp.cuda.runtime.getDeviceProperties(0)["l2CacheSize"], 4096))
        self.described: dict[str, Any] = {}
        self.ceilings: dict[str, Any] = {}
        self.commit: str | None = None
        gc.collect()
        gc.freeze()  # what the libraries brought is not looked through again before every measurement

    def pick(self, measured: Any, rehearsed: Any) -> Any:
        """The one, or the other in a rehearsal."""
        return rehearsed if self.rehearsal else measured

    def left(self) -> float:
        """Seconds until nothing new should begin."""
        return self.stop_at - time.monotonic()

    def check_time(self, needed: float = 0.0) -> None:
        """Raise Unfinished if there are not so many seconds left."""
        if self.left() < needed:
            raise Unfinished(f"about {needed:.0f} s needed, {max(0.0, self.left()):.0f} s left")

    # -- memory -------------------------------------------------------------------------------------------------------

    def put(self, array: np.ndarray) -> Any:
        """A copy on the card, for CuPy."""
        return self.xp.asarray(array)

    def tensor(self, array: np.ndarray) -> Any:
        """A copy on the card, for PyTorch."""
        return self.torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def shared(self, array: Any) -> Any:
        """The memory of a CuPy array as a tensor of PyTorch."""
        return self.torch.from_numpy(array._array) if self.rehearsal else self.torch.from_dlpack(array)

    def synchronize(self) -> None:
        """Wait for the card."""
        self.xp.cuda.runtime.deviceSynchronize()

    def free(self) -> None:
        """Give back what both libraries keep for later."""
        self.synchronize()
        if self.rehearsal:
            return
        gc.collect()
        empty_cache()
        self.xp.get_default_memory_pool().free_all_blocks()
        if self._torch_stream:
            self.torch.cuda.empty_cache()

    def taken(self) -> int:
        """Bytes of the card that are taken, pools included."""
        free, total = self.xp.cuda.runtime.memGetInfo()
        return total - free

    # -- PyTorch ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def torch_stream(self) -> Iterator[None]:
        """PyTorch's work goes to `stream`."""
        with self.torch.cuda.stream(self._torch_stream) if self._torch_stream else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def torch_precision(self, precision: str) -> Iterator[None]:
        """What "fp32" and "tf32" mean to PyTorch; 16 bits are the business of dtypes and autocast."""
        if not self._torch_stream:
            yield
            return
        backends = self.torch.backends
        before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
        backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = precision != "fp32"
        try:
            yield
        finally:
            backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = before

    def torch_graph(self, function: Callable[[], Any], warm_up: int = 3) -> Callable[[], Any]:
        """The function recorded as PyTorch's CUDA graph; a call replays it on the current stream."""
        if not self._torch_stream:
            return function
        cuda = self.torch.cuda
        cuda.synchronize()
        with cuda.stream(cuda.Stream()):
            for _ in range(warm_up):
                function()
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            kept = function()

        def replay() -> Any:
            graph.replay()
            return kept

        return replay
