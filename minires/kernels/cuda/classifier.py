"""A linear layer and the cross-entropy of its result, one launch each way."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import cupy
from .module import NULL, ints, kernel
from .plain import contiguous, whole

_MOST_WEIGHTS = 1 << 16  # with more of them the tensor cores are worth launches of their own
_THREADS = 256


def suits_linear_cross_entropy(x: Any, w: Any) -> bool:
    """Whether the kernels take x (N, I) @ w (I, K)."""
    return x.dtype == w.dtype == np.float32 and 0 < w.size <= _MOST_WEIGHTS and x.size > 0


def linear_cross_entropy(x, w, b, labels, label_smoothing):
    """x (N, I), w (I, K), b (K,) or None, labels (N,) -> losses (N,), the logits x w + b and the probabilities (N, K).

    As in `cross_entropy` a label out of range makes its loss NaN.
    """
    (rows, inputs), classes = x.shape, w.shape[1]
    losses, (logits, probabilities) = cupy().empty(rows, x.dtype), cupy().empty((2, rows, classes), x.dtype)
    b = NULL if b is None else contiguous(b)
    given = contiguous(x), contiguous(w), b, whole(labels), np.float32(label_smoothing)
    results = logits, losses, probabilities
    kernel("linear_cross_entropy")((-(-rows // 4),), (128,), (*given, *results, *ints(rows, inputs, classes)))
    return losses, logits, probabilities


def linear_cross_entropy_backward(dloss, share, probabilities, labels, label_smoothing, x, w):
    """From dloss, of each example (N,) or () of all, times ``share``: dx if w is given, dw and db if x is given."""
    rows, classes = probabilities.shape
    inputs = w.shape[0] if x is None else x.shape[1]
    xp, dtype = cupy(), probabilities.dtype
    dx = None if w is None else xp.empty((rows, inputs), dtype)
    dw, db = (None, None) if x is None else (xp.empty((inputs, classes), dtype), xp.empty(classes, dtype))
    x, w, *results = (NULL if a is None else contiguous(a) for a in (x, w, dx, dw, db))
    dx_blocks = 0 if dx is None else -(-rows * inputs // _THREADS)
    dw_blocks = 0 if dw is None else (inputs // 32 + 1) * classes
    arriving = contiguous(dloss), np.int32(dloss.ndim), np.float32(share), probabilities, whole(labels)
    arguments = *arriving, np.float32(label_smoothing), x, w, *results, *ints(rows, inputs, classes, dx_blocks)
    kernel("linear_cross_entropy_backward")((dx_blocks + dw_blocks,), (_THREADS,), arguments)
    return dx, dw, db
