"""PyTorch as the other contender: the same weights and data, in its default layout and in channels_last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from . import torch_twin
from .networks import DECAY, MOMENTUM, RATE, Network

LAYOUTS = {"torch": torch.contiguous_format, "channels_last": torch.channels_last}


def set_num_threads(number: int) -> int:
    """Give PyTorch this many threads; returns how many it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    return before


def twin(net: Network, model: Any, layout: str) -> Any:
    """PyTorch's version of the network, with the model's weights."""
    if net.name == "resnet18-cifar":
        widths = (64, 128, 256, 512)
        made = torch_twin.ResNet(torch_twin.BasicBlock, (2, 2, 2, 2), widths, net.classes, 3, (3, 1, 1), "B")
    else:
        depth, residual = net.depth_and_kind()
        made = (torch_twin.imagenet_twin if net.large else torch_twin.cifar_twin)(depth, residual=residual)
    return torch_twin.copy_weights(model, made).to(memory_format=LAYOUTS[layout])


def train_step(made: Any, layout: str, pictures: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """What `networks.train_step` does."""
    x, y = torch_twin.nchw(pictures).contiguous(memory_format=LAYOUTS[layout]), torch.from_numpy(labels)
    optimizer = torch.optim.SGD(made.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(made(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def steps(net: Network, model: Any, pictures: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[], float]]:
    """A training step for each layout."""
    return {layout: train_step(twin(net, model, layout), layout, pictures, labels) for layout in LAYOUTS}


def inferences(net: Network, model: Any, pictures: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Inference for each layout."""
    return {layout: _infer(twin(net, model, layout).eval(), layout, pictures) for layout in LAYOUTS}


def _infer(made: Any, layout: str, pictures: np.ndarray) -> Callable[[], np.ndarray]:
    x = torch_twin.nchw(pictures).contiguous(memory_format=LAYOUTS[layout])

    def logits() -> np.ndarray:
        with torch.inference_mode():
            return made(x).numpy()

    return logits


def convolutions(layer: Any, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> dict[str, dict[str, Callable[[], None]]]:
    """Forward and backward of one convolution, by kernel and layout; see `kernels.Layer`.  Nobody keeps the result."""
    found: dict[str, dict[str, Callable[[], None]]] = {"conv2d": {}, "conv2d_backward": {}}
    for layout, memory_format in LAYOUTS.items():
        both = convolution(layer, x, w, dy, memory_format)
        found["conv2d"][layout], found["conv2d_backward"][layout] = map(_drop_result, both)
    return found


def convolution(layer: Any, x: Any, w: Any, dy: Any, memory_format: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Functions that return y, and dx, dw and None; dx is None where the layer is the first."""
    x, dy = (torch_twin.nchw(a).contiguous(memory_format=memory_format) for a in (x, dy))
    w = torch.from_numpy(np.ascontiguousarray(w.transpose(3, 2, 0, 1))).contiguous(memory_format=memory_format)
    window = layer.stride, layer.padding, layer.dilation

    def forward() -> Any:
        with torch.inference_mode():
            return F.conv2d(x, w, None, *window, layer.groups)

    wanted = [not layer.first, True, False]

    def backward() -> Any:
        with torch.inference_mode():
            return torch.ops.aten.convolution_backward(dy, x, w, None, *window, False, [0, 0], layer.groups, wanted)

    return forward, backward


def _drop_result(function: Callable[[], Any]) -> Callable[[], None]:
    def call() -> None:
        function()

    return call


def tensor(array: np.ndarray, leaf: bool) -> Any:
    """A tensor, which requires its gradient if it is a leaf."""
    return torch.tensor(array, requires_grad=leaf)
