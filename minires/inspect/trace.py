"""One recorded run of a model: which module made which operation, and where a tensor goes more than one way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ArgumentError, GraphError
from ..nn import Module
from ..nn.module import device_of_module
from ..tensor import Node, Tensor, enable_grad, no_fusion, no_grad
from ..tensor.graph import RELEASED

Place = Node | Tensor  # a recorded operation, or a leaf


@dataclass
class Call:
    """A module that holds no others, called once; the node is None if its output is not recorded."""

    name: str
    module: Module
    inputs: tuple[Any, ...]
    output: Tensor

    @property
    def node(self) -> Node | None:
        """The operation that made its output."""
        return self.output._node

    @property
    def passes_on(self) -> bool:
        """Whether it returned its input, as an identity shortcut does."""
        return any(x is self.output for x in self.inputs)


@dataclass
class Trace:
    """What a run left behind.

    Attributes:
        output: of the model.
        calls: of the modules that hold no others, in the order in which they ran.
        owners: the innermost module, by name, in whose forward each operation was recorded.
    """

    output: Tensor
    calls: list[Call] = field(default_factory=list)
    owners: dict[Node, str] = field(default_factory=dict)


@contextmanager
def left_as_it_was(model: Module) -> Iterator[None]:
    """Put back a model's buffers, such as running statistics, and its gradients."""
    buffers = {name: b.data.copy() for name, b in model.named_buffers()}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    try:
        yield
    finally:
        for name, b in model.named_buffers():
            b.data[...] = buffers[name]
        for name, p in model.named_parameters():
            p.grad = gradients[name]


def prepared(model: Module, inputs: Any) -> Tensor:
    """Inputs in the dtype and on the device of a model's parameters."""
    dtype = next((p.dtype for p in model.parameters()), np.dtype(np.float32))
    return Tensor(inputs.data if isinstance(inputs, Tensor) else inputs, dtype=dtype).to(device_of_module(model))


def trace(model: Module, x: Tensor, record: bool = True) -> Trace:
    """Run a model in its present mode, every operation by itself, and note what happens.

    Raises:
        ArgumentError: the model does not return one Tensor.
    """
    found = Trace(x)
    removers = []

    def note(name: str, holds_others: bool) -> Any:
        def hook(module: Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor):
                return
            if not holds_others:
                found.calls.append(Call(name, module, inputs, output))
            for node in _between(output, inputs):
                found.owners.setdefault(node, name)

        return hook

    for name, module in model.named_modules():
        holds_others = any(True for _ in module.named_children())
        removers.append(module.register_forward_hook(note(name, holds_others)))
    try:
        with no_fusion(), enable_grad() if record else no_grad():
            found.output = model(x)
    finally:
        for remove in removers:
            remove()
    if not isinstance(found.output, Tensor):
        raise ArgumentError(f"the model must return one Tensor to be looked into, got {type(found.output).__name__}.")
    return found


def _between(output: Tensor, inputs: tuple[Any, ...]) -> Iterator[Node]:
    """The operations from a module's inputs to its output."""
    seen: set[Place | None] = {t._node or t for t in inputs if isinstance(t, Tensor)}
    todo: list[Place | None] = [output._node]
    while todo:
        node = todo.pop()
        if isinstance(node, Node) and node not in seen:
            seen.add(node)
            yield node
            todo += node.parents or ()


@dataclass(frozen=True)
class Fork:
    """A tensor that goes several ways which meet again.

    Attributes:
        source: the tensor's place.
        merge: the first operation that all ways lead through.
        ways: the operations that use the tensor, with how many operations lie from each, itself included, to the merge;
            0 if it is the merge itself.  The shortest first.
    """

    source: Place
    merge: Node
    ways: tuple[tuple[Node, int], ...]


def forks(output: Tensor) -> list[Fork]:
    """All forks below a recorded tensor, those next to the input first; one for each tensor with several uses.

    The merge is the immediate post-dominator of the tensor, found as by Cooper, Harvey and Kennedy 2001 in one pass,
    as there are no loops.
    """
    root = output._node
    if root is None:
        return []
    order = inputs_first(root)
    users: dict[Place, list[Node]] = {place: [] for place in order}
    for node in order:
        for place in inputs_of(node):
            if place is not None:
                users[place].append(node)  # type: ignore[arg-type]
    above: dict[Place, Place] = {root: root}
    depth: dict[Place, int] = {root: 0}
    found = []
    for place in reversed(order[:-1]):  # each after all that use it
        ways = list(dict.fromkeys(users[place]))
        meeting: Place = ways[0]
        for way in ways[1:]:
            other: Place = way
            while meeting is not other:
                if depth[meeting] >= depth[other]:
                    meeting = above[meeting]
                else:
                    other = above[other]
        above[place], depth[place] = meeting, depth[meeting] + 1
        if len(ways) > 1 and isinstance(meeting, Node):
            lengths = sorted(((way, _steps(way, meeting, users)) for way in ways), key=lambda pair: pair[1])
            found.append(Fork(place, meeting, tuple(lengths)))
    return found[::-1]


def inputs_first(root: Place) -> list[Place]:
    """The root and all below it, each after its inputs.  No recursion, as in the walk.

    Raises:
        GraphError: the graph was released.
    """
    order: list[Place] = []
    seen: set[Place] = set()
    todo = [(root, False)]
    while todo:
        place, inputs_done = todo.pop()
        if inputs_done:
            order.append(place)
        elif place not in seen:
            seen.add(place)
            todo.append((place, True))
            todo += [(p, False) for p in reversed(inputs_of(place)) if p is not None]
    return order


def inputs_of(place: Place) -> list[Place | None]:
    """The inputs of an operation in their order, None for those without a gradient; none of a leaf.

    Raises:
        GraphError: the graph was released.
    """
    if not isinstance(place, Node):
        return []
    if place.parents is None:
        raise GraphError(RELEASED)
    return list(place.parents)


def _steps(start: Node, end: Node, users: dict[Place, list[Node]]) -> int:
    """How many operations the shortest way from ``start`` to ``end`` has, without ``end``."""
    steps, front, seen = 0, [start], {start}
    while end not in front:
        steps += 1
        front = list(dict.fromkeys(user for place in front for user in users[place] if user not in seen))
        seen.update(front)
    return steps
