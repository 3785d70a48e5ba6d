"""Which processors a thread may run on.

Linux in a virtual machine may put a thread that is woken on the processor of the one that wakes it, while another is
asleep, and leave it there for milliseconds.  Two threads that share a matrix product of 0.3 ms then take turns: after a
pause one picture through a ResNet-18 of 224x224 took 22 to 30 ms, and takes 16 to 20 where they begin apart.
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
    """Where one thread may run while it is woken: wherever the one that wakes it may, but not beside it."""

    def __init__(self) -> None:
        self._anywhere: set[int] | None = None

    def keep_away(self, thread: int | None, count: int) -> None:
        """Keep a sleeping thread off the processor of this one, which is about to wake it.

        Args:
            thread: its ``native_id``.
            count: how many threads will work at once; nothing is done if they are more than the processors.
        """
        if processor is None or thread is None:
            return
        with contextlib.suppress(OSError):  # a sandbox may not allow it, and then all stays as it was
            allowed = os.sched_getaffinity(0)
            if count <= len(allowed):
                os.sched_setaffinity(thread, allowed - {processor()})
                self._anywhere = allowed

    def let_go(self) -> None:
        """The thread, now awake, may be moved as the system likes."""
        if self._anywhere is not None:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self._anywhere)
            self._anywhere = None
