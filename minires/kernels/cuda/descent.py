"""Gradient descent on any number of parameters in one launch."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ...backend import cupy, device_of
from ...backend.graphs import after_capture, capturing
from .module import NULL, kernel

_PATIENCE = 2000  # steps without an overflow, after which a loss may be scaled twice as far
_CHUNK = 1024  # numbers of a parameter that one block works on


class _Table:
    """Room on the device for where parameters, gradients and velocities lie, and which block works on what."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes: list[int] = sizes
        self.places: list[tuple[int, ...]] = []
        self._chunks = [(i, c) for i, size in enumerate(sizes) for c in range(-(-size // _CHUNK))]
        self.arrays = cupy().empty((len(sizes), 4), np.int64), cupy().empty((len(self._chunks), 2), np.int32)
        self.blocks = (len(self._chunks),)

    def fill(self, places: list[tuple[int, ...]]) -> _Table:
        """Upload them, once that is possible."""
        self.places = places
        for array, values in zip(self.arrays, (places, self._chunks), strict=True):
            after_capture(functools.partial(array.set, np.array(values, array.dtype)))
        return self


class Descent:
    """`sgd` for many parameters at once; for one group of an optimiser.

    The kernel finds its arrays through a table on the device, which is filled anew when one of them has moved.  A graph
    that is being recorded gets a table of its own, filled when the recording is over: its launch reads it whenever the
    graph runs, and by then other steps may have used other memory.  That table was made beforehand, for what is made
    during the recording may lie where another part of the graph writes.
    """

    def __init__(self) -> None:
        self._table: _Table | None = None
        self._spare: _Table | None = None  # for the next graph
        self._recorded: list[_Table] = []
        self._settings: tuple[float, ...] = ()
        self._on_device: Any = None

    @staticmethod
    def applies(arrays: list[Any]) -> bool:
        """Whether the kernel takes these values, gradients and velocities: all on the GPU, float32 and contiguous."""
        return all(
            a is None or (device_of(a) == "cuda" and a.dtype == np.float32 and a.flags.c_contiguous) for a in arrays
        )

    @property
    def used(self) -> bool:
        """Whether it has settings on the device that could be out of date."""
        return self._on_device is not None

    def set(self, *settings: float) -> None:
        """Learning rate, momentum, weight decay, Nesterov: from the next step on, also of a recorded graph."""
        if settings != self._settings:
            self._settings = settings
            if self._on_device is None:
                self._on_device = cupy().empty(4, np.float32)
            values = np.array(settings, np.float32)
            after_capture(lambda: self._on_device.set(values))

    def step(self, values: list[Any], grads: list[Any], velocities: list[Any], scaling: Any = None) -> None:
        """One step for all, in place; a velocity may be None.

        ``scaling`` is the state of a scaled loss: `scaling_of`.  The gradients are divided by its factor, and the step
        is skipped if one of them is not finite.
        """
        places: list[tuple[int, ...]] = [
            (v.data.ptr, g.data.ptr, 0 if m is None else m.data.ptr, v.size)
            for v, g, m in zip(values, grads, velocities, strict=True)
        ]
        table = self._table_for(places)
        blocks, tables = table.blocks, table.arrays
        if scaling is not None:
            kernel("find_overflow")(blocks, (256,), (*tables, scaling))
        kernel("descend")(blocks, (256,), (*tables, self._on_device, NULL if scaling is None else scaling))
        if scaling is not None:
            kernel("adjust_scaling")((1,), (1,), (scaling, np.int32(_PATIENCE)))

    def _table_for(self, places: list[tuple[int, ...]]) -> _Table:
        sizes = [place[3] for place in places]
        if capturing():
            if self._spare is None or self._spare.sizes != sizes:
                raise RuntimeError("SGD: a step can be recorded after it has run once with the same parameters")
            table, self._spare = self._spare, None
            self._recorded.append(table)
            return table.fill(places)
        if self._spare is None or self._spare.sizes != sizes:
            self._spare = _Table(sizes)
        if self._table is None or self._table.sizes != sizes:
            self._table = _Table(sizes)
        return self._table if self._table.places == places else self._table.fill(places)


def scaling_of(factor: float, since: float = 0, skipped: float = 0, overflow: float = 0) -> Any:
    """The state of a loss that is multiplied by a factor, on the device.

    (4,) float32: the factor, steps since it changed, steps skipped in a row, whether this step has overflowed.
    """
    return cupy().asarray(np.array([factor, since, skipped, overflow], np.float32))
