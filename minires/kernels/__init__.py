"""The hot loops: plain arrays in, plain arrays out.  No kernel knows a Tensor; no operation knows which kernel runs.

Every set has the same functions with the same arguments:

    relu(x), relu_dx(dy, y), add(a, b)
    conv2d(x, w, b, stride, padding, dilation, groups, residual, relu, scale)
    conv2d_moments(x, w, b, stride, padding, dilation, groups, running) -> y, mean, var
    conv2d_backward(dy, x, w, x_shape, w_shape, ...) -> dx, dw;  channel_sum(x)
    max_pool2d(x, kernel, stride, padding, choose) -> y, chosen;  max_pool2d_dx(dy, chosen, x_shape, ...)
    avg_pool2d(x, kernel, stride, padding);  avg_pool2d_dx(dy, x_shape, ...)
    moments(x, running) -> mean, var;  batch_norm(x, gamma, beta, mean, var, eps, residual, relu)
    batch_norm_backward(dy, y, x, gamma, mean, var, eps) -> dx, dgamma, dbeta, dresidual
    conv2d_norm_backward(dy, y, z, gamma, mean, var, eps, x, w, x_shape, w_shape, ..., residual=)
    matmul(a, b, transpose_a, transpose_b), on a GPU of matrices only
    cross_entropy(logits, labels, label_smoothing) -> losses, probabilities;  cross_entropy_dx(...)
    sgd(value, grad, velocity, lr, momentum, weight_decay, nesterov), in place

and ``numpy`` alone, for a batch norm that takes its gradient while a convolution writes it,

    norm_receiver(so_far, y, x, mean) -> receiver or None
    conv2d_backward(..., onward=receiver), conv2d_norm_backward(..., received=, onward=)
    batch_norm_backward(..., received=receiver)

and ``cuda-implicit`` alone, where suits_linear_cross_entropy(x, w) says so,

    linear_cross_entropy(x, w, b, labels, label_smoothing) -> losses, logits, probabilities
    linear_cross_entropy_backward(dloss, share, probabilities, labels, label_smoothing, x, w) -> dx, dw, db

``reference`` is the definition, in loops to be read; ``numpy`` is fast; ``cuda-im2col`` and ``cuda-implicit`` compute
on a GPU, the one to be read and the other fast.  Tests hold them equal.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import numpy as np

from ..backend import device_of
from ..errors import ArgumentError
from . import cuda as _cuda
from . import numpy as _numpy
from . import reference as _reference

KERNELS: dict[str, Any] = {
    "reference": _reference,
    "numpy": _numpy,
    "cuda-im2col": _cuda.im2col,
    "cuda-implicit": _cuda.implicit,
}


_ndarray = np.ndarray  # to look it up in its module takes 0.03 us


class _Choice(threading.local):
    """For the CPU and for a GPU."""

    names = "numpy", "cuda-implicit"
    sets = tuple(KERNELS[name] for name in names)


_choice = _Choice()


def active(array: Any = None) -> Any:
    """The set of kernels that this thread uses for an array: of those for the device that it is on."""
    if type(array) is _ndarray or device_of(array) == "cpu":
        return _choice.sets[0]
    return _choice.sets[1]


def chosen() -> tuple[str, str]:
    """The names of the sets in use: for the CPU and for a GPU."""
    return _choice.names


class use_kernels:
    """Compute with other kernels inside a ``with`` block, in this thread.

    Args:
        names: one for each device that is to change.  On the CPU ``"reference"`` (plain loops, the definition) or
            ``"numpy"`` (fast, the default); on a GPU ``"cuda-im2col"`` (windows unrolled and multiplied, to be read) or
            ``"cuda-implicit"`` (nothing unrolled, the default).
    """

    def __init__(self, *names: str) -> None:
        for name in names:
            if name not in KERNELS:
                raise ArgumentError(f"use_kernels: there are no kernels {name!r}; choose one of {', '.join(KERNELS)}.")
        self._names = names
        self._before: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)  # by thread

    def __enter__(self) -> use_kernels:
        self._before[threading.get_ident()].append(chosen())
        cpu, cuda = chosen()
        for name in self._names:
            cpu, cuda = (cpu, name) if name.startswith("cuda") else (name, cuda)
        self._choose((cpu, cuda))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._choose(self._before[threading.get_ident()].pop())

    def _choose(self, names: tuple[str, str]) -> None:
        _choice.names, _choice.sets = names, tuple(KERNELS[name] for name in names)


__all__ = ["KERNELS", "active", "chosen", "use_kernels"]
