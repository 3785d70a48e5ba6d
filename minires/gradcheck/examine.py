"""A whole gradient check, whatever computes the two passes: a network of minires or two functions of a student."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..backend import Array, array_module, asnumpy
from ..errors import ArgumentError
from .hints import Case, hints
from .measure import check_input
from .numeric import Probe, dust
from .report import Report

# what rounding may leave of the linearity of a backward pass
_LINEAR, _LINEAR_IN_FLOAT32 = 1e-9, 1e-5
# with more inputs than this no hypothesis may run the passes again: there would be too many to try
_FEW = 6


class Passes(Protocol):
    """A forward and a backward pass, and the inputs they share.

    Attributes:
        name: for the report.
        arrays: the inputs to be checked, float64, on either device; changed in place to measure, and put back.
        upstream_changed: whether a backward pass so far has changed its upstream gradient in place.
    """

    name: str
    arrays: dict[str, Array]
    upstream_changed: bool

    def forward(self) -> np.ndarray:
        """Run the forward pass on the arrays as they are; a new array on the host."""
        ...

    def backward(self, dy: np.ndarray, times: int = 1) -> dict[str, np.ndarray | None]:
        """Run both passes anew, ``times`` times without clearing the gradients in between; gradients by name."""
        ...

    def complex_forward(self, name: str) -> Callable[[np.ndarray], np.ndarray] | None:
        """The forward pass as a function of one input that may be complex, if there is such a thing."""
        ...


@dataclass
class Settings:
    """Options of a check, see `gradcheck`."""

    seed: int = 0
    rtol: float = 1e-6
    max_entries: int | None = None
    zero: Collection[str] = ()
    method: str = "auto"

    def check(self, name: str, inputs: Collection[str]) -> None:
        """Raise ArgumentError unless they can be used on these inputs."""
        if not inputs:
            raise ArgumentError(
                f"gradcheck {name}: none of the inputs is of floating point, so there is nothing to check."
            )
        unknown = sorted(set(self.zero) - set(inputs))
        if unknown:
            raise ArgumentError(f"gradcheck {name}: zero names {unknown}, but what is checked is {sorted(inputs)}.")
        if self.max_entries is not None and self.max_entries < 1:
            raise ArgumentError(f"gradcheck {name}: max_entries must be at least 1, got {self.max_entries}.")
        if self.method not in ("auto", "central", "complex step"):
            raise ArgumentError(
                f"gradcheck {name}: the method must be 'auto', 'central' or 'complex step', got {self.method!r}."
            )


def examine(passes: Passes, settings: Settings) -> Report:
    """Check the backward pass of ``passes``: first what needs no step size, then against differences.

    Raises:
        ArgumentError: see `gradcheck`.
    """
    name, arrays = passes.name, passes.arrays
    settings.check(name, arrays)
    before = {n: asnumpy(a).copy() for n, a in arrays.items()}
    value = passes.forward()
    if not np.isfinite(value).all():
        raise ArgumentError(f"gradcheck {name}: the result is not finite, so it has no slope. Check at another point.")
    # A stream of its own: default_rng(seed) may well have made x, and an upstream gradient equal to x is one of the few
    # for which the input gradient of a batch norm vanishes.
    rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(0x9AD,)))
    upstream = rng.standard_normal(value.shape)
    analytic = passes.backward(upstream)
    changed = [n for n, a in arrays.items() if not np.array_equal(asnumpy(a), before[n], equal_nan=True)]
    if changed:
        raise ArgumentError(f"gradcheck {name}: the forward or backward pass changed its input {changed[0]} in place.")
    if not np.array_equal(passes.forward(), value):
        raise ArgumentError(
            f"gradcheck {name}: two runs of the forward pass on the same inputs differ. Take randomness out, or give "
            "it a generator made anew from a fixed seed in each call."
        )

    report = Report(name, settings.seed, settings.rtol)
    for n, array in arrays.items():
        probe = Probe(passes.forward, array, upstream, value, passes.complex_forward(n))
        report.inputs[n] = check_input(
            n, probe, analytic[n], rng, settings.rtol, settings.max_entries, n in settings.zero, settings.method
        )
    claimed = {n: g for n, g in analytic.items() if g is not None and n not in settings.zero and np.isfinite(g).all()}
    left = dust(upstream, value)
    linear = _linear(passes.backward, upstream, claimed, rng, max(_LINEAR, 1e-2 * settings.rtol), left)
    twice = passes.backward(upstream, times=2)
    for n, found in report.inputs.items():
        if found.ok and not linear.get(n, True):
            found.verdict = "FAIL"
        if found.ok and n in claimed and not _is_twice(twice[n], claimed[n], left):
            found.verdict = "FAIL"
            found.note = (
                "a second backward pass does not add the same gradient once more: something is kept between two calls, "
                "or added to twice."
            )
        if passes.upstream_changed:
            found.verdict = "FAIL"
            found.note = "backward changed dy in place, which belongs to the operation above. Work on a copy."
    _explain(report, passes, upstream, value, linear)
    return report


def _linear(
    backward: Callable,
    upstream: np.ndarray,
    analytic: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    tolerance: float,
    left: float,
) -> dict[str, bool]:
    """For each input whether B(2 u - 3 v) = 2 B(u) - 3 B(v), as for every backward pass B: it is a matrix product.

    ``left`` is what rounding may leave of each entry.
    """
    other = rng.standard_normal(upstream.shape)
    of_other, of_both = backward(other), backward(2 * upstream - 3 * other)
    linear = {}
    for name, u in analytic.items():
        v, both = of_other[name], of_both[name]
        if v is None or both is None or not (np.isfinite(v).all() and np.isfinite(both).all()):
            linear[name] = False
            continue
        size = 2 * np.linalg.norm(u) + 3 * np.linalg.norm(v)
        rounded = np.array_equal(u, u.astype(np.float32))  # which is another mistake
        limit = max(tolerance, _LINEAR_IN_FLOAT32) if rounded else tolerance
        linear[name] = bool(np.linalg.norm(both - (2 * u - 3 * v)) <= limit * size + left * u.size**0.5)
    return linear


def _is_twice(twice: np.ndarray | None, once: np.ndarray, left: float) -> bool:
    if twice is None:
        return False
    return bool(np.linalg.norm(twice - 2 * once) <= _LINEAR * np.linalg.norm(once) + left * once.size**0.5)


def _explain(
    report: Report, passes: Passes, upstream: np.ndarray, output: np.ndarray, linear: Mapping[str, bool]
) -> None:
    """Add hints to what failed."""
    inputs = {n: asnumpy(a) for n, a in passes.arrays.items()}
    analytic = {n: r.analytic for n, r in report.inputs.items()}
    numeric = {n: r.numeric.copy() for n, r in report.inputs.items()}
    for n, r in report.inputs.items():
        for kink in r.kinks:  # where nothing is known, nothing is held against it
            numeric[n][kink] = analytic[n][kink]

    def again(name: str, other: str, value: np.ndarray) -> Any:
        """What the backward pass makes of ``name`` if another input, or "dy", has another value."""
        kept = None if other == "dy" else passes.arrays[other].copy()
        try:
            if kept is None:
                return passes.backward(value)[name]
            passes.arrays[other][...] = array_module(kept).asarray(value)
            return passes.backward(upstream)[name]
        except Exception:  # whatever it says of a point that it was not made for
            return None
        finally:
            if kept is not None:
                passes.arrays[other][...] = kept

    def reached(name: str) -> Any:
        """Which outputs change when an input does."""
        array = passes.arrays[name]
        kept = array.copy()
        try:
            array += array_module(array).asarray(1e-3 * np.cos(np.arange(array.size)).reshape(array.shape))
            return passes.forward() != output
        except Exception:
            return None
        finally:
            array[...] = kept

    for name, found in report.inputs.items():
        right = found.error <= report.rtol and linear.get(name, True)  # and what is wrong is another thing
        measurable = np.nanmax(np.abs(found.numeric), initial=0.0) > dust(upstream, output)
        if found.verdict == "FAIL" and not right and measurable and np.isfinite(found.analytic).all():
            case = Case(name, inputs, analytic, numeric, upstream, output, linear.get(name, True))
            if len(inputs) <= _FEW:
                case.again, case.reached = again, reached
            found.hints = hints(case)
