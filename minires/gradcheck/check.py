"""gradcheck: is the backward pass the derivative of the forward pass?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from ..backend import array_module, asnumpy, on_gpu
from ..errors import ArgumentError
from ..nn import Module
from ..tensor import Tensor, enable_grad, no_fusion, no_grad
from .hints import Case, hints
from .numeric import STEP, Probe
from .report import InputReport, Report

# more kinks than this share of the entries, and the point says too little about the backward
_MAX_KINKS = 0.02
# what rounding may leave of the linearity of a backward pass
_LINEAR = 1e-9


def gradcheck(
    fn: Callable[..., Tensor],
    inputs: Mapping[str, Any],
    seed: int = 0,
    rtol: float = 1e-6,
    max_entries: int | None = None,
    zero: Collection[str] = (),
    name: str | None = None,
) -> Report:
    """Compare the backward pass of ``fn`` with central differences of its forward pass, in float64.

    The upstream gradient is random.  Ones would hide whatever sums to a constant: the whole input gradient of a batch
    norm is zero for them, so that a backward returning nothing would pass.

    Args:
        fn: called with the inputs by name, ``fn(x=..., w=...)``, gives a Tensor of any shape.  Must be repeatable: make
            dropout take a fresh generator with a fixed seed.  A `Module` is copied, and its parameters are checked too.
        inputs: arrays or tensors by name.  Floating-point ones are copied as float64 and checked; others are passed on.
            They are checked on the device where they are, which must be that of a module.
        seed: of the upstream gradient, and of the choice of entries.
        rtol: the largest relative error allowed, |a - n| / max(|a|, |n|, 0.001 max|n|) for each entry.
        max_entries: measure so many entries of each input, chosen at random; all if None.  An entry at a kink is listed
            and replaced by another.
        zero: names of inputs whose gradient is meant to be zero everywhere.  Any other such input fails, because
            nothing was checked.
        name: for the report.

    Returns:
        a `Report`: print it, ask ``.ok``, or call ``.assert_ok()``.

    Raises:
        ArgumentError: there is nothing to check, or the forward pass is not repeatable or not finite or changes its
            inputs, or ``zero`` holds an unknown name.
    """
    name = name or str(getattr(fn, "__name__", type(fn).__name__))
    tensors, others = _split(inputs)
    if isinstance(fn, Module):
        fn = copy.deepcopy(fn).astype(np.float64)
        learned = {n: p for n, p in fn.named_parameters() if p.requires_grad}
        if tensors.keys() & learned:
            both = min(tensors.keys() & learned)
            raise ArgumentError(f"gradcheck {name}: {both!r} names an input and a parameter. Rename one of them.")
        tensors |= learned
    call = {n: t for n, t in tensors.items() if n in inputs} | others
    if not tensors:
        raise ArgumentError(f"gradcheck {name}: none of the inputs is of floating point, so there is nothing to check.")
    unknown = sorted(set(zero) - tensors.keys())
    if unknown:
        raise ArgumentError(f"gradcheck {name}: zero names {unknown}, but what is checked is {sorted(tensors)}.")
    if max_entries is not None and max_entries < 1:
        raise ArgumentError(f"gradcheck {name}: max_entries must be at least 1, got {max_entries}.")

    before = {n: t.numpy().copy() for n, t in tensors.items()}
    with enable_grad(), no_fusion():
        output = fn(**call)
    if not isinstance(output, Tensor) or not output.requires_grad:
        raise ArgumentError(
            f"gradcheck {name}: the result is not a recorded Tensor. Compute it with operations of minires, without "
            "no_grad() or .detach()."
        )
    # A stream of its own: default_rng(seed) may well have made x, and an upstream gradient equal to x is one of the few
    # for which the input gradient of a batch norm vanishes.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0x9AD,)))
    upstream = rng.standard_normal(output.shape)
    output.backward(array_module(output.data).array(upstream))
    analytic = {n: t.grad for n, t in tensors.items()}

    def backward(dy: np.ndarray) -> dict[str, Any]:
        for t in tensors.values():
            t.grad = None
        with enable_grad(), no_fusion():
            again = fn(**call)
        again.backward(array_module(again.data).array(dy))
        return {n: t.grad for n, t in tensors.items()}

    def forward() -> np.ndarray:
        with no_grad(), no_fusion():
            return asnumpy(fn(**call).data).copy()  # a view would change with the input it is measured against

    value = output.numpy().copy()
    if not np.isfinite(value).all():
        raise ArgumentError(f"gradcheck {name}: the result is not finite, so it has no slope. Check at another point.")
    changed = [n for n, t in tensors.items() if not np.array_equal(t.numpy(), before[n], equal_nan=True)]
    if changed:
        raise ArgumentError(f"gradcheck {name}: the forward or backward pass changed its input {changed[0]} in place.")
    if not np.array_equal(forward(), value):
        raise ArgumentError(
            f"gradcheck {name}: two runs of the forward pass on the same inputs differ. Take randomness out, or give "
            "it a generator made anew from a fixed seed in each call."
        )

    report = Report(name, seed, rtol)
    for n, t in tensors.items():
        probe = Probe(forward, t.data, upstream, value)
        report.inputs[n] = _check_input(n, probe, analytic[n], rng, rtol, max_entries, n in zero)
    linear = _linear(backward, upstream, {n: g for n, g in analytic.items() if n not in zero}, rng)
    _explain(report, {n: t.numpy() for n, t in tensors.items()}, upstream, value, linear)
    return report


def _linear(backward: Callable, upstream: np.ndarray, analytic: Mapping[str, Any], rng: Any) -> dict[str, bool]:
    """For each input whether B(2 u - 3 v) = 2 B(u) - 3 B(v), as for every backward pass B: it is a matrix product."""
    other = rng.standard_normal(upstream.shape)
    of_other, of_both = backward(other), backward(2 * upstream - 3 * other)
    linear = {}
    for name, grad in analytic.items():
        grads = [asnumpy(g) for g in (grad, of_other[name], of_both[name]) if g is not None]
        if len(grads) < 3 or not all(np.isfinite(g).all() for g in grads):
            linear[name] = True  # whatever it is, something else will be said about it
            continue
        u, v, both = grads
        size = 2 * np.linalg.norm(u) + 3 * np.linalg.norm(v)
        linear[name] = bool(np.linalg.norm(both - (2 * u - 3 * v)) <= _LINEAR * size)
    return linear


def _explain(
    report: Report, inputs: dict[str, np.ndarray], upstream: np.ndarray, output: np.ndarray, linear: dict[str, bool]
) -> None:
    """Add hints to what failed."""
    analytic, numeric = ({n: getattr(r, what) for n, r in report.inputs.items()} for what in ("analytic", "numeric"))
    for name, found in report.inputs.items():
        if found.verdict == "ok" and not linear.get(name, True):
            found.verdict = "FAIL"
        if found.verdict == "FAIL" and np.isfinite(found.analytic).all():
            found.hints = hints(Case(name, inputs, analytic, numeric, upstream, output, linear.get(name, True)))


def _split(inputs: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inputs to be checked, as fresh float64 leaves, and the rest."""
    tensors, others = {}, {}
    for name, value in inputs.items():
        array = value.data if isinstance(value, Tensor) else value
        array = np.asarray(array) if isinstance(array, float | list) else array
        if (isinstance(array, np.ndarray) or on_gpu(array)) and array.dtype.kind == "f":
            tensors[name] = Tensor(array_module(array).array(array, np.float64, order="K"), requires_grad=True)
        else:
            others[name] = value
    return tensors, others


def _check_input(
    name: str,
    probe: Probe,
    grad: Any,
    rng: np.random.Generator,
    rtol: float,
    max_entries: int | None,
    meant_zero: bool,
) -> InputReport:
    shape, size = probe.array.shape, probe.array.size
    analytic = np.zeros(shape) if grad is None else asnumpy(grad)
    numeric = np.full(shape, np.nan)
    report = InputReport(name, shape, "ok", analytic, numeric)

    entries, spare = np.arange(size), np.arange(0)
    needed = (1 - _MAX_KINKS) * size  # how many entries have to be judged
    if max_entries is not None and size > max_entries:
        needed = max_entries / 2
        order = rng.permutation(size)
        claimed = order[analytic.reshape(-1)[order] != 0][: (max_entries + 1) // 2]  # else a sample may be all zeros
        chosen = list(dict.fromkeys([*claimed, *order]))
        entries, spare = np.sort(chosen[:max_entries]), np.array(chosen[max_entries : 5 * max_entries])
    indices, spares = ([tuple(map(int, np.unravel_index(e, shape))) for e in some] for some in (entries, spare))
    for index in indices:
        numeric[index] = probe.slopes(index).central
    if not indices:
        return report

    scale = np.nanmax(np.abs(numeric))
    # what rounding alone can make of a difference
    noise = 8 * np.finfo(np.float64).eps * np.linalg.norm(probe.output * probe.upstream) / STEP
    if scale <= noise and np.abs(analytic).max() <= noise:
        report.checked = len(indices)
        report.verdict = "ok" if meant_zero else "vacuous"
        report.note = "" if meant_zero else (
            "the measured gradient is zero everywhere, so nothing was checked. If that is meant, say "
            f"zero=({name!r},); if not, choose inputs that reach the output."
        )  # fmt: skip
        return report

    wrong = False
    for index in indices:  # grows: an entry of a sample that lies at a kink is replaced by another
        a, n = analytic[index], numeric[index]
        floor = max(abs(a), abs(n), 1e-3 * scale)
        if not abs(a - n) <= rtol * floor:  # also true for NaN
            verdict, numeric[index] = probe.judge(index, a, rtol * floor)
            wrong |= verdict == "wrong"
            if verdict == "kink":
                report.kinks.append(index)
                if spares:
                    indices.append(spares.pop())
                    numeric[indices[-1]] = probe.slopes(indices[-1]).central
    report.checked = len(indices)

    measured = ~np.isnan(numeric)
    for index in report.kinks:
        measured[index] = False
    if measured.any():
        finite = np.where(np.isfinite(analytic), analytic, 0.0)
        difference = np.where(measured, np.abs(finite - numeric), 0.0)
        size_of_both = np.maximum(np.abs(finite), np.where(measured, np.abs(numeric), 0))
        errors = difference / np.maximum(size_of_both, max(1e-3 * scale, 1e-300))
        errors = np.where(np.isfinite(analytic), errors, np.inf)  # nothing is worse than a NaN
        report.worst = tuple(int(i) for i in np.unravel_index(errors.argmax(), shape))
        report.error = float(errors[report.worst])
        report.norm_error = float(np.linalg.norm(difference)) / max(float(np.linalg.norm(numeric[measured])), 1e-300)
    if grad is None:
        report.verdict = "missing"
        report.note = "backward returned no gradient for this input, but the output depends on it."
    elif wrong or not np.isfinite(analytic).all():
        report.verdict = "FAIL"
    elif len(indices) - len(report.kinks) < needed:
        report.verdict = "inconclusive"
        report.note = "too many entries lie at a kink (ReLU at 0, ties in max): check at another point."
    return report
