"""What an exception in a student's code means, in words for the student."""

from __future__ import annotations

import contextlib
import linecache
import re
import traceback
from pathlib import Path

from ..errors import MiniresError
from ..gradcheck.source import LoadError

LONG = 6000  # characters kept of a message


def explain(error: BaseException, student: str, grader: str = "") -> tuple[str, str, int | None]:
    """What kind of failure an exception is, what to tell, and the line of the student's file in which it was raised.

    ``student`` begins the name of the student's file, ``grader`` is the name of the grader.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).name.startswith(student)]
    line = own[-1].lineno if own else None
    text = _text(error)
    if isinstance(error, NotImplementedError) and re.match(r"lesson \d\d, task \d+", text):
        return "unwritten", text, line
    if isinstance(error, LoadError):
        return "unreadable", text, line
    if isinstance(error, SystemExit):
        return "exit", f"the code calls sys.exit({text}){_at(own)}", line
    if isinstance(error, MemoryError):
        return "memory", f"out of memory{_at(own)}", line
    if isinstance(error, MiniresError) and frames and Path(frames[-1].filename).name == "sizes.py":
        return "broken", text, line
    if type(error).__name__ in ("Skipped", "XFailed"):  # pytest's own, by name: a checker is tried without pytest
        return "error", f"the test was skipped{_at(own)}: {text}", line
    if isinstance(error, AssertionError | MiniresError) or type(error).__name__ == "Failed":
        return "wrong", text + (_at(own) if own else ""), line
    asking = [f for f in frames if Path(f.filename).name == grader]
    return "error", f"{type(error).__name__}: {text}{_at(own or asking)}", line


def _text(error: BaseException) -> str:
    text = ""
    with contextlib.suppress(Exception):  # the student's exceptions may have a __str__ that fails
        text = str(error)
    if isinstance(error, AssertionError):  # what the grader says is enough: pytest would add the values of all it saw
        text = re.split(r"\n(?=assert )", text, maxsplit=1)[0]
    return text if len(text) <= LONG else f"{text[:LONG]} ..."


def _at(frames: list[traceback.FrameSummary]) -> str:
    if not frames:
        return ""
    last = frames[-1]
    code = linecache.getline(last.filename, last.lineno or 0).strip()
    return f"\nin {Path(last.filename).name}, line {last.lineno}" + (f": {code}" if code else "")
