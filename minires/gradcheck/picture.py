"""A picture of what a gradient check found: where the gradient is wrong, and by how much."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .report import InputReport, Report

_WIDE = 56  # letters in a line of a title
_WINDOW = 7  # the largest first axes of what is taken for filters


def draw(report: Report) -> Any:
    """A figure with three maps for each input that failed, or for all if none did: yours, measured, and the error.

    Yours and measured share one scale of colours, from minus to plus the largest number measured.  The error is the
    relative one of the report, on a logarithmic scale from 1e-12 to 1; what was not measured is grey.  Pictures
    (N, H, W, C) are laid out as a table with a row for each picture and a column for each channel, filters (K, K, C, O)
    as one with C rows and O columns, everything else as a matrix with its last axis across.

    Returns:
        a matplotlib Figure; ``figure.savefig("error.png")`` writes it.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    shown = [r for r in report.inputs.values() if not r.ok] or list(report.inputs.values())
    figure = Figure(figsize=(10.5, 0.4 + 3.1 * len(shown)), layout="constrained")
    figure.suptitle(f"gradcheck {report.name}: {'ok' if report.ok else 'FAIL'}", x=0.01, ha="left", weight="bold")
    rows = figure.subplots(len(shown), 3, squeeze=False)
    errors_map = colormaps["magma"].with_extremes(bad="0.85")
    values_map = colormaps["RdBu_r"].with_extremes(bad="0.85")
    for axes, found in zip(rows, shown, strict=True):
        largest = float(np.nanmax(np.abs(found.numeric), initial=0.0)) or 1.0
        for ax, values, name in zip(axes, (found.analytic, found.numeric), ("yours", "measured"), strict=False):
            image = ax.imshow(
                _flat(values), values_map, vmin=-largest, vmax=largest, aspect="auto", interpolation="none"
            )
            ax.set_title(f"{found.name} {found.shape}: {name}" if name == "yours" else name, loc="left", fontsize=9)
        figure.colorbar(image, ax=list(axes[:2]), shrink=0.9)
        errors = np.clip(found.errors, 1e-12, 1)
        image = axes[2].imshow(_flat(errors), errors_map, norm=LogNorm(1e-12, 1), aspect="auto", interpolation="none")
        axes[2].set_title(textwrap.fill(_said(found), _WIDE), loc="left", fontsize=9)
        figure.colorbar(image, ax=axes[2], shrink=0.9)
        for ax in axes:
            ax.set_xticks([])
            ax.set_yticks([])
    return figure


def _said(found: InputReport) -> str:
    text = next(iter(found.hints), found.note)
    return f"{found.verdict}, relative error{': ' if text else ''}{text}"


def _flat(values: np.ndarray) -> np.ndarray:
    """An array of any rank as a matrix; see `draw`."""
    if values.ndim == 4:
        filters = values.shape[0] == values.shape[1] <= _WINDOW
        tiles = (
            values.transpose(2, 0, 3, 1) if filters else values.transpose(0, 1, 3, 2)
        )  # rows, height, columns, width
        rows, height, columns, width = tiles.shape
        return tiles.reshape(rows * height, columns * width)
    return values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
