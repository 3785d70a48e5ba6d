"""Mistakes in linear layers, activations and dropout."""

import numpy as np

from tests.ordinary import mistake
from tests.ordinary.formulas import logistic, normal


@mistake(says=r"it is N = 3 times too small: .* averaged")
def linear_dw_averaged_over_the_batch(rng, right):
    """dw is the mean over the batch of the examples' matrices, not their sum."""
    forward = lambda x, w, b: x @ w + b

    def backward(dy, x, w, b):
        each = x.transpose(0, 2, 1) @ dy
        return {"x": dy @ w.T, "w": each.sum(0) if right else each.mean(0), "b": dy.sum((0, 1))}

    return forward, backward, normal(rng, x=(3, 5, 4), w=(4, 7), b=7)


@mistake()
def mlp_b1_before_the_mask(rng, right):
    """b1 gets dh from before the ReLU's mask; w1 gets the masked one."""
    forward = lambda x, w1, b1, w2: np.maximum(x @ w1 + b1, 0) @ w2

    def backward(dy, x, w1, b1, w2):
        h = np.maximum(x @ w1 + b1, 0)
        dh = dy @ w2.T
        dz = dh * (h > 0)
        return {"x": dz @ w1.T, "w1": x.T @ dz, "b1": (dz if right else dh).sum(0), "w2": h.T @ dy}

    return forward, backward, normal(rng, x=(6, 3), w1=(3, 5), b1=5, w2=(5, 2))


@mistake(says=r"what is missing is a multiple of w itself: the derivative of its square \(a penalty")
def ridge_penalty_without_its_two(rng, right):
    """The gradient of the penalty 0.3 sum(w^2) is 0.3 w: its factor 2 is missing."""
    forward = lambda x, w, t: ((x @ w - t) ** 2).mean() + 0.3 * (w**2).sum()

    def backward(dy, x, w, t):
        d = 2 * (x @ w - t) / t.size * dy
        return {"x": d @ w.T, "w": x.T @ d + (2 if right else 1) * 0.3 * w * dy, "t": -d}

    return forward, backward, normal(rng, x=(9, 4), w=(4, 3), t=(9, 3))


@mistake()
def mlp_dw2_of_the_preactivation(rng, right):
    """dw2 is made with z, from before the activation, instead of h = tanh(z)."""
    forward = lambda x, w1, w2: np.tanh(x @ w1) @ w2

    def backward(dy, x, w1, w2):
        z = x @ w1
        h = np.tanh(z)
        dz = dy @ w2.T * (1 - h**2)
        return {"x": dz @ w1.T, "w1": x.T @ dz, "w2": (h if right else z).T @ dy}

    return forward, backward, normal(rng, x=(8, 3), w1=(3, 6), w2=(6, 4))


@mistake(says=r"what was measured is dy \(1 - y\^2\), as of tanh")
def tanh_without_the_square(rng, right):
    """The derivative of tanh is taken as 1 - y: the square is missing."""
    backward = lambda dy, x: {"x": dy * (1 - np.tanh(x) ** (2 if right else 1))}
    return lambda x: np.tanh(x), backward, normal(rng, x=(5, 9))


@mistake(says=r"it is not linear in dy, .*: dy is left out")
def leaky_relu_slope_without_dy(rng, right):
    """On the negative side the slope stands alone, without dy."""
    forward = lambda x: np.where(x > 0, x, 0.1 * x)
    backward = lambda dy, x: {"x": np.where(x > 0, dy, 0.1 * dy if right else 0.1)}
    return forward, backward, normal(rng, x=(7, 8))


@mistake()
def elu_y_as_the_slope(rng, right):
    """On the negative side y = 1.3 (exp(x) - 1) is taken for the slope, which is y + 1.3."""
    forward = lambda x: np.where(x > 0, x, 1.3 * (np.exp(np.minimum(x, 0)) - 1))
    backward = lambda dy, x: {"x": dy * np.where(x > 0, 1, forward(x) + (1.3 if right else 0))}
    return forward, backward, normal(rng, x=(6, 11))


@mistake()
def gelu_cube_without_its_three(rng, right):
    """The derivative of 0.044715 x^3 is taken as 0.044715 x^2: its factor 3 is missing."""
    c = np.sqrt(2 / np.pi)
    bent = lambda x: np.tanh(c * (x + 0.044715 * x**3))
    forward = lambda x: 0.5 * x * (1 + bent(x))

    def backward(dy, x):
        inner = c * (1 + (3 if right else 1) * 0.044715 * x**2)
        return {"x": dy * 0.5 * (1 + bent(x) + x * (1 - bent(x) ** 2) * inner)}

    return forward, backward, {"x": 1.5 * rng.standard_normal((4, 13))}


@mistake()
def silu_without_the_second_term(rng, right):
    """Of the product x s(x) only s(x) is passed on: the term x s (1 - s) is missing."""

    def backward(dy, x):
        s = logistic(x)
        return {"x": dy * (s + x * s * (1 - s) if right else s)}

    return lambda x: x * logistic(x), backward, normal(rng, x=(3, 14))


@mistake(says=r"must be zero elsewhere: a mask is missing")
def relu6_without_its_six(rng, right):
    """The mask is x > 0 only: above 6 the gradient must be zero too."""
    backward = lambda dy, x: {"x": dy * ((x > 0) & (x < 6) if right else x > 0)}
    return lambda x: np.minimum(np.maximum(x, 0), 6), backward, {"x": 6 * rng.standard_normal((5, 10))}


@mistake()
def prelu_slope_of_all_entries(rng, right):
    """NCHW: the slope's gradient sums dy x over all entries, not over those with x < 0 only."""
    forward = lambda x, a: np.where(x > 0, x, a[:, None, None] * x)

    def backward(dy, x, a):
        da = dy * x * (x <= 0) if right else dy * x
        return {"x": dy * np.where(x > 0, 1, a[:, None, None]), "a": da.sum((0, 2, 3))}

    return forward, backward, {"x": rng.standard_normal((2, 3, 4, 5)), "a": rng.uniform(0.1, 0.4, 3)}


@mistake(says=r"it is not linear in dy, .*\(a mask made from dy\?\)")
def relu_masked_by_dy(rng, right):
    """The mask is dy > 0 instead of x > 0."""
    backward = lambda dy, x: {"x": dy * ((x if right else dy) > 0)}
    return lambda x: np.maximum(x, 0), backward, normal(rng, x=(2, 5, 7, 3))


@mistake(says=r"it is 1\.66667 \(1 / 0\.6\) times too small")
def dropout_without_the_scale(rng, right):
    """The forward pass divides by the probability to keep, 0.6; the backward pass only applies the mask."""
    mask = (rng.random((6, 10)) < 0.6) * 1.0
    forward = lambda x, w: (x @ w) * mask / 0.6

    def backward(dy, x, w):
        d = dy * mask / (0.6 if right else 1)
        return {"x": d @ w.T, "w": x.T @ d}

    return forward, backward, normal(rng, x=(6, 4), w=(4, 10))
