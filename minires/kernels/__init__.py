"""The hot loops: plain arrays in, plain arrays out.  No kernel knows a Tensor; no operation knows which kernel runs.

Every set has the same functions with the same arguments:

    relu(x), relu_dx(dy, y), add(a, b)
    conv2d(x, w, b, stride, padding, dilation, groups, residual, relu), conv2d_moments(...) -> y, mean, var
    conv2d_backward(dy, x, w, x_shape, w_shape, ...) -> dx, dw;  channel_sum(x)
    max_pool2d(x, kernel, stride, padding) -> y, chosen;  max_pool2d_dx(dy, chosen, x_shape, ...)
    avg_pool2d(x, kernel, stride, padding);  avg_pool2d_dx(dy, x_shape, ...)
    moments(x) -> mean, var;  batch_norm(x, gamma, beta, mean, var, eps, residual, relu)
    batch_norm_backward(dy, y, x, gamma, mean, var, eps) -> dx, dgamma, dbeta, dresidual
    conv2d_norm_backward(dy, y, z, gamma, mean, var, eps, x, w, x_shape, w_shape, ..., residual=)
    cross_entropy(logits, labels, label_smoothing) -> losses, probabilities;  cross_entropy_dx(...)
    sgd(value, grad, velocity, lr, momentum, weight_decay, nesterov), in place

``reference`` is the definition, in loops to be read; ``numpy`` is fast.  Tests hold them equal.
"""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any

from ..errors import ArgumentError
from . import numpy as _numpy
from . import reference as _reference

KERNELS: dict[str, ModuleType] = {"reference": _reference, "numpy": _numpy}


class _Choice(threading.local):
    name = "numpy"


_choice = _Choice()


def active() -> ModuleType:
    """The set of kernels in use in this thread."""
    return KERNELS[_choice.name]


def chosen() -> str:
    """Its name."""
    return _choice.name


class use_kernels:
    """Compute with another set of kernels inside a ``with`` block, in this thread.

    Args:
        name: ``"reference"`` (plain loops, the definition) or ``"numpy"`` (vectorised, the default).
    """

    def __init__(self, name: str) -> None:
        if name not in KERNELS:
            raise ArgumentError(f"use_kernels: there are no kernels {name!r}; choose one of {', '.join(KERNELS)}.")
        self._name = name
        self._before: list[str] = []

    def __enter__(self) -> use_kernels:
        self._before.append(_choice.name)
        _choice.name = self._name
        return self

    def __exit__(self, *exception: Any) -> None:
        _choice.name = self._before.pop()


__all__ = ["KERNELS", "active", "chosen", "use_kernels"]
