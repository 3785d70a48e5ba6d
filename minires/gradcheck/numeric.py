"""Derivatives by differences, and what a difference can and cannot tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..backend import Array

# Central differences err by h^2 f'''/6 from the formula and by eps |f| / h from rounding; in float64 the sum is least
# near the cube root of eps = 2.2e-16.
STEP = 6e-6


@dataclass
class Slopes:
    """One directional derivative <upstream, df/dx[index]>, estimated with one step size."""

    central: float
    forward: float
    backward: float


class Probe:
    """Measures derivatives of <upstream, f(x)> with respect to single entries of x.

    Args:
        forward: runs f on the current values and returns the output array.
        array: x, float64, on either device; changed in place and always put back.
        upstream: the cotangent, of the output's shape.
        output: f at the unchanged x.
    """

    def __init__(self, forward: Callable[[], np.ndarray], array: Array, upstream: np.ndarray, output: np.ndarray):
        self.forward, self.array, self.upstream, self.output = forward, array, upstream, output

    def slopes(self, index: tuple[int, ...], shrink: float = 1.0) -> Slopes:
        """Estimates at ``index`` with the step ``STEP * max(1, |x|) / shrink``.

        Outputs are subtracted before they are summed, so those that do not move add no rounding error.
        """
        value = float(self.array[index])
        h = STEP / shrink * max(1.0, abs(value))
        try:
            self.array[index] = value + h
            above, up = float(self.array[index]) - value, self.forward()
            self.array[index] = value - h
            below, down = value - float(self.array[index]), self.forward()
        finally:
            self.array[index] = value
        rise, fall = ((up - self.output) * self.upstream).sum(), ((self.output - down) * self.upstream).sum()
        both = ((up - down) * self.upstream).sum()
        return Slopes(float(both / (above + below)), float(rise / above), float(fall / below))

    def judge(self, index: tuple[int, ...], analytic: float, tolerance: float) -> tuple[str, float]:
        """Look closer at an entry that disagrees: ("ok" | "wrong" | "kink", the best estimate).

        A smooth function gives the same slope at every small step, so if the estimates agree with each other and not
        with ``analytic``, the backward is wrong.  Near a kink they disagree with each other, and on one the slopes from
        the left and from the right stay apart however small the step: no difference can judge there.
        """
        steps = [self.slopes(index, shrink) for shrink in (1.0, 2.0, 8.0)]
        estimates = [s.central for s in steps] + [self.slopes(index, 1 / 8).central]
        best = min(estimates, key=lambda n: abs(n - analytic))
        if abs(best - analytic) <= tolerance:
            return "ok", best
        central = [s.central for s in steps]
        disagreement = abs(central[0] - analytic)
        one_sided = [abs(s.forward - s.backward) for s in steps]
        near_kink = max(central) - min(central) > 0.1 * disagreement
        on_kink = one_sided[2] > 0.5 * one_sided[0] and one_sided[2] > 0.1 * disagreement
        return ("kink" if near_kink or on_kink else "wrong"), central[0]
