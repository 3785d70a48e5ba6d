"""Lesson 06: ReLU and pooling.  `minires lessons check 06` says how it goes.

Pictures are (N, H, W, C); size, stride and padding are whole numbers, the same for rows and columns.
`minires gradcheck lesson06_pooling.py` compares your gradients with differences of the forward passes.
"""

import numpy as np

INPUTS = {
    "relu": {"x": (5, 6)},
    "max_pool": {"x": (2, 7, 6, 3), "size": 3, "stride": 2, "padding": 1},
    "avg_pool": {"x": (2, 7, 6, 3), "size": 3, "stride": 2, "padding": 1},
}


def relu(x):
    """max(x, 0).  Given."""
    return np.maximum(x, 0)


def bordered(x, padding, value):
    """x (N, H, W, C) with ``padding`` pixels of ``value`` on every side.  Given."""
    return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=value)


def cells(padded, size, stride):
    """For each cell of the window, row by row, where all windows see it: an index into the bordered picture.  Given.

    ``padded[here]`` is (N, OH, OW, C): of each window the pixel in this cell.
    """
    rows, columns = ((length - size) // stride + 1 for length in padded.shape[1:3])
    for u, v in np.ndindex(size, size):
        yield np.s_[:, u : u + stride * (rows - 1) + 1 : stride, v : v + stride * (columns - 1) + 1 : stride]


def relu_backward(dy, x):
    """The gradient of `relu`: {"x": an array of x's shape}.  At x = 0 it is 0.  Section "The corner"."""
    # BEGIN SOLUTION task 1: the gradient of ReLU
    return {"x": dy * (x > 0)}
    # END SOLUTION


def max_pool(x, size, stride, padding):
    """The largest pixel of each window: x (N, H, W, C) -> (N, OH, OW, C).

    The border must never win, whatever the numbers are: section "Minus infinity, or zero?".
    """
    # BEGIN SOLUTION task 2: max pooling with a border
    padded = bordered(x, padding, -np.inf)
    return np.max([padded[here] for here in cells(padded, size, stride)], axis=0)
    # END SOLUTION


def max_pool_backward(dy, x, size, stride, padding):
    """The gradient of `max_pool`: {"x": (N, H, W, C)}; dy is (N, OH, OW, C).

    Each dy goes to one pixel of its window that is the largest, to the first of them if several are equal; a pixel that
    wins several windows adds up.  Sections "The maximum of a window" and "Ties".  You may use `max_pool`: the tests
    of this task bring a right one.
    """
    # BEGIN SOLUTION task 3: the gradient of max pooling
    padded, y = bordered(x, padding, -np.inf), max_pool(x, size, stride, padding)
    dpadded, given = np.zeros(padded.shape), np.zeros(y.shape, bool)
    for here in cells(padded, size, stride):
        wins = (padded[here] == y) & ~given
        given |= wins
        dpadded[here] += dy * wins
    return {"x": dpadded[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]}
    # END SOLUTION


def avg_pool(x, size, stride, padding):
    """The mean of each window, zeros of the border counted: x (N, H, W, C) -> (N, OH, OW, C).  Given."""
    padded = bordered(x, padding, 0)
    return sum(padded[here] for here in cells(padded, size, stride)) / size**2


def avg_pool_backward(dy, x, size, stride, padding):
    """The gradient of `avg_pool`: {"x": (N, H, W, C)}; dy is (N, OH, OW, C).  Section "The average"."""
    # BEGIN SOLUTION task 4: the gradient of average pooling
    dpadded = bordered(np.zeros(x.shape), padding, 0)
    for here in cells(dpadded, size, stride):
        dpadded[here] += dy / size**2
    return {"x": dpadded[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]}
    # END SOLUTION
