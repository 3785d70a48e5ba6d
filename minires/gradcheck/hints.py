"""What is wrong with a gradient: hypotheses about the mistake, each tested on the difference from the measured one.

A wrong backward pass is seldom wrong at random.  It forgets a term, a factor, an axis or a mask, and then the
difference between what it gives and what was measured has a form that says which.  Every hypothesis here is a formula;
it is told only if it holds to 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import prod

import numpy as np

_RTOL = 1e-5
_NEAR = 1e-3  # a factor nearer to 1 is no factor that somebody forgot


@dataclass
class Case:
    """One input whose gradient is wrong, and all that is known beside it.

    Attributes:
        name: of the input.
        inputs: all floating-point inputs by name.
        analytic, numeric: their gradients by name, as returned and as measured; those of ``name`` have no NaN.
        upstream: dL/d(output).
        output: of the forward pass.
        linear: whether the backward pass is linear in the upstream gradient.
    """

    name: str
    inputs: dict[str, np.ndarray]
    analytic: dict[str, np.ndarray]
    numeric: dict[str, np.ndarray]
    upstream: np.ndarray
    output: np.ndarray
    linear: bool = True

    @property
    def x(self) -> np.ndarray:
        """The input."""
        return self.inputs[self.name]

    @property
    def a(self) -> np.ndarray:
        """Its gradient as returned."""
        return self.analytic[self.name]

    @property
    def n(self) -> np.ndarray:
        """Its gradient as measured."""
        return self.numeric[self.name]


def hints(case: Case) -> list[str]:
    """Sentences that say what the mistake may be, the most telling first; none if nothing fits."""
    if not case.a.any():
        return ["it is zero everywhere: never computed, or not returned"]
    if not case.n.any():
        return ["the result does not depend on it, so it must be zero"]
    if np.isnan(case.n).any():  # a sample, or kinks: formulas need all of it
        return list(_not_linear(case))
    for hypotheses in (_HYPOTHESES, _PROPERTIES, (_where,)):  # the less telling only where nothing better was found
        found = [hint for hypothesis in hypotheses for hint in hypothesis(case)]
        if found:
            return list(dict.fromkeys(found))[:3]
    return []


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.linalg.norm(a - b) <= _RTOL * max(float(np.linalg.norm(b)), 1e-300))


def _not_linear(case: Case) -> Iterator[str]:
    if not case.linear:
        yield (
            "it is not linear in dy, which every backward pass is: dy is left out, or used otherwise than as a factor "
            "(a mask made from dy?)"
        )


def _exchanged(case: Case) -> Iterator[str]:
    for other in case.inputs:
        if other == case.name or case.numeric[other].shape != case.a.shape:
            continue
        if _same(case.a, case.numeric[other]) and _same(case.analytic[other], case.n):
            yield f"the gradients of {case.name} and {other} are exchanged"
        elif _same(case.a, case.numeric[other]):
            yield f"this is the gradient of {other}"


def _skip(case: Case) -> Iterator[str]:
    """dL/dx = dL/dH (dF/dx + 1), and what a ReLU after the addition does to it."""
    a, n, dy = case.a, case.n, case.upstream
    if a.shape != dy.shape:
        return
    masked = dy * (case.output > 0)
    for through, what in ((dy, "dy"), (masked, "dy (y > 0), where the ReLU after the addition lets it through")):
        if not through.any() or (through is masked and _same(masked, dy)):
            continue
        if _same(n - a, through):
            yield f"the +1 is missing: dL/dx = dL/dH (dF/dx + 1), so add {what}, which comes through the skip"
        elif _same(a - n, through):
            yield f"the skip is counted twice: {what} was added once too often"
        elif _same(a, through):
            yield f"this is {what} itself: the derivative of the operation, or of the branch, is missing"
    if not _same(a, dy) and _same(a - n, dy - masked):
        yield "the ReLU after the addition masks the skip as well: multiply dy by (y > 0) before it is sent both ways"


def _factor(case: Case) -> Iterator[str]:
    a, n = case.a, case.n
    c = float((a * n).sum() / (n * n).sum())
    if not _same(a, c * n) or abs(c - 1) < _NEAR:
        return
    if abs(c + 1) < _RTOL:
        yield "the sign is wrong"
        return
    large = abs(c) > 1
    sign = " and has the wrong sign" if c < 0 else ""
    ratio = abs(c) if large else 1 / abs(c)
    named = _named(ratio, case)
    text = f"{named} = {ratio:.4g}" if named else f"{ratio:.6g}"
    how = (
        "" if not named else ": a division by it is missing" if large else ": divided by it once too often, or averaged"
    )
    yield f"it is {text} times too {'large' if large else 'small'}{sign}{how}"


def _named(ratio: float, case: Case) -> str:
    """What number of the problem a ratio is: a length of an axis, of several, or of a window; "" if none."""
    if abs(ratio - 2) < _RTOL:
        return ""
    names = []
    for shape, letters in ((case.x.shape, _letters(case.x)), (case.upstream.shape, _letters(case.upstream, "O"))):
        for count in range(1, len(shape) + 1):
            for axes in combinations(range(len(shape)), count):
                if abs(prod(shape[i] for i in axes) - ratio) < _RTOL * ratio:
                    names.append(" ".join(letters[i] for i in axes))
    side = round(ratio**0.5)
    if side > 1 and abs(side**2 - ratio) < _RTOL * ratio:
        names.append(f"k^2 of a {side} x {side} window")
    return " or ".join(list(dict.fromkeys(names))[:4])


def _letters(array: np.ndarray, output: str = "") -> list[str]:
    if array.ndim == 4:
        return ["N", f"{output}H", f"{output}W", "C"]
    return ["N", *(f"axis {i}" for i in range(1, array.ndim))]


def _sums(case: Case) -> Iterator[str]:
    """A gradient that is dy summed, over the wrong axes."""
    dy = case.upstream
    subsets = [axes for count in range(1, dy.ndim + 1) for axes in combinations(range(dy.ndim), count)]
    right = next((axes for axes in subsets if _same(dy.sum(axes), case.n)), None)
    for axes in subsets:
        if right is not None and axes != right and _same(dy.sum(axes), case.a):
            yield f"dy is summed over {_axes(axes)} instead of {_axes(right)}"
    for axis in range(dy.ndim):
        if _same(dy.sum(axis), case.n) and _same(np.take(dy, 0, axis), case.a):
            yield f"it is the first of dy along axis {axis}: a broadcast copies, so its gradient is the sum of all"
    for axis in range(case.n.ndim):
        if case.n.shape[axis] > 1 and _same(case.a, np.broadcast_to(case.n.mean(axis, keepdims=True), case.n.shape)):
            yield f"it is averaged over {_axes((axis,))}"


def _axes(axes: tuple[int, ...]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"the axes {', '.join(map(str, axes))}"


def _rearranged(case: Case) -> Iterator[str]:
    a, n = case.a, case.n
    square = a.ndim >= 2 and a.shape[-1] == a.shape[-2]
    if a.ndim == 4 and square and _same(a.swapaxes(2, 3), n):
        yield "its input and output channels, the last two axes, are exchanged"
    elif square and _same(a.swapaxes(-1, -2), n):
        yield "it is transposed"
    if a.ndim == 4 and _same(a[::-1, ::-1], n):
        yield "the kernel is turned around: rows and columns of the window, axes 0 and 1, run backwards"
    for axis, length in enumerate(a.shape):
        if length % 2 == 0 and _same(np.roll(a, length // 2, axis), n) and length > 1:
            yield f"the two halves along axis {axis} are exchanged"
            continue
        if length > 1 and _same(np.flip(a, axis), n):
            yield f"it runs backwards along axis {axis}"
        for shift in range(1, min(4, length - 1)):
            later, sooner = (_part(array, axis, shift, length) for array in (a, n))
            before, after = (_part(array, axis, 0, length - shift) for array in (a, n))
            if after.any() and _same(later, after):
                yield f"it is shifted by {shift} along axis {axis}: the padding is cut off in the wrong place?"
            elif sooner.any() and _same(before, sooner):
                yield f"it is shifted by {-shift} along axis {axis}: the padding is cut off in the wrong place?"


def _part(array: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    return array[(slice(None),) * axis + (slice(start, stop),)]


def _normalised(case: Case) -> Iterator[str]:
    """The terms of a normalisation: over all axes but the last (batch norm), or over the last (layer norm)."""
    a, n, x = case.a, case.n, case.x
    if a.ndim < 2:
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
        if _same(np.broadcast_to(constant, a.shape), missing):
            if np.abs(n.sum(over)).sum() <= _RTOL * np.abs(n).sum():
                yield f"within {where} the difference is constant: the mean of dy is not subtracted"
            elif np.abs(a.sum(over)).sum() <= _RTOL * np.abs(a).sum():
                yield f"within {where} a mean is subtracted that should stay: the formula of training, in evaluation?"
            else:
                yield f"within {where} the difference is constant: a mean that is missing, or not the right one"
        elif _same(slope * xhat, missing):
            yield f"within {where} the difference is a multiple of xhat: the term xhat mean(dy xhat) is missing"
        elif _same(constant + slope * xhat, missing):
            yield f"within {where} a constant and a multiple of xhat are missing: the means of dy and of dy xhat"
        if over != (a.ndim - 1,):
            yield from _channel_factors(case, over, std.reshape(-1))


def _channel_factors(case: Case, over: tuple[int, ...], std: np.ndarray) -> Iterator[str]:
    """A factor that belongs to each channel."""
    a, n = case.a, case.n
    norms = (n * n).sum(over)
    if len(norms) < 2 or not norms.all():
        return
    factors = (a * n).sum(over) / norms
    if (
        not _same(a, factors * n)
        or np.abs(factors - 1).max() < _NEAR
        or np.ptp(factors) <= _RTOL * np.abs(factors).max()
    ):
        return
    if np.allclose(factors * std, (factors * std).mean(), rtol=1e-3):
        yield "each channel is divided by its deviation once too often: the variance in place of its root?"
        return
    for other, values in case.inputs.items():
        if other != case.name and values.shape == factors.shape and _same(factors * values, np.ones_like(values)):
            yield f"the factor {other} is missing"
            return
    yield "each channel is off by a factor of its own: a factor for each channel is missing or doubled"


def _linear_in_x(case: Case) -> Iterator[str]:
    """A gradient of a scale made with the input itself in place of the normalised one."""
    for other, x in case.inputs.items():
        if other == case.name or x.ndim < 2 or x.shape != case.upstream.shape or case.a.shape != x.shape[-1:]:
            continue
        over = tuple(range(x.ndim - 1))
        if _same(case.a, (case.upstream * x).sum(over)):
            yield f"it is the sum of dy {other}: {other} must be normalised first, sum of dy xhat"
        elif _same(case.a, (case.upstream * (x - x.mean(over))).sum(over)):
            yield f"it is the sum of dy ({other} - mean): divide by the standard deviation"


def _product(case: Case) -> Iterator[str]:
    """A matrix that should have been transposed, or an average in place of the gradient."""
    dy = case.upstream
    for other, w in case.inputs.items():
        square = w.ndim == 2 and w.shape[0] == w.shape[1]
        if square and dy.ndim == 2 and dy.shape[1] == len(w) and _same(dy @ w.T, case.n) and _same(dy @ w, case.a):
            yield f"it is dy @ {other}, and should be dy @ {other}.T"
    if dy.shape == case.a.shape and dy.size > 1 and _same(case.a * dy, dy.mean() * case.n):
        yield "it has the mean of dy where dy belongs"


def _conserved(case: Case) -> Iterator[str]:
    """An operation that hands all of dy on, as pooling does: what arrives must be what was sent."""
    sent, measured, arrives = (float(array.sum()) for array in (case.upstream, case.n, case.a))
    if case.a.ndim < 3 or abs(measured - sent) > _RTOL * abs(sent):
        return
    ratio = arrives / sent
    if abs(ratio - 1) < _RTOL:
        yield "as much of dy arrives as should, but at the wrong places: is the right cell of each window chosen?"
    elif abs(ratio - round(ratio)) < _RTOL * abs(ratio):
        yield f"dy arrives {round(ratio)} times and should once: divide it among the cells, or choose one of them"
    else:
        yield "not all of dy arrives: where windows overlap a pixel must collect from each of them, += instead of ="


def _invariant(case: Case) -> Iterator[str]:
    """A gradient that sums to zero along an axis, since adding a constant there changes nothing (softmax, norms)."""
    size = np.abs(case.n).sum()
    for axis in reversed(range(case.n.ndim)):
        if case.n.shape[axis] > 1 and np.abs(case.n.sum(axis)).sum() < 1e-7 * size < np.abs(case.a.sum(axis)).sum():
            yield (
                f"it must sum to zero along axis {axis}, as adding a constant there changes nothing: a mean or a sum "
                "over that axis is missing, or taken over another one"
            )
            return


# formulas for the gradient; and properties that it should have
_HYPOTHESES = (_not_linear, _factor, _exchanged, _skip, _sums, _product, _rearranged, _normalised, _linear_in_x)
_PROPERTIES = (_conserved, _invariant)


# -- where it is wrong ------------------------------------------------------------------------------------------------


def _where(case: Case) -> Iterator[str]:
    """If no formula fits: which entries are wrong, in words."""
    a, n = case.a, case.n
    wrong = np.abs(a - n) > 1e-6 * max(float(np.abs(n).max()), 1e-300)
    if not wrong.any() or wrong.all():
        return
    for values, what in ((case.x, case.name), (case.output, "the output"), (case.upstream, "dy")):
        if values.shape != a.shape or not ((values > 0).any() and (values < 0).any()):
            continue
        for sign, side in ((values < 0, "negative"), (values > 0, "positive")):
            if not (wrong & ~sign).any() and wrong.sum() > 0.9 * sign.sum():
                yield f"it is wrong just where {what} is {side}: a mask that is missing, or of the wrong array?"
                return
    for axis in range(a.ndim):
        yield from _along(wrong.any(tuple(i for i in range(a.ndim) if i != axis)), axis)


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
        yield f"it is wrong only from {at[0]} on along axis {axis}: what is left over is treated differently"
    elif len(at) > 1 and len(set(np.diff(at))) == 1 and at[1] - at[0] > 1:
        yield f"it is wrong at one place in {at[1] - at[0]} along axis {axis}: a stride left out or misplaced?"
    else:
        listed = ", ".join(map(str, at[:6])) + ("..." if len(at) > 6 else "")
        yield f"it is wrong only at {listed} along axis {axis}"
