"""ReLU, addition and softmax cross-entropy, one number at a time."""

from __future__ import annotations

import numpy as np


def relu(x):
    """max(x, 0); a NaN stays a NaN."""
    y = np.empty_like(x)
    for index in np.ndindex(x.shape):
        y[index] = 0 if x[index] <= 0 else x[index]
    return y


def relu_dx(dy, y):
    """dy times the derivative, 1 where the output was positive and 0 elsewhere: an infinite dy is not hidden by a 0."""
    dx = np.empty_like(dy)
    for index in np.ndindex(y.shape):
        dx[index] = dy[index] * (y[index] > 0)
    return dx


def add(a, b):
    """a + b, of one shape."""
    y = np.empty_like(a)
    for index in np.ndindex(a.shape):
        y[index] = a[index] + b[index]
    return y


def cross_entropy(logits, labels, label_smoothing):
    """logits (N, K), labels (N,) -> losses (N,) and the probabilities softmax(logits) (N, K).

    The target is 1 - s + s/K for the label and s/K for the others: Szegedy et al. 2016, section 7.
    """
    n, k = logits.shape
    losses, probabilities = np.zeros(n, logits.dtype), np.empty_like(logits)
    for i in range(n):
        shifted = logits[i] - max(logits[i])  # the same softmax, and exp() cannot overflow
        log_total = np.log(sum(np.exp(shifted)))
        for j in range(k):
            target = (1 - label_smoothing) * (j == labels[i]) + label_smoothing / k
            if target:  # 0 log 0 is 0
                losses[i] -= target * (shifted[j] - log_total)
            probabilities[i, j] = np.exp(shifted[j] - log_total)
    return losses, probabilities


def cross_entropy_dx(dlosses, probabilities, labels, label_smoothing):
    """(softmax - target) dloss, for each example."""
    n, k = probabilities.shape
    dlogits = np.empty_like(probabilities)
    for i in range(n):
        for j in range(k):
            target = (1 - label_smoothing) * (j == labels[i]) + label_smoothing / k
            dlogits[i, j] = dlosses[i] * (probabilities[i, j] - target)
    return dlogits
