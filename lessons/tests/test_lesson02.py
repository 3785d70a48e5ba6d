"""Lesson 02: a scalar autograd engine, its slopes, its order and its sweep."""

import math

import numpy as np
import pytest

pytestmark = pytest.mark.lesson02


def expect(right, otherwise):
    """Fail with this sentence and nothing else."""
    __tracebackhide__ = True
    if not right:
        raise AssertionError(otherwise)


# -- graphs, with values of their own, so that no task needs another ---------------------------------------------------


def product(mine, a, b, name=""):
    return mine.Value(a.data * b.data, (a, b), (b.data, a.data), name)


def total(mine, a, b, name=""):
    return mine.Value(a.data + b.data, (a, b), (1.0, 1.0), name)


def square(mine, a, name=""):
    return product(mine, a, a, name)


def chain(mine, rng, values):
    """x -> x + x^2 -> ..., every value with two uses but the last; parents first."""
    order = [mine.Value(rng.uniform(-0.5, -0.1), name="x")]
    for i in range(values):
        order.append(square(mine, order[-1], f"square{i}"))
        order.append(total(mine, order[-2], order[-1], f"sum{i}"))
    return order


def diamond(mine, rng):
    """The graph of the lesson's fourth section: L = a t, with t made from a, and a from x x."""
    x = mine.Value(rng.uniform(0.5, 0.9), name="x")
    a = square(mine, x, "a")
    t = mine.Value(math.tanh(a.data), (a,), (1 - math.tanh(a.data) ** 2,), "t")
    return [x, a, t, product(mine, a, t, "L")]


def tangle(mine, rng, values):
    """A graph at random: every value is made from two earlier ones, maybe twice the same; all are used."""
    order = [mine.Value(rng.standard_normal(), name=f"input{i}") for i in range(3)]
    for i in range(values):
        parents = [order[-1], order[rng.integers(len(order))]]
        order.append(mine.Value(rng.standard_normal(), parents, rng.uniform(0.5, 1.5, 2), f"v{i}"))
    for value in order[:3]:  # the inputs may have been left out
        order.append(mine.Value(0.0, (order[-1], value), rng.uniform(0.5, 1.5, 2), f"with_{value.name}"))
    return order


GRAPHS = {
    "a value alone": lambda mine, rng: [mine.Value(2.0, name="x")],
    "x x": lambda mine, rng: (lambda x: [x, square(mine, x, "x x")])(mine.Value(3.0, name="x")),
    "a tanh(a)": diamond,
    "a chain of squares and sums": lambda mine, rng: chain(mine, rng, 4),
    "a tangle": lambda mine, rng: tangle(mine, rng, 30),
}


def slopes_forwards(order):
    """d(root)/d(value) for every value, by following one value at a time forwards: another way than the sweep."""
    result = []
    for moved in order:
        speed = {}
        for value in order:
            speed[value] = float(value is moved) + sum(
                slope * speed[parent] for parent, slope in zip(value.parents, value.slopes, strict=True)
            )
        result.append(speed[order[-1]])
    return np.array(result)


# -- task 1 ------------------------------------------------------------------------------------------------------------


@pytest.mark.task1
@pytest.mark.parametrize("name", ["multiply", "divide", "tanh"])
def test_slopes(mine, rng, name):
    function = {"multiply": lambda a, b: a * b, "divide": lambda a, b: a / b, "tanh": np.tanh}[name]
    numbers = rng.uniform(0.5, 2, 1 if name == "tanh" else 2) * [1, -1][: 1 if name == "tanh" else 2]
    parents = [mine.Value(float(v), name="ab"[i]) for i, v in enumerate(numbers)]
    value = getattr(mine, name)(*parents)
    expect(
        math.isclose(value.data, function(*numbers), rel_tol=1e-12),
        f"{name}{tuple(numbers)} is {function(*numbers)}, and yours says {value.data}.",
    )
    expect(
        tuple(value.parents) == tuple(parents), f"{name}: its parents are {parents}, and yours says {value.parents}."
    )
    expect(len(value.slopes) == len(parents), f"{name}: one slope for each of {parents}, and yours has {value.slopes}.")
    for i, slope in enumerate(value.slopes):
        nudged = [v + (1e-30j if i == j else 0) for j, v in enumerate(numbers)]
        measured = function(*nudged).imag / 1e-30
        expect(
            math.isclose(slope, measured, rel_tol=1e-12),
            f"{name}: the slope with respect to {parents[i]} is measured as {measured:+.6f}, and yours is {slope:+.6f}"
            f"{_reason(slope, measured, value)}.",
        )


def _reason(slope, measured, value):
    if math.isclose(slope, -measured, rel_tol=1e-9):
        return ": the sign is wrong"
    if len(value.parents) == 2 and math.isclose(slope, value.parents[0].data * value.parents[1].data / measured):
        return ": the two slopes are exchanged"
    return ""


# -- task 2 ------------------------------------------------------------------------------------------------------------


@pytest.mark.task2
@pytest.mark.parametrize("graph", GRAPHS)
def test_order(mine, rng, graph):
    values = GRAPHS[graph](mine, rng)
    order = list(mine.topological(values[-1]))
    place = {value: i for i, value in enumerate(order)}
    twice = [value for value in values if sum(v is value for v in order) > 1]
    expect(not twice, f"in {graph}, {twice and twice[0]} stands more than once: it would speak more than once.")
    missing = [value for value in values if value not in place]
    expect(not missing, f"in {graph}, {missing and missing[0]} is left out.")
    expect(len(order) == len(values), f"in {graph} there are {len(values)} values, and your list has {len(order)}.")
    for value in order:
        for parent in value.parents:
            expect(
                place[parent] < place[value],
                f"in {graph}, {value} stands before {parent}, from which it was made; a value may be written down only "
                f"after all of its parents." + (f" Your order: {order}." if len(order) < 10 else ""),
            )


@pytest.mark.task2
def test_order_of_a_deep_graph(mine, rng):
    sums = [mine.Value(1.0, name="sum0")]
    for i in range(4000):
        sums.append(total(mine, sums[-1], mine.Value(1.0), f"sum{i + 1}"))
    try:
        order = mine.topological(sums[-1])
    except RecursionError:
        raise AssertionError(
            "a sum of 4,000 numbers, one after the other, is deeper than Python's stack: do not call topological from "
            "within, keep a list of what is still to be visited."
        ) from None
    expect(len(order) == 8001, f"there are 8001 values, and your list has {len(order)}.")


@pytest.mark.task2
def test_every_value_is_visited_once(mine, rng):
    asked = 0

    class Asked(mine.Value):
        @property
        def parents(self):
            nonlocal asked
            asked += 1
            if asked > 1000:
                raise AssertionError(
                    "31 values, and more than 1000 looks at their parents: a value that has been visited must not be "
                    "visited again, or a chain of n residual blocks takes 2^n steps."
                )
            return self._parents

        @parents.setter
        def parents(self, parents):
            self._parents = parents

    root = Asked(0.5)
    for _ in range(15):
        branch = Asked(root.data / 2, (root,), (0.5,))
        root = Asked(root.data + branch.data, (root, branch), (1.0, 1.0))
    mine.topological(root)


# -- task 3 ------------------------------------------------------------------------------------------------------------


@pytest.mark.task3
@pytest.mark.parametrize("graph", GRAPHS)
def test_backward(mine, rng, graph):
    order = GRAPHS[graph](mine, rng)
    mine.backward(order)
    _compare(graph, order)


def _compare(graph, order, again=""):
    __tracebackhide__ = True
    right = slopes_forwards(order)
    root = order[-1]
    expect(
        root.grad == 1,
        f"in {graph}, d(root)/d(root) = 1{again or ': that is the start'}, and yours is {root.grad:g}.",
    )
    for value, grad in zip(reversed(order), reversed(right), strict=True):  # as the sweep goes: the first that is wrong
        if not math.isclose(value.grad, grad, rel_tol=1e-10, abs_tol=1e-14):
            uses = [u for u in order for parent in u.parents if parent is value]
            raise AssertionError(
                f"in {graph}, the gradient of {value} is {grad:.6f}, and yours is {value.grad:.6f}{again}."
                + ("" if again else _what_happened(value, uses, right, order))
            )


def _what_happened(value, uses, right, order):
    shares = [
        right[order.index(use)] * slope
        for use in dict.fromkeys(uses)
        for parent, slope in zip(use.parents, use.slopes, strict=True)
        if parent is value
    ]
    if len(shares) > 1 and any(math.isclose(value.grad, share, rel_tol=1e-9) for share in shares):
        return (
            f" It was used {len(shares)} times, by {uses}, and one use has overwritten the others: gradients add up, "
            "+= instead of =."
        )
    if value.grad == 0:
        return " Nothing has arrived there: does the sweep go from the root backwards, reversed(order)?"
    return f" It is used by {uses}: had all of them spoken before it did, each times its slope?"


@pytest.mark.task3
def test_backward_twice(mine, rng):
    order = diamond(mine, rng)
    mine.backward(order)
    _compare("a tanh(a)", order)
    mine.backward(order)
    _compare(
        "a tanh(a)",
        order,
        " after a second call: set every gradient to 0 before the sweep, and leave the list as it was",
    )


@pytest.mark.task3
def test_backward_leaves_the_order(mine, rng):
    order = diamond(mine, rng)
    before = list(order)
    mine.backward(order)
    expect(order == before, "backward changed the list it was given: use reversed(order), not order.reverse().")


@pytest.mark.task3
def test_backward_of_a_value_that_was_used_before(mine, rng):
    first = diamond(mine, rng)
    mine.backward(first)
    _compare("a tanh(a)", first)
    x = first[0]
    second = [x, square(mine, x, "x x")]
    mine.backward(second)
    _compare("a second graph with the same x", second, ": what an earlier graph left in .grad must not count")
