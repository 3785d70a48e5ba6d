"""A training step that stays on the GPU: recorded once, then replayed by one call, with nothing read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import functional as F
from ..backend import cupy
from ..backend.graphs import WARM_UP, Graph
from ..kernels.cuda import augment
from ..nn import Module
from ..optim import SGD
from ..tensor import Tensor, fused


class DeviceStep(Graph):
    """Forward, cross-entropy, backward and update for a batch of one size, as a CUDA graph.

    ``step()`` runs once what it was made for: three times as it is, then recorded, from then on replayed.  What changes
    from step to step lies on the device: the batch in `images` and `labels`, the learning rate, and in `sums` what
    became of the losses.

    Args:
        model: on the GPU.
        optimizer: of its parameters.
        batch_size: pictures in a batch.
        image_shape: (H, W, C).
        label_smoothing: see `functional.cross_entropy`.
        fill: called as ``fill(images, labels)`` at the beginning of every step, and recorded with it; without it,
            whoever calls the step fills the two.
        graph: False runs every step as it is.
        scaling: the state of a scaled loss, see `kernels.cuda.descent.scaling_of`.
        sums, stream: those of another step, to share.

    Attributes:
        images: (B, H, W, C) float32 on the GPU.
        labels: (B,) int64 on the GPU.
        sums: (2,) float64 on the GPU, the losses and the wrong answers of all pictures so far.
        problem: why the step could not be recorded, or None.
        stream: everything runs there.
    """

    def __init__(
        self,
        model: Module,
        optimizer: SGD,
        batch_size: int,
        image_shape: tuple[int, ...],
        *,
        label_smoothing: float = 0.0,
        fill: Callable[[Any, Any], Any] | None = None,
        graph: bool = True,
        scaling: Any = None,
        sums: Any = None,
        stream: Any = None,
    ) -> None:
        xp = cupy()
        self.model, self.optimizer = model, optimizer
        self.label_smoothing, self.fill, self.scaling = label_smoothing, fill, scaling
        optimizer.scaling = scaling
        self.images, self.labels = xp.zeros((batch_size, *image_shape), np.float32), xp.zeros(batch_size, np.int64)
        self.sums = xp.zeros(2, np.float64) if sums is None else sums
        super().__init__(None, WARM_UP if graph else None, stream)
        xp.cuda.get_current_stream().synchronize()  # what was made there is used on the stream of the graph

    def __call__(self) -> None:
        """One step; returns before it is done."""
        with self.stream:
            self.optimizer.upload_settings()
        super().__call__()

    def read(self) -> tuple[float, int]:
        """The sum of all losses and the number of wrong answers since this was last asked.  Waits for the device."""
        with self.stream:
            loss, wrong = self.sums.get()
            self.sums.fill(0)
        return float(loss), int(wrong)

    def skipped(self) -> int:
        """How many steps in a row were skipped because of an overflow.  Waits for the device."""
        if self.scaling is None:
            return 0
        with self.stream:
            return int(self.scaling.get()[2])

    def run(self) -> None:
        """What a step does."""
        if self.fill is not None:
            self.fill(self.images, self.labels)
        self.optimizer.zero_grad()
        logits, loss = self._forward()
        augment.track(loss.data, logits.data, self.labels, self.sums)
        loss.backward(None if self.scaling is None else self.scaling[0])
        self.optimizer.step()

    @fused
    def _forward(self) -> tuple[Tensor, Tensor]:
        """Logits and loss: the last layer and the cross-entropy may be one."""
        logits = self.model(Tensor(self.images))
        return logits, F.cross_entropy(logits, Tensor(self.labels), self.label_smoothing)
