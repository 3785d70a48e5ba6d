"""Whatever a student writes gets a verdict of its own, and the rest is still graded."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minires.classroom import check, process, tree
from tests.classrooms import CONFTEST, write

pytestmark = pytest.mark.host_only("students' code runs in processes of its own, on NumPy")

BAD = """
import os, subprocess, sys, time
import ctypes

keep = []

def task1():
    return 1

def task2():
    return 1

def task3():
    raise NotImplementedError("lesson 05, task 3: what is open")

def task4():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open({pid!r}, "w") as file:
        file.write(str(child.pid))
    while True:
        pass

def task5():
    ctypes.string_at(0)

def task6():
    while True:
        print("over and over again" * 100)

def task7():
    while True:
        keep.append(bytearray(10_000_000))

def task8():
    sys.exit(0)

def task9():
    print("last words")
    os._exit(0)
"""

MORE = """
import pytest

def task1():
    {}[7]

def task2():
    raise KeyboardInterrupt

def task3():
    pytest.skip("I would rather not")

def task4():
    task4()

def task5():
    import threading
    def forever():
        while True:
            pass
    threading.Thread(target=forever).start()
    return 1

def task6():
    class Odd(Exception):
        def __str__(self):
            raise ValueError
    raise Odd

def task7():
    raise ValueError("\\x1b[2J\\ud800")
"""


def grader(number, tasks, given=False):
    text = f"import pytest\npytestmark = pytest.mark.lesson{number:02d}\n"
    for task in tasks:
        text += f"\n@pytest.mark.task{task}\ndef test_task{task}(mine):\n"
        text += f"    assert mine.task{task}() == {2 if (number, task) == (5, 2) else 1}, 'expected another number'\n"
    return text


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Everything that can go wrong, graded at once: (results by lesson and task, the process that was left running)."""
    folder = tmp_path_factory.mktemp("bad")
    pid = folder / "pid.txt"
    write(folder, {
        "conftest.py": CONFTEST,
        "exercises/lesson05_bad.py": BAD.replace("{pid!r}", repr(str(pid))),
        "exercises/lesson06_more.py": MORE,
        "exercises/lesson07_syntax.py": "def task1():\n    return 1\n\ndef task2(:\n    return 1\n",
        "exercises/lesson08_raises.py": "def task1():\n    return 1\n\nnumber = 1 / 0\n",
        "exercises/lesson09_a.py": "",
        "exercises/lesson09_b.py": "",
        "tests/test_lesson05.py": grader(5, range(1, 10)),
        "tests/test_lesson06.py": grader(6, range(1, 8)),
        "tests/test_lesson07.py": grader(7, [1, 2]),
        "tests/test_lesson08.py": grader(8, [1]),
        "tests/test_lesson09.py": grader(9, [1]),
        "tests/test_lesson10.py": grader(10, [1]),
        "tests/test_lesson11.py": "import nothing_of_this_name\n" + grader(11, [1]),
        "exercises/lesson11_fine.py": "def task1():\n    return 1\n",
    })  # fmt: skip
    words = ["--from", str(folder), "--timeout", "4", "--memory", "400", "--json", str(folder / "out.json")]
    words += ["--gradescope", str(folder / "results.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SECRET_OF_THE_TEACHER", "42")
        lessons = [f"{n:02d}" for n in range(5, 12)]
        command = [sys.executable, "-m", "minires", "lessons", "check", *lessons, *words]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    written = json.loads((folder / "out.json").read_text())
    results = {(x["lesson"], t["task"]): t for x in written["lessons"] for t in x["tasks"]}
    return results, folder, done.stdout, written


@pytest.mark.parametrize(
    ("lesson", "task", "verdict", "says"),
    [
        (5, 1, "passed", r"^$"),
        (5, 2, "wrong", "expected another number"),
        (5, 3, "unwritten", "^lesson 05, task 3: what is open$"),
        (5, 4, "time", r"still running after 4 s in test_task4.*\nin lesson05_bad.py, line (19|20), in task4"),
        (5, 5, "crash", r"SIGSEGV in test_task5\nin lesson05_bad.py, line 23, in task5"),
        (5, 6, "flood", "prints without end in test_task6"),
        (5, 7, "memory", r"more than 400 MB of memory\nin lesson05_bad.py, line 31: keep.append"),
        (5, 8, "exit", r"sys\.exit\(0\)\nin lesson05_bad.py, line 34: sys.exit"),
        (5, 9, "gone", r"ended in test_task9 with status 0: does the code call os\._exit"),
        (6, 1, "error", r"KeyError: 7\nin lesson06_more.py, line 4: \{\}\[7\]"),
        (6, 2, "gone", "ended without a result"),
        (6, 3, "error", "the test was skipped"),
        (6, 4, "error", "RecursionError"),
        (6, 5, "passed", "^$"),  # its thread does not hold anybody up
        (6, 6, "error", "^Odd"),
        (7, 1, "unreadable", r"exercises/lesson07_syntax.py, line 4: .*def task2\(:"),
        (7, 2, "unreadable", "line 4"),
        (8, 1, "unreadable", "exercises/lesson08_raises.py, line 4: ZeroDivisionError"),
        (9, 1, "missing", r"lesson09_a\.py and lesson09_b\.py"),
        (10, 1, "missing", "no lesson10_"),
        (11, 1, "broken", "nothing_of_this_name"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_verdicts(bad, lesson, task, verdict, says):
    result = bad[0][lesson, task]
    assert result["verdict"] == verdict, result
    assert result["ok"] == (verdict == "passed")
    assert re.search(says, result["message"], re.DOTALL), result["message"]


def test_output_is_kept_but_not_all_of_it(bad):
    results = bad[0]
    assert results[5, 9]["output"] == "last words\n"
    assert 8_000 < len(results[5, 6]["output"]) < 30_000
    assert "bytes left out" in results[5, 6]["output"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_what_it_started_is_killed_too(bad):
    number = int((bad[1] / "pid.txt").read_text())
    try:
        state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return
    assert state in "ZX"


def test_screen(bad):
    _, _, out, _ = bad
    lines = out.splitlines()
    assert lines[0] == "lesson 05"
    assert "  task 1  passed" in lines
    assert "  task 3  not written    what is open" in lines
    assert lines[lines.index("  task 2  cannot load") + 1].strip() == "as above"
    assert "2 of 22 tasks passed: 1 wrong, 1 not written, 1 out of time, 1 crashed" in out
    assert lines[-1].startswith("Next: lesson 05, task 2, in exercises/lesson05_bad.py")


def test_a_thread_that_goes_on_holds_nobody_up(bad):
    folder = bad[1]
    lesson = next(x for x in tree.lessons(folder) if x.number == 6)
    plan = {"runs": [check.planned(lesson, 5, check.Settings(folder / "exercises"))]}
    ended = process.run(plan, process.Limits(60))
    assert (ended.status, ended.late) == (0, False)


def test_what_plays_tricks_on_a_screen_is_left_out(bad):
    assert (
        bad[0][6, 7]["message"]
        == 'ValueError: ?[2J?\nin lesson06_more.py, line 30: raise ValueError("\\x1b[2J\\ud800")'
    )


def test_json(bad):
    results, _, _, written = bad
    assert (written["passed"], written["total"], written["seed"], written["shapes"]) == (2, 22, 0, "")
    test = results[5, 2]["tests"][0]
    assert (test["test"], test["kind"], test["line"]) == ("test_task2", "wrong", None)
    assert test["seconds"] >= 0


def test_gradescope(bad):
    written = json.loads((bad[1] / "results.json").read_text())
    assert len(written["tests"]) == 22
    by_name = {test["name"]: test for test in written["tests"]}
    keys = {"name", "score", "max_score", "status", "output", "output_format", "visibility"}
    for test in written["tests"]:
        assert set(test) == keys
        assert (test["max_score"], test["visibility"]) == (1.0, "visible")
        assert test["score"] == (1.0 if test["status"] == "passed" else 0.0)
        assert test["status"] in ("passed", "failed")
    assert by_name["lesson 05, task 1"]["status"] == "passed"
    assert by_name["lesson 05, task 1"]["output"] == ""
    assert "expected another number" in by_name["lesson 05, task 2"]["output"]
    assert sum(test["score"] for test in written["tests"]) == 2


def test_the_environment_is_not_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_TEACHER", "42")
    code = "import os\nprint(os.environ)\ndef gradcheck(*a): raise SystemExit\n"
    write(tmp_path, {"mine.py": code})
    plan = {"checker": {"file": str(tmp_path / "mine.py"), "function": "gradcheck", "seeds": [0]}}
    ended = process.run(plan, process.Limits(60))
    assert "PATH" in ended.output
    assert "SECRET" not in ended.output
