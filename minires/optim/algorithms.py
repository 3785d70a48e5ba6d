"""Stochastic gradient descent with momentum, and Adam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import kernels
from ..errors import ArgumentError
from .optimizer import Optimizer, check_not_negative


class SGD(Optimizer):
    """v <- momentum v + g,  p <- p - lr v,  where g = dL/dp + weight_decay p.

    The learning rate is applied last, as in PyTorch; Caffe and the original ResNet code keep v = momentum v + lr g,
    which is the same while lr does not change.

    Args:
        params: tensors or groups, see `Optimizer`.
        lr: learning rate.
        momentum: of the velocity v.
        weight_decay: L2 penalty; adds weight_decay * p to the gradient.
        nesterov: step along g + momentum v instead of v (Sutskever et al. 2013).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})

    def check(self, group: dict[str, Any]) -> None:
        """Raise ArgumentError for settings that make no sense."""
        check_not_negative("SGD", lr=group["lr"], momentum=group["momentum"], weight_decay=group["weight_decay"])
        if group["nesterov"] and not group["momentum"]:
            raise ArgumentError("SGD: nesterov needs a momentum above 0.")

    def update(self, value: Any, grad: Any, group: dict[str, Any], state: dict[str, Any]) -> None:
        """One step for one parameter, in place."""
        velocity = None
        if group["momentum"]:
            velocity = state.get("momentum")
            if velocity is None:
                velocity = state["momentum"] = np.zeros_like(value)
        settings = group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]
        kernels.active().sgd(value, grad, velocity, *settings)


class Adam(Optimizer):
    """p <- p - lr mhat / (sqrt(vhat) + eps): Kingma and Ba 2015, algorithm 1.

    Args:
        params: tensors or groups, see `Optimizer`.
        lr: learning rate.
        betas: decay of the first and second moments.
        eps: added to the denominator.
        weight_decay: L2 penalty, added to the gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    def check(self, group: dict[str, Any]) -> None:
        """Raise ArgumentError for settings that make no sense."""
        check_not_negative("Adam", lr=group["lr"], eps=group["eps"], weight_decay=group["weight_decay"])
        if not all(0 <= beta < 1 for beta in group["betas"]):
            raise ArgumentError(f"Adam: betas must lie in [0, 1), got {group['betas']}.")

    def update(self, value: Any, grad: Any, group: dict[str, Any], state: dict[str, Any]) -> None:
        """One step for one parameter, in place."""
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * value
        if not state:
            state.update(step=0, first=np.zeros_like(value), second=np.zeros_like(value))
        state["step"] += 1
        first, second = state["first"], state["second"]
        beta1, beta2 = group["betas"]
        first *= beta1
        first += (1 - beta1) * grad
        second *= beta2
        second += (1 - beta2) * grad * grad
        scale = group["lr"] / (1 - beta1 ** state["step"])
        value -= scale * first / (np.sqrt(second / (1 - beta2 ** state["step"])) + group["eps"])
