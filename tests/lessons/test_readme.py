"""What lessons/README.md says is true: its programs run, its commands do, and what it shows is what they print."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import minires

LESSONS = Path(minires.__file__).resolve().parents[1] / "lessons"
README = (LESSONS / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
# the exit status of those that do not end with 0: where something is not written yet
NOT_ALL_PASSED = ("check 01", "gradcheck exercises", "-m pytest", "check 09", "check --of")


@pytest.mark.parametrize("program", PROGRAMS, ids=["a check", "instruments"])
def test_the_programs_run(program, capsys):
    exec(compile(program, "lessons/README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out


def run(command, folder):
    """Run a command of the README with this Python in the place of the environment that it makes."""
    words = shlex.split(command)
    words = (
        [sys.executable, "-m", "minires", *words[1:]] if words[0].endswith("minires") else [sys.executable, *words[1:]]
    )
    path = os.pathsep.join(filter(None, [str(LESSONS.parent), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": ""}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_commands_run(tmp_path):
    install, *commands = COMMANDS
    assert install in (LESSONS.parent / "README.md").read_text(encoding="utf-8")
    assert len(commands) == 7
    folder = tmp_path
    for command in commands:
        if command.startswith(".venv"):
            folder = tmp_path
        for part in command.split(" && "):
            if part.startswith("cd "):
                folder = tmp_path / part[3:]
                continue
            done = run(part, folder)
            expected = any(words in part for words in NOT_ALL_PASSED)
            assert done.returncode == expected, f"{part}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "grades.json").exists()
    assert (tmp_path / "results.json").exists()


def test_what_a_check_shows(tmp_path):
    """The forgotten +1, as the README shows it."""
    assert run(".venv/bin/minires lessons release mine", tmp_path).returncode == 0
    solved = (LESSONS / "exercises" / "lesson09_residual.py").read_text(encoding="utf-8")
    wrong = solved.replace("dx = dz @ w1.T + dy\n", "dx = dz @ w1.T\n")
    assert wrong != solved
    (tmp_path / "mine" / "exercises" / "lesson09_residual.py").write_text(wrong, encoding="utf-8")
    printed = run("minires lessons check 09", tmp_path / "mine").stdout
    (shown,) = re.findall(r"```\n(lesson 09 .*?)```", README, re.DOTALL)

    def skeleton(text):  # the last digits of rounding differ from one BLAS to another
        return re.sub(r"\d\.\de-\d\d", "E", text)

    for line in filter(None, skeleton(shown).splitlines()):
        assert line in skeleton(printed), line


def test_the_map_has_every_lesson_and_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert {path.name for path in LESSONS.glob("*.py")} - {"conftest.py"} <= set(targets)
    for target in targets:
        if not target.startswith("figures/"):  # drawn by the lessons; those shown are kept in the repository
            assert (LESSONS / target).exists(), target
    shown = [target for target in targets if target.startswith("figures/")]
    assert [Path(target).name[:2] for target in shown] == [f"{number:02d}" for number in range(1, 11)]
    for target in shown:
        assert (LESSONS / target).exists(), f"{target}: run the lesson and keep its figure"
