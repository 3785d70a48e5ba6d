"""What is known about an input whose gradient is wrong, and when two arrays count as the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RTOL = 1e-5
NEAR = 1e-3  # a factor nearer to 1 is no factor that somebody forgot


@dataclass
class Case:
    """One input whose gradient is wrong, and all that is known beside it.

    Attributes:
        name: of the input.
        inputs: all floating-point inputs by name.
        analytic, numeric: their gradients by name, as returned and as measured; NaN where nothing was measured.
        upstream: dL/d(output).
        output: of the forward pass.
        linear: whether the backward pass is linear in the upstream gradient.
        again: ``again(name, other, value)`` is the gradient that comes back for an input if another input, or "dy", has
            another value; None if the backward pass cannot be run there.
        reached: ``reached(name)`` says which outputs change when an input does; None if that is not known.
        order: of the axes of pictures, "NHWC" or "NCHW"; None if there are none, or it cannot be told.
    """

    name: str
    inputs: dict[str, np.ndarray]
    analytic: dict[str, np.ndarray]
    numeric: dict[str, np.ndarray]
    upstream: np.ndarray
    output: np.ndarray
    linear: bool = True
    again: Callable[[str, str, np.ndarray], np.ndarray | None] = lambda name, other, value: None
    reached: Callable[[str], np.ndarray | None] = lambda name: None
    order: str | None = None

    @property
    def x(self) -> np.ndarray:
        """The input."""
        return self.inputs[self.name]

    @property
    def a(self) -> np.ndarray:
        """Its gradient as returned."""
        return self.analytic[self.name]

    @property
    def n(self) -> np.ndarray:
        """Its gradient as measured."""
        return self.numeric[self.name]

    @property
    def complete(self) -> bool:
        """Whether every entry was measured."""
        return not np.isnan(self.n).any()

    def measured(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """The entries of arrays of the input's shape that were measured."""
        known = ~np.isnan(self.n)
        return tuple(array[known] for array in arrays)


def same(a: np.ndarray, b: np.ndarray, rtol: float = RTOL) -> bool:
    """Whether a and b are equal, measured as a whole."""
    return a.shape == b.shape and bool(np.linalg.norm(a - b) <= rtol * max(float(np.linalg.norm(b)), 1e-300))
