"""What a network costs: shapes, parameters, multiply-adds and memory, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..nn import Conv2d, Linear, Module
from ..nn.module import device_of_module
from ..tensor import Node, Tensor, enable_grad
from ..tensor.node import storage


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        name: dotted, as in `named_modules`.
        kind: the class.
        output_shape: for one example.
        parameters: of this layer alone.
        multiply_adds: for one example; convolutions and linear layers only, as papers count.
        output_bytes: memory of its output for one example; 0 if it passes its input on.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    output_bytes: int


@dataclass(frozen=True)
class Summary:
    """All layers and their totals; print it.

    Attributes:
        rows: the layers that hold no other layers, in the order in which they ran.
        input_shape: of one example.
        parameters, buffers: elements in the whole model.
        saved_bytes: what the graph keeps of one example for the backward pass, measured on the graph itself; parameters
            are not counted.
    """

    rows: list[Row]
    input_shape: tuple[int, ...]
    parameters: int
    buffers: int
    saved_bytes: int

    @property
    def multiply_adds(self) -> int:
        """Of all layers."""
        return sum(row.multiply_adds for row in self.rows)

    def __str__(self) -> str:
        width = max([len(row.name) for row in self.rows] + [5])
        head = f"{'layer':<{width}}  {'kind':<16} {'output':<20} {'parameters':>12} {'multiply-adds':>15} "
        head += f"{'output memory':>14}"
        lines = [head, "-" * len(head)]
        for row in self.rows:
            lines.append(
                f"{row.name:<{width}}  {row.kind:<16} {_shape(row.output_shape):<20} {_count(row.parameters):>12} "
                f"{_count(row.multiply_adds):>15} {(_bytes(row.output_bytes) if row.output_bytes else ''):>14}"
            )
        lines += [
            "-" * len(head),
            f"input                {_shape(self.input_shape)}",
            f"parameters           {self.parameters:,} ({_bytes(4 * self.parameters)} as float32), "
            f"and {self.buffers:,} running statistics",
            f"multiply-adds        {self.multiply_adds:,} for each image ({_si(self.multiply_adds)})",
            f"kept for backward    {_bytes(self.saved_bytes)} for each image",
        ]
        return "\n".join(lines)


def summary(model: Module, input_shape: tuple[int, ...], batch: int = 2) -> Summary:
    """Run zeros through the model once and note what every layer makes of them.

    Args:
        model: any network; its mode and running statistics are left as they were.
        input_shape: (H, W, C) of one picture, or whatever one example is.
        batch: how many zeros; at least 2, because a batch norm may be left with one value otherwise.
    """
    rows: list[Row] = []
    names = {id(module): name for name, module in model.named_modules()}

    def note(module: Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        shape = output.shape[1:]
        parameters = sum(p.size for p in module.parameters(recurse=False))
        passed_on = any(isinstance(x, Tensor) and storage(x.data) is storage(output.data) for x in inputs)
        memory = 0 if passed_on else output.data.nbytes // batch
        rows.append(
            Row(names[id(module)], type(module).__name__, shape, parameters, _multiply_adds(module, shape), memory)
        )

    leaves = [m for m in model.modules() if not any(True for _ in m.named_children())]
    removers = [m.register_forward_hook(note) for m in leaves]
    buffers = {name: b.data.copy() for name, b in model.named_buffers()}
    dtype = next((p.dtype for p in model.parameters()), np.dtype(np.float32))
    try:
        with enable_grad():
            output = model(Tensor(np.zeros((batch, *input_shape), dtype)).to(device_of_module(model)))
    finally:
        for remove in removers:
            remove()
        for name, b in model.named_buffers():
            b.data[...] = buffers[name]
    parameters = list(model.parameters())
    saved = saved_bytes(output, {id(storage(p.data)) for p in parameters})
    counted = sum(p.size for p in parameters), sum(b.size for b in buffers.values())
    return Summary(rows, tuple(input_shape), *counted, saved // batch)


def saved_bytes(output: Tensor, without: set[int] | None = None) -> int:
    """Memory that the graph below ``output`` keeps for its backward pass: each array once, however many views it has.

    Args:
        output: a recorded tensor.
        without: ids of storage not to count: that of the parameters, say.
    """
    seen = set(without or ())
    total = 0
    visited: set[int] = set()
    todo: list[Any] = [output._node]
    while todo:
        node = todo.pop()
        if not isinstance(node, Node) or id(node) in visited:
            continue
        visited.add(id(node))
        todo += node.parents or ()
        for array in node.saved_arrays or ():
            if array is not None and id(storage(array)) not in seen:
                seen.add(id(storage(array)))
                total += storage(array).nbytes
    return total


def _multiply_adds(module: Module, output_shape: tuple[int, ...]) -> int:
    if isinstance(module, Conv2d):  # every output is a sum over the window and the channels of its group
        return prod(output_shape) * prod(module.weight.shape[:3])
    if isinstance(module, Linear):
        return prod(output_shape) * module.weight.shape[0]
    return 0


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _count(value: int) -> str:
    return f"{value:,}" if value else ""


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def _si(value: float) -> str:
    return f"{value / 1e9:.3f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"
