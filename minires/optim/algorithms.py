"""Stochastic gradient descent with momentum, and Adam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import kernels
from ..backend import array_module
from ..errors import ArgumentError
from ..kernels.cuda.descent import Descent
from ..tensor import Tensor
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

    Attributes:
        scaling: on a GPU, the state of a loss that was multiplied by a factor, see `kernels.cuda.descent.scaling_of`.
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
        self.scaling: Any = None
        self._descents = [Descent() for _ in self.groups]

    def check(self, group: dict[str, Any]) -> None:
        """Raise ArgumentError for settings that make no sense."""
        check_not_negative("SGD", lr=group["lr"], momentum=group["momentum"], weight_decay=group["weight_decay"])
        if group["nesterov"] and not group["momentum"]:
            raise ArgumentError("SGD: nesterov needs a momentum above 0.")

    def update_group(self, number: int, moved: list[tuple[Tensor, dict[str, Any]]]) -> None:
        """All parameters of a group that are on the GPU in one launch, each of the others by itself."""
        group, descent = self.groups[number], self._descents[number]
        values, grads = [p.data for p, _ in moved], [p.grad for p, _ in moved]
        velocities = [self._velocity(p.data, group, state) for p, state in moved]
        if values and descent.applies([*values, *grads, *velocities]):
            descent.set(*_settings(group))
            descent.step(values, grads, velocities, self.scaling)
        else:
            super().update_group(number, moved)

    def upload_settings(self) -> None:
        """Let a step that was recorded as a CUDA graph use the learning rates and other settings of this moment."""
        for group, descent in zip(self.groups, self._descents, strict=True):
            if descent.used:
                descent.set(*_settings(group))

    def update(self, value: Any, grad: Any, group: dict[str, Any], state: dict[str, Any]) -> None:
        """One step for one parameter, in place."""
        velocity = self._velocity(value, group, state)
        kernels.active(value).sgd(value, grad, velocity, *_settings(group))

    @staticmethod
    def _velocity(value: Any, group: dict[str, Any], state: dict[str, Any]) -> Any:
        """The velocity of a parameter, zero at first; None without momentum."""
        if not group["momentum"]:
            return None
        if "momentum" not in state:
            state["momentum"] = array_module(value).zeros_like(value)
        return state["momentum"]


def _settings(group: dict[str, Any]) -> tuple[float, ...]:
    return group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]


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
            zeros = array_module(value).zeros_like
            state.update(step=0, first=zeros(value), second=zeros(value))
        state["step"] += 1
        first, second = state["first"], state["second"]
        beta1, beta2 = group["betas"]
        first *= beta1
        first += (1 - beta1) * grad
        second *= beta2
        second += (1 - beta2) * grad * grad
        scale = group["lr"] / (1 - beta1 ** state["step"])
        value -= scale * first / (array_module(value).sqrt(second / (1 - beta2 ** state["step"])) + group["eps"])
