"""Mistakes in softmax, cross-entropy and other losses."""

import numpy as np

from tests.ordinary import mistake
from tests.ordinary.formulas import logistic, normal, softmax, softmax_back

NOT_ZERO_IN_SUM = "it must sum to zero along axis 1, as adding a constant there changes nothing: is a mean or sum there"


@mistake(says=r"it is the length of axis 1 = 5 times too small: divided by it once too often")
def cross_entropy_divided_by_all(rng, right):
    """p - onehot is divided by the number of all entries instead of by N."""
    t = rng.integers(0, 5, 7)
    forward = lambda z: -np.log(softmax(z)[np.arange(7), t]).mean()
    backward = lambda dy, z: {"z": dy * (softmax(z) - np.eye(5)[t]) / (7 if right else z.size)}
    return forward, backward, normal(rng, z=(7, 5))


@mistake(says=NOT_ZERO_IN_SUM + " missing, or over another axis")
def softmax_sum_over_the_batch(rng, right):
    """The sum of dy p runs over the batch instead of over the classes."""
    backward = lambda dy, z: {"z": softmax_back(dy, softmax(z), 1 if right else 0)}
    return lambda z: softmax(z), backward, normal(rng, z=(6, 9))


@mistake(says=NOT_ZERO_IN_SUM + " missing")
def log_softmax_without_the_sum(rng, right):
    """dy - p dy instead of dy - p sum(dy)."""

    def forward(z):
        z = z - z.max(1, keepdims=True)
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    backward = lambda dy, z: {"z": dy - softmax(z) * (dy.sum(1, keepdims=True) if right else dy)}
    return forward, backward, normal(rng, z=(8, 6))


@mistake()
def label_smoothing_ignored(rng, right):
    """The backward pass subtracts the one-hot target, not the smoothed one."""
    hard = np.eye(6)[rng.integers(0, 6, 5)]
    soft = 0.9 * hard + 0.1 / 6
    forward = lambda z: -(soft * np.log(softmax(z))).sum() / 5
    backward = lambda dy, z: {"z": dy * (softmax(z) - (soft if right else hard)) / 5}
    return forward, backward, normal(rng, z=(5, 6))


@mistake()
def weighted_cross_entropy_divided_by_n(rng, right):
    """It is divided by N instead of by the sum of the examples' weights."""
    t = np.array([0, 1, 2, 3, 1, 0, 2, 2, 3])
    weights = np.array([0.5, 2.0, 1.0, 3.0])[t]
    forward = lambda z: -(weights * np.log(softmax(z)[np.arange(9), t])).sum() / weights.sum()

    def backward(dy, z):
        return {"z": dy * (softmax(z) - np.eye(4)[t]) * weights[:, None] / (weights.sum() if right else 9)}

    return forward, backward, normal(rng, z=(9, 4))


@mistake(says=r"it is 2\.5 .*times too large")
def softmax_without_its_temperature(rng, right):
    """The chain rule's factor 1 / 2.5 is missing."""
    backward = lambda dy, z: {"z": softmax_back(dy, softmax(z / 2.5)) / (2.5 if right else 1)}
    return lambda z: softmax(z / 2.5), backward, normal(rng, z=(4, 7))


@mistake(says=r"it is the product of the axes 2, 3 = 20 times too large: a division by it is missing")
def pixel_cross_entropy_without_hw(rng, right):
    """NCHW: it is divided by N only, but the mean also runs over H W."""
    hot = np.eye(3)[rng.integers(0, 3, (2, 5, 4))].transpose(0, 3, 1, 2)
    forward = lambda z: -(hot * np.log(softmax(z, 1))).sum() / 40
    backward = lambda dy, z: {"z": dy * (softmax(z, 1) - hot) / (40 if right else 2)}
    return forward, backward, normal(rng, z=(2, 3, 5, 4))


@mistake(says=r"wherever it is wrong, it has the wrong sign")
def huber_without_the_sign(rng, right):
    """Beyond 0.7 the gradient is +0.7: the sign of the error is missing."""

    def forward(p, t):
        far = np.sqrt((p - t) ** 2)
        return np.where(far < 0.7, 0.5 * far**2, 0.7 * (far - 0.35)).mean()

    def backward(dy, p, t):
        e = p - t
        d = dy * np.where(np.abs(e) < 0.7, e, 0.7 * (np.sign(e) if right else 1)) / e.size
        return {"p": d, "t": -d}

    return forward, backward, normal(rng, p=(6, 4), t=(6, 4))


@mistake()
def weight_of_positives_ignored(rng, right):
    """Binary cross-entropy with a weight for positives: the backward pass is that without one, s(z) - t."""
    t = (rng.random((5, 8)) < 0.5) * 1.0

    def forward(z):
        s = logistic(z)
        return -(3 * t * np.log(s) + (1 - t) * np.log(1 - s)).mean()

    def backward(dy, z):
        s = logistic(z)
        return {"z": dy * ((1 - t) * s - 3 * t * (1 - s) if right else s - t) / z.size}

    return forward, backward, normal(rng, z=(5, 8))


@mistake(says=r"what is missing is, in each row, a multiple of a itself: the derivative of its norm")
def cosine_with_a_constant_norm(rng, right):
    """The norm of a is taken for a constant: da lacks the term through it."""
    norm = lambda a: np.sqrt((a**2).sum(1, keepdims=True))
    forward = lambda a, b: ((a / norm(a)) * (b / norm(b))).sum(1)

    def backward(dy, a, b):
        dy, y = dy[:, None], forward(a, b)[:, None]
        inner = b / norm(b) - (y * a / norm(a) if right else 0)
        return {"a": dy * inner / norm(a), "b": dy * (a / norm(a) - y * b / norm(b)) / norm(b)}

    return forward, backward, normal(rng, a=(4, 6), b=(4, 6))


@mistake()
def triplet_anchor_without_the_negative(rng, right):
    """The anchor's gradient has the part of the positive only: that of the negative is missing."""
    margin = lambda a, p, n: ((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1) + 1
    forward = lambda a, p, n: np.maximum(margin(a, p, n), 0).mean()

    def backward(dy, a, p, n):
        d = 2 * (margin(a, p, n) > 0)[:, None] * dy / len(a)
        return {"a": d * (a - p - (a - n if right else 0)), "p": -d * (a - p), "n": d * (a - n)}

    return forward, backward, normal(rng, a=(7, 3), p=(7, 3), n=(7, 3))


@mistake(says=NOT_ZERO_IN_SUM + ".* a factor on some terms only")
def hinge_right_class_counted_once(rng, right):
    """The right class gets -1 instead of minus the number of classes within the margin."""
    t, rows = rng.integers(0, 5, 8), np.arange(8)

    def margins(s):
        m = np.maximum(s - s[rows, t][:, None] + 1, 0)
        m[rows, t] = 0
        return m

    def backward(dy, s):
        d = (margins(s) > 0) * 1.0
        d[rows, t] = -d.sum(1) if right else -1
        return {"s": dy * d / 8}

    return lambda s: margins(s).sum() / 8, backward, normal(rng, s=(8, 5))
