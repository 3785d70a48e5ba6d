"""Grading many variants of an exercise in one process."""

from pathlib import Path
from typing import NamedTuple

from minires.classroom import check, process, tree
from minires.classroom.verdict import early_end

FOLDER = Path(__file__).resolve().parents[2] / "lessons"
LIMITS = process.Limits(seconds=20, megabytes=2048)


class Variant(NamedTuple):
    """A source of the exercise of a lesson, and how to grade it."""

    name: str
    source: str
    task: int | None = None
    seed: int = 0
    shapes: str = ""


class Outcome(NamedTuple):
    """The tests of a variant: name -> (tasks, kind, message); and the sizes that they asked for."""

    tests: dict
    sizes: dict
    died: str = ""

    def failed(self):
        """The tests that did not pass."""
        return {name for name, (_, kind, _) in self.tests.items() if kind != "passed"}

    def said(self):
        """All messages."""
        return "\n".join([*(message for _, _, message in self.tests.values()), self.died])


def lessons():
    """The lessons that have an exercise and a grader."""
    return [lesson for lesson in tree.lessons(FOLDER) if lesson.exercise and lesson.grader]


def grade(lesson, variants, folder):
    """The outcome of each variant by its name."""
    runs = []
    for number, variant in enumerate(variants):
        place = folder / f"{number:02d}"
        place.mkdir()
        (place / lesson.exercise.name).write_text(variant.source, encoding="utf-8")
        settings = check.Settings(place, variant.seed, variant.shapes)
        runs.append(check.planned(lesson, variant.task, settings, variant.name))
    outcomes = {}
    while runs:
        ended = process.run({"runs": runs}, LIMITS)
        for run in runs:
            outcomes[run["name"]] = _outcome(ended, run["name"])
        if any(line["event"] == "end" for line in ended.lines):
            break
        # one that ended the process: the others are still to be graded
        last = [line["run"] for line in ended.lines if line["event"] == "collected"][-1]
        assert outcomes[last] is not None, ended.output
        outcomes[last] = outcomes[last]._replace(died=early_end(ended, LIMITS, lesson.exercise.name)[1])
        runs = runs[[run["name"] for run in runs].index(last) + 1 :]
    return outcomes


def _outcome(ended, name):
    lines = [line for line in ended.lines if line.get("run") == name]
    tests, sizes = {}, {}
    for line in lines:
        assert line["event"] != "broken", line["message"]
        if line["event"] == "collected":
            tests = {test["test"]: (test["tasks"], "no result", "") for test in line["tests"]}
        if line["event"] == "test" and tests[line["test"]][1] in ("no result", "passed"):
            tests[line["test"]] = (line["tasks"], line["kind"], line["message"])
        if line["event"] == "done":
            sizes = line["sizes"]
    return Outcome(tests, sizes)
