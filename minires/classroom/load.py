"""The file that a student has written, found."""

from __future__ import annotations

import re
from pathlib import Path

from ..gradcheck.source import LoadError


def number_of(path: Path) -> int:
    """The lesson of an exercise or a grader, from the name of its file: ``lesson07_...py``, ``test_lesson07.py``.

    Raises:
        LoadError: the name has no number.
    """
    found = re.match(r"(?:test_)?lesson(\d\d)", path.name)
    if not found:
        raise LoadError(f"{path.name} must be called lessonNN_... or test_lessonNN.py, to say which lesson it is of.")
    return int(found[1])


def pick(folder: Path, lesson: int) -> Path:
    """The file of a lesson in a folder of exercises.

    Raises:
        LoadError: there is none, or more than one.
    """
    found = sorted(folder.glob(f"lesson{lesson:02d}*.py"))
    if not found:
        raise LoadError(f"there is no lesson{lesson:02d}_*.py in {folder}.")
    if len(found) > 1:
        raise LoadError(f"{folder} has {' and '.join(p.name for p in found)}: only one of them can be graded.")
    return found[0]
