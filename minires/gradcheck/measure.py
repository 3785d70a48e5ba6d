"""Stage 1 of a gradient check: one input's gradient beside what differences of the forward pass say of it."""

from __future__ import annotations

from itertools import product

import numpy as np

from .numeric import STEP, Probe
from .report import InputReport

# every entry of an input up to this size; of a larger one so many random directions and so many entries
EVERY, DIRECTIONS, ENTRIES = 2000, 8, 64
# more kinks than this share of the entries, and the point says too little about the backward
_MAX_KINKS = 0.02
# a gradient so small beside the upstream one may be rounding alone
_TINY = 1e-7
# what rounding may leave of the adjoint test
_ADJOINT = 1e-10


def check_input(
    name: str,
    probe: Probe,
    gradient: np.ndarray | None,
    rng: np.random.Generator,
    rtol: float,
    max_entries: int | None = None,
    meant_zero: bool = False,
    method: str = "auto",
) -> InputReport:
    """Measure the derivative with respect to one input, and compare.

    Args:
        name: of the input.
        probe: measures.
        gradient: what the backward pass returned, on the host; None if it returned nothing.
        rng: chooses entries and directions.
        rtol: the largest relative error allowed.
        max_entries: measure so many entries; None: all of a small input, directions and a sample of a large one.
        meant_zero: whether a gradient of zeros is no failure.
        method: "auto", "central" or "complex step", see `Probe.choose`.
    """
    shape = probe.array.shape
    analytic = np.zeros(shape) if gradient is None else gradient
    report = InputReport(name, shape, "ok", analytic, np.full(shape, np.nan))
    indices, spares, needed = _plan(analytic, rng, max_entries)
    if not indices:
        return _vacuous(report, meant_zero)
    if method != "auto" or max_entries is None:  # of a few entries in many inputs, finding out would cost the most
        probe.choose(rng, method)
    report.method = probe.method
    _measure(report, probe, indices)
    if method == "auto" and probe.method == "complex step" and not probe.confirms(report.numeric, rng):
        probe.method = report.method = "central"
        _measure(report, probe, indices)
    scale = float(np.nanmax(np.abs(report.numeric), initial=0.0))

    # what rounding alone can make of a difference
    noise = 8 * float(np.finfo(np.float64).eps * np.linalg.norm(probe.output * probe.upstream))
    step = STEP if probe.method == "central" else 1.0
    if scale <= noise / step:
        noise = probe.rounding()
    if scale < _TINY * np.linalg.norm(probe.upstream) and _is_rounding(report, probe):
        noise = 8 * scale * step  # of sums inside the function, which leave less than they were made of
    if scale <= noise / step and np.abs(analytic).max() <= noise / step:
        report.checked = len(indices)
        return _vacuous(report, meant_zero)

    wrong = _compare(report, probe, indices, spares, rtol, scale)
    finite = bool(np.isfinite(analytic).all())
    if max_entries is None and probe.array.size > EVERY and finite and gradient is not None:
        wrong |= _directions(report, probe, rng, rtol, scale, indices)
    if probe.method == "affine" and finite:
        report.adjoint = probe.adjoint_error(analytic, rng)
        if not wrong and report.adjoint > max(_ADJOINT, 1e-3 * rtol):
            wrong, report.note = True, f"<A d, dy> and <d, A^T dy> differ by {report.adjoint:.1e} of their size."

    report.checked = len(indices)
    _summarise(report)
    if gradient is None:
        report.verdict = "missing"
        report.note = "backward returned no gradient for this input, but the output depends on it."
    elif wrong or not finite:
        report.verdict = "FAIL"
        if not finite:
            bad = np.argwhere(~np.isfinite(analytic))
            at = ", ".join(map(str, bad[0]))
            report.note = (
                f"{len(bad)} of its entries are not finite, first {name}[{at}]: yours {analytic[tuple(bad[0])]}."
            )
    elif max_entries is None and probe.array.size > EVERY and not report.directions:
        report.verdict = "inconclusive"
        report.note = (
            "along every direction some kink was met, so that most entries are unchecked: check a smaller input."
        )
    elif len(indices) - len(report.kinks) < needed:
        report.verdict = "inconclusive"
        report.note = (
            "at too many entries no difference can judge: kinks (ReLU at 0, ties in max), or rounding beside large "
            "numbers. So check at another point."
        )
    return report


def _vacuous(report: InputReport, meant_zero: bool) -> InputReport:
    report.verdict = "ok" if meant_zero else "vacuous"
    report.note = "" if meant_zero else (
        "the measured gradient is zero everywhere, so nothing was checked. If that is meant, say "
        f"zero=({report.name!r},); if not, choose inputs that reach the output."
    )  # fmt: skip
    return report


def _is_rounding(report: InputReport, probe: Probe) -> bool:
    """Whether what was measured is rounding: then a larger step makes it smaller, as it does of no slope."""
    if probe.method != "central":
        return False
    order = np.argsort(-np.abs(np.nan_to_num(report.numeric)), axis=None)[:5]
    largest = [tuple(map(int, np.unravel_index(at, report.shape))) for at in order]
    scale = abs(report.numeric[largest[0]])
    return all(abs(probe.slopes(index, 1e-2).central) < 0.1 * scale for index in largest)


def _plan(analytic: np.ndarray, rng: np.random.Generator, max_entries: int | None) -> tuple[list, list, float]:
    """Which entries to measure, which to take instead of those at a kink, and how many have to be judged."""
    size, shape = analytic.size, analytic.shape
    wanted = max_entries or (size if size <= EVERY else ENTRIES)
    if size <= wanted:
        return [tuple(map(int, index)) for index in np.ndindex(shape)], [], (1 - _MAX_KINKS) * size
    order = rng.permutation(size)
    claimed = order[analytic.reshape(-1)[order] != 0][: (wanted + 1) // 2]  # else a sample may be all zeros
    ends = _ends(shape) if max_entries is None else []
    chosen = list(dict.fromkeys([*ends, *map(int, claimed), *map(int, order)]))
    entries, spare = np.sort(chosen[:wanted]), chosen[wanted : 5 * wanted]
    indices, spares = ([tuple(map(int, np.unravel_index(e, shape))) for e in some] for some in (entries, spare))
    return indices, spares, wanted / 2


def _ends(shape: tuple[int, ...]) -> list[int]:
    """Corners of the last four axes, and the middle: where padding, cropping and what is left over go wrong."""
    places = [sorted({0, n - 1}) if len(shape) - i <= 4 else [0] for i, n in enumerate(shape)]
    ends = [*product(*places), tuple(n // 2 for n in shape)]
    return [int(np.ravel_multi_index(index, shape)) for index in ends]


def _measure(report: InputReport, probe: Probe, indices: list[tuple[int, ...]]) -> None:
    with np.errstate(all="ignore"):  # the function need not be defined on both sides; see `Probe.judge`
        for index in indices:
            report.numeric[index] = probe.slope(index)


def _compare(
    report: InputReport, probe: Probe, indices: list[tuple[int, ...]], spares: list[tuple[int, ...]], rtol: float,
    scale: float,
) -> bool:  # fmt: skip
    """Judge the entries that disagree; ``indices`` grows, as an entry of a sample at a kink is replaced by another."""
    wrong = False
    for index in indices:
        a, n = report.analytic[index], report.numeric[index]
        tolerance = rtol * max(abs(a), abs(n), 1e-3 * scale)
        if not abs(a - n) <= tolerance:  # also true for NaN
            verdict, report.numeric[index] = probe.judge(index, a, tolerance)
            if verdict == "wrong" and abs(a - report.numeric[index]) <= probe.dust:
                verdict = "kink"
            wrong |= verdict == "wrong"
            if verdict == "kink":
                report.kinks.append(index)
                if spares:
                    indices.append(spares.pop())
                    report.numeric[indices[-1]] = probe.slope(indices[-1])
    return wrong


def _directions(
    report: InputReport, probe: Probe, rng: np.random.Generator, rtol: float, scale: float, indices: list
) -> bool:
    """Move the whole input along random directions, so that no entry is left out; if one disagrees, say where."""
    whole = tuple(slice(0, n) for n in report.shape)
    verdicts = [_along(report.analytic, probe, whole, rng, rtol) for _ in range(DIRECTIONS)]
    report.directions = DIRECTIONS - verdicts.count("kink")
    if "wrong" not in verdicts:
        return False
    box = _locate(report.analytic, probe, rng, rtol)
    if box != whole:
        where = ", ".join(_text(part, n) for part, n in zip(box, report.shape, strict=True))
        report.note = f"all that is wrong lies in {report.name}[{where}]."
    # some entries of that part, for the worst of them to be shown and for hints
    inside = np.ravel_multi_index(np.ix_(*(np.arange(b.start, b.stop) for b in box)), report.shape).reshape(-1)
    more = [
        tuple(map(int, np.unravel_index(e, report.shape)))
        for e in rng.permutation(inside)[:ENTRIES]
    ]  # fmt: skip
    more = [index for index in more if np.isnan(report.numeric[index])]
    _measure(report, probe, more)
    _compare(report, probe, more, [], rtol, scale)
    indices += more
    return True


def _text(part: slice, length: int) -> str:
    if part == slice(0, length):
        return ":"
    return f"{part.start}" if part.stop - part.start == 1 else f"{part.start}:{part.stop}"


def _along(analytic: np.ndarray, probe: Probe, box: tuple[slice, ...], rng: np.random.Generator, rtol: float) -> str:
    """The verdict on a random direction that moves the entries of ``box``."""
    direction = np.zeros(analytic.shape)
    direction[box] = rng.standard_normal(direction[box].shape)
    a, n = float((analytic * direction).sum()), probe.slope(direction)
    tolerance = rtol * max(abs(a), abs(n), float(np.linalg.norm(analytic[box])))
    return "ok" if abs(a - n) <= tolerance else probe.judge(direction, a, tolerance)[0]


def _locate(analytic: np.ndarray, probe: Probe, rng: np.random.Generator, rtol: float) -> tuple[slice, ...]:
    """The smallest box that holds all that is wrong, by halving one axis after the other."""
    box = [slice(0, n) for n in analytic.shape]
    for axis in range(analytic.ndim):
        while (length := box[axis].stop - box[axis].start) > 1:
            middle = box[axis].start + length // 2
            halves = [slice(box[axis].start, middle), slice(middle, box[axis].stop)]
            wrong = [
                half for half in halves
                if _along(analytic, probe, (*box[:axis], half, *box[axis + 1 :]), rng, rtol) == "wrong"
            ]  # fmt: skip
            if len(wrong) != 1:
                break
            box[axis] = wrong[0]
    return tuple(box)


def _summarise(report: InputReport) -> None:
    """The largest error and the error of the norms."""
    worst = report.worst_entries(1)
    if not worst:
        return
    report.worst, report.error = worst[0][0], worst[0][3]
    measured = ~np.isnan(report.errors)
    difference = np.where(np.isfinite(report.analytic), report.analytic, 0.0)[measured] - report.numeric[measured]
    size = float(np.linalg.norm(report.numeric[measured]))
    report.norm_error = float(np.linalg.norm(difference)) / size if size else float("inf")
