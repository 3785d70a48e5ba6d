"""What a gradient check found, input by input."""

from __future__ import annotations

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
            so nothing was checked); "inconclusive" (too many entries lie at a kink).
        analytic: the gradient of the backward pass, of the input's shape.
        numeric: the measured one, NaN where it was not measured.
        checked: how many entries were measured.
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
    checked: int = 0
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

    def __str__(self) -> str:
        size = int(np.prod(self.shape))
        line = f"  {self.name:<10} {self.shape!s:<16} {self.verdict:<12} max rel {self.error:.1e}"
        line += f"  norm rel {self.norm_error:.1e}  {self.checked}/{size} entries"
        if self.kinks:
            at = ", ".join(f"[{', '.join(map(str, k))}]" for k in self.kinks[:3]) + ("..." if self.kinks[3:] else "")
            line += f"\n{'':13}{len(self.kinks)} at a kink, where no difference can judge: {at}"
        if self.worst is not None and not self.ok:
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

    def plot(self) -> Any:
        """A matplotlib Figure of each input that failed: your gradient, the measured one, and the error with the hint.

        ``report.plot().savefig("error.png")`` keeps it; in a notebook it shows itself.
        """
        from .picture import draw  # matplotlib takes most of a second to import

        return draw(self)

    def __str__(self) -> str:
        how = f"float64, central differences, upstream random, seed {self.seed}, rtol {self.rtol:g}"
        head = f"gradcheck {self.name}   {how}"
        return "\n".join([head, *map(str, self.inputs.values())])
