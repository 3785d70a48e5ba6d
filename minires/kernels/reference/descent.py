"""Stochastic gradient descent, as it is written down."""

from __future__ import annotations


def sgd(value, grad, velocity, lr, momentum, weight_decay, nesterov):
    """In place, velocity <- momentum velocity + g, value <- value - lr velocity, where g = grad + weight_decay value.

    Without a velocity (None) the step is along g, with ``nesterov`` along g + momentum velocity.
    """
    g = grad + weight_decay * value if weight_decay else grad
    along = g
    if velocity is not None:
        velocity *= momentum
        velocity += g
        along = g + momentum * velocity if nesterov else velocity
    value -= lr * along
