"""Initial weights.  Each initialiser takes a shape and a generator and returns a float32 array.

Shapes are (KH, KW, C_in / groups, C_out) for convolutions and (in, out) for linear layers, so fan_in is the product of
all lengths but the last, and fan_out that of the last and the window.
"""

from __future__ import annotations

from math import prod, sqrt

import numpy as np

from ..errors import ArgumentError


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs one output sums over, and how many outputs one input reaches: (fan_in, fan_out)."""
    if len(shape) < 2:
        raise ArgumentError(f"an initialiser needs at least two axes to tell inputs from outputs, got shape {shape}.")
    return prod(shape[:-1]), prod(shape[:-2]) * shape[-1]


def he_normal(shape: tuple[int, ...], generator: np.random.Generator, fan: str = "in") -> np.ndarray:
    """Normal with variance 2 / fan: keeps the second moment through a ReLU (He et al. 2015, "Delving deep", eq. 10).

    Args:
        shape: of the weights.
        generator: where the numbers come from.
        fan: "in" keeps the forward signal, "out" the backward one (eq. 14).
    """
    if fan not in ("in", "out"):
        raise ArgumentError(f"he_normal: fan must be 'in' or 'out', got {fan!r}.")
    n = fans(shape)[fan == "out"]
    return (generator.standard_normal(shape) * sqrt(2 / n)).astype(np.float32)


def he_uniform(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Uniform with the variance of `he_normal`, 2 / fan_in."""
    limit = sqrt(6 / fans(shape)[0])
    return generator.uniform(-limit, limit, shape).astype(np.float32)


def glorot_normal(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Normal with variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010, eq. 12)."""
    return (generator.standard_normal(shape) * sqrt(2 / sum(fans(shape)))).astype(np.float32)


def glorot_uniform(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010, eq. 16)."""
    limit = sqrt(6 / sum(fans(shape)))
    return generator.uniform(-limit, limit, shape).astype(np.float32)
