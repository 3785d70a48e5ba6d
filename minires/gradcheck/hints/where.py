"""Where no formula fits: properties that the gradient should have, and the places where it is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .case import NEAR, RTOL, Case, same


def conserved(case: Case) -> Iterator[str]:
    """An operation that hands all of dy on, as pooling does: what arrives must be what was sent."""
    sent, measured, arrives = (float(array.sum()) for array in (case.upstream, case.n, case.a))
    if case.a.ndim < 3 or case.upstream.size >= case.a.size or abs(measured - sent) > RTOL * abs(sent):
        return
    ratio = arrives / sent
    if abs(ratio - 1) < RTOL:
        yield "as much of dy arrives as should, but at the wrong places: is the right cell of each window chosen?"
    elif abs(ratio - round(ratio)) < RTOL * abs(ratio):
        yield f"dy arrives {round(ratio)} times and should once: divide it among the cells, or choose one of them"
    elif np.abs(case.a).sum() > 1.5 * np.abs(case.n).sum():
        yield "more of dy arrives than was sent: each window has one gradient to give away, whole or divided"
    else:
        yield (
            "not all of dy arrives: where windows overlap a pixel must collect from each of them, += instead of =; or "
            "some of it goes into the border, which is cut off"
        )


def invariant(case: Case) -> Iterator[str]:
    """A gradient that sums to zero along an axis, since adding a constant there changes nothing (softmax, norms)."""
    size = np.abs(case.n).sum()
    for axis in reversed(range(case.n.ndim)):
        if case.n.shape[axis] > 1 and np.abs(case.n.sum(axis)).sum() < 1e-7 * size < np.abs(case.a.sum(axis)).sum():
            yield (
                f"it must sum to zero along axis {axis}, as adding a constant there changes nothing: is a mean or sum "
                "there missing, or over another axis, a factor on some terms only, a product transposed?"
            )
            return


def _wrong(case: Case) -> np.ndarray | None:
    """Which entries are wrong; None if it is all of them, or all that are not zero."""
    wrong = np.abs(case.a - case.n) > 1e-6 * max(float(np.abs(case.n).max()), 1e-300)
    return None if not wrong.any() or np.array_equal(wrong, wrong | (case.n != 0)) else wrong


def signs(case: Case) -> Iterator[str]:
    """Wrong just where something is negative, or positive."""
    wrong = _wrong(case)
    if wrong is None:
        return
    for values, what in ((case.x, case.name), (case.output, "the output"), (case.upstream, "dy")):
        if values.shape != case.a.shape or not ((values > 0).any() and (values < 0).any()):
            continue
        for sign, side in ((values < 0, "negative"), (values > 0, "positive")):
            if min(sign.sum(), (~sign).sum()) < 4:
                continue  # which may be chance
            if not (wrong & ~sign).any() and wrong.sum() > 0.9 * sign.sum():
                too_many = not case.a[wrong].any() and case.n[wrong].all()
                guess = (
                    "one mask too many, or of the wrong array?"
                    if too_many
                    else "a mask that is missing, or another slope?"
                )
                yield f"it is wrong just where {what} is {side}: {guess}"
                return


def masks(case: Case) -> Iterator[str]:
    """Zeros that are missing, or stand elsewhere."""
    dead, kept = case.n == 0, case.n != 0
    if dead.any() and case.a[dead].any() and same(case.a[kept], case.n[kept]):
        yield (
            "it is right wherever the measured gradient is not zero, and must be zero elsewhere: a mask is missing, or "
            "something goes to what the forward pass does not use"
        )
    elif (case.a[dead] != 0).any() and (case.a[kept] == 0).any():
        yield "it is zero where it should not be, and not where it should: the mask of something else, or a new one?"


def unreached(case: Case) -> Iterator[str]:
    """Zeros from some place on along an axis of pixels, where something should arrive."""
    for axis in range(1, case.a.ndim - 1):
        others = tuple(i for i in range(case.a.ndim) if i != axis)
        mine, measured = case.a.any(others), case.n.any(others)
        last, end = (int(np.flatnonzero(some)[-1]) + 1 for some in (mine, measured))
        if last < end:
            yield (
                f"nothing arrives from {last} on along axis {axis}: is the stride or the dilation left out, or what is "
                "left over?"
            )


def places(case: Case) -> Iterator[str]:
    """At which places along an axis."""
    wrong = _wrong(case)
    if wrong is None:
        return
    c = float((case.a * case.n)[wrong].sum() / max((case.n[wrong] ** 2).sum(), 1e-300))
    if wrong.sum() > 2 and same(case.a[wrong], c * case.n[wrong]) and abs(c) > NEAR:
        times = f"{abs(c):.4g} times too large" if abs(c) > 1 else f"{1 / abs(c):.4g} times too small"
        size = "" if abs(c + 1) < NEAR else f"is {times}{', and ' if c < 0 else ''}"
        yield f"wherever it is wrong, it {size}{'has the wrong sign' if c < 0 else ''}"
        return
    for axis in range(wrong.ndim):
        others = tuple(i for i in range(wrong.ndim) if i != axis)
        somewhere = np.asarray(wrong.any(others))
        counted = wrong | (case.n != 0)
        if wrong.sum() > 0.5 * np.compress(somewhere, counted, axis).sum():  # else the places are chance
            yield from _along(somewhere, axis)


def derivative(case: Case) -> Iterator[str]:
    """What a function of one number each should have given: the measured gradient recognised."""
    x, y, dy = case.x, case.output, case.upstream
    if not x.shape == y.shape == dy.shape:
        return
    with np.errstate(all="ignore"):
        known = {
            "dy (1 - y^2), as of tanh": dy * (1 - y**2),
            "dy y (1 - y), as of the logistic sigmoid": dy * y * (1 - y),
            "dy y, as of exp": dy * y,
            "dy / x, as of log": dy / x,
            "dy / (2 y), as of a square root": dy / (2 * y),
            "dy 2 x, as of a square": dy * 2 * x,
            "dy (x > 0), as of a ReLU": dy * (x > 0),
        }
    for formula, gradient in known.items():
        if np.isfinite(gradient).all() and same(case.n, gradient):
            yield f"what was measured is {formula}, y being the output"
            return
    over = tuple(range(dy.ndim - 1))
    if over and same(case.n, dy * ((case.n * dy).sum(over) / (dy * dy).sum(over))):
        yield (
            "what was measured is dy times a number for each channel, so nothing is subtracted from it: are mean and "
            "variance constants, as in evaluation?"
        )


def _along(wrong: np.ndarray, axis: int) -> Iterator[str]:
    """Which places along an axis are wrong."""
    at = np.flatnonzero(wrong)
    length, last = len(wrong), len(wrong) - 1
    if len(at) == length or length < 3:
        return
    if set(at) <= {0, last}:
        ends = "both ends" if len(at) == 2 else "the beginning" if at[0] == 0 else "the end"
        yield f"it is wrong only at {ends} of axis {axis}: padding, cropping, or what does not fill a whole window?"
    elif at[0] > 0 and len(at) == length - at[0]:
        few = len(at) < length / 3
        what = "is what is left over treated differently?" if few else "another group or gate, or an end left out?"
        yield f"it is wrong only from {at[0]} on along axis {axis}: {what}"
    elif len(at) > 2 and length > len(at) + 2 and _evenly(at) and (apart := at[1] - at[0]) * (len(at) + 1) >= length:
        yield f"it is wrong at one place in {apart} along axis {axis}: a stride left out or misplaced?"
    else:
        right = np.flatnonzero(~wrong)
        which, places = ("wrong", at) if len(at) <= len(right) else ("right", right)
        listed = ", ".join(map(str, places[:6])) + ("..." if len(places) > 6 else "")
        yield f"it is {which} only at {listed} along axis {axis}"


def _evenly(at: np.ndarray) -> bool:
    """Whether numbers are equally far apart, and not neighbours."""
    return bool(at[1] - at[0] > 1 and len(set(np.diff(at))) == 1)
