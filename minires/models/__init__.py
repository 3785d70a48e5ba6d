"""Residual networks and their plain twins."""

from .blocks import BasicBlock, Bottleneck, IdentityShortcut, ProjectionShortcut, make_shortcut
from .resnet import (
    ResNet,
    build,
    cifar_resnet,
    imagenet_resnet,
    parse_name,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "IdentityShortcut",
    "ProjectionShortcut",
    "ResNet",
    "build",
    "cifar_resnet",
    "imagenet_resnet",
    "make_shortcut",
    "parse_name",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
]
