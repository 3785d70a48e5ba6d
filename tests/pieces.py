"""Kernels that are made to split their work, however little there is of it."""

from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import pytest

import minires
from minires.kernels.numpy import columns, conv, depthwise, im2col, norm, norm_gradient, product, tiles, winograd
from minires.kernels.numpy.buffers import Shelves


@contextmanager
def in_threads(number):
    """Use this many threads where there is enough work for them."""
    before = minires.get_num_threads()
    minires.set_num_threads(number)
    try:
        yield
    finally:
        minires.set_num_threads(before)


def in_squares(wherever_possible, patch):
    """Let Winograd filter squares wherever it can, or rows only, as long as the patch holds."""
    patch.setattr(winograd, "_WIDE", 0 if wherever_possible else np.inf)
    for name, value in {"_FEW_SQUARES": 0, "_FULL": 0, "_LARGE_SQUARES": 8}.items():
        patch.setattr(winograd, name, value)
    patch.setattr(winograd, "_planned", lru_cache(winograd._planned.__wrapped__))


@contextmanager
def split(number, tile_bytes=None, squares=None):
    """Use this many threads for any amount of work, in tiles of at most so many bytes (None: of the usual size).

    Winograd filters squares wherever it can (True), rows (False), or what it would without this (None).
    """
    with in_threads(number), pytest.MonkeyPatch.context() as patch:
        if squares is not None:
            in_squares(squares, patch)
        patch.setattr(norm, "_SMALL", -1)
        patch.setattr(product, "SMALL", -1)
        for module in (depthwise, im2col, product, winograd):
            patch.setattr(module, "_LEAST_WORK", 1)
        patch.setattr(im2col, "_shelves", Shelves(im2col._KEPT))  # what was prepared for other sizes of the pieces
        for module, planned in ((im2col, "_plan_forward"), (im2col, "_plan_backward"), (winograd, "_planned")):  # and
            patch.setattr(module, planned, getattr(module, planned).__wrapped__)  # what was planned
        patch.setattr(winograd, "_FLAT", 0)
        patch.setattr(conv, "_chosen", conv._chosen.__wrapped__)  # which way was chosen before, without that
        patch.setattr(im2col, "_NARROW", 4)
        few = range(product._FEW.start, 5)
        sizes = {"CALL": 40, "_TURNED": 6, "SLIM": 2, "_SHORT": 2, "_FEW": few, "_MANY": 2}
        for name, value in sizes.items():
            patch.setattr(product, name, value)
        for module in (columns, product):
            patch.setattr(module, "DIRECT", True)
        patch.setattr(tiles, "_NEAR", 8)
        patch.setattr(columns, "CALL", 300)
        patch.setattr(columns, "_LEAST_ROWS", 2)
        patch.setattr(columns, "_LEAST_SUMMED", 4)
        patch.setattr(columns, "_LONG", 1)
        patch.setattr(columns, "_LOCKED", 100)
        if tile_bytes is not None:
            patch.setattr(im2col, "_TILE_BYTES", tile_bytes)
            patch.setattr(winograd, "_TILE_BYTES", tile_bytes)
            patch.setattr(winograd, "_NARROW", 0)
            patch.setattr(winograd, "_SQUARES", 1)
            numbers = max(1, tile_bytes // 8)
            patch.setattr(tiles, "_CHUNK", numbers)
            patch.setattr(tiles.as_rows, "__defaults__", (max(1, numbers // 5),))  # so that a chunk is several rows
            for module in (norm, norm_gradient):
                patch.setattr(module, "LONG", max(1, numbers // 5))
        yield
