"""Convolution and the parameter-free shortcut, on NHWC pictures."""

from __future__ import annotations

from .. import kernels
from ..backend import array_module
from ..tensor import Function


class Conv2d(Function, operator="conv2d"):
    """y = x * w + b, x (N, H, W, C), w (KH, KW, C/groups, O), b (O,) or None; fused, relu(x * w + b + residual).

    ``window`` is (stride, padding, dilation, groups).

    A convolution is linear in x and in w, so each gradient is the adjoint of the same sum: dx scatters dy through the
    weights, dw correlates x with dy, db sums dy over images and pixels.
    """

    fresh = True, True, True, False  # the residual's is dy
    streams = True

    @staticmethod
    def forward(ctx, x, w, b, residual=None, *, window, relu=False):
        ctx.window, ctx.shapes = window, (x.shape, w.shape)
        y = kernels.active(x).conv2d(x, w, b, *window, residual, relu)
        wants_x, wants_w = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if wants_w else None, w if wants_x else None, y if relu else None)
        return y

    @staticmethod
    def backward(ctx, dy, **streams):
        x, w, y = ctx.saved
        kernel = kernels.active(dy)
        dy = dy if y is None else kernel.relu_dx(dy, y)
        dx, dw = kernel.conv2d_backward(dy, x, w, *ctx.shapes, *ctx.window, **streams)
        db = kernel.channel_sum(dy) if ctx.needs_input_grad[2] else None
        return (dx, dw, db, dy)[: len(ctx.needs_input_grad)]


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
