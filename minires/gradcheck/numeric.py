"""Derivatives measured on the forward pass alone, and what a difference can and cannot tell."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..backend import Array, array_module, asnumpy

# Central differences err by h^2 f'''/6 from the formula and by eps |f| / h from rounding; in float64 the sum is least
# near the cube root of eps = 2.2e-16.
STEP = 6e-6
# A complex step subtracts nothing, Im f(x + ih) / h = f'(x) + O(h^2), so it may be as small as one likes (Squire and
# Trapp 1998).
_TINY = 1e-30
# what rounding may leave of a difference that is zero by a formula, beside the numbers it is made of
_ROUNDING = 1e-11


@dataclass
class Slopes:
    """One directional derivative <upstream, df/dx d>, estimated with one step size."""

    central: float
    forward: float
    backward: float


class Probe:
    """Measures derivatives of <upstream, f(x)> with respect to single entries of x, or along whole directions.

    Args:
        forward: runs f on the current values and returns the output array.
        array: x, float64, on either device; changed in place and always put back.
        upstream: the cotangent, of the output's shape.
        output: f at the unchanged x.
        complex_forward: runs f with a complex x in the place of this one; None where that cannot be tried.

    Attributes:
        method: "central", "complex step" or "affine"; see `choose`.
    """

    def __init__(
        self,
        forward: Callable[[], np.ndarray],
        array: Array,
        upstream: np.ndarray,
        output: np.ndarray,
        complex_forward: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        self.forward, self.array, self.upstream, self.output = forward, array, upstream, output
        self.complex_forward = complex_forward
        self.method = "central"

    def choose(self, rng: np.random.Generator, method: str = "auto") -> None:
        """Find out how this input is measured best.

        "affine": f is a constant plus a linear function, as found by second differences that vanish far and wide; then
        a difference with a large step is exact but for rounding, and has no kinks.  "complex step": f can be run on
        complex numbers and keeps their imaginary parts, as found by comparing one direction with central differences
        (`abs`, `var`, `astype(float)` lose them without a word).  "central": all else.
        """
        if method == "central":
            return
        if method == "auto" and self._is_affine(rng):
            self.method = "affine"
        elif self.complex_forward is not None and self._keeps_imaginary_parts(rng):
            self.method = "complex step"

    def slope(self, at: tuple[int, ...] | np.ndarray) -> float:
        """The best estimate at an index, or along a direction of x's shape."""
        if self.method == "complex step":
            return self._complex_slope(at)
        return self.slopes(at, STEP if self.method == "affine" else 1.0).central

    def slopes(self, at: tuple[int, ...] | np.ndarray, shrink: float = 1.0) -> Slopes:
        """Differences with the step ``STEP * max(1, |x|) / shrink``; along a direction |x| is the root mean square.

        Outputs are subtracted before they are summed, so those that do not move add no rounding error.
        """
        if isinstance(at, tuple):
            value = float(self.array[at])
            h = STEP / shrink * max(1.0, abs(value))
            try:
                self.array[at] = value + h
                above, up = float(self.array[at]) - value, self.forward()
                self.array[at] = value - h
                below, down = value - float(self.array[at]), self.forward()
            finally:
                self.array[at] = value
        else:
            size = float(np.sqrt((asnumpy(self.array) ** 2).mean()))
            above = below = STEP / shrink * max(1.0, size)
            up, down = self._moved(above * at), self._moved(-below * at)
        rise, fall = ((up - self.output) * self.upstream).sum(), ((self.output - down) * self.upstream).sum()
        both = ((up - down) * self.upstream).sum()
        return Slopes(float(both / (above + below)), float(rise / above), float(fall / below))

    def judge(self, at: tuple[int, ...] | np.ndarray, analytic: float, tolerance: float) -> tuple[str, float]:
        """Look closer at an estimate that disagrees: ("ok" | "wrong" | "kink", the best estimate).

        A smooth function gives the same slope at every small step, so if the estimates agree with each other and not
        with ``analytic``, the backward is wrong.  Near a kink they disagree with each other, and on one the slopes from
        the left and from the right stay apart however small the step: no difference can judge there.
        """
        steps = [self.slopes(at, shrink) for shrink in (1.0, 2.0, 8.0)]
        estimates = [s.central for s in steps] + [self.slopes(at, 1 / 8).central]
        best = min(estimates, key=lambda n: abs(n - analytic))
        if abs(best - analytic) <= tolerance:
            return "ok", best
        central = [s.central for s in steps]
        disagreement = abs(central[0] - analytic)
        one_sided = [abs(s.forward - s.backward) for s in steps]
        near_kink = max(central) - min(central) > 0.1 * disagreement
        on_kink = one_sided[2] > 0.5 * one_sided[0] and one_sided[2] > 0.1 * disagreement
        return ("kink" if near_kink or on_kink else "wrong"), central[0]

    def adjoint_error(self, gradient: np.ndarray, rng: np.random.Generator) -> float:
        """For an affine f how far <A d, upstream> = <d, A^T upstream> is off, A^T upstream being ``gradient``.

        Relative to |A d| |upstream| + |d| |gradient|, for a random d.  No step size is needed: A d = f(x + d) - f(x).
        """
        size = float(np.sqrt((asnumpy(self.array) ** 2).mean()))
        direction = max(1.0, size) * rng.standard_normal(gradient.shape)
        moved = self._moved(direction) - self.output
        terms = float(np.linalg.norm(moved) * np.linalg.norm(self.upstream))
        terms += float(np.linalg.norm(direction) * np.linalg.norm(gradient))
        difference = abs(float((moved * self.upstream).sum()) - float((direction * gradient).sum()))
        return difference / terms if terms else 0.0

    def _moved(self, by: np.ndarray) -> np.ndarray:
        """F(x + by)."""
        before = self.array.copy()
        try:
            self.array += array_module(self.array).asarray(by)
            return self.forward()
        finally:
            self.array[...] = before

    def _is_affine(self, rng: np.random.Generator) -> bool:
        """Whether f(x + s) - f(x) = f(x) - f(x - s) = (f(x + 2s) - f(x)) / 2 for large random s."""
        size = np.maximum(1.0, np.abs(asnumpy(self.array)))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for _ in range(3):
                s = size * rng.uniform(0.5, 1.5, size.shape) * rng.choice([-1.0, 1.0], size.shape)
                try:
                    up, down = self._moved(s), self._moved(-s)
                    if not _vanishes(up - 2 * self.output + down, up, self.output, down):
                        return False
                    far = self._moved(2 * s)
                except Exception:  # of whatever kind: f need not be defined there
                    return False
                if not _vanishes(far - 2 * up + self.output, far, up, self.output):
                    return False
        return True

    def _keeps_imaginary_parts(self, rng: np.random.Generator) -> bool:
        direction = rng.standard_normal(self.array.shape)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = self._complex_slope(direction)
        except Exception:  # whatever an operation says that knows no complex numbers
            return False
        expected = self.slopes(direction).central
        return bool(abs(found - expected) <= 1e-5 * max(abs(found), abs(expected)))

    def _complex_slope(self, at: tuple[int, ...] | np.ndarray) -> float:
        assert self.complex_forward is not None
        x = asnumpy(self.array).astype(np.complex128)
        if isinstance(at, tuple):
            x[at] += 1j * _TINY
        else:
            x += 1j * _TINY * at
        moved = np.asarray(self.complex_forward(x))
        if moved.dtype.kind != "c":
            raise TypeError("the result is real")
        return float(((moved.imag / _TINY) * self.upstream).sum())


def _vanishes(difference: np.ndarray, *made_of: np.ndarray) -> bool:
    size = sum(float(np.linalg.norm(array)) for array in made_of)
    return bool(np.isfinite(size) and np.linalg.norm(difference) <= _ROUNDING * size)
