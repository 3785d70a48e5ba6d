"""The terms of a normalisation, and the moments that it was made with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import prod

import numpy as np

from .case import NEAR, RTOL, Case, same

# what people add to a variance
_EPSILONS = (1e-5, 0.0, 1e-3, 1e-4, 1e-6, 1e-7, 1e-8, 1e-12)


def normalised(case: Case) -> Iterator[str]:
    """The terms of a normalisation: over all axes but the last (batch norm), or over the last (layer norm)."""
    a, n, x = case.a, case.n, case.x
    if a.ndim < 2 or case.upstream.shape != a.shape:
        return
    missing = n - a
    for over, where in ((tuple(range(a.ndim - 1)), "each channel"), ((a.ndim - 1,), "each example")):
        if prod(a.shape[i] for i in over) < 4:
            continue
        mean, std = x.mean(over, keepdims=True), x.std(over, keepdims=True)
        xhat = (x - mean) / np.where(std == 0, 1, std)
        constant = missing.mean(over, keepdims=True)
        slope = (missing * xhat).mean(over, keepdims=True)
        if not missing.any():
            return
        of_dy, of_both = _shares(case, over, xhat, constant, slope)
        if same(np.broadcast_to(constant, a.shape), missing):
            if np.abs(n.sum(over)).sum() <= RTOL * np.abs(n).sum():
                what = _amount("the mean of dy", of_dy, "not subtracted")
                yield f"within {where} the difference is constant: {what}"
            elif np.abs(a.sum(over)).sum() <= RTOL * np.abs(a).sum():
                yield f"within {where} a mean is subtracted that should stay: the formula of training, in evaluation?"
            else:
                yield f"within {where} the difference is constant: a mean that is missing, or not the right one"
        elif same(slope * xhat, missing):
            what = _amount("the term xhat mean(dy xhat)", of_both, "missing")
            yield f"within {where} the difference is a multiple of xhat: {what}"
        elif same(constant + slope * xhat, missing) and same(constant, -slope, 1e-3):
            yield f"within {where} mean(dy xhat) is subtracted by itself: it belongs to xhat, as xhat mean(dy xhat)"
        elif same(constant + slope * xhat, missing) and of_dy is not None and of_both is not None:
            if abs(of_dy - of_both) < NEAR:
                what = _amount("the means of dy and of dy xhat", of_dy, "missing")
                yield f"within {where} the difference is a constant and a multiple of xhat: {what}"
            else:
                what = f"{1 - of_dy:.4g} times the mean of dy and {1 - of_both:.4g} times xhat mean(dy xhat)"
                yield f"within {where} what is subtracted is {what}: each must be there once"
        if over != (a.ndim - 1,):
            yield from _channel_factors(case, over, std.reshape(-1))


def _shares(
    case: Case, over: tuple[int, ...], xhat: np.ndarray, constant: np.ndarray, slope: np.ndarray
) -> tuple[float | None, float | None]:
    """Which share of each of the two terms is missing; None where that is not one number.

    What was measured is c (d - mean(d) - xhat mean(d xhat)), d being dy or dy times a scale, and c is found from it.
    """
    scales = [v for n, v in case.inputs.items() if n != case.name and v.shape == case.x.shape[-1:]]
    for d in (case.upstream, *(case.upstream * scale for scale in scales)):
        of_d, of_both = d.mean(over, keepdims=True), (d * xhat).mean(over, keepdims=True)
        formula = d - of_d - xhat * of_both
        c = (case.n * formula).sum(over, keepdims=True) / np.maximum((formula**2).sum(over, keepdims=True), 1e-300)
        if same(c * formula, case.n, 1e-2):  # eps is neglected
            return _share(-constant, c * of_d), _share(-slope, c * of_both)
    return None, None


def _share(missing: np.ndarray, whole: np.ndarray) -> float | None:
    share = float((missing * whole).sum() / max((whole * whole).sum(), 1e-300))
    return share if same(missing, share * whole, 1e-2) else None


def _amount(term: str, share: float | None, absent: str) -> str:
    """What is the matter with a term of which a share is missing."""
    verb = "are" if term.startswith("the means") else "is"
    if share is None:
        return f"{term} {verb} {absent}, or not the right one"
    there = 1 - share
    what = "they" if verb == "are" else "it"
    return f"{term} {verb} {absent}" if abs(there) < 1e-2 else f"{term} {verb} {there:.3g} times what {what} must be"


def _channel_factors(case: Case, over: tuple[int, ...], std: np.ndarray) -> Iterator[str]:
    """A factor that belongs to each channel."""
    a, n = case.a, case.n
    norms = (n * n).sum(over)
    if len(norms) < 2 or not norms.all():
        return
    factors = (a * n).sum(over) / norms
    if (
        np.abs(factors).min() < NEAR
        or not same(a, factors * n)
        or np.abs(factors - 1).max() < NEAR
        or np.ptp(factors) <= RTOL * np.abs(factors).max()
    ):
        return
    if np.allclose(factors * std, (factors * std).mean(), rtol=1e-3):
        yield "each channel is divided by its deviation once too often: the variance in place of its root?"
        return
    for other, values in case.inputs.items():
        if other != case.name and values.shape == factors.shape and same(factors * values, np.ones_like(values)):
            yield f"the factor {other} is missing"
            return
    yield "each channel is off by a factor of its own: a factor for each channel is missing or doubled"


def linear_in_x(case: Case) -> Iterator[str]:
    """A gradient of a scale made with the input itself in place of the normalised one."""
    for other, x in case.inputs.items():
        if other == case.name or x.ndim < 2 or x.shape != case.upstream.shape or case.a.shape != x.shape[-1:]:
            continue
        over = tuple(range(x.ndim - 1))
        if not _normalised(case, other):
            continue
        if same(case.a, (case.upstream * x).sum(over)):
            yield f"it is the sum of dy {other}: {other} must be normalised first, sum of dy xhat"
        elif same(case.a, (case.upstream * (x - x.mean(over))).sum(over)):
            yield f"it is the sum of dy ({other} - mean): divide by the standard deviation"


def _normalised(case: Case, other: str) -> bool:
    """Whether the gradient is the sum of dy xhat: of a batch norm, in training or evaluation, or of a layer norm."""
    x, dx, dy = case.inputs[other], case.numeric[other], case.upstream
    over = tuple(range(x.ndim - 1))
    for axes in (over, -1):
        std = x.std(axes, keepdims=True)
        xhat = (x - x.mean(axes, keepdims=True)) / np.where(std == 0, 1, std)
        if same(case.n, (dy * xhat).sum(over), 1e-2):
            return True
    return same(dx, dy * ((dx * dy).sum(over) / (dy * dy).sum(over)))  # in evaluation a number for each channel


def moments(case: Case) -> Iterator[str]:
    """dx = c (dy - mean(dy) - xhat mean(dy xhat)) for each channel, but with moments of another kind.

    The factor c of a channel is left open, as gamma and other factors may be in it.  What was returned is known to the
    last bits, so the kind of its moments is too; what was measured is known to about 1e-9.
    """
    if case.a.ndim < 2 or case.upstream.shape != case.x.shape:
        return
    over = tuple(range(case.a.ndim - 1))
    kinds = [(axes, ddof, eps) for axes in _subsets(over) for ddof in (0, 1) for eps in _EPSILONS]
    mine = next((kind for kind in kinds if _fits(case, case.a, kind, over, 1e-11)), None)
    if mine is None or _fits(case, case.n, mine, over, 1e-8):
        return
    dy = case.upstream
    if same(case.n, dy * ((case.n * dy).sum(over) / (dy * dy).sum(over))):
        yield "nothing is to be subtracted here: mean and variance are constants, as in evaluation, not functions of x"
        return
    theirs = next((kind for kind in kinds if _fits(case, case.n, kind, over, 1e-8)), None)
    theirs = theirs or _with_another_eps(case, mine, over)
    if theirs is None:
        return
    if mine[0] != theirs[0]:
        yield f"the means of dy and of dy xhat are taken over the axes {mine[0]} and should be over {theirs[0]}"
    elif mine[1] != theirs[1]:
        names = ("the biased variance, divided by m", "the unbiased variance, divided by m - 1")
        yield f"it is made with {names[mine[1]]}; the forward pass has {names[theirs[1]]}"
    else:
        yield f"it is made with eps = {mine[2]:g}; the forward pass has {theirs[2]:g}"


def _with_another_eps(case: Case, mine: tuple, over: tuple[int, ...]) -> tuple | None:
    """The kind that differs from this one by eps alone: the eps that fits best, if it fits."""
    axes, ddof, _ = mine
    exponents = np.linspace(-6, 0.5, 14)
    for _ in range(9):
        errors = [_misfit(case, case.n, (axes, ddof, 10**e), over) for e in exponents]
        best = exponents[int(np.argmin(errors))]
        exponents = best + (exponents[1] - exponents[0]) * np.linspace(-1, 1, 9)
    kind = axes, ddof, float(10**best)
    return kind if min(errors) < 1e-6 else None


def _subsets(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [some for count in range(len(axes), 0, -1) for some in combinations(axes, count)]


def _fits(
    case: Case, gradient: np.ndarray, kind: tuple[tuple[int, ...], int, float], over: tuple[int, ...], rtol: float
) -> bool:
    """Whether a gradient is that of a batch norm with these moments, but for a factor of each channel."""
    return _misfit(case, gradient, kind, over) <= rtol


def _misfit(case: Case, gradient: np.ndarray, kind: tuple[tuple[int, ...], int, float], over: tuple[int, ...]) -> float:
    """How far a gradient is from that of a batch norm with these moments, relative to its size."""
    axes, ddof, eps = kind
    x, dy = case.x, case.upstream
    if prod(x.shape[i] for i in over) <= 2:
        return np.inf
    variance = x.var(over, ddof=ddof) + eps
    if not variance.all():
        return np.inf
    xhat = (x - x.mean(over)) / np.sqrt(variance)
    formula = dy - dy.mean(axes, keepdims=True) - xhat * (dy * xhat).mean(axes, keepdims=True)
    c = (gradient * formula).sum(over) / np.maximum((formula * formula).sum(over), 1e-300)
    whole = float(np.linalg.norm(c * formula))
    return float(np.linalg.norm(gradient - c * formula)) / whole if whole else np.inf
