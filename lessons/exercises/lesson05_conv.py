"""Lesson 05: convolution.  `minires lessons check 05` says how it goes.

Pictures are (N, H, W, C), filters (KH, KW, C, O); stride and padding are whole numbers, the same for rows and columns.
`minires gradcheck lesson05_conv.py` compares your gradients with differences of the given `conv2d`.
"""

import numpy as np

INPUTS = {"conv2d": {"x": (2, 8, 7, 3), "w": (3, 2, 3, 4), "b": (4,), "stride": 2, "padding": 1}}


def positions(size, kernel, stride, padding):
    """How many windows fit along one axis.  Given."""
    return (size + 2 * padding - kernel) // stride + 1


def im2col(x, kernel, stride, padding):
    """x (N, H, W, C), kernel (KH, KW) -> (N OH OW, KH KW C), a row for each window.  Given."""
    n, height, width, channels = x.shape
    rows, columns = positions(height, kernel[0], stride, padding), positions(width, kernel[1], stride, padding)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    cols = np.empty((n, rows, columns, *kernel, channels))
    for i, j in np.ndindex(rows, columns):
        top, left = i * stride, j * stride
        cols[:, i, j] = padded[:, top : top + kernel[0], left : left + kernel[1]]
    return cols.reshape(n * rows * columns, kernel[0] * kernel[1] * channels)


def conv2d(x, w, b, stride, padding):
    """x (N, H, W, C), w (KH, KW, C, O), b (O,) -> (N, OH, OW, O).  Given: your columns times your filters."""
    rows = positions(x.shape[1], w.shape[0], stride, padding)
    columns = positions(x.shape[2], w.shape[1], stride, padding)
    y = im2col(x, w.shape[:2], stride, padding) @ w.reshape(-1, w.shape[3]) + b
    return y.reshape(len(x), rows, columns, w.shape[3])


def conv2d_loops(x, w, b, stride, padding):
    """The same result as `conv2d`, without im2col: the sum of the section "Seven loops", as it stands there.

    As many loops as you like; ``np.ndindex(y.shape)`` is four in one, and the sum over a window can be one product.
    """
    # BEGIN SOLUTION task 1: a convolution in loops
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    kh, kw = w.shape[:2]
    rows, columns = positions(x.shape[1], kh, stride, padding), positions(x.shape[2], kw, stride, padding)
    y = np.zeros((len(x), rows, columns, w.shape[3]))
    for n, i, j, o in np.ndindex(y.shape):
        top, left = i * stride, j * stride
        window = padded[n, top : top + kh, left : left + kw]
        y[n, i, j, o] = (window * w[..., o]).sum() + b[o]
    return y
    # END SOLUTION


def col2im(cols, x_shape, kernel, stride, padding):
    """The adjoint of `im2col`: cols (N OH OW, KH KW C), x_shape (N, H, W, C) -> (N, H, W, C).

    Each pixel adds up the entries of all windows that see it; entries of the border are dropped.  Section "col2im: the
    adjoint".  A picture with its border is the place to add things up in; cut the border off at the end.
    """
    # BEGIN SOLUTION task 2: the adjoint of im2col
    n, height, width, channels = x_shape
    rows, columns = positions(height, kernel[0], stride, padding), positions(width, kernel[1], stride, padding)
    parts = cols.reshape(n, rows, columns, *kernel, channels)
    padded = np.zeros((n, height + 2 * padding, width + 2 * padding, channels))
    for i, j in np.ndindex(rows, columns):
        top, left = i * stride, j * stride
        padded[:, top : top + kernel[0], left : left + kernel[1]] += parts[:, i, j]
    return padded[:, padding : padding + height, padding : padding + width]
    # END SOLUTION


def conv2d_backward(dy, x, w, b, stride, padding):
    """The gradients of `conv2d`: {"x": (N, H, W, C), "w": (KH, KW, C, O), "b": (O,)}; dy is (N, OH, OW, O).

    Section "The gradients of a convolution".  Use `im2col` and `col2im`; the tests of this task bring a right col2im.
    """
    # BEGIN SOLUTION task 3: the gradients of a convolution
    rows, filters = dy.reshape(-1, w.shape[3]), w.reshape(-1, w.shape[3])
    dw = im2col(x, w.shape[:2], stride, padding).T @ rows
    dx = col2im(rows @ filters.T, x.shape, w.shape[:2], stride, padding)
    return {"x": dx, "w": dw.reshape(w.shape), "b": rows.sum(axis=0)}
    # END SOLUTION
