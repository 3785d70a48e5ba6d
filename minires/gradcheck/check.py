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
from .examine import Settings, examine
from .report import Report


def gradcheck(
    fn: Callable[..., Tensor],
    inputs: Mapping[str, Any],
    seed: int = 0,
    rtol: float = 1e-6,
    max_entries: int | None = None,
    zero: Collection[str] = (),
    name: str | None = None,
) -> Report:
    """Compare the backward pass of ``fn`` with differences of its forward pass, in float64, and say what is wrong.

    The upstream gradient is random.  Ones would hide whatever sums to a constant: the whole input gradient of a batch
    norm is zero for them, so that a backward returning nothing would pass.

    Before anything is measured, what needs no step size: the forward pass repeats itself and changes nothing, the
    backward pass is linear in its upstream gradient, and a second one adds the same once more.

    Args:
        fn: called with the inputs by name, ``fn(x=..., w=...)``, gives a Tensor of any shape.  Must be repeatable: make
            dropout take a fresh generator with a fixed seed.  A `Module` is copied, and its parameters are checked too.
        inputs: arrays or tensors by name.  Floating-point ones are copied as float64 and checked; others are passed on.
            They are checked on the device where they are, which must be that of a module.
        seed: of the upstream gradient, and of the choice of entries.
        rtol: the largest relative error allowed, |a - n| / max(|a|, |n|, 0.001 max|n|) for each entry.
        max_entries: measure so many entries of each input, chosen at random; an entry at a kink is listed and replaced
            by another.  None: every entry of an input of up to 2,000; a larger one is moved along eight random
            directions, and 64 of its entries, corners and middles first, are measured too.
        zero: names of inputs whose gradient is meant to be zero everywhere.  Any other such input fails, because
            nothing was checked.
        name: for the report.

    Returns:
        a `Report`: print it, ask ``.ok``, or call ``.assert_ok()``.

    Raises:
        ArgumentError: there is nothing to check, or the forward pass is not repeatable or not finite or changes its
            inputs, or ``zero`` holds an unknown name.
    """
    passes = _Recorded(fn, inputs, name or str(getattr(fn, "__name__", type(fn).__name__)))
    return examine(passes, Settings(seed, rtol, max_entries, zero))


class _Recorded:
    """Passes that minires records and walks."""

    def __init__(self, fn: Callable[..., Tensor], inputs: Mapping[str, Any], name: str) -> None:
        self.name, self.upstream_changed = name, False
        self._tensors, others = _split(inputs)
        if isinstance(fn, Module):
            fn = copy.deepcopy(fn).astype(np.float64)
            learned = {n: p for n, p in fn.named_parameters() if p.requires_grad}
            if self._tensors.keys() & learned:
                both = min(self._tensors.keys() & learned)
                raise ArgumentError(f"gradcheck {name}: {both!r} names an input and a parameter. Rename one of them.")
            self._tensors |= learned
        self._fn, self._call = fn, {n: t for n, t in self._tensors.items() if n in inputs} | others
        self.arrays = {n: t.data for n, t in self._tensors.items()}

    def forward(self) -> np.ndarray:
        with no_grad(), no_fusion():
            output = self._fn(**self._call)
        self._check(output, recorded=False)
        return asnumpy(output.data).copy()  # a view would change with the input it is measured against

    def backward(self, dy: np.ndarray, times: int = 1) -> dict[str, np.ndarray | None]:
        for t in self._tensors.values():
            t.grad = None
        for _ in range(times):
            with enable_grad(), no_fusion():
                output = self._fn(**self._call)
            self._check(output)
            upstream = array_module(output.data).array(dy)
            output.backward(upstream)
            self.upstream_changed |= not np.array_equal(asnumpy(upstream), dy, equal_nan=True)
        return {n: None if t.grad is None else asnumpy(t.grad) for n, t in self._tensors.items()}

    def complex_forward(self, name: str) -> None:
        return None  # tensors hold no complex numbers

    def _check(self, output: Any, recorded: bool = True) -> None:
        if not isinstance(output, Tensor) or (recorded and not output.requires_grad):
            raise ArgumentError(
                f"gradcheck {self.name}: the result is not a recorded Tensor. Compute it with operations of minires, "
                "without no_grad() or .detach()."
            )


def _split(inputs: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inputs to be checked, as fresh float64 leaves, and the rest."""
    tensors, others = {}, {}
    for name, value in inputs.items():
        array = value.data if isinstance(value, Tensor) else value
        array = np.asarray(array) if isinstance(array, float | np.floating | list) else array
        if (isinstance(array, np.ndarray) or on_gpu(array)) and array.dtype.kind == "f":
            tensors[name] = Tensor(array_module(array).array(array, np.float64, order="K"), requires_grad=True)
        else:
            others[name] = value
    return tensors, others
