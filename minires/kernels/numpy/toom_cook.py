"""F(4, 3): four results of a filter with three weights from six multiplications, where the direct sum needs twelve.

Taken as polynomials, filtering is a product; six values of the product at fixed points determine it (Toom and Cook;
Winograd 1980; Lavin and Gray 2016):

    y = A^T [(G w) * (B^T x)]        B^T (6, 6), G (6, 3), A^T (4, 6)

for six numbers x, of which each y sees three.
"""

from __future__ import annotations

import numpy as np

RESULTS = 4  # of one filtering, from RESULTS + 2 numbers
POINTS = RESULTS + 2


def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T, G and A^T for the points 0, 3/4, -3/4, 3/2, -3/2 and infinity (Lavin and Gray 2016, section 4).

    A polynomial's value at infinity is its leading coefficient.  The rows of B^T are the polynomials that vanish at all
    points but one, those of G are divided by their values there.
    """
    finite = [0.0, 0.75, -0.75, 1.5, -1.5]
    b, g, a = np.zeros((POINTS, POINTS)), np.zeros((POINTS, 3)), np.zeros((RESULTS, POINTS))
    for i, point in enumerate(finite):
        others = [p for p in finite if p != point]
        b[i, :-1] = np.poly(others)[::-1]
        g[i] = [point**k / np.prod([point - p for p in others]) for k in range(3)]
        a[:, i] = [point**k for k in range(RESULTS)]
    b[-1], g[-1, -1], a[-1, -1] = np.poly(finite)[::-1], 1, 1
    return b, g, a


_TRANSFORMS = {np.dtype(d): tuple(m.astype(d) for m in _transforms()) for d in (np.float32, np.float64)}


def transforms_in(dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """B^T, G and A^T in a dtype; the usual ones are there already."""
    return _TRANSFORMS.get(dtype) or tuple(m.astype(dtype) for m in _transforms())
