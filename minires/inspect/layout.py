"""Boxes in columns: a layered layout of a graph without cycles, in the manner of Sugiyama et al. 1981.

Four steps: which column, in which order, at what height, and how far apart the columns stand.  An arrow that passes
columns takes a place in each of them, a bend, so that it runs between the boxes rather than across them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

_ROW, _BEND = 0.62, 0.3  # inches from one box to the next, and what a bend adds in place of a box
_SWEEPS = 12
_PULL = 8.0

Point = tuple[float, float]


def place(
    widths: Sequence[float], edges: Sequence[tuple[int, int]], gap: float
) -> tuple[list[int], list[Point], list[tuple[Point, ...]]]:
    """Lay out nodes 0, 1, ..., each of which comes after its inputs.

    Args:
        widths: of the boxes.
        edges: pairs (input, user).
        gap: between two columns.

    Returns:
        the column of each node, the middle of each, and the bends of each edge: two points for a column passed.
    """
    column = columns(len(widths), edges)
    rows: list[list[int]] = [[] for _ in range(max(column) + 1)]
    for node, c in enumerate(column):
        rows[c].append(node)
    chains, where = [], list(column)  # the way of each edge, from box to box over its bends
    for source, target in edges:
        bends = range(len(where), len(where) + column[target] - column[source] - 1)
        for c, bend in enumerate(bends, start=column[source] + 1):
            rows[c].append(bend)
            where.append(c)
        chains.append([source, *bends, target])
    links = sorted({pair for chain in chains for pair in pairwise(chain)})
    rows = untangle(rows, links, where)
    heights = level(rows, links, where, len(widths))
    wide = [max([widths[i] for i in row if i < len(widths)], default=0.0) for row in rows]
    middle = np.cumsum([w + gap for w in wide]) - np.array(wide) / 2
    points = [(float(middle[c]), float(heights[i])) for i, c in enumerate(column)]
    paths = [
        tuple(
            (float(middle[where[b]] + side * wide[where[b]] / 2), float(heights[b]))
            for b in chain[1:-1]
            for side in (-1, 1)
        )
        for chain in chains
    ]
    return column, points, paths


def columns(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The longest way from a node without inputs; such a node itself stands directly before its first user."""
    column, users = [0] * count, [[] for _ in range(count)]  # type: list[int], list[list[int]]
    for source, target in sorted(edges, key=lambda e: e[1]):  # inputs have been placed before
        column[target] = max(column[target], column[source] + 1)
        users[source].append(target)
    targets = {target for _, target in edges}
    return [min(column[u] for u in users[i]) - 1 if i not in targets and users[i] else column[i] for i in range(count)]


def untangle(rows: list[list[int]], links: list[tuple[int, int]], where: list[int]) -> list[list[int]]:
    """Order each column by the mean place of its neighbours in the one before, then after; the best order seen."""
    best, fewest = rows, crossings(rows, links, where)
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        rows = [list(row) for row in rows]
        near = _neighbours(links, forward)
        for row in rows if forward else rows[::-1]:
            place_of = {i: k for r in rows for k, i in enumerate(r)}
            row.sort(key=lambda i: np.mean([place_of[j] for j in near[i]]) if i in near else place_of[i])
        if (now := crossings(rows, links, where)) < fewest:
            best, fewest = rows, now
    return best


def crossings(rows: list[list[int]], links: list[tuple[int, int]], where: list[int]) -> int:
    """How many pairs of links between the same two columns cross."""
    place_of = {i: k for row in rows for k, i in enumerate(row)}
    total = 0
    for c in range(len(rows)):
        ends = np.array([(place_of[a], place_of[b]) for a, b in links if where[a] == c]).reshape(-1, 2)
        before, after = (np.sign(e[:, None] - e) for e in ends.T)
        total += int((before * after < 0).sum()) // 2
    return total


def level(rows: list[list[int]], links: list[tuple[int, int]], where: list[int], boxes: int) -> np.ndarray:
    """Heights that bring every node near the mean of its neighbours, without changing an order.

    What has inputs, bends too, pulls harder than what has none: a chain of operations runs straight, with its leaves
    around it.
    """
    heights = np.zeros(len(where))
    size = np.where(np.arange(len(where)) < boxes, _ROW, _BEND)
    offsets = [np.cumsum(size[row]) - size[row] / 2 for row in rows]  # of each row, packed
    for row, offset in zip(rows, offsets, strict=True):
        heights[row] = offset - offset.mean()
    before, after = _neighbours(links, True), _neighbours(links, False)
    near = {i: before.get(i, []) + after.get(i, []) for i in range(len(where))}
    pull = {i: np.array([_PULL if i in before and j in before else 1.0 for j in near[i]]) for i in near}
    for sweep in range(4 * _SWEEPS):
        for row, offset in list(zip(rows, offsets, strict=True))[:: 1 if sweep % 2 == 0 else -1]:
            wished = np.array([pull[i] @ heights[near[i]] / pull[i].sum() if near[i] else heights[i] for i in row])
            weights = np.array([pull[i].sum() or 1.0 for i in row])
            heights[row] = ascending(wished - offset, weights) + offset
    return heights - heights.mean()


def ascending(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest numbers, in the weighted least squares, of which none is smaller than the one before."""
    blocks: list[list[float]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            mean, heavy, length = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + mean * heavy) / (last[1] + heavy)
            last[1], last[2] = last[1] + heavy, last[2] + length
    return np.repeat([b[0] for b in blocks], [int(b[2]) for b in blocks])


def _neighbours(links: list[tuple[int, int]], before: bool) -> dict[int, list[int]]:
    near: dict[int, list[int]] = {}
    for source, target in links:
        near.setdefault(target if before else source, []).append(source if before else target)
    return near
