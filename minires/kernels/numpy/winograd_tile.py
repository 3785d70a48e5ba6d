"""What both ways to filter by `winograd` share: the sizes of a convolution, and the rows that a tile is made from."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..window import Pair
from .tiles import Tile, fill
from .toom_cook import RESULTS


class Plan(NamedTuple):
    """The sizes of one convolution of ``x_shape`` to ``y_shape``, and its tiles: images and groups of four rows."""

    way: Any  # `Rows` or `Squares`
    taps: int  # of the filters, that are not transformed: so many for each point
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    kernel: Pair
    padding: Pair
    groups: int  # of four rows of y
    windows: int  # of the picture in such a group: how many squares, or pixels from one row to the next
    tiles: list[Tile]
    least: int  # tiles that are worth a thread
    small: bool  # whether BLAS takes one thread for all of it whatever is set


class WinogradTile:
    """The rows of ``n`` images that ``groups`` groups of rows of y are computed from, zeros above and below."""

    def __init__(self, plan: Plan, n: int, groups: int, rows) -> None:
        """Take ``rows`` (n, 4 groups + 2, W, C), a view of what the way computes with, zeros."""
        self.plan, self.n, self.groups, self.shape, self.rows = plan, n, groups, (n, groups), rows
        above, height = plan.padding[0], plan.x_shape[1]
        # whole images lie where they always lie
        self.inside = rows[:, above : above + height] if groups == plan.groups else None

    def fill(self, x, tile: Tile) -> None:
        """Write a tile of x into the rows."""
        if self.inside is not None:
            fill(x, self.inside, tile.images, slice(None))
            return
        first = RESULTS * tile.rows.start - self.plan.padding[0]
        top, bottom = max(0, first), min(x.shape[1], first + self.rows.shape[1])
        self.rows[:, : top - first] = self.rows[:, bottom - first :] = 0
        fill(x, self.rows[:, top - first : bottom - first], tile.images, slice(top, bottom))

    def written(self, y, tile: Tile) -> Tile:
        """The rows of y that a tile is, of which the last group may have fewer than four."""
        first = RESULTS * tile.rows.start
        return Tile(tile.images, slice(first, min(y.shape[1], RESULTS * tile.rows.stop)))
