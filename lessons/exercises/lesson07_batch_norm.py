"""Lesson 07: batch norm.  `minires lessons check 07` says how it goes.

`minires gradcheck lesson07_batch_norm.py` compares your gradients with differences of the forward passes.
"""

import numpy as np

INPUTS = {
    "batch_norm": {"x": (3, 2, 4, 5), "gamma": (5,), "beta": (5,)},
    "batch_norm_eval": {"x": (6, 5), "gamma": (5,), "beta": (5,)},
}
# Means and variances of five channels, as training might have left them.
RUNNING = np.array([0.5, -1.0, 0.0, 2.0, 0.3]), np.array([0.2, 3.0, 1.0, 0.5, 2.0])


def all_but_last(x):
    """The axes that belong to one channel: (0,) for x (N, C), (0, 1, 2) for pictures (N, H, W, C)."""
    return tuple(range(x.ndim - 1))


def batch_norm(x, gamma, beta, eps=1e-5):
    """The forward pass in training: x (..., C), gamma and beta (C,) -> y (..., C).  Given."""
    centred = x - x.mean(all_but_last(x))
    std = np.sqrt((centred**2).mean(all_but_last(x)) + eps)
    return gamma * (centred / std) + beta


def parameter_gradients(dy, x, eps=1e-5):
    """The gradients of `batch_norm` with respect to gamma and beta, in this order.

    dy and x have one shape, (..., C); each gradient has shape (C,).  Section 3 of the lesson.
    """
    # BEGIN SOLUTION task 1: the gradients of gamma and beta
    axes = all_but_last(x)
    xhat = (x - x.mean(axes)) / np.sqrt(x.var(axes) + eps)
    dgamma = (dy * xhat).sum(axes)
    dbeta = dy.sum(axes)
    return dgamma, dbeta
    # END SOLUTION


def input_gradient(dy, x, gamma, eps=1e-5):
    """The gradient of `batch_norm` with respect to x, of the shape of x.

    dy and x have one shape, (..., C); gamma has shape (C,).  Once xhat is there it is one line: the box in section 3 of
    the lesson.
    """
    # BEGIN SOLUTION task 2: the gradient of the input
    axes = all_but_last(x)
    std = np.sqrt(x.var(axes) + eps)
    xhat = (x - x.mean(axes)) / std
    return gamma / std * (dy - dy.mean(axes) - xhat * (dy * xhat).mean(axes))
    # END SOLUTION


def batch_norm_backward(dy, x, gamma, beta):
    """The backward pass of `batch_norm`, put together from tasks 1 and 2.  Given."""
    dgamma, dbeta = parameter_gradients(dy, x)
    return {"x": input_gradient(dy, x, gamma), "gamma": dgamma, "beta": dbeta}


def update_running(running_mean, running_var, x, momentum=0.1):
    """The running mean and the running variance after one more batch x (..., C), both (C,), as new arrays.

    The convention is PyTorch's: the old value keeps the weight 1 - momentum, the batch gets momentum, and the variance
    is the unbiased one, divided by m - 1.  Section 8 of the lesson.
    """
    # BEGIN SOLUTION task 3: the running statistics
    axes = all_but_last(x)
    mean = (1 - momentum) * running_mean + momentum * x.mean(axes)
    var = (1 - momentum) * running_var + momentum * x.var(axes, ddof=1)
    return mean, var
    # END SOLUTION


def batch_norm_eval(x, gamma, beta, running=RUNNING, eps=1e-5):
    """The forward pass in evaluation: x (..., C) with a fixed mean and variance, running = (mean, var).  Given."""
    mean, var = running
    return gamma * (x - mean) / np.sqrt(var + eps) + beta


def batch_norm_eval_backward(dy, x, gamma, beta, running=RUNNING, eps=1e-5):
    """The gradients of `batch_norm_eval`: {"x": (..., C), "gamma": (C,), "beta": (C,)}.  Section 7 of the lesson."""
    # BEGIN SOLUTION task 4: the backward pass of evaluation
    fixed_mean, fixed_var = running
    inverse = 1 / np.sqrt(fixed_var + eps)
    scaled = (x - fixed_mean) * inverse
    return {
        "x": dy * gamma * inverse,
        "gamma": (dy * scaled).sum(all_but_last(x)),
        "beta": dy.sum(all_but_last(x)),
    }
    # END SOLUTION
