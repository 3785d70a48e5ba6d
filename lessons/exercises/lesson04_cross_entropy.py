"""Lesson 04: cross-entropy and SGD.  `minires lessons check 04` says how it goes.

`minires gradcheck lesson04_cross_entropy.py` compares your gradient with differences of your loss.
"""

import numpy as np

INPUTS = {"cross_entropy": {"z": (4, 6), "labels": np.array([5, 0, 2, 2])}}


def softmax(z):
    """z (N, K) -> probabilities (N, K).  Given: the maximum is subtracted, so that no exponent is positive."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropy(z, labels):
    """The mean over the batch of -log softmax(z)[label], right for scores of any size.

    z (N, K) scores, labels (N,) integers from 0 to K - 1; returns one number.  Do not go through `softmax`: the section
    "The loss, and where it overflows" says why.  ``z[np.arange(N), labels]`` is the score of each label.
    """
    # BEGIN SOLUTION task 1: the loss, without overflow
    largest = z.max(axis=1, keepdims=True)
    log_sum = largest[:, 0] + np.log(np.exp(z - largest).sum(axis=1))
    return (log_sum - z[np.arange(len(z)), labels]).mean()
    # END SOLUTION


def cross_entropy_backward(dy, z, labels):
    """The gradient of `cross_entropy` with respect to the scores: {"z": (N, K)}.

    dy is one number, the gradient of whatever comes after with respect to the loss.  Section
    "The gradient, index by index".
    """
    # BEGIN SOLUTION task 2: the gradient of the loss
    grad = softmax(z)
    grad[np.arange(len(z)), labels] -= 1
    return {"z": dy * grad / len(z)}
    # END SOLUTION


def sgd_step(w, g, v, lr, momentum, weight_decay):
    """One step of SGD with momentum, in the convention of PyTorch and minires: returns the new w and the new v.

    w are weights, g their gradient, v the velocity before the step, all of one shape; they are not changed.
    See "A step downhill, with momentum".  Weight decay comes into the gradient before the velocity is formed.
    """
    # BEGIN SOLUTION task 3: a step with momentum and weight decay
    g = g + weight_decay * w
    v = momentum * v + g
    return w - lr * v, v
    # END SOLUTION
