"""Batch normalisation, one channel at a time (Ioffe and Szegedy 2015, algorithm 1 and section 3)."""

from __future__ import annotations

import numpy as np


def batch_norm(x, gamma, beta, eps):
    """x (..., C), gamma and beta (C,) -> y, and the mean and biased variance (C,) over all other axes."""
    y, mean, var = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
    for c in range(x.shape[-1]):
        values = x[..., c]
        mean[c] = values.sum() / values.size
        var[c] = ((values - mean[c]) ** 2).sum() / values.size
        y[..., c] = gamma[c] * (values - mean[c]) / np.sqrt(var[c] + eps) + beta[c]
    return y, mean, var


def batch_norm_backward(dy, x, gamma, mean, var, eps):
    """dx, dgamma and dbeta by the chain rule through every intermediate, in the paper's own steps and names."""
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
    return dx, dgamma, dbeta
