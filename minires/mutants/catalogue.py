"""Wrong backward passes, each as somebody once wrote it, and what a hint about it must say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .operations import (
    BATCH,
    KEPT,
    ONE_HOT,
    batch_norm_backward,
    batch_norm_dx,
    branch,
    conv_backward,
    conv_dw,
    conv_dx,
    grouped_backward,
    layer_norm_backward,
    padded,
    scatter,
    slope,
    softmax,
    winners,
)
from .wrong import (
    assigned,
    averaged_pool,
    only_last_of_overlapping,
    overwritten_lookup,
    with_conv_dw,
    with_conv_dx,
    with_dx,
    with_projected_dx,
    with_residual_dx,
    with_same_conv_dx,
    with_share,
    with_unbiased_variance,
    without_eps,
)


class Mutant(NamedTuple):
    """A backward pass with a mistake.

    Attributes:
        operation: in `OPERATIONS`, whose forward pass is right.
        mistake: in words.
        backward: (dy, *inputs) -> the gradient of each input, wrong in one of them at least.
        hint: a regular expression that the checker's first hint must match; None where it knows none.
    """

    operation: str
    mistake: str
    backward: Callable[..., Any]
    hint: str | None


CATALOGUE = [
    Mutant("multiply", "operands swapped", lambda dy, a, b: (dy * a, dy * b), "the gradients of a and b are exchanged"),
    Mutant("multiply", "upstream gradient dropped", lambda dy, a, b: (b, a), "not linear in dy"),
    Mutant("multiply", "upstream gradient averaged", lambda dy, a, b: (dy.mean() * b, dy.mean() * a), "the mean of dy"),
    Mutant("multiply", "a factor of two", lambda dy, a, b: (2 * dy * b, dy * a), "2 times too large"),
    Mutant("multiply", "half of it", lambda dy, a, b: (dy * b, dy * a / 2), "2 times too small"),
    Mutant("bias", "not summed over the broadcast axis", lambda dy, x, b: (dy, dy), "sum it over axis 0"),
    Mutant("bias", "wrong axis on a square", lambda dy, x, b: (dy, dy.sum(1)), "summed over axis 1 instead of axis 0"),
    Mutant("bias", "mean for sum", lambda dy, x, b: (dy, dy.mean(0)), "N .*= 4 times too small"),
    Mutant("bias", "first row only", lambda dy, x, b: (dy, dy[0]), "the first of dy along axis 0"),
    Mutant("bias", "zero", lambda dy, x, b: (dy, np.zeros(4)), "zero everywhere"),
    Mutant("subtract", "sign of the second", lambda dy, a, b: (dy, dy), "the sign is wrong"),
    Mutant(
        "linear", "dx without the transpose", lambda dy, x, w: (dy @ w, x.T @ dy), r"dy @ w, and should be dy @ w\.T"
    ),
    Mutant("linear", "dw transposed", lambda dy, x, w: (dy @ w.T, dy.T @ x), "transposed"),
    Mutant(
        "linear",
        "dw averaged over the batch",
        lambda dy, x, w: (dy @ w.T, x.T @ dy / len(x)),
        r"4 times too small \(4 is N or",
    ),
    Mutant("relu", "no mask", lambda dy, x: dy, "this is dy itself"),
    Mutant("relu", "mask from dy", lambda dy, x: dy * (dy > 0), "a mask made from dy"),
    Mutant("relu", "guided backpropagation", lambda dy, x: dy * (x > 0) * (dy > 0), "a mask made from dy"),
    Mutant("relu", "times x", lambda dy, x: dy * np.maximum(x, 0), "the factor x once too often"),
    Mutant("relu", "leaky", lambda dy, x: dy * np.where(x > 0, 1, 0.01), r"right with dy \(y > 0\)"),
    Mutant("tanh", "y for y squared", lambda dy, x: dy * (1 - np.tanh(x)), r"dy \(1 - y\^2\), as of tanh"),
    Mutant(
        "softmax", "diagonal only", lambda dy, x: dy * softmax(x) * (1 - softmax(x)), "must sum to zero along axis 1"
    ),
    Mutant("softmax", "zero", lambda dy, x: np.zeros_like(x), "zero everywhere"),
    Mutant(
        "softmax",
        "sum over the batch",
        lambda dy, x: softmax(x) * (dy - (softmax(x) * dy).sum(0, keepdims=True)),
        "must sum to zero along axis 1",
    ),
    Mutant("log softmax", "sum of dy forgotten", lambda dy, x: dy - softmax(x), "not linear in dy"),
    Mutant(
        "cross entropy",
        "not divided by N",
        lambda dy, x: dy * (softmax(x) - ONE_HOT),
        "N = 3 times too large: a division by it is missing",
    ),
    Mutant(
        "cross entropy",
        "divided by N twice",
        lambda dy, x: dy * (softmax(x) - ONE_HOT) / 9,
        "N = 3 times too small: divided by it once too often",
    ),
    Mutant("cross entropy", "sign", lambda dy, x: dy * (ONE_HOT - softmax(x)) / 3, "the sign is wrong"),
    Mutant("cross entropy", "one-hot forgotten", lambda dy, x: dy * softmax(x) / 3, "must sum to zero along axis 1"),
    Mutant(
        "cross entropy",
        "softmax over the batch",
        lambda dy, x: dy * (softmax(x.T).T - ONE_HOT) / 3,
        "must sum to zero along axis 1",
    ),
    Mutant("cross entropy", "upstream gradient dropped", lambda dy, x: (softmax(x) - ONE_HOT) / 3, "not linear in dy"),
    Mutant(
        "conv",
        "kernel flipped in dx",
        with_conv_dx(lambda dy, x, w: conv_dx(dy, x, w[::-1, ::-1])),
        r"right with w\[::-1, ::-1\]",
    ),
    Mutant(
        "conv",
        "channels swapped in dx",
        with_conv_dx(lambda dy, x, w: conv_dx(dy, x, w.swapaxes(2, 3))),
        "input and output channels of w, .* exchanged",
    ),
    Mutant(
        "conv",
        "dx shifted",
        with_conv_dx(lambda dy, x, w: np.roll(conv_dx(dy, x, w), 1, 1)),
        "shifted by 1 along axis 1",
    ),
    Mutant("conv", "dx zero", with_conv_dx(lambda dy, x, w: np.zeros_like(x)), "zero everywhere"),
    Mutant(
        "conv",
        "kernel flipped in dw",
        with_conv_dw(lambda dy, x: conv_dw(dy, x)[::-1, ::-1]),
        "the kernel is turned around",
    ),
    Mutant(
        "conv",
        "dw from shifted x",
        with_conv_dw(lambda dy, x: conv_dw(dy, np.roll(x, 1, 2))),
        "shifted by 1 along axis 1",
    ),
    Mutant("conv", "dw averaged", with_conv_dw(lambda dy, x: conv_dw(dy, x) / len(x)), "2 times too small"),
    Mutant(
        "conv",
        "db averaged over pixels",
        lambda dy, *a: (*conv_backward(dy, *a)[:2], dy.mean((1, 2)).sum(0)),
        r"6 times too small \(6 is .*OH OW",
    ),
    Mutant(
        "conv",
        "overlaps overwritten",
        with_conv_dx(lambda dy, x, w: assigned(np.einsum("nijo,uvco->nijcuv", dy, w), x.shape, 2)),
        r"\+= instead of =",
    ),
    Mutant(
        "conv",
        "stride ignored",
        with_conv_dx(lambda dy, x, w: scatter(np.einsum("nijo,uvco->nijcuv", dy, w), x.shape, 1)),
        "nothing arrives from 5 on along axis 1: is the stride or the dilation left out",
    ),
    Mutant("conv", "db missing", lambda dy, *a: (*conv_backward(dy, *a)[:2], np.zeros(3)), "zero everywhere"),
    Mutant(
        "padded conv",
        "padding cut off at the wrong end",
        with_same_conv_dx(lambda parts, x: scatter(parts, padded(x).shape, 1)[:, :-2, :-2]),
        "the padding is cut off in the wrong place",
    ),
    Mutant(
        "padded conv",
        "overlaps overwritten",
        with_same_conv_dx(lambda parts, x: assigned(parts, padded(x).shape, 1)[:, 1:-1, 1:-1]),
        r"\+= instead of =",
    ),
    Mutant(
        "grouped conv",
        "groups exchanged",
        lambda dy, x, w: (
            grouped_backward(dy, x, w)[0],
            grouped_backward(dy, x, w)[1][::-1],
        ),
        "two halves along axis 0 are exchanged",
    ),
    Mutant(
        "grouped conv",
        "matrices of the groups exchanged",
        lambda dy, x, w: (grouped_backward(dy, x, w[::-1])[0], grouped_backward(dy, x, w)[1]),
        "two halves of w along axis 0 exchanged",
    ),
    Mutant("max pool", "to every cell", with_share(lambda x: np.ones((3, 3))), "dy arrives 9 times"),
    Mutant("max pool", "shared by all cells", with_share(lambda x: np.full((3, 3), 1 / 9)), "at the wrong places"),
    Mutant("max pool", "to the first cell", with_share(lambda x: np.eye(3) * [1, 0, 0]), "at the wrong places"),
    Mutant(
        "max pool", "rows and columns swapped", with_share(lambda x: winners(x).swapaxes(4, 5)), "at the wrong places"
    ),
    Mutant("max pool", "overlaps overwritten", only_last_of_overlapping, r"\+= instead of ="),
    Mutant(
        "global average",
        "not divided",
        lambda dy, x: np.broadcast_to(dy[:, None, None], x.shape),
        "H W = 20 times too large",
    ),
    Mutant(
        "global average",
        "divided by H",
        lambda dy, x: np.broadcast_to(dy[:, None, None] / 4, x.shape),
        "W = 5 times too large",
    ),
    Mutant("batch norm", "zero", with_dx(lambda dy, x, g, s, xhat: np.zeros_like(x)), "zero everywhere"),
    Mutant(
        "batch norm",
        "no mean term",
        with_dx(lambda dy, x, g, s, xhat: g / s * (dy - xhat * (dy * xhat).mean(BATCH))),
        "the mean of dy is not subtracted",
    ),
    Mutant(
        "batch norm",
        "no variance term",
        with_dx(lambda dy, x, g, s, xhat: g / s * (dy - dy.mean(BATCH))),
        r"the term xhat mean\(dy xhat\) is missing",
    ),
    Mutant(
        "batch norm",
        "xhat forgotten in the variance term",
        with_dx(lambda dy, x, g, s, xhat: g / s * (dy - dy.mean(BATCH) - (dy * xhat).mean(BATCH))),
        "belongs to xhat",
    ),
    Mutant("batch norm", "constants", with_dx(lambda dy, x, g, s, xhat: g / s * dy), "the means of dy and of dy xhat"),
    Mutant("batch norm", "eps omitted", with_dx(without_eps), "made with eps = 0"),
    Mutant("batch norm", "biased and unbiased mixed", with_dx(with_unbiased_variance), "with the unbiased variance"),
    Mutant(
        "batch norm",
        "means over N only",
        with_dx(lambda dy, x, g, s, xhat: g / s * (dy - dy.mean(0) - xhat * (dy * xhat).mean(0))),
        r"over the axes \(0,\) and should be over \(0, 1, 2\)",
    ),
    Mutant(
        "batch norm",
        "variance for deviation",
        with_dx(lambda dy, x, g, s, xhat: batch_norm_dx(dy, x, g) / s),
        "the variance in place of its root",
    ),
    Mutant(
        "batch norm",
        "gamma forgotten",
        with_dx(lambda dy, x, g, s, xhat: batch_norm_dx(dy, x, np.ones(3))),
        "the factor gamma is missing",
    ),
    Mutant(
        "batch norm",
        "dgamma and dbeta swapped",
        lambda *a: tuple(batch_norm_backward(*a)[i] for i in (0, 2, 1)),
        "the gradients of gamma and beta are exchanged",
    ),
    Mutant(
        "batch norm",
        "dgamma zero",
        lambda *a: (batch_norm_backward(*a)[0], np.zeros(3), batch_norm_backward(*a)[2]),
        "zero everywhere",
    ),
    Mutant(
        "batch norm",
        "dgamma from raw x",
        lambda dy, x, g, b: (batch_norm_dx(dy, x, g), (dy * x).sum(BATCH), dy.sum(BATCH)),
        "x must be normalised first",
    ),
    Mutant(
        "batch norm",
        "dgamma not divided by the deviation",
        lambda dy, x, g, b: (batch_norm_dx(dy, x, g), (dy * (x - x.mean(BATCH))).sum(BATCH), dy.sum(BATCH)),
        "divide by the standard deviation",
    ),
    Mutant("layer norm", "wrong axis", lambda dy, x: layer_norm_backward(dy, x, 0), "must sum to zero along axis 1"),
    Mutant(
        "residual",
        "missing the +1",
        with_residual_dx(lambda dy, dx: dx - dy),
        r"the \+1 is missing: dL/dx = dL/dH \(dF/dx \+ 1\)",
    ),
    Mutant("residual", "the skip twice", with_residual_dx(lambda dy, dx: dx + dy), "the skip is counted twice"),
    Mutant("residual", "branch dropped", with_residual_dx(lambda dy, dx: dy), "or of the branch, is missing"),
    Mutant(
        "projection shortcut",
        "path through the projection dropped",
        with_projected_dx(lambda dy, x, w, ws: (dy * slope(x, w)) @ w.T),
        r"add dy @ ws\.T",
    ),
    Mutant(
        "projection shortcut",
        "path through the projection twice",
        with_projected_dx(lambda dy, x, w, ws: (dy * slope(x, w)) @ w.T + 2 * dy @ ws.T),
        "through ws is counted twice",
    ),
    Mutant(
        "projection shortcut",
        "branch dropped",
        with_projected_dx(lambda dy, x, w, ws: dy @ ws.T),
        r"only what comes back through ws",
    ),
    Mutant(
        "subsample and pad",
        "channels from the end",
        lambda dy, x: scatter(dy[..., 2:, None, None], x.shape, 2),
        "channels of dy from the wrong place on",
    ),
    Mutant(
        "subsample and pad",
        "copied to the pixels left out",
        lambda dy, x: dy[..., :2].repeat(2, 1).repeat(2, 2)[:, :5],
        "something goes to what the forward pass does not use",
    ),
    Mutant(
        "concatenate",
        "halves swapped",
        lambda dy, a, b: (dy[:, 3:], dy[:, :3]),
        "the gradients of a and b are exchanged",
    ),
    Mutant("affine", "db averaged", lambda dy, x, w, b: (dy @ w.T, x.T @ dy, dy.mean(0)), "N .*= 6 times too small"),
    Mutant("affine", "db missing", lambda dy, x, w, b: (dy @ w.T, x.T @ dy, 0 * b), "zero everywhere"),
    Mutant(
        "affine", "dw with the wrong sign", lambda dy, x, w, b: (dy @ w.T, -x.T @ dy, dy.sum(0)), "the sign is wrong"
    ),
    Mutant(
        "affine", "dx from ones", lambda dy, x, w, b: (np.ones_like(dy) @ w.T, x.T @ dy, dy.sum(0)), "not linear in dy"
    ),
    Mutant("average pool", "not divided", averaged_pool(1), r"4 times too large \(4 is .*k.2 of a 2 x 2 window"),
    Mutant("average pool", "divided by k", averaged_pool(1 / 2), "2 times too large"),
    Mutant("average pool", "divided twice", averaged_pool(1 / 16), r"4 times too small \(4 is .*k.2 of a 2 x 2 window"),
    Mutant("dropout", "mask forgotten", lambda dy, x: dy / 0.6, "a mask is missing"),
    Mutant(
        "dropout",
        "not scaled by 1 / (1 - p)",
        lambda dy, x: dy * KEPT,
        r"1 / \(1 - p\) = 1\.667 times too small, for p = 0\.4",
    ),
    Mutant("dropout", "another mask", lambda dy, x: dy * ~KEPT / 0.6, "the mask of something else"),
    Mutant("mean", "not divided", lambda dy, x: np.broadcast_to(dy, x.shape), "N = 5 times too large"),
    Mutant(
        "mean",
        "only into the first row",
        lambda dy, x: np.pad(dy[None], ((0, 4), (0, 0))),
        "to one place along axis 0",
    ),
    Mutant("lookup", "= for +=", overwritten_lookup, "dy at 0, 2 along axis 0 makes no difference"),
    Mutant("scaled product", "scale forgotten", lambda dy, q, k: (dy @ k, dy.T @ q / 3), "3 times too large"),
    Mutant("scaled product", "scale squared", lambda dy, q, k: (dy @ k / 9, dy.T @ q / 3), "3 times too small"),
    Mutant("relu after addition", "the +1 missing", branch, r"the \+1 is missing.*y > 0"),
    Mutant("relu after addition", "skip not masked", lambda dy, x: branch(dy, x) + dy, "masks the skip as well"),
    Mutant("relu after addition", "skip twice", lambda dy, x: branch(dy, x) + 2 * dy * (x > 0), "counted twice"),
    Mutant(
        "batch norm in evaluation",
        "as in training",
        lambda dy, x, g: ((dy - dy.mean(BATCH)) * g / 1.7, (dy * (x - 0.3) / 1.7).sum(BATCH)),
        "the formula of training, in evaluation",
    ),
    Mutant(
        "batch norm in evaluation",
        "dgamma from raw x",
        lambda dy, x, g: (dy * g / 1.7, (dy * x).sum(BATCH)),
        "x must be normalised first",
    ),
]
