"""Measurements as bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .report import Row
from .timing import Spread

_BLUE, _ORANGE, _GREY = "#3b6fb6", "#e08e2b", "#5b5b5b"  # told apart by colour-blind readers too
_COLOURS = {"minires": _BLUE, "torch": _BLUE, "channels_last": _ORANGE}
_UNITS = {"ms": "ms", "us": "µs for each operation", "MB": "MB"}


def draw(rows: list[Row], picture: Path, title: str) -> None:
    """A panel for each kind of measurement, as a PNG.

    Beside others: minires divided by each of them, with quartiles and a line at 1.  Alone: the median itself, or for
    kernels their part of the BLAS peak.
    """
    panels = _panels(rows)
    figure, canvas = _figure(9, 0.6 + sum(map(_height, panels)))
    heights = {"height_ratios": [_height(p) for p in panels]}
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False, gridspec_kw=heights)[:, 0], panels, strict=True):
        _draw_panel(axes, panel)
    figure.suptitle(title, fontsize=11)
    canvas.print_png(picture)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    # here and not above: matplotlib takes most of a second to import
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    return figure, FigureCanvasAgg(figure)


def _panels(rows: list[Row]) -> list[list[Row]]:
    """Rows that share an axis: one bench, and those compared apart from those that are not."""
    panels: dict[Any, list[Row]] = {}
    for row in rows:
        panels.setdefault((row.bench, bool(row.ratios), row.unit, bool(row.peak)), []).append(row)
    return list(panels.values())


def _height(panel: list[Row]) -> float:
    return 0.9 + 0.2 * sum(max(1, len(row.ratios)) for row in panel)


def _draw_panel(axes: Any, panel: list[Row]) -> None:
    labels, shown = [], set()
    for at, row in enumerate(panel):
        bars = row.ratios or {"minires": row.of_peak if row.peak else row.spread["minires"]}
        thickness = 0.8 / len(bars)
        for i, (name, spread) in enumerate(bars.items()):
            whiskers = [[spread.median - spread.low], [spread.high - spread.median]]
            label = f"minires / {name}" if row.ratios and name not in shown else None
            shown.add(name)
            axes.barh(at + (i - (len(bars) - 1) / 2) * thickness, spread.median, thickness, xerr=whiskers,
                      color=_COLOURS.get(name, _GREY), ecolor="black", error_kw={"lw": 0.8}, label=label)  # fmt: skip
        labels.append(_label(row))
    first = panel[0]
    axes.set_yticks(range(len(panel)), labels, fontsize=7)
    axes.set_ylim(-0.6, len(panel) - 0.4)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_title(first.bench, fontsize=10, loc="left")
    if first.ratios:
        axes.axvline(1, color="black", lw=1)
        axes.set_xlabel(f"{'memory' if first.bench == 'memory' else 'time'} of minires / of PyTorch: below 1 is better")
        axes.legend(frameon=False, fontsize=8, ncol=2, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)
    elif first.peak:
        axes.axvline(1, color="black", lw=1)
        axes.set_xlabel("part of the BLAS peak, by the multiply-adds of the direct algorithm")
    else:
        axes.set_xlabel(_UNITS[first.unit])


def _label(row: Row) -> str:
    where = row.heading.partition(f" in {row.model}")[0].rpartition(",")[0] if row.bench == "kernels" else row.heading
    return f"{where.replace(' channels', '')}, {row.name}"


def draw_ladder(names: list[str], seconds: list[Spread], picture: Path, title: str) -> None:
    """The time of each rung on a logarithmic axis, as a PNG."""
    figure, canvas = _figure(9, 1.2 + 0.45 * len(names))
    axes = figure.subplots()
    bars = axes.barh(range(len(names)), [s.median for s in seconds], color=[_GREY] + [_BLUE] * (len(names) - 1))
    axes.bar_label(bars, [f" {text}" for text in names], fontsize=8)
    axes.set_yticks([])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set(xlabel="seconds for one training step (logarithmic)")
    medians = [s.median for s in seconds]
    axes.set_xlim(min(medians) / 3, 40 * max(medians))  # room for the names
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=11)
    canvas.print_png(picture)
