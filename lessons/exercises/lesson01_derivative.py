"""Lesson 01: measuring a derivative.  `minires lessons check 01` says how it goes."""

import numpy as np


def central(f, x):
    """The derivative of f at x by the central difference, to about ten digits.

    Args:
        f: a function of a float64 number or, entry by entry, of an array.
        x: a number or an array, of float64.  It is left as it is.

    Returns:
        f'(x), of the shape of x.

    The best step is the cube root of eps times max(1, |x|): a relative step where x is large ("Both sides: the even
    errors cancel").
    """
    # BEGIN SOLUTION task 1: the central difference
    h = np.cbrt(np.finfo(np.float64).eps) * np.maximum(1, np.abs(x))
    up, down = x + h, x - h
    return (f(up) - f(down)) / (up - down)
    # END SOLUTION


def complex_step(f, x):
    """The derivative of f at x by the complex step, to the last digits.

    Args:
        f: a function that takes complex numbers as well as real ones.
        x: a number or an array, of float64.  It is left as it is.

    Returns:
        f'(x), real, of the shape of x ("No subtraction, no loss: the complex step").
    """
    # BEGIN SOLUTION task 2: the complex step
    h = 1e-30
    return np.imag(f(x + 1j * h)) / h
    # END SOLUTION


def gradient(f, x):
    """The gradient of f at x, entry by entry, by central differences.

    Args:
        f: takes an array of the shape of x and returns a number.
        x: an array of any number of axes and of any dtype.  Afterwards it is as it was, to the last bit.

    Returns:
        df/dx, a float64 array of the shape of x.

    Measure in float64 even if x is of float32 or of integers, and move one entry at a time ("A gradient: one entry at a
    time", "Putting back").  ``np.ndindex(x.shape)`` runs through the indices of an array.
    """
    # BEGIN SOLUTION task 3: a gradient, all entries
    x = np.array(x, dtype=np.float64)  # a copy, so that the caller's array cannot change
    grad = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        value = x[index]
        h = np.cbrt(np.finfo(np.float64).eps) * max(1, abs(value))
        x[index] = value + h
        up = f(x)
        x[index] = value - h
        down = f(x)
        x[index] = value
        grad[index] = (up - down) / ((value + h) - (value - h))
    return grad
    # END SOLUTION
