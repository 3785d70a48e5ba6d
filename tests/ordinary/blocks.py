"""Mistakes in norms and residual blocks."""

import numpy as np

from tests.ordinary import mistake
from tests.ordinary.formulas import conv, conv_dw, conv_dx, normal, normed, normed_back

# -- norms ------------------------------------------------------------------------------------------------------------


@mistake(says=r"it is the sum of dy x: x must be normalised first")
def batch_norm_dgamma_with_x(rng, right):
    """gamma's gradient sums dy x instead of dy xhat."""
    forward = lambda x, gamma, beta: gamma * normed(x, 0)[0] + beta

    def backward(dy, x, gamma, beta):
        xhat, rstd = normed(x, 0)
        dx = normed_back(dy * gamma, xhat, rstd, 0)
        return {"x": dx, "gamma": (dy * (xhat if right else x)).sum(0), "beta": dy.sum(0)}

    return forward, backward, {"x": 2 + 1.5 * rng.standard_normal((9, 5)), **normal(rng, gamma=5, beta=5)}


@mistake(says=r"the term xhat mean\(dy xhat\) is 2 times what it must be")
def batch_norm_dvar_without_a_half(rng, right):
    """Step by step: the factor 1/2 in the derivative of (var + eps)^-0.5 is missing."""
    over = (0, 1, 2)
    forward = lambda x, gamma, beta: gamma * normed(x, over)[0] + beta

    def backward(dy, x, gamma, beta):
        xhat, rstd = normed(x, over)
        count, centred, dxhat = x[..., 0].size, x - x.mean(over), dy * gamma
        dvar = (-0.5 if right else -1) * (dxhat * centred * rstd**3).sum(over)
        dmean = -(dxhat * rstd).sum(over)
        dx = dxhat * rstd + dvar * 2 * centred / count + dmean / count
        return {"x": dx, "gamma": (dy * xhat).sum(over), "beta": dy.sum(over)}

    return forward, backward, normal(rng, x=(2, 3, 4, 3), gamma=3, beta=3)


@mistake(says=r"the means of dy and of dy xhat are 20 times what they must be")
def batch_norm_sums_divided_by_n(rng, right):
    """NCHW: the backward pass divides its sums by N instead of by N H W."""
    over = (0, 2, 3)
    forward = lambda x, gamma: gamma[:, None, None] * normed(x, over)[0]

    def backward(dy, x, gamma):
        xhat, rstd = normed(x, over)
        g = dy * gamma[:, None, None]
        mean = lambda a: a.sum(over, keepdims=True) / (3 * 4 * 5 if right else 3)
        return {"x": rstd * (g - mean(g) - xhat * mean(g * xhat)), "gamma": (dy * xhat).sum(over)}

    return forward, backward, normal(rng, x=(3, 2, 4, 5), gamma=2)


@mistake(says=r"it is sqrt\(8 / 7\) = 1\.069 times too small")
def batch_norm_unbiased_in_backward(rng, right):
    """backward divides by the unbiased deviation of the 8 examples, forward by the biased one."""

    def backward(dy, x, gamma):
        xhat, rstd = normed(x, 0)
        used = rstd if right else 1 / np.sqrt(x.var(0, ddof=1) + 1e-5)
        return {"x": normed_back(dy * gamma, xhat, used, 0), "gamma": (dy * xhat).sum(0)}

    return lambda x, gamma: gamma * normed(x, 0)[0], backward, normal(rng, x=(8, 4), gamma=4)


@mistake(says=r"so nothing is subtracted from it: are mean and variance constants, as in evaluation")
def batch_norm_training_formula_in_evaluation(rng, right):
    """Mean and variance are running ones, so constants; dx is made with the formula for training."""
    mean, rstd = 0.3 * rng.standard_normal(3), 1 / np.sqrt(rng.uniform(0.5, 2, 3) + 1e-5)
    forward = lambda x, gamma, beta: gamma * (x - mean) * rstd + beta

    def backward(dy, x, gamma, beta):
        xhat, over = (x - mean) * rstd, (0, 1, 2)
        dx = dy * gamma * rstd if right else normed_back(dy * gamma, xhat, rstd, over)
        return {"x": dx, "gamma": (dy * xhat).sum(over), "beta": dy.sum(over)}

    return forward, backward, normal(rng, x=(2, 4, 5, 3), gamma=3, beta=3)


@mistake(says=r"it must sum to zero along axis 1, .*: is a mean or sum there missing, or over another axis")
def layer_norm_means_over_the_batch(rng, right):
    """The means in dx run over axis 0, as in batch norm, instead of over the features."""
    forward = lambda x, gamma, beta: gamma * normed(x, -1)[0] + beta

    def backward(dy, x, gamma, beta):
        xhat, rstd = normed(x, -1)
        dx = normed_back(dy * gamma, xhat, rstd, -1 if right else 0)
        return {"x": dx, "gamma": (dy * xhat).sum(0), "beta": dy.sum(0)}

    return forward, backward, normal(rng, x=(4, 11), gamma=11, beta=11)


@mistake(
    says=r"what is missing is, in each row, a multiple of x itself: the derivative of its norm, or of what it is div"
)
def rms_norm_with_a_constant_rms(rng, right):
    """The root mean square is taken for a constant: the term through it is missing."""
    rms = lambda x: np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

    def backward(dy, x, g):
        through = x * (dy * g * x).mean(-1, keepdims=True) / rms(x) ** 3
        return {"x": dy * g / rms(x) - (through if right else 0), "g": (dy * x / rms(x)).sum((0, 1))}

    return lambda x, g: g * x / rms(x), backward, normal(rng, x=(2, 3, 8), g=8)


@mistake()
def group_norm_means_of_each_channel(rng, right):
    """NCHW: the means in dx run over each channel alone instead of over all channels of a group."""
    groups, over = (2, 2, 3, 3, 4), (2, 3, 4)
    forward = lambda x, gamma: normed(x.reshape(groups), over)[0].reshape(x.shape) * gamma[:, None, None]

    def backward(dy, x, gamma):
        xhat, rstd = normed(x.reshape(groups), over)
        g = (dy * gamma[:, None, None]).reshape(groups)
        dx = normed_back(g, xhat, rstd, over if right else (3, 4))
        return {"x": dx.reshape(x.shape), "gamma": (dy * xhat.reshape(x.shape)).sum((0, 2, 3))}

    return forward, backward, normal(rng, x=(2, 6, 3, 4), gamma=6)


# -- residual blocks --------------------------------------------------------------------------------------------------


@mistake(says=r"the ReLU after the addition masks the skip as well: multiply dy by \(y > 0\)")
def skip_without_the_last_mask(rng, right):
    """A ReLU follows the addition, but the skip gets dy without its mask."""
    forward = lambda x, w1, w2: np.maximum(np.maximum(x @ w1, 0) @ w2 + x, 0)

    def backward(dy, x, w1, w2):
        h = np.maximum(x @ w1, 0)
        ds = dy * (h @ w2 + x > 0)
        dz = ds @ w2.T * (h > 0)
        return {"x": dz @ w1.T + (ds if right else dy), "w1": x.T @ dz, "w2": h.T @ ds}

    return forward, backward, normal(rng, x=(7, 4), w1=(4, 6), w2=(6, 4))


@mistake()
def zero_padded_shortcut_shifted(rng, right):
    """Zeros are padded on both sides of the channels; backward takes the first three of dy, not the middle ones."""
    forward = lambda x, w: np.tanh(x @ w) + np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1)))

    def backward(dy, x, w):
        dz = dy * (1 - np.tanh(x @ w) ** 2)
        skip = dy[..., 1:-1] if right else dy[..., :3]
        return {"x": dz @ w.T + skip, "w": np.einsum("nhwc,nhwo->co", x, dz)}

    return forward, backward, normal(rng, x=(2, 4, 3, 3), w=(3, 5))


@mistake()
def strided_shortcut_repeated(rng, right):
    """The shortcut takes every second pixel; backward gives dy to all four of a square, not to that one."""
    forward = lambda x, w: conv(x, w, 2, 1) + x[:, :, ::2, ::2]

    def backward(dy, x, w):
        dx = conv_dx(dy, w, x.shape, 2, 1)
        if right:
            dx[:, :, ::2, ::2] += dy
        else:
            dx += dy.repeat(2, 2).repeat(2, 3)
        return {"x": dx, "w": conv_dw(dy, x, w, 2, 1)}

    return forward, backward, {"x": rng.standard_normal((2, 3, 6, 8)), "w": 0.4 * rng.standard_normal((3, 3, 3, 3))}


@mistake(says=r"it is wrong just where x is negative: one mask too many")
def preactivation_skip_masked(rng, right):
    """In x + relu(x) @ w the skip is put through the branch's mask too."""
    forward = lambda x, w: x + np.maximum(x, 0) @ w

    def backward(dy, x, w):
        return {"x": dy * (1 if right else x > 0) + dy @ w.T * (x > 0), "w": np.maximum(x, 0).T @ dy}

    return forward, backward, normal(rng, x=(9, 5), w=(5, 5))


@mistake(says=r"this is the gradient of w2")
def projection_with_the_hidden_input(rng, right):
    """The gradient of the projection ws is made with the hidden h instead of the block's input x."""
    forward = lambda x, w1, w2, ws: np.tanh(x @ w1) @ w2 + x @ ws

    def backward(dy, x, w1, w2, ws):
        h = np.tanh(x @ w1)
        dz = dy @ w2.T * (1 - h**2)
        return {"x": dz @ w1.T + dy @ ws.T, "w1": x.T @ dz, "w2": h.T @ dy, "ws": (x if right else h).T @ dy}

    return forward, backward, normal(rng, x=(6, 4), w1=(4, 4), w2=(4, 7), ws=(4, 7))


@mistake(says=r"what comes through the skip is right, but the branch gives 5 times what it must")
def branch_without_its_scale(rng, right):
    """In x + 0.2 tanh(x @ w) the branch's part of dx lacks the 0.2; dw has it."""
    forward = lambda x, w: x + 0.2 * np.tanh(x @ w)

    def backward(dy, x, w):
        dz = dy * (1 - np.tanh(x @ w) ** 2)
        return {"x": dy + (0.2 if right else 1) * dz @ w.T, "w": 0.2 * x.T @ dz}

    return forward, backward, normal(rng, x=(5, 3), w=(3, 3))
