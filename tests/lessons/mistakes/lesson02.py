"""Wrong engines."""

from . import Mistake

_ORDER = """\
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
"""

_BREADTH_FIRST = """\
    order = [root]
    for value in order:
        order += [parent for parent in dict.fromkeys(value.parents) if parent not in order]
    return order[::-1]
"""

_RECURSIVE = """\
    order, seen = [], set()

    def visit(value):
        if value not in seen:
            seen.add(value)
            for parent in value.parents:
                visit(parent)
            order.append(value)

    visit(root)
    return order
"""

_AT_FIRST_SIGHT = """\
    order, to_visit = [], [root]
    while to_visit:
        value = to_visit.pop()
        if value not in order:
            order.append(value)
            to_visit += value.parents
    return order[::-1]
"""

MISTAKES = [
    Mistake(1, "slopes of the product exchanged", "(b.data, a.data)", "(a.data, b.data)", "slopes are exchanged"),
    Mistake(1, "sign in the quotient", "-a.data / b.data**2", "a.data / b.data**2", "the sign is wrong"),
    Mistake(1, "slope of tanh from the input", "1 - u**2", "1 - a.data**2", "tanh: the slope with respect to a"),
    Mistake(2, "depth first, not waiting for all uses", _ORDER, _AT_FIRST_SIGHT, "only after all of its parents"),
    Mistake(2, "breadth first", _ORDER, _BREADTH_FIRST, "only after all of its parents"),
    Mistake(2, "root first", "    return order\n", "    return order[::-1]\n", "only after all of its parents"),
    Mistake(2, "visiting twice", "elif value not in seen:", "else:", "stands more than once|more than 1000 looks"),
    Mistake(2, "root left out", "    return order\n", "    return order[:-1]\n", "is left out"),
    Mistake(2, "recursion", _ORDER, _RECURSIVE, "keep a list of what is still to be visited"),
    Mistake(3, "= for +=", "parent.grad += value.grad", "parent.grad = value.grad", r"\+= instead of ="),
    Mistake(3, "parents before results", "in reversed(order)", "in order", "from the root backwards"),
    Mistake(
        3,
        "grads kept between calls",
        "        value.grad = 0.0\n",
        "        pass\n",
        "set every gradient to 0 before the sweep",
    ),
    Mistake(
        3,
        "only the root's parents at zero",
        "for value in order:\n        value.grad = 0.0",
        "for value in order[-1].parents:\n        value.grad = 0.0",
        "after a second call",
    ),
    Mistake(3, "no start", "order[-1].grad = 1.0", "order[-1].grad += 0.0", "that is the start"),
    Mistake(
        3,
        "the list turned around",
        "for value in reversed(order):",
        "order.reverse()\n    for value in order:",
        "changed the list",
    ),
    Mistake(3, "slope forgotten", "value.grad * slope", "value.grad", "the gradient of .* and yours is"),
]
