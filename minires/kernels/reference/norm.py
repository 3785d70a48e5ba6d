"""Batch normalisation, one channel at a time (Ioffe and Szegedy 2015, algorithm 1 and section 3)."""

from __future__ import annotations

import numpy as np

from . import pointwise


def moments(x, running=None):
    """x (..., C) -> the mean and biased variance (C,) over all other axes.

    ``running``, if given, is (mean, var, momentum) of a batch norm, updated in place: see `update_running`.
    """
    mean, var = np.empty((2, x.shape[-1]), x.dtype)
    for c in range(x.shape[-1]):
        values = x[..., c]
        mean[c] = values.sum() / values.size
        var[c] = ((values - mean[c]) ** 2).sum() / values.size
    update_running(running, mean, var, x.size // x.shape[-1])
    return mean, var


def update_running(running, mean, var, count):
    """r <- (1 - momentum) r + momentum new, in place, for the mean and the unbiased variance of ``count`` values."""
    if running is not None:
        running_mean, running_var, momentum = running
        running_mean += momentum * (mean - running_mean)
        running_var += momentum * (var * (count / (count - 1)) - running_var)


def batch_norm(x, gamma, beta, mean, var, eps, residual=None, relu=False):
    """x (..., C) -> gamma (x - mean) / std + beta, plus ``residual`` of the same shape if given, then ReLU if asked."""
    y = np.empty_like(x)
    for c in range(x.shape[-1]):
        y[..., c] = gamma[c] * (x[..., c] - mean[c]) / np.sqrt(var[c] + eps) + beta[c]
    if residual is not None:
        y = y + residual
    return pointwise.relu(y) if relu else y


def batch_norm_backward(dy, y, x, gamma, mean, var, eps):
    """dx, dgamma and dbeta by the chain rule through every intermediate, in the paper's own steps and names.

    ``y`` is the output where a ReLU followed, else None.  Also returns the gradient of the residual.
    """
    if y is not None:
        dy = pointwise.relu_dx(dy, y)
    dx, dgamma, dbeta = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
    for c in range(x.shape[-1]):
        values, upstream = x[..., c], dy[..., c]
        m = values.size
        centred = values - mean[c]
        std = np.sqrt(var[c] + eps)
        dxhat = upstream * gamma[c]
        dvar = (dxhat * centred).sum() * -0.5 / std**3
        dmean = -dxhat.sum() / std - 2 * dvar * centred.sum() / m
        dx[..., c] = dxhat / std + dvar * 2 * centred / m + dmean / m
        dgamma[c] = (upstream * centred).sum() / std
        dbeta[c] = upstream.sum()
    return dx, dgamma, dbeta, dy
