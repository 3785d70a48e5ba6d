"""Checks of arguments.  Each error shows the shapes and the arithmetic that does not work out."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, gpu, on_gpu
from ..errors import ArgumentError, DeviceError, ShapeError
from ..kernels.window import Pair, arithmetic, extent, output_size
from ..tensor import Tensor, as_tensor, is_anomaly_detected

Size = int | tuple[int, int]


def pair(value: Size, name: str, least: int) -> Pair:
    """An int or a (rows, columns) pair as a pair of ints, each at least ``least``."""
    if type(value) is tuple and len(value) == 2:
        rows, columns = value
        if type(rows) is type(columns) is int and least <= rows and least <= columns:
            return value  # as layers pass it: 1.5 us less
    both: Any = value if isinstance(value, tuple | list) else (value, value)
    whole = len(both) == 2 and all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in both)
    if not whole or min(both) < least:
        raise ArgumentError(
            f"{name} must be an integer of at least {least}, or a pair of them (rows, columns); got {value!r}."
        )
    return int(both[0]), int(both[1])


def pictures(x: Any, caller: str) -> Tensor:
    """x as a floating-point tensor of shape (N, H, W, C)."""
    x = as_tensor(x)
    if x.ndim != 4:
        raise ShapeError(
            f"{caller}: expected pictures (N, H, W, C), got shape {x.shape} with {x.ndim} axes."
            + (" Add a batch axis: x[None]." if x.ndim == 3 else "")
        )
    return floating(x, caller)


def floating(x: Any, caller: str) -> Tensor:
    """x as a tensor, which must be of floating point."""
    x = as_tensor(x)
    if x.dtype.kind != "f":
        raise ArgumentError(f"{caller}: expected floating point, got {x.dtype}. Convert it: x.astype('float32').")
    return x


def window_fits(caller: str, x_shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair,
                dilation: Pair = (1, 1)) -> Pair:  # fmt: skip
    """How many rows and columns the window gives; ShapeError if it has no place at all in the padded picture."""
    positions = []
    for axis, what in enumerate(("rows", "columns")):
        size, window = x_shape[1 + axis], extent(kernel[axis], dilation[axis])
        sizes = kernel[axis], stride[axis], padding[axis], dilation[axis]
        positions.append(output_size(size, *sizes))
        if positions[-1] < 1:
            raise ShapeError(
                f"{caller}: a window of {window} {what} does not fit a picture of {size} {what} with padding "
                f"{padding[axis]}: {arithmetic(size, *sizes)} {what}. Use a smaller window or more padding."
            )
    return positions[0], positions[1]


def same_device(caller: str, **tensors: Tensor | None) -> None:
    """Raise DeviceError unless all are on one device."""
    if not gpu.used:
        return
    given = {name: t for name, t in tensors.items() if t is not None}
    (name, first), *others = given.items()
    for other, t in others:
        if t.device != first.device:
            stray, at = (name, first.device) if first.device == "cpu" else (other, t.device)
            raise DeviceError(
                f"{caller}: {name} {first.shape} {first.dtype} is on {first.device}, but {other} {t.shape} {t.dtype} "
                f'on {t.device}. Move {stray}, which is on {at}: {stray}.to("cuda"), or the whole model: '
                'model.to("cuda").'
            )


def same_dtype(caller: str, **tensors: Tensor | None) -> None:
    """Raise ArgumentError unless all are of one dtype."""
    dtypes = {name: t.dtype for name, t in tensors.items() if t is not None}
    if len(set(dtypes.values())) > 1:
        raise ArgumentError(
            f"{caller}: all arguments must have one dtype, got {', '.join(f'{n} {d}' for n, d in dtypes.items())}. "
            "Convert with .astype(dtype), or the whole model with model.astype(dtype)."
        )


def class_numbers(labels: Array, classes: int, caller: str) -> None:
    """Raise ArgumentError unless the labels are integers from 0 to ``classes - 1``.

    On a GPU the host would have to wait for every batch to know, so that their range is looked at only under
    `detect_anomaly`.
    """
    if labels.dtype.kind not in "iu":
        raise ArgumentError(f"{caller}: labels must be integers, got {labels.dtype}.")
    if labels.size and (not on_gpu(labels) or is_anomaly_detected()):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ArgumentError(
                f"{caller}: labels must be 0 to {classes - 1} for {classes} classes, got {low} to {high}."
            )


def probability(value: float, name: str) -> float:
    """A number in [0, 1), as a Python float: a NumPy scalar would widen float32 under NumPy 2."""
    if not 0 <= value < 1:
        raise ArgumentError(f"{name} must be at least 0 and below 1, got {value!r}.")
    return float(value)


def channels_match(caller: str, x: Tensor, **per_channel: Tensor) -> None:
    """Raise ShapeError unless each tensor has one value for each channel of x, its last axis."""
    channels = x.shape[-1:]
    for name, value in per_channel.items():
        if value.shape != channels:
            raise ShapeError(
                f"{caller}: {name} has shape {value.shape} but x {x.shape} has {x.shape[-1]} channels on its last axis."
            )
