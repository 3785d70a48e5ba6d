"""A student's folder: the lessons and the exercises, without the solutions."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from ..errors import ArgumentError
from .load import number_of
from .tree import TITLES, is_home, titles_in

_BEGIN = re.compile(r"([ \t]*)# BEGIN SOLUTION task ([1-9]): (\S.*?)\s*")
_END = re.compile(r"[ \t]*# END SOLUTION\s*")
_COPIED = ("*.py", "*.md", "pytest.ini", "tests/*.py")  # as they stand


class Released(NamedTuple):
    """What a release did: the files that it wrote, and those that were there already."""

    written: list[Path]
    kept: list[Path]


def strip(source: str, lesson: int, tasks: Collection[int] | None = None, name: str = "the exercise") -> str:
    """The source of an exercise without its solutions, or without those of some tasks.

    Everything from ``# BEGIN SOLUTION task 2: the title`` to ``# END SOLUTION`` becomes
    ``raise NotImplementedError("lesson 07, task 2: the title")``.

    Raises:
        ArgumentError: a BEGIN without an END or the other way round, or one that is written otherwise.
    """
    kept: list[str] = []
    began = None  # the line of a BEGIN that waits for its END
    hidden = False
    for number, line in enumerate(source.splitlines(), 1):
        if begin := _BEGIN.fullmatch(line):
            if began:
                raise ArgumentError(f"{name}, line {number}: BEGIN SOLUTION within that of line {began}.")
            began, (indent, task, title) = number, begin.groups()
            hidden = tasks is None or int(task) in tasks
            text = json.dumps(f"lesson {lesson:02d}, task {task}: {title}", ensure_ascii=False)
            kept.append(f"{indent}raise NotImplementedError({text})" if hidden else line)
        elif _END.fullmatch(line):
            if not began:
                raise ArgumentError(f"{name}, line {number}: END SOLUTION without a BEGIN.")
            if not hidden:
                kept.append(line)
            began, hidden = None, False
        elif "BEGIN SOLUTION" in line or "END SOLUTION" in line:
            raise ArgumentError(
                f'{name}, line {number}: write "# BEGIN SOLUTION task 2: its title" and "# END SOLUTION", each on a '
                f"line of its own, not {line.strip()!r}."
            )
        elif not hidden:
            kept.append(line)
    if began:
        raise ArgumentError(f"{name}, line {began}: BEGIN SOLUTION without an END.")
    return "\n".join(kept) + "\n"


def release(lessons: Path, to: Path) -> Released:
    """Make a student's folder of the lessons.

    What is there already is kept as it is: into a folder that was released before, only what it lacks is written.

    Raises:
        ArgumentError: the folder holds something else, or lies within the lessons, or these are without solutions.
    """
    lessons, to = lessons.resolve(), to.resolve()
    if to.exists() and not to.is_dir():
        raise ArgumentError(f"{to} is a file: name a folder that is new or empty.")
    if to == lessons or lessons in to.parents:
        raise ArgumentError(f"{to} lies within the lessons themselves: name a folder elsewhere.")
    if to.is_dir() and any(to.iterdir()) and not is_home(to):
        raise ArgumentError(f"{to} holds other things: name a folder that is new or empty, or one released before.")
    result = Released([], [])
    for path, text in _contents(lessons).items():
        target = to / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(target, "x", encoding="utf-8") as file:  # x: never over a student's work
                file.write(text)
            result.written.append(target)
        except FileExistsError:
            result.kept.append(target)
    return result


def _contents(lessons: Path) -> dict[Path, str]:
    """The text of every file of a released folder, by its place there."""
    exercises = sorted(lessons.glob("exercises/*.py"))
    contents, titles, solved = {}, {}, False
    for path in exercises:
        source = path.read_text(encoding="utf-8")
        stripped = strip(source, number_of(path), name=f"exercises/{path.name}")
        contents[path.relative_to(lessons)] = stripped
        titles[f"{number_of(path):02d}"] = titles_in(path)
        solved |= stripped != source
    if not solved:
        raise ArgumentError(f"{lessons} has no solutions: it is a released folder itself, and a student's work.")
    for pattern in _COPIED:
        for path in sorted(lessons.glob(pattern)):
            contents[path.relative_to(lessons)] = path.read_text(encoding="utf-8")
    contents[Path("tests", TITLES)] = json.dumps(titles, indent=1, ensure_ascii=False) + "\n"
    return contents
