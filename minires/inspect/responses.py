"""How strongly each layer answers: the standard deviations of He et al. 2015, figure 7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import asnumpy
from ..errors import ArgumentError
from ..nn import BatchNorm2d, Conv2d, Module
from .trace import left_as_it_was, prepared, trace


@dataclass(frozen=True)
class Responses:
    """Standard deviations of layer responses.

    Attributes:
        names: of the layers, in the order in which they ran.
        std: one number for each.
    """

    names: list[str]
    std: np.ndarray

    @property
    def by_magnitude(self) -> np.ndarray:
        """The same, largest first: the lower half of the paper's figure."""
        return np.sort(self.std)[::-1]

    def __str__(self) -> str:
        width = max(len(name) for name in self.names)
        return "\n".join(f"{name:<{width}}  {std:.4f}" for name, std in zip(self.names, self.std, strict=True))

    def plot(self, label: str = "", axes: Any = None) -> Any:
        """Draw them in their order and by magnitude; ``axes`` of another network's figure draws into that one.

            figure = inspect.responses(plain, x).plot("plain")
            inspect.responses(residual, x).plot("residual", figure.axes)

        Returns:
            the matplotlib Figure.
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        if axes is None:
            figure = Figure(figsize=(9, 3.2), layout="constrained")
            axes = figure.subplots(1, 2, sharey=True)
            axes[0].set(xlabel="layer", ylabel="standard deviation of the response")
            axes[1].set(xlabel="layers, by magnitude")
        for ax, values in zip(axes, (self.std, self.by_magnitude), strict=False):
            ax.plot(np.arange(1, len(values) + 1), values, ".-", label=label)
            ax.set_ylim(0, 1.1 * max(float(np.max(line.get_ydata())) for line in ax.lines))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            if label:
                ax.legend(frameon=False)
        return axes[0].figure


def responses(model: Module, inputs: Any) -> Responses:
    """The standard deviation of the output of each layer, after batch norm and before anything else.

    He et al. 2015, section 4.2 and figure 7: of every convolution with a window larger than 1x1 (the 3x3 layers of the
    paper), over all pictures, pixels and channels.  Where a batch norm takes a convolution's output, its own output is
    what counts; a convolution with none counts by itself.

    Args:
        model: runs in its present mode; call ``model.eval()`` for the paper's figure.  Left as it was.
        inputs: pictures (N, H, W, C).

    Raises:
        ArgumentError: the model has no such layer.
    """
    x = prepared(model, inputs)
    with left_as_it_was(model):
        calls = trace(model, x, record=False).calls
    # A forward hook sees the very tensors that are passed on: the batch norm of a convolution is the one that took its
    # output in.
    normalised = {
        id(t): call for call in calls if isinstance(call.module, BatchNorm2d) for t in call.inputs[:1]
    }  # fmt: skip
    layers = [
        (call.name, normalised.get(id(call.output), call).output)
        for call in calls
        if isinstance(call.module, Conv2d) and max(call.module.weight.shape[:2]) > 1
    ]
    if not layers:
        raise ArgumentError("responses: the model has no convolution with a window larger than 1x1.")
    return Responses([name for name, _ in layers], np.array([float(asnumpy(y.data).std()) for _, y in layers]))
