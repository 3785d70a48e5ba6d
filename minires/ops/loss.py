"""Losses, and the linear layer that comes before them."""

from __future__ import annotations

from math import prod

from .. import kernels
from ..backend import array_module, on_gpu
from ..tensor import Function
from .broadcast import channel_sum
from .product import product

REDUCTIONS = ("mean", "sum", "none")


class CrossEntropy(Function, operator="cross_entropy"):
    """-log softmax(logits)[label], averaged, summed or one for each example; dlogits = (softmax - target) dloss.

    Softmax and logarithm together, because apart they overflow.  logits (N, K), labels (N,) integers.
    """

    @staticmethod
    def forward(ctx, logits, *, labels, label_smoothing, reduction):
        # a copy: a loader may fill the same array again
        labels = labels.astype("int64") if on_gpu(labels) else labels.copy()
        losses, probabilities = kernels.active(logits).cross_entropy(logits, labels, label_smoothing)
        ctx.label_smoothing, ctx.reduction = label_smoothing, reduction
        ctx.save_for_backward(probabilities, labels)
        return _reduce(losses, reduction)

    @staticmethod
    def backward(ctx, dy):
        probabilities, labels = ctx.saved
        dlosses = _spread(dy, labels.shape, ctx.reduction)
        return kernels.active(dy).cross_entropy_dx(dlosses, probabilities, labels, ctx.label_smoothing)


class MSELoss(Function, operator="mse_loss"):
    """(prediction - target)^2, averaged, summed or one for each element; d(prediction) = 2 (prediction - target) dy."""

    @staticmethod
    def forward(ctx, prediction, target, *, reduction):
        difference = prediction - target
        ctx.reduction = reduction
        ctx.save_for_backward(difference)
        return _reduce(difference * difference, reduction)

    @staticmethod
    def backward(ctx, dy):
        (difference,) = ctx.saved
        grad = 2 * difference * _spread(dy, difference.shape, ctx.reduction)
        return grad, -grad if ctx.needs_input_grad[1] else None


class Linear(Function, operator="linear"):
    """y = x @ w + b, x (..., I), w (I, O), b (O,) or None: dx = dy w^T, dw = x^T dy, db = sum of dy over examples."""

    fresh = True

    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w)
        y = product(x, w)
        return y if b is None else y + b

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved
        wants_x, wants_w, wants_b = ctx.needs_input_grad
        rows = dy.reshape(-1, w.shape[1])
        dx = product(dy, w, transpose_b=True) if wants_x else None
        dw = product(x.reshape(-1, w.shape[0]), rows, transpose_a=True) if wants_w else None
        return dx, dw, channel_sum(rows) if wants_b else None


def _reduce(losses, reduction):
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def _spread(dy, shape, reduction):
    """The gradient of each element from that of the reduced loss."""
    share = dy * dy.dtype.type(1 / prod(shape)) if reduction == "mean" else dy
    return array_module(dy).broadcast_to(share, shape)
