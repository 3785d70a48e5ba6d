"""The sizes of a grader's arrays: as it writes them, as a seed draws them, or as a teacher says."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from ..errors import ArgumentError

_WIDER = 4  # a drawn size is at most so much larger than what is written


def parse(text: str) -> dict[str, int]:
    """``"N=4,C=6"`` as a dict.

    Raises:
        ArgumentError: it is something else.
    """
    sizes = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if not (name.isidentifier() and equals and number.isdecimal() and int(number) > 0):
            raise ArgumentError(f"shapes are written as N=4,C=6, names and sizes from 1 on, not {text!r}.")
        sizes[name] = int(number)
    return sizes


def draw(least: Mapping[str, int], seed: int = 0, shapes: Mapping[str, int] | None = None) -> tuple[int, ...]:
    """A size for each name: ``shapes`` first, then, with seed 0, what is written, else a number from there on.

    Drawn sizes are at most 4 larger than what is written, and differ from each other and from those of ``shapes``,
    so that no two axes can be taken for one another; where that leaves nothing, larger ones are taken.

    Raises:
        ArgumentError: one of ``shapes`` is less than what is written, which is the least that the test can take.
    """
    shapes = {name: size for name, size in (shapes or {}).items() if name in least}
    for name, size in shapes.items():
        if size < least[name]:
            raise ArgumentError(f"the size {name} must be at least {least[name]} in this test, got {size}.")
    if seed == 0:
        return tuple(shapes.get(name, size) for name, size in least.items())
    rng = np.random.default_rng([seed, zlib.crc32(repr(sorted(least.items())).encode())])
    taken = dict(shapes)
    for name in sorted(least.keys() - shapes.keys(), key=lambda n: (least[n], n)):  # the small ones have least choice
        start = least[name]
        free = [size for size in range(start, start + _WIDER + 1) if size not in taken.values()]
        while not free:
            start += 1
            free = [size for size in [start + _WIDER] if size not in taken.values()]
        taken[name] = int(rng.choice(free))
    return tuple(taken[name] for name in least)
