"""What the README says is true: its programs run, and its two commands are the ones that are tested."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.host_only("the README's examples run as they stand")

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.split("\n\n")[-1].split("\n")[0][:40])
def test_the_programs_run(program, capsys):
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    assert ("FAIL" in capsys.readouterr().out) == ("gradcheck_fn" in program)  # which is there to show a mistake


@pytest.mark.parametrize("number", [0, 1])
def test_what_a_check_prints_is_what_is_shown(number, capsys):
    exec(compile(PROGRAMS[number], "README.md", "exec"), {"__name__": "readme"})
    shown = re.findall(r"```\n(gradcheck.*?)```", README, re.DOTALL)[number]

    def skeleton(text):  # the errors themselves differ in their last digits from one BLAS to another
        return re.sub(r"\d\.\de-\d\d", "E", text)

    assert skeleton(capsys.readouterr().out) == skeleton(shown)


def test_ci_runs_the_command_of_the_readme():
    lines = [line for line in README.splitlines() if "python -m pytest" in line]
    assert lines == ['python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest']
    assert "grep --max-count=1 'python -m pytest' README.md" in (ROOT / ".ci" / "run").read_text()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
