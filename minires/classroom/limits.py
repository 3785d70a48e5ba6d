"""What a process sets for itself before the student's code runs: its limits, its clock and where its results go."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
from pathlib import Path
from typing import IO, Any

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

_FILE = 64_000_000  # bytes that a file may grow to
_RESERVE = 128_000_000  # bytes beyond the limit, to report that it was reached


class Writer:
    """Writes results, line by line."""

    def __init__(self, path: str):
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, **line: Any) -> None:
        """Write one."""
        os.write(self.file, (json.dumps(line) + "\n").encode())


class Clock:
    """Ends the process, stack and all written down, when its time is over."""

    def __init__(self, seconds: float, where: IO[str]):
        self.seconds, self.where = seconds, where

    def start(self) -> None:
        """Start, or start again."""
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self.where)

    def stop(self) -> None:
        """Stop."""
        faulthandler.cancel_dump_traceback_later()


def limit(seconds: float, megabytes: int, times: int = 1) -> None:
    """Set the limits of this process that the system enforces; ``times``: how often the clock will be started."""
    if resource is None:
        return
    memory = _used() + megabytes * 1_000_000
    most = 2 * int(seconds) * times + 60  # if nobody is left to watch the clock
    _limit("RLIMIT_AS", memory, memory + _RESERVE)
    _limit("RLIMIT_CPU", most, most)
    _limit("RLIMIT_FSIZE", _FILE, _FILE)
    _limit("RLIMIT_CORE", 0, 0)


def _limit(name: str, soft: int, hard: int) -> None:
    which = getattr(resource, name, None)
    if which is None:
        return
    most = resource.getrlimit(which)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    with contextlib.suppress(ValueError, OSError):  # a system that knows the limit but cannot set it
        resource.setrlimit(which, (soft, hard))


def more_memory() -> None:
    """Open the reserve: the limit has been reached, and that has to be said."""
    if resource is not None and hasattr(resource, "RLIMIT_AS"):
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _used() -> int:
    """Bytes of address space in use."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 1_000_000_000  # not told: more than Python and NumPy take
