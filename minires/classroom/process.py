"""A student's code in a process of its own, with limits.

The limits are for accidents: a loop without end, a list that grows without end, a crash, a flood of prints.  A process
that is out of time is killed with all the processes it started.  They are no prison.  The student's code runs with the
rights of whoever grades, in the very process whose tests judge it.  It can read and write that user's files, use the
network, start a process that leaves the group, fill the disk with many files or the machine with many processes, and,
if it sets out to, find the tests or the file of results and forge a pass.  A teacher who grades strangers does it in
a container or a virtual machine without secrets, and looks at what earns a mark.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

_SHOWN = 8_000  # bytes of output kept of its beginning, and as many of its end
_FLOOD = 8_000_000  # bytes of output after which nobody is listening any more
_START = 60  # seconds allowed beside the limit, to import what is needed and to write the results
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LD_LIBRARY_PATH")
_ONE_THREAD = ("OPENBLAS", "OMP", "MKL", "MINIRES")  # _NUM_THREADS: there is a process for each core


class Limits(NamedTuple):
    """What a process may take.

    Attributes:
        seconds: of time, from its first test on.
        megabytes: of memory, beside what Python, NumPy and minires need; where the system can tell (Linux).
    """

    seconds: float = 60.0
    megabytes: int = 1024


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        status: its exit status, negative for a signal.
        late: whether it ran out of time.
        flooded: whether it was stopped because it printed without end.
        output: what it printed, the middle left out if that is long.
        where: the stack of its threads when its time was over.
        lines: the results that it wrote.
    """

    status: int
    late: bool
    flooded: bool
    output: str
    where: str
    lines: list[dict[str, Any]]


_running: set[subprocess.Popen[bytes]] = set()


def run(plan: dict[str, Any], limits: Limits, listen: Callable[[int], Any] | None = None) -> Ended:
    """Carry out a plan of `minires.classroom.child` in a process of its own.

    ``listen`` is called about five times a second with how many lines of results there are.
    """
    with tempfile.TemporaryDirectory(prefix="minires-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "work").mkdir()
        results, where = folder / "results.jsonl", folder / "where.txt"
        plan = plan | {"results": str(results), "where": str(where), "limits": limits._asdict()}
        (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        command = [sys.executable, "-u", "-m", "minires.classroom.child", str(folder / "plan.json")]
        process = subprocess.Popen(
            command,
            cwd=folder / "work",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group that can be killed as a whole
        )
        _running.add(process)
        output = _Output(process)
        late = False
        try:
            output.start()
            times = len(plan.get("runs", [1]))
            late = _wait(process, limits.seconds * times + _START, lambda: listen and listen(_count(results)))
        finally:
            kill(process)
            output.join(5)  # what left the group may hold the pipe
            _running.discard(process)
        stack = where.read_text(encoding="utf-8", errors="replace")[:4000] if _size(where) else ""
        out_of_time = late or "Timeout" in stack or -process.returncode == getattr(signal, "SIGXCPU", None)
        return Ended(process.returncode, out_of_time, output.flooded, output.text(), stack, _read(results))


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that belong to its group, and wait for it."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def kill_all() -> None:
    """Kill whatever is running."""
    for process in list(_running):
        kill(process)


def _wait(process: subprocess.Popen[bytes], seconds: float, look: Callable[[], Any]) -> bool:
    """Wait until a process has ended; whether it has not in so many seconds."""
    for _ in range(int(seconds * 5) + 1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
            return False
        look()
    return True


def _environment() -> dict[str, str]:
    """Little of ours: neither secrets nor options of pytest."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    path = [str(Path(__file__).resolve().parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **kept,
        **{f"{name}_NUM_THREADS": "1" for name in _ONE_THREAD},
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONIOENCODING": "utf-8:backslashreplace",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "MPLBACKEND": "Agg",
    }


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _read(results: Path) -> list[dict[str, Any]]:
    """The lines of results; one that is cut off is left out."""
    lines = []
    if _size(results):
        with open(results, encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


class _Output(threading.Thread):
    """Reads what a process prints, keeps its beginning and its end, and kills it if there is no end."""

    def __init__(self, process: subprocess.Popen[bytes]):
        super().__init__(daemon=True)
        self.process = process
        self.head = b""
        self.tail: deque[bytes] = deque()
        self.count = 0
        self.flooded = False

    def run(self) -> None:
        pipe: IO[bytes] | None = self.process.stdout
        assert pipe is not None
        while piece := os.read(pipe.fileno(), 4096):
            self.count += len(piece)
            if len(self.head) < _SHOWN:
                self.head += piece
            else:
                self.tail.append(piece)
                if len(self.tail) > 1 + _SHOWN // 2048:
                    self.tail.popleft()
            if self.count > _FLOOD and not self.flooded:
                self.flooded = True
                self.process.kill()
        pipe.close()

    def text(self) -> str:
        tail = b"".join(self.tail)[-_SHOWN:]
        gap = self.count - len(self.head) - len(tail)
        between = f"\n... {gap:,} bytes left out ...\n".encode() if gap > 0 else b""
        return (self.head + between + tail).decode("utf-8", "replace")
