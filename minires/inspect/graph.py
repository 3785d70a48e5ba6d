"""The recorded graph as a picture: what was computed from what, and where the gradients will go.

First the data, `Drawing`: plain names, numbers and positions, which hold on to nothing of the graph.  Then `plot`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError, GraphError
from ..nn import Module
from ..tensor import Node, Tensor
from .layout import place
from .trace import inputs_first, inputs_of

MOST_NODES = 200  # with more, the boxes of a page-wide picture are too small for their words
_LETTER, _HEIGHT, _GAP = 0.073, 0.42, 0.42  # inches: of a letter of 8.5 points, of a box, between two columns
_LEAF, _OPERATION = ("#ffe3c8", "C1"), ("#dbe8f4", "C0")  # inside and outline


@dataclass(frozen=True)
class DrawnNode:
    """A box.

    Attributes:
        name: of an operation what error messages call it, and of a leaf the name it was given, or "leaf".
        kind: "operation", or "leaf": a tensor made by hand that requires a gradient.
        shape: of the tensor.
        layer: how many operations the longest way from a leaf to this operation has; a leaf stands directly before the
            first operation that uses it.
        position: (x, y) of the middle, and
        width: of the box, in inches of a picture at full size.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    layer: int
    position: tuple[float, float]
    width: float


@dataclass(frozen=True)
class DrawnEdge:
    """An arrow: ``source`` is input number ``input`` of the operation ``target``, both places in `Drawing.nodes`.

    ``path`` are the points it runs through on its way across the layers between the two.
    """

    source: int
    target: int
    input: int
    path: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Drawing:
    """A graph laid out from left to right, see `draw_graph`.

    Attributes:
        nodes: every node after its inputs; the last is the tensor itself.
        edges: all arrows, from an input to the operation that uses it; a tensor used twice by it has two.
    """

    nodes: tuple[DrawnNode, ...]
    edges: tuple[DrawnEdge, ...]

    def plot(self, ax: Any = None) -> Any:
        """Draw operations as rounded blue boxes and leaves as square orange ones, the tensor itself with a thick line.

        Args:
            ax: matplotlib axes to draw on; a new figure, large enough, if left out.

        Returns:
            the matplotlib Figure; ``figure.savefig("graph.png")`` writes it.
        """
        from matplotlib.figure import Figure

        left, right = (f(n.position[0] + s * n.width / 2 for n in self.nodes) for f, s in ((min, -1), (max, 1)))
        heights = [y for e in self.edges for _, y in e.path] + [n.position[1] for n in self.nodes]
        low, high = min(heights) - _HEIGHT / 2, max(heights) + _HEIGHT / 2
        width, height = right - left + 0.2, high - low + 0.2
        if ax is None:
            ax = Figure(figsize=(width, height)).add_axes((0, 0, 1, 1))
        ax.set(xlim=(left - 0.1, right + 0.1), ylim=(low - 0.1, high + 0.1), aspect="equal")
        ax.axis("off")
        box = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
        scale = min(box.width / width, box.height / height)  # to the axes' inches
        for edge in self.edges:
            self._arrow(ax, edge, scale)
        for i, node in enumerate(self.nodes):
            _box(ax, node, i == len(self.nodes) - 1, scale)
        return ax.figure

    def _arrow(self, ax: Any, edge: DrawnEdge, scale: float) -> None:
        from matplotlib.patches import FancyArrowPatch
        from matplotlib.path import Path

        source, target = self.nodes[edge.source], self.nodes[edge.target]
        start = source.position[0] + source.width / 2, self._port(edge, out=True)
        end = target.position[0] - target.width / 2, self._port(edge, out=False)
        points, codes = [start], [Path.MOVETO]
        for x, y in (*edge.path, end):  # each piece leaves and arrives level
            middle = (points[-1][0] + x) / 2
            points += [(middle, points[-1][1]), (middle, y), (x, y)]
            codes += [Path.CURVE4] * 3
        path = Path(points, codes)
        ax.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=9 * scale, lw=scale, color="0.35"))

    def _port(self, edge: DrawnEdge, out: bool) -> float:
        """Where an arrow touches a box: those that arrive stand apart, and those that leave if two go to one box."""
        node = self.nodes[edge.source if out else edge.target]
        together = [e for e in self.edges if (e.source == edge.source if out else e.target == edge.target)]
        if out and len({e.target for e in together}) == len(together):
            return node.position[1]
        order = sorted(together, key=lambda e: (-self._beyond(e, out), e.input))  # from the top, so that none cross
        return node.position[1] + ((len(order) - 1) / 2 - order.index(edge)) * min(0.1, 0.3 / len(order))

    def _beyond(self, edge: DrawnEdge, out: bool) -> float:
        """The height of the next point of an arrow, after its start or before its end."""
        if edge.path:
            return edge.path[0 if out else -1][1]
        return self.nodes[edge.target if out else edge.source].position[1]


def draw_graph(tensor: Tensor, names: Mapping[str, Tensor | Module] | Module | None = None) -> Drawing:
    """Lay out the graph that was recorded below a tensor; ``draw_graph(y, {"x": x}).plot()`` draws it.

    Numbers, labels and other inputs without a gradient are not recorded, so they are not there.  A function decorated
    with `fused`, such as a residual block, records a convolution, its batch norm, the addition and the ReLU as one
    operation, ``ConvBatchNorm``; computed under ``with minires.no_fusion():`` it shows them one by one.  The graph is
    left as it is, and nothing here keeps it in memory.

    Args:
        tensor: what was computed.
        names: what to call which leaf: a mapping from names to tensors, in which a module stands for its parameters
            (``{"x": x, "block": block}`` gives ``block.conv1.weight``), or a module alone.  A tensor that was computed
            may be named too: ``h = Add``.  What is not below the tensor is left out.

    Raises:
        GraphError: nothing was recorded, or the graph was released by ``backward()``.
        ArgumentError: there are too many nodes to be read.
    """
    if not tensor.requires_grad:
        raise GraphError(
            "draw_graph: this tensor was not recorded: no input requires a gradient, or it was computed under "
            "no_grad(). Set requires_grad=True on what you want to see."
        )
    found = inputs_first(tensor if tensor._node is None else tensor._node)
    if len(found) > MOST_NODES:
        raise ArgumentError(
            f"draw_graph: {len(found)} nodes are too many to read; at most {MOST_NODES} are drawn. Draw a part: call "
            "one block of the network on an input of its own, Tensor(x, requires_grad=True)."
        )
    called = {id(key): name for name, key in _named(names)}
    labels = [_label(node, called.get(id(node))) for node in found]
    place_of = {id(node): i for i, node in enumerate(found)}
    inputs = [(place_of[id(p)], i, k) for i, n in enumerate(found) for k, p in enumerate(inputs_of(n)) if p is not None]
    widths = [_LETTER * max(len(name), len(str(n.like[0]))) + 0.2 for name, n in zip(labels, found, strict=True)]
    layers, positions, paths = place(widths, [(a, b) for a, b, _ in inputs], _GAP)
    nodes = tuple(
        DrawnNode(name, "operation" if isinstance(n, Node) else "leaf", tuple(n.like[0]), layer, at, width)
        for name, n, layer, at, width in zip(labels, found, layers, positions, widths, strict=True)
    )
    return Drawing(nodes, tuple(DrawnEdge(a, b, k, path) for (a, b, k), path in zip(inputs, paths, strict=True)))


def _named(names: Mapping[str, Tensor | Module] | Module | None) -> Iterator[tuple[str, Node | Tensor]]:
    """Names, and the leaves or operations that they belong to."""
    if isinstance(names, Module):
        yield from names.named_parameters()
        return
    for name, value in (names or {}).items():
        if isinstance(value, Module):
            yield from ((f"{name}.{inside}", p) for inside, p in value.named_parameters())
        elif isinstance(value, Tensor):
            yield name, value if value._node is None else value._node
        else:
            raise ArgumentError(f"draw_graph: {name!r} names a {type(value).__name__}; give a Tensor or a Module.")


def _label(node: Node | Tensor, name: str | None) -> str:
    if isinstance(node, Node):
        return f"{name} = {node.name}" if name else node.name
    return name or "leaf"


def _box(ax: Any, node: DrawnNode, last: bool, scale: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    operation = node.kind == "operation"
    inside, outline = _OPERATION if operation else _LEAF
    style = f"round,pad=0,rounding_size={_HEIGHT / 3}" if operation else "square,pad=0"
    (x, y), line = node.position, (2 if last else 1) * scale
    corner = x - node.width / 2, y - _HEIGHT / 2
    ax.add_patch(FancyBboxPatch(corner, node.width, _HEIGHT, boxstyle=style, fc=inside, ec=outline, lw=line))
    text = {"ha": "center", "va": "center", "clip_on": True}
    ax.text(x, y + 0.08, node.name, fontsize=8.5 * scale, **text)
    ax.text(x, y - 0.09, str(node.shape), fontsize=7 * scale, color="0.35", **text)
