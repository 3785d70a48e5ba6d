"""What became of a task: a verdict, and what to tell the student."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, field
from typing import Any

from .process import Ended, Limits

# verdict: in words
WORDS = {
    "passed": "passed",
    "wrong": "wrong",
    "error": "error",
    "unwritten": "not written",
    "missing": "no file",
    "unreadable": "cannot load",
    "exit": "sys.exit",
    "gone": "quit",
    "crash": "crashed",
    "time": "out of time",
    "memory": "out of memory",
    "flood": "print flood",
    "broken": "not graded",
}
_FIRST = ("broken", "unreadable", "memory", "exit", "unwritten")  # of several failures, the one that counts


@dataclass
class TaskResult:
    """One task of one lesson.

    Attributes:
        lesson, task, title: which; task 0 are the tests of what is given.
        verdict: one of `WORDS`.
        message: what to tell, of several lines; nothing if it passed.
        line: of the exercise, where it went wrong, if that is known.
        tests: each test with its ``kind``, ``message`` and ``seconds``.
        output: what the student's code printed, at most 16 kB.
    """

    lesson: int
    task: int
    title: str
    verdict: str
    message: str = ""
    line: int | None = None
    tests: list[dict[str, Any]] = field(default_factory=list)
    output: str = ""

    @property
    def ok(self) -> bool:
        """Whether it passed."""
        return self.verdict == "passed"

    @property
    def name(self) -> str:
        """The task in words."""
        return f"task {self.task}" if self.task else "given"


def judge(result: TaskResult, ended: Ended, limits: Limits, file: str) -> TaskResult:
    """Fill in a result from how its process ended; ``file`` is the name of the exercise."""
    tests = {
        line["test"]: {"test": line["test"], "kind": "gone", "message": "it ended without a result", "seconds": 0.0}
        for event in _events(ended, "collected")
        for line in event.get("tests", ())
    }
    for line in _events(ended, "test"):
        if line.get("test") in tests and tests[line["test"]]["kind"] in ("gone", "passed"):
            tests[line["test"]].update({k: line.get(k) for k in ("kind", "message", "line", "seconds")})
    result.tests = list(tests.values())
    result.output = plain(ended.output)
    result.verdict, result.message, result.line = _verdict(result.tests, ended, limits, file)
    result.message = plain(result.message)
    return result


def plain(text: str) -> str:
    """A text without what could play tricks on a screen: what a student prints may hold anything."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "?", text)


def _events(ended: Ended, kind: str) -> list[dict[str, Any]]:
    return [line for line in ended.lines if line.get("event") == kind]


def _verdict(tests: list[dict[str, Any]], ended: Ended, limits: Limits, file: str) -> tuple[str, str, int | None]:
    failed = [t for t in tests if t["kind"] != "passed"]
    if broken := _events(ended, "broken"):
        return "broken", f"the grader itself fails: {broken[0].get('message')}", None
    if not _events(ended, "end") and not any(t["kind"] == "memory" for t in failed):
        return early_end(ended, limits, file)
    if not tests:
        return "broken", f"the grader has no test for this task.\n{ended.output}".strip(), None
    if not failed:
        return "passed", "", None
    kind = next((k for k in _FIRST if any(t["kind"] == k for t in failed)), failed[0]["kind"])
    first = next(t for t in failed if t["kind"] == kind)
    if kind in WORDS and kind not in ("wrong", "error", "gone"):
        return kind, _memory(limits, first["message"]) if kind == "memory" else first["message"], first.get("line")
    return kind, _several(failed, len(tests)), first.get("line")


def _several(failed: list[dict[str, Any]], count: int) -> str:
    """The messages of failed tests, those that say the same only once."""
    by_message: dict[str, list[str]] = {}
    for test in failed:
        by_message.setdefault(test["message"], []).append(test["test"])
    parts = []
    for message, names in by_message.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        parts.append(f"{names[0]}{more}:\n{message}" if count > 1 else message)
    return "\n".join(parts)


def _memory(limits: Limits, message: str) -> str:
    return message.replace("out of memory", f"more than {limits.megabytes} MB of memory", 1)


def early_end(ended: Ended, limits: Limits, file: str) -> tuple[str, str, int | None]:
    """The verdict on a process that did not come to its end, what to tell, and the line of ``file`` where it was."""
    where, line = _place(ended.where or ended.output, file)
    started = _events(ended, "start")
    test = f" in {started[-1]['test']}" if started and "test" in started[-1] else ""
    if ended.flooded:
        return "flood", f"it prints without end{test}, and was stopped{where}", line
    if ended.late:
        return "time", f"still running after {limits.seconds:g} s{test}: a loop without end?{where}", line
    if re.search(r"MemoryError|bad_alloc|[Cc]annot allocate memory|[Mm]emory allocation.*failed", ended.output):
        return "memory", f"more than {limits.megabytes} MB of memory{test}{where}", line
    if ended.status < 0:
        name = signal.Signals(-ended.status).name if -ended.status in set(signal.Signals) else f"signal {-ended.status}"
        why = ", perhaps because the machine has no memory left" if name == "SIGKILL" else ""
        return "crash", f"the process died of {name}{test}{why}{where}", line
    if not started:
        return "broken", f"the tests did not start: {ended.output[-2000:].strip() or 'no more is known'}", None
    return "gone", f"the process ended{test} with status {ended.status}: does the code call os._exit?", None


def _place(stack: str, file: str) -> tuple[str, int | None]:
    """Where in the student's file a stack of `faulthandler` is, in words, and the line."""
    for found in re.finditer(r'File "(.+?)", line (\d+) in (\S+)', stack):
        if re.split(r"[/\\]", found[1])[-1] == file:
            return f"\nin {file}, line {found[2]}, in {found[3]}", int(found[2])
    return "", None
