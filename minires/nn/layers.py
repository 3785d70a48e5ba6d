"""Layers.  A layer holds parameters and calls `minires.functional`; it computes nothing itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import functional as F
from ..backend import default_generator
from ..errors import ArgumentError
from ..functional.checks import Size, pair, probability
from ..tensor import Tensor
from . import init
from .module import Module, Parameter


class Conv2d(Module):
    """`functional.conv2d` with weights (KH, KW, C_in / groups, C_out), initialised as in He et al. 2015.

    Args:
        in_channels, out_channels: C_in and C_out.
        kernel_size, stride, padding, dilation: an int or a pair (rows, columns).
        groups: must divide both channel counts.
        bias: add one number to each output channel; starts at 0.  Pointless before a batch norm, which removes it.
        generator: for the weights; the default generator if left out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        generator: np.random.Generator | None = None,
    ) -> None:
        if min(in_channels, out_channels, groups) < 1 or in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"Conv2d: groups {groups} must divide in_channels {in_channels} and out_channels {out_channels}, "
                "and all must be positive."
            )
        shape = (*pair(kernel_size, "Conv2d: kernel_size", 1), in_channels // groups, out_channels)
        self.stride, self.padding = pair(stride, "Conv2d: stride", 1), pair(padding, "Conv2d: padding", 0)
        self.dilation, self.groups = pair(dilation, "Conv2d: dilation", 1), groups
        self.weight = Parameter(init.he_normal(shape, generator or default_generator()))
        self.bias = Parameter(np.zeros(out_channels, np.float32)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C_in) -> (N, OH, OW, C_out)."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        kh, kw, per_group, out = self.weight.shape
        notes = f"{per_group * self.groups}, {out}, kernel_size=({kh}, {kw})"
        notes += f", stride={self.stride}, padding={self.padding}"
        notes += "" if self.dilation == (1, 1) else f", dilation={self.dilation}"
        notes += "" if self.groups == 1 else f", groups={self.groups}"
        return notes + ("" if self.bias is not None else ", bias=False")


class Linear(Module):
    """x @ weight + bias, weight (in_features, out_features) initialised as in He et al. 2015, bias 0."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, generator: np.random.Generator | None = None
    ) -> None:
        if min(in_features, out_features) < 1:
            raise ArgumentError(f"Linear: sizes must be positive, got {in_features} and {out_features}.")
        self.weight = Parameter(init.he_normal((in_features, out_features), generator or default_generator()))
        self.bias = Parameter(np.zeros(out_features, np.float32)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}" + ("" if self.bias is not None else ", bias=False")


class BatchNorm2d(Module):
    """`functional.batch_norm` over all axes but the last, with running statistics for evaluation.

    Args:
        channels: C.
        eps: added to the variance.
        momentum: weight of each batch in the running statistics.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        if channels < 1:
            raise ArgumentError(f"BatchNorm2d: channels must be positive, got {channels}.")
        self.eps, self.momentum = eps, momentum
        self.gamma = Parameter(np.ones(channels, np.float32))
        self.beta = Parameter(np.zeros(channels, np.float32))
        self.register_buffer("running_mean", np.zeros(channels, np.float32))
        self.register_buffer("running_var", np.ones(channels, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return F.batch_norm(
            x, self.gamma, self.beta, self.running_mean, self.running_var, self.training, self.momentum, self.eps
        )

    def extra_repr(self) -> str:
        return f"{self.gamma.size}, eps={self.eps}, momentum={self.momentum}"


class LayerNorm(Module):
    """`functional.layer_norm` over the last axes, whose shape is given."""

    def __init__(self, shape: int | tuple[int, ...], eps: float = 1e-5) -> None:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.eps = eps
        self.gamma = Parameter(np.ones(shape, np.float32))
        self.beta = Parameter(np.zeros(shape, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(..., *shape) -> (..., *shape)."""
        return F.layer_norm(x, self.gamma, self.beta, self.eps)

    def extra_repr(self) -> str:
        return f"{self.gamma.shape}, eps={self.eps}"


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return F.relu(x)


class _Pool2d(Module):
    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        name = type(self).__name__
        self.kernel_size = pair(kernel_size, f"{name}: kernel_size", 1)
        self.stride = self.kernel_size if stride is None else pair(stride, f"{name}: stride", 1)
        self.padding = pair(padding, f"{name}: padding", 0)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool2d(_Pool2d):
    """`functional.max_pool2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, OH, OW, C)."""
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding)


class AvgPool2d(_Pool2d):
    """`functional.avg_pool2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, OH, OW, C)."""
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding)


class GlobalAvgPool2d(Module):
    """The mean over all pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, C)."""
        return F.global_avg_pool2d(x)


class Flatten(Module):
    """All axes but the first made one."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, M)."""
        return F.flatten(x, 1)


class Dropout(Module):
    """`functional.dropout` with probability p when training; evaluation passes x through.

    Args:
        p: in [0, 1).
        generator: where the masks come from; the default generator if left out.
    """

    def __init__(self, p: float = 0.5, generator: np.random.Generator | None = None) -> None:
        self.p, self.generator = probability(p, "Dropout: p"), generator

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return F.dropout(x, self.p, self.training, self.generator)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Identity(Module):
    """x."""

    def forward(self, x: Any) -> Any:
        """Anything."""
        return x
