"""Right backward passes, many of them hard to measure: at a kink, far from zero, saturated.

With some the seed decides whether rounding leaves anything to measure: those may be called "ok" or "inconclusive".
"""

import math

import numpy as np

from tests.ordinary import sound
from tests.ordinary.formulas import (
    WINDOWS,
    conv,
    conv_dw,
    conv_dx,
    conv_last,
    conv_last_dw,
    conv_last_dx,
    normal,
    normed,
    normed_back,
    softmax,
    softmax_back,
    states,
)


@sound("ok")
def linear_with_einsum(rng):
    def backward(dy, x, w, b):
        return np.einsum("nto,do->ntd", dy, w), np.einsum("ntd,nto->do", x, dy), dy.sum((0, 1))

    inputs = {**normal(rng, x=(2, 3, 4), w=(4, 5)), "b": np.zeros(5)}
    return lambda x, w, b: np.einsum("ntd,do->nto", x, w) + b, backward, inputs


@sound("ok", "inconclusive")
def softmax_of_large_numbers(rng):
    backward = lambda dy, z: softmax_back(dy, softmax(z))
    return lambda z: softmax(z), backward, {"z": 300 * rng.standard_normal((5, 6))}


@sound("ok", "inconclusive")
def logsumexp_far_from_zero(rng):
    def forward(z):
        top = z.max(1)
        return top + np.log(np.exp(z - top[:, None]).sum(1))

    return forward, lambda dy, z: {"z": dy[:, None] * softmax(z)}, {"z": 1e6 + rng.standard_normal((4, 5))}


@sound("ok")
def batch_norm_of_a_nearly_constant_channel(rng):
    over = (0, 2, 3)

    def backward(dy, x, gamma):
        xhat, rstd = normed(x, over)
        return {"x": normed_back(dy * gamma[:, None, None], xhat, rstd, over), "gamma": (dy * xhat).sum(over)}

    x = rng.standard_normal((3, 3, 2, 4)) * np.array([1, 1e-6, 10])[:, None, None]
    inputs = {"x": x, "gamma": rng.standard_normal(3)}
    return lambda x, gamma: gamma[:, None, None] * normed(x, over)[0], backward, inputs


@sound("inconclusive")
def batch_norm_of_a_large_mean(rng):
    over = (0, 1, 2)
    xhat = lambda x: (x - x.mean(over)) / x.std(over)

    def backward(dy, x, beta):
        return {"x": normed_back(dy, xhat(x), 1 / x.std(over), over), "beta": dy.sum(over)}

    inputs = {"x": 1e4 + rng.standard_normal((2, 3, 3, 4)), "beta": rng.standard_normal(4)}
    return lambda x, beta: xhat(x) + beta, backward, inputs


@sound("ok")
def conv_with_stride_and_padding(rng):
    backward = lambda dy, x, w: (conv_dx(dy, w, x.shape, 2, 2), conv_dw(dy, x, w, 2, 2))
    return lambda x, w: conv(x, w, 2, 2), backward, normal(rng, x=(2, 3, 7, 6), w=(4, 3, 5, 3))


@sound("ok")
def conv_relu_and_global_average(rng):
    forward = lambda x, w: np.maximum(conv_last(x, w, 1, 1), 0).mean((1, 2))

    def backward(dy, x, w):
        dz = (conv_last(x, w, 1, 1) > 0) * dy[:, None, None] / 30
        return {"x": conv_last_dx(dz, w, x.shape, 1, 1), "w": conv_last_dw(dz, x, w, 1, 1)}

    return forward, backward, normal(rng, x=(2, 5, 6, 2), w=(3, 3, 2, 3))


@sound("inconclusive")
def relu_with_exact_zeros(rng):
    backward = lambda dy, x, w: {"x": dy @ w.T * (x > 0), "w": np.maximum(x, 0).T @ dy}
    inputs = normal(rng, x=(6, 5), w=(5, 3))
    inputs["x"][[1, 4], [2, 0]] = 0
    return lambda x, w: np.maximum(x, 0) @ w, backward, inputs


@sound("inconclusive")
def max_pool_with_ties(rng):
    def backward(dy, x):
        dx = np.zeros_like(x)
        for n, i, j, c in np.ndindex(*dy.shape):
            row, column = divmod(x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c].argmax(), 2)
            dx[n, 2 * i + row, 2 * j + column, c] = dy[n, i, j, c]
        return dx

    inputs = {"x": rng.integers(0, 4, (2, 4, 6, 2)).astype(float)}
    return lambda x: x.reshape(2, 2, 2, 3, 2, 2).max((2, 4)), backward, inputs


@sound("ok")
def max_pool_with_overlaps(rng):
    def backward(dy, x):
        dx = np.zeros_like(x)
        for n, c, i, j in np.ndindex(*dy.shape):
            row, column = divmod(x[n, c, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].argmax(), 3)
            dx[n, c, 2 * i + row, 2 * j + column] += dy[n, c, i, j]
        return dx

    forward = lambda x: WINDOWS(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((-2, -1))
    return forward, backward, normal(rng, x=(2, 2, 7, 5))


@sound("ok")
def residual_block_with_projection_and_norm(rng):
    def forward(x, w, ws):
        return np.maximum(np.maximum(normed(x @ w, 0)[0], 0) + x @ ws, 0)

    def backward(dy, x, w, ws):
        xhat, rstd = normed(x @ w, 0)
        ds = dy * (forward(x, w, ws) > 0)
        dz = normed_back(ds * (xhat > 0), xhat, rstd, 0)
        return {"x": dz @ w.T + ds @ ws.T, "w": x.T @ dz, "ws": x.T @ ds}

    return forward, backward, normal(rng, x=(8, 4), w=(4, 6), ws=(4, 6))


@sound("ok")
def zero_padded_shortcut_with_stride(rng):
    forward = lambda x, w: conv_last(x, w, 2, 1) + np.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, 3)))

    def backward(dy, x, w):
        dx = conv_last_dx(dy, w, x.shape, 2, 1)
        dx[:, ::2, ::2] += dy[..., :3]
        return {"x": dx, "w": conv_last_dw(dy, x, w, 2, 1)}

    return forward, backward, normal(rng, x=(2, 5, 7, 3), w=(3, 3, 3, 6))


@sound("ok")
def layer_norm_of_tiny_numbers(rng):
    backward = lambda dy, x: normed_back(dy, *normed(x, -1, 1e-12), -1)
    return lambda x: normed(x, -1, 1e-12)[0], backward, {"x": 1e-6 * rng.standard_normal((3, 7))}


@sound("ok")
def causal_attention(rng):
    later = np.triu(np.ones((5, 5), bool), 1)
    weights = lambda q, k: softmax(np.where(later, -1e9, q @ k.T / np.sqrt(3)))

    def backward(dy, q, k, v):
        p = weights(q, k)
        ds = softmax_back(dy @ v.T, p) / np.sqrt(3)
        return {"q": ds @ k, "k": ds.T @ q, "v": p.T @ dy}

    return lambda q, k, v: weights(q, k) @ v, backward, normal(rng, q=(5, 3), k=(5, 3), v=(5, 4))


@sound("ok")
def rnn_of_many_steps(rng):
    forward = lambda x, w: states(x[None], w)[-1][0]

    def backward(dy, x, w):
        h, dx, dw = states(x[None], w), np.zeros_like(x), 0
        for t in reversed(range(25)):
            dx[t] = dy * (1 - h[t + 1][0] ** 2)
            dw = dw + np.outer(h[t][0], dx[t])
            dy = w @ dx[t]
        return {"x": dx, "w": dw}

    return forward, backward, {"x": rng.standard_normal((25, 4)), "w": 0.5 * rng.standard_normal((4, 4))}


@sound("ok")
def binary_cross_entropy_saturated(rng):
    t = (rng.random((4, 6)) < 0.5) * 1.0
    forward = lambda z: (np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))).mean()

    def backward(dy, z):
        small = np.exp(-np.abs(z))
        return dy * (np.where(z > 0, 1, small) / (1 + small) - t) / z.size

    return forward, backward, {"z": 40 * rng.standard_normal((4, 6))}


@sound("ok")
def gelu_with_erf(rng):
    below = lambda x: 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))
    backward = lambda dy, x: dy * (below(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))
    return lambda x: x * below(x), backward, {"x": 2 * rng.standard_normal((3, 9))}


@sound("ok")
def embedding_shared_with_the_head(rng):
    ids = np.array([0, 3, 3, 1, 0])

    def backward(dy, e):
        h = np.tanh(e[ids])
        de = dy.T @ h
        np.add.at(de, ids, dy @ e * (1 - h**2))
        return de

    return lambda e: np.tanh(e[ids]) @ e.T, backward, normal(rng, e=(6, 3))


@sound("refused")
def forward_in_float32(rng):
    def backward(dy, x, w):
        dz = dy * (1 - np.tanh(x @ w) ** 2)
        return {"x": dz @ w.T, "w": x.T @ dz}

    forward = lambda x, w: np.tanh(x.astype(np.float32) @ w.astype(np.float32))
    return forward, backward, normal(rng, x=(4, 3), w=(3, 5))


@sound("ok")
def thirty_residual_blocks(rng):
    def run(x, w):
        h = [x]
        for each in w:
            h.append(h[-1] + np.tanh(h[-1] @ each))
        return h

    def backward(dy, x, w):
        h, dw = run(x, w), np.zeros_like(w)
        for k in reversed(range(30)):
            dz = dy * (1 - np.tanh(h[k] @ w[k]) ** 2)
            dw[k] = h[k].T @ dz
            dy = dy + dz @ w[k].T
        return {"x": dy, "w": dw}

    return lambda x, w: run(x, w)[-1], backward, normal(rng, x=(2, 3), w=(30, 3, 3))
