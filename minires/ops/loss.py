"""Losses, and the linear layer that comes before them."""

from __future__ import annotations

from math import prod

from .. import kernels
from ..backend import Array, array_module, on_gpu
from ..tensor import Function, Pending, Tensor
from ..tensor.pending import may_wait
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
    def forward(ctx, x, w, b, *, y=None):
        """y is the result where it is known already."""
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w)
        if y is not None:
            return y
        y = product(x, w)
        return y if b is None else y + b

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved
        wants_x, wants_w, wants_b = ctx.needs_input_grad
        count = prod(dy.shape[:-1])  # -1 would not do where there are no inputs or no outputs
        rows = dy.reshape(count, w.shape[1])
        dx = product(dy, w, transpose_b=True) if wants_x else None
        dw = product(x.reshape(count, w.shape[0]), rows, transpose_a=True) if wants_w else None
        return dx, dw, channel_sum(rows) if wants_b else None


class LinearCrossEntropy(Function, operator="linear_cross_entropy"):
    """The cross-entropy of x @ w + b in one, for a `fused` function: g = (softmax - target) dloss, dx = g w^T, ...

    Losses and probabilities are computed before, by the function `cross_entropy` below.
    """

    fresh = True

    @staticmethod
    def forward(ctx, x, w, b, *, labels, label_smoothing, reduction, losses, probabilities):
        ctx.label_smoothing, ctx.reduction = label_smoothing, reduction
        wants_x, *others = ctx.needs_input_grad
        ctx.save_for_backward(probabilities, labels, x if any(others) else None, w if wants_x else None)
        return _reduce(losses, reduction)

    @staticmethod
    def backward(ctx, dy):
        probabilities, labels, x, w = ctx.saved
        share = 1 / len(labels) if ctx.reduction == "mean" else 1.0
        return kernels.active(dy).linear_cross_entropy_backward(
            dy, share, probabilities, labels, ctx.label_smoothing, x, w
        )


class DueLinear(Pending):
    """A linear layer whose result is still due, for a cross-entropy that may come; it takes in nothing else."""

    __slots__ = ()

    def _plus(self, other):
        return None

    def relu(self):
        """max(x, 0)."""
        return Tensor.relu(self)


def linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x @ w + b: now, or where kernels have it in one with a cross-entropy, in a `fused` function, when it is used."""
    if may_wait() and x.ndim == 2:
        suits = getattr(kernels.active(x.data), "suits_linear_cross_entropy", None)
        if suits is not None and suits(x.data, w.data):
            return DueLinear(Linear, (x, w, b, None), {}, (x.shape[0], w.shape[1]))
    return Linear.apply(x, w, b)


def cross_entropy(logits: Tensor, labels: Array, label_smoothing: float, reduction: str) -> Tensor:
    """`CrossEntropy`, or, of a linear layer that is due, the two in one."""
    options = {"label_smoothing": label_smoothing, "reduction": reduction}
    if not (isinstance(logits, DueLinear) and logits.open):
        return CrossEntropy.apply(logits, labels=labels, **options)
    logits.check()
    x, w, b, _ = logits.inputs
    labels = labels.astype("int64")
    losses, y, probabilities = kernels.active(x.data).linear_cross_entropy(
        x.data, w.data, None if b is None else b.data, labels, label_smoothing
    )
    logits.fill(Linear.apply(x, w, b, y=y))  # for whoever wants to look at it, or to use it once more
    logits.absorbed = True
    return LinearCrossEntropy.apply(x, w, b, labels=labels, losses=losses, probabilities=probabilities, **options)


def _reduce(losses, reduction):
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def _spread(dy, shape, reduction):
    """The gradient of each element from that of the reduced loss."""
    share = dy * dy.dtype.type(1 / prod(shape)) if reduction == "mean" else dy
    return array_module(dy).broadcast_to(share, shape)
