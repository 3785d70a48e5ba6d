"""Where the lessons are, and what is among them."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import NamedTuple

from ..errors import ArgumentError

TITLES = "tasks.json"  # in tests/ of a released folder: what its tasks are called


class Lesson(NamedTuple):
    """A lesson as its files have it.

    Attributes:
        number: from 1 on.
        title: the first heading of its script.
        script: ``07_batch_norm.py``, if there is one.
        exercise: ``exercises/lesson07_batch_norm.py``, if there is one.
        grader: ``tests/test_lesson07.py``, if there is one.
        tasks: their titles by number, as the grader has them.
        given: whether the grader has tests of what is given, which belong to no task.
    """

    number: int
    title: str
    script: Path | None
    exercise: Path | None
    grader: Path | None
    tasks: dict[int, str]
    given: bool


def is_home(folder: Path) -> bool:
    """Whether a folder holds lessons: it has ``exercises/`` and graders in ``tests/``."""
    return (folder / "exercises").is_dir() and any((folder / "tests").glob("test_lesson*.py"))


def home() -> Path | None:
    """The lessons: the working folder or one above it, else ``lessons/`` beside the package; None without either."""
    here = Path.cwd()
    clone = Path(__file__).resolve().parents[2] / "lessons"
    return next((folder for folder in (here, *here.parents, clone) if is_home(folder)), None)


def find_home(given: str | Path | None = None) -> Path:
    """The lessons that are meant: ``given``, or those of `home`.

    Raises:
        ArgumentError: there are none.
    """
    if given is not None:
        folder = Path(given).resolve()
        if not is_home(folder):
            raise ArgumentError(f"{given} holds no lessons: it needs exercises/ and tests/test_lessonNN.py.")
        return folder
    folder_found = home()
    if folder_found is None:
        raise ArgumentError(
            "no lessons here: work in a folder made by minires lessons release, name one with --from DIR, or install "
            "minires from a clone of its repository, which has lessons/."
        )
    return folder_found


def lessons(folder: Path) -> list[Lesson]:
    """The lessons of a folder, by number.

    Raises:
        ArgumentError: a grader is no Python.
    """
    scripts = {int(p.name[:2]): p for p in sorted(folder.glob("[0-9][0-9]_*.py"))}
    exercises = _by_number(folder.glob("exercises/lesson[0-9][0-9]*.py"))
    graders = _by_number(folder.glob("tests/test_lesson[0-9][0-9].py"))
    told = _told(folder)
    found = []
    for number in sorted(scripts.keys() | graders.keys()):
        script, exercise, grader = scripts.get(number), exercises.get(number), graders.get(number)
        numbers, given = marked(grader) if grader else ([], False)
        titles = (titles_in(exercise) if exercise else {}) | told.get(number, {})
        tasks = {task: titles.get(task, "") for task in numbers}
        found.append(Lesson(number, _title(script, exercise, number), script, exercise, grader, tasks, given))
    return found


def _by_number(paths) -> dict[int, Path]:
    return {int(re.findall(r"lesson(\d\d)", p.name)[0]): p for p in sorted(paths, reverse=True)}


def _told(folder: Path) -> dict[int, dict[int, str]]:
    """What the tasks are called, as the release wrote it down; nothing if that is damaged."""
    try:
        told = json.loads((folder / "tests" / TITLES).read_text(encoding="utf-8"))
        return {int(n): {int(t): str(title) for t, title in tasks.items()} for n, tasks in told.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def titles_in(exercise: Path) -> dict[int, str]:
    """What the tasks of an exercise are called: by the comments of its solutions, or by what still stands for them."""
    text = exercise.read_text(encoding="utf-8", errors="replace")
    found = re.findall(r"# BEGIN SOLUTION task (\d+): (.+)", text)
    found += re.findall(r"""NotImplementedError\(["']lesson \d+, task (\d+): (.+)["']\)""", text)
    titles: dict[int, str] = {}
    for task, title in found:
        titles.setdefault(int(task), title.strip())  # of several parts, the first names it
    return dict(sorted(titles.items()))


def marked(grader: Path) -> tuple[list[int], bool]:
    """The tasks that have tests in a grader, and whether some test belongs to none.

    Raises:
        ArgumentError: it is no Python.
    """
    try:
        body = ast.parse(grader.read_text(encoding="utf-8"), str(grader)).body
    except SyntaxError as error:
        raise ArgumentError(f"{grader}, line {error.lineno}: {error.msg}. It is a grader: release it again.") from None
    tasks: set[int] = set()
    given = False
    for scope in [*(n for n in body if isinstance(n, ast.ClassDef)), None]:
        around = _tasks(scope) if scope else set()
        for node in scope.body if scope else body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                own = around | _tasks(node)
                tasks |= own
                given |= not own
    return sorted(tasks), given


def _tasks(node: ast.FunctionDef | ast.ClassDef) -> set[int]:
    text = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
    return {int(task) for task in re.findall(r"mark\.task(\d+)", text)}


def _title(script: Path | None, exercise: Path | None, number: int) -> str:
    """The first heading of a lesson, else the first line of its exercise, without "Lesson 07:"."""
    title = ""
    if script:
        heading = re.search(r"^# #+ (.+)$", script.read_text(encoding="utf-8"), re.MULTILINE)
        title = heading[1] if heading else script.stem[3:].replace("_", " ")
    elif exercise:
        first = re.search(r'"""(.+?)[.\n"]', exercise.read_text(encoding="utf-8", errors="replace"))
        title = first[1] if first else ""
    return re.sub(rf"^(lesson\s*)?0*{number}\b\s*[:.,-]?\s*", "", title.strip(), flags=re.IGNORECASE)
