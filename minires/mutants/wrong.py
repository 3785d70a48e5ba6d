"""Wrong backward passes made from right ones: what several entries of the catalogue are built with."""

from __future__ import annotations

import numpy as np

from .operations import (
    BATCH,
    EPS,
    ROWS,
    batch_norm_backward,
    conv_backward,
    conv_dx,
    moments,
    projected_backward,
    residual_backward,
    same_conv_backward,
    same_conv_dcolumns,
    scatter,
    winners,
)


def with_conv_dx(formula):
    """A convolution's backward whose dx is ``formula(dy, x, w)`` and whose other two are right."""
    return lambda dy, x, w, b: (formula(dy, x, w), *conv_backward(dy, x, w, b)[1:])


def with_conv_dw(formula):
    """A convolution's backward whose dw is ``formula(dy, x)`` and whose other two are right."""
    return lambda dy, x, w, b: (conv_dx(dy, x, w), formula(dy, x), dy.sum(BATCH))


def assigned(parts, shape, stride):
    """`scatter` with = for +=: where windows overlap the last one wins."""
    dx, (rows, columns) = np.zeros(shape), parts.shape[1:3]
    for u, v in np.ndindex(parts.shape[4:]):
        dx[:, u : u + stride * rows : stride, v : v + stride * columns : stride] = parts[..., u, v]
    return dx


def with_same_conv_dx(formula):
    """A padded convolution's backward whose dx is ``formula(what each window gets, x)`` and whose dw is right."""
    return lambda dy, x, w: (formula(same_conv_dcolumns(dy, w), x), same_conv_backward(dy, x, w)[1])


def with_projected_dx(formula):
    """The backward of a block with a projection whose dx is ``formula(dy, x, w, ws)`` and whose rest is right."""
    return lambda dy, x, w, ws: (formula(dy, x, w, ws), *projected_backward(dy, x, w, ws)[1:])


def with_share(share):
    """A max pool's backward that gives each cell of a window ``share(x)`` of its gradient."""
    return lambda dy, x: scatter(dy[..., None, None] * share(x), x.shape, 2)


def only_last_of_overlapping(dy, x):
    dx, (rows, columns), won = np.zeros(x.shape), dy.shape[1:3], winners(x)
    for u, v in np.ndindex(3, 3):
        at = dx[:, u : u + 2 * rows : 2, v : v + 2 * columns : 2]
        np.copyto(at, dy, where=won[..., u, v])  # should be +=
    return dx


def with_dx(formula):
    """A batch-norm backward whose dx is ``formula(dy, x, gamma, std, xhat)`` and whose other two are right."""
    return lambda dy, x, gamma, beta: (formula(dy, x, gamma, *moments(x)), *batch_norm_backward(dy, x, gamma, beta)[1:])


def without_eps(dy, x, gamma, std, xhat):
    std = x.std(BATCH)
    xhat = (x - x.mean(BATCH)) / std
    return gamma / std * (dy - dy.mean(BATCH) - xhat * (dy * xhat).mean(BATCH))


def with_unbiased_variance(dy, x, gamma, std, xhat):
    std = np.sqrt(x.var(BATCH, ddof=1) + EPS)
    xhat = (x - x.mean(BATCH)) / std
    return gamma / std * (dy - dy.mean(BATCH) - xhat * (dy * xhat).mean(BATCH))


def with_residual_dx(formula):
    """A residual backward whose dx is ``formula(dy, right dx)`` and whose dw is right."""
    return lambda dy, x, w: (formula(dy, residual_backward(dy, x, w)[0]), residual_backward(dy, x, w)[1])


def averaged_pool(share):
    """A backward of the average pool that gives each cell of a window this share of its gradient."""
    return lambda dy, x: (scatter(np.repeat(np.repeat(dy[..., None, None], 2, 4), 2, 5) * share, x.shape, 2),)


def overwritten_lookup(dy, table):
    dtable = np.zeros_like(table)
    dtable[ROWS] = dy  # of a row that was taken several times the last one wins
    return dtable
