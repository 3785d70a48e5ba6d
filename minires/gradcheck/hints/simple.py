"""Mistakes with a formula of their own: a factor, a sum, a transposition, an exchange."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import prod

import numpy as np

from .case import NEAR, RTOL, Case, same


def not_linear(case: Case) -> Iterator[str]:
    """A backward pass is a matrix product with dy."""
    if not case.linear:
        yield (
            "it is not linear in dy, which every backward pass is: dy is left out, or used otherwise than as a factor "
            "(a mask made from dy?)"
        )


def exchanged(case: Case) -> Iterator[str]:
    """The gradient of another input."""
    for other in case.inputs:
        if other == case.name or case.numeric[other].shape != case.a.shape:
            continue
        if same(case.a, case.numeric[other]) and same(case.analytic[other], case.n):
            yield f"the gradients of {case.name} and {other} are exchanged"
        elif same(case.a, case.numeric[other]):
            yield f"this is the gradient of {other}"


def factor(case: Case) -> Iterator[str]:
    """Off by a factor, with what it may be the number of."""
    a, n = case.measured(case.a, case.n)
    c = float((a * n).sum() / max((n * n).sum(), 1e-300))
    if not same(a, c * n) or abs(c - 1) < NEAR or not case.linear:
        return
    if abs(c + 1) < RTOL:
        yield "the sign is wrong"
        return
    large = abs(c) > 1
    p = 1 - abs(c)
    if 0.04 < p < 0.96 and abs(p - round(20 * p) / 20) < RTOL and c > 0 and _drops(case):
        yield f"it is 1 / (1 - p) = {1 / c:.4g} times too small, for p = {p:.2g}: what is kept must be scaled up"
        return
    sign = " and has the wrong sign" if c < 0 else ""
    ratio = abs(c) if large else 1 / abs(c)
    named = _named(ratio, case)
    made = [] if named else _made_of_a_length(ratio, case)
    hundredths = 100 / ratio
    if len(named or made) == 1:
        text = f"{(named or made)[0]} = {ratio:.4g}"
    elif (
        not named
        and abs(hundredths - round(hundredths)) < RTOL * hundredths
        and abs(10 * ratio - round(10 * ratio)) > RTOL
    ):
        text = f"{ratio:.6g} (1 / {hundredths / 100:.2g})"
    else:
        text = f"{ratio:.6g}"
    choice = f" ({ratio:.4g} is {', '.join(named[:-1])} or {named[-1]})" if len(named) > 1 else ""
    how = (
        "" if not named else ": a division by it is missing" if large else ": divided by it once too often, or averaged"
    )
    yield f"it is {text} times too {'large' if large else 'small'}{sign}{choice}{how}"


def _drops(case: Case) -> bool:
    """Whether the operation lets some entries through and others not, as dropout does."""
    return case.n.shape == case.upstream.shape and bool((case.n == 0).any())


def _named(ratio: float, case: Case) -> list[str]:
    """What numbers of the problem a ratio may be: a length of an axis, of several, or of a window."""
    if abs(ratio - 2) < RTOL:
        return []
    names = []
    summed = prod(case.upstream.shape[:-1])
    if case.x.ndim == 1 < case.upstream.ndim and abs(summed - ratio) < RTOL * ratio:  # a bias
        return [_length(case.upstream, tuple(range(case.upstream.ndim - 1)), "O", case.order is not None)]
    side = round(ratio**0.5)
    if case.x.ndim == 4 and 1 < side <= 7 and abs(side**2 - ratio) < RTOL * ratio:
        names.append(f"k^2 of a {side} x {side} window")
    for array, output in ((case.upstream, "O"), (case.x, "K" if _is_kernel(case) else "")):
        for count in range(1, array.ndim + 1):
            for axes in combinations(range(array.ndim), count):
                if abs(prod(array.shape[i] for i in axes) - ratio) < RTOL * ratio:
                    names.append(_length(array, axes, output, case.order is not None))
    return list(dict.fromkeys(names))[:3]


def _is_kernel(case: Case) -> bool:
    """Whether the input is the kernel of a convolution: small windows, beside larger pictures."""
    others = [v for n, v in case.inputs.items() if n != case.name and v.ndim == 4]
    return case.x.ndim == 4 and any(min(v.shape[1:3]) >= max(case.x.shape[:2]) for v in others)


def _made_of_a_length(ratio: float, case: Case) -> list[str]:
    """The square root of a length, as in attention; m / (m - 1), as of an unbiased variance; 1 / ln 2, as of log2."""
    if abs(ratio - 2) < RTOL:
        return []
    for values in (case.x, case.upstream, *case.inputs.values()):
        for length in values.shape:
            if length > 2 and abs(ratio - length**0.5) < RTOL * ratio:
                return [f"sqrt({length})"]
            for power, text in ((1, "{} / {}"), (0.5, "sqrt({} / {})")):
                if length > 2 and abs(ratio - (length / (length - 1)) ** power) < RTOL * ratio:
                    return [text.format(length, length - 1)]
    return ["1 / ln 2"] if abs(ratio * np.log(2) - 1) < RTOL else []


def _length(array: np.ndarray, axes: tuple[int, ...], output: str, lettered: bool) -> str:
    """The name of the length of some axes; those of an output picture have an O before them, of a kernel a K."""
    if array.ndim == 4 and lettered:
        letters = ("KH", "KW", "C", "O") if output == "K" else ("N", f"{output}H", f"{output}W", "C")
        return " ".join(letters[i] for i in axes)
    if axes == (0,):
        return "N"
    return f"the length of axis {axes[0]}" if len(axes) == 1 else f"the product of the axes {', '.join(map(str, axes))}"


def sums(case: Case) -> Iterator[str]:
    """A gradient that is dy summed, over the wrong axes."""
    dy = case.upstream
    subsets = [axes for count in range(1, dy.ndim + 1) for axes in combinations(range(dy.ndim), count)]
    right = next((axes for axes in subsets if same(dy.sum(axes), case.n)), None)
    for axes in subsets:
        if right is not None and axes != right and same(dy.sum(axes), case.a):
            yield f"dy is summed over {_axes(axes)} instead of {_axes(right)}"
    for axis in range(dy.ndim):
        if same(dy.sum(axis), case.n) and same(np.take(dy, 0, axis), case.a):
            yield f"it is the first of dy along axis {axis}: a broadcast copies, so its gradient is the sum of all"
    for axis in range(case.n.ndim):
        if case.n.shape[axis] > 1 and same(case.a, np.broadcast_to(case.n.mean(axis, keepdims=True), case.n.shape)):
            yield f"it is averaged over {_axes((axis,))}"
        elif _gathered(case.a, case.n, axis):
            yield f"all of it goes to one place along axis {axis}, and must be spread evenly"


def _gathered(a: np.ndarray, n: np.ndarray, axis: int) -> bool:
    """Whether ``a`` has at one place along an axis what ``n`` has, or has the sum of, in equal parts."""
    evenly = np.broadcast_to(n.mean(axis, keepdims=True), n.shape)
    alone = np.flatnonzero(np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1).any(1))
    return len(alone) == 1 < a.shape[axis] and same(n, evenly) and same(a.sum(axis), n.sum(axis))


def _axes(axes: tuple[int, ...]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"the axes {', '.join(map(str, axes))}"


def rearranged(case: Case) -> Iterator[str]:
    """The right numbers in the wrong places."""
    a, n = case.a, case.n
    square = a.ndim >= 2 and a.shape[-1] == a.shape[-2]
    if a.ndim == 4 and square and same(a.swapaxes(2, 3), n):
        yield "its input and output channels, the axes 2 and 3, are exchanged"
    elif square and same(a.swapaxes(-1, -2), n):
        yield "it is transposed"
    if a.ndim == 4 and same(a[::-1, ::-1], n):
        yield "the kernel is turned around: rows and columns of the window, axes 0 and 1, run backwards"
    for axis, length in enumerate(a.shape):
        if length % 2 == 0 and same(np.roll(a, length // 2, axis), n) and length > 1:
            yield f"the two halves along axis {axis} are exchanged"
            continue
        if length > 1 and same(np.flip(a, axis), n):
            yield f"it runs backwards along axis {axis}"
        for shift in range(1, min(4, length - 1)):
            for by in (shift, -shift):
                if _is_shifted(a, n, {axis: by}):
                    yield f"it is shifted by {by} along axis {axis}: the padding is cut off in the wrong place?"
                    break
    for by in (1, 2, 3, -1, -2, -3) if a.ndim == 4 else ():
        if min(a.shape[1:3]) > abs(by) + 1 and _is_shifted(a, n, {1: by, 2: by}):
            yield f"it is shifted by {by} along rows and columns: the padding is cut off in the wrong place?"


def _is_shifted(a: np.ndarray, n: np.ndarray, by: dict[int, int]) -> bool:
    """Whether ``a[i + by] = n[i]`` wherever both exist, and there is something to see."""
    for axis, shift in by.items():
        length = a.shape[axis]
        a = _part(a, axis, max(shift, 0), length + min(shift, 0))
        n = _part(n, axis, max(-shift, 0), length - max(shift, 0))
    return bool(n.any()) and same(a, n)


def _part(array: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    return array[(slice(None),) * axis + (slice(start, stop),)]


def scattered(case: Case) -> Iterator[str]:
    """The right numbers in the wrong places, in whatever order."""
    a, n = np.sort(case.a, axis=None), np.sort(case.n, axis=None)
    small = 1e-6 * np.abs(n).max()
    if (np.abs(n) > small).sum() > 3 and np.allclose(a, n, rtol=1e-6, atol=small):
        yield (
            "it has the right numbers in the wrong places: a reshape where a transpose belongs, a permutation that is "
            "not undone, or an index that counts otherwise"
        )


def product(case: Case) -> Iterator[str]:
    """A matrix that should have been transposed, or an average in place of the gradient."""
    dy = case.upstream
    for other, w in case.inputs.items():
        square = w.ndim == 2 and w.shape[0] == w.shape[1]
        if square and dy.ndim == 2 and dy.shape[1] == len(w) and same(dy @ w.T, case.n) and same(dy @ w, case.a):
            yield f"it is dy @ {other}, and should be dy @ {other}.T"
    if dy.shape == case.a.shape and dy.size > 1 and same(case.a * dy, dy.mean() * case.n):
        yield "it has the mean of dy where dy belongs"


def other_input(case: Case) -> Iterator[str]:
    """The formula is right, but for another input in the wrong order: run it again with that one rearranged."""
    for other, w in case.inputs.items():
        if other == case.name or w.ndim < 2:
            continue
        square = w.shape[-1] == w.shape[-2] > 1
        turned = w.ndim == 4 and w.shape[0] * w.shape[1] > 1
        if square and _right_with(case, other, w.swapaxes(-1, -2)):
            which = "input and output channels" if w.ndim == 4 else "rows and columns"
            yield f"it would be right with the {which} of {other}, the axes {w.ndim - 2} and {w.ndim - 1}, exchanged"
        for axis, length in enumerate(w.shape):
            if length % 2 == 0 and _right_with(case, other, np.roll(w, length // 2, axis)):
                yield f"it would be right with the two halves of {other} along axis {axis} exchanged"
        if turned and _right_with(case, other, w[::-1, ::-1]):
            yield f"it would be right with {other}[::-1, ::-1]: the kernel is turned around, or should be"


def other_channels(case: Case) -> Iterator[str]:
    """The formula is right, but it reads the channels of dy from another place on."""
    channels = case.upstream.shape[-1] if case.upstream.ndim > 1 else 0
    for shift in range(1, min(channels, 17)):
        if _right_with(case, "dy", np.roll(case.upstream, shift, -1)):
            by = shift if 2 * shift <= channels else shift - channels
            axis = case.upstream.ndim - 1
            yield f"it takes the channels of dy from the wrong place on: they are off by {by} along axis {axis}"


def _right_with(case: Case, other: str, value: np.ndarray) -> bool:
    found = case.again(case.name, other, np.ascontiguousarray(value))
    return found is not None and same(found, case.n)


def overwritten(case: Case) -> Iterator[str]:
    """Every pixel hears from one cell of the window only, although windows overlap."""
    for other, w in case.inputs.items():
        if other == case.name or w.ndim != 4 or not 1 < w.shape[0] * w.shape[1] <= 49:
            continue
        if case.a.ndim != 4 or case.a.shape[0] != case.upstream.shape[0] or w.shape[3] != case.upstream.shape[-1]:
            continue  # no picture, or no kernel
        if prod(w.shape[:2]) * prod(case.upstream.shape[1:-1]) <= prod(case.a.shape[1:-1]):
            continue  # no windows overlap
        heard = np.zeros(case.a.shape, int)  # from how many cells, each tried alone
        for cell in np.ndindex(w.shape[:2]):
            alone = np.zeros_like(w)
            alone[cell] = w[cell]
            part = case.again(case.name, other, alone)
            heard += 0 if part is None else part != 0
        if heard.max() == 1 and (heard > 0).sum() > 1:
            yield (
                f"every pixel hears from one cell of {other} only: where windows overlap it must collect from each of "
                "them, += instead of ="
            )
