"""What was measured, as pictures; needs no GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from minires.bench import chart
from minires.bench.report import Row
from minires.errors import MiniresError

from .record import read_all, rows_of

_OUR_OTHERS = ("minires eager", "cuda-im2col")
_COLOURS = {"resnet20": "#3b6fb6", "resnet56": "#1d3557", "plain20": "#e08e2b", "plain56": "#a4510f"}


def draw_all(out: Path) -> list[Path]:
    """Draw every result in a folder, beside the files; the pictures.

    Raises:
        MiniresError: there is nothing to draw.
    """
    results = {name: result for name, result in read_all(out).items() if "failed" not in result}
    drawn = []
    for name, result in results.items():
        if result.get("rows"):
            drawn.append(out / f"{name}.png")
            chart.draw([_beside_pytorch(row) for row in rows_of(result)], drawn[-1], _title(result))
    if "ladder" in results:
        drawn.append(_ladder(results["ladder"], out / "ladder.png"))
    curves = {name: result for name, result in results.items() if name.startswith("schedule-")}
    if curves:
        drawn.append(_schedules(curves, out / "schedules.png"))
    if not drawn:
        raise MiniresError(f"{out} holds no results of the suite. Run it there first: --out {out}.")
    return drawn


def _beside_pytorch(row: Row) -> Row:
    """The row without minires's other ways of doing the same."""
    return replace(row, values={name: v for name, v in row.values.items() if name not in _OUR_OTHERS})


def _title(result: dict[str, Any]) -> str:
    machine = result["machine"]
    rehearsal = "A REHEARSAL, NOT A MEASUREMENT. " if result["rehearsal"] else ""
    return (f"{rehearsal}{result['title']}\n{machine['card']}, CuPy {machine['CuPy']}, PyTorch {machine['PyTorch']}, "
            f"{result['date'][:10]}")  # fmt: skip


def _ladder(result: dict[str, Any], picture: Path) -> Path:
    """Each rung as measured, and the range that was predicted for it."""
    figure, canvas = chart._figure(9, 1.2 + 0.4 * len(result["rungs"]))
    axes = figure.subplots()
    for at, rung in enumerate(result["rungs"]):
        if rung["predicted images/s"]:
            low, high = rung["predicted images/s"]
            low, high = (low, high) if low < high else (0.9 * low, 1.1 * high)
            axes.barh(at, high - low, 0.8, left=low, color="#dddddd", label=None if at else "predicted")
        axes.plot(rung["images/s"], at, "o", color=_COLOURS["resnet20"], label=None if at else "measured")
    axes.set_yticks(range(len(result["rungs"])), [rung["rung"] for rung in result["rungs"]], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(f"images/s of a training step of {result['network']}, batch {result['batch']}")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle(_title(result), fontsize=11)
    canvas.print_png(picture)
    return picture


def _schedules(results: dict[str, dict[str, Any]], picture: Path) -> Path:
    """Test error of all runs against the iteration, the training error thin."""
    figure, canvas = chart._figure(9, 4.6)
    axes = figure.subplots()
    for name, result in results.items():
        network, _, peer = name.removeprefix("schedule-").partition("-")
        colour, style = _COLOURS[network], "--" if peer else "-"
        iterations, errors, _ = zip(*result["tests"], strict=True)
        label = f"{network}{' in PyTorch' if peer else ''}: {100 * result['test error']:.2f}%"
        axes.plot(iterations, [100 * e for e in errors], style, color=colour, lw=1.4, label=label)
        if result["training"]:
            iterations, errors, _ = zip(*result["training"], strict=True)
            axes.plot(iterations, [100 * e for e in errors], style, color=colour, lw=0.5, alpha=0.5)
    first = next(iter(results.values()))
    axes.set(xlabel="iteration", ylabel=f"error (%) on {first['data']}: test, and training thin")
    axes.set_ylim(0, 30 if not first["rehearsal"] else None)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    rehearsal = "A REHEARSAL, NOT A MEASUREMENT. " if first["rehearsal"] else ""
    figure.suptitle(f"{rehearsal}The paper's schedule, {first['precision']}: {first['machine']['card']}", fontsize=11)
    canvas.print_png(picture)
    return picture
