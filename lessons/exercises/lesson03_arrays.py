"""Lesson 03: arrays.  `minires lessons check 03` says how it goes, `minires gradcheck lesson03_arrays.py` more."""

import numpy as np

INPUTS = {
    "add": {"a": (4, 5), "b": (5,)},
    "mul": {"a": (3, 1, 5), "b": (4, 1)},
    "total": {"x": (3, 4, 5)},
    "matmul": {"x": (4, 5), "w": (5, 3)},
}


def unbroadcast(grad, shape):
    """The gradient of an array that NumPy copied from ``shape`` to ``grad.shape``: sums over all copies.

    Args:
        grad: dL/d(copy).
        shape: of the array before it was broadcast: axes may have been added on the left, and others, of length 1, may
            have been stretched.

    Returns:
        dL/d(array), of the given shape ("Broadcasting: a copy's gradients add up").
    """
    # BEGIN SOLUTION task 1: the gradients of a copy and of a sum
    added = grad.ndim - len(shape)
    grad = grad.sum(tuple(range(added)))
    stretched = tuple(i for i, length in enumerate(shape) if length == 1)
    return grad.sum(stretched, keepdims=True)
    # END SOLUTION


def total(x, axis=1):
    """The sum over an axis, which disappears."""
    return x.sum(axis)


def total_backward(dy, x, axis=1):
    """The gradient of `total`.

    Args:
        dy: dL/dy, of the shape of x without the axis.
        x: the array that was summed.
        axis: a number, which may be negative, or a tuple of such numbers.

    Returns:
        {"x": dL/dx}, of the shape of x.
    """
    # BEGIN SOLUTION task 1: the gradients of a copy and of a sum
    return {"x": np.broadcast_to(np.expand_dims(dy, axis), x.shape)}
    # END SOLUTION


def add(a, b):
    """a + b, broadcast as NumPy does."""
    return a + b


def add_backward(dy, a, b):
    """The gradients of `add`: {"a": dL/da, "b": dL/db}, each of the shape of its array.  Use `unbroadcast`."""
    # BEGIN SOLUTION task 2: the gradients of a sum and a product of two arrays
    return {"a": unbroadcast(dy, a.shape), "b": unbroadcast(dy, b.shape)}
    # END SOLUTION


def mul(a, b):
    """a times b, entry by entry, broadcast as NumPy does."""
    return a * b


def mul_backward(dy, a, b):
    """The gradients of `mul`: {"a": dL/da, "b": dL/db}, each of the shape of its array.  Use `unbroadcast`."""
    # BEGIN SOLUTION task 2: the gradients of a sum and a product of two arrays
    return {"a": unbroadcast(dy * b, a.shape), "b": unbroadcast(dy * a, b.shape)}
    # END SOLUTION


def matmul(x, w):
    """The matrix product of x (N, D) and w (D, M)."""
    return x @ w


def matmul_backward(dy, x, w):
    """The gradients of `matmul` ("A matrix product, index by index").

    Args:
        dy: dL/dy (N, M).
        x: (N, D).
        w: (D, M).

    Returns:
        {"x": dL/dx (N, D), "w": dL/dw (D, M)}.
    """
    # BEGIN SOLUTION task 3: the gradients of a matrix product
    return {"x": dy @ w.T, "w": x.T @ dy}
    # END SOLUTION


def gradcheck(forward, backward, inputs, seed=0):
    """Whether a backward pass is the derivative of its forward pass.

    Args:
        forward: ``forward(**inputs)`` returns an array (or a number).
        backward: ``backward(dy, **inputs)`` returns a dict with the gradient of each input by name.
        inputs: a dict of arrays by name; leave them as they are.
        seed: of the upstream gradient.

    Returns:
        True if every entry of every gradient agrees with central differences (lesson 1), False if one does not.

    Think of these:

    - float64, whatever the inputs are;
    - an upstream gradient that is random, and from a stream of its own: ``np.random.default_rng([seed, 1])``;
    - the result of forward may be a view of its input (x.T is), which changes when you move x: copy it;
    - every input, every entry: |a - n| <= 1e-6 max(|a|, |n|, 0.001 max |n|), with a the gradient and n the measurement.
      Sum (f(x + h) - f(x - h)) * dy, in this order, to lose the fewest digits;
    - a gradient that is missing, of another shape than its input, or NaN, is wrong;
    - if the measured gradient of an input is zero everywhere (below 1e-8), nothing was checked: False;
    - where an entry disagrees, there may be a kink within the step (ReLU near 0): measure again with a tenth of it.
    """
    # BEGIN SOLUTION task 4: a gradient checker
    inputs = {name: np.array(x, dtype=np.float64) for name, x in inputs.items()}
    dy = np.random.default_rng([seed, 1]).standard_normal(np.shape(forward(**inputs)))
    grads = backward(dy.copy(), **{name: x.copy() for name, x in inputs.items()})

    def slope(x, index, h):
        value = x[index]
        h = h * max(1, abs(value))
        x[index] = value + h
        up = np.array(forward(**inputs))  # copies, for they may be views of x
        x[index] = value - h
        down = np.array(forward(**inputs))
        x[index] = value
        return ((up - down) * dy).sum() / ((value + h) - (value - h))

    for name, x in inputs.items():
        grad = grads.get(name)
        if grad is None or np.shape(grad) != x.shape:
            return False
        indices = list(np.ndindex(x.shape))
        measured = [slope(x, index, 6e-6) for index in indices]
        largest = max(abs(n) for n in measured)
        if largest < 1e-8:
            return False
        for index, n in zip(indices, measured, strict=True):
            a = np.asarray(grad)[index]
            close = 1e-6 * max(abs(a), abs(n), 1e-3 * largest)
            if not (abs(a - n) <= close or abs(a - slope(x, index, 6e-7)) <= close):  # also if a is NaN
                return False
    return True
    # END SOLUTION
