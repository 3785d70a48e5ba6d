"""Every grader refuses the skeleton and whatever mistakes/ lists, and accepts the solution, with other sizes too."""

import importlib
import importlib.util
import re

import pytest

from minires.classroom import process, report
from minires.classroom.load import pick
from minires.classroom.release import strip
from minires.classroom.trial import try_checker
from tests.lessons.variants import FOLDER, Variant, grade, lessons

LESSONS = pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: f"lesson{lesson.number:02d}")


def without(lesson, tasks=None):
    """The source of the exercise, some of its tasks unwritten."""
    return strip(lesson.exercise.read_text(encoding="utf-8"), lesson.number, tasks)


@LESSONS
def test_skeleton_and_solution(lesson, tmp_path):
    solution = lesson.exercise.read_text(encoding="utf-8")
    variants = [
        Variant("skeleton", without(lesson)),
        Variant("solution", solution),
        *(Variant(f"solution, seed {seed}", solution, seed=seed) for seed in (1, 2)),
        *(Variant(f"without task {task}", without(lesson, {task})) for task in lesson.tasks),
    ]
    (tmp_path / "first").mkdir()
    outcomes = grade(lesson, variants, tmp_path / "first")

    skeleton = outcomes["skeleton"]
    assert lesson.tasks
    assert sorted(lesson.tasks) == list(range(1, len(lesson.tasks) + 1))
    assert all(lesson.tasks.values()), "a task has tests, but no solution that names it"
    for name, (tasks, kind, message) in skeleton.tests.items():
        assert len(tasks) <= 1, f"{name} belongs to several tasks"
        expected = f"lesson {lesson.number:02d}, task {tasks[0]}: " if tasks else ""
        assert kind == ("unwritten" if tasks else "passed"), f"skeleton, {name}: {kind}, {message}"
        assert message.startswith(expected), f"skeleton, {name}: {message}"

    for name, outcome in outcomes.items():
        if name.startswith("solution"):
            assert outcome.failed() == set(), f"{name}: {outcome.said()}"
            assert outcome.tests, name

    for task in lesson.tasks:
        outcome = outcomes[f"without task {task}"]
        of_task = {name for name, (tasks, _, _) in outcome.tests.items() if task in tasks}
        assert outcome.failed() == of_task, f"without task {task}: {outcome.said()}"

    if least := outcomes["solution"].sizes:  # what a teacher may ask for
        shapes = ",".join(f"{name}={size + 1 + i}" for i, (name, size) in enumerate(least.items()))
        (tmp_path / "second").mkdir()
        outcome = grade(lesson, [Variant("shapes", solution, seed=4, shapes=shapes)], tmp_path / "second")["shapes"]
        assert outcome.failed() == set(), f"--shapes {shapes}: {outcome.said()}"


def test_the_checker_of_lesson_3_catches_every_mistake():
    trial = try_checker(pick(FOLDER / "exercises", 3), "gradcheck", [0, 1], process.Limits(120))
    assert trial.ok, report.trial_text(trial)


@LESSONS
def test_mistakes(lesson, tmp_path):
    module = f"tests.lessons.mistakes.lesson{lesson.number:02d}"
    assert importlib.util.find_spec(module), f"there is no {module} with what the grader must refuse"
    mistakes = importlib.import_module(module).MISTAKES
    assert {mistake.task for mistake in mistakes} == set(lesson.tasks)
    names = [f"task {mistake.task}, {mistake.name}" for mistake in mistakes]
    assert len(set(names)) == len(names)
    solution = lesson.exercise.read_text(encoding="utf-8")
    for name, mistake in zip(names, mistakes, strict=True):
        assert solution.count(mistake.old) == 1, f"{name}: occurs {solution.count(mistake.old)} times"
    variants = [
        Variant(name, solution.replace(m.old, m.new), task=m.task) for name, m in zip(names, mistakes, strict=True)
    ]
    outcomes = grade(lesson, variants, tmp_path)
    problems = []
    for name, mistake in zip(names, mistakes, strict=True):
        outcome = outcomes[name]
        if not outcome.failed():
            problems.append(f"{name}: passes")
        elif any(kind == "unreadable" for _, kind, _ in outcome.tests.values()):
            problems.append(f"{name}: {outcome.said()}")
        elif not re.search(mistake.says, outcome.said()):
            problems.append(f"{name}: not {mistake.says!r}, but\n{outcome.said()}")
    assert not problems, "\n\n".join(problems)
