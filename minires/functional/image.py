"""Convolution, pooling and padding of pictures (N, H, W, C)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..backend import gpu
from ..errors import ShapeError
from ..kernels.window import Window
from ..ops.conv import Conv2d, SubsamplePad
from ..ops.pool import AvgPool2d, MaxPool2d
from ..tensor import Tensor, as_tensor, later
from .array import pad
from .checks import Size, floating, pair, pictures, same_device, same_dtype, window_fits


def conv2d(
    x: Any, w: Any, b: Any = None, stride: Size = 1, padding: Size = 0, dilation: Size = 1, groups: int = 1
) -> Tensor:
    """Convolve pictures with filters (cross-correlation: filters are not flipped).

    Args:
        x: pictures (N, H, W, C).
        w: filters (KH, KW, C / groups, O).
        b: a bias (O,), or None.
        stride, padding, dilation: an int, or a pair (rows, columns).  Padding is with zeros on every side.
        groups: input and output channels in this many groups that do not see each other; C for a depthwise convolution.

    Returns:
        (N, OH, OW, O) with OH = (H + 2 padding - dilation (KH - 1) - 1) // stride + 1, and OW likewise: trailing pixels
        that no window reaches are left out.

    Raises:
        ShapeError: wrong rank, channels that do not match, groups that do not divide, a window larger than the picture.
    """
    x, w = as_tensor(x), as_tensor(w)
    if not (len(x.shape) == 4 and x.dtype is w.dtype and w.dtype.kind == "f"):  # else nobody need be asked
        x, w = pictures(x, "conv2d"), floating(w, "conv2d")
    b = None if b is None else floating(b, "conv2d")
    if type(groups) is not int:
        if not isinstance(groups, np.integer):
            raise ShapeError(f"conv2d: groups must be an integer, got {groups!r}.")
        groups = int(groups)
    stride, padding = pair(stride, "conv2d: stride", 1), pair(padding, "conv2d: padding", 0)
    window = stride, padding, pair(dilation, "conv2d: dilation", 1), groups
    y_shape = _conv2d_shape(x.shape, w.shape, None if b is None else b.shape, window)
    if b is not None or x.dtype != w.dtype:
        same_dtype("conv2d", x=x, w=w, b=b)
    if gpu.used:
        same_device("conv2d", x=x, w=w, b=b)
    return later(Conv2d, (x, w, b, None), {"window": window}, y_shape)


@lru_cache(maxsize=256)  # a network asks about the same few shapes again and again
def _conv2d_shape(x_shape, w_shape, b_shape, window: Window):
    """The shape of the result; ShapeError if the shapes do not fit."""
    stride, padding, dilation, groups = window
    if len(w_shape) != 4:
        raise ShapeError(f"conv2d: expected filters (KH, KW, C_in / groups, C_out), got shape {w_shape}.")
    if min(w_shape) < 1:
        raise ShapeError(f"conv2d: the filters have shape {w_shape}, so that there is nothing to convolve with.")
    channels, out_channels = x_shape[3], w_shape[3]
    if groups < 1 or channels % groups or out_channels % groups:
        raise ShapeError(
            f"conv2d: groups {groups} must divide the {channels} channels of x and the {out_channels} filters in w."
        )
    if channels != w_shape[2] * groups:
        raise ShapeError(
            f"conv2d: x has {channels} channels but w expects {w_shape[2] * groups} "
            f"(x {x_shape}, w {w_shape}, groups {groups})."
        )
    if b_shape not in (None, (out_channels,)):
        raise ShapeError(f"conv2d: the bias has shape {b_shape} but w {w_shape} makes {out_channels} channels.")
    rows, columns = window_fits("conv2d", x_shape, w_shape[:2], stride, padding, dilation)
    return x_shape[0], rows, columns, out_channels


def max_pool2d(x: Any, kernel: Size, stride: Size | None = None, padding: Size = 0) -> Tensor:
    """The maximum of each window; of equal elements the first gets the gradient.  Padding never wins.

    Args:
        x: pictures (N, H, W, C).
        kernel: the window, an int or (rows, columns).
        stride: its step; the window itself if left out.
        padding: at most half the window, so that every window sees a pixel.

    Raises:
        ShapeError: wrong rank, padding over half the window, or a window larger than the padded picture.
    """
    x, window = _pooled(x, kernel, stride, padding, "max_pool2d")
    return MaxPool2d.apply(x, **window)


def avg_pool2d(x: Any, kernel: Size, stride: Size | None = None, padding: Size = 0) -> Tensor:
    """The mean of each window, the zeros of the padding counted as its cells.  Arguments as for `max_pool2d`."""
    x, window = _pooled(x, kernel, stride, padding, "avg_pool2d")
    return AvgPool2d.apply(x, **window)


def _pooled(x, kernel, stride, padding, caller):
    x, kernel = pictures(x, caller), pair(kernel, f"{caller}: kernel", 1)
    stride = kernel if stride is None else pair(stride, f"{caller}: stride", 1)
    padding = pair(padding, f"{caller}: padding", 0)
    if padding[0] > kernel[0] // 2 or padding[1] > kernel[1] // 2:
        raise ShapeError(
            f"{caller}: padding {padding} is more than half of the window {kernel}, so that some windows would hold "
            "padding only. Use less padding."
        )
    window_fits(caller, x.shape, kernel, stride, padding)
    return x, {"kernel": kernel, "stride": stride, "padding": padding}


def global_avg_pool2d(x: Any) -> Tensor:
    """The mean over all pixels: (N, H, W, C) -> (N, C)."""
    return pictures(x, "global_avg_pool2d").mean((1, 2))


def pad2d(x: Any, padding: Size, value: float = 0.0) -> Tensor:
    """A border of ``value`` around pictures (N, H, W, C): ``padding`` rows and columns on each side."""
    rows, columns = pair(padding, "pad2d: padding", 0)
    x = as_tensor(x)
    if x.ndim != 4:
        raise ShapeError(f"pad2d: expected pictures (N, H, W, C), got shape {x.shape}.")
    return pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)), value)


def subsample_pad(x: Any, stride: Size, channels: int) -> Tensor:
    """Every stride-th pixel, zero channels appended: the parameter-free shortcut (He et al. 2015, option A).

    Args:
        x: pictures (N, H, W, C).
        stride: an int or a pair.
        channels: how many the result has, at least C.

    Returns:
        (N, ceil(H / stride), ceil(W / stride), channels)
    """
    x = pictures(x, "subsample_pad")
    if channels < x.shape[3]:
        raise ShapeError(
            f"subsample_pad: cannot pad {x.shape[3]} channels to {channels}: this shortcut only adds channels. "
            "To have fewer use a projection (a 1x1 convolution)."
        )
    return SubsamplePad.apply(x, stride=pair(stride, "subsample_pad: stride", 1), channels=channels)
