"""Checking a forward and a backward pass in plain NumPy: what a student has just written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..tensor import Function, Tensor
from .check import gradcheck
from .report import Report


def gradcheck_fn(
    forward: Callable[..., Any],
    backward: Callable[..., Mapping[str, Any]],
    inputs: Mapping[str, Any],
    seed: int = 0,
    rtol: float = 1e-6,
    max_entries: int | None = None,
    zero: Collection[str] = (),
    name: str | None = None,
) -> Report:
    """Compare a backward pass in plain NumPy with central differences of its forward pass, and say what is wrong.

        def forward(x, w):
            return np.maximum(x @ w, 0)

        def backward(dy, x, w):
            dz = dy * (x @ w > 0)
            return {"x": dz @ w.T, "w": x.T @ dz}

        print(minires.gradcheck_fn(forward, backward, {"x": x, "w": w}))

    Args:
        forward: called with all inputs by name, ``forward(**inputs)``, returns an array.
        backward: called as ``backward(dy, **inputs)`` with dL/d(output), returns the gradient of every floating-point
            input in a dict by name.
        inputs: arrays by name.  Floating-point ones are copied as float64 and checked; others, such as labels, are
            passed on.
        seed, rtol, max_entries, zero, name: as for `gradcheck`.

    Returns:
        a `Report`.  A gradient that is left out, of the wrong shape or not of numbers fails with a sentence of its own.

    Raises:
        ArgumentError: backward returns no dict or names what is not an input; and as for `gradcheck`.
    """
    name = name or str(getattr(backward, "__name__", "backward"))
    given = {n: v.numpy() if isinstance(v, Tensor) else v for n, v in inputs.items()}
    arrays = {n: np.asarray(v) if isinstance(v, float | list) else v for n, v in given.items()}
    checked = [n for n, v in arrays.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    others = {n: v for n, v in arrays.items() if n not in checked}
    wrong: dict[
        str, tuple[str, np.ndarray | None]
    ] = {}  # what is the matter with a gradient, and it, if it is an array
    upstream_changed = False

    class Pair(Function):
        @staticmethod
        def forward(ctx, *values):
            ctx.save_for_backward(*values)
            result = forward(**dict(zip(checked, values, strict=True)), **others)
            if any(result is v for v in values):
                result = result.copy()  # the engine takes it for a view of its input
            return np.asarray(result, np.float64)

        @staticmethod
        def backward(ctx, dy):
            nonlocal upstream_changed
            values = dict(zip(checked, ctx.saved, strict=True))
            own = np.array(dy)  # whatever happens to it
            grads = backward(own, **values, **others)
            upstream_changed |= not np.array_equal(own, dy, equal_nan=True)
            _check_names(name, grads, checked, others)
            return tuple(_of_input(n, grads.get(n), values[n], wrong) for n in checked)

    def fn(**call: Any) -> Tensor:
        return Pair.apply(*(call[n] for n in checked))

    report = gradcheck(fn, {n: arrays[n] for n in checked}, seed, rtol, max_entries, zero, name)
    for n, (problem, grad) in wrong.items():
        report[n].verdict, report[n].note = "FAIL", problem
        report[n].hints = [] if grad is None else _summed(grad, report[n].numeric)
        report[n].worst = None
    if upstream_changed:
        for found in report.inputs.values():
            found.verdict = "FAIL"
            found.note = "backward changed dy in place, which belongs to the operation above. Work on a copy."
    return report


def _check_names(name: str, grads: Any, checked: list[str], others: Mapping[str, Any]) -> None:
    if not isinstance(grads, Mapping):
        raise ArgumentError(
            f"{name} returned {type(grads).__name__}; it must return a dict with the gradient of each input by name, "
            f"{{{', '.join(f'{n!r}: d{n}' for n in checked)}}}."
        )
    unknown = [n for n in grads if n not in checked and n not in others]
    if unknown:
        raise ArgumentError(
            f"{name} returned a gradient for {unknown[0]!r}, which is no input; the inputs are {', '.join(checked)}."
        )


def _of_input(name: str, grad: Any, value: np.ndarray, wrong: dict[str, Any]) -> np.ndarray | None:
    """The gradient as float64; None, and a sentence in ``wrong`` the first time, if it is not one of this input."""
    if grad is None:
        return None
    grad = np.asarray(grad)
    if grad.dtype.kind not in "fiub":
        wrong.setdefault(name, (f"its gradient holds {grad.dtype}, not numbers.", None))
        return None
    if grad.shape != value.shape:
        wrong.setdefault(name, (f"its gradient has shape {grad.shape}, but {name} has shape {value.shape}.", grad))
        return None
    return grad.astype(np.float64)  # a copy: backward may return one of its inputs


def _summed(grad: np.ndarray, numeric: np.ndarray) -> list[str]:
    """Over which axes a gradient of too large a shape has to be summed."""
    for count in range(1, grad.ndim + 1):
        for axes in combinations(range(grad.ndim), count):
            for keep in (False, True):
                total = grad.sum(axes, keepdims=keep)
                if total.shape == numeric.shape and np.allclose(total, numeric, rtol=1e-5, atol=1e-8):
                    which = f"axis {axes[0]}" if count == 1 else f"the axes {', '.join(map(str, axes))}"
                    return [f"sum it over {which}: there the input was broadcast, and a copy's gradients add up"]
    if grad.T.shape == numeric.shape and np.allclose(grad.T, numeric, rtol=1e-5, atol=1e-8):
        return ["it is transposed"]
    return []
