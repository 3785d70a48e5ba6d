"""Lesson 03: gradients of array operations, and a checker of the student's own."""

import numpy as np
import pytest

import minires
from minires.mutants import CATALOGUE, OPERATIONS, point

pytestmark = pytest.mark.lesson03


def expect(right, otherwise):
    """Fail with this sentence and nothing else."""
    __tracebackhide__ = True
    if not right:
        raise AssertionError(otherwise)


# -- task 1 ------------------------------------------------------------------------------------------------------------


def broadcasts(n, m, k):
    """Shapes, and what they are broadcast to: all sizes distinct, then squares, where only values can tell."""
    return [
        ((m,), (n, m)),
        ((1, m), (n, m)),
        ((n, 1), (n, m)),
        ((m, 1), (n, m, k)),
        ((n, 1, k), (n, m, k)),
        ((1,), (n, m)),
        ((), (n, m)),
        ((n, m), (n, m)),
        ((n,), (n, n)),
        ((n, 1), (n, n)),
        ((1, n), (n, n)),
        ((n, n), (n, n, n)),
    ]


@pytest.mark.task1
@pytest.mark.parametrize("case", range(12))
def test_unbroadcast(mine, rng, sizes, gradcheck, case):
    shape, larger = broadcasts(*sizes(N=3, M=4, K=5))[case]

    def copy(x):
        return np.broadcast_to(x, larger).copy()

    def copy_backward(dy, x):
        return {"x": mine.unbroadcast(dy, x.shape)}

    given = np.shape(mine.unbroadcast(rng.standard_normal(larger), shape))
    expect(
        given == shape,
        f"a gradient of {larger}, of an array of {shape}, came back as {given}. Axes that were added on the left "
        "disappear in the sum, and stretched axes, of length 1, stay: keepdims=True.",
    )
    gradcheck(copy, copy_backward, {"x": rng.standard_normal(shape)}, name=f"broadcast {shape} to {larger}")


@pytest.mark.task1
@pytest.mark.parametrize("axis", [0, 1, 2, -1, (0, 2), (-1, 0), (0, 1, 2)])
@pytest.mark.parametrize("square", [False, True])
def test_total(mine, rng, sizes, gradcheck, axis, square):
    n, m, k = sizes(N=3, M=4, K=5)
    x = rng.standard_normal((n, n, n) if square else (n, m, k))
    dy = rng.standard_normal(x.sum(axis).shape)
    try:
        given = np.shape(mine.total_backward(dy, x, axis)["x"])
    except ValueError as error:
        raise AssertionError(
            f"{error}. The sum over axis {axis} of x {x.shape} has lost this axis: put it back with length 1 "
            "(np.expand_dims) before the copies are made."
        ) from None
    expect(given == x.shape, f"x has shape {x.shape}, and its gradient {given}: copy dy into the axis that was summed.")
    gradcheck(
        lambda x: mine.total(x, axis), lambda dy, x: mine.total_backward(dy, x, axis), {"x": x}, name=f"total, {axis=}"
    )


# -- task 2 ------------------------------------------------------------------------------------------------------------


def pairs(n, m, k):
    """Shapes of two operands."""
    return [
        ((n, m), (n, m)),
        ((n, m), (m,)),
        ((m,), (n, m)),
        ((n, m), ()),
        ((n, 1, k), (m, 1)),
        ((n, n), (n,)),
        ((n, n), (n, 1)),
        ((n, 1), (1, n)),
    ]


@pytest.fixture
def whole(mine, monkeypatch):
    """The student's module with an unbroadcast that is right: task 2 does not depend on task 1."""
    monkeypatch.setattr(mine, "unbroadcast", minires.unbroadcast)
    return mine


@pytest.mark.task2
@pytest.mark.parametrize("case", range(8))
@pytest.mark.parametrize("operation", ["add", "mul"])
def test_two_operands(whole, rng, sizes, gradcheck, operation, case):
    a, b = pairs(*sizes(N=3, M=4, K=5))[case]
    gradcheck(
        getattr(whole, operation),
        getattr(whole, f"{operation}_backward"),
        {"a": rng.standard_normal(a), "b": rng.standard_normal(b)},
        name=f"{operation} {a} and {b}",
    )


# -- task 3 ------------------------------------------------------------------------------------------------------------


@pytest.mark.task3
@pytest.mark.parametrize("square", ["none", "w", "x", "both", "all but the batch is 1"])
def test_matmul(mine, rng, sizes, gradcheck, square):
    n, d, m = sizes(N=5, D=4, M=3)
    n, d, m = {"none": (n, d, m), "w": (n, d, d), "x": (d, d, m), "both": (d, d, d)}.get(square, (n, 1, 1))
    inputs = {"x": rng.standard_normal((n, d)), "w": rng.standard_normal((d, m))}
    try:
        gradcheck(mine.matmul, mine.matmul_backward, inputs, name=f"matmul {(n, d)} @ {(d, m)}")
    except ValueError as error:
        raise AssertionError(
            f"x {(n, d)}, w {(d, m)}, dy {(n, m)}: {error}. Write the product with its indices: which one is summed?"
        ) from None


# -- task 4 ------------------------------------------------------------------------------------------------------------

FAR = 1000  # between the seed of the inputs and the seed of the checker


def ask(checker, operation, backward, seed, dtype=np.float64, inputs=None):
    """What the checker says of a backward pass (dy, *inputs) -> gradients in order."""
    forward = OPERATIONS[operation].forward

    def by_name(dy, **inputs):
        grads = backward(dy, *inputs.values())
        return dict(zip(inputs, grads if isinstance(grads, tuple) else (grads,), strict=True))

    inputs = inputs or {n: x.astype(dtype) for n, x in point(operation, FAR + seed).items()}
    answer = checker(lambda **given: forward(*given.values()), by_name, inputs, seed)
    expect(isinstance(answer, bool | np.bool_), f"your checker must return True or False, not {type(answer).__name__}.")
    return bool(answer)


@pytest.mark.task4
@pytest.mark.parametrize("operation", OPERATIONS)
def test_checker_accepts_what_is_right(mine, seed, operation):
    why = "Is the step 6e-6, is everything float64, and is an entry that moved put back?"
    if operation in ("batch norm", "softmax", "layer norm"):
        why += " (Or is the upstream gradient ones? With these the gradient is zero here, which looks like nothing.)"
    for s in (seed, seed + 1):
        expect(
            ask(mine.gradcheck, operation, OPERATIONS[operation].backward, s),
            f"your checker refuses a right backward pass ({operation}, seed {s}): a false alarm. {why}",
        )


UPSTREAM = "the upstream gradient must be random: ones hide what sums to a constant, and a dy that is left out"
ENTRIES = "every entry of every input must be measured"
TOLERANCE = "the tolerance must be tight, 1e-6 of the entry, which float64 gives"


MUTANTS = {
    ("batch norm", "zero"): UPSTREAM,
    ("softmax", "zero"): UPSTREAM,
    ("multiply", "upstream gradient dropped"): UPSTREAM,
    ("bias", "wrong axis on a square"): UPSTREAM,
    ("lookup", "= for +="): ENTRIES,
    ("affine", "db missing"): ENTRIES,
    ("batch norm", "eps omitted"): TOLERANCE,
    ("relu", "leaky"): TOLERANCE,
}


@pytest.mark.task4
@pytest.mark.parametrize("mutant", MUTANTS, ids=", ".join)
def test_checker_refuses_mutants(mine, seed, mutant):
    (backward,) = [m.backward for m in CATALOGUE if m[:2] == mutant]
    for s in (seed, seed + 1):
        expect(
            not ask(mine.gradcheck, mutant[0], backward, s),
            f"your checker accepts a wrong {mutant[0]} ({mutant[1]}, seed {s}): {MUTANTS[mutant]}.",
        )


def affine(**others):
    """The forward and backward pass of x w + b, with some gradients replaced by functions of the right one."""

    def forward(x, w, b):
        return x @ w + b

    def backward(dy, x, w, b):
        grads = {"x": dy @ w.T, "w": x.T @ dy, "b": dy.sum(0)}
        return {n: others[n](g) if n in others else g for n, g in grads.items() if others.get(n, g) is not None}

    return forward, backward


def changed(index, factor):
    """A gradient with one entry multiplied."""

    def change(grad):
        grad = grad.copy()
        grad[index] *= factor
        return grad

    return change


@pytest.fixture
def inputs(rng, sizes):
    n, d, m = sizes(N=5, D=4, M=3)
    return {"x": rng.standard_normal((n, d)), "w": rng.standard_normal((d, m)), "b": rng.standard_normal(m)}


WRONG = {
    "the last entry of x": ({"x": changed((-1, -1), 1.5)}, ENTRIES),
    "the first entry of w": ({"w": changed((0, 0), 1.5)}, ENTRIES),
    "the last entry of the last input": ({"b": changed(-1, -1)}, ENTRIES),
    "an entry of w, by 1e-4": ({"w": changed((1, 2), 1 + 1e-4)}, TOLERANCE),
    "the gradient of b, which is missing": ({"b": None}, "a gradient that is not there is wrong"),
    "the shape of b's gradient, (2, M)": ({"b": lambda g: np.stack([g, g])}, "shapes must be compared"),
    "the shape of b's gradient, (M, 1)": ({"b": lambda g: g[:, None]}, "shapes must be compared"),
    "NaN in w": ({"w": changed((0, 1), np.nan)}, "every comparison with NaN is False, so ask for what is right"),
    "all gradients, which are zero": (dict.fromkeys("xwb", np.zeros_like), ENTRIES),
}


@pytest.mark.task4
@pytest.mark.parametrize("what", WRONG)
def test_checker_refuses(mine, seed, inputs, what):
    others, why = WRONG[what]
    try:
        accepted = mine.gradcheck(*affine(**others), inputs, seed)
    except (IndexError, KeyError, ValueError, TypeError) as error:
        raise AssertionError(f"wrong is {what}: {why}; and your checker stops with {error!r}.") from None
    expect(not accepted, f"your checker accepts a backward pass in which something is wrong, {what}: {why}.")


@pytest.mark.task4
def test_checker_refuses_to_judge_where_nothing_is_measured(mine, rng, seed):
    x = rng.standard_normal((6, 3))
    sums_to_nothing = lambda x: (x - x.mean(0)).sum(0) + 1
    expect(
        not mine.gradcheck(sums_to_nothing, lambda dy, x: {"x": np.zeros_like(x)}, {"x": x}, seed),
        "your checker is content where the measured gradient is zero everywhere, so that nothing was checked.",
    )


@pytest.mark.task4
def test_checker_leaves_its_inputs(mine, seed, inputs):
    inputs["b"] *= 1e-7  # smaller than the step: x += h; x -= h would not bring it back
    before = {n: x.copy() for n, x in inputs.items()}
    mine.gradcheck(*affine(), inputs, seed)
    expect(
        all(np.array_equal(before[n], inputs[n]) for n in before),
        "your checker has changed its inputs: move the entries of copies, and put back the old value itself.",
    )


@pytest.mark.task4
def test_checker_works_in_float64(mine, seed):
    for operation in ("tanh", "affine", "batch norm"):
        expect(
            ask(mine.gradcheck, operation, OPERATIONS[operation].backward, seed, np.float32),
            f"your checker refuses a right backward pass ({operation}) at float32 inputs: copy them as float64, for in "
            "float32 a difference has four digits.",
        )


@pytest.mark.task4
def test_upstream_gradient_is_not_the_input(mine, seed):
    inputs = point("layer norm", seed)  # the first numbers of default_rng(seed), as many tests draw them
    same = {"x": inputs["x"]}
    expect(
        ask(mine.gradcheck, "layer norm", OPERATIONS["layer norm"].backward, seed, inputs=same)
        and not ask(mine.gradcheck, "layer norm", lambda dy, x: 0 * x, seed, inputs=same),
        "x was drawn from default_rng(seed), and your upstream gradient is the same numbers: for dy = x the gradient "
        "of a normalisation is zero. Draw it from a stream of its own, default_rng([seed, 1]).",
    )


@pytest.mark.task4
def test_checker_of_a_view(mine, rng, sizes, seed):
    n, m = sizes(N=3, M=4)
    expect(
        mine.gradcheck(lambda x: x.T, lambda dy, x: {"x": dy.T}, {"x": rng.standard_normal((n, m))}, seed),
        "forward returned x.T, a view of x, and your checker refuses its right backward pass: the view changes when x "
        "does, so copy each result, np.array(forward(...)).",
    )


@pytest.mark.task4
def test_checker_near_a_kink(mine, rng, seed):
    x = rng.choice([-1, 1], (4, 5)) * rng.uniform(0.5, 1, (4, 5))
    x[1, 2], x[3, 0] = 2e-6, -2e-6
    expect(
        ask(mine.gradcheck, "relu", OPERATIONS["relu"].backward, seed, inputs={"x": x}),
        "your checker refuses a right ReLU at x = 2e-6: a step of 6e-6 crosses the kink at 0. Measure an entry that "
        "disagrees again with a tenth of the step.",
    )
    expect(
        not ask(mine.gradcheck, "relu", lambda dy, x: dy * (x > -1e-5), seed, inputs={"x": x}),
        "your checker accepts a wrong ReLU at x = -2e-6: an entry near a kink is to be measured again, not left out.",
    )
