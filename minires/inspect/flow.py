"""Where the gradient goes: its size at every layer, and how much of it comes through each skip connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import functional as F
from ..backend import Array, array_module, asnumpy
from ..errors import ArgumentError
from ..nn import Module
from ..ops.activation import ReLU
from ..ops.arithmetic import Add
from ..tensor import Node, Tensor
from .trace import Fork, Place, Trace, forks, inputs_first, left_as_it_was, prepared, trace


@dataclass(frozen=True)
class LayerFlow:
    """One layer, a module that holds no others.

    Attributes:
        name: dotted, as in `named_modules`.
        kind: the class.
        gradient: |dL/dy|, the Euclidean norm over the whole batch, y being its output.
        weights: |dL/dw| over all its parameters; None if it has none.
    """

    name: str
    kind: str
    gradient: float
    weights: float | None


@dataclass(frozen=True)
class BlockFlow:
    """One place where a tensor x goes two ways that meet again in an addition, as around a residual block.

    The skip is the way with fewer operations than any other, the branch all the others.  Shares are of the whole
    gradient, along it: <part, dL/dx> / <dL/dx, dL/dx>, so they sum to 1, and one is negative where it points against
    the sum.

    Attributes:
        name: of the module that joins the two ways.
        gradient: |dL/dx|.
        above: |dL/dH|, H being where the ways meet: F(x) + x.
        skip, branch: the norms of the two parts of dL/dx.
        skip_share, branch_share: of the whole.
        difference: |dL/dx - skip - branch| / |dL/dx|, rounding.
    """

    name: str
    gradient: float
    above: float
    skip: float
    branch: float
    skip_share: float
    branch_share: float
    difference: float


@dataclass(frozen=True)
class ReluFlow:
    """One ReLU, in the order of the graph.

    Attributes:
        name: of the module in whose forward it is, with its number there.
        zeros: the share of its outputs that are 0, and pass no gradient.
        dead: the share of its channels that are 0 for the whole batch, at every pixel.
    """

    name: str
    zeros: float
    dead: float


@dataclass(frozen=True)
class GradientFlow:
    """What `gradient_flow` found; print it, or `plot` it.

    Attributes:
        layers: from the input to the output.
        blocks: likewise.
        relus: likewise.
        loss: of the batch.
    """

    layers: list[LayerFlow]
    blocks: list[BlockFlow]
    relus: list[ReluFlow]
    loss: float

    def __str__(self) -> str:
        names = [layer.name for layer in self.layers] + [block.name for block in self.blocks]
        width = max(len(name) for name in [*names, *(relu.name for relu in self.relus)])
        lines = [] if np.isnan(self.loss) else [f"loss {self.loss:.6g}", ""]
        lines += [f"{'layer':<{width}}  {'kind':<16} {'|dL/dy|':>10} {'|dL/dw|':>10}"]
        for layer in self.layers:
            weights = "" if layer.weights is None else f"{layer.weights:.3e}"
            lines.append(f"{layer.name:<{width}}  {layer.kind:<16} {layer.gradient:>10.3e} {weights:>10}")
        if self.blocks:
            lines += ["", f"{'block':<{width}}  {'|dL/dx|':>10} {'through the skip':>17} {'the branch':>11}"]
        for block in self.blocks:
            lines.append(
                f"{block.name:<{width}}  {block.gradient:>10.3e} {block.skip_share:>17.1%} {block.branch_share:>11.1%}"
            )
        if self.relus:
            lines += ["", f"{'ReLU':<{width}}  {'zeros':>10} {'dead channels':>17}"]
        lines += [f"{relu.name:<{width}}  {relu.zeros:>10.1%} {relu.dead:>17.1%}" for relu in self.relus]
        return "\n".join(lines)

    def plot(self) -> Any:
        """A matplotlib Figure: gradient norms by depth, and the shares of skip and branch of each block."""
        from .flow_picture import draw

        return draw(self)


def gradient_flow(
    model: Module,
    batch: Any,
    loss: Callable[[Tensor, Any], Tensor] = F.cross_entropy,
    seed: int = 0,
) -> GradientFlow:
    """Run a batch forward and backward, and measure the gradient everywhere.

    The model runs in its present mode (train or eval) and dtype, each operation by itself; its running statistics and
    gradients are left as they were.  ``model.astype(np.float64)`` beforehand makes the sums of parts exact to 1e-15.

    Args:
        model: any network: skips are found in the graph, not by the names of classes.
        batch: (inputs, labels), as a `DataLoader` gives them; or inputs alone, and then the upstream gradient of the
            model's output is random.
        loss: of the model's output and the labels.
        seed: of the random upstream gradient.

    Raises:
        ArgumentError: the model's output does not depend on its input, nor on a parameter that is learned.
    """
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    inputs, labels = batch if pair else (batch, None)
    x = prepared(model, inputs)
    with left_as_it_was(model):
        for parameter in model.parameters():
            parameter.grad = None
        # a block that stands on the input, or on frozen layers, has its gradient too; and the input may be changed
        found = trace(model, x.requires_grad_() * 1.0)
        if found.output._node is None:
            raise ArgumentError(
                "gradient_flow: the model's output depends neither on its input nor on a parameter that is learned."
            )
        if pair:
            value = loss(found.output, labels)
            upstream = None
        else:
            value = found.output
            normal = np.random.default_rng(seed).standard_normal(value.shape)
            upstream = array_module(value.data).asarray(normal, dtype=value.dtype)
        split = [fork for fork in forks(found.output) if _is_skip(fork)]
        relus = _relus(found, value)  # before the functions are overheard
        heard = _Listener(split, [call.node for call in found.calls])
        value.backward(upstream)
        layers = [
            LayerFlow(call.name, type(call.module).__name__, _norm(heard.gradients[call.node]), _weights(call.module))
            for call in found.calls
            if call.node in heard.gradients and not call.passes_on
        ]
        blocks = [_block(fork, heard, found.owners) for fork in split if fork.source in heard.gradients]
        total = float(value.item()) if pair else float("nan")
    return GradientFlow(layers, blocks, relus, total)


def _is_skip(fork: Fork) -> bool:
    """Whether a fork is a residual connection: its ways meet in an addition, and one is shorter than all others.

    A leaf is a parameter, and one that is used twice is tied.
    """
    (_, shortest), (_, next_one) = fork.ways[:2]
    return isinstance(fork.source, Node) and fork.merge.function is Add and shortest < next_one


class _Listener:
    """Overhears a backward pass: the gradient at chosen operations, and what each user of a fork sends back.

    Attributes:
        gradients: by operation, dL/d(its output).
        parts: by fork's source and user, what the user sent.
    """

    def __init__(self, split: list[Fork], nodes: list[Node | None]) -> None:
        self.gradients: dict[Place | None, Array] = {}
        self.parts: dict[tuple[Any, Node], Array] = {}
        places = [place for fork in split for place in (fork.source, fork.merge)]
        for node in dict.fromkeys([*nodes, *places]):
            if isinstance(node, Node):
                node.hooks = [*(node.hooks or ()), self._keep(node)]
        for node in dict.fromkeys(user for fork in split for user, _ in fork.ways):
            node.function = _Overheard(node.function, self.parts, list(node.parents or ()))

    def _keep(self, node: Node) -> Callable[[Array], None]:
        def hook(grad: Array) -> None:
            self.gradients[node] = grad

        return hook


class _Overheard:
    """A Function whose gradients are noted on their way."""

    def __init__(self, function: Any, parts: dict[tuple[Any, Node], Array], parents: list[Any]) -> None:
        self._function, self._parts, self._parents = function, parts, parents

    def backward(self, ctx: Node, grad: Array) -> Any:
        sent = self._function.backward(ctx, grad)
        for parent, part in zip(self._parents, sent if isinstance(sent, tuple) else (sent,), strict=False):
            if parent is not None and part is not None:
                before = self._parts.get((parent, ctx))
                self._parts[parent, ctx] = part if before is None else before + part
        return sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


def _block(fork: Fork, heard: _Listener, owners: dict[Node, str]) -> BlockFlow:
    whole, above = heard.gradients[fork.source], heard.gradients[fork.merge]
    parts = [heard.parts.get((fork.source, user)) for user, _ in fork.ways]
    skip, *others = [np.zeros(whole.shape) if p is None else asnumpy(p).astype(np.float64) for p in parts]
    total, branch = asnumpy(whole).astype(np.float64), sum(others)
    square = float((total * total).sum()) or 1.0
    return BlockFlow(
        owners.get(fork.merge, fork.merge.name),
        _norm(total), _norm(above), _norm(skip), _norm(branch),
        float((skip * total).sum()) / square, float((branch * total).sum()) / square,
        _norm(total - skip - branch) / square**0.5,
    )  # fmt: skip


def _relus(found: Trace, value: Tensor) -> list[ReluFlow]:
    """Every ReLU in the graph, which keeps its output."""
    nodes = [node for node in found.owners if node.function is ReLU]
    order = {place: i for i, place in enumerate(inputs_first(value._node or value))}
    counts: dict[str, int] = {}
    relus = []
    for node in sorted(nodes, key=lambda node: order.get(node, -1)):
        owner = found.owners[node]
        counts[owner] = counts.get(owner, 0) + 1
        on = asnumpy(node.saved[0]) > 0
        channels = on.reshape(-1, on.shape[-1]).any(0) if on.ndim else on.reshape(1)
        name = f"{owner} ({counts[owner]})" if owner else f"({counts[owner]})"
        relus.append(ReluFlow(name, float(1 - on.mean()), float(1 - channels.mean())))
    return relus


def _weights(module: Module) -> float | None:
    gradients = [p.grad for p in module.parameters(recurse=False) if p.grad is not None]
    return sum(_norm(g) ** 2 for g in gradients) ** 0.5 if gradients else None


def _norm(array: Array) -> float:
    return float(np.linalg.norm(asnumpy(array).astype(np.float64).reshape(-1)))
