"""What the backward pass does not listen to: it is run again with a part of dy set to zero."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .case import Case

_MOST = 32  # places along an axis


def deaf(case: Case) -> Iterator[str]:
    """A part of dy that makes no difference, although the output there depends on the input."""
    dy = case.upstream
    reached = case.reached(case.name)
    if reached is None:
        return
    for axis, length in enumerate(dy.shape):
        others = tuple(i for i in range(dy.ndim) if i != axis)
        depends = np.asarray(reached.any(others)).reshape(length)
        if not 1 < length <= _MOST or not depends.any():
            continue
        ignored = [i for i in range(length) if depends[i] and _is_ignored(case, axis, i)]
        if ignored and len(ignored) < depends.sum():
            at = ", ".join(map(str, ignored[:6])) + ("..." if len(ignored) > 6 else "")
            yield (
                f"dy at {at} along axis {axis} makes no difference to it, although {case.name} makes one to the output "
                "there: a sum stops too early, = stands for +=, or a part is left out"
            )
            return


def _is_ignored(case: Case, axis: int, place: int) -> bool:
    """Whether the gradient is the same without what arrives at one place of an axis."""
    dy = case.upstream.copy()
    dy[(slice(None),) * axis + (place,)] = 0
    found = case.again(case.name, "dy", dy)
    return found is not None and np.array_equal(found, case.a)
