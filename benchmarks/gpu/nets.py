"""The networks that are measured, and the small one that is rehearsed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minires.bench.networks import Network, network
from minires.models import ResNet, cifar_resnet
from minires.nn import Module

from .lab import Lab

_WIDTH = 4


@dataclass(frozen=True)
class Tiny(Network):
    """A network of eight layers and few channels: the kernels run on the CPU in a rehearsal."""

    def build(self) -> ResNet:
        """The network, with the same weights every time."""
        return cifar_resnet(8, width=_WIDTH, generator=0)


def the_network(lab: Lab, name: str, size: int = 4) -> Network:
    """By its name; in a rehearsal the small one, for pictures of this size."""
    return lab.pick(network(name), Tiny("resnet8", size, 10, 4))


def twin(net: Network, model: Module) -> Any:
    """PyTorch's version with the model's weights, in channels_last, on the CPU."""
    from minires.bench import torch_side, torch_twin  # here: they need PyTorch

    if isinstance(net, Tiny):
        return torch_twin.copy_weights(model, torch_twin.cifar_twin(8, width=_WIDTH))
    return torch_side.twin(net, model, "channels_last")
