"""What the device is asked to do: counted, computed with NumPy, and recorded while a graph is being captured.

Real work happens in two functions only: `compute` makes a new array, `change` writes into an old one.  Both are given
it as a function without arguments over plain NumPy views of device memory; a graph runs the same functions again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from . import memory


@dataclass
class Counter:
    """What happened inside a ``with counter()``, by kind; ``names`` lists the launches in order."""

    launches: int = 0
    synchronisations: int = 0
    copies_to_host: int = 0
    copies_to_device: int = 0
    names: list[str] = field(default_factory=list)


_counters: list[Counter] = []


@contextlib.contextmanager
def counter() -> Iterator[Counter]:
    """Count launches, synchronisations and copies until the end of the block."""
    counts = Counter()
    _counters.append(counts)
    try:
        yield counts
    finally:
        del _counters[next(i for i, c in enumerate(_counters) if c is counts)]


def count(kind: str, name: str = "") -> None:
    """One more of a kind, for everybody who counts."""
    for counts in _counters:
        setattr(counts, kind, getattr(counts, kind) + 1)
        if kind == "launches":
            counts.names.append(name)


if np.lib.NumpyVersion(np.__version__) < "2.0.0":

    def quietly(function: Callable[[], np.ndarray]) -> np.ndarray:
        """The result under the promotion rules of NumPy 2, which are CuPy's; a GPU does not warn of overflow either."""
        before = np._get_promotion_state()
        np._set_promotion_state("weak")
        try:
            with np.errstate(all="ignore"):
                return function()
        finally:
            np._set_promotion_state(before)

else:

    def quietly(function: Callable[[], np.ndarray]) -> np.ndarray:
        """The result; a GPU does not warn of overflow."""
        with np.errstate(all="ignore"):
            return function()


def compute(name: str, function: Callable[[], np.ndarray], *reads: memory.Memory) -> tuple[np.ndarray, memory.Memory]:
    """One launch whose result is new, C-contiguous memory: what ``function()`` returns."""
    count("launches", name)
    values = quietly(function)
    if type(values) is not np.ndarray or values.base is not None or not values.flags.c_contiguous:
        values = np.array(values, order="C")  # a scalar, a view, or laid out like its inputs
    array, owner = memory.adopt(values)
    capture = memory.capturing()
    if capture is not None:

        def again() -> None:
            array[...] = function()

        capture.record(again, (owner, *reads))
    return array, owner


def change(name: str, function: Callable[[], object], written: memory.Memory, *reads: memory.Memory) -> None:
    """One launch that changes memory in place."""
    count("launches", name)
    capture = memory.capturing()
    if capture is not None:
        capture.before_writing(written)
        capture.record(function, (written, *reads))
    quietly(function)
