"""What was measured: one row for each thing, as a line of text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .timing import Spread


@dataclass(frozen=True)
class Row:
    """One thing, measured in several rounds, by minires and perhaps by others in turn.

    Attributes:
        bench: "kernels", "step", "inference", "overhead" or "memory".
        model: the network.
        heading: what several rows have in common.
        name: what is special to this one.
        unit: of the values: "ms", "us" or "MB".
        values: one for each round, by contender, minires first.
        flop: floating-point operations of the direct algorithm, 2 for each multiply-add; 0 where they mean nothing.
        images: how many pictures; 0 where they mean nothing.
        peak: GFLOP/s of a large matrix product, measured in the same rounds.
    """

    bench: str
    model: str
    heading: str
    name: str
    unit: str
    values: dict[str, list[float]]
    flop: float = 0
    images: int = 0
    peak: list[float] = field(default_factory=list)

    @property
    def spread(self) -> dict[str, Spread]:
        """Median and quartiles of each contender."""
        return {name: Spread.of(values) for name, values in self.values.items()}

    @property
    def ratios(self) -> dict[str, Spread]:
        """minires divided by each of the others, round by round."""
        ours, *others = self.values
        return {name: Spread.of_ratios(self.values[ours], self.values[name]) for name in others}

    @property
    def gflops(self) -> float:
        """GFLOP/s of minires, by the median time in ms."""
        return self.flop / self.spread["minires"].median / 1e6

    @property
    def of_peak(self) -> Spread:
        """GFLOP/s of minires as a part of the peak, round by round."""
        return Spread.of([self.flop / ms / 1e6 / p for ms, p in zip(self.values["minires"], self.peak, strict=True)])

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        summary: dict[str, Any] = {
            "spread": {name: asdict(spread) for name, spread in self.spread.items()},
            "minires divided by": {name: asdict(ratio) for name, ratio in self.ratios.items()},
        }
        if self.flop:
            summary["GFLOP/s"] = self.gflops
        if self.peak:
            summary["of peak"] = asdict(self.of_peak)
        return {**asdict(self), "summary": summary}


class Table:
    """Rows as lines of text, at most 100 columns, each as soon as it is there.

    Args:
        others: names of the other contenders.
    """

    def __init__(self, others: tuple[str, ...] = ()) -> None:
        self._others, self._bench, self._heading = others, "", ""

    def lines(self, row: Row) -> list[str]:
        """The line of a row, after the head of its table and its heading where these are new."""
        new = []
        if row.bench != self._bench:
            new += ["", self._head(row)]
        if (row.bench, row.heading) != (self._bench, self._heading):
            new.append(row.heading)
        self._bench, self._heading = row.bench, row.heading
        return [*new, self._line(row)]

    def _head(self, row: Row) -> str:
        unit = _UNITS[row.unit]
        text = f"{row.bench:<22}{'minires ' + unit:>10}" + _RATES.get(row.bench, "")
        if not self._others:
            return text + "  quartiles"
        others = (name for name in self._others if row.bench != "overhead" or name != "channels_last")
        return text + "".join(f"  {name + ' ' + unit + ', ratio':<24}" for name in others).rstrip()

    def _line(self, row: Row) -> str:
        ours = row.spread["minires"]
        text = f"  {row.name:<20}{_figures(ours.median):>10}"
        if row.peak:
            text += f"{row.gflops:>8.1f}{row.of_peak.median:>8.0%}"
        elif row.images and row.unit == "ms":
            text += f"{_figures(1e3 * row.images / ours.median):>9}"
        else:
            text += " " * len(_RATES.get(row.bench, ""))
        if not self._others:
            text += f"  {_figures(ours.low)} - {_figures(ours.high)}"
        for name, ratio in row.ratios.items():
            figures = f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
            text += f"  {_figures(row.spread[name].median):>6}  {figures:<16}"
        return text.rstrip()


_UNITS = {"ms": "ms", "us": "µs", "MB": "MB"}
_IMAGES = f"{'images/s':>9}"
_RATES = {"kernels": f"{'GFLOP/s':>8}{'of peak':>8}", "step": _IMAGES, "inference": _IMAGES}


def disturbed(share: float | None) -> list[str]:
    """A warning, if others have used more than a little of the machine."""
    if share is None or share < 0.05:
        return []
    return [f"Other programs used {share:.0%} of all cores meanwhile: measure again on a quiet machine."]


def notes(rows: list[Row]) -> list[str]:
    """What a reader of the table has to know."""
    told = []
    benches = {row.bench for row in rows}
    if "kernels" in benches:
        peak = Spread.of([p for row in rows for p in row.peak])
        told.append(
            "GFLOP/s count 2 for each multiply-add of the direct algorithm; Winograd needs fewer and may pass\n"
            f"the peak, {peak.median:.0f} GFLOP/s ({peak.low:.0f} - {peak.high:.0f}): "
            "one large float32 product by BLAS, in turn with the kernels."
        )
    if any(row.ratios for row in rows):
        told.append("Ratios are minires / PyTorch, below 1 where minires needs less: median of the rounds, quartiles.")
    if rows and min(len(row.values["minires"]) for row in rows) < 5:
        told.append("So few rounds say little: take --rounds 5 or more before you believe a difference.")
    return told


def _figures(value: float) -> str:
    """Three figures or so."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """With the unit that suits it."""
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size:
            return f"{_figures(seconds / size)} {unit}"
    return f"{_figures(1e3 * seconds)} ms"
