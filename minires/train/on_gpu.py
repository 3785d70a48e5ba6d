"""How the trainer takes its steps on a GPU: batches are made there, steps replayed, and nothing is read unasked."""

from __future__ import annotations

from typing import Any

from ..backend import cupy
from ..data import DataLoader
from ..data.resident import Resident
from ..errors import ArgumentError
from ..kernels.cuda import PRECISIONS
from ..kernels.cuda.descent import scaling_of
from ..nn import Module
from ..optim import SGD, Optimizer
from .step import DeviceStep

_FIRST_SCALE = 65536.0  # of a loss in half precision; too large at first costs a few skipped steps


class Steps:
    """The steps of a run, through the batches of a loader.

    Args:
        model: on the GPU.
        optimizer: of its parameters.
        loader: whose transform `suits`.
        label_smoothing: of the loss.
        graph: record the step and replay it.
        scaled: multiply the loss so that gradients do not vanish in half precision, and skip a step that overflows.
        scale: to go on with, what `scale` gave.
    """

    def __init__(
        self, model: Module, optimizer: Any, loader: DataLoader, label_smoothing: float, graph: bool, scaled: bool,
        scale: list[float] | None = None,
    ) -> None:  # fmt: skip
        self._made_of = model, optimizer
        self._batches = Resident(loader)
        self._label_smoothing, self._graph = label_smoothing, graph
        self._scaling = scaling_of(*(scale or [_FIRST_SCALE])) if scaled else None
        self.stream = cupy().cuda.Stream(non_blocking=True)
        self._by_size: dict[int, DeviceStep] = {}
        self.last = self._of_size(loader.batch_size)

    @staticmethod
    def suits(optimizer: Optimizer, loader: DataLoader) -> bool:
        """Whether a step can be recorded: momentum SGD, and the paper's transforms."""
        return isinstance(optimizer, SGD) and Resident.suits(loader)

    def __call__(self) -> int:
        """The next step; how many pictures it saw."""
        with self.stream:
            rows = self._batches.advance()
        self.last = self._of_size(rows)
        self.last()
        return rows

    def read(self) -> tuple[float, int]:
        """The sum of the losses and the wrong answers of the pictures since this was last asked."""
        return self.last.read()

    def skipped(self) -> int:
        """How many steps in a row were skipped because they overflowed."""
        return self.last.skipped()

    def scale(self) -> list[float] | None:
        """The state of a scaled loss, to go on with."""
        if self._scaling is None:
            return None
        with self.stream:
            return self._scaling.get().tolist()

    @property
    def problem(self) -> str | None:
        """Why the step could not be recorded, or None."""
        return self._of_size(self._batches.loader.batch_size).problem

    def _of_size(self, rows: int) -> DeviceStep:
        """The step for a batch of so many pictures: the last one of an epoch may be smaller."""
        if rows not in self._by_size:
            shape = self._batches.loader.dataset.image_shape
            first = next(iter(self._by_size.values()), None)
            self._by_size[rows] = DeviceStep(
                *self._made_of, rows, shape, label_smoothing=self._label_smoothing, fill=self._batches.fill,
                graph=self._graph, scaling=self._scaling, sums=first and first.sums, stream=self.stream,
            )  # fmt: skip
        return self._by_size[rows]


def check_precision(precision: str, device: str, optimizer: str) -> str:
    """The name of a precision that the device and the optimiser of a run have.

    Raises:
        ArgumentError: they have not.
    """
    if precision not in PRECISIONS:
        raise ArgumentError(f"there is no precision {precision!r}; choose one of {', '.join(PRECISIONS)}.")
    if precision != "fp32" and device == "cpu":
        raise ArgumentError(
            f"the precision {precision} belongs to the tensor cores of a GPU; on the CPU leave it at fp32."
        )
    if precision == "fp16" and optimizer != "sgd":
        raise ArgumentError(f"the loss is scaled for fp16 with the optimizer sgd only, got {optimizer}. Try bf16.")
    return precision
