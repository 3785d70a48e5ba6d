"""The two residual blocks and the three shortcuts of He et al. 2015 (arXiv 1512.03385)."""

from __future__ import annotations

import numpy as np

from .. import functional as F
from ..errors import ArgumentError
from ..nn import BatchNorm2d, Conv2d, Module
from ..tensor import Tensor, fused


class IdentityShortcut(Module):
    """x itself; where the block changes the shape, every stride-th pixel with zero channels appended.

    Section 4.2, option A: no parameters, so a residual network and its plain twin have the same number of them.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        if out_channels < in_channels:
            raise ArgumentError(
                f"IdentityShortcut: cannot reduce {in_channels} channels to {out_channels}. Use a ProjectionShortcut."
            )
        self.out_channels, self.stride = out_channels, stride
        self.changes_shape = stride != 1 or out_channels != in_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C_in) -> (N, ceil(H / stride), ceil(W / stride), C_out)."""
        return F.subsample_pad(x, self.stride, self.out_channels) if self.changes_shape else x

    def extra_repr(self) -> str:
        return f"channels={self.out_channels}, stride={self.stride}" if self.changes_shape else ""


class ProjectionShortcut(Module):
    """A 1x1 convolution and batch norm: W_s x in eq. 2.  Option B where the shape changes, option C everywhere."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, generator: np.random.Generator | None = None
    ) -> None:
        self.conv = Conv2d(in_channels, out_channels, 1, stride, bias=False, generator=generator)
        self.bn = BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C_in) -> (N, ceil(H / stride), ceil(W / stride), C_out)."""
        return self.bn(self.conv(x))


SHORTCUTS = ("A", "B", "C")


def make_shortcut(option: str, in_channels: int, out_channels: int, stride: int, generator=None) -> Module:
    """The shortcut that option A, B or C puts around a block (section 3.3 and 4.1 of the paper)."""
    if option not in SHORTCUTS:
        raise ArgumentError(f"shortcut must be one of {', '.join(SHORTCUTS)}, got {option!r}.")
    changes_shape = stride != 1 or in_channels != out_channels
    if option == "C" or (option == "B" and changes_shape):
        return ProjectionShortcut(in_channels, out_channels, stride, generator)
    return IdentityShortcut(in_channels, out_channels, stride)


def check_stride_in(stride_in: str) -> None:
    """Raise ArgumentError unless it names a convolution of a `Bottleneck` that can have the stride."""
    if stride_in not in ("3x3", "1x1"):
        raise ArgumentError(f"Bottleneck: stride_in must be '3x3' or '1x1', got {stride_in!r}.")


class BasicBlock(Module):
    """Two 3x3 convolutions and a shortcut: relu(F(x) + shortcut(x)).  He et al. 2015, figure 2.

    Args:
        in_channels, channels: before and after the block.
        stride: of the first convolution.
        shortcut: the module on the other path, or None for the plain twin, relu(F(x)).
        generator: for the initial weights.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, shortcut: Module | None = None,
                 generator: np.random.Generator | None = None) -> None:  # fmt: skip
        self.conv1 = Conv2d(in_channels, channels, 3, stride, padding=1, bias=False, generator=generator)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False, generator=generator)
        self.bn2 = BatchNorm2d(channels)
        self.shortcut = shortcut

    @property
    def last_norm(self) -> BatchNorm2d:
        """The batch norm before the addition; its gamma scales the whole branch."""
        return self.bn2

    @fused
    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C_in) -> (N, H / stride, W / stride, channels)."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h if self.shortcut is None else h + self.shortcut(x))


class Bottleneck(Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut.  He et al. 2015, figure 5.

    The first convolution reduces the channels and the last makes four times as many, so that the 3x3 one is cheap.

    Args:
        in_channels: before the block.
        channels: in the middle; the block gives 4 times as many.
        stride: of the block.
        shortcut: the module on the other path, or None for a plain block.
        stride_in: "3x3" puts the stride in the middle convolution, as later practice does; "1x1" in the first, as the
            paper did.  The parameters are the same, the multiply-adds are not.
        generator: for the initial weights.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, shortcut: Module | None = None,
                 stride_in: str = "3x3", generator: np.random.Generator | None = None) -> None:  # fmt: skip
        check_stride_in(stride_in)
        first, middle = (stride, 1) if stride_in == "1x1" else (1, stride)
        out_channels = channels * self.expansion
        self.conv1 = Conv2d(in_channels, channels, 1, first, bias=False, generator=generator)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, middle, padding=1, bias=False, generator=generator)
        self.bn2 = BatchNorm2d(channels)
        self.conv3 = Conv2d(channels, out_channels, 1, bias=False, generator=generator)
        self.bn3 = BatchNorm2d(out_channels)
        self.shortcut = shortcut

    @property
    def last_norm(self) -> BatchNorm2d:
        """The batch norm before the addition; its gamma scales the whole branch."""
        return self.bn3

    @fused
    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C_in) -> (N, H / stride, W / stride, 4 channels)."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        return F.relu(h if self.shortcut is None else h + self.shortcut(x))
