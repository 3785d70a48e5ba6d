"""The graph that operations leave behind, and the walk that differentiates it.

A graph holds nodes, not tensors: a node knows the arrays its backward needs (only those it asked to save) and where the
gradients go next.  References point from the loss towards the leaves and never back, so dropping the loss frees it all.
"""

from __future__ import annotations

import linecache
import os
import sys
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import Array, array_module, asnumpy
from ..errors import AnomalyError, GraphError, ShapeError
from .modes import modes

if TYPE_CHECKING:
    from .tensor import Tensor

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def storage(array: Array) -> Any:
    """The object that owns an array's memory: two arrays are views of each other when they share it."""
    base = getattr(array, "base", None)  # a Function may save a plain number too
    return array if base is None else base


class Node:
    """One recorded operation, and the ``ctx`` of its `Function`.

    Attributes:
        needs_input_grad: for each input, whether its gradient is wanted; ask before computing it.
        saved: the arrays given to `save_for_backward`, checked to be as they were.
    """

    # __dict__ is there for what a Function keeps beside its arrays: ctx.axis = axis
    __slots__ = ("__dict__", "call_site", "function", "hooks", "like", "needs_input_grad", "parents", "saved_arrays",
                 "watched")  # fmt: skip

    def __init__(self, function: Any, needs_input_grad: tuple[bool, ...]) -> None:
        self.function = function
        self.needs_input_grad = needs_input_grad
        self.parents: tuple[Node | Tensor | None, ...] | None = ()
        self.saved_arrays: tuple[Array | None, ...] | None = ()
        self.watched: list[tuple[list[int], int]] = []
        self.hooks: list[Callable] | None = None
        self.like: tuple[tuple[int, ...], np.dtype] = ((), np.dtype(np.float32))  # of the output
        self.call_site = _call_site() if modes.anomaly else ""

    @property
    def name(self) -> str:
        """What error messages call this operation."""
        return self.function.__name__

    def save_for_backward(self, *arrays: Array | None) -> None:
        """Keep these arrays for `backward`.  Save little: they stay in memory until the backward pass has used them."""
        self.saved_arrays = arrays
        if modes.anomaly:
            self.__dict__["_fingerprints"] = [_fingerprint(a) for a in arrays]

    def watch(self, tensors: list[Tensor]) -> None:
        """Note the version of every tensor whose memory a saved array shares."""
        for array in self.saved_arrays or ():
            if array is None:
                continue
            owner = storage(array)
            self.watched += [(t._version, t._version[0]) for t in tensors if storage(t._data) is owner]

    @property
    def saved(self) -> tuple[Any, ...]:
        """The arrays given to `save_for_backward`.

        Raises:
            GraphError: the graph was released, or one of the arrays was changed in place since.
        """
        arrays = self.saved_arrays
        if arrays is None:
            raise GraphError(RELEASED)
        changed = any(version[0] != then for version, then in self.watched)
        if not changed and "_fingerprints" in self.__dict__:
            changed = self.__dict__["_fingerprints"] != [_fingerprint(a) for a in arrays]
        if changed:
            raise GraphError(
                f"backward of {self.name}: an array that it saved in the forward pass was changed in place since, so "
                f"its gradient would be wrong{self.call_site and ' (called at ' + self.call_site + ')'}. "
                "Change a copy instead, or make the change after backward()."
            )
        return arrays

    def release(self) -> None:
        """Forget everything that only a backward pass needs."""
        self.parents = self.saved_arrays = self.hooks = None  # a hook may hold the tensor it was registered on
        self.watched = []
        self.__dict__.clear()


RELEASED = (
    "backward: this graph was released by an earlier backward(). Run the forward pass again, or pass "
    "retain_graph=True to the first backward()."
)


def walk(root: Node | Tensor, grad: Array, retain_graph: bool) -> None:
    """Send ``grad`` from ``root`` to every leaf below it, each operation once, outputs before inputs.

    No recursion, so depth is limited by memory alone.  A node speaks when the last of its uses has spoken: until then
    its gradient, the sum over its uses, is not complete.
    """
    uses = _count_uses(root)
    grads = {root: grad}
    ready = [root]
    while ready:
        node = ready.pop()
        grad = grads.pop(node, None)
        if not isinstance(node, Node):
            if grad is not None:
                node._accumulate(grad)
            continue
        if grad is not None:
            grad = run_hooks(node.hooks, grad)
        for parent, upstream in _input_grads(node, grad):
            if upstream is not None:
                known = grads.get(parent)
                # a new array, never `+=`: the first gradient may belong to somebody else too
                grads[parent] = upstream if known is None else added(known, upstream)
            uses[parent] -= 1
            if not uses[parent]:
                ready.append(parent)
        if not retain_graph:
            node.release()


def added(a: Array, b: Array) -> Array:
    """a + b as an array: NumPy makes a scalar of the sum of two 0-d arrays."""
    return array_module(a).asarray(a + b)


def run_hooks(hooks: list[Callable] | None, grad: Array) -> Array:
    """Show the gradient to each hook; what a hook returns, if anything, replaces it."""
    for hook in list(hooks or ()):  # a hook may take itself off the list
        replaced = hook(grad)
        if replaced is None:
            continue
        replaced = array_module(grad).asarray(replaced, dtype=grad.dtype)
        if replaced.shape != grad.shape:
            raise ShapeError(
                f"register_hook: the hook returned shape {replaced.shape} for a gradient of shape {grad.shape}."
            )
        grad = replaced
    return grad


def _count_uses(root: Node | Tensor) -> dict[Node | Tensor, int]:
    """How often each node and leaf below ``root`` is an input of an operation below ``root``."""
    uses: dict[Node | Tensor, int] = {}
    todo = [root]
    while todo:
        node = todo.pop()
        if not isinstance(node, Node):
            continue
        if node.parents is None:
            raise GraphError(RELEASED)
        for parent in node.parents:
            if parent is None:
                continue
            if parent not in uses:
                uses[parent] = 0
                todo.append(parent)
            uses[parent] += 1
    return uses


def _input_grads(node: Node, grad: Array | None) -> list[tuple[Node | Tensor, Array | None]]:
    """Run one backward: pairs of (where it goes, gradient), checked and in the dtype of its tensor."""
    parents = node.parents or ()
    if grad is None:  # nothing reached this output; its inputs still have to hear that it has spoken
        return [(parent, None) for parent in parents if parent is not None]
    grads = node.function.backward(node, grad)
    grads = grads if isinstance(grads, tuple) else (grads,)
    if len(grads) != len(parents):
        raise GraphError(
            f"{node.name}.backward returned {len(grads)} gradients for {len(parents)} inputs: return one for each "
            "input of forward, None for those that have none."
        )
    pairs: list[tuple[Node | Tensor, Array | None]] = []
    for i, (parent, upstream) in enumerate(zip(parents, grads, strict=True)):
        if parent is None:
            continue
        if upstream is not None:
            shape, dtype = parent.like
            upstream = array_module(upstream).asarray(upstream)
            if upstream.shape != shape:
                raise ShapeError(
                    f"{node.name}.backward: the gradient of input {i} has shape {upstream.shape}, but the input has "
                    f"shape {shape}. A broadcast input needs its gradient summed back (minires.unbroadcast)."
                )
            if upstream.dtype != dtype:
                upstream = upstream.astype(dtype)
            if modes.anomaly:
                check_finite(upstream, f"backward of {node.name}: the gradient of input {i}", node.call_site, [grad])
        pairs.append((parent, upstream))
    return pairs


def check_finite(array: Array, what: str, call_site: str, sources: list[Any]) -> None:
    """Raise AnomalyError if the array holds a NaN or an infinity; ``sources`` tell whether it came in from outside."""
    xp = array_module(array)
    if array.dtype.kind not in "fc" or bool(xp.isfinite(array).all()):
        return
    nans, infinities = int(xp.isnan(array).sum()), int(xp.isinf(array).sum())
    came_in = any(a is not None and not bool(xp.isfinite(a).all()) for a in sources)
    where = f", called at {call_site}" if call_site else ""
    raise AnomalyError(
        f"{what} has {nans} NaN and {infinities} infinite values of {array.size}{where}."
        + (" They were there in what it was given." if came_in else "")
    )


def _call_site() -> str:
    """``file:line: source`` of the innermost frame outside minires."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    return f"{os.path.basename(file)}:{line}: {linecache.getline(file, line).strip()}".rstrip(": ")


def _fingerprint(array: Array | None) -> int:
    return 0 if array is None else zlib.crc32(np.ascontiguousarray(asnumpy(array)).tobytes())
