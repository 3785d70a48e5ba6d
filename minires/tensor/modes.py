"""Switches that change how operations are recorded and computed: no_grad, enable_grad, detect_anomaly, no_fusion.

One set for each thread.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

# The threads that do not record, or that detect anomalies, or that note a tape.  While there are none, nobody asks:
# each question to a `threading.local` takes 0.03 us.
unusual: set[int] = set()


class _Modes(threading.local):
    grad_enabled = True
    anomaly = False
    may_fuse = True
    fusing = False  # inside a function decorated with `fused`
    tape: list[Any] | None = None  # where operations are noted to be replayed: (forward, inputs, options, output)

    def __init__(self) -> None:
        self.waiting: list[Any] = []  # weak references to what waits in a `fused` function

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if self.grad_enabled and not self.anomaly and self.tape is None:
            unusual.discard(threading.get_ident())
        else:
            unusual.add(threading.get_ident())


modes = _Modes()


_LATER = {  # whose body runs after a decorator has returned
    "generator": inspect.isgeneratorfunction,
    "coroutine": inspect.iscoroutinefunction,
    "asynchronous generator": inspect.isasyncgenfunction,
}


class _Switch:
    """Sets one attribute of `modes` inside a ``with`` block or a decorated function, and puts the old value back."""

    attribute: str
    value: bool

    def __init__(self, *misplaced: Any) -> None:
        if misplaced:
            raise TypeError(f"{type(self).__name__} takes no arguments; as a decorator it is @{type(self).__name__}().")
        # by thread; a stack, as the same object may be entered again inside itself
        self._before: defaultdict[int, list[bool]] = defaultdict(list)

    def __enter__(self) -> _Switch:
        self._before[threading.get_ident()].append(getattr(modes, self.attribute))
        setattr(modes, self.attribute, self.value)
        return self

    def __exit__(self, *exception: Any) -> None:
        setattr(modes, self.attribute, self._before[threading.get_ident()].pop())

    def __call__(self, function: Callable) -> Callable:
        kind = next((kind for kind, is_one in _LATER.items() if is_one(function)), None)
        if kind is not None:
            raise TypeError(
                f"{type(self).__name__} cannot decorate the {kind} {function.__name__}: its body runs after the "
                "decorator has returned. Use a with block inside it."
            )

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with type(self)():
                return function(*args, **kwargs)

        return inside


class no_grad(_Switch):
    """Record nothing: ``with no_grad(): ...`` or ``@no_grad()``.  Results do not require gradients."""

    attribute, value = "grad_enabled", False


class enable_grad(_Switch):
    """Record again inside a `no_grad` block: ``with enable_grad(): ...`` or ``@enable_grad()``."""

    attribute, value = "grad_enabled", True


class detect_anomaly(_Switch):
    """Stop at the first NaN or infinity, forward or backward, naming the operation and the line that called it.

    Arrays that an operation saves are fingerprinted as well, so that one changed behind the engine's back
    (``x.numpy()[0] = 5``) is caught before it gives a wrong gradient.  Costs time: find the bug, then remove it.

    Raises:
        AnomalyError: from the operation that produced the value, or from ``backward()`` in its backward.
    """

    attribute, value = "anomaly", True


class no_fusion(_Switch):
    """Compute every operation by itself and at once, as it is defined, also in functions decorated with `fused`."""

    attribute, value = "may_fuse", False


def is_anomaly_detected() -> bool:
    """Whether `detect_anomaly` is on in this thread."""
    return modes.anomaly


def is_grad_enabled() -> bool:
    """Whether operations are being recorded in this thread."""
    return modes.grad_enabled
