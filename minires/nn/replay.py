"""A model in evaluation, recorded once and replayed: the operations alone, without the Python that chose them.

On one small picture much of the time of a network goes into finding out what to compute: modules, checks of arguments,
fusion.  For pictures of one shape the answer is always the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import kernels
from ..backend import array_module, asnumpy, on_gpu
from ..errors import ArgumentError, GraphError
from ..tensor import Tensor, no_grad
from ..tensor.function import outcome
from ..tensor.modes import modes
from .module import Module, Parameter

_AGREEMENT = 1e-4  # relative, of two runs of the same kernels
_WHY = (
    "It computes outside of operations or changes arrays in place, draws random numbers, or looks at the values of its "
    "input."
)


class Replay:
    """``fast = Replay(model)``: ``fast(x)`` is ``model(x)`` under `no_grad`, recorded at the first call for each shape.

    It computes with the parameters and buffers as they are at each call, and records anew when one of them, or a
    module, is another one.  What is not an operation is not repeated: hooks, prints, numbers that are attributes of a
    module, and branches that look at the values of x.  When something is recorded it is replayed once on random inputs
    and compared with the model, so that most models that cannot be replayed are found out.

    Under `detect_anomaly` the model itself is run.

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
        if modes.anomaly:
            with no_grad():
                return self.model(*inputs)
        key = *((x.shape, x.dtype, x.device) for x in inputs), kernels.chosen(), modes.may_fuse
        program = self._programs.get(key)
        if program is None or not program.is_current(self.model):
            program = self._programs[key] = self._recorded([x.data for x in inputs])
        return Tensor(program([x.data for x in inputs]))

    def __getstate__(self) -> dict[str, Any]:
        """A copy records for itself: programs hold the parameters of the model that they were recorded from."""
        return {"model": self.model, "_programs": {}}

    def _recorded(self, arrays: list[Any]) -> _Program:
        inputs = [Tensor(a.copy()) for a in arrays]  # one for each, even where one array is given twice
        before, modes.tape, modes.fusing = (modes.tape, modes.fusing), [], False
        try:
            with no_grad():
                output = self.model(*inputs)
            tape = modes.tape
        finally:
            modes.tape, modes.fusing = before
        if not isinstance(output, Tensor):
            raise ArgumentError(f"Replay: the model must return one Tensor, got {type(output).__name__}.")
        program = _Program(tape, inputs, output, self.model)
        self._check(program, arrays)
        return program

    def _check(self, program: _Program, arrays: list[Any]) -> None:
        """Raise GraphError unless the program gives what the model gives on other inputs."""
        rng = np.random.default_rng(0)
        others = [_random(a, rng) for a in arrays]
        with no_grad():
            expected = asnumpy(self.model(*(Tensor(a.copy()) for a in others)).data)
        got = asnumpy(program(others))
        size = float(np.abs(expected[np.isfinite(expected)]).max(initial=1e-30))
        if got.shape != expected.shape or not np.allclose(
            got, expected, rtol=0, atol=_AGREEMENT * size, equal_nan=True
        ):
            raise GraphError(
                f"Replay: {type(self.model).__name__} cannot be replayed: on another input it gives something else. "
                + _WHY
            )


class _Program:
    """Operations in their order, each with the numbers of the arrays that it takes.

    Arrays that no operation has made are parameters, buffers and constants; they are held as they are, not copied.
    """

    def __init__(self, tape: list[Any], inputs: list[Tensor], output: Tensor, model: Module) -> None:
        self._model, modules = model, list(model.modules())
        self._kinds = [(m._kinds, len(m._kinds)) for m in modules]
        self._modules = [(vars(m), name, child) for m in modules for name, child in m.named_children()]
        # under every name, also where two names have one tensor
        self._tensors: list[Any] = [(vars(m), name, t, t.data) for m in modules for kind in (Parameter, Tensor)
                         for name, t in m._own(kind)]  # fmt: skip
        held = {id(array) for *_, array in self._tensors}
        number = {id(x.data): i for i, x in enumerate(inputs)}
        made: list[tuple[type, list[Any], dict[str, Any], int]] = []
        for cls, given, options, result in tape:  # which keeps all arrays, so that none takes the place of another
            for name, array in _arrays_in(options):
                if id(array) not in held:
                    raise GraphError(
                        f"Replay: {cls.__name__} takes an array as its option {name!r}, which a replay would keep as "
                        "it is. Leave this operation to the model's caller."
                    )
            arrays = [x.data if isinstance(x, Tensor) else x for x in given]
            place = len(inputs) + len(made)
            made.append((cls, [_Slot(number[id(a)]) if id(a) in number else a for a in arrays], options, place))
            number[id(result.data)] = place
        if id(output.data) not in number:
            raise GraphError(
                "Replay: the model's output is a constant, or no operation has made it: comparisons and the like have "
                "no derivative and are not recorded."
            )
        self._result, self._count, self._inputs = number[id(output.data)], len(inputs) + len(made), len(inputs)
        steps = _needed(made, self._result)
        if any(on_gpu(x.data) for x in inputs):
            steps = [(cls, list(map(_as_number, given)), options, place) for cls, given, options, place in steps]
        self._steps = _with_ends(steps, self._result)

    def is_current(self, model: Module) -> bool:
        """Whether this is its model, and every parameter, buffer and module still what it was, and no more of them.

        Values may have changed.
        """
        return (
            model is self._model
            and all(own.get(name) is t and t._data is array for own, name, t, array in self._tensors)
            and all(own.get(name) is child and not child.training for own, name, child in self._modules)
            and all(len(kinds) == number for kinds, number in self._kinds)
        )

    def __call__(self, inputs: list[Any]) -> Any:
        """Compute the output."""
        values: list[Any] = [*inputs, *[None] * (self._count - self._inputs)]
        for cls, given, options, number, ended in self._steps:
            arrays = [values[a.number] if type(a) is _Slot else a for a in given]
            values[number] = outcome(cls, arrays, options)
            for i in ended:
                values[i] = None  # so that its memory can be used again
        return values[self._result]


class _Slot:
    """The number of an array that is made on the way."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def _arrays_in(options: Any) -> Iterator[tuple[str, Any]]:
    """Arrays among options, whatever they are wrapped in, with the name of the option."""
    for name, value in options.items():
        todo = [value]
        while todo:
            one = todo.pop()
            one = one.data if isinstance(one, Tensor) else one
            if isinstance(one, tuple | list):
                todo += one
            elif isinstance(one, np.ndarray) or on_gpu(one):  # a NumPy number is none
                yield name, one


def _as_number(value: Any) -> Any:
    """A number on the host as such, which meets arrays on any device."""
    return value[()] if isinstance(value, np.ndarray) and not value.ndim else value


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


def _random(array: Any, rng: np.random.Generator) -> Any:
    """Another array of the same kind: random numbers of the same size, or the same whole numbers in another order."""
    values = asnumpy(array)
    if values.dtype.kind == "f":
        size = float(np.std(values[np.isfinite(values)])) if values.size else 1.0
        values = (size or 1.0) * rng.standard_normal(values.shape)
    elif values.dtype.kind == "b":
        values = rng.integers(0, 2, values.shape)
    else:
        values = rng.permutation(values.reshape(-1)).reshape(values.shape)
    return array_module(array).asarray(values, dtype=array.dtype)
