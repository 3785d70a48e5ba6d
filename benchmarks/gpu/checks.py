"""The test suite on the card, and the kernels under compute-sanitizer: programs of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from minires.errors import MiniresError

from .lab import ROOT, Lab
from .record import tell

_KEPT = 6000  # characters of an output's end


def tests(lab: Lab) -> dict[str, Any]:
    """Section tests: what needs a GPU, each test on the device "cuda"."""
    chosen = lab.pick(["-m", "gpu"], ["tests/test_readme.py", "--collect-only"])
    workers = ["-n", "6"] if find_spec("xdist") and not lab.rehearsal else []
    return run_tests(lab, [*chosen, *workers], 420)


def run_tests(lab: Lab, chosen: list[str], limit: float, before: tuple[str, ...] = ()) -> dict[str, Any]:
    """Counts and failures of a run of pytest, which may not take longer than the limit."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "junit.xml")
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", *chosen]
        command = [*before, sys.executable, "-m", "pytest", *options]
        status, output, seconds = run(command, min(limit, lab.left()))
        found: dict[str, Any] = {"tests run": chosen, "status": status, "seconds of the tests": seconds,
                                 "end of the output": output[-_KEPT:]}  # fmt: skip
        if report.exists():
            found |= _junit(report)
    tell(f"  {' '.join(chosen)}: " + (output.strip().splitlines() or ["no output"])[-1])
    if status not in (0, 5) or found.get("failures"):
        found["wrong"] = "it took too long" if status is None else f"pytest ended with {status}"
    return found


def _junit(report: Path) -> dict[str, Any]:
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    wrong = []
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        for name in counts:
            counts[name] += int(suite.get(name, 0))
        for case in suite.iter("testcase"):
            for kind in ("failure", "error"):
                problem = case.find(kind)
                if problem is not None:
                    wrong.append({"test": f"{case.get('classname')}::{case.get('name')}",
                                  "message": str(problem.get("message"))[:400]})  # fmt: skip
    return {"counts": counts, "failing tests": wrong[:100]}


def sanitizers(lab: Lab) -> dict[str, Any]:
    """Section sanitizers: memcheck and racecheck over every kernel once, then memcheck over the kernels' tests."""
    tool = _compute_sanitizer()
    if tool is None and not lab.rehearsal:
        raise MiniresError("compute-sanitizer is not on the PATH nor beneath /usr/local/cuda. Nothing was checked.")
    exercise = [sys.executable, "-m", "benchmarks.gpu.exercise", *(["--rehearse"] if lab.rehearsal else [])]
    found: dict[str, Any] = {"tool": tool}
    bad = []
    for check in lab.pick(("memcheck", "racecheck"), ("memcheck",)):
        watched = [tool, "--tool", check, "--error-exitcode", "99"] if tool and not lab.rehearsal else []
        status, output, seconds = run([*watched, *exercise], min(240, lab.left()))
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY:[^\n]*", output)
        found[check] = {"status": status, "summary": summary, "seconds": seconds, "end of the output": output[-_KEPT:]}
        tell(f"  {check} over every kernel: status {status}, {summary or 'no summary'}")
        if status != 0:
            bad.append(f"{check} ended with {status}")
    if tool and not lab.rehearsal and lab.left() > 120:
        chosen = ["tests/gpu/test_cuda_kernels.py", "-m", "gpu", "-x"]
        found["tests under memcheck"] = run_tests(
            lab, chosen, 200, (tool, "--tool", "memcheck", "--error-exitcode", "99")
        )
    return found | ({"wrong": "; ".join(bad)} if bad else {})


def _compute_sanitizer() -> str | None:
    places = sorted(glob("/usr/local/cuda*/bin/compute-sanitizer") + glob("/opt/nvidia/*/compute-sanitizer"))
    return shutil.which("compute-sanitizer") or next(iter(places), None)


def run(command: list[str], limit: float) -> tuple[int | None, str, float]:
    """Status (None if it took too long), output and seconds of a program, begun in the repository's root."""
    started = time.monotonic()
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, errors="replace", stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    try:
        output, _ = process.communicate(timeout=max(1.0, limit))
        status: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # the session that was begun above: workers of pytest too
        output, _ = process.communicate()
        status = None
    return status, output or "", round(time.monotonic() - started, 1)
