"""A difference, or a quotient, that is a simple function of the input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .case import NEAR, Case, same


def of_the_input(case: Case) -> Iterator[str]:
    """What is missing is a multiple of the input: the derivative of its norm, or of a penalty."""
    missing, x = case.n - case.a, case.x
    whole = float((missing * x).sum() / max((x * x).sum(), 1e-300))
    if x.size > 2 and same(whole * x, missing):
        yield (
            f"what is missing is a multiple of {case.name} itself: the derivative of its square (a penalty, weight "
            "decay), or of its norm, is absent or has another factor"
        )
    elif x.ndim > 1 and x.shape[-1] > 2:
        squares = (x * x).sum(-1, keepdims=True)
        each = (missing * x).sum(-1, keepdims=True) / np.where(squares == 0, 1, squares)
        if same(each * x, missing):
            yield (
                f"what is missing is, in each row, a multiple of {case.name} itself: the derivative of its norm, or of "
                "what it is divided by"
            )


def constant(case: Case) -> Iterator[str]:
    """What is missing is one number."""
    missing = case.n - case.a
    if missing.size > 2 and same(np.full_like(missing, missing.mean()), missing):
        yield "what is missing is the same everywhere: a constant term, such as the 1 in the derivative of x log x"


def quotient(case: Case) -> Iterator[str]:
    """A function of one number each that stands there once too often, or not at all."""
    x, y = case.x, case.output
    with np.errstate(all="ignore"):
        known = {case.name: x, f"exp({case.name})": np.exp(x), f"(1 + exp({case.name}))": 1 + np.exp(x)}
        logistic = 1 / (1 + np.exp(-x))
        known |= {"s (1 - s), s being the logistic sigmoid,": logistic * (1 - logistic)}
        if y.shape == x.shape:
            known |= {"y, the output,": y, "(1 - y), y being the output,": 1 - y}
        known |= {other: v for other, v in case.inputs.items() if other != case.name and v.shape == x.shape}
        for what, values in known.items():
            if not np.isfinite(values).all() or np.ptp(values) < NEAR:
                continue
            if same(case.a, case.n * values):
                yield f"it has the factor {what} once too often"
                return
            if same(case.a * values, case.n):
                yield f"the factor {what} is missing"
                return
