"""Grading: each task in a process of its own, as many at once as there are cores."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ArgumentError
from ..gradcheck.source import LoadError
from .load import pick
from .process import Limits, kill_all, run
from .tree import Lesson
from .verdict import TaskResult, judge


class Settings(NamedTuple):
    """How to grade.

    Attributes:
        exercises: the folder of the student's files.
        seed: of numbers and sizes.
        shapes: sizes by name, as ``"N=4,C=6"``.
        limits: of each task.
        jobs: tasks at once; None for one on each core.
    """

    exercises: Path
    seed: int = 0
    shapes: str = ""
    limits: Limits = Limits()
    jobs: int | None = None


class Graded(NamedTuple):
    """A result, and the names of the sizes that its tests asked for."""

    result: TaskResult
    sizes: set[str]


def submission(folder: str | Path) -> Path:
    """The exercises of a submission: the folder itself, or ``exercises/`` in it.

    Raises:
        ArgumentError: it is no folder, or has no exercise.
    """
    path = Path(folder).resolve()
    for place in (path / "exercises", path):
        if any(place.glob("lesson[0-9][0-9]*.py")):
            return place
    raise ArgumentError(f"{folder} must be a folder with files called lessonNN_....py, or with exercises/ of them.")


def chosen(lessons: Sequence[Lesson], words: Sequence[str], task: int | None, exercises: Path) -> list[Lesson]:
    """The lessons that words such as "7", "07" and "lesson07" name; without words those that have an exercise.

    Raises:
        ArgumentError: there is none of such a name, none that has the task, or no exercise at all.
    """
    graded = {lesson.number: lesson for lesson in lessons if lesson.grader}
    if not graded:
        raise ArgumentError("there is no lesson with a grader here.")
    if words:
        picked = []
        for word in words:
            digits = word.lower().removeprefix("lesson").strip("_ ")
            if not digits.isdecimal() or int(digits) not in graded:
                known = ", ".join(f"{n:02d}" for n in graded)
                raise ArgumentError(f"there is no lesson {word!r} to check; there are {known}.")
            picked.append(graded[int(digits)])
        result = list(dict.fromkeys(lesson.number for lesson in picked))
    else:
        result = [n for n in graded if any(exercises.glob(f"lesson{n:02d}*.py"))]
    if not result:
        raise ArgumentError(f"there is no exercise called lessonNN_....py in {exercises}.")
    if task is not None:
        having = [n for n in result if task in graded[n].tasks]
        if not having:
            raise ArgumentError(f"no task {task} in lesson {', '.join(f'{n:02d}' for n in result)}.")
        result = having
    return [graded[n] for n in result]


def marks(lesson: Lesson, task: int | None) -> str:
    """The expression that picks the tests of a task, of what is given (0) or of the whole lesson (None)."""
    name = f"lesson{lesson.number:02d}"
    if task is None:
        return name
    if task == 0:
        others = " or ".join(f"task{t}" for t in lesson.tasks)
        return f"{name} and not ({others})" if others else name
    return f"{name} and task{task}"


def tasks_of(lesson: Lesson, task: int | None = None) -> list[int]:
    """The tasks to grade: the one, or all, led by 0 if there are tests of what is given."""
    return [task] if task is not None else [*([0] if lesson.given else []), *lesson.tasks]


def grade(lessons: Sequence[Lesson], settings: Settings, task: int | None = None) -> Iterator[Graded]:
    """The result of each task, in order, as soon as it and those before it are known.

    Raises:
        ArgumentError: pytest is not installed.
    """
    need_pytest()
    jobs = [(lesson, t) for lesson in lessons for t in tasks_of(lesson, task)]
    with ThreadPoolExecutor(settings.jobs or cores()) as pool:
        try:
            yield from pool.map(lambda job: grade_task(job[0], job[1], settings), jobs)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            kill_all()
            raise


def grade_task(lesson: Lesson, task: int, settings: Settings) -> Graded:
    """Grade a task in a process of its own."""
    result = TaskResult(lesson.number, task, lesson.tasks.get(task, "what is given"), "missing")
    try:
        file = pick(settings.exercises, lesson.number)
    except LoadError as error:
        result.message = str(error)
        return Graded(result, set())
    plan = {"runs": [planned(lesson, task, settings)]}
    ended = run(plan, settings.limits)
    sizes = {name for line in ended.lines if line.get("event") == "done" for name in line.get("sizes", ())}
    return Graded(judge(result, ended, settings.limits, file.name), sizes)


def planned(lesson: Lesson, task: int | None, settings: Settings, name: str = "") -> dict[str, Any]:
    """A run of a task, or of all tests of a lesson, for the child."""
    return {
        "name": name,
        "grader": str(lesson.grader),
        "exercises": str(settings.exercises),
        "marks": marks(lesson, task),
        "seed": settings.seed,
        "shapes": settings.shapes,
    }


def need_pytest() -> None:
    """Make sure that the graders can run.

    Raises:
        ArgumentError: pytest is not installed.
    """
    if importlib.util.find_spec("pytest") is None:
        raise ArgumentError("the exercises are checked with pytest, which is not installed: pip install pytest.")


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def solved(exercises: Path) -> bool:
    """Whether a folder of exercises still has its solutions."""
    paths = exercises.glob("lesson[0-9][0-9]*.py")
    return any("# BEGIN SOLUTION" in p.read_text(encoding="utf-8", errors="replace") for p in paths)
