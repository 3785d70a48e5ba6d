"""What the operands of convolutions and products are rounded to on the tensor cores."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError
from .module import PRECISIONS


class _Setting:
    name = "fp32"


_setting = _Setting()


def get_precision() -> str:
    """The precision in use: "fp32", "tf32", "bf16" or "fp16"."""
    return _setting.name


def set_precision(name: str) -> None:
    """Round the operands of float32 convolutions and matrix products on a GPU to this, in every thread.

    Everything is stored, and every sum is taken, in float32: weights, activations, gradients, statistics.

    Args:
        name: "fp32" (nothing is rounded, and the tensor cores are not used; the default), "tf32" (10 bits of
            fraction, as PyTorch's convolutions by default), "bf16" (7 bits) or "fp16" (10 bits, but only up to 65504:
            what overflows becomes infinite, and small gradients vanish, so that the loss wants a scale).

    Raises:
        ArgumentError: there is no such precision.
    """
    if name not in PRECISIONS:
        raise ArgumentError(f"set_precision: there is no precision {name!r}; choose one of {', '.join(PRECISIONS)}.")
    _setting.name = name


class use_precision:
    """`set_precision` inside a ``with`` block."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._before: list[str] = []

    def __enter__(self) -> use_precision:
        self._before.append(get_precision())
        set_precision(self._name)
        return self

    def __exit__(self, *exception: Any) -> None:
        set_precision(self._before.pop())
