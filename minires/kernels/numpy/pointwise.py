"""ReLU and softmax cross-entropy on whole arrays."""

from __future__ import annotations

import numpy as np


def relu(x):
    """max(x, 0); a NaN stays a NaN."""
    return np.maximum(x, x.dtype.type(0))


def relu_dx(dy, y):
    """dy times the derivative, 1 where the output was positive and 0 elsewhere: an infinite dy is not hidden by a 0."""
    return dy * (y > 0)


def cross_entropy(logits, labels, label_smoothing):
    """logits (N, K), labels (N,) -> losses (N,) and the probabilities softmax(logits) (N, K).

    With smoothing s the target is 1 - s + s/K for the label and s/K for the others, so the loss is a mixture of the
    label's -log p and the mean of all of them.
    """
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    losses = -log_p[np.arange(len(labels)), labels]
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * log_p.mean(1)
    return losses, np.exp(log_p)


def cross_entropy_dx(dlosses, probabilities, labels, label_smoothing):
    """(softmax - target) dloss, for each example."""
    dlogits = probabilities - label_smoothing / probabilities.shape[1]
    dlogits[np.arange(len(labels)), labels] -= 1 - label_smoothing
    dlogits *= dlosses[:, None]
    return dlogits
