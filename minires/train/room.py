"""How large a batch the memory of the GPU has room for, once it has turned out that it has not."""

from __future__ import annotations

import contextlib
import gc
import traceback
from collections.abc import Iterator

from ..backend import gpu
from ..backend.room import free_memory, is_out_of_memory, out_of_memory
from ..errors import DeviceError
from ..inspect.summary import summary
from ..nn import Module

# Measured against what is kept of one picture for the backward pass (training), and against the largest output of a
# layer, of which a few are there at a time: the operands of an operation and its result, or their gradients.
_KEPT, _AT_A_TIME = 1.5, 4
_SHARE = 0.9  # of the free memory: pools leave gaps


@contextlib.contextmanager
def batch_that_fits(model: Module, image_shape: tuple[int, ...], batch: int, training: bool) -> Iterator[None]:
    """Say which batch would fit if the GPU's memory is not enough inside the ``with`` block.

    Args:
        model: what runs there.
        image_shape: (H, W, C) of its pictures.
        batch: how many pictures at a time.
        training: whether there is a backward pass.

    Raises:
        DeviceError: CuPy found no memory; with what was asked, what is free, and the largest power of two below
            ``batch`` that is estimated to fit.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        told = out_of_memory(error)
        traceback.clear_frames(error.__traceback__)  # which hold the arrays that fill the memory
        gc.collect()
        fits = _largest_batch(model, image_shape, batch, training)
        advice = f"A batch of {fits} would fit instead of {batch}" if fits else "Not even one picture would fit"
        raise DeviceError(f"{told}. {advice}.") from error


def _largest_batch(model: Module, image_shape: tuple[int, ...], batch: int, training: bool) -> int:
    try:
        costs = summary(model, image_shape)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return 0
    each = _AT_A_TIME * max(row.output_bytes for row in costs.rows) + (_KEPT * costs.saved_bytes if training else 0)
    gradients = sum(p.data.nbytes for p in model.parameters() if p.grad is None) if training else 0
    gpu.module.get_default_memory_pool().free_all_blocks()  # type: ignore[union-attr]
    room = int((_SHARE * free_memory()[0] - 2 * gradients) // each)  # a momentum comes with each gradient
    return min(1 << max(room.bit_length() - 1, 0), 1 << max((batch - 1).bit_length() - 1, 0)) if room >= 1 else 0
