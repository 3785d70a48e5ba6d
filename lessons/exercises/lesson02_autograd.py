"""Lesson 02: scalar autograd.  `minires lessons check 02` says how it goes."""

import math


class Value:
    """A number that remembers what it was made from, and how fast it changes with each of that.

    Attributes:
        data: the number.
        parents: the values it was made from; one that was used twice stands there twice.
        slopes: d(this)/d(parent), a number for each of the parents.
        grad: d(result)/d(this), once `backward` has been there.
        name: for messages.
    """

    def __init__(self, data, parents=(), slopes=(), name=""):
        self.data, self.parents, self.slopes, self.name = data, tuple(parents), tuple(slopes), name
        self.grad = 0.0

    def __repr__(self):
        return self.name or f"Value({self.data:g})"


def add(a, b):
    """The value a + b.  This one is given; the others look like it."""
    return Value(a.data + b.data, (a, b), (1.0, 1.0))


def multiply(a, b):
    """The value a b ("A program is a graph": the table of slopes)."""
    # BEGIN SOLUTION task 1: the slopes of a product, a quotient and tanh
    return Value(a.data * b.data, (a, b), (b.data, a.data))
    # END SOLUTION


def divide(a, b):
    """The value a / b.  Derive its two slopes: how does a / b change with a, and how with b?"""
    # BEGIN SOLUTION task 1: the slopes of a product, a quotient and tanh
    return Value(a.data / b.data, (a, b), (1 / b.data, -a.data / b.data**2))
    # END SOLUTION


def tanh(a):
    """The value tanh(a)."""
    # BEGIN SOLUTION task 1: the slopes of a product, a quotient and tanh
    u = math.tanh(a.data)
    return Value(u, (a,), (1 - u**2,))
    # END SOLUTION


def topological(root):
    """Every value that ``root`` was made from, and root itself: parents first.

    Args:
        root: a Value.

    Returns:
        a list in which each value stands once and after all of its parents, so that root is the last.

    Depth first: a value may be written down when its parents have been.  Keep a list of what is still to be visited
    instead of calling yourself: the graph may be deeper than Python's stack ("Depth, and Python's stack").
    """
    # BEGIN SOLUTION task 2: parents before results
    order, seen = [], set()
    to_visit = [(root, False)]
    while to_visit:
        value, parents_are_there = to_visit.pop()
        if parents_are_there:
            order.append(value)
        elif value not in seen:
            seen.add(value)
            to_visit.append((value, True))
            to_visit += [(parent, False) for parent in value.parents]
    return order
    # END SOLUTION


def backward(order):
    """Set .grad of every value in ``order`` to d(root)/d(value), by the chain rule on a graph.

    Args:
        order: as `topological` returns it: each value after its parents, root last.  It is left as it is.

    Whatever .grad held before does not matter: two calls in a row give the same.
    """
    # BEGIN SOLUTION task 3: the backward sweep
    for value in order:
        value.grad = 0.0
    order[-1].grad = 1.0
    for value in reversed(order):
        for parent, slope in zip(value.parents, value.slopes, strict=True):
            parent.grad += value.grad * slope
    # END SOLUTION


def gradient(root):
    """Both together: afterwards every value below ``root`` has its .grad."""
    backward(topological(root))
