"""A reporter for pytest: a line of JSON for each test, with what a student has to know about it."""

from __future__ import annotations

import re
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from . import fixtures
from .explain import LONG, explain
from .limits import Clock, Writer, more_memory
from .load import number_of


def grade(run: dict[str, Any], write: Writer, clock: Clock, scratch: Path) -> None:
    """Run a grader on a folder of exercises.

    ``run`` has the name of the run, the grader, the exercises, a marker expression, the seed and the shapes.
    """
    settings = scratch / "pytest.ini"
    settings.write_text("[pytest]\n", encoding="utf-8")  # those of the folder may be the student's
    grader = Path(run["grader"])
    words = [f"--rootdir={grader.parent.parent}", f"--confcutdir={grader.parent.parent}", "-c", str(settings)]
    words += ["-p", "no:cacheprovider", "--capture=no", "-m", run["marks"], f"--exercises={run['exercises']}"]
    words += [f"--seed={run['seed']}", *([f"--shapes={run['shapes']}"] if run["shapes"] else [])]
    fixtures.asked.clear()
    status = pytest.main([*words, str(grader)], plugins=[Reporter(run["name"], write, clock)])
    write(event="done", run=run["name"], status=int(status), sizes=fixtures.asked)


class Reporter:
    """Writes what is collected, when a test starts, and how it ends."""

    def __init__(self, name: str, write: Writer, clock: Clock):
        self.name, self.write, self.clock = name, write, clock

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """What is printed is the student's alone."""
        config.pluginmanager.unregister(name="terminalreporter")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A grader that cannot be read is no student's fault."""
        if report.failed:
            self.write(event="broken", run=self.name, message=str(report.longrepr)[-LONG:])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Say which tests there are, before any of the student's code has run."""
        tests = [{"test": _short(item), "tasks": _tasks(item)} for item in session.items]
        self.write(event="collected", run=self.name, tests=tests)
        self.clock.start()

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Say which test may be the last."""
        self.write(event="start", run=self.name, test=_short(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say how a test went: the first of set-up, call and tear-down that fails."""
        kind, message, line = "passed", "", None
        if call.excinfo is not None:
            if isinstance(call.excinfo.value, MemoryError):
                more_memory()
                traceback.clear_frames(call.excinfo.tb)  # what fills the memory hangs on them
            kind, message, line = explain(call.excinfo.value, f"lesson{number_of(item.path):02d}", item.path.name)
        if call.when == "call" or kind != "passed":
            self.write(
                event="test", run=self.name, test=_short(item), tasks=_tasks(item), kind=kind, message=message,
                line=line, seconds=round(call.duration, 3),
            )  # fmt: skip
        return (yield)


def _short(item: pytest.Item) -> str:
    return item.nodeid.split("::", 1)[-1]


def _tasks(item: pytest.Item) -> list[int]:
    return sorted({int(m.name[4:]) for m in item.iter_markers() if re.fullmatch(r"task\d+", m.name)})
