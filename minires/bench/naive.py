"""How long a training step takes in plain loops, without waiting for it: small pieces, scaled up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np

from ..kernels import reference
from ..kernels.window import taps
from .kernels import Layer, Norm, layers
from .networks import Network
from .timing import alternate

_SIDE, _CHANNELS = 4, 16  # of the picture that is convolved; loops take as long for any product, so it may be small
_NUMBERS = 4096  # about as many are normalised
_WAYS = "forward", "backward"


def seconds(net: Network, batch: int, rounds: int) -> list[float]:
    """The seconds of a step, one value for each round: every kind of layer timed on a piece, times what it is short of.

    A convolution is scaled by its products, those with the zeros of the padding left out, as the loops leave them out;
    batch norm and ReLU by their elements.  What a step does besides is nothing next to these.
    """
    convolutions, norms = layers(net.build(), net.size)
    pieces: dict[str, Callable[[], None]] = {}
    factors: dict[str, float] = {}
    for layer, count in convolutions.items():
        for way, work in zip(_WAYS, _convolution(layer), strict=True):
            pieces[f"{layer} {way}"] = work
            factors[f"{layer} {way}"] = batch * count * products(layer) / products(piece(layer))
    for norm, count in norms.items():
        for way, work in zip(_WAYS, _norm(norm), strict=True):
            pieces[f"{norm} {way}"] = work
            factors[f"{norm} {way}"] = batch * count * prod(norm.shape) / prod(_smaller(norm))
    times = alternate(pieces, rounds)
    return np.sum([factors[name] * np.array(seconds) for name, seconds in times.items()], 0).tolist()


def piece(layer: Layer) -> Layer:
    """The same convolution of one small picture with few channels."""
    kh, kw, channels, out = layer.filters
    rows, columns = (min(s, max(_SIDE, k)) for s, k in zip(layer.size, (kh, kw), strict=True))
    if layer.groups == 1:
        channels, out = min(channels, _CHANNELS), min(out, _CHANNELS)
    return replace(layer, size=(rows, columns), channels=channels * layer.groups, filters=(kh, kw, channels, out))


def products(layer: Layer) -> int:
    """Multiply-adds for one picture, without those where the window looks at padding."""
    along = [
        sum(
            len(taps(i, layer.filters[a], layer.stride[a], layer.padding[a], layer.dilation[a], layer.size[a]))
            for i in range(layer.output[a])
        )
        for a in (0, 1)
    ]
    return along[0] * along[1] * layer.filters[2] * layer.filters[3]


def _convolution(kind: Layer) -> tuple[Callable[[], None], Callable[[], None]]:
    """Forward and backward on a piece."""
    layer, rng = piece(kind), np.random.default_rng(0)
    x = rng.standard_normal((1, *layer.size, layer.channels), np.float32)
    w = rng.standard_normal(layer.filters, np.float32)
    dy = rng.standard_normal((1, *layer.output), np.float32)
    w_or_none = None if layer.first else w
    return (
        lambda: reference.conv2d(x, w, None, *layer.window),
        lambda: reference.conv2d_backward(dy, x, w_or_none, x.shape, w.shape, *layer.window),
    )


def _smaller(norm: Norm) -> tuple[int, int, int]:
    return 1, max(2, _NUMBERS // norm.shape[-1]), norm.shape[-1]


def _norm(kind: Norm) -> tuple[Callable[[], None], Callable[[], None]]:
    """Batch norm and the ReLU after it, forward and backward, on a piece."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 1, *_smaller(kind)), np.float32)
    gamma, beta = np.ones(kind.shape[-1], np.float32), np.zeros(kind.shape[-1], np.float32)
    mean, var = reference.moments(x)
    y = reference.batch_norm(x, gamma, beta, mean, var, 1e-5)

    def forward() -> None:
        mean, var = reference.moments(x)
        reference.relu(reference.batch_norm(x, gamma, beta, mean, var, 1e-5))

    def backward() -> None:
        reference.batch_norm_backward(reference.relu_dx(dy, y), None, x, gamma, mean, var, 1e-5)

    return forward, backward
