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


def enough_for(threads: int) -> bool:
    """Whether there is a processor for each of so many threads of this program."""
    return threads <= (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Place:
    """Where one thread may run while there is work for it: wherever the one that wakes it may, but not beside it."""

    def __init__(self) -> None:
        # where the one that woke it might run, and where it ran
        self._waker: tuple[set[int], int] | None = None

    def keep_away(self, thread: int | None, count: int) -> None:
        """Keep a sleeping thread off the processor of this one, which is about to wake it.

        Nothing is done if it is kept away already: to tell the system takes 10 microseconds of both threads.

        Args:
            thread: its ``native_id``.
            count: how many threads will work at once; nothing is done if they are more than the processors.
        """
        if processor is None or thread is None:
            return
        with contextlib.suppress(OSError):  # a sandbox may not allow it, and then all stays as it was
            waker = allowed, here = os.sched_getaffinity(0), processor()
            if count <= len(allowed) and waker != self._waker:
                os.sched_setaffinity(thread, allowed - {here})
                self._waker = waker

    def let_go(self) -> None:
        """This thread, for which there is no work now, may be moved as the system likes."""
        waker, self._waker = self._waker, None  # first: who wakes it meanwhile writes down anew where it is kept
        if waker is not None:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, waker[0])
