"""The reference's step; large parameters in chunks that stay in the cache, and shared among the threads."""

from __future__ import annotations

from ...backend import in_pieces
from ..reference.descent import sgd as step

_CHUNK = 1 << 17  # numbers: with fewer in each call of NumPy two threads are no faster than one
_LEAST = 1 << 18  # numbers that are worth a thread


def sgd(value, grad, velocity, lr, momentum, weight_decay, nesterov):
    """In place, velocity <- momentum velocity + g, value <- value - lr velocity, where g = grad + weight_decay value.

    Without a velocity (None) the step is along g, with ``nesterov`` along g + momentum velocity.
    """
    arrays = [a for a in (value, grad, velocity) if a is not None]
    settings = lr, momentum, weight_decay, nesterov
    if value.size <= _CHUNK or not all(a.flags.c_contiguous for a in arrays):
        step(value, grad, velocity, *settings)
        return
    flat = [a.reshape(-1) for a in arrays]

    def work(part: range) -> None:
        for start in range(part.start, part.stop, _CHUNK):
            values, grads, *velocities = (a[start : min(start + _CHUNK, part.stop)] for a in flat)
            step(values, grads, velocities[0] if velocities else None, *settings)

    in_pieces(work, value.size, _LEAST)
