"""Pictures as (N, C, H, W) and kernels as (O, C, KH, KW), turned into the layout that the hypotheses know."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from .case import Case

_PICTURE, _KERNEL = (0, 2, 3, 1), (2, 3, 1, 0)  # to (N, H, W, C) and to (KH, KW, C, O)


def order(case: Case) -> str | None:
    """ "NHWC" or "NCHW", as far as the shapes tell; None if they do not."""
    pictures, kernels = _roles(case)
    if not pictures:
        return None
    x, dy = case.inputs[pictures[0]].shape, case.upstream.shape
    first = last = False
    if len(dy) == 4 and kernels:
        w = case.inputs[kernels[0]].shape
        first = w[0] == dy[1] and x[1] % w[1] == 0 and x[2] >= w[2] and x[3] >= w[3]
        last = w[3] == dy[3] and x[3] % w[2] == 0 and x[1] >= w[0] and x[2] >= w[1]
    elif lengths := {v.size for v in case.inputs.values() if v.size in (x[1], x[3]) and v.size == max(v.shape)}:
        first, last = x[1] in lengths, x[3] in lengths
    elif len(dy) in (2, 4):
        first = dy[1] == x[1] and dy[2:] != x[2:]
        last = dy[-1] == x[3] and dy[1:-1] != x[1:-1]
    return None if first == last else "NCHW" if first else "NHWC"


def _roles(case: Case) -> tuple[list[str], list[str]]:
    """The names of the pictures, and of the kernels."""
    fours = [name for name, values in case.inputs.items() if values.ndim == 4]
    area = {name: case.inputs[name].shape[2] * case.inputs[name].shape[3] for name in fours}
    largest = max(area.values(), default=0)
    pictures = [n for n in fours if area[n] == largest or case.inputs[n].shape[0] == case.upstream.shape[0]]
    kernels = [n for n in fours if n not in pictures and case.inputs[n].size > max(case.inputs[n].shape)]
    return [n for n in pictures if max(case.inputs[n].shape) > 1], kernels


def in_the_order_of(hint: str, case: Case) -> str:
    """What was said of the axes of `channels_last`, said of those of the case."""
    pictures, kernels = _roles(case)
    own = _PICTURE if case.name in pictures else _KERNEL if case.name in kernels else None
    other = re.search(r"\bof (\w+)(?:, the axes| along axis)", hint)
    of_dy = re.search(r"\bdy\b.*\bax[ei]s", hint) is not None
    axes = (_PICTURE if case.upstream.ndim == 4 else None) if of_dy else own
    if other and other[1] in case.inputs:
        axes = _PICTURE if other[1] in pictures else _KERNEL if other[1] in kernels else None
    if axes is not None:
        numbers = r"\d+(?:(?:, | and )\d+)*"
        hint = re.sub(rf"\baxis \d+|\baxes {numbers}|\({numbers},?\)", lambda found: _mapped(found[0], axes), hint)
    return hint.replace("[::-1, ::-1]", "[:, :, ::-1, ::-1]")


def _mapped(text: str, axes: tuple[int, ...]) -> str:
    """A list of axes in words with other numbers, in their order."""
    numbers = iter(sorted(axes[int(number)] for number in re.findall(r"\d+", text)))
    return re.sub(r"\d+", lambda found: str(next(numbers)), text)


def channels_last(case: Case) -> Case:
    """The same case with channels last; ``again`` and ``reached`` translate, too."""
    pictures, kernels = _roles(case)
    order = {**dict.fromkeys(pictures, _PICTURE), **dict.fromkeys(kernels, _KERNEL)}
    if case.upstream.ndim == 4:
        order["dy"] = _PICTURE

    def turned(name: str, values: np.ndarray) -> np.ndarray:
        return values.transpose(order[name]) if name in order and values.ndim == 4 else values

    def again(name: str, other: str, value: np.ndarray) -> np.ndarray | None:
        back = value.transpose(np.argsort(order[other])) if other in order else value
        found = case.again(name, other, np.ascontiguousarray(back))
        return None if found is None else turned(name, found)

    def reached(name: str) -> np.ndarray | None:
        found = case.reached(name)
        return None if found is None else turned("dy", found)

    by_name = lambda arrays: {name: turned(name, values) for name, values in arrays.items()}
    return replace(
        case, inputs=by_name(case.inputs), analytic=by_name(case.analytic), numeric=by_name(case.numeric),
        upstream=turned("dy", case.upstream), output=turned("dy", case.output), again=again, reached=reached,
        order="NHWC",
    )  # fmt: skip
