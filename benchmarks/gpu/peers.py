"""PyTorch on the card: single operations and whole training steps, with its best settings.

channels_last everywhere, cuDNN's own search for the fastest algorithm, TF32 where minires has it, autocast for 16 bits,
the fused optimiser.  With 16 bits cuDNN reads and writes arrays of 16 bits, minires of 32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minires.bench.kernels import Layer
from minires.bench.networks import DECAY, MOMENTUM, RATE, Network
from minires.nn import Module

from .lab import Lab
from .nets import twin


def dtype_of(lab: Lab, precision: str) -> Any:
    """What cuDNN's arrays have in this precision."""
    return {"bf16": lab.torch.bfloat16, "fp16": lab.torch.float16}.get(precision, lab.torch.float32)


def pictures(lab: Lab, array: np.ndarray, dtype: Any = None) -> Any:
    """(N, H, W, C) of the host as (N, C, H, W) in channels_last, the same order of memory."""
    return lab.tensor(array).to(dtype or lab.torch.float32).permute(0, 3, 1, 2)


def convolutions(lab: Lab, layer: Layer, x: Any, w: Any, dy: Any) -> dict[str, Callable[[], Any]]:
    """Forward, dx and dw of one convolution; x, w and dy as PyTorch has them."""
    torch = lab.torch
    window = layer.stride, layer.padding, layer.dilation
    backward = torch.ops.aten.convolution_backward

    def forward() -> Any:
        return torch.nn.functional.conv2d(x, w, None, *window, layer.groups)

    def gradient(wanted: list[bool]) -> Callable[[], Any]:
        return lambda: backward(dy, x, w, None, *window, False, [0, 0], layer.groups, wanted)

    return {"forward": forward, "dx": gradient([True, False, False]), "dw": gradient([False, True, False])}


class TorchStep:
    """A training step of PyTorch with everything on the card, the batch in `images` and `labels`.

    Args:
        lab: where.
        net: which network.
        model: of minires, on the CPU: its weights are copied.
        batch: pictures.
        precision: see `Lab.torch_precision`; 16 bits by autocast.
        rate, momentum, decay: of SGD.
        tracking: add losses and wrong answers up, for `read`: some launches more.

    Attributes:
        loss: of the last step, on the card.
    """

    def __init__(
        self,
        lab: Lab,
        net: Network,
        model: Module,
        batch: int,
        precision: str,
        rate: float = RATE,
        momentum: float = MOMENTUM,
        decay: float = DECAY,
        tracking: bool = False,
    ) -> None:
        torch = self._torch = lab.torch
        self.lab, self.tracking = lab, tracking
        self.loss: Any = None
        self.model = twin(net, model).to(lab.device)
        self.images = pictures(lab, np.zeros((batch, net.size, net.size, 3), np.float32))
        self.labels = torch.zeros(batch, dtype=torch.int64, device=lab.device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), rate, momentum, weight_decay=decay, fused=not lab.rehearsal or None
        )
        self.sums = torch.zeros(2, dtype=torch.float64, device=lab.device)
        self._autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self.forward: Callable[[Any], Any] = self.model

    def set(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Put a batch of the host there, images (N, H, W, C)."""
        self.images.copy_(pictures(self.lab, images))
        self.labels.copy_(self.lab.tensor(labels))

    def __call__(self) -> None:
        """Forward, backward, update; reads nothing back."""
        torch = self._torch
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.lab.device, self._autocast or torch.bfloat16, enabled=self._autocast is not None):
            logits = self.forward(self.images)
            loss = torch.nn.functional.cross_entropy(logits, self.labels)
        loss.backward()
        self.optimizer.step()
        self.loss = loss.detach()
        if self.tracking:
            self.sums[0] += self.loss * len(self.labels)
            self.sums[1] += (logits.argmax(1) != self.labels).sum()

    def read(self) -> tuple[float, int]:
        """Sum of the losses and number of wrong answers since this was last asked."""
        loss, wrong = self.sums.tolist()
        self.sums.zero_()
        return loss, int(wrong)
