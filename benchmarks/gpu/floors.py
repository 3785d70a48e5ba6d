"""What no program can go below: operations over the rate of a large product, bytes over the rate of a large copy.

Bytes are counted as each array read once and written once by whoever needs it, in the fewest passes that a fused
training step can have, in float32:

    forward    convolution: read x, write z; batch norm, addition, ReLU: read z and the residual, write y
    backward   batch norm: read dy, z and y for the sums, then again, and write dz and the gradient of the residual;
               dw: read x and dz; dx: read dz, write dx

Weights are counted where they are used; of small networks they are nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from minires.bench.kernels import Layer, layers
from minires.bench.networks import Network
from minires.models import ResNet
from minires.tensor import Tensor, no_grad

from . import card
from .lab import Lab

_FLOAT = 4


@dataclass(frozen=True)
class Floor:
    """The least that something needs.

    Attributes:
        flop: 2 for each multiply-add of the direct algorithm.
        bytes: read and written.
    """

    flop: float
    bytes: float

    def seconds(self, lab: Lab, precision: str) -> dict[str, Any]:
        """Both times, by the ceilings of this run, and which is the larger."""
        rate = card.peak(lab, precision)
        arithmetic = self.flop / rate if rate else 0.0
        memory = self.bytes / card.bandwidth(lab)
        return {"floor s": max(arithmetic, memory), "bound": "arithmetic" if arithmetic > memory else "bytes",
                "arithmetic s": arithmetic, "bytes s": memory, "flop": self.flop, "bytes": self.bytes}  # fmt: skip


def convolution(layer: Layer, batch: int) -> Floor:
    """Of a convolution's forward pass, dx or dw: each reads two of x, w, y and writes the third."""
    x = batch * prod(layer.size) * layer.channels
    return Floor(2.0 * batch * layer.multiply_adds, _FLOAT * (x + batch * prod(layer.output) + prod(layer.filters)))


def arrays(*sizes: int) -> Floor:
    """Of something that reads or writes so many floats and hardly computes."""
    return Floor(0.0, _FLOAT * float(sum(sizes)))


def training_step(net: Network, batch: int) -> Floor:
    """Of a whole step: convolutions, the linear layer, and all arrays as this module counts them."""
    model = net.build()
    convolutions, _ = layers(model, net.size)
    flop, floats = 0.0, 0.0
    for layer, count in convolutions.items():
        x, z = batch * prod(layer.size) * layer.channels, batch * prod(layer.output)
        passes = 2 if layer.first else 3
        flop += count * passes * 2.0 * batch * layer.multiply_adds
        dx = 0 if layer.first else z + x
        floats += count * (x + 3 * z + 7 * z + x + z + dx + passes * prod(layer.filters))
    floats += 2 * batch * sum(map(prod, _residuals(model, net.size)))  # read forward, its gradient written backward
    parameters = sum(p.size for p in model.parameters())
    floats += 5 * parameters  # the update: read value, gradient and velocity, write value and velocity
    features = model.fc.weight.size
    return Floor(flop + 3 * 2.0 * batch * features, _FLOAT * floats)


def _residuals(model: ResNet, size: int) -> list[tuple[int, ...]]:
    """The shape (H, W, C) of what every block adds."""
    shapes: list[tuple[int, ...]] = []
    removers = [
        block.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[1:]))
        for block in model.blocks()
    ]
    training = model.training
    try:
        with no_grad():
            model.eval()(Tensor(np.zeros((1, size, size, 3), np.float32)))
    finally:
        model.train(training)
        for remove in removers:
            remove()
    return shapes
