"""Which processors a thread may run on.

Linux in a virtual machine may put a thread that is woken on the processor of the one that wakes it, while another is
asleep, and leave it there for milliseconds.  Two threads that share a matrix product of 0.3 ms then take turns: after a
pause one picture through a ResNet-18 of 224x224 took 22 to 30 ms, and takes 16 to 20 where they are kept apart.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
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


def enough_for(threads: int) -> bool:
    """Whether there is a processor for each of so many threads of this program."""
    return threads <= (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Place:
    """Where one thread may run while there is work for it: wherever the one that wakes it may, but not beside it."""

    def __init__(self) -> None:
        # where the one that woke it might run, and where it ran; None if it was not told to keep away
        self._waker: tuple[set[int], int] | None = None
        self._lock = threading.Lock()  # it may be woken while it is let go

    def keep_away(self, thread: int | None, count: int) -> None:
        """Keep a thread that waits off the processor of this one, which is about to wake it.

        Nothing is done if it is kept away already: to tell the system takes 10 microseconds of both threads.

        Args:
            thread: its ``native_id``.
            count: how many threads will work at once; if they are more than the processors, it runs where this may.
        """
        if processor is None or thread is None:
            return
        with contextlib.suppress(OSError), self._lock:  # a sandbox may not allow it, and then all stays as it was
            allowed, here = os.sched_getaffinity(0), processor()
            waker = (allowed, here) if count <= len(allowed) else None
            if waker != self._waker:
                os.sched_setaffinity(thread, allowed - {here} if waker else allowed)
                self._waker = waker

    def let_go(self) -> None:
        """This thread, for which there is no work now, may run where the program's first one may."""
        if self._waker is not None:
            with contextlib.suppress(OSError), self._lock:
                os.sched_setaffinity(0, os.sched_getaffinity(os.getpid()))
                self._waker = None
