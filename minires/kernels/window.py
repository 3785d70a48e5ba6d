"""The arithmetic of sliding windows, shared by convolution and pooling and by every set of kernels."""

from __future__ import annotations

Pair = tuple[int, int]
Window = tuple[Pair, Pair, Pair, int]  # of a convolution: stride, padding, dilation, groups


def extent(kernel: int, dilation: int) -> int:
    """How many pixels a window spans: its taps lie ``dilation`` apart."""
    return dilation * (kernel - 1) + 1


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """How many positions a window takes along one axis: ``(size + 2 padding - extent) // stride + 1``.

    The floor leaves trailing pixels unused when the last step would run over the edge.
    """
    return (size + 2 * padding - extent(kernel, dilation)) // stride + 1


def arithmetic(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> str:
    """The sum above in figures, for error messages: ``(32 + 2*1 - 3)//2 + 1 = 16``."""
    spanned = str(kernel) if dilation == 1 else f"({dilation}*({kernel} - 1) + 1)"
    return f"({size} + 2*{padding} - {spanned})//{stride} + 1 = {output_size(size, kernel, stride, padding, dilation)}"


def taps(position: int, kernel: int, stride: int, padding: int, dilation: int, size: int) -> list[tuple[int, int]]:
    """The (tap, pixel) pairs of one window along one axis, without those that fall into the padding."""
    start = position * stride - padding
    return [(k, start + k * dilation) for k in range(kernel) if 0 <= start + k * dilation < size]


def reach(tap: int, positions: int, stride: int, dilation: int = 1) -> slice:
    """The padded pixels that one tap of the window visits over all its positions, as a slice."""
    start = tap * dilation
    return slice(start, start + stride * (positions - 1) + 1, stride)
