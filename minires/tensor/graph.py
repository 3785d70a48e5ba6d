"""The walk that differentiates the graph which operations leave behind, of `Node`s: all of backpropagation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from ..backend import Array, array_module, device_of, gpu, on_gpu
from ..errors import AnomalyError, DeviceError, GraphError, ShapeError
from .modes import modes
from .node import RELEASED, Node
from .operators import plain

if TYPE_CHECKING:
    from .tensor import Tensor

_LARGE = 1 << 16  # elements, from which on a kernel gains more than it costs to ask for it


def walk(root: Node | Tensor, grad: Array, retain_graph: bool) -> None:
    """Send ``grad`` from ``root`` to every leaf below it, each operation once, outputs before inputs.

    No recursion, so depth is limited by memory alone.  A node speaks when the last of its uses has spoken: until then
    its gradient, the sum over its uses, is not complete.
    """
    uses = _count_uses(root)
    grads = {root: grad}
    fresh: set[Node | Tensor] = set()  # whose gradient is a new array that nobody else holds
    receivers: dict[Node, Any] = {}  # what has seen a gradient while it was written, see `_run_streaming`
    ready = [root]
    anomaly = modes.anomaly
    while ready:
        node = ready.pop()
        grad = grads.pop(node, None)
        if not isinstance(node, Node):
            if grad is not None:
                node._accumulate(grad, node in fresh)
            continue
        if node.hooks and grad is not None:
            grad = run_hooks(node.hooks, grad)
            receivers.pop(node, None)  # it has seen another gradient
        if grad is not None and node.function.streams:
            sent = _run_streaming(node, grad, uses, grads, receivers)
        else:
            sent = _run_backward(node, grad)
        news = node.function.fresh
        for i, parent in enumerate(node.parents or ()):
            if parent is None:
                continue
            upstream = sent[i]
            if upstream is not None:
                if type(upstream) is not type(grad) or (upstream.shape, upstream.dtype) != parent.like or anomaly:
                    upstream = _checked(upstream, parent.like, node, i, grad)
                if parent in grads:  # a new array, never `+=`: the first gradient may belong to somebody else too
                    grads[parent] = added(grads[parent], upstream)
                    fresh.add(parent)
                else:
                    grads[parent] = upstream
                    if news and (news is True or news[i]):
                        fresh.add(parent)
            still_to_speak = uses[parent] - 1
            if still_to_speak:
                uses[parent] = still_to_speak
            else:
                ready.append(parent)
        if not retain_graph:
            node.release()


def as_array(value: Any) -> Array:
    """The value as an array: of 0-d arrays NumPy makes scalars."""
    return np.asarray(value) if isinstance(value, np.generic) or not on_gpu(value) else value


def added(a: Array, b: Array) -> Array:
    """a + b as an array; both have the same shape and dtype."""
    if type(a) is type(b):
        if type(a) is not np.ndarray or a.size >= _LARGE:
            return kernels.active(a).add(a, b)
        if not a.ndim:  # numbers themselves are added in a sixth of the time
            a, b = a[()], b[()]
    total = a + b
    return total if type(total) is np.ndarray else as_array(total)


def run_hooks(hooks: list[Callable] | None, grad: Array) -> Array:
    """Show the gradient to each hook; what a hook returns, if anything, replaces it."""
    for hook in list(hooks or ()):  # a hook may take itself off the list
        replaced = plain(hook(grad))
        if replaced is None:
            continue
        replaced = array_module(grad, replaced, caller="register_hook").asarray(replaced, dtype=grad.dtype)
        if replaced.shape != grad.shape:
            raise ShapeError(
                f"register_hook: the hook returned shape {replaced.shape} for a gradient of shape {grad.shape}."
            )
        grad = replaced
    return grad


def remover(hooks: list[Callable], hook: Callable) -> Callable[[], None]:
    """A function that takes a hook off the list, once: the same one may be there for somebody else, too."""
    left = [hook]

    def remove() -> None:
        if left and left.pop() in hooks:
            hooks.remove(hook)

    return remove


def _count_uses(root: Node | Tensor) -> dict[Node | Tensor, int]:
    """How often each node and leaf below ``root`` is an input of an operation below ``root``."""
    uses: dict[Node | Tensor, int] = {root: 0}
    nodes = [root] if isinstance(root, Node) else []
    for node in nodes:  # which grows as it is read
        if node.parents is None:
            raise GraphError(RELEASED)
        for parent in node.parents:
            if parent in uses:
                uses[parent] += 1
            elif parent is not None:
                uses[parent] = 1
                if isinstance(parent, Node):
                    nodes.append(parent)
    return uses


def _run_backward(node: Node, grad: Array | None, streams: dict[str, Any] | None = None) -> tuple[Any, ...]:
    """The gradient of each input, as the Function returns it."""
    parents = node.parents or ()
    if grad is None:  # nothing reached this output; its inputs still have to hear that it has spoken
        return (None,) * len(parents)
    backward = node.function.backward
    grads = backward(node, grad, **streams) if streams else backward(node, grad)
    if not isinstance(grads, tuple):
        grads = (grads,)
    if len(grads) != len(parents):
        raise GraphError(
            f"{node.name}.backward returned {len(grads)} gradients for {len(parents)} inputs: return one for each "
            "input of forward, None for those that have none."
        )
    return grads


def _run_streaming(
    node: Node,
    grad: Array,
    uses: dict[Node | Tensor, int],
    grads: dict[Node | Tensor, Array],
    receivers: dict[Node, Any],
) -> tuple[Any, ...]:
    """`_run_backward`, where the operation below may take the gradient of the first input while it is being written.

    It is asked for a `Function.receiver` if nobody else has still to speak to it.  What arrived there before is given
    to the receiver, which adds it.
    """
    streams = {"received": receivers.pop(node)} if node in receivers else {}
    below: Any = node.parents[0] if node.parents else None
    onward = None
    fusing = modes.may_fuse and not modes.anomaly
    if fusing and isinstance(below, Node) and uses[below] == 1 and below.function.streams and not below.hooks:
        onward = below.function.receiver(below, grads.get(below))
    if onward is not None:
        streams["onward"] = onward
    sent = _run_backward(node, grad, streams)
    if onward is not None and onward.complete:
        grads.pop(below, None)
        receivers[below] = onward
    return sent


def _checked(upstream: Any, like: tuple[tuple[int, ...], np.dtype], node: Node, i: int, grad: Array | None) -> Array:
    """The gradient of input i as an array in the dtype of its tensor, if its shape is right."""
    shape, dtype = like
    upstream = as_array(upstream)
    if gpu.used and device_of(upstream) != device_of(grad) and not node.function.changes_device:
        raise DeviceError(
            f"{node.name}.backward: the gradient of input {i} is on {device_of(upstream)}, but the gradient it was "
            f"computed from on {device_of(grad)}. Compute it with the array module of its inputs, not with numpy."
        )
    if upstream.shape != shape:
        raise ShapeError(
            f"{node.name}.backward: the gradient of input {i} has shape {upstream.shape}, but the input has "
            f"shape {shape}. A broadcast input needs its gradient summed back (minires.unbroadcast)."
        )
    if upstream.dtype != dtype:
        upstream = upstream.astype(dtype)
    if modes.anomaly:
        check_finite(upstream, f"backward of {node.name}: the gradient of input {i}", node.call_site, [grad])
    return upstream


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
