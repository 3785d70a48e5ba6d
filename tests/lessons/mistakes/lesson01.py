"""Wrong measurements of a derivative."""

from . import Mistake

_GRADIENT = """\
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
"""

_STEP_SUBTRACTED = """\
    grad = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        x[index] += 6e-6
        up = f(x)
        x[index] -= 12e-6
        grad[index] = (up - f(x)) / 12e-6
        x[index] += 6e-6
    return grad
"""

_FLAT = """\
    x = np.array(x, dtype=np.float64)
    flat = x.reshape(-1)
    grad = np.zeros(x.size)
    for i, value in enumerate(flat.copy()):
        flat[i] = value + 6e-6
        up = f(x)
        flat[i] = value - 6e-6
        grad[i] = (up - f(x)) / 12e-6
        flat[i] = value
    return grad.reshape(x.shape)
"""

MISTAKES = [
    Mistake(1, "/h for /2h", "(up - down)\n    # END", "(up - x)\n    # END", "twice too large"),
    Mistake(
        1,
        "float32",
        "up, down = x + h, x - h",
        "up, down = np.float32(x + h), np.float32(x - h)",
        "computed in float32",
    ),
    Mistake(1, "h = 1e-12", "np.cbrt(np.finfo(np.float64).eps) * np.maximum", "1e-12 * np.maximum", "is too small"),
    Mistake(1, "h = 1e-3", "np.cbrt(np.finfo(np.float64).eps) * np.maximum", "1e-3 * np.maximum", "is too large"),
    Mistake(1, "one side only", "up, down = x + h, x - h", "up, down = x + h, x", "one side only"),
    Mistake(1, "the same step everywhere", " * np.maximum(1, np.abs(x))", "", "let it grow with x"),
    Mistake(
        1,
        "x changed in place",
        "up, down = x + h, x - h",
        "up = x + h\n    x -= h\n    down = x",
        "central changed x",
    ),
    Mistake(2, "a step that is too large", "h = 1e-30", "h = 1e-5", "nothing cancels here"),
    Mistake(2, "not divided by h", "np.imag(f(x + 1j * h)) / h", "np.imag(f(x + 1j * h))", "divide the imaginary part"),
    Mistake(2, "divided by 2h", "np.imag(f(x + 1j * h)) / h", "np.imag(f(x + 1j * h)) / (2 * h)", "not by 2h"),
    Mistake(2, "the real part", "np.imag(f(x + 1j * h)) / h", "np.real(f(x + 1j * h)) / h", "is the imaginary part"),
    Mistake(2, "a real step", "x + 1j * h", "x + h", "without leaving the real axis"),
    Mistake(2, "still complex", "np.imag(f(x + 1j * h)) / h", "(f(x + 1j * h) - f(x)) / (1j * h)", "is real"),
    Mistake(3, "not put back", "        x[index] = value\n        grad", "        grad", "put each one back"),
    Mistake(3, "in place, and the step subtracted again", _GRADIENT, _STEP_SUBTRACTED, "to the last bit"),
    Mistake(3, "by way of x.reshape(-1)", _GRADIENT, _FLAT, "f never sees the copy move"),
    Mistake(3, "float32", "np.array(x, dtype=np.float64)", "np.array(x, dtype=np.float32)", "computed in float32"),
    Mistake(3, "the dtype of x", "np.array(x, dtype=np.float64)", "np.array(x)", "copy it as float64"),
    Mistake(3, "h = 1e-12", "np.cbrt(np.finfo(np.float64).eps) * max(", "1e-12 * max(", "is too small"),
    Mistake(3, "/h for /2h", "((value + h) - (value - h))", "((value + h) - value)", "twice too large"),
]
