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
# and of terms that cancel, in units of the last place
_DUST = 1e3


@dataclass
class Slopes:
    """One directional derivative <upstream, df/dx d>, estimated with one step size.

    Attributes:
        central: from both sides.
        gap: sum of |upstream| |slope from the right - slope from the left| over the outputs, so that kinks of several
            outputs cannot cancel.
    """

    central: float
    gap: float


def dust(upstream: np.ndarray, output: np.ndarray) -> float:
    """What terms of the size of ``upstream`` that cancel may leave of a gradient, however it is computed.

    Deep in saturation, as of a softmax of large logits, all that there is of a gradient is such dust.
    """
    size = float(np.abs(upstream).max(initial=0.0)) * min(1.0, float(np.abs(output).max(initial=0.0)))
    return _DUST * float(np.finfo(np.float64).eps) * size


def _disagree(steps: list[Slopes], analytic: float) -> bool:
    """Whether estimates differ among themselves, beside how far they are from what was returned."""
    central = [s.central for s in steps]
    return max(central) - min(central) > 0.1 * abs(central[0] - analytic)


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
        dust: a difference from the analytic gradient that may be rounding; see `dust`.
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
        self.dust = dust(upstream, output)

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
        elif self.complex_forward is not None and (method != "auto" or self._keeps_imaginary_parts(rng)):
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
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.abs((up - self.output) / above - (self.output - down) / below)
            both = ((up - down) * self.upstream).sum()
            return Slopes(float(both / (above + below)), float((gap * np.abs(self.upstream)).sum()))

    def judge(self, at: tuple[int, ...] | np.ndarray, analytic: float, tolerance: float) -> tuple[str, float]:
        """Look closer at an estimate that disagrees: ("ok" | "wrong" | "kink", the best estimate).

        A smooth function gives the same slope at every small step, so if the estimates agree with each other and not
        with ``analytic``, the backward is wrong.  Near a kink they disagree with each other, and on one the slopes from
        the left and from the right stay apart however small the step: no difference can judge there, as long as
        ``analytic`` lies between them.  Where the function is not defined on both sides, smaller steps are tried.
        """
        with np.errstate(all="ignore"):
            steps = [s for s in (self.slopes(at, k) for k in (1.0, 2.0, 8.0)) if np.isfinite(s.central)]
            if len(steps) < 3:
                near = self._nearness(at)
                steps = [s for s in (self.slopes(at, k * near) for k in (1, 2, 8)) if np.isfinite(s.central)]
            others = [self.slopes(at, 1 / 8).central]
            if len(steps) == 3 and _disagree(steps, analytic) and (near := self._nearness(at)) > 1:
                closer = [s for s in (self.slopes(at, k * near) for k in (1, 2, 8)) if np.isfinite(s.central)]
                others += [s.central for s in steps]
                steps = closer if len(closer) == 3 else steps
        central = [s.central for s in steps]
        finite = [*central, *(n for n in others if np.isfinite(n))]
        if not finite:
            return "kink", float("nan")
        best = min(finite, key=lambda n: abs(n - analytic))
        if abs(best - analytic) <= tolerance:
            return "ok", best
        if len(steps) < 3:
            return "kink", best
        near_kink = _disagree(steps, analytic)
        gaps = [s.gap for s in steps]
        on_kink = gaps[2] > 0.5 * gaps[0] and 0.5 * gaps[2] * (1 + 1e-6) >= abs(central[2] - analytic)
        return ("kink" if near_kink or on_kink else "wrong"), central[0]

    def _nearness(self, at: tuple[int, ...] | np.ndarray) -> float:
        """How much smaller than usual a step must be to be small beside x itself, as near the end of a logarithm."""
        x = np.abs(asnumpy(self.array)[at if isinstance(at, tuple) else at != 0])
        return float(max(1.0, 1 / max(float(x.min(initial=1.0)), 1e-12)))

    def rounding(self) -> float:
        """What rounding can make of a difference of those outputs that move at all, times the step."""
        moves = self._moved(np.full(self.array.shape, STEP)) != self.output
        return 8 * float(np.finfo(np.float64).eps * np.linalg.norm((self.output * self.upstream)[moves]))

    def adjoint_error(self, gradient: np.ndarray, rng: np.random.Generator) -> float:
        """For an affine f how far <A d, upstream> = <d, A^T upstream> is off, A^T upstream being ``gradient``.

        Relative to |A d| |upstream| + |d| |gradient|, for a random d.  No step size is needed: A d = f(x + d) - f(x).
        """
        size = float(np.sqrt((asnumpy(self.array) ** 2).mean()))
        direction = max(1.0, size) * rng.standard_normal(gradient.shape)
        moved = self._moved(direction) - self.output
        rounding = 1e7 * np.finfo(np.float64).eps * float(np.linalg.norm(self.output * self.upstream))
        terms = rounding + float(np.linalg.norm(moved) * np.linalg.norm(self.upstream))
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
                    up, down, far = self._moved(s), self._moved(-s), self._moved(2 * s)
                except Exception:  # of whatever kind: f need not be defined there
                    return False
                rounding = 16 * np.finfo(np.float64).eps * np.linalg.norm(self.output)
                movement = np.linalg.norm(up - self.output)
                if not (np.isfinite(movement) and rounding <= 1e-7 * movement):
                    return False  # too little of it could be seen beside what does not move
                for second in (up - 2 * self.output + down, far - 2 * up + self.output):
                    if not np.linalg.norm(second) <= _ROUNDING * movement + rounding:
                        return False
        return True

    def _keeps_imaginary_parts(self, rng: np.random.Generator) -> bool:
        x = asnumpy(self.array)
        direction = np.where(x == 0, 1.0, np.abs(x)) * rng.standard_normal(x.shape)  # which leads no log below zero
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = self._complex_slope(direction)
        except Exception:  # whatever an operation says that knows no complex numbers
            return False
        return self._agrees(direction, found, 1e-5 * abs(found))

    def confirms(self, measured: np.ndarray, rng: np.random.Generator) -> bool:
        """Whether slopes found with complex steps are those of real ones, every entry having its say.

        Along directions in which each measured entry weighs alike, so that a small one whose imaginary part was lost on
        the way shows too.
        """
        known = ~np.isnan(measured)
        largest = float(np.abs(measured[known]).max(initial=0.0))
        if not largest:
            return True
        weight = np.where(known, 1 / np.maximum(np.abs(np.nan_to_num(measured)), 1e-3 * largest), 0.0)
        x = np.abs(asnumpy(self.array))
        weight *= np.min(np.where(weight > 0, np.where(x == 0, 1.0, x), np.inf) / np.where(weight > 0, weight, 1.0))
        terms = np.nan_to_num(measured) * weight
        for _ in range(3):
            sign = rng.choice([-1.0, 1.0], weight.shape)
            if not self._agrees(sign * weight, float((sign * terms).sum()), 1e-5 * float(np.linalg.norm(terms))):
                return False
        return True

    def _agrees(self, direction: np.ndarray, expected: float, tolerance: float) -> bool:
        """Whether a central difference along a direction is as expected, with one of several steps."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for shrink in (1.0, 1e-2, 1e2, 1e-4, 1e4, 1e6):
                size = float(np.sqrt((direction**2).mean()))
                found = self.slopes(direction / size, shrink).central * size
                if abs(found - expected) <= tolerance:
                    return True
        return False

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
