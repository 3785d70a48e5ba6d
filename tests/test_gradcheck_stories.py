"""Hints on ordinary mistakes that no catalogue lists: the right story is told, and a wrong one is not."""

import re

import numpy as np
import pytest

from minires import gradcheck_fn
from minires.errors import ArgumentError

pytestmark = pytest.mark.host_only("its functions are written with NumPy")


def softmax(z, axis=-1):
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def logistic(x):
    return 1 / (1 + np.exp(-x))


def first_hints(forward, backward, **shapes):
    """The first hint for each input that failed, the same for three seeds; a shape of ints, or what to draw it from."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng([3, seed])
        inputs = {n: s(rng) if callable(s) else rng.standard_normal(s) for n, s in shapes.items()}
        report = gradcheck_fn(forward, backward, inputs, seed)
        assert not report.ok
        found.append({n: (r.hints or [""])[0] for n, r in report.inputs.items() if not r.ok})
    assert all(one.keys() == found[0].keys() for one in found)
    return found


def positive(*shape):
    return lambda rng: rng.uniform(0.3, 3, shape)


def conv(x, w, stride=1):
    """NCHW pictures, OIHW kernels, padding 1."""
    n, _, height, width = x.shape
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = (height + 2 - w.shape[2]) // stride + 1, (width + 2 - w.shape[3]) // stride + 1
    y = np.zeros((n, w.shape[0], rows, columns), np.result_type(x, w))
    for u in range(w.shape[2]):
        for v in range(w.shape[3]):
            seen = x[:, :, u : u + stride * rows : stride, v : v + stride * columns : stride]
            y += np.einsum("ncij,oc->noij", seen, w[:, :, u, v])
    return y


def conv_dx(dy, w, shape, crop=1):
    x = np.zeros((shape[0], shape[1], shape[2] + 2, shape[3] + 2))
    for u in range(w.shape[2]):
        for v in range(w.shape[3]):
            x[:, :, u : u + dy.shape[2], v : v + dy.shape[3]] += np.einsum("noij,oc->ncij", dy, w[:, :, u, v])
    return x[:, :, crop : crop + shape[2], crop : crop + shape[3]]


def conv_dw(dy, x, shape):
    x, dw = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), np.zeros(shape)
    for u in range(shape[2]):
        for v in range(shape[3]):
            dw[:, :, u, v] = np.einsum("noij,ncij->oc", dy, x[:, :, u : u + dy.shape[2], v : v + dy.shape[3]])
    return dw


def norm_dx(dy, x, means=1.0, products=1.0, over=0):
    """Of batch norm without gamma, with so many times each of the two terms."""
    xhat = (x - x.mean(over, keepdims=True)) / np.sqrt(x.var(over, keepdims=True) + 1e-5)
    inner = dy - means * dy.mean(over, keepdims=True) - products * xhat * (dy * xhat).mean(over, keepdims=True)
    return inner / np.sqrt(x.var(over, keepdims=True) + 1e-5)


def norm(x, over=0):
    return (x - x.mean(over, keepdims=True)) / np.sqrt(x.var(over, keepdims=True) + 1e-5)


PICTURES, KERNEL = (2, 3, 7, 6), (4, 3, 3, 3)
STORIES = {
    # forward, backward of the input that is wrong, its name, the hint, the inputs
    "a reshape for a transpose": (
        lambda x, w: x @ w, lambda dy, x, w: {"x": dy @ w.T, "w": (dy.T @ x).reshape(w.shape)}, "w",
        "the right numbers in the wrong places", {"x": (7, 3), "w": (3, 5)}),
    "a permutation not undone": (
        lambda x: x.transpose(1, 2, 0), lambda dy, x: {"x": dy.transpose(1, 2, 0).reshape(x.shape)}, "x",
        "the right numbers in the wrong places", {"x": (3, 4, 5)}),
    "the first sample only": (
        lambda x, s: x * s, lambda dy, x, s: {"x": dy * s, "s": (dy * x)[0]}, "s",
        "dy at 1, 2, 3, 4, 5, 6 along axis 0 makes no difference to it, although s makes one to the output there",
        {"x": (7, 5), "s": (5,)}),
    "the square's derivative in a penalty": (
        lambda x, w: (x @ w).sum() + 0.3 * (w**2).sum(),
        lambda dy, x, w: {"x": dy * np.broadcast_to(w.sum(1), x.shape), "w": dy * (x.sum(0)[:, None] + 0.3 * w)}, "w",
        "a multiple of w itself: the derivative of its square", {"x": (7, 3), "w": (3, 5)}),
    "the norm taken for a constant": (
        lambda x: x / np.sqrt((x**2).sum(1, keepdims=True)),
        lambda dy, x: {"x": dy / np.sqrt((x**2).sum(1, keepdims=True))}, "x", "in each row, a multiple of x itself",
        {"x": (4, 7)}),
    "x log x": (
        lambda x: (x * np.log(x)).sum(), lambda dy, x: {"x": dy * np.log(x)}, "x",
        "the same everywhere: a constant term",
        {"x": positive(3, 5)}),
    "the exponent not lowered": (
        lambda x: x**3, lambda dy, x: {"x": 3 * x**3 * dy}, "x", "the factor x once too often", {"x": (4, 5)}),
    "softplus": (
        lambda x: np.log(1 + np.exp(x)), lambda dy, x: {"x": dy * np.exp(x)}, "x",
        "the factor (1 + exp(x)) once too often", {"x": (4, 5)}),
    "square root of x": (
        lambda x: np.sqrt(x), lambda dy, x: {"x": dy / (2 * x)}, "x", "the factor y, the output, is missing",
        {"x": positive(4, 5)}),
    "the square root of a length": (
        lambda q, k: q @ k.T / np.sqrt(7), lambda dy, q, k: {"q": dy @ k / 7, "k": dy.T @ q / np.sqrt(7)}, "q",
        "it is sqrt(7) = 2.646 times too small", {"q": (4, 7), "k": (5, 7)}),
    "unbiased": (
        lambda x: x.var(0, ddof=1), lambda dy, x: {"x": dy * 2 * (x - x.mean(0)) / 6}, "x",
        "it is 6 / 5 = 1.2 times too small", {"x": (6, 4)}),
    "log2": (lambda x: np.log2(x), lambda dy, x: {"x": dy / x}, "x", "it is 1 / ln 2 = 1.443 times too small",
             {"x": positive(3, 5)}),
    "flip": (lambda x: x[:, ::-1], lambda dy, x: {"x": dy}, "x", "it runs backwards along axis 1", {"x": (3, 5)}),
    "the branch without its factor": (
        lambda x, w: x + 0.8 * np.tanh(x * w), lambda dy, x, w: {
            "x": dy * (1 + (1 - np.tanh(x * w) ** 2) * w), "w": 0.8 * (dy * (1 - np.tanh(x * w) ** 2) * x).sum(0)}, "x",
        "what comes through the skip is right, but the branch gives 1.25 times what it must", {"x": (5, 4), "w": (4,)}),
    "the branch without gamma": (
        lambda x, w, g: x + np.tanh(x @ w) * g, lambda dy, x, w, g: {
            "x": dy + (dy * (1 - np.tanh(x @ w) ** 2)) @ w.T, "w": x.T @ (dy * g * (1 - np.tanh(x @ w) ** 2)),
            "g": (dy * np.tanh(x @ w)).sum(0)}, "x",
        "what comes through the skip is right, but in the branch the factor g is missing",
        {"x": (5, 4), "w": (4, 4), "g": (4,)}),
    "the skip masked like the branch's input": (
        lambda x, w: x + np.maximum(x, 0) @ w + np.tanh(x), lambda dy, x, w: {
            "x": dy * (x > 0) + (dy @ w.T) * (x > 0) + dy * (1 - np.tanh(x) ** 2), "w": np.maximum(x, 0).T @ dy}, "x",
        "the skip is masked: at some places dy does not come through it", {"x": (5, 4), "w": (4, 4)}),
    "a projection's gradient, behind a ReLU": (
        lambda x, w, ws: np.maximum(np.tanh(x @ w) + x @ ws, 0), lambda dy, x, w, ws: (lambda dz: {
            "x": (dz * (1 - np.tanh(x @ w) ** 2)) @ w.T, "w": x.T @ (dz * (1 - np.tanh(x @ w) ** 2)),
            "ws": x.T @ dz})(dy * (np.tanh(x @ w) + x @ ws > 0)), "x",
        "what comes back through ws is missing: add dz @ ws.T", {"x": (5, 4), "w": (4, 4), "ws": (4, 4)}),
    "dy in place of the projection's": (
        lambda x, w, ws: np.tanh(x @ w) + x @ ws, lambda dy, x, w, ws: {
            "x": (dy * (1 - np.tanh(x @ w) ** 2)) @ w.T + dy, "w": x.T @ (dy * (1 - np.tanh(x @ w) ** 2)),
            "ws": x.T @ dy}, "x",
        "dy itself is added where it should come through ws", {"x": (5, 4), "w": (4, 4), "ws": (4, 4)}),
    "means divided by another number": (
        norm, lambda dy, x: {"x": norm_dx(dy, x, 8 / 5, 8 / 5)}, "x",
        "the means of dy and of dy xhat are 1.6 times what they must be", {"x": (8, 3)}),
    "half of one term": (
        norm, lambda dy, x: {"x": norm_dx(dy, x, 1, 0.5)}, "x",
        "the term xhat mean(dy xhat) is 0.5 times what it must be", {"x": (8, 3)}),
    "each term with a number of its own": (
        norm, lambda dy, x: {"x": norm_dx(dy, x, 2, 0.5)}, "x",
        "2 times the mean of dy and 0.5 times xhat mean(dy xhat): each must be there once", {"x": (8, 3)}),
    "eps forgotten": (
        lambda x: (x - x.mean(0)) / np.sqrt(x.var(0) + 0.05), lambda dy, x: (lambda xhat: {
            "x": (dy - dy.mean(0) - xhat * (dy * xhat).mean(0)) / x.std(0)})((x - x.mean(0)) / x.std(0)), "x",
        "it is made with eps = 0; the forward pass has 0.0", {"x": (8, 3)}),
    "training's formula in evaluation": (
        lambda x: (x - 0.3) / 1.7, lambda dy, x: {"x": norm_dx(dy, x)}, "x",
        "nothing is to be subtracted here: mean and variance are constants", {"x": (8, 3)}),
    "evaluation, with its own xhat": (
        lambda x: (x - 0.3) / 1.7, lambda dy, x: (lambda xhat: {
            "x": (dy - dy.mean(0) - xhat * (dy * xhat).mean(0)) / 1.7})((x - 0.3) / 1.7), "x",
        "so nothing is subtracted from it: are mean and variance constants", {"x": (8, 3)}),
    # channels first
    "NCHW: cropped in the wrong place": (
        conv, lambda dy, x, w: {"x": conv_dx(dy, w, x.shape, 0), "w": conv_dw(dy, x, w.shape)}, "x",
        "it is shifted by 1 along rows and columns", {"x": PICTURES, "w": KERNEL}),
    "NCHW: kernel turned around": (
        conv, lambda dy, x, w: {"x": conv_dx(dy, w[:, :, ::-1, ::-1], x.shape), "w": conv_dw(dy, x, w.shape)}, "x",
        "it would be right with w[:, :, ::-1, ::-1]: the kernel is turned around, or should be",
        {"x": PICTURES, "w": KERNEL}),
    "NCHW: bias summed over other axes": (
        lambda x, b: x * 2 + b[:, None, None], lambda dy, x, b: {"x": 2 * dy, "b": dy.sum((0, 1, 2))}, "b",
        "dy is summed over the axes 0, 1, 2 instead of the axes 0, 2, 3", {"x": (2, 5, 7, 5), "b": (5,)}),
    "NCHW: from a place on": (
        lambda x, b: x * x + b[:, None, None], lambda dy, x, b: {
            "x": 2 * dy * np.where(np.arange(9) < 4, x, np.cos(x)), "b": dy.sum((0, 2, 3))}, "x",
        "only from 4 on along axis 3", {"x": (2, 3, 7, 9), "b": (3,)}),
    "a layout nobody can tell": (
        lambda z: (z**2).mean(), lambda dy, z: {"z": dy * 2 * z / z.size * 20}, "z",
        "it is the product of the axes 2, 3 = 20 times too large", {"z": (2, 3, 5, 4)}),
    "one over something": (
        lambda x: x / 0.6, lambda dy, x: {"x": dy}, "x", "it is 1.66667 (1 / 0.6) times too small", {"x": (3, 5)}),
    "unbiased, backward only": (
        lambda x: x / 8**0.5, lambda dy, x: {"x": dy / 7**0.5}, "x", "it is sqrt(8 / 7) = 1.069 times too large",
        {"x": (8, 3)}),
    "the sign, in places": (
        lambda x: np.abs(x - 0.1) ** 1.5, lambda dy, x: {"x": dy * 1.5 * np.abs(x - 0.1) ** 0.5}, "x",
        "wherever it is wrong, it has the wrong sign", {"x": (7, 5)}),
    "ReLU6 without its six": (
        lambda x: np.clip(x, 0, 0.6), lambda dy, x: {"x": dy * (x > 0)}, "x",
        "it is right wherever the measured gradient is not zero, and must be zero elsewhere", {"x": (7, 5)}),
    "only a ReLU's mask": (
        lambda x: np.maximum(np.sinh(x), 0), lambda dy, x: {"x": dy * (x > 0)}, "x",
        "this is dy (y > 0), the mask of a ReLU alone", {"x": (7, 5)}),
    "NCHW: channels of the kernel exchanged": (
        conv, lambda dy, x, w: {"x": conv_dx(dy, w.swapaxes(0, 1), x.shape), "w": conv_dw(dy, x, w.shape)}, "x",
        "it would be right with the input and output channels of w, the axes 0 and 1, exchanged",
        {"x": PICTURES, "w": (3, 3, 3, 3)}),
    "NCHW: the halves of another input": (
        conv, lambda dy, x, w: {"x": conv_dx(dy, w, x.shape), "w": conv_dw(dy, np.roll(x, 1, 0), w.shape)}, "w",
        "it would be right with the two halves of x along axis 0 exchanged", {"x": PICTURES, "w": KERNEL}),
    "NCHW: a kernel averaged over pixels": (
        conv, lambda dy, x, w: {"x": conv_dx(dy, w, x.shape), "w": conv_dw(dy, x, w.shape) / 35}, "w",
        "(35 is OH OW or", {"x": (2, 3, 7, 5), "w": (5, 3, 3, 3)}),
    "NCHW: dw of the last picture": (
        conv, lambda dy, x, w: {"x": conv_dx(dy, w, x.shape), "w": conv_dw(dy[1:], x[1:], w.shape)}, "w",
        "dy at 0 along axis 0 makes no difference to it", {"x": (3, 3, 7, 6), "w": KERNEL}),
    "NCHW: bias averaged": (
        lambda x, b: x + b[:, None, None], lambda dy, x, b: {"x": dy, "b": dy.mean((2, 3)).sum(0)}, "b",
        "OH OW = 42 times too small", {"x": (5, 3, 7, 6), "b": (3,)}),
    "NCHW: averaged over half of the pixels": (
        lambda x: x.mean((2, 3)), lambda dy, x: {"x": np.broadcast_to(dy[:, :, None, None] / 7, x.shape)}, "x",
        "it is W = 6 times too large", {"x": (5, 3, 7, 6)}),
    "exactly where a mask would be": (
        lambda x: x * 2.0, lambda dy, x: {"x": 2 * dy * (x > 0)}, "x", "just where x is negative: one mask too many",
        {"x": (5, 4)}),
}  # fmt: skip


@pytest.mark.parametrize("name", STORIES)
def test_the_right_story(name):
    forward, backward, wrong, told, inputs = STORIES[name]
    for found in first_hints(forward, backward, **inputs):
        assert set(found) == {wrong}
        assert told in found[wrong]


UNTRUE = {  # what is not to be said
    "one number has no skip": (lambda x: x**3, lambda dy, x: {"x": dy * x}, "skip", {"x": (1,)}),
    "a kernel has no N": (
        conv, lambda dy, x, w: {"x": conv_dx(dy, w, x.shape), "w": conv_dw(dy, x, w.shape) / 12}, "is N|, N",
        {"x": (2, 4, 4, 3), "w": (4, 4, 3, 3)}),
    "one-hot not divided by N": (
        lambda z: -np.log(softmax(z)[np.arange(5), [0, 2, 1, 3, 3]]).mean(),
        lambda dy, z: {"z": dy * (softmax(z) / 5 - np.eye(4)[[0, 2, 1, 3, 3]])}, "is missing$", {"z": (5, 4)}),
    "repeated rows": (
        lambda w: w[[1, 4, 1, 0, 4]], lambda dy, w: {"w": np.zeros_like(w) + _assigned(w, [1, 4, 1, 0, 4], dy)},
        "stride", {"w": (7, 3)}),
    "a second group": (
        lambda x: np.concatenate([x[:, :2] * 2, x[:, 2:] * 3], 1),
        lambda dy, x: {"x": np.concatenate([dy[:, :2] * 2, dy[:, 2:] ** 1 * np.cos(x[:, 2:])], 1)}, "left over",
        {"x": (4, 5)}),
    "only what is not zero can be wrong": (
        lambda x: x[:, ::2] ** 3, lambda dy, x: {"x": _spread(dy * np.cos(x[:, ::2]), x)}, "stride|mask",
        {"x": (3, 7)}),
    "a clip of one side is no skip": (
        lambda x: np.clip(x, -0.5, 0.5), lambda dy, x: {"x": dy * (x < 0.5)}, "skip", {"x": (6, 7)}),
    "a leaky slope is no branch": (
        lambda x: np.maximum(x, 0), lambda dy, x: {"x": dy * np.where(x > 0, 1, 0.1)}, "skip", {"x": (6, 7)}),
    "a slope for what is negative": (
        lambda x, s: np.where(x < 0, s * x, x), lambda dy, x, s: {
            "x": dy * np.where(x < 0, s, 1), "s": (dy * x).sum(0)}, "normalised", {"x": (6, 5), "s": (5,)}),
    "a few wrong entries in a row": (
        lambda x: np.where(x < -1.2, -x, 2 * x), lambda dy, x: {"x": np.where(x < -1.2, dy * np.cos(x), 2 * dy)},
        "along axis", {"x": (4, 11)}),
    "not linear in dy, so no factor": (
        lambda x: x * 2, lambda dy, x: {"x": 2 * np.sign(dy)}, "times too", {"x": (6,)}),
}  # fmt: skip


def _assigned(w, rows, dy):
    grad = np.zeros_like(w)
    grad[rows] = dy
    return grad


def _spread(some, x):
    whole = np.zeros_like(x)
    whole[:, ::2] = some
    return whole


@pytest.mark.parametrize("name", UNTRUE)
def test_no_false_story(name):
    forward, backward, untrue, inputs = UNTRUE[name]
    for found in first_hints(forward, backward, **inputs):
        assert not any(re.search(untrue, hint) for hint in found.values()), found


def test_forward_in_float32_is_said(rng):
    forward = lambda x: np.sin(x).astype(np.float32)
    with pytest.raises(ArgumentError, match="forward returned float32 although its inputs are float64"):
        gradcheck_fn(forward, lambda dy, x: {"x": dy * np.cos(x)}, {"x": rng.standard_normal(3)})


# -- right gradients that are hard to measure -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_logarithm_near_zero_is_measured(seed):
    x = 10.0 ** np.random.default_rng(seed).uniform(-8, 0, (4, 5))
    for method in ("auto", "central"):
        report = gradcheck_fn(lambda x: np.log(x), lambda dy, x: {"x": dy / x}, {"x": x}, seed, method=method)
        assert report.ok, report


@pytest.mark.parametrize("scale", [10, 20, 30, 50, 100, 300])
def test_a_softmax_deep_in_saturation_is_not_called_wrong(scale):
    """All that is left of its gradient is what rounding makes of dy - sum(dy y)."""

    def backward(dy, z):
        y = softmax(z)
        return {"z": y * (dy - (dy * y).sum(1, keepdims=True))}

    for seed in range(20):
        z = scale * np.random.default_rng(seed).standard_normal((5, 6))
        assert gradcheck_fn(lambda z: softmax(z), backward, {"z": z}, seed)["z"].verdict in ("ok", "inconclusive")
        half = lambda dy, z: {"z": backward(dy, z)["z"] / 2}
        assert gradcheck_fn(lambda z: softmax(z), half, {"z": z}, seed)["z"].verdict != "ok"


def test_a_gradient_in_float32_is_no_other_mistake(rng):
    backward = lambda dy, x: {"x": (dy * np.cos(x)).astype(np.float32)}
    found = gradcheck_fn(lambda x: np.sin(x), backward, {"x": rng.standard_normal((4, 5))})["x"]
    assert found.verdict == "FAIL"
    assert "its gradient is float32" in found.note
    assert found.hints == []


def test_nothing_is_said_of_errors_where_nothing_was_judged():
    found = gradcheck_fn(lambda x: np.maximum(x, 0), lambda dy, x: {"x": dy * (x > 0)}, {"x": np.zeros((2, 2))})
    assert found["x"].verdict == "inconclusive"
    assert "max rel" not in str(found)
    assert "4 where no difference can judge, at a kink or for rounding: [0, 0], [0, 1], [1, 0]..." in str(found)


def test_a_ufunc_is_asked_to_be_wrapped(rng):
    x = rng.standard_normal(3)
    with pytest.raises(ArgumentError, match=r"forward is np\.tanh itself.*Wrap it: lambda x: np\.tanh\(x\)\."):
        gradcheck_fn(np.tanh, lambda dy, x: {"x": dy}, {"x": x})
    with pytest.raises(ArgumentError, match=r"backward is np\.multiply itself.*lambda a, b: np\.multiply\(a, b\)\."):
        gradcheck_fn(lambda a, b: a * b, np.multiply, {"a": x, "b": x})
