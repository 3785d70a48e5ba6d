"""Operations and their right backward passes, in plain NumPy: what the catalogue's mistakes are made in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

EPS = 1e-5
BATCH = (0, 1, 2)


def windows(x, size, stride):
    """(N, H, W, C) -> (N, OH, OW, C, size, size)."""
    return sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]


def scatter(parts, shape, stride):
    """The adjoint of `windows`: every cell is added back onto its pixel."""
    dx, (rows, columns) = np.zeros(shape), parts.shape[1:3]
    for u, v in np.ndindex(parts.shape[4:]):
        dx[:, u : u + stride * rows : stride, v : v + stride * columns : stride] += parts[..., u, v]
    return dx


def conv(x, w, b):
    return np.einsum("nijcuv,uvco->nijo", windows(x, 3, 2), w) + b


def conv_dx(dy, x, w):
    return scatter(np.einsum("nijo,uvco->nijcuv", dy, w), x.shape, 2)


def conv_dw(dy, x):
    return np.einsum("nijcuv,nijo->uvco", windows(x, 3, 2), dy)


def conv_backward(dy, x, w, b):
    return conv_dx(dy, x, w), conv_dw(dy, x), dy.sum((0, 1, 2))


def padded(x):
    return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def same_conv(x, w):
    return np.einsum("nijcuv,uvco->nijo", windows(padded(x), 3, 1), w)


def same_conv_dcolumns(dy, w):
    """What each window of the padded picture gets back."""
    return np.einsum("nijo,uvco->nijcuv", dy, w)


def same_conv_backward(dy, x, w):
    dx = scatter(same_conv_dcolumns(dy, w), padded(x).shape, 1)[:, 1:-1, 1:-1]
    return dx, np.einsum("nijcuv,nijo->uvco", windows(padded(x), 3, 1), dy)


def grouped(x, w):
    """A 1x1 convolution in two groups: the first half of the channels has the first matrix."""
    return np.concatenate([half @ w[i] for i, half in enumerate(np.split(x, 2, -1))], -1)


def grouped_backward(dy, x, w):
    halves = list(zip(np.split(dy, 2, -1), np.split(x, 2, -1), strict=True))
    dx = [d @ w[i].T for i, (d, _) in enumerate(halves)]
    return np.concatenate(dx, -1), np.stack([np.einsum("nijc,nijo->co", half, d) for d, half in halves])


def max_pool(x):
    return windows(x, 3, 2).max((4, 5))


def winners(x):
    seen = windows(x, 3, 2)
    return seen == seen.max((4, 5), keepdims=True)


def max_pool_backward(dy, x):
    return scatter(dy[..., None, None] * winners(x), x.shape, 2)


def moments(x):
    mean, var = x.mean(BATCH), x.var(BATCH)
    std = np.sqrt(var + EPS)
    return std, (x - mean) / std


def batch_norm(x, gamma, beta):
    return gamma * moments(x)[1] + beta


def batch_norm_dx(dy, x, gamma):
    std, xhat = moments(x)
    return gamma / std * (dy - dy.mean(BATCH) - xhat * (dy * xhat).mean(BATCH))


def batch_norm_backward(dy, x, gamma, beta):
    return batch_norm_dx(dy, x, gamma), (dy * moments(x)[1]).sum(BATCH), dy.sum(BATCH)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_backward(dy, x):
    y = softmax(x)
    return y * (dy - (y * dy).sum(-1, keepdims=True))


LABELS = np.array([2, 0, 3])
ONE_HOT = np.eye(5)[LABELS]


def cross_entropy(x):
    return -np.log(softmax(x)[np.arange(3), LABELS]).mean()


def residual(x, w):
    return x + np.tanh(x @ w)


def projected(x, w, ws):
    """A block with a projection shortcut, eq. 2 of He et al. 2015: F(x) + W_s x."""
    return np.tanh(x @ w) + x @ ws


def projected_backward(dy, x, w, ws):
    branch = dy * slope(x, w)
    return branch @ w.T + dy @ ws.T, x.T @ branch, x.T @ dy


def slope(x, w):
    return 1 - np.tanh(x @ w) ** 2


def residual_backward(dy, x, w):
    return dy + (dy * slope(x, w)) @ w.T, x.T @ (dy * slope(x, w))


KEPT = np.random.default_rng(0).random((4, 5)) < 0.6  # what a dropout with p = 0.4 lets through
ROWS = np.array([2, 0, 2, 3, 2])  # of a table, one of them more than once


def lookup(dy, table):
    """The gradient of ``table[ROWS]``: a row that was taken several times collects several gradients."""
    dtable = np.zeros_like(table)
    np.add.at(dtable, ROWS, dy)
    return dtable


def relu_after_addition(x):
    return np.maximum(x + np.tanh(x), 0)


def branch(dy, x):
    """What comes back through the branch of `relu_after_addition`."""
    return dy * (x > 0) * (1 - np.tanh(x) ** 2)


def layer_norm_xhat(x):
    centred = x - x.mean(-1, keepdims=True)
    std = np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
    return centred / std, std


def layer_norm_backward(dy, x, axis=-1):
    xhat, std = layer_norm_xhat(x)
    return (dy - dy.mean(axis, keepdims=True) - xhat * (dy * xhat).mean(axis, keepdims=True)) / std


class Operation(NamedTuple):
    """A forward pass, its right backward pass as (dy, *inputs) -> gradients in order, and shapes of inputs by name."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    shapes: dict[str, tuple[int, ...]]


# name: forward, the right backward, shapes of the inputs by name
OPERATIONS: dict[str, Operation] = {
    "multiply": Operation(np.multiply, lambda dy, a, b: (dy * b, dy * a), {"a": (3, 4), "b": (3, 4)}),
    "bias": Operation(np.add, lambda dy, x, b: (dy, dy.sum(0)), {"x": (4, 4), "b": (4,)}),
    "subtract": Operation(np.subtract, lambda dy, a, b: (dy, -dy), {"a": (3, 4), "b": (3, 4)}),
    "linear": Operation(np.matmul, lambda dy, x, w: (dy @ w.T, x.T @ dy), {"x": (4, 4), "w": (4, 4)}),
    "relu": Operation(lambda x: np.maximum(x, 0), lambda dy, x: dy * (x > 0), {"x": (5, 6)}),
    "tanh": Operation(np.tanh, lambda dy, x: dy * (1 - np.tanh(x) ** 2), {"x": (5, 6)}),
    "softmax": Operation(softmax, softmax_backward, {"x": (3, 5)}),
    "log softmax": Operation(
        lambda x: np.log(softmax(x)), lambda dy, x: dy - softmax(x) * dy.sum(-1, keepdims=True), {"x": (3, 5)}
    ),
    "cross entropy": Operation(cross_entropy, lambda dy, x: dy * (softmax(x) - ONE_HOT) / 3, {"x": (3, 5)}),
    "conv": Operation(conv, conv_backward, {"x": (2, 7, 5, 3), "w": (3, 3, 3, 3), "b": (3,)}),
    "padded conv": Operation(same_conv, same_conv_backward, {"x": (2, 5, 4, 3), "w": (3, 3, 3, 2)}),
    "grouped conv": Operation(grouped, grouped_backward, {"x": (2, 3, 2, 6), "w": (2, 3, 3)}),
    "max pool": Operation(max_pool, max_pool_backward, {"x": (2, 7, 5, 3)}),
    "global average": Operation(
        lambda x: x.mean((1, 2)), lambda dy, x: np.broadcast_to(dy[:, None, None] / 20, x.shape), {"x": (3, 4, 5, 2)}
    ),
    "batch norm": Operation(batch_norm, batch_norm_backward, {"x": (3, 4, 2, 3), "gamma": (3,), "beta": (3,)}),
    "layer norm": Operation(lambda x: layer_norm_xhat(x)[0], layer_norm_backward, {"x": (5, 5)}),
    "residual": Operation(residual, residual_backward, {"x": (3, 4), "w": (4, 4)}),
    "projection shortcut": Operation(projected, projected_backward, {"x": (4, 3), "w": (3, 5), "ws": (3, 5)}),
    "subsample and pad": Operation(
        lambda x: np.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, 2))),
        lambda dy, x: scatter(dy[..., :2, None, None], x.shape, 2),
        {"x": (2, 5, 4, 2)},
    ),
    "concatenate": Operation(
        lambda a, b: np.concatenate([a, b], 1), lambda dy, a, b: (dy[:, :3], dy[:, 3:]), {"a": (2, 3), "b": (2, 3)}
    ),
    "affine": Operation(
        lambda x, w, b: x @ w + b,
        lambda dy, x, w, b: (dy @ w.T, x.T @ dy, dy.sum(0)),
        {"x": (6, 3), "w": (3, 4), "b": (4,)},
    ),
    "average pool": Operation(
        lambda x: windows(x, 2, 2).mean((4, 5)),
        lambda dy, x: scatter(np.repeat(np.repeat(dy[..., None, None], 2, 4), 2, 5) / 4, x.shape, 2),
        {"x": (2, 6, 4, 3)},
    ),
    "dropout": Operation(
        lambda x: x * KEPT / 0.6,
        lambda dy, x: dy * KEPT / 0.6,
        {"x": (4, 5)},
    ),
    "mean": Operation(lambda x: x.mean(0), lambda dy, x: np.broadcast_to(dy / 5, x.shape), {"x": (5, 3)}),
    "lookup": Operation(lambda table: table[ROWS], lambda dy, table: lookup(dy, table), {"table": (4, 3)}),
    "scaled product": Operation(
        lambda q, k: q @ k.T / 3, lambda dy, q, k: (dy @ k / 3, dy.T @ q / 3), {"q": (4, 9), "k": (5, 9)}
    ),
    "relu after addition": Operation(relu_after_addition, lambda dy, x: branch(dy, x) + dy * (x > 0), {"x": (4, 5)}),
    "batch norm in evaluation": Operation(
        lambda x, gamma: gamma * (x - 0.3) / 1.7,
        lambda dy, x, gamma: (dy * gamma / 1.7, (dy * (x - 0.3) / 1.7).sum(BATCH)),
        {"x": (3, 4, 2, 3), "gamma": (3,)},
    ),
}
