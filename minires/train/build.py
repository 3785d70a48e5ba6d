"""From a configuration to the things it names: network, optimiser, schedule."""

from __future__ import annotations

from typing import Any

from ..models import build
from ..nn import Module
from ..optim import SGD, Adam, ConstantLR, CosineLR, MultiStepLR, Optimizer, Schedule, WarmUp
from .config import Config


def model_for(config: Config, image_shape: tuple[int, ...], classes: int) -> Module:
    """The network of a configuration for pictures (H, W, C)."""
    options: dict[str, Any] = {
        "classes": classes,
        "in_channels": image_shape[2],
        "zero_init_residual": config.zero_init_residual,
        "generator": config.seed,
    }
    if config.shortcut is not None:
        options["shortcut"] = config.shortcut
    if config.width != Config.width:
        options["width"] = config.width
    return build(config.model, **options)


def build_optimizer(config: Config, model: Module) -> Optimizer:
    """The optimiser of a configuration; with ``decay="weights"`` biases, gammas and betas do not decay."""
    parameters = list(model.parameters())
    if config.decay == "weights":
        groups: list[Any] = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    else:
        groups = parameters
    if config.optimizer == "adam":
        return Adam(groups, lr=config.lr, weight_decay=config.weight_decay)
    return SGD(groups, config.lr, config.momentum, config.weight_decay, config.nesterov)


def build_schedule(config: Config, optimizer: Optimizer, iterations: int) -> Schedule:
    """The learning-rate schedule of a configuration, with its warm-up."""
    schedule: Schedule
    if config.schedule == "steps":
        schedule = MultiStepLR(optimizer, config.drops(iterations), config.gamma)
    elif config.schedule == "cosine":
        schedule = CosineLR(optimizer, iterations)
    else:
        schedule = ConstantLR(optimizer)
    warmup = config.warmup_length(iterations)
    if warmup and config.lr:
        schedule = WarmUp(schedule, warmup, config.warmup_lr / config.lr, config.warmup_shape)
    return schedule
