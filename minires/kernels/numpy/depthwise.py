"""Depthwise convolution: every channel has filters of its own, so there is nothing for a matrix product to share.

One tap of the window at a time for all pixels and channels: KH * KW multiplications and additions of whole rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np

from ...backend import by_turns, empty, in_pieces
from ..window import Pair, reach
from .tiles import Finish, Tile, along_rows

_LEAST_WORK = 1 << 20  # multiply-adds that are worth another thread


def applies(w_shape, groups: int) -> bool:
    """Whether each channel is a group with one filter."""
    return groups > 1 and w_shape[2] == 1 and w_shape[3] == groups


def convolve(x, w, y_shape, window, finish: Finish | None = None, share=by_turns):
    """x (N, H, W, C), w (KH, KW, 1, C) -> y, and what ``finish`` returned in each thread.

    ``share`` gives the images to the threads; a ``finish`` that sums up wants `in_pieces`.
    """
    stride, padding, dilation, _ = window
    y = empty(y_shape, x.dtype)
    filters = _filters(w, y_shape)

    def work(some: Iterable[int]) -> Any:
        done = finish and finish()
        product = np.empty(y_shape[1:], x.dtype)
        for n in some:
            seen, rows = _bordered(x[n], padding), _flat(y[n])
            rows[...] = 0
            for (u, v), at in _taps(w.shape, y_shape, stride, dilation):
                np.multiply(_flat(seen[at]), filters[u, v], out=_flat(product))
                rows += _flat(product)
            if done is not None:
                done(y[n : n + 1], Tile(slice(n, n + 1), slice(0, y_shape[1])))
        return done

    return y, share(work, len(y), _least(y_shape, w.shape))


def gradients(dy, x, w, x_shape, w_shape, stride: Pair, padding: Pair, dilation: Pair):
    """dx if w is given, dw if x is: each tap sends back what it took."""
    dx = None if w is None else empty(x_shape, dy.dtype)
    filters: Any = None if w is None else _filters(w, dy.shape)
    inside = slice(padding[0], padding[0] + x_shape[1]), slice(padding[1], padding[1] + x_shape[2])
    channels = w_shape[3]

    def work(part: range) -> np.ndarray:
        total = np.zeros((*w_shape[:2], channels), np.float64)
        product = np.empty(dy.shape[1:], dy.dtype)
        for n in part:
            rows = _flat(dy[n])
            if dx is not None:
                spread = np.zeros((x_shape[1] + 2 * padding[0], x_shape[2] + 2 * padding[1], channels), dy.dtype)
                for (u, v), at in _taps(w_shape, dy.shape, stride, dilation):
                    np.multiply(rows, filters[u, v], out=_flat(product))
                    spread[at] += product
                dx[n] = spread[inside]
            if x is not None:
                seen = _bordered(x[n], padding)
                for (u, v), at in _taps(w_shape, dy.shape, stride, dilation):
                    sums = np.einsum("rk,rk->k", _flat(seen[at]), rows)
                    total[u, v] += sums.reshape(-1, channels).sum(0)
        return total

    totals = in_pieces(work, len(dy), _least(dy.shape, w_shape))
    return dx, None if x is None else sum(totals[1:], totals[0]).astype(dy.dtype).reshape(w_shape)


def _filters(w, y_shape) -> np.ndarray:
    """(KH, KW, 1, C) -> (KH, KW, OW * C): each tap repeated along a row of the result."""
    kh, kw = w.shape[:2]
    taps = [along_rows(w[u, v, 0], y_shape[2] * y_shape[3]) for u in range(kh) for v in range(kw)]
    return np.array(taps).reshape(kh, kw, -1)


def _taps(w_shape, y_shape, stride: Pair, dilation: Pair):
    """Each tap, and the padded pixels that it visits."""
    for u in range(w_shape[0]):
        for v in range(w_shape[1]):
            yield (u, v), (reach(u, y_shape[1], stride[0], dilation[0]), reach(v, y_shape[2], stride[1], dilation[1]))


def _bordered(image, padding: Pair):
    return np.pad(image, ((padding[0],) * 2, (padding[1],) * 2, (0, 0))) if any(padding) else image


def _flat(image):
    """(rows, columns, C) -> rows of numbers."""
    return image.reshape(image.shape[0], -1)


def _least(y_shape, w_shape) -> int:
    work = prod(y_shape[1:]) * w_shape[0] * w_shape[1]
    return max(1, int(_LEAST_WORK / max(work, 1)))
