"""Mistakes in what lies beyond the residual network: attention, embeddings, recurrent networks."""

import numpy as np

from tests.ordinary import mistake
from tests.ordinary.formulas import attention, attention_back, logistic, normal, states


@mistake(says=r"it is sqrt\(5\) = 2\.236 times too large")
def attention_dq_without_the_scale(rng, right):
    """dq lacks the factor 1 / sqrt(5) of five features; dk has it."""

    def backward(dy, q, k, v):
        dq, dk, dv, _ = attention_back(dy, q, k, v)
        return {"q": dq * (1 if right else np.sqrt(5)), "k": dk, "v": dv}

    return lambda q, k, v: attention(q, k, v), backward, normal(rng, q=(2, 3, 5), k=(2, 4, 5), v=(2, 4, 6))


@mistake()
def attention_dk_without_a_transpose(rng, right):
    """dk = ds @ q instead of ds.T @ q."""

    def backward(dy, q, k, v):
        dq, dk, dv, ds = attention_back(dy, q, k, v)
        return {"q": dq, "k": dk if right else ds @ q, "v": dv}

    return lambda q, k, v: attention(q, k, v), backward, normal(rng, q=(5, 3), k=(5, 3), v=(5, 4))


@mistake()
def self_attention_without_the_keys(rng, right):
    """dx adds what comes through the queries and the values: the keys are forgotten."""
    forward = lambda x, wq, wk, wv: attention(x @ wq, x @ wk, x @ wv)

    def backward(dy, x, wq, wk, wv):
        dq, dk, dv, _ = attention_back(dy, x @ wq, x @ wk, x @ wv)
        dx = dq @ wq.T + dv @ wv.T + (dk @ wk.T if right else 0)
        return {"x": dx, "wq": x.T @ dq, "wk": x.T @ dk, "wv": x.T @ dv}

    return forward, backward, normal(rng, x=(6, 4), wq=(4, 3), wk=(4, 3), wv=(4, 5))


@mistake()
def heads_merged_without_a_transpose(rng, right):
    """backward reshapes (heads, time, d) to (time, heads d) without moving the heads behind the time first."""
    split = lambda a: a.reshape(5, 2, 3).transpose(1, 0, 2)
    forward = lambda x, w: np.tanh(split(x @ w))

    def backward(dy, x, w):
        dz = dy * (1 - forward(x, w) ** 2)
        dz = (dz.transpose(1, 0, 2) if right else dz).reshape(5, 6)
        return {"x": dz @ w.T, "w": x.T @ dz}

    return forward, backward, normal(rng, x=(5, 4), w=(4, 6))


@mistake()
def embedding_counts_repeated_rows_once(rng, right):
    """de[ids] += dy counts a repeated id only once: np.add.at counts each."""
    ids = np.array([[1, 4, 1, 0], [3, 1, 4, 5]])

    def backward(dy, e):
        de = np.zeros_like(e)
        if right:
            np.add.at(de, ids, dy)
        else:
            de[ids] += dy
        return {"e": de}

    return lambda e: e[ids], backward, normal(rng, e=(7, 3))


@mistake()
def rnn_without_the_next_step(rng, right):
    """What comes from the next step is not added: each step gets its own dy only."""
    forward = lambda x, wx, wh: np.stack(states(x @ wx, wh)[1:], 1)

    def backward(dy, x, wx, wh):
        h = states(x @ wx, wh)
        dz, dwh, later = np.zeros_like(dy), 0, 0
        for t in reversed(range(4)):
            dz[:, t] = (dy[:, t] + later) * (1 - h[t + 1] ** 2)
            dwh = dwh + h[t].T @ dz[:, t]
            later = dz[:, t] @ wh.T if right else 0
        return {"x": dz @ wx.T, "wx": np.einsum("nti,nto->io", x, dz), "wh": dwh}

    inputs = {"x": (2, 4, 3), "wx": (3, 5), "wh": (5, 5)}
    scales = {"x": 1, "wx": 0.6, "wh": 0.5}
    return forward, backward, {n: scales[n] * value for n, value in normal(rng, **inputs).items()}


@mistake()
def rnn_dwh_of_the_new_state(rng, right):
    """dwh is made with the new state h[t] instead of the one before."""
    forward = lambda x, wh: states(x, wh)[-1]

    def backward(dy, x, wh):
        h, dx, dwh = states(x, wh), np.zeros_like(x), 0
        for t in reversed(range(5)):
            dx[:, t] = dy * (1 - h[t + 1] ** 2)
            dwh = dwh + h[t if right else t + 1].T @ dx[:, t]
            dy = dx[:, t] @ wh.T
        return {"x": dx, "wh": dwh}

    return forward, backward, {"x": rng.standard_normal((3, 5, 4)), "wh": 0.5 * rng.standard_normal((4, 4))}


@mistake()
def lstm_forget_gate_with_the_new_state(rng, right):
    """The forget gate's gradient is multiplied by the new cell state instead of the old one."""

    def cell(x, c0, w):
        i, f, o, g = np.split(x @ w, 4, 1)
        i, f, o, g = logistic(i), logistic(f), logistic(o), np.tanh(g)
        return i, f, o, g, f * c0 + i * g

    def forward(x, c0, w):
        _, _, o, _, c = cell(x, c0, w)
        return o * np.tanh(c)

    def backward(dy, x, c0, w):
        i, f, o, g, c = cell(x, c0, w)
        dc = dy * o * (1 - np.tanh(c) ** 2)
        di, df, do, dg = dc * g, dc * (c0 if right else c), dy * np.tanh(c), dc * i
        dz = np.concatenate([di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dg * (1 - g**2)], 1)
        return {"x": dz @ w.T, "c0": dc * f, "w": x.T @ dz}

    return forward, backward, normal(rng, x=(5, 3), c0=(5, 4), w=(3, 16))
