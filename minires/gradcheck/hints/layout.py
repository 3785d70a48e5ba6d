"""Pictures as (N, C, H, W) and kernels as (O, C, KH, KW), turned into the layout that the hypotheses know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .case import Case

_PICTURE, _KERNEL = (0, 2, 3, 1), (2, 3, 1, 0)  # to (N, H, W, C) and to (KH, KW, C, O)
NOTE = " (axes counted as in NHWC pictures and (KH, KW, C, O) kernels)"


def channels_first(case: Case) -> bool:
    """Whether the pictures of a case have their channels before their pixels, as far as its shapes tell."""
    pictures, kernels = _roles(case)
    if not pictures:
        return False
    x, dy = (case.inputs[pictures[0]].shape, case.upstream.shape)
    if len(dy) == 4 and kernels:
        w = case.inputs[kernels[0]].shape
        first = w[0] == dy[1] and x[1] % w[1] == 0 and x[2] >= w[2] and x[3] >= w[3]
        return first and not (w[3] == dy[3] and x[3] % w[2] == 0)
    lengths = {v.size for v in case.inputs.values() if v.size in (x[1], x[3]) and v.size == max(v.shape)}
    if lengths:
        return lengths == {x[1]} and x[1] != x[3]
    if len(dy) == 4:
        return dy[1] == x[1] and dy[2] != x[2] and dy[3] != x[3]
    return len(dy) == 2 and dy[1] == x[1] != x[3]


def _roles(case: Case) -> tuple[list[str], list[str]]:
    """The names of the pictures, and of the kernels."""
    fours = [name for name, values in case.inputs.items() if values.ndim == 4]
    area = {name: case.inputs[name].shape[2] * case.inputs[name].shape[3] for name in fours}
    largest = max(area.values(), default=0)
    pictures = [n for n in fours if area[n] == largest or case.inputs[n].shape[0] == case.upstream.shape[0]]
    kernels = [n for n in fours if n not in pictures and max(case.inputs[n].shape[2:]) <= 11]
    return [n for n in pictures if max(case.inputs[n].shape) > 1], kernels


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
    )  # fmt: skip
