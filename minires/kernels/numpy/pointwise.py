"""ReLU, addition and softmax cross-entropy on whole arrays."""

from __future__ import annotations

import numpy as np

from ...backend import empty, in_pieces
from .tiles import zero_row

_ROW = 1024
_SMALL = 1 << 13  # elements, below which preparing costs more than the operation
# rows that are worth a thread; and each thread has them in one call, as calls of a few microseconds hold up each other
_LEAST_ROWS = 512
_maximum = np.maximum  # to look it up in its module takes 0.05 us
# 0 by the type of the elements, as an array: beside a number NumPy's functions take 0.2 us longer
_ZERO = {np.dtype(code).type: np.zeros((), code) for code in "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]}


def relu(x):
    """max(x, 0); a NaN stays a NaN."""
    if not x.ndim:  # Python compares two numbers in a third of the time
        return (_ZERO[x.dtype.type] if x.item() <= 0 else x).copy()
    if x.size < _SMALL:
        return _maximum(x, _ZERO[x.dtype.type], order="C")
    zeros = zero_row(_ROW, x.dtype)
    return _each(lambda rows, out: np.maximum(rows, zeros[: rows.shape[-1]], out=out), x)


def relu_dx(dy, y):
    """dy times the derivative, 1 where the output was positive and 0 elsewhere: an infinite dy is not hidden by a 0."""
    if not y.ndim:
        return dy if y.item() > 0 else dy * _ZERO[y.dtype.type]
    if y.size < _SMALL:  # a product of floats and booleans goes through buffers
        return np.multiply(dy, (y > _ZERO[y.dtype.type]).astype(dy.dtype), order="C")
    if y.size < 2 * _LEAST_ROWS * _ROW:
        return np.multiply(dy, y > 0, order="C")

    def gradient(upstream, rows, out) -> None:
        positive = np.greater(rows, 0, out=empty(rows.shape, np.bool_))
        np.multiply(upstream, positive, out=out)

    return _each(gradient, dy, y)


def add(a, b):
    """a + b, of one shape."""
    if a.size < _SMALL:
        return np.add(a, b, order="C")
    return _each(np.add, a, b)


def _each(operation, *arrays):
    """An operation on the elements of arrays of one shape, given to the threads as long rows and what is left over."""
    result = empty(arrays[0].shape, arrays[0].dtype)
    flat = [np.ascontiguousarray(a).reshape(-1) for a in (*arrays, result)]
    count = result.size // _ROW
    matrices = [f[: count * _ROW].reshape(count, _ROW) for f in flat]

    def work(part: range) -> None:
        *given, out = (m[part.start : part.stop] for m in matrices)
        operation(*given, out=out)

    if count < 2 * _LEAST_ROWS:
        work(range(count))  # 4 microseconds less than the question how many threads there are
    else:
        in_pieces(work, count, _LEAST_ROWS)
    *given, out = (f[count * _ROW :] for f in flat)
    operation(*given, out=out)
    return result


def cross_entropy(logits, labels, label_smoothing):
    """logits (N, K), labels (N,) -> losses (N,) and the probabilities softmax(logits) (N, K).

    With smoothing s the target is 1 - s + s/K for the label and s/K for the others, so the loss is a mixture of the
    label's -log p and the mean of all of them.  log p = z - log(sum of exp(z)), where z is the logit less the largest.
    """
    z = np.subtract(logits, logits.max(1, keepdims=True), out=empty(logits.shape, logits.dtype))
    losses = -(1 - label_smoothing) * z[np.arange(len(labels)), labels]
    if label_smoothing:
        losses -= label_smoothing * z.mean(1)
    probabilities = np.exp(z, out=z)
    total = probabilities.sum(1, keepdims=True)
    losses += np.log(total[:, 0])
    probabilities /= total
    return losses, probabilities


def cross_entropy_dx(dlosses, probabilities, labels, label_smoothing):
    """(softmax - target) dloss, for each example."""
    dlogits = empty(probabilities.shape, probabilities.dtype)
    np.subtract(probabilities, label_smoothing / probabilities.shape[1], out=dlogits)
    dlogits[np.arange(len(labels)), labels] -= 1 - label_smoothing
    dlogits *= dlosses[:, None]
    return dlogits
