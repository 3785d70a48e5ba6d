"""Normalisation, dropout and the linear map."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..backend import default_generator, gpu
from ..errors import ArgumentError, ShapeError
from ..ops import loss
from ..ops.activation import Dropout
from ..ops.norm import (
    BatchNorm,
    FixedBatchNorm,
    LayerNorm,
    due_convolution,
    with_batch_norm,
    with_fixed_batch_norm,
)
from ..tensor import Tensor, as_tensor, is_grad_enabled, later
from .checks import channels_match, floating, probability, same_device, same_dtype


def linear(x: Any, w: Any, b: Any = None) -> Tensor:
    """x @ w + b.

    Args:
        x: (..., I).
        w: (I, O): inputs down, outputs across, so that no transpose is needed.
        b: (O,), or None.

    Returns:
        (..., O)

    Raises:
        ShapeError: shapes that do not fit.
    """
    x, w = floating(x, "linear"), floating(w, "linear")
    b = None if b is None else floating(b, "linear")
    if w.ndim != 2 or not x.ndim or x.shape[-1] != w.shape[0]:
        raise ShapeError(
            f"linear: x {x.shape} @ w {w.shape} does not fit: the last axis of x must be as long as the first of w."
        )
    if b is not None and b.shape != w.shape[1:]:
        raise ShapeError(f"linear: the bias has shape {b.shape} but w {w.shape} makes {w.shape[1]} outputs.")
    same_dtype("linear", x=x, w=w, b=b)
    same_device("linear", x=x, w=w, b=b)
    return loss.linear(x, w, b)


def batch_norm(
    x: Any,
    gamma: Any,
    beta: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel to mean 0 and variance 1, then scale by gamma and shift by beta (Ioffe and Szegedy 2015).

    Args:
        x: (..., C); the moments are taken over all axes but the last.
        gamma, beta: (C,).
        running_mean, running_var: (C,), updated in place when training and used otherwise; None to keep none.
        training: use the moments of this batch.  The batch is normalised with the biased variance; the running one
            receives the unbiased estimate, as in PyTorch.
        momentum: weight of this batch in the running statistics: r <- (1 - momentum) r + momentum new.
        eps: added to the variance.

    Raises:
        ShapeError: shapes that do not match, fewer than two values in a channel, which have no variance, or only one
            of the running statistics.
        ArgumentError: several dtypes, or running statistics that are not Tensors.
    """
    x, gamma, beta = floating(x, "batch_norm"), as_tensor(gamma), as_tensor(beta)
    # who is asked in vain costs 3 us, a twentieth of a layer of one picture
    if not (gamma.shape == beta.shape == x.shape[-1:] and gamma.dtype is beta.dtype is x.dtype):
        channels_match("batch_norm", x, gamma=gamma, beta=beta)
        same_dtype("batch_norm", x=x, gamma=gamma, beta=beta)
    running = running_statistics(x, running_mean, running_var)
    if gpu.used:
        same_device("batch_norm", x=x, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    if not training:
        if running is None:
            raise ShapeError("batch_norm: evaluation needs running_mean and running_var, got None. Pass training=True.")
        if due_convolution(x) and not is_grad_enabled():
            return with_fixed_batch_norm(x, gamma, beta, *running, eps)
        return FixedBatchNorm.apply(x, gamma, beta, mean=running[0].data, var=running[1].data, eps=eps)
    count = x.size // max(1, x.shape[-1])
    if count < 2:
        raise ShapeError(
            f"batch_norm: training needs at least two values for each channel to have a variance, but x {x.shape} has "
            f"{count}. Use a larger batch, or model.eval()."
        )
    update = None if running is None else (running[0].data, running[1].data, momentum)
    if due_convolution(x):
        y = with_batch_norm(x, gamma, beta, eps, update)
    else:
        mean, var = kernels.active(x.data).moments(x.data, update)
        y = later(BatchNorm, (x, gamma, beta, None), {"mean": mean, "var": var, "eps": eps}, x.shape)
    for statistic in running or ():
        statistic.data = statistic.data  # tells backward() of a change in place
    return y


def running_statistics(x: Tensor, mean: Any, var: Any) -> tuple[Tensor, Tensor] | None:
    """Both running statistics, one for each channel of x, or None if neither is kept."""
    if (mean is None) != (var is None):
        raise ShapeError("batch_norm: give both running_mean and running_var, or neither.")
    if mean is None:
        return None
    if not (isinstance(mean, Tensor) and isinstance(var, Tensor)):
        raise ArgumentError("batch_norm: running_mean and running_var must be Tensors; they are updated in place.")
    if not mean.shape == var.shape == x.shape[-1:]:
        channels_match("batch_norm", x, running_mean=mean, running_var=var)
    return mean, var


def layer_norm(x: Any, gamma: Any, beta: Any, eps: float = 1e-5) -> Tensor:
    """Normalise each example over its last axes, those that gamma and beta have (Ba, Kiros and Hinton 2016).

    Args:
        x: (..., *S).
        gamma, beta: (*S): scale and shift of every element.
        eps: added to the variance.

    Raises:
        ShapeError: gamma and beta do not have the shape of the last axes of x.
    """
    x, gamma, beta = floating(x, "layer_norm"), as_tensor(gamma), as_tensor(beta)
    if not gamma.ndim or gamma.shape != beta.shape or x.shape[x.ndim - gamma.ndim :] != gamma.shape:
        raise ShapeError(
            f"layer_norm: gamma {gamma.shape} and beta {beta.shape} must both have the last axes of x {x.shape}."
        )
    same_dtype("layer_norm", x=x, gamma=gamma, beta=beta)
    same_device("layer_norm", x=x, gamma=gamma, beta=beta)
    return LayerNorm.apply(x, gamma, beta, eps=eps)


def dropout(x: Any, p: float = 0.5, training: bool = True, generator: np.random.Generator | None = None) -> Tensor:
    """Set elements to zero with probability p and scale the others by 1 / (1 - p) (Srivastava et al. 2014).

    Args:
        x: any shape.
        p: in [0, 1).
        training: otherwise x is returned as it is.
        generator: where the mask comes from; the default generator (see `minires.manual_seed`) if left out.
    """
    x = floating(x, "dropout")
    p = probability(p, "dropout: p")
    if not p or not training:
        return x
    return Dropout.apply(x, p=p, generator=generator or default_generator())
