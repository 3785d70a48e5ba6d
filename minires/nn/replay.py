"""A model in evaluation, recorded once and replayed: the operations alone, without the Python that chose them.

On one small picture most of the time of a network goes into finding out what to compute: modules, checks of arguments,
fusion.  For pictures of one shape the answer is always the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..errors import ArgumentError, GraphError
from ..tensor import Tensor, asnumpy, no_grad
from ..tensor.function import outcome
from ..tensor.modes import modes
from .module import Module

_AGREEMENT = 1e-4  # relative, of two runs of the same kernels


class Replay:
    """``fast = Replay(model)``: ``fast(x)`` is ``model(x)`` under `no_grad`, recorded at the first call for each shape.

    It computes with the parameters and buffers as they are at each call, however they were changed.  What is not an
    operation is not repeated: hooks, prints, and branches that look at the values of x.  When something is recorded it
    is replayed once on another input and compared with the model, so that a model that cannot be replayed is found out.

    Args:
        model: in evaluation (``model.eval()``); returns one Tensor.
    """

    def __init__(self, model: Module) -> None:
        self.model = model
        self._programs: dict[Any, _Program] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The model's output for these inputs.

        Raises:
            ArgumentError: the model is in training, or an input is no Tensor.
            GraphError: the model cannot be replayed.
        """
        if self.model.training:
            raise ArgumentError("Replay: the model is in training, where no two runs are alike. Call model.eval().")
        if not all(isinstance(x, Tensor) for x in inputs):
            raise ArgumentError(f"Replay: inputs must be Tensors, got {', '.join(type(x).__name__ for x in inputs)}.")
        key = *((x.shape, x.dtype, x.device) for x in inputs), kernels.chosen()
        program = self._programs.get(key)
        if program is None or not program.is_current():
            program = self._programs[key] = self._recorded(inputs)
        return Tensor(program([x.data for x in inputs]))

    def _recorded(self, inputs: tuple[Tensor, ...]) -> _Program:
        before, modes.tape = modes.tape, []
        try:
            with no_grad():
                output = self.model(*inputs)
            tape = modes.tape
        finally:
            modes.tape = before
        if not isinstance(output, Tensor):
            raise ArgumentError(f"Replay: the model must return one Tensor, got {type(output).__name__}.")
        program = _Program(
            tape, inputs, output, [*self.model.parameters(), *(b for _, b in self.model.named_buffers())]
        )
        self._check(program, inputs)
        return program

    def _check(self, program: _Program, inputs: tuple[Tensor, ...]) -> None:
        """Raise GraphError unless the program gives what the model gives on other inputs."""
        others = [Tensor(_other(x.data)) for x in inputs]
        with no_grad():
            expected = asnumpy(self.model(*others).data)
        got = asnumpy(program([x.data for x in others]))
        size = max(float(np.abs(expected).max(initial=0.0)), 1e-30)
        if got.shape != expected.shape or not np.allclose(
            got, expected, rtol=0, atol=_AGREEMENT * size, equal_nan=True
        ):
            raise GraphError(
                f"Replay: {type(self.model).__name__} cannot be replayed: on another input it gives something else. It "
                "computes outside of operations, draws random numbers, or looks at the values of its input."
            )


class _Program:
    """Operations in their order, each with the numbers of the arrays that it takes.

    Arrays that no operation has made are parameters, buffers and constants; they are held as they are, not copied.
    """

    def __init__(self, tape: list[Any], inputs: tuple[Tensor, ...], output: Tensor, held: list[Tensor]) -> None:
        self._held = [(t, t.data) for t in held]
        self._tape = tape  # keeps all arrays, so that none takes the place of another in memory
        number = {id(x.data): i for i, x in enumerate(inputs)}
        made: list[tuple[type, list[Any], dict[str, Any], int]] = []
        for cls, given, options, result in tape:
            arguments = [_Slot(number[id(x.data)]) if isinstance(x, Tensor) and id(x.data) in number
                         else x.data if isinstance(x, Tensor) else x for x in given]  # fmt: skip
            number[id(result.data)] = len(inputs) + len(made)
            made.append((cls, arguments, options, len(inputs) + len(made)))
        if id(output.data) not in number:
            raise GraphError("Replay: the model's output was not made by its operations, or is a constant.")
        self._result, self._count = number[id(output.data)], len(inputs) + len(made)
        self._steps = _with_ends(_needed(made, self._result), self._result)
        self._tape = []
        self._inputs = len(inputs)

    def is_current(self) -> bool:
        """Whether every parameter and buffer is still the array that it was; its values may have changed."""
        return all(t.data is array for t, array in self._held)

    def __call__(self, inputs: list[Any]) -> Any:
        """Compute the output."""
        values: list[Any] = [*inputs, *[None] * (self._count - self._inputs)]
        for cls, arguments, options, number, ended in self._steps:
            arrays = [values[a.number] if type(a) is _Slot else a for a in arguments]
            values[number] = outcome(cls, arrays, options)
            for i in ended:
                values[i] = None  # so that its memory can be used again
        return values[self._result]


class _Slot:
    """The number of an array that is made on the way."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def _needed(steps: list[Any], result: int) -> list[Any]:
    """The steps that the result depends on."""
    wanted, kept = {result}, []
    for step in reversed(steps):
        if step[3] in wanted:
            wanted |= {a.number for a in step[1] if type(a) is _Slot}
            kept.append(step)
    return kept[::-1]


def _with_ends(steps: list[Any], result: int) -> list[Any]:
    """Each step with the numbers of the arrays that nobody needs after it."""
    last = {a.number: i for i, step in enumerate(steps) for a in step[1] if type(a) is _Slot}
    ends: list[list[int]] = [[] for _ in steps]
    for number, i in last.items():
        if number != result:
            ends[i].append(number)
    return [(*step, tuple(end)) for step, end in zip(steps, ends, strict=True)]


def _other(array: Any) -> Any:
    """Another array of the same kind and range."""
    turned = array[tuple(slice(None, None, -1) for _ in array.shape)]
    return turned * array.dtype.type(0.5) if array.dtype.kind == "f" else turned.copy()
