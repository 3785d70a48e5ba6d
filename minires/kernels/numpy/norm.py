"""Batch normalisation in whole-array steps, every sum over pixels as a matrix product."""

from __future__ import annotations

import numpy as np

from .conv import channel_sum


def batch_norm(x, gamma, beta, eps):
    """x (..., C), gamma and beta (C,) -> y, and the mean and biased variance (C,) over all other axes."""
    count = x.dtype.type(x.size // x.shape[-1])
    mean = channel_sum(x) / count
    y = x - mean  # centred first: the difference of two large sums would lose the variance to rounding
    var = channel_sum(y * y) / count
    y *= gamma / np.sqrt(var + x.dtype.type(eps))
    y += beta
    return y, mean, var


def batch_norm_backward(dy, x, gamma, mean, var, eps):
    """dx = gamma / std (dy - mean(dy) - xhat mean(dy xhat)), with xhat computed again rather than kept."""
    count = x.dtype.type(x.size // x.shape[-1])
    std = np.sqrt(var + x.dtype.type(eps))
    xhat = x - mean
    xhat /= std
    dbeta = channel_sum(dy)
    dgamma = channel_sum(dy * xhat)
    xhat *= dgamma / count
    dx = dy - dbeta / count
    dx -= xhat
    dx *= gamma / std
    return dx, dgamma, dbeta
