"""Fusion: operations that wait a moment, to be computed in one pass with the ReLU or the addition that follows them.

Inside a function decorated with `fused` a convolution or a batch norm gives a `Pending` tensor.  ``F.relu(h + x)`` then
finds an operation that is still due and takes itself in.  Whoever looks at a pending tensor in any other way makes it
compute itself on the spot, and never notices; outside such a function nothing ever waits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import prod
from typing import Any
from weakref import ref

import numpy as np

from .. import kernels
from ..backend import device_of, gpu
from ..errors import GraphError
from .function import without_gradient
from .modes import modes
from .node import clock
from .operators import plain
from .tensor import Tensor

_FILLED = ("_data", "_node", "_requires_grad", "_hooks", "grad")


class Pending(Tensor):
    """A tensor whose value is still due.  Its shape and dtype are known; anything else that is asked of it computes it.

    ``function`` takes the arrays ``inputs``, the last of which is None or what is to be added to its result, and the
    option ``relu``.
    """

    __slots__ = ("_like", "absorbed", "arrays", "called", "function", "inputs", "kernels", "options", "recording")

    def __init__(
        self, function: Any, inputs: tuple[Any, ...], options: dict[str, Any], shape: tuple[int, ...],
        arrays: list[Any] | None = None,
    ) -> None:  # fmt: skip
        self.function, self.inputs, self.options = function, inputs, options
        # what the inputs hold now; one that is due is computed
        self.arrays = arrays or _arrays(inputs)
        self._like = shape, self.arrays[0].dtype
        self.recording, self.kernels = modes.grad_enabled, kernels.chosen()
        self.called = clock.now
        self.absorbed = False
        modes.waiting.append(ref(self))

    def __getattr__(self, name: str) -> Any:  # only called for what is not there yet
        if name not in _FILLED:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.compute()
        return getattr(self, name)

    @property
    def due(self) -> bool:
        """Whether the value has not been computed yet."""
        return self.inputs is not None

    @property
    def open(self) -> bool:
        """Whether it may take in an operation that is called now: due, and both recorded and computed alike."""
        due = self.inputs is not None
        return due and self.recording == modes.grad_enabled and self.kernels == kernels.chosen()

    def check(self) -> None:
        """Raise GraphError if an input is not what it was when the operation was called."""
        if clock.now == self.called:
            return
        watched = [(x, a) for x, a in zip(self.inputs, self.arrays, strict=True) if isinstance(x, Tensor)]
        another = any(x._data is not array for x, array in watched)
        if another or clock.changed((array for _, array in watched), self.called):
            raise GraphError(
                f"{self.function.__name__}: an input was changed before this result of a fused function was "
                "looked at. Look at it earlier, or turn fusion off with minires.no_fusion()."
            )

    def compute(self) -> None:
        """Fill in the value."""
        self.check()
        if self.open:
            result = self._result(self.options)
        else:  # asked for elsewhere than it was called
            before, modes.grad_enabled = modes.grad_enabled, self.recording
            try:
                with kernels.use_kernels(*self.kernels):
                    result = self._result(self.options)
            finally:
                modes.grad_enabled = before
        self.fill(result)

    def _result(self, options: dict[str, Any]) -> Tensor:
        """What the inputs give with these options."""
        if self.recording or gpu.used or modes.anomaly:
            return apply(self.function, self.inputs, options)
        return without_gradient(self.function, self.inputs, options, self.arrays)

    def fill(self, result: Tensor) -> None:
        """Become what was computed."""
        for slot in _FILLED:
            setattr(self, slot, getattr(result, slot))
        self.inputs = self.options = self.arrays = None  # type: ignore[assignment]

    # -- what is known without the value ------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self._like[0]

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype of the elements."""
        return self._like[1]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._like[0])

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self._like[0])

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda"``."""
        return self.inputs[0].device if self.due else device_of(self._data)

    @property
    def like(self) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and dtype."""
        return self._like

    # -- what can be taken in -----------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Tensor:
        both = self._plus(other)
        return super().__add__(other) if both is None else both

    def __radd__(self, other: Any) -> Tensor:
        both = self._plus(other)
        return super().__radd__(other) if both is None else both

    def _plus(self, other: Any) -> Pending | None:
        if not isinstance(other, Tensor) or (other.shape, other.dtype) != self._like:
            return None
        plain(other)  # if that is pending too, it is computed first; and it may be this one, or need it
        if not self.open or self.inputs[-1] is not None:
            return None
        return self.take_in(self.function, len(self.inputs) - 1, (other,), self.options)

    def relu(self) -> Tensor:
        """max(x, 0), in the same pass."""
        if not self.open:
            return super().relu()
        self.check()
        self.absorbed = True
        return self._result({**self.options, "relu": True})

    def take_in(self, function: Any, kept: int, others: tuple[Any, ...], options: dict[str, Any]) -> Pending:
        """What is due and the operation after it, as one: of its inputs so many, then others."""
        self.check()
        arrays = self.arrays[:kept] + _arrays(others)
        both = Pending(function, self.inputs[:kept] + others, options, self._like[0], arrays)
        self.absorbed = True
        return both

    # -- what a result that was taken in does not have ----------------------------------------------------------------

    def retain_grad(self) -> None:
        """As for every tensor, if asked before the next operation took this one in."""
        self._must_be_in_the_graph("retain_grad")
        super().retain_grad()

    def register_hook(self, hook: Callable) -> Callable[[], None]:
        """As for every tensor, if asked before the next operation took this one in."""
        self._must_be_in_the_graph("register_hook")
        return super().register_hook(hook)

    def _must_be_in_the_graph(self, caller: str) -> None:
        if self.absorbed:
            raise GraphError(
                f"{caller}: this {self.function.__name__} was computed in one pass with the operation after it, so no "
                "gradient arrives here. Ask before that operation, or turn fusion off with minires.no_fusion()."
            )


def _arrays(inputs: tuple[Any, ...]) -> list[Any]:
    return [x._data if isinstance(x, Tensor) else x for x in inputs]


def may_wait() -> bool:
    """Whether an operation that is called now may be computed later: in a `fused` function."""
    return modes.fusing and modes.may_fuse and not modes.anomaly


def later(function: Any, inputs: tuple[Any, ...], options: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    """``function.apply(*inputs, **options)``: now, or in a `fused` function when its result, of ``shape``, is used."""
    return Pending(function, inputs, options, shape) if may_wait() else apply(function, inputs, options)


def apply(function: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """``function.apply`` without the last input if there is nothing to add: the plain operation, as it is defined."""
    return function.apply(*(inputs if inputs[-1] is not None else inputs[:-1]), **options)


def fused(function: Callable) -> Callable:
    """Decorate a ``forward``: a convolution, batch norm, addition and ReLU in it that follow each other are one pass.

    The results are those of the plain operations but for rounding.  While training, the statistics of a batch norm are
    gathered as the convolution before it goes along, and the ReLU's and the addition's passes over memory are saved,
    both ways.  On a GPU a linear layer and the cross-entropy of its result are one launch each way, where such a
    function calls both.  Without recording (`no_grad`) a batch norm in evaluation is folded into the convolution.

    A gradient of a result in between exists only if it was asked for (``retain_grad``, ``register_hook``) as soon as
    that result was there.  `no_fusion` turns all this off; so does `detect_anomaly`.
    """

    @functools.wraps(function)
    def inside(*args: Any, **kwargs: Any) -> Any:
        if modes.fusing:  # in another one
            return function(*args, **kwargs)
        modes.fusing = True
        try:
            output = function(*args, **kwargs)
        except BaseException:
            modes.waiting.clear()
            raise
        finally:
            modes.fusing = False
        _settle()
        return output

    return inside


def _settle() -> None:
    """Nothing waits outside: what somebody still holds, in whatever it was put, is computed."""
    waiting = modes.waiting[:]
    modes.waiting.clear()
    for reference in waiting:
        pending = reference()
        if pending is not None:
            plain(pending)
