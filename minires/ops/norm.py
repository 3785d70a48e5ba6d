"""Normalisation: over the batch, with fixed statistics, and over the features."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..backend import Array, array_module
from ..tensor import Function, Node, Pending, Tensor
from .broadcast import channel_sum, unbroadcast
from .conv import Conv2d


class BatchNorm(Function, operator="batch_norm"):
    """y = gamma * xhat + beta,  xhat = (x - mean) / sqrt(var + eps), mean and var of x over all axes but the last.

    Ioffe and Szegedy 2015, section 3.  With m values in each channel, differentiating through the mean and the
    variance gives

        dx = gamma / std * (dy - mean(dy) - xhat * mean(dy * xhat))

    The two means are the parts of dy that moving the batch's mean and its variance would undo.  Keeps x and computes
    xhat again: one array instead of two.  In a `fused` function y = relu(gamma * xhat + beta + residual), and dy is
    masked first; after a convolution `ConvBatchNorm` takes its place.
    """

    fresh = True, True, True, False  # the residual's may be dy
    streams = True

    @staticmethod
    def forward(ctx, x, gamma, beta, residual=None, *, mean, var, eps, relu=False):
        y = kernels.active(x).batch_norm(x, gamma, beta, mean, var, eps, residual, relu)
        ctx.eps = eps
        ctx.save_for_backward(y if relu else None, x, gamma, mean, var)
        return y

    @staticmethod
    def backward(ctx, dy, onward=None, **received):
        return kernels.active(dy).batch_norm_backward(dy, *ctx.saved, ctx.eps, **received)[: len(ctx.needs_input_grad)]

    @staticmethod
    def receiver(ctx, so_far):
        return _receiver(ctx, so_far)


class ConvBatchNorm(Function, operator="conv_batch_norm"):
    """y = relu(batch_norm(z) + residual) with z = x * w: `Conv2d` and `BatchNorm` in one, for a `fused` function.

    z, its mean and its variance are computed before, by `with_batch_norm`.  The gradient of z, which only the
    convolution's backward needs, is never stored.
    """

    fresh = True, True, True, True, False  # the residual's may be dy
    streams = True

    @staticmethod
    def forward(ctx, x, w, gamma, beta, residual=None, *, window, z, mean, var, eps, relu=False):
        ctx.window, ctx.eps, ctx.shapes = window, eps, (x.shape, w.shape)
        y = kernels.active(z).batch_norm(z, gamma, beta, mean, var, eps, residual, relu)
        wants_x, wants_w = ctx.needs_input_grad[:2]
        norm = y if relu else None, z, gamma, mean, var
        ctx.save_for_backward(*norm, x if wants_w else None, w if wants_x else None)
        return y

    @staticmethod
    def backward(ctx, dy, **streams):
        *norm, x, w = ctx.saved
        wants = ctx.needs_input_grad
        return kernels.active(dy).conv2d_norm_backward(
            dy, *norm, ctx.eps, x, w, *ctx.shapes, *ctx.window, residual=wants[-1], **streams
        )[: len(wants)]

    @staticmethod
    def receiver(ctx, so_far):
        return _receiver(ctx, so_far)


def _receiver(ctx: Node, so_far: Array | None) -> Any:
    """What gathers the sums of a batch norm's backward pass from its gradient, where the kernels have such a thing."""
    y, z, _, mean, _ = ctx.saved[:5]
    make = getattr(kernels.active(z), "norm_receiver", None)
    return make and make(so_far, y, z, mean)


def due_convolution(x: Tensor) -> bool:
    """Whether x is a convolution without a bias or an addition that has not been computed yet."""
    return isinstance(x, Pending) and x.open and x.function is Conv2d and x.inputs[2] is x.inputs[3] is None


def with_batch_norm(x: Any, gamma: Tensor, beta: Tensor, eps: float, running: Any) -> Tensor:
    """A convolution that is due and the batch norm after it as one; ``running`` as in the kernels' ``moments``."""
    x.check()
    pictures, w, _, _ = x.inputs
    window = x.options["window"]
    z, mean, var = kernels.active(pictures.data).conv2d_moments(pictures.data, w.data, None, *window, running)
    options = {"window": window, "z": z, "mean": mean, "var": var, "eps": eps}
    return x.take_in(ConvBatchNorm, 2, (gamma, beta, None), options)


def with_fixed_batch_norm(x: Any, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """A convolution that is due with the batch norm after it, in evaluation and without a record, as one."""
    return x.take_in(FoldedBatchNorm, 2, (gamma, beta, mean, var, None), {**x.options, "eps": eps})


class FoldedBatchNorm(Function):
    """`Conv2d` and `FixedBatchNorm` in one.

    gamma (w * x - mean) / std + beta is the convolution times gamma / std, or with the weights w gamma / std, and the
    bias beta - mean gamma / std.
    """

    @staticmethod
    def forward(ctx, x, w, gamma, beta, mean, var, residual=None, *, window, eps, relu=False):
        scale = (gamma / np.sqrt(var + eps)).astype(w.dtype, copy=False)
        bias = (beta - mean * scale).astype(w.dtype, copy=False)
        return kernels.active(x).conv2d(x, w, bias, *window, residual, relu, scale)


class FixedBatchNorm(Function, operator="fixed_batch_norm"):
    """The same with given mean and variance, as in evaluation: an affine map of each channel, dx = dy gamma / std."""

    @staticmethod
    def forward(ctx, x, gamma, beta, *, mean, var, eps):
        mean, var = mean.astype(x.dtype), var.astype(x.dtype)  # copies: the running statistics go on changing
        ctx.eps = eps
        ctx.save_for_backward(x, gamma, mean, var)
        return kernels.active(x).batch_norm(x, gamma, beta, mean, var, eps)

    @staticmethod
    def backward(ctx, dy):
        x, gamma, mean, var = ctx.saved
        inverse = 1 / array_module(x).sqrt(var + x.dtype.type(ctx.eps))
        dx = dy * (gamma * inverse) if ctx.needs_input_grad[0] else None
        return dx, channel_sum(dy * (x - mean)) * inverse, channel_sum(dy)


class LayerNorm(Function, operator="layer_norm"):
    """y = gamma * xhat + beta with moments over the last axes, those of gamma (Ba, Kiros and Hinton 2016).

    dx is that of batch normalisation with the roles of the axes exchanged; gamma now differs along the averaged axes
    and stays inside the means: with g = gamma * dy, dx = (g - mean(g) - xhat * mean(g * xhat)) / std.
    """

    @staticmethod
    def forward(ctx, x, gamma, beta, *, eps):
        ctx.axes = tuple(range(x.ndim - gamma.ndim, x.ndim))
        centred = x - x.mean(ctx.axes, keepdims=True)
        std = array_module(x).sqrt((centred * centred).mean(ctx.axes, keepdims=True) + x.dtype.type(eps))
        xhat = centred / std
        ctx.save_for_backward(xhat, std, gamma)
        return xhat * gamma + beta

    @staticmethod
    def backward(ctx, dy):
        xhat, std, gamma = ctx.saved
        g = dy * gamma
        over = {"axis": ctx.axes, "keepdims": True}
        dx = (g - g.mean(**over) - xhat * (g * xhat).mean(**over)) / std
        return dx, unbroadcast(dy * xhat, gamma.shape), unbroadcast(dy, gamma.shape)
