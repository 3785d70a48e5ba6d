"""Residual networks for 32x32 and 224x224 pictures, and their plain twins (He et al. 2015, arXiv 1512.03385)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import functional as F
from ..errors import ArgumentError
from ..nn import BatchNorm2d, Conv2d, GlobalAvgPool2d, Linear, MaxPool2d, Module, Sequential
from ..tensor import Tensor, fused
from .blocks import BasicBlock, Bottleneck, check_stride_in, make_shortcut

# depth: blocks in each of the four stages, kind of block (table 1 of the paper)
IMAGENET_LAYOUTS: dict[int, tuple[tuple[int, ...], type[BasicBlock] | type[Bottleneck]]] = {
    18: ((2, 2, 2, 2), BasicBlock),
    34: ((3, 4, 6, 3), BasicBlock),
    50: ((3, 4, 6, 3), Bottleneck),
    101: ((3, 4, 23, 3), Bottleneck),
    152: ((3, 8, 36, 3), Bottleneck),
}

# window, stride and padding of the first convolution
_STEMS = {"cifar": (3, 1, 1), "imagenet": (7, 2, 3)}


class ResNet(Module):
    """A stem, stages of blocks, global average pooling and a linear classifier.

    The first block of every stage but the first halves the picture; the channels double.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        blocks: how many in each stage.
        widths: channels of each stage, before a bottleneck's factor of 4.
        classes: outputs.
        in_channels: of the pictures.
        stem: "cifar", a 3x3 convolution, or "imagenet", a 7x7 one with stride 2 and a 3x3 max pooling with stride 2.
        shortcut: "A", "B" or "C", see `make_shortcut`.
        residual: False leaves out every shortcut: the plain twin.
        zero_init_residual: start the last gamma of each block at 0, so that every block starts as the identity.
        generator: for the initial weights: a generator, a seed, or None for the default generator.
        **options: for the block: ``stride_in`` of `Bottleneck`.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        classes: int,
        in_channels: int = 3,
        stem: str = "imagenet",
        shortcut: str = "B",
        residual: bool = True,
        zero_init_residual: bool = False,
        generator: np.random.Generator | int | None = None,
        **options: Any,
    ) -> None:
        if stem not in _STEMS:
            raise ArgumentError(f"ResNet: the stem must be one of {', '.join(_STEMS)}, got {stem!r}.")
        if zero_init_residual and not residual:
            raise ArgumentError("zero_init_residual needs shortcuts: a plain network that starts at zero stays there.")
        rng = np.random.default_rng(generator) if isinstance(generator, int | np.integer) else generator
        window = _STEMS[stem]
        self.conv = Conv2d(in_channels, widths[0], *window, bias=False, generator=rng)
        self.bn = BatchNorm2d(widths[0])
        self.pool = MaxPool2d(3, 2, 1) if stem == "imagenet" else None
        channels = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            stack = []
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                out = width * block.expansion
                path = make_shortcut(shortcut, channels, out, stride, rng) if residual else None
                stack.append(block(channels, width, stride, path, generator=rng, **options))
                channels = out
            setattr(self, f"stage{stage}", Sequential(*stack))
        self.stages = len(blocks)
        self.global_pool = GlobalAvgPool2d()
        self.fc = Linear(channels, classes, generator=rng)
        if zero_init_residual:
            for stacked in self.blocks():
                stacked.last_norm.gamma.data[...] = 0

    def blocks(self) -> list[Any]:
        """All blocks, first to last."""
        return [block for stage in range(1, self.stages + 1) for block in getattr(self, f"stage{stage}")]

    @fused
    def forward(self, x: Tensor) -> Tensor:
        """Pictures (N, H, W, C) -> logits (N, classes)."""
        x = F.relu(self.bn(self.conv(x)))
        if self.pool is not None:
            x = self.pool(x)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"stage{stage}")(x)
        return self.fc(self.global_pool(x))


def cifar_resnet(
    depth: int,
    shortcut: str = "A",
    residual: bool = True,
    classes: int = 10,
    width: int = 16,
    in_channels: int = 3,
    zero_init_residual: bool = False,
    generator: np.random.Generator | int | None = None,
) -> ResNet:
    """The network of section 4.2 for small pictures: 6n + 2 layers, three stages of n basic blocks.

    Args:
        depth: 6n + 2: 8, 14, 20, 32, 44, 56, 110, 1202, ...
        shortcut: "A" (the paper's), "B" or "C".
        residual: False for the plain twin, which has exactly as many parameters as option A.
        classes, in_channels: outputs, and channels of the pictures.
        width: channels of the first stage; 16 in the paper.
        zero_init_residual, generator: see `ResNet`.

    Raises:
        ArgumentError: the depth is not 6n + 2.
    """
    if not isinstance(depth, int):
        raise ArgumentError(f"cifar_resnet: the depth must be an integer, got {depth!r}.")
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        near = max(1, round((depth - 2) / 6)) * 6 + 2
        raise ArgumentError(
            f"cifar_resnet: the depth must be 6n + 2 (8, 14, 20, 32, 56, 110, ...), got {depth}; {near} is near."
        )
    return ResNet(
        BasicBlock, (n,) * 3, (width, 2 * width, 4 * width), classes, in_channels, "cifar", shortcut, residual,
        zero_init_residual, generator,
    )  # fmt: skip


def imagenet_resnet(
    depth: int,
    shortcut: str = "B",
    residual: bool = True,
    classes: int = 1000,
    in_channels: int = 3,
    stride_in: str = "3x3",
    zero_init_residual: bool = False,
    generator: np.random.Generator | int | None = None,
) -> ResNet:
    """The network of table 1 for 224x224 pictures.

    Args:
        depth: 18, 34, 50, 101 or 152.
        shortcut: "A", "B" (the usual) or "C".
        residual: False for the plain twin.
        classes, in_channels: outputs, and channels of the pictures.
        stride_in: for bottlenecks, "3x3" (default) or "1x1" (the paper's), see `Bottleneck`.
        zero_init_residual, generator: see `ResNet`.
    """
    if depth not in IMAGENET_LAYOUTS:
        depths = ", ".join(map(str, IMAGENET_LAYOUTS))
        raise ArgumentError(f"imagenet_resnet: the depth must be one of {depths}, got {depth}.")
    check_stride_in(stride_in)  # of no effect on 18 and 34 layers, but a misspelling is one all the same
    blocks, block = IMAGENET_LAYOUTS[depth]
    options = {"stride_in": stride_in} if block is Bottleneck else {}
    return ResNet(
        block, blocks, (64, 128, 256, 512), classes, in_channels, "imagenet", shortcut, residual, zero_init_residual,
        generator, **options,
    )  # fmt: skip


def resnet18(**options: Any) -> ResNet:
    """ResNet-18; options of `imagenet_resnet`."""
    return imagenet_resnet(18, **options)


def resnet34(**options: Any) -> ResNet:
    """ResNet-34; options of `imagenet_resnet`."""
    return imagenet_resnet(34, **options)


def resnet50(**options: Any) -> ResNet:
    """ResNet-50; options of `imagenet_resnet`."""
    return imagenet_resnet(50, **options)


def resnet101(**options: Any) -> ResNet:
    """ResNet-101; options of `imagenet_resnet`."""
    return imagenet_resnet(101, **options)


def resnet152(**options: Any) -> ResNet:
    """ResNet-152; options of `imagenet_resnet`."""
    return imagenet_resnet(152, **options)


def build(name: str, **options: Any) -> ResNet:
    """A network by name: ``resnet20`` or ``plain20`` for small pictures, ``resnet18/34/50/101/152`` for large ones.

    18, 34, 50, 101 and 152 are always the networks of table 1, ``plain18`` and ``plain34`` included.

    Raises:
        ArgumentError: an unknown name, saying which there are.
    """
    depth, residual = parse_name(name)
    make = imagenet_resnet if depth in IMAGENET_LAYOUTS else cifar_resnet
    if make is imagenet_resnet and "width" in options:
        raise ArgumentError(f"{name} has the widths of table 1; a width can be chosen for small-picture networks only.")
    return make(depth, residual=residual, **options)


def parse_name(name: str) -> tuple[int, bool]:
    """``"plain20"`` as (20, False): the depth, and whether the network is residual.

    Raises:
        ArgumentError: it is not resnetN or plainN.
    """
    match = re.fullmatch(r"(resnet|plain)([0-9]{1,6})", name)
    if match is None:
        raise ArgumentError(
            f"there is no model {name!r}; choose resnetN or plainN with N = 8, 14, 20, 32, 44, 56, 110, 1202 or any "
            f"other 6n + 2 for small pictures, or {', '.join(map(str, IMAGENET_LAYOUTS))} for 224x224."
        )
    return int(match[2]), match[1] == "resnet"
