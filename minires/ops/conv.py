"""Convolution and the parameter-free shortcut, on NHWC pictures."""

from __future__ import annotations

from .. import kernels
from ..backend import array_module
from ..tensor import Function


class Conv2d(Function, operator="conv2d"):
    """y = x * w + b, x (N, H, W, C), w (KH, KW, C/groups, O), b (O,) or None.

    A convolution is linear in x and in w, so each gradient is the adjoint of the same sum: dx scatters dy through the
    weights, dw correlates x with dy, db sums dy over images and pixels.
    """

    @staticmethod
    def forward(ctx, x, w, b, *, stride, padding, dilation, groups):
        ctx.window = stride, padding, dilation, groups
        ctx.shapes = x.shape, w.shape
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w if ctx.needs_input_grad[0] else None)
        return kernels.active().conv2d(x, w, b, *ctx.window)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved
        kernel = kernels.active()
        x_shape, w_shape = ctx.shapes
        wants_x, wants_w, wants_b = ctx.needs_input_grad
        dx = kernel.conv2d_dx(dy, w, x_shape, *ctx.window) if wants_x else None
        dw = kernel.conv2d_dw(dy, x, w_shape, *ctx.window) if wants_w else None
        db = kernel.channel_sum(dy) if wants_b else None
        return dx, dw, db


class SubsamplePad(Function, operator="subsample_pad"):
    """Every stride-th pixel, and zero channels after the old ones: shortcut A of He et al. 2015, section 4.2.

    Its adjoint puts the gradient of the old channels back on the pixels that were kept; the others receive none.
    """

    @staticmethod
    def forward(ctx, x, *, stride, channels):
        ctx.shape, ctx.stride = x.shape, stride
        kept = x[:, :: stride[0], :: stride[1]]
        y = array_module(x).zeros((*kept.shape[:3], channels), x.dtype)
        y[..., : x.shape[3]] = kept
        return y

    @staticmethod
    def backward(ctx, dy):
        dx = array_module(dy).zeros(ctx.shape, dy.dtype)
        dx[:, :: ctx.stride[0], :: ctx.stride[1]] = dy[..., : ctx.shape[3]]
        return dx
