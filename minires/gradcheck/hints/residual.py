"""The +1 of a residual connection, and other paths that were left out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .case import Case, same


def skip(case: Case) -> Iterator[str]:
    """dL/dx = dL/dH (dF/dx + 1), and what a ReLU after the addition does to it."""
    if case.a.shape != case.upstream.shape:
        return
    a, n, dy, y = case.measured(case.a, case.n, case.upstream, case.output)
    masked = dy * (y > 0)
    for through, what in ((dy, "dy"), (masked, "dy (y > 0), where the ReLU after the addition lets it through")):
        if not through.any() or (through is masked and same(masked, dy)):
            continue
        if same(n - a, through):
            yield f"the +1 is missing: dL/dx = dL/dH (dF/dx + 1), so add {what}, which comes through the skip"
        elif same(a - n, through):
            yield f"the skip is counted twice: {what} was added once too often"
        elif same(a, through):
            yield f"this is {what} itself: the derivative of the operation, or of the branch, is missing"
    if not same(a, dy) and same(a - n, dy - masked):
        yield "the ReLU after the addition masks the skip as well: multiply dy by (y > 0) before it is sent both ways"


def masked(case: Case) -> Iterator[str]:
    """The mask of a ReLU at the end, forgotten: right, once dy is masked by the output."""
    if _is_masked(case):
        yield "it is right with dy (y > 0) in the place of dy, y being the output: the mask of the ReLU is missing"


def _is_masked(case: Case) -> bool:
    dy = case.upstream * (case.output > 0)
    if same(dy, case.upstream):
        return False
    found = case.again(case.name, "dy", dy)
    return found is not None and same(found, case.n)


def path(case: Case) -> Iterator[str]:
    """A path through a matrix, such as a projection shortcut W_s x, whose gradient was not added, or added twice."""
    missing, dy = case.n - case.a, case.upstream
    if _is_masked(case):
        return
    for other, w in case.inputs.items():
        if other == case.name or w.ndim < 2 or dy.ndim != missing.ndim or set(w.shape[:-2]) - {1}:
            continue
        matrix = w.reshape(w.shape[-2:])
        if (missing.shape[-1], dy.shape[-1]) != matrix.shape:
            continue
        through = _spread(dy @ matrix.T, missing.shape)
        if through is None or not through.any():
            continue
        if same(missing, through):
            yield f"what comes back through {other} is missing: add dy @ {other}.T"
        elif same(-missing, through):
            yield f"what comes back through {other} is counted twice"
        elif same(case.a, through) and not same(case.n, through):
            yield f"it is only what comes back through {other}: add the gradient of the other path"


def _spread(small: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array on every stride-th pixel of zeros of a larger shape, or None if no stride fits."""
    if small.shape == shape:
        return small
    for stride in (2, 3, 4):
        pixels = (slice(None), *(slice(None, None, stride),) * (len(shape) - 2))
        large = np.zeros(shape)
        if large[pixels].shape == small.shape:
            large[pixels] = small
            return large
    return None
