"""What a gradient check found, input by input."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import MiniresError


class GradientError(MiniresError, AssertionError):
    """A gradient check failed; the message is the whole report."""


@dataclass
class InputReport:
    """One input: its analytic gradient beside the measured one.

    Attributes:
        name: of the input.
        shape: of the input.
        verdict: "ok"; "FAIL"; "missing" (no gradient came back); "vacuous" (the measured gradient is zero everywhere,
            so nothing was checked); "inconclusive" (at too many entries no difference can judge).
        analytic: the gradient of the backward pass, of the input's shape.
        numeric: the measured one, NaN where it was not measured.
        method: how it was measured: "central" differences, "complex step", or "affine" where the result is a linear
            function of the input plus a constant, so that any difference is exact.
        checked: how many entries were measured.
        directions: along how many random directions the whole input was moved as well.
        adjoint: of an affine input, the relative error of <A d, dy> = <d, A^T dy>; None of others.
        kinks: entries at which no difference can judge.
        error: the largest relative error |a - n| / max(|a|, |n|, 0.001 max|n|), kinks left out.
        norm_error: |a - n| / |n| over all measured entries, kinks left out.
        worst: the index of the largest error.
        note: a sentence to add, if any.
        hints: what the mistake may be, the most telling first.
    """

    name: str
    shape: tuple[int, ...]
    verdict: str
    analytic: np.ndarray
    numeric: np.ndarray
    method: str = "central"
    checked: int = 0
    directions: int = 0
    adjoint: float | None = None
    kinks: list[tuple[int, ...]] = field(default_factory=list)
    error: float = 0.0
    norm_error: float = 0.0
    worst: tuple[int, ...] | None = None
    note: str = ""
    hints: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the gradient is right wherever it was measured."""
        return self.verdict == "ok"

    @property
    def errors(self) -> np.ndarray:
        """The relative error of every entry, as in ``error``: infinite where the gradient is no number, NaN where
        nothing was measured or at a kink.
        """
        largest = np.nanmax(np.abs(self.numeric), initial=0.0)
        finite = np.isfinite(self.analytic)
        a = np.where(finite, self.analytic, 0.0)
        floor = np.maximum(np.maximum(np.abs(a), np.abs(self.numeric)), max(1e-3 * largest, 1e-300))
        errors = np.where(finite | np.isnan(self.numeric), np.abs(a - self.numeric) / floor, np.inf)
        for kink in self.kinks:
            errors[kink] = np.nan
        return errors

    def worst_entries(self, count: int = 5) -> list[tuple[tuple[int, ...], float, float, float]]:
        """The entries with the largest errors, as (index, yours, measured, relative error)."""
        errors = np.where(np.isnan(self.errors), -1.0, self.errors).reshape(-1)
        order = [int(i) for i in np.argsort(-errors, kind="stable")[:count] if errors[i] >= 0]
        indices = [tuple(int(i) for i in np.unravel_index(at, self.shape)) for at in order]
        return [
            (i, float(self.analytic[i]), float(self.numeric[i]), float(errors[at]))
            for i, at in zip(indices, order, strict=True)
        ]

    def __str__(self) -> str:
        size = int(np.prod(self.shape))
        line = f"  {self.name:<10} {self.shape!s:<16} {self.verdict:<12} "
        if self.checked > len(self.kinks):
            line += f"max rel {self.error:.1e}  norm rel {self.norm_error:.1e}  "
        line += f"{self.checked}/{size} entries"
        line += f" and {self.directions} directions" if self.directions else ""
        line += f", {self.method}" if self.checked else ""
        if self.kinks:
            at = ", ".join(f"[{', '.join(map(str, k))}]" for k in self.kinks[:3]) + ("..." if self.kinks[3:] else "")
            line += f"\n{'':13}{len(self.kinks)} where no difference can judge, at a kink or for rounding: {at}"
        if self.worst is not None and self.error and not self.ok:
            where = ", ".join(map(str, self.worst))
            line += (
                f"\n{'':13}worst {self.name}[{where}]: yours {self.analytic[self.worst]:+.6g}   "
                f"measured {self.numeric[self.worst]:+.6g}"
            )
        told = [self.note] if self.note else []
        return "\n".join([line, *(f"{'':13}{text}" for text in (*told, *(f"hint: {hint}" for hint in self.hints)))])


@dataclass
class Report:
    """A whole check; ``report["x"]`` is one input, ``print(report)`` shows everything."""

    name: str
    seed: int
    rtol: float
    inputs: dict[str, InputReport] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every input passed."""
        return all(r.ok for r in self.inputs.values())

    def __getitem__(self, name: str) -> InputReport:
        return self.inputs[name]

    def __bool__(self) -> bool:
        return self.ok

    def assert_ok(self) -> Report:
        """Return the report if everything passed.

        Raises:
            GradientError: something did not; the message is the report.
        """
        if not self.ok:
            raise GradientError(str(self))
        return self

    def to_json(self) -> str:
        """The report as JSON: everything but the gradients themselves, with the five worst entries of each input."""
        inputs = {
            n: {
                "shape": list(r.shape), "verdict": r.verdict, "method": r.method, "checked": r.checked,
                "directions": r.directions, "adjoint": r.adjoint, "kinks": [list(k) for k in r.kinks],
                "error": _number(r.error), "norm_error": _number(r.norm_error), "note": r.note, "hints": r.hints,
                "worst": [
                    {"index": list(i), "yours": _number(a), "measured": _number(m), "error": _number(e)}
                    for i, a, m, e in r.worst_entries()
                ],
            }
            for n, r in self.inputs.items()
        }  # fmt: skip
        whole = {"name": self.name, "ok": self.ok, "seed": self.seed, "rtol": self.rtol, "inputs": inputs}
        return json.dumps(whole, allow_nan=False)

    def plot(self) -> Any:
        """A matplotlib Figure of each input that failed: your gradient, the measured one, and the error with the hint.

        ``report.plot().savefig("error.png")`` keeps it; in a notebook it shows itself.
        """
        from .picture import draw  # matplotlib takes most of a second to import

        return draw(self)

    def __str__(self) -> str:
        head = f"gradcheck {self.name}   float64, upstream random, seed {self.seed}, rtol {self.rtol:g}"
        return "\n".join([head, *map(str, self.inputs.values())])


def _number(value: float) -> float | str:
    """JSON has no infinities."""
    return value if np.isfinite(value) else str(value)
