"""The +1 of a residual connection, and other paths that were left out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .case import NEAR, Case, same


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
        elif same(a, through) and not same(np.sort(n), np.sort(through)):  # else it is in the wrong places
            if through is dy:
                yield "this is dy itself: the derivative of the operation, or of the branch, is missing"
            elif not same(a[n != 0], n[n != 0]):
                yield "this is dy (y > 0), the mask of a ReLU alone: the derivative of what comes before it is missing"
    if not same(a, dy) and same(a - n, dy - masked):
        yield "the ReLU after the addition masks the skip as well: multiply dy by (y > 0) before it is sent both ways"


def branch(case: Case) -> Iterator[str]:
    """The skip is right, and the branch is not: off by a factor, or without a factor that is an input."""
    if case.a.shape != case.upstream.shape or case.a.size < 3:
        return
    dy = case.upstream
    through = dy * (case.output > 0)
    for skip in (dy, *(() if same(through, dy) else (through,))):
        if (case.n[skip != 0] == 0).any():
            continue  # no skip, but a mask
        a, n = case.a - skip, case.n - skip
        c = float((a * n).sum() / max((n * n).sum(), 1e-300))
        if same(a, c * n) and abs(c) > NEAR and abs(c - 1) > NEAR:
            yield f"what comes through the skip is right, but the branch gives {c:.4g} times what it must"
    for other, factor in case.inputs.items():
        if other != case.name and factor.shape == dy.shape[-1:] and not same(dy * factor, dy):
            found = case.again(case.name, "dy", dy * factor)
            if found is not None and same(found - dy * factor + dy, case.n):
                yield f"what comes through the skip is right, but in the branch the factor {other} is missing"


def partly_masked(case: Case) -> Iterator[str]:
    """At some places dy comes through the skip, where it should nowhere or everywhere."""
    if case.a.shape != case.upstream.shape:
        return
    dy, missing = case.upstream, case.n - case.a
    small = 1e-7 * np.abs(dy).max()
    right = np.abs(missing) < small
    alone = np.abs(case.a) < small  # nothing comes through a branch: then it is a mask of something else
    if ((np.abs(missing - dy) < small) | right).all() and not alone[~right].any():
        yield "the skip is masked: at some places dy does not come through it, and must at all of them"


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
        relu = _spread((dy * (case.output > 0)) @ matrix.T, missing.shape)
        if same(missing, through):
            yield f"what comes back through {other} is missing: add dy @ {other}.T"
        elif relu is not None and same(missing, relu):
            yield f"what comes back through {other} is missing: add dz @ {other}.T, dz being dy after the ReLU's mask"
        elif dy.shape == missing.shape and same(missing, through - dy):
            yield f"dy itself is added where it should come through {other}: dy @ {other}.T"
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
