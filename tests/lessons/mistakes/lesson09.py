"""Wrong solutions of lesson 9, and what its grader says of them."""

from . import Mistake

_DX1 = "dx = dz @ w1.T + dy"
_DX2 = "dx = dz @ w1.T + dh"

MISTAKES = [
    Mistake(1, "the +1 is missing", _DX1, "dx = dz @ w1.T", r"the \+1 is missing: dL/dx = dL/dH \(dF/dx \+ 1\)"),
    Mistake(1, "the skip counted twice", _DX1, "dx = dz @ w1.T + 2 * dy", "the skip is counted twice"),
    Mistake(1, "dx = dy", _DX1, "dx = dy", "this is dy itself: .* of the branch, is missing"),
    Mistake(1, "the second use overwrites the first", _DX1, "dx = dy\n    dx = dz @ w1.T", r"the \+1 is missing"),
    Mistake(1, "added in place to what belongs to others", _DX1, "dx = dy\n    dx += dz @ w1.T", "changed dy in place"),
    Mistake(1, "no mask inside the branch", "dz = dy @ w2.T * (z > 0)", "dz = dy @ w2.T", "hint|FAIL"),
    Mistake(2, "the +1 is missing", _DX2, "dx = dz @ w1.T", r"the \+1 is missing.*dy \(y > 0\)"),
    Mistake(2, "the mask not on the skip", _DX2, "dx = dz @ w1.T + dy", "the ReLU after the addition masks the skip"),
    Mistake(2, "the skip counted twice", _DX2, "dx = dz @ w1.T + 2 * dh", "the skip is counted twice"),
    Mistake(2, "added in place to what is used again", _DX2, "dx = dh\n    dx += dz @ w1.T", "w2 .*FAIL"),
    Mistake(2, "no ReLU at all", "dh = dy * (residual(x, w1, w2) > 0)", "dh = dy", "FAIL"),
    Mistake(3, "transposed", "return w2.T @ ((x @ w1 > 0)[:, None] * w1.T)",
            "return (w2.T @ ((x @ w1 > 0)[:, None] * w1.T)).T", "Yours is its transpose"),
    Mistake(3, "of the block", "return w2.T @ ((x @ w1 > 0)[:, None] * w1.T)",
            "return w2.T @ ((x @ w1 > 0)[:, None] * w1.T) + np.eye(len(x))", r"Yours is J_F \+ I"),
    Mistake(4, "exchanged", "return through_branch, through_skip", "return through_skip, through_branch",
            "the two parts are exchanged"),
    Mistake(4, "the skip not masked", "through_skip = dy * (residual(x, w1, w2) > 0)", "through_skip = dy",
            "the ReLU after the addition masks it"),
]  # fmt: skip
