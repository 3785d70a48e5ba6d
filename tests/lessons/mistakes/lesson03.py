"""Wrong gradients of arrays, and checkers that see too little."""

from . import Mistake

_ONE_ENTRY = "indices = list(np.ndindex(x.shape))[:1]"

_COPIES = """\
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
"""

_IN_PLACE = """\
    inputs = {name: np.asarray(x, dtype=np.float64) for name, x in inputs.items()}
    dy = np.random.default_rng([seed, 1]).standard_normal(np.shape(forward(**inputs)))
    grads = backward(dy.copy(), **{name: x.copy() for name, x in inputs.items()})

    def slope(x, index, h):
        x[index] += h
        up = np.array(forward(**inputs))
        x[index] -= 2 * h
        down = np.array(forward(**inputs))
        x[index] += h
        return ((up - down) * dy).sum() / (2 * h)
"""

MISTAKES = [
    Mistake(
        1, "axis not summed", "grad = grad.sum(tuple(range(added)))\n", "pass\n", "Axes that were added on the left"
    ),
    Mistake(
        1,
        "wrong axis on squares",
        "grad.sum(tuple(range(added)))",
        "grad.sum(tuple(range(len(shape), grad.ndim)))",
        "summed over axis 1 instead of axis 0",
    ),
    Mistake(
        1, "mean over the added axes", "grad.sum(tuple(range(added)))", "grad.mean(tuple(range(added)))", "too small"
    ),
    Mistake(1, "stretched axes dropped", "grad.sum(stretched, keepdims=True)", "grad.sum(stretched)", "keepdims=True"),
    Mistake(1, "stretched axes averaged", "grad.sum(stretched, k", "grad.mean(stretched, k", "too small"),
    Mistake(
        1, "the first copy only", "grad = grad.sum(tuple(range(added)))", "grad = grad[(0,) * added]", "the first of dy"
    ),
    Mistake(1, "summed axis not put back", "np.expand_dims(dy, axis)", "dy", "put it back with length 1"),
    Mistake(
        1,
        "gradient of a mean",
        "np.expand_dims(dy, axis), x.shape",
        "np.expand_dims(dy, axis) / x.shape[0], x.shape",
        "too small",
    ),
    Mistake(2, "sum for b forgotten", '"b": unbroadcast(dy, b.shape)', '"b": dy', "sum it over"),
    Mistake(
        2,
        "operands swapped",
        'unbroadcast(dy * b, a.shape), "b": unbroadcast(dy * a, b.shape)',
        'unbroadcast(dy * a, a.shape), "b": unbroadcast(dy * b, b.shape)',
        "exchanged",
    ),
    Mistake(
        2,
        "upstream gradient left out",
        "unbroadcast(dy * b, a.shape)",
        "unbroadcast(np.ones_like(dy) * b, a.shape)",
        "not linear in dy",
    ),
    Mistake(
        2,
        "summed before it is multiplied",
        "unbroadcast(dy * a, b.shape)",
        "unbroadcast(dy, b.shape) * a",
        "its gradient has shape",
    ),
    Mistake(
        3, "w not transposed", "dy @ w.T", "(dy @ w if w.shape[0] == w.shape[1] else dy @ w.T)", r"should be dy @ w\.T"
    ),
    Mistake(3, "dw transposed", "x.T @ dy", "dy.T @ x", "transposed"),
    Mistake(3, "dw averaged over the batch", "x.T @ dy", "x.T @ dy / len(x)", "too small"),
    Mistake(3, "whatever fits", "dy @ w.T", "dy @ w", "which one is summed"),
    Mistake(
        4,
        "seeded with ones",
        ".standard_normal(np.shape(forward(**inputs)))",
        ".integers(1, 2, np.shape(forward(**inputs)))",
        "ones hide what sums to a constant",
    ),
    Mistake(4, "loose tolerance", "1e-6 * max(abs(a)", "1e-2 * max(abs(a)", "the tolerance must be tight"),
    Mistake(4, "one entry only", "indices = list(np.ndindex(x.shape))", _ONE_ENTRY, "every entry of every input"),
    Mistake(
        4,
        "first input only",
        "                return False\n    return True\n",
        "                return False\n        return True\n",
        "every entry of every input",
    ),
    Mistake(4, "float32", "name: np.array(x, dtype=np.float64)", "name: np.array(x, dtype=np.float32)", "false alarm"),
    Mistake(4, "dtype of the input", "name: np.array(x, dtype=np.float64)", "name: np.array(x)", "at float32 inputs"),
    Mistake(4, "the caller's inputs, and the step subtracted again", _COPIES, _IN_PLACE, "has changed its inputs"),
    Mistake(4, "the stream of the inputs", "default_rng([seed, 1]).s", "default_rng(seed).s", "a stream of its own"),
    Mistake(
        4,
        "shapes not compared",
        "grad is None or np.shape(grad) != x.shape",
        "grad is None",
        "shapes must be compared",
    ),
    Mistake(
        4,
        "missing gradient passes",
        "        if grad is None or np.shape(grad) != x.shape:\n            return False",
        "        if grad is None or np.shape(grad) != x.shape:\n            continue",
        "which is missing",
    ),
    Mistake(
        4,
        "NaN passes",
        "if not (abs(a - n) <= close or abs(a - slope(x, index, 6e-7)) <= close):",
        "if abs(a - n) > close and abs(a - slope(x, index, 6e-7)) > close:",
        "NaN in w",
    ),
    Mistake(
        4,
        "content where nothing is measured",
        "if largest < 1e-8:\n            return False",
        "if largest < 1e-8:\n            continue",
        "nothing was checked",
    ),
    Mistake(4, "kinks not looked at", " or abs(a - slope(x, index, 6e-7)) <= close", "", "crosses the kink"),
    Mistake(4, "results not copied", "down = np.array(forward(**inputs))", "down = forward(**inputs)", "a view of x"),
    Mistake(4, "not put back", "        x[index] = value\n        return", "        return", "put back"),
    Mistake(4, "/h for /2h", "((value + h) - (value - h))", "h", "false alarm"),
]
