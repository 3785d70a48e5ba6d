"""The picture of a gradient's way through a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .flow import GradientFlow


def draw(flow: GradientFlow) -> Any:
    """Gradient norms by depth on a logarithmic axis; below, where there are skips, a bar of two shares for each block.

    Returns:
        a matplotlib Figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

    figure = Figure(figsize=(9, 5.6 if flow.blocks else 3), layout="constrained")
    rows = figure.subplots(2 if flow.blocks else 1, 1, squeeze=False)[:, 0]
    depth = np.arange(1, len(flow.layers) + 1)
    rows[0].semilogy(depth, [layer.gradient for layer in flow.layers], ".-", label="|dL/dy|, of the output")
    weighted = [(at, layer.weights) for at, layer in zip(depth, flow.layers, strict=True) if layer.weights]
    if weighted:
        rows[0].semilogy(*zip(*weighted, strict=True), ".", label="|dL/dw|, of the parameters")
    rows[0].set(xlabel="layer, from input to output", ylabel="norm of the gradient")
    rows[0].yaxis.set_minor_formatter(NullFormatter())
    rows[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    rows[0].legend(frameon=False)
    if flow.blocks:
        at = np.arange(len(flow.blocks))
        skip = np.array([block.skip_share for block in flow.blocks])
        branch = np.array([block.branch_share for block in flow.blocks])
        rows[1].bar(at, skip, 0.7, label="through the skip")
        rows[1].bar(at, branch, 0.7, bottom=np.where(branch > 0, np.maximum(skip, 0), 0), label="through the branch")
        rows[1].axhline(1, color="0.3", lw=0.8, ls=":")
        rows[1].set(
            ylabel="share of dL/dx",
            ylim=(min(0, skip.min(), branch.min()) * 1.1, max(1, skip.max(), branch.max()) * 1.05),
        )
        rows[1].set_xticks(at, [block.name for block in flow.blocks], rotation=0 if len(at) < 12 else 60)
        rows[1].yaxis.set_major_formatter(PercentFormatter(1))
        rows[1].legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return figure
