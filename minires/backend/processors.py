"""Which processors a thread may run on.

Linux in a virtual machine may put a thread that is woken on the processor of the one that wakes it, while another is
asleep, and leave it there for milliseconds.  Two threads that share a matrix product of 0.3 ms then take turns: one
picture through a ResNet-18 of 224x224 took 30 ms after a pause, and takes 21 where threads are kept apart.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable


def _which() -> Callable[[], int] | None:
    """What tells on which processor this thread runs; None where threads cannot be told where to run either."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        return ctypes.PyDLL(None).sched_getcpu
    except (AttributeError, OSError):
        return None


processor = _which()


class Place:
    """Where one thread may run: wherever the one that wakes it may, but not beside it."""

    def __init__(self) -> None:
        self._known: tuple[int, int] | None = None

    def choose(self, thread: int | None, count: int) -> None:
        """Keep a sleeping thread away from the processor of this one, which is about to wake it.

        Args:
            thread: its ``native_id``.
            count: how many threads will work at once; if they are more than the processors, it may run on all of these.
        """
        if processor is None or thread is None:
            return
        now = processor(), count
        if now == self._known:
            return
        self._known = now
        with contextlib.suppress(OSError):  # a sandbox may not allow it, and then all stays as it was
            allowed = os.sched_getaffinity(0)
            os.sched_setaffinity(thread, allowed - {now[0]} if count <= len(allowed) else allowed)
