"""The log of a run: one JSON object on each line, and the curves drawn from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .checkpoint import replace_file


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add a record to the log."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole records; a last line that a kill cut off is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def cut_after(path: Path, iteration: int) -> None:
    """Forget records after an iteration: a resumed run writes them again."""
    kept = [record for record in read_lines(path) if record["iteration"] <= iteration]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    replace_file(path, lambda file: file.write(text.encode()))


def draw_curves(log: Path, picture: Path, title: str) -> None:
    """Loss and error against the epoch, training and test, as a PNG."""
    # here and not above: matplotlib takes most of a second to import, and most commands draw nothing
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_lines(log)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for panel, quantity, label, scale in zip(
        axes, ("loss", "error"), ("loss (nats)", "error (%)"), (1, 100), strict=True
    ):
        for kind, colour, width in (("train", "tab:blue", 1.0), ("test", "tab:red", 1.6)):
            points = [(r["epoch"], scale * r[quantity]) for r in records if r["kind"] == kind]
            if points:
                marker = "o" if len(points) < 40 and kind == "test" else None
                panel.plot(*zip(*points, strict=True), color=colour, lw=width, marker=marker, ms=3, label=kind)
        panel.set_xlabel("epoch")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(frameon=False)
    axes[0].set_yscale("log")
    axes[1].set_ylim(bottom=0)
    last = next((r["error"] for r in reversed(records) if r["kind"] == "test"), None)
    if last is not None:  # of the last epoch, not of the best: that would be choosing by the test set
        title += f": test error {100 * last:.2f}%"
    figure.suptitle(title, fontsize=11)
    figure.savefig(picture, dpi=130)
