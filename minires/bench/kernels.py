"""Every convolution and batch norm of a network, kernel by kernel, beside a large matrix product."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..kernels import active
from ..kernels.window import Pair, output_size
from ..nn import BatchNorm2d, Conv2d, Module
from ..tensor import Tensor, no_grad
from .machine import BlasPeak
from .networks import Network
from .report import Row
from .timing import BLAS_AWAKE, Contender, alternate

_EPS = 1e-5


@dataclass(frozen=True)
class Layer:
    """The shape of a convolution.

    Attributes:
        size: rows and columns of the pictures that it takes.
        channels: of these pictures.
        filters: (KH, KW, C / groups, O).
        stride, padding, dilation, groups: see `functional.conv2d`.
        first: it sees the picture itself, so that training needs dw only.
    """

    size: Pair
    channels: int
    filters: tuple[int, int, int, int]
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    first: bool = False

    @property
    def window(self) -> tuple[Pair, Pair, Pair, int]:
        """The last arguments of every convolution kernel."""
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def output(self) -> tuple[int, int, int]:
        """Rows, columns and channels of the result."""
        rows, columns = (
            output_size(self.size[a], self.filters[a], self.stride[a], self.padding[a], self.dilation[a])
            for a in (0, 1)
        )
        return rows, columns, self.filters[3]

    @property
    def multiply_adds(self) -> int:
        """For one picture, by the direct algorithm."""
        return prod(self.output) * prod(self.filters[:3])

    def __str__(self) -> str:
        kh, kw, _, out = self.filters
        stride = "" if self.stride == (1, 1) else f", stride {self.stride[0]}"
        return f"{kh}x{kw}, {self.channels} -> {out} channels, {self.size[0]}x{self.size[1]}{stride}"


@dataclass(frozen=True)
class Norm:
    """The shape (H, W, C) of what a batch norm takes."""

    shape: tuple[int, ...]

    def __str__(self) -> str:
        rows, columns, channels = self.shape
        return f"batch norm and ReLU, {channels} channels, {rows}x{columns}"


def layers(model: Module, size: int) -> tuple[Counter[Layer], Counter[Norm]]:
    """Every different convolution and batch norm, in the order in which they run, and how often each occurs.

    Args:
        model: takes pictures (N, size, size, 3).
        size: pixels of a side.
    """
    convolutions: Counter[Layer] = Counter()
    norms: Counter[Norm] = Counter()

    def note(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        shape = inputs[0].shape
        if isinstance(module, BatchNorm2d):
            norms[Norm(shape[1:])] += 1
        else:
            window = module.stride, module.padding, module.dilation, module.groups
            convolutions[Layer(shape[1:3], shape[3], module.weight.shape, *window, first=not convolutions)] += 1

    removers = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, Conv2d | BatchNorm2d)]
    training = model.training
    try:
        with no_grad():
            model.eval()(Tensor(np.zeros((1, size, size, 3), np.float32)))
    finally:
        model.train(training)
        for remove in removers:
            remove()
    return convolutions, norms


def measure(net: Network, batch: int | None, rounds: int, threads: int, beside: Any = None) -> Iterator[Row]:
    """Time the kernels of each different layer of a network.

    Args:
        net: whose layers.
        batch: pictures, or None for the usual.
        rounds: see `alternate`.
        threads: for the large product beside them.
        beside: the module `torch_side`, to run PyTorch's convolutions in turn.
    """
    number, peak = batch or net.batch, BlasPeak(threads)
    product = Contender(peak, awake=BLAS_AWAKE)
    convolutions, norms = layers(net.build(), net.size)
    for layer, count in convolutions.items():
        heading = f"{layer}, {_times(count)} in {net.name}, batch {number}"
        for name, passes, contenders in _convolution(layer, number, beside):
            times = alternate({**contenders, "peak": product}, rounds)
            rates = [peak.flop / s / 1e9 for s in times.pop("peak")]
            flop = 2 * passes * layer.multiply_adds * number
            yield Row("kernels", net.name, heading, name, "ms", _in_ms(times), flop, peak=rates)
    for norm, count in norms.items():
        heading = f"{norm}, {_times(count)} in {net.name}, batch {number}"
        for name, kernel in _norm(norm, number):
            yield Row("kernels", net.name, heading, name, "ms", _in_ms(alternate({"minires": kernel}, rounds)))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _in_ms(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: [1e3 * s for s in times] for name, times in seconds.items()}


def _convolution(layer: Layer, batch: int, beside: Any) -> Iterator[tuple[str, int, dict[str, Callable[[], None]]]]:
    """Name, how many times the work of a forward pass, and who can do it.  Nobody keeps the result."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *layer.size, layer.channels), np.float32)
    w = rng.standard_normal(layer.filters, np.float32)
    dy = rng.standard_normal((batch, *layer.output), np.float32)
    kernels = active()
    w_or_none = None if layer.first else w

    def forward() -> None:
        kernels.conv2d(x, w, None, *layer.window)

    def with_moments() -> None:
        kernels.conv2d_moments(x, w, None, *layer.window)

    def backward() -> None:
        kernels.conv2d_backward(dy, x, w_or_none, x.shape, w.shape, *layer.window)

    others = beside.convolutions(layer, x, w, dy) if beside else {}
    yield "conv2d", 1, {"minires": forward, **others.get("conv2d", {})}
    yield "conv2d_moments", 1, {"minires": with_moments}
    name, passes = ("conv2d_backward, dw", 1) if layer.first else ("conv2d_backward", 2)
    yield name, passes, {"minires": backward, **others.get("conv2d_backward", {})}


def _norm(norm: Norm, batch: int) -> Iterator[tuple[str, Callable[[], None]]]:
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, batch, *norm.shape), np.float32)
    gamma, beta = np.ones(norm.shape[-1], np.float32), np.zeros(norm.shape[-1], np.float32)
    kernels = active()
    mean, var = kernels.moments(x)
    y = kernels.batch_norm(x, gamma, beta, mean, var, _EPS, None, True)

    def forward() -> None:
        kernels.batch_norm(x, gamma, beta, mean, var, _EPS, None, True)

    def backward() -> None:
        kernels.batch_norm_backward(dy, y, x, gamma, mean, var, _EPS)

    yield "batch_norm", forward
    yield "batch_norm_backward", backward
