"""Losses."""

from __future__ import annotations

from typing import Any

from ..errors import ArgumentError, ShapeError
from ..ops import loss
from ..ops.loss import REDUCTIONS, MSELoss
from ..tensor import Tensor, as_tensor
from .checks import class_numbers, floating, probability, same_device


def cross_entropy(logits: Any, labels: Any, label_smoothing: float = 0.0, reduction: str = "mean") -> Tensor:
    """-log softmax(logits)[label], stable for logits of any size.

    Args:
        logits: (N, K), not yet normalised.
        labels: (N,) integers from 0 to K - 1.
        label_smoothing: s in [0, 1): the target is 1 - s + s/K for the label and s/K for the others (Szegedy et al.
            2016, section 7).
        reduction: "mean" over the batch, "sum", or "none" for one loss for each example.

    On a GPU a label outside 0 to K - 1 makes its loss NaN, because the host does not wait to look at the labels; under
    `detect_anomaly` it does, and raises.

    Raises:
        ShapeError: shapes that do not match, or an empty batch.
        ArgumentError: labels that are not integers or lie outside 0 to K - 1.
        DeviceError: logits and labels are on different devices.
    """
    logits, labels = floating(logits, "cross_entropy"), as_tensor(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ShapeError(
            f"cross_entropy: expected logits (N, K) and labels (N,), got {logits.shape} and {labels.shape}."
            + (" Labels are class numbers, not one-hot rows: labels.argmax(1)." if labels.ndim == 2 else "")
        )
    n, classes = logits.shape
    if not n or not classes:
        raise ShapeError(f"cross_entropy: nothing to average in logits of shape {logits.shape}.")
    same_device("cross_entropy", logits=logits, labels=labels)
    class_numbers(labels.data, classes, "cross_entropy")
    smoothing = probability(label_smoothing, "cross_entropy: label_smoothing")
    _known(reduction, "cross_entropy")
    return loss.cross_entropy(logits, labels.data, smoothing, reduction)


def mse_loss(prediction: Any, target: Any, reduction: str = "mean") -> Tensor:
    """(prediction - target)^2, averaged over all elements, summed, or one for each.

    Raises:
        ShapeError: the two shapes differ (they are not broadcast, because that is nearly always a mistake), or there is
            nothing to average.
    """
    prediction = floating(prediction, "mse_loss")
    target = as_tensor(target).astype(prediction.dtype)
    if prediction.shape != target.shape:
        raise ShapeError(f"mse_loss: prediction {prediction.shape} and target {target.shape} must have one shape.")
    same_device("mse_loss", prediction=prediction, target=target)
    _known(reduction, "mse_loss")
    if reduction == "mean" and not prediction.size:
        raise ShapeError(f"mse_loss: nothing to average in a prediction of shape {prediction.shape}.")
    return MSELoss.apply(prediction, target, reduction=reduction)


def _known(reduction: str, caller: str) -> None:
    if reduction not in REDUCTIONS:
        raise ArgumentError(f"{caller}: reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}.")
