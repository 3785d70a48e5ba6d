"""minires summary."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import ArgumentError
from ..inspect import summary
from ..models import build, parse_name
from ..models.blocks import SHORTCUTS
from ..models.resnet import IMAGENET_LAYOUTS
from .device import add_device


def add(commands: Any) -> None:
    """Enter the command."""
    parser = commands.add_parser(
        "summary",
        help="what a network costs",
        description="Output shape, parameters, multiply-adds and memory of each layer, and the totals.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", help="resnetN or plainN")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="of the picture (32, or 224 for resnet18 to 152)")
    parser.add_argument("--shortcut", choices=SHORTCUTS, help="A for small pictures, B for large")
    parser.add_argument("--stride-in", choices=("3x3", "1x1"), help="of bottlenecks: 3x3 (default), or the paper's 1x1")
    parser.add_argument("--classes", type=int, help="10, or 1000 for resnet18 to 152")
    add_device(parser)


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    for name in ("size", "classes"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ArgumentError(f"--{name} must be positive, got {getattr(options, name)}.")
    names = ("shortcut", "stride_in", "classes")
    model, size = model_and_size(options.model, {n: v for n in names if (v := getattr(options, n)) is not None})
    size = options.size or size
    print(summary(model.to(options.device), (size, size, 3)))


def model_and_size(name: str, options: dict[str, Any]) -> tuple[Any, int]:
    """The network of that name, and the pictures it is meant for."""
    large = parse_name(name)[0] in IMAGENET_LAYOUTS
    if "stride_in" in options and not large:
        raise ArgumentError(f"--stride-in is for bottlenecks (resnet50, 101, 152); {name} has none.")
    return build(name, generator=0, **options), 224 if large else 32
