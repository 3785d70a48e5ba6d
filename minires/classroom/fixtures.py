"""What the graders are given: markers for lessons and tasks, the student's module, numbers and sizes.

``lessons/conftest.py`` brings all of it in.  With it ``pytest -m "lesson07 and task2"`` runs one task, and

    --exercises DIR      grades the files of another folder than ``exercises/`` beside ``tests/``,
    --seed 5             draws other numbers, and other sizes too,
    --shapes N=7,C=9     says the sizes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ..errors import ArgumentError
from ..gradcheck import Report, gradcheck_fn
from ..gradcheck import gradcheck as gradcheck_tensors
from ..gradcheck.source import load
from .load import number_of, pick
from .sizes import draw, parse

__all__ = ["gradcheck", "mine", "pytest_addoption", "pytest_configure", "rng", "seed", "sizes"]

# the sizes that tests have asked for, each with the least that all of them can take
asked: dict[str, int] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Enter the options of a grader."""
    group = parser.getgroup("minires lessons")
    group.addoption("--exercises", metavar="DIR", help="the folder of exercises to grade (exercises/ beside tests/)")
    group.addoption("--seed", type=int, default=0, help="of numbers; with another than 0 sizes are drawn too (0)")
    group.addoption("--shapes", type=_shapes, default={}, metavar="N=7,C=9", help="sizes by name")


def pytest_configure(config: pytest.Config) -> None:
    """Enter the markers of lessons and tasks."""
    if config.getoption("--seed") < 0:
        raise pytest.UsageError(f"--seed must be at least 0, got {config.getoption('--seed')}.")
    for number in range(1, 21):
        config.addinivalue_line("markers", f"lesson{number:02d}: a grader of lesson {number:02d}")
    for number in range(1, 10):
        config.addinivalue_line("markers", f"task{number}: a test of task {number} of its lesson")


def _shapes(text: str) -> dict[str, int]:
    try:
        return parse(text)
    except ArgumentError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The number given with --seed."""
    return int(request.config.getoption("--seed"))


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """Random numbers, the same in every test that has the same seed."""
    return np.random.default_rng(seed)


@pytest.fixture
def sizes(request: pytest.FixtureRequest, seed: int) -> Callable[..., tuple[int, ...]]:
    """``n, c = sizes(N=4, C=5)``: as written with seed 0, else drawn; --shapes overrides.

    What is written is the least that the test can take.
    """
    shapes = request.config.getoption("--shapes")

    def choose(**least: int) -> tuple[int, ...]:
        for name, size in least.items():
            asked[name] = max(size, asked.get(name, 1))
        return draw(least, seed, shapes)

    return choose


@pytest.fixture
def mine(request: pytest.FixtureRequest) -> ModuleType:
    """The student's module of the test's lesson, loaded afresh."""
    lesson = _lesson(request)
    given = request.config.getoption("--exercises")
    base = request.config.invocation_params.dir
    folder = base / given if given else request.path.parent.parent / "exercises"
    path = pick(folder, lesson)
    return load(path)


def _lesson(request: pytest.FixtureRequest) -> int:
    for mark in request.node.iter_markers():
        if found := re.fullmatch(r"lesson(\d\d)", mark.name):
            return int(found[1])
    return number_of(Path(request.path))


@pytest.fixture
def gradcheck(seed: int) -> Callable[..., Report]:
    """Check gradients with the seed of --seed, and fail with the diagnosing report if one is wrong.

    ``gradcheck(forward, backward, inputs)`` is `minires.gradcheck_fn`, ``gradcheck(fn, inputs)`` `minires.gradcheck`.
    """

    def check(fn: Callable[..., Any], *others: Any, **options: Any) -> Report:
        __tracebackhide__ = True  # the report says it all
        options = {"seed": seed, **options}
        if others and callable(others[0]) and not isinstance(others[0], Mapping):
            return gradcheck_fn(fn, *others, **options).assert_ok()
        return gradcheck_tensors(fn, *others, **options).assert_ok()

    return check
