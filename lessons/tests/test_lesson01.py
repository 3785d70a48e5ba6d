"""Lesson 01: derivatives measured by central differences and by the complex step."""

import numpy as np
import pytest

pytestmark = pytest.mark.lesson01

# functions that take complex numbers too, their derivatives, and where to measure
FUNCTIONS = [
    (np.sin, np.cos),
    (np.exp, np.exp),
    (lambda x: x**3 - 2 * x, lambda x: 3 * x**2 - 2),
    (lambda x: x / (1 + x**2), lambda x: (1 - x**2) / (1 + x**2) ** 2),
]


def expect(right, otherwise):
    """Fail with this sentence and nothing else."""
    __tracebackhide__ = True
    if not right:
        raise AssertionError(otherwise)


class Watched:
    """A function that remembers what it was called with."""

    def __init__(self, function):
        self.function, self.seen = function, []

    def __call__(self, x):
        self.seen.append(np.array(x))
        return self.function(x)


def error(mine, true):
    """The largest error, relative to the largest derivative."""
    return np.max(np.abs(np.asarray(mine) - true)) / np.max(np.abs(true))


def factor(measured, true):
    """In words, if what was measured is the derivative times a number that somebody forgot."""
    for number, words in (
        (2, "twice too large: from f(x - h) to f(x + h) it is 2h, not h"),
        (0.5, "half of what it should be: is it divided by 2h twice?"),
        (-1, "of the wrong sign: it is f(x + h) - f(x - h)"),
    ):
        if error(measured, number * true) < 1e-3:
            return words
    return ""


def diagnose(measured, true, function, x):
    """What a wrong central difference has probably done: a factor first, then how the function was called."""
    if words := factor(measured, true):
        return words
    if any(np.asarray(v).dtype == np.float32 for v in function.seen):
        return "computed in float32, which has seven digits: keep everything in float64"
    moved = [np.max(np.abs(v - x)) for v in function.seen if np.shape(v) == np.shape(x)]
    if min(moved, default=1.0) == 0 and error(measured, true) < 1e-3:
        return "measured on one side only: f(x) itself has no place in a central difference"
    if moved and (step := max(moved)) < 1e-7:
        return f"drowned in rounding errors: the step {step:.0e} is too small, the best is about 6e-6"
    if moved and max(moved) > 1e-4:
        return f"spoilt by truncation: the step {max(moved):.0e} is too large, the best is about 6e-6"
    return "not the derivative"


@pytest.mark.task1
@pytest.mark.parametrize(("f", "slope"), FUNCTIONS)
def test_central(mine, rng, f, slope):
    x = rng.uniform(0.2, 1.5, 50)
    watched = Watched(f)
    measured = mine.central(watched, x)
    expect(np.shape(measured) == x.shape, f"central must give one derivative for each entry of x, of shape {x.shape}.")
    expect(
        error(measured, slope(x)) < 1e-9,
        f"the relative error is {error(measured, slope(x)):.0e} and should be 1e-9 at most. "
        f"It is {diagnose(measured, slope(x), watched, x)}.",
    )


@pytest.mark.task1
def test_central_of_one_number(mine, rng):
    x = rng.uniform(0.5, 1)
    watched = Watched(np.sin)
    measured = mine.central(watched, x)
    expect(
        error(measured, np.cos(x)) < 1e-9,
        f"at a single number the relative error is {error(measured, np.cos(x)):.0e} and should be 1e-9 at most. "
        f"It is {diagnose(measured, np.cos(x), watched, x)}.",
    )


@pytest.mark.task1
def test_central_where_x_is_large(mine, rng):
    x = rng.uniform(0.5, 1, 50) * 1e6
    measured = mine.central(np.log, x)
    why = factor(measured, 1 / x) or (
        "the step is lost in the rounding of so large an x, so let it grow with x, cbrt(eps) * max(1, |x|)"
    )
    wrong = np.max(np.abs(measured * x - 1))
    expect(wrong < 1e-8, f"the relative error of the derivative of log near 1e6 is {wrong:.0e}: {why}.")


@pytest.mark.task1
def test_central_leaves_x(mine, rng):
    x = rng.uniform(0.2, 1.5, 7)
    before = x.copy()
    mine.central(np.sin, x)
    expect(np.array_equal(x, before), "central changed x: make new arrays, x + h and x - h, instead of x += h.")


@pytest.mark.task2
@pytest.mark.parametrize(("f", "slope"), FUNCTIONS)
def test_complex_step(mine, rng, f, slope):
    x = rng.uniform(0.2, 1.5, 50)
    before = x.copy()
    watched = Watched(f)
    measured = mine.complex_step(watched, x)
    expect(not np.iscomplexobj(measured), "the result is complex, but a derivative is real: take the imaginary part.")
    expect(
        error(measured, slope(x)) < 1e-14,
        f"the relative error is {error(measured, slope(x)):.0e} and should be 1e-14 at most. "
        f"It is {diagnose_complex(measured, slope(x), watched)}.",
    )
    expect(np.array_equal(x, before), "complex_step changed x.")


def diagnose_complex(measured, true, function):
    """What a wrong complex step has probably done."""
    steps = [np.max(np.abs(np.imag(v))) for v in function.seen]
    if not steps or max(steps) == 0:
        return "measured without leaving the real axis: step to x + 1j * h"
    if error(measured, true / 2) < 1e-3:
        return "half of what it should be: only one step was taken, so divide by h, not by 2h"
    if error(np.asarray(measured) / max(steps), true) < 1e-3:
        return "h times too small: divide the imaginary part by h"
    if max(steps) > 1e-8:
        return f"spoilt by truncation: the step {max(steps):.0e} is too large; nothing cancels here, so take 1e-30"
    return "not the derivative, which is the imaginary part of f(x + 1j * h), divided by h"


@pytest.mark.task2
def test_complex_step_of_one_number(mine, rng):
    x = rng.uniform(0.5, 1)
    watched = Watched(np.exp)
    measured = mine.complex_step(watched, x)
    expect(
        error(measured, np.exp(x)) < 1e-14,
        f"at a single number the relative error is {error(measured, np.exp(x)):.0e} and should be 1e-14 at most. "
        f"It is {diagnose_complex(measured, np.exp(x), watched)}.",
    )


@pytest.fixture
def field(rng, sizes):
    """A function of a matrix, its gradient, and a point."""
    n, m = sizes(N=3, M=4)
    a, b = rng.standard_normal((n, m)), rng.standard_normal((m, n))

    def f(x):
        return np.sin(a * x).sum() + np.trace(x @ b @ x @ b)

    def grad(x):
        return a * np.cos(a * x) + 2 * (b @ x @ b).T

    return f, grad, rng.standard_normal((n, m))


@pytest.mark.task3
def test_gradient(mine, field):
    f, grad, x = field
    watched = Watched(f)
    measured = mine.gradient(watched, x.copy())
    expect(
        np.shape(measured) == x.shape, f"the gradient must have the shape of x, {x.shape}, not {np.shape(measured)}."
    )
    seen = watched.seen
    expect(
        len(seen) >= 2 * x.size, f"f was called {len(seen)} times for {x.size} entries: each of them takes two calls."
    )
    if all(v.dtype == np.float64 for v in seen):
        moved = max(np.count_nonzero(v != x) for v in seen)
        expect(moved <= 1, f"{moved} entries had moved at once: put each one back before you move the next.")
    found = error(measured, grad(x))
    expect(
        found < 1e-8,
        f"the relative error is {found:.0e} and should be 1e-8 at most. "
        f"It is {diagnose(measured, grad(x), watched, x)}.",
    )


@pytest.mark.task3
@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_gradient_leaves_x(mine, field, size):
    f, _, x = field
    x = size * x
    before = x.copy()
    mine.gradient(f, x)
    expect(
        np.array_equal(x, before),
        "x is not what it was, to the last bit. Keep the old value and assign it back: x += h; x -= h rounds.",
    )


@pytest.mark.task3
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_gradient_at_an_array_of_few_digits(mine, field, dtype):
    f, grad, x = field
    x = np.round(3 * x).astype(dtype)
    found = error(mine.gradient(f, x.copy()), grad(x.astype(np.float64)))
    expect(
        found < 1e-8,
        f"the relative error is {found:.0e} where x is of {np.dtype(dtype)}: copy it as float64 before you move it, "
        "and keep the gradient in float64.",
    )


@pytest.mark.task3
def test_gradient_of_any_number_of_axes(mine, rng, sizes):
    n, m = sizes(N=2, M=3)
    for shape in ((), (m,), (n, m, n + m)):
        x = rng.standard_normal(shape)
        measured = mine.gradient(lambda x: (x**2).sum(), x)
        expect(np.shape(measured) == shape, f"the gradient of x of shape {shape} has shape {np.shape(measured)}.")
        expect(
            np.allclose(measured, 2 * x, rtol=1e-8, atol=1e-8),
            f"the gradient of the sum of squares, x of shape {shape}, is 2 x, and yours is off by up to "
            f"{np.max(np.abs(measured - 2 * x)):.0e}.",
        )


@pytest.mark.task3
def test_gradient_of_a_transposed_array(mine, field):
    f, grad, x = field
    x = np.ascontiguousarray(x.T).T  # the same numbers in another order of memory
    measured = mine.gradient(f, x)
    expect(
        error(measured, grad(x)) < 1e-8,
        "the gradient at a transposed array is wrong: x.reshape(-1) and x.ravel() copy such an array, and f never sees "
        "the copy move. Use indices, np.ndindex(x.shape).",
    )
