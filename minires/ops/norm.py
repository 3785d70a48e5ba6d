"""Normalisation: over the batch, with fixed statistics, and over the features."""

from __future__ import annotations

from .. import kernels
from ..backend import array_module
from ..tensor import Function


class BatchNorm(Function, operator="batch_norm"):
    """y = gamma * xhat + beta,  xhat = (x - mean) / sqrt(var + eps), moments over all axes but the last.

    Ioffe and Szegedy 2015, section 3.  With m values in each channel, differentiating through the mean and the
    variance gives

        dx = gamma / std * (dy - mean(dy) - xhat * mean(dy * xhat))

    The two means are the parts of dy that moving the batch's mean and its variance would undo.  Keeps x and computes
    xhat again: one array instead of two.
    """

    @staticmethod
    def forward(ctx, x, gamma, beta, *, eps, moments):
        y, mean, var = kernels.active().batch_norm(x, gamma, beta, eps)
        moments += mean, var  # for the running statistics
        ctx.eps = eps
        ctx.save_for_backward(x, gamma, mean, var)
        return y

    @staticmethod
    def backward(ctx, dy):
        return kernels.active().batch_norm_backward(dy, *ctx.saved, ctx.eps)


class FixedBatchNorm(Function, operator="fixed_batch_norm"):
    """The same with given mean and variance, as in evaluation: an affine map of each channel, dx = dy gamma / std."""

    @staticmethod
    def forward(ctx, x, gamma, beta, *, mean, var, eps):
        inverse = (1 / array_module(x).sqrt(var + eps)).astype(x.dtype)
        mean = mean.astype(x.dtype)  # a copy: the running mean goes on changing
        ctx.save_for_backward(x, gamma, mean, inverse)
        return (x - mean) * (gamma * inverse) + beta

    @staticmethod
    def backward(ctx, dy):
        x, gamma, mean, inverse = ctx.saved
        dx = dy * (gamma * inverse) if ctx.needs_input_grad[0] else None
        axes = tuple(range(dy.ndim - 1))
        return dx, (dy * (x - mean)).sum(axes) * inverse, dy.sum(axes)


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
        batch = tuple(range(dy.ndim - gamma.ndim))
        return dx, (dy * xhat).sum(batch), dy.sum(batch)
