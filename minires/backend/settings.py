"""What is set in the whole process while kernels work: how many threads BLAS has, how often Python's threads switch."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import threadpoolctl

Result = TypeVar("Result")

# Seconds after which a thread that waits for the interpreter's lock asks for it.  One that works lets go of it for each
# call of NumPy, but takes it again before a sleeping one is awake; so that one waits for all of its short calls, or for
# whatever Python another thread of the program runs, 5 ms at a time if nobody says otherwise.
_SWITCHING = 5e-5
_HALF = 5e-7  # Python cuts it off to whole microseconds
_FINE = os.name == "posix"  # elsewhere Python waits for whole milliseconds


class _Settings:
    """One thread for each BLAS library of this process and `_SWITCHING` while somebody works, whatever thread's."""

    def __init__(self) -> None:
        controllers = threadpoolctl.ThreadpoolController().lib_controllers
        self.libraries: list[Any] = [c for c in controllers if c.user_api == "blas"]
        self._blas = [_functions(library) for library in self.libraries]
        self._before: list[tuple[Callable[[int], Any], int]] = []  # of those that were told another number
        self._switching: float | None = None
        self._held = False
        self._users: list[None] = []  # one for each who works now
        self._lock = threading.RLock()  # a signal handler that computes may interrupt who holds it

    def after_fork(self) -> None:
        """The threads that work are not in the child."""
        self._lock = threading.RLock()
        self._users = []
        self._restore()

    def during(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """What ``work`` gives, with all of that set; when the last one has done his work, what was set before is again.

        Wherever Ctrl-C comes, it is so when the next work is done at the latest: those who work are counted by
        operations that nothing interrupts.
        """
        try:
            self._users.append(None)
            with self._lock:
                if not self._held:
                    self._hold()
            return work(*arguments)
        finally:
            del self._users[:1]  # there may be none after a fork
            with self._lock:
                if not self._users:
                    self._restore()

    def _hold(self) -> None:
        self._held = True
        # to set a number takes longer than to ask for it
        self._before = [(use, n) for number, use in self._blas if (n := number()) != 1]
        before = sys.getswitchinterval()
        self._switching = before if _FINE and before > _SWITCHING else None
        for use, _ in self._before:
            use(1)
        if self._switching is not None:
            sys.setswitchinterval(_SWITCHING + _HALF)

    def _restore(self) -> None:
        switching, before = self._switching, self._before  # who interrupts this may restore them meanwhile
        if switching is not None and abs(sys.getswitchinterval() - _SWITCHING) < _HALF:  # nobody else has set it
            sys.setswitchinterval(switching + _HALF)
        for use, number in before:
            use(number)
        self._switching, self._before, self._held = None, [], False

    def hold_in_this_thread(self) -> None:
        """One thread for good in a thread of the pool, where the number belongs to each thread, as with OpenMP."""
        for library in self.libraries:
            if getattr(library, "threading_layer", None) == "openmp":
                library.set_num_threads(1)


def _functions(library: Any) -> tuple[Callable[[], int], Callable[[int], Any]]:
    """How many threads a BLAS library uses, and what makes it use so many.

    Those of OpenBLAS itself where the number is one for all threads of the program, as usual: threadpoolctl's are six
    times slower, a twentieth of a small convolution, and do nothing in one thread after another has called them.
    """
    if library.internal_api == "openblas" and library.threading_layer == "pthreads":
        name = next((n for n in getattr(library, "check_symbols", ()) if hasattr(library.dynlib, n)), "")
        use = getattr(library.dynlib, name.replace("_get_", "_set_"), None) if name else None
        if use is not None:
            return getattr(library.dynlib, name), use

    def through_threadpoolctl(number: int) -> None:
        library.set_num_threads(number)
        if hasattr(library, "clear_controlling_thread"):  # or else only this thread could change it again
            library.clear_controlling_thread()

    return library.get_num_threads, through_threadpoolctl


settings = _Settings()
