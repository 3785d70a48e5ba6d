"""Lesson 09: the residual block.  `minires lessons check 09` says how it goes; `minires gradcheck` shows more."""

import numpy as np

INPUTS = {
    "residual": {"x": (4, 5), "w1": (5, 7), "w2": (7, 5)},
    "block": {"x": (4, 5), "w1": (5, 7), "w2": (7, 5)},
}


def branch(x, w1, w2):
    """F(x) = relu(x W1) W2: what a residual block learns, with layers of neurons in place of convolutions.

    x (N, C), w1 (C, D), w2 (D, C) -> (N, C)
    """
    return np.maximum(x @ w1, 0) @ w2


def residual(x, w1, w2):
    """H(x) = F(x) + x, He et al. 2015, eq. 1."""
    return branch(x, w1, w2) + x


def residual_backward(dy, x, w1, w2):
    """The gradients of `residual`, by hand; section 3 of the lesson.

    Args:
        dy: dL/dH, of the shape of x.
        x, w1, w2: as `residual` got them.

    Returns:
        {"x": dL/dx, "w1": dL/dW1, "w2": dL/dW2}
    """
    # BEGIN SOLUTION task 1: the gradients of H(x) = F(x) + x
    z = x @ w1
    dz = dy @ w2.T * (z > 0)
    dx = dz @ w1.T + dy
    return {"x": dx, "w1": x.T @ dz, "w2": np.maximum(z, 0).T @ dy}
    # END SOLUTION


def block(x, w1, w2):
    """y = relu(F(x) + x): the block of the paper, figure 2, with the second ReLU after the addition."""
    return np.maximum(residual(x, w1, w2), 0)


def block_backward(dy, x, w1, w2):
    """The gradients of `block`, by hand; section 4 of the lesson.  Do not use `residual_backward`.

    Args:
        dy: dL/dy, of the shape of x.  It belongs to the layer above: leave it as it is.
        x, w1, w2: as `block` got them.

    Returns:
        {"x": dL/dx, "w1": dL/dW1, "w2": dL/dW2}
    """
    # BEGIN SOLUTION task 2: the gradients of y = relu(F(x) + x)
    z = x @ w1
    dh = dy * (residual(x, w1, w2) > 0)
    dz = dh @ w2.T * (z > 0)
    dx = dz @ w1.T + dh
    return {"x": dx, "w1": x.T @ dz, "w2": np.maximum(z, 0).T @ dh}
    # END SOLUTION


def branch_jacobian(x, w1, w2):
    """The Jacobian J_F of the branch at one example, with J_F[i, j] = dF_i / dx_j; section 3 of the lesson.

    Args:
        x: one example, (C,).
        w1, w2: (C, D) and (D, C).

    Returns:
        (C, C)
    """
    # BEGIN SOLUTION task 3: the Jacobian of the branch
    return w2.T @ ((x @ w1 > 0)[:, None] * w1.T)
    # END SOLUTION


def split(dy, x, w1, w2):
    """The gradient of `block` in two parts: what comes back through the branch, and what comes through the skip.

    Args:
        dy: dL/dy, of the shape of x.
        x, w1, w2: as `block` got them.

    Returns:
        (through the branch, through the skip), each of the shape of x; their sum is dL/dx.
    """
    # BEGIN SOLUTION task 4: the two parts of the gradient
    through_skip = dy * (residual(x, w1, w2) > 0)
    through_branch = through_skip @ w2.T * (x @ w1 > 0) @ w1.T
    return through_branch, through_skip
    # END SOLUTION
