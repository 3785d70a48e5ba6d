"""Pooling over windows of an NHWC picture."""

from __future__ import annotations

from .. import kernels
from ..tensor import Function


class MaxPool2d(Function, operator="max_pool2d"):
    """The maximum of each window; its whole gradient goes to that pixel, the first of equals."""

    @staticmethod
    def forward(ctx, x, *, kernel, stride, padding):
        ctx.shape, ctx.window = x.shape, (kernel, stride, padding)
        y, chosen = kernels.active(x).max_pool2d(x, *ctx.window, ctx.needs_input_grad[0])
        ctx.save_for_backward(chosen)
        return y

    @staticmethod
    def backward(ctx, dy):
        (chosen,) = ctx.saved
        return kernels.active(dy).max_pool2d_dx(dy, chosen, ctx.shape, *ctx.window)


class AvgPool2d(Function, operator="avg_pool2d"):
    """The mean of each window, padding counted as zeros; every pixel receives 1 / (KH KW) of the gradient."""

    @staticmethod
    def forward(ctx, x, *, kernel, stride, padding):
        ctx.shape, ctx.window = x.shape, (kernel, stride, padding)
        return kernels.active(x).avg_pool2d(x, *ctx.window)

    @staticmethod
    def backward(ctx, dy):
        return kernels.active(dy).avg_pool2d_dx(dy, ctx.shape, *ctx.window)
