"""A fixture for pytest, there wherever minires is installed: ``def test_mine(gradcheck): gradcheck(f, inputs)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from .check import gradcheck as check
from .pair import gradcheck_fn
from .report import Report


@pytest.fixture(name="gradcheck")
def _gradcheck() -> Callable[..., Report]:
    """Check gradients, and fail the test with the report if one is wrong.

    ``gradcheck(fn, inputs)`` is `minires.gradcheck`, ``gradcheck(forward, backward, inputs)`` `minires.gradcheck_fn`,
    each with its options; returns the report.
    """

    def assert_ok(fn: Callable[..., Any], *others: Any, **options: Any) -> Report:
        __tracebackhide__ = True  # the report says it all
        if others and callable(others[0]) and not isinstance(others[0], Mapping):
            return gradcheck_fn(fn, *others, **options).assert_ok()
        return check(fn, *others, **options).assert_ok()

    return assert_ok
