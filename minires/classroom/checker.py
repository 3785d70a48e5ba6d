"""A student's gradient checker on trial: which of the catalogue's mistakes it catches, and what it refuses wrongly.

A checker is a function ``gradcheck(forward, backward, inputs, seed)`` that says whether ``backward(dy, **inputs)``,
which returns a dict, holds the derivatives of ``forward(**inputs)``: True or False.  `minires.gradcheck_fn` is one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..gradcheck import Report
from ..gradcheck.source import load
from ..mutants import CATALOGUE, OPERATIONS, point
from .explain import explain
from .limits import Writer

Checker = Callable[..., Any]

_FAR = 1_000_003  # between the seeds of the inputs and those that the checker is given


def examine(file: str, function: str, seeds: list[int], write: Writer) -> None:
    """Try the checker in a file on every right and every wrong backward pass with every seed, and write what it says.

    A line for each: ``seed`` is the first at which the answer was not the right one, and ``message`` what came instead.
    """
    try:
        checker = getattr(load(Path(file)), function, None)
    except BaseException as error:  # the student's code may raise anything
        kind, message, _ = explain(error, Path(file).name)
        write(event="unusable", kind=kind, message=message)
        return
    if not callable(checker):
        message = f"{Path(file).name} has no function {function}(forward, backward, inputs, seed)."
        write(event="unusable", kind="unreadable", message=message)
        return
    for name, operation in OPERATIONS.items():
        mistakes = [(m.mistake, m.backward) for m in CATALOGUE if m.operation == name]
        for mistake, backward in [(None, operation.backward), *mistakes]:
            write(event="start", operation=name, mistake=mistake)
            seed, kind, message = _first_wrong(checker, name, backward, mistake is None, seeds, Path(file).name)
            write(event="tried", operation=name, mistake=mistake, seed=seed, kind=kind, message=message)
            if kind == "unwritten":
                return


def _first_wrong(
    checker: Checker, operation: str, backward: Callable[..., Any], right: bool, seeds: list[int], file: str
) -> tuple[int | None, str, str]:
    """The first seed at which the checker does not say what is true, and what it does instead."""
    for seed in seeds:
        try:
            answer = _ask(checker, operation, backward, seed)
        except BaseException as error:  # as above
            kind, message, _ = explain(error, file)
            return seed, kind, message
        if not isinstance(answer, bool | np.bool_ | Report):
            return seed, "no answer", f"it returned {type(answer).__name__}, not True or False"
        if bool(answer) != right:
            return seed, "wrong", "it said False" if right else "it said True"
    return None, "passed", ""


def _ask(checker: Checker, operation: str, backward: Callable[..., Any], seed: int) -> Any:
    forward = OPERATIONS[operation].forward

    def by_name(dy: np.ndarray, **inputs: np.ndarray) -> dict[str, Any]:
        grads = backward(dy, *inputs.values())
        return dict(zip(inputs, grads if isinstance(grads, tuple) else (grads,), strict=True))

    # the checker will draw its upstream gradient from default_rng(seed): the inputs must come from elsewhere, or both
    # may be the same numbers, with which a right batch norm has no gradient and a mask from dy is a right one
    inputs = point(operation, _FAR + seed)
    return checker(lambda **inputs: forward(*inputs.values()), by_name, inputs, seed)
