"""What goes wrong with ReLU and pooling."""

from . import Mistake

MISTAKES = [
    Mistake(1, "mask from dy", "dy * (x > 0)", "dy * (dy > 0)", r"not linear in dy.*a mask made from dy"),
    Mistake(1, "guided backpropagation", "dy * (x > 0)", "dy * (x > 0) * (dy > 0)", "a mask made from dy"),
    Mistake(1, "no mask", "dy * (x > 0)", "1.0 * dy", "this is dy itself"),
    Mistake(1, "slope 1 at zero", "dy * (x > 0)", "dy * (x >= 0)", "the mask is x > 0, not x >= 0"),
    Mistake(1, "times x", "dy * (x > 0)", "dy * relu(x)", "the factor x once too often"),
    Mistake(1, "dy changed in place", "dy * (x > 0)", "np.multiply(dy, x > 0, out=dy)", "in place"),
    Mistake(
        2,
        "a border of zeros",
        "bordered(x, padding, -np.inf)\n    return",
        "bordered(x, padding, 0)\n    return",
        "the border has won",
    ),
    Mistake(
        2,
        "a border of a large number",
        "bordered(x, padding, -np.inf)\n    return",
        "bordered(x, padding, -1e9)\n    return",
        "the border has won",
    ),
    Mistake(2, "the smallest", "return np.max([", "return np.min([", "the smallest|the border has won"),
    Mistake(2, "the mean", "return np.max([", "return np.mean([", "this is the mean"),
    Mistake(3, "every one of equals", "== y) & ~given", "== y)", "only one of them wins"),
    Mistake(3, "overlaps overwritten", "dpadded[here] += dy * wins", "dpadded[here] = dy * wins", r"\+= instead of ="),
    Mistake(
        3,
        "overlaps overwritten by winners only",
        "dpadded[here] += dy * wins",
        "np.copyto(dpadded[here], dy, where=wins)",
        r"\+= instead of =",
    ),
    Mistake(
        3,
        "rows and columns of the window exchanged",
        "        dpadded[here] += dy * wins",
        "        (u, height), (v, width) = ((s.start, s.stop - s.start) for s in here[1:])\n"
        "        dpadded[:, v : v + height : stride, u : u + width : stride] += dy * wins",
        "at the wrong places",
    ),
    Mistake(
        3,
        "always to the first cell",
        "wins = (padded[here] == y) & ~given",
        "wins = ~given",
        "at the wrong places|not all of dy arrives",
    ),
    Mistake(
        3, "to every cell", "wins = (padded[here] == y) & ~given", "wins = np.ones(y.shape, bool)", "dy arrives 9 times"
    ),
    Mistake(
        3,
        "mask from dy",
        "dpadded[here] += dy * wins",
        "dpadded[here] += np.maximum(dy, 0) * wins",
        "a mask made from dy",
    ),
    Mistake(3, "upstream ignored", "dpadded[here] += dy * wins", "dpadded[here] += wins", "not linear in dy"),
    Mistake(
        3,
        "border cut off at the far end only",
        "padding : padding + x.shape[1], padding : padding + x.shape[2]]}\n    # END SOLUTION\n\n\ndef avg_pool(x",
        ": x.shape[1], : x.shape[2]]}\n    # END SOLUTION\n\n\ndef avg_pool(x",
        "the padding is cut off in the wrong place|not all of dy arrives",
    ),
    Mistake(4, "not divided", "+= dy / size**2", "+= dy", "k.2 of a 3 x 3 window.* = 9 times too large"),
    Mistake(4, "divided by k only", "+= dy / size**2", "+= dy / size", "3 times too large"),
    Mistake(4, "overlaps overwritten", "+= dy / size**2", "= dy / size**2", r"\+= instead of ="),
    Mistake(
        4,
        "border cut off at the far end only",
        'dy / size**2\n    return {"x": dpadded[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]}',
        'dy / size**2\n    return {"x": dpadded[:, : x.shape[1], : x.shape[2]]}',
        "the padding is cut off in the wrong place",
    ),
    Mistake(4, "upstream averaged", "+= dy / size**2", "+= dy.mean() / size**2", "FAIL"),
]
