"""Checking a forward and a backward pass in plain NumPy: what a student has just written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..tensor import Tensor
from .examine import Settings, examine
from .report import Report


def gradcheck_fn(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: Mapping[str, Any],
    seed: int = 0,
    rtol: float = 1e-6,
    max_entries: int | None = None,
    zero: Collection[str] = (),
    name: str | None = None,
    method: str = "auto",
) -> Report:
    """Compare a backward pass in plain NumPy with differences of its forward pass, and say what is wrong.

        def forward(x, w):
            return np.maximum(x @ w, 0)

        def backward(dy, x, w):
            dz = dy * (x @ w > 0)
            return {"x": dz @ w.T, "w": x.T @ dz}

        print(minires.gradcheck_fn(forward, backward, {"x": x, "w": w}))

    Args:
        forward: called with all inputs by name, ``forward(**inputs)``, returns an array.
        backward: called as ``backward(dy, **inputs)`` with dL/d(output), returns the gradient of every floating-point
            input in a dict by name; or in a tuple in the order of ``inputs``; or, of a single input, the array.
        inputs: arrays by name.  Floating-point ones are copied as float64 and checked; others, such as labels, are
            passed on.
        seed, rtol, max_entries, zero, name: as for `gradcheck`.
        method: "auto" measures with a complex step where the forward pass can be run on complex numbers, with large
            steps where it is affine, and else with central differences; "central" or "complex step" insists.

    Returns:
        a `Report`.  A gradient that is left out, of the wrong shape or not of numbers fails with a sentence of its own.

    Raises:
        ArgumentError: backward returns something else or names what is not an input; and as for `gradcheck`.
    """
    passes = _Plain(forward, backward, inputs, name or str(getattr(backward, "__name__", "backward")))
    report = examine(passes, Settings(seed, rtol, max_entries, zero, method))
    for n, (problem, grad) in passes.wrong.items():
        report[n].verdict, report[n].note = "FAIL", problem
        if grad is not None:  # of another shape: what was compared in its place says nothing
            report[n].hints, report[n].worst = _summed(grad, report[n].numeric), None
    return report


class _Plain:
    """Passes that are two functions of arrays.

    Attributes:
        wrong: by name of an input, what is the matter with its gradient, and the gradient if it is an array.
    """

    def __init__(self, forward: Callable, backward: Callable, inputs: Mapping[str, Any], name: str) -> None:
        self.name, self.upstream_changed = name, False
        self.wrong: dict[str, tuple[str, np.ndarray | None]] = {}
        for what, function in (("forward", forward), ("backward", backward)):
            if isinstance(function, np.ufunc):
                names = ", ".join(inputs)
                raise ArgumentError(
                    f"gradcheck {name}: {what} is np.{function.__name__} itself, which takes no inputs by name. Wrap "
                    f"it: lambda {names}: np.{function.__name__}({names})."
                )
        self._forward, self._backward = forward, backward
        given = {n: v.numpy() if isinstance(v, Tensor) else v for n, v in inputs.items()}
        values = {n: np.asarray(v) if isinstance(v, float | np.floating | list) else v for n, v in given.items()}
        self.arrays = {
            n: v.astype(np.float64) for n, v in values.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"
        }
        self._others = {n: v for n, v in values.items() if n not in self.arrays}
        self._order = list(inputs)

    def _call(self, **instead: np.ndarray) -> dict[str, Any]:
        values = {**self.arrays, **self._others, **instead}
        return {n: values[n] for n in self._order}

    def forward(self) -> np.ndarray:
        result = self._forward(**self._call())
        if not isinstance(result, np.ndarray | np.generic | float | int):
            raise ArgumentError(f"gradcheck {self.name}: forward returned {type(result).__name__}, not one array.")
        if isinstance(result, np.ndarray | np.generic) and result.dtype in (np.float32, np.float16):
            raise ArgumentError(
                f"gradcheck {self.name}: forward returned {result.dtype} although its inputs are float64, so that "
                "differences would see little but rounding. Leave the conversion out, and make buffers like the input."
            )
        return np.array(result, np.float64)  # a copy: it may return one of its inputs

    def complex_forward(self, name: str) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: np.asarray(self._forward(**self._call(**{name: x})))

    def backward(self, dy: np.ndarray, times: int = 1) -> dict[str, np.ndarray | None]:
        total: dict[str, np.ndarray | None] = {}
        for _ in range(times):
            self._forward(**self._call())  # a layer may keep for its backward pass what it computed last
            own = dy.copy()  # whatever happens to it
            grads = self._by_name(self._backward(own, **self._call()))
            self.upstream_changed |= not np.array_equal(own, dy, equal_nan=True)
            for n in self.arrays:
                grad, before = self._of_input(n, grads.get(n)), total.get(n)
                total[n] = grad if before is None or grad is None else before + grad
        return total

    def _by_name(self, grads: Any) -> Mapping[str, Any]:
        """What backward returned, by the name of the input."""
        checked = list(self.arrays)
        if isinstance(grads, tuple) and len(grads) in (len(checked), len(self._order)):
            grads = dict(zip(checked if len(grads) == len(checked) else self._order, grads, strict=True))
        if isinstance(grads, np.ndarray | np.generic) and len(checked) == 1:
            return {checked[0]: grads}
        if not isinstance(grads, Mapping):
            what = f"a tuple of {len(grads)}" if isinstance(grads, tuple) else type(grads).__name__
            raise ArgumentError(
                f"{self.name} returned {what}; it must return a dict with the gradient of each input by name, "
                f"{{{', '.join(f'{n!r}: d{n}' for n in checked)}}}."
            )
        whole = [n for n in grads if grads[n] is not None and n in self._others]
        if whole:
            raise ArgumentError(
                f"{self.name} returned a gradient for {whole[0]!r}, which is not of floating point and so is not "
                "checked. Give it as floats, or leave its gradient out."
            )
        unknown = [n for n in grads if n not in self._order]
        if unknown:
            raise ArgumentError(
                f"{self.name} returned a gradient for {unknown[0]!r}, which is no input; the inputs are "
                f"{', '.join(checked)}."
            )
        return grads

    def _of_input(self, name: str, grad: Any) -> np.ndarray | None:
        """The gradient as float64; None, and a sentence in ``wrong`` the first time, if it is not one of this input."""
        if grad is None:
            return None
        grad, shape = np.asarray(grad), self.arrays[name].shape
        if grad.dtype.kind not in "fiub":
            self.wrong.setdefault(name, (f"its gradient holds {grad.dtype}, not numbers.", np.zeros(())))
            return None
        if grad.shape != shape:
            problem = f"its gradient has shape {grad.shape}, but {name} has shape {shape}."
            self.wrong.setdefault(name, (problem, np.array(grad, np.float64)))
            return None
        if grad.dtype != np.float64:
            problem = f"its gradient is {grad.dtype}, but {name} and dy are float64: something is rounded on the way."
            self.wrong.setdefault(name, (problem, None))
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
