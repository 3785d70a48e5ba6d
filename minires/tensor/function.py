"""Function: an operation and its derivative."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, array_module, gpu, on_gpu, on_one_device
from ..errors import ArgumentError, DeviceError
from .graph import check_finite
from .modes import modes, unusual
from .node import Node, WatchedNode
from .operators import BINARY, OPERATIONS, UNARY
from .tensor import Tensor, wrap

_ndarray, _asarray = np.ndarray, np.asarray  # looked up in a module, 0.03 us each
_YES, _NO = (True,), (False,)


class Function:
    """An operation with a hand-written derivative.  Every built-in is one, and yours can be:

        class Cube(minires.Function):
            @staticmethod
            def forward(ctx, x):                 # plain arrays in, one plain array out
                ctx.save_for_backward(x)         # only what backward needs
                return x**3

            @staticmethod
            def backward(ctx, grad):             # one gradient for each input of forward
                (x,) = ctx.saved
                return 3 * x**2 * grad

        y = Cube.apply(x)

    Positional arguments of `apply` are inputs, each with a gradient (None where there is none); keyword arguments are
    options that ``forward`` receives as they are.  ``ctx.needs_input_grad[i]`` says whether input i's gradient is
    wanted.  ``forward`` must not change its inputs.

    All inputs are on one device, and what `backend.array_module` gives for them computes there.

    Attributes:
        fresh: for which inputs, all (True) or a bool for each, ``backward`` returns a new array that nobody else holds:
            not its own argument, nothing saved, no view of either.  The gradient of a leaf is then not copied.
        changes_device: whether a gradient may come back on another device.
        streams: whether ``backward`` takes ``onward`` and ``received``, see `receiver`.
        operator: its name in error messages about operands; that of the class if not given.
    """

    fresh: bool | tuple[bool, ...] = False
    changes_device = False
    operator = "Function"
    streams = False

    def __init_subclass__(cls, operator: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.operator = operator or cls.__name__
        if "backward" in vars(cls):  # another one than that of the base class, of which nothing is known
            cls.streams, cls.fresh = vars(cls).get("streams", False), vars(cls).get("fresh", False)
        if operator is not None:
            if operator in OPERATIONS:
                raise ArgumentError(f"{cls.__name__}: the operator {operator!r} is taken by {OPERATIONS[operator]}.")
            OPERATIONS[operator], UNARY[operator], BINARY[operator] = cls, cls._unary, cls._binary

    @staticmethod
    def forward(ctx: Node, *inputs: Any, **options: Any) -> Array:
        """Compute the output from plain arrays; numbers and None arrive as they were given."""
        raise NotImplementedError("a Function needs a static method forward(ctx, *inputs)")

    @staticmethod
    def backward(ctx: Node, grad: Array) -> Any:
        """From dL/d(output) the gradient of each input: one array, or a tuple with one entry for each input."""
        raise NotImplementedError("a Function needs a static method backward(ctx, grad)")

    @staticmethod
    def receiver(ctx: Node, so_far: Array | None) -> Any:
        """What the gradient of the output is to be given to while it is written, piece by piece, or None.

        The backward pass above, if it ``streams``, may be called with it as ``onward``; it then calls it with each
        piece of the gradient of its first input.  The receiver adds ``so_far``, what arrived before, and may do more
        to the piece, in place.  If it is ``complete`` at the end, this backward pass is given it as ``received``.
        """
        return None

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Tensor:
        """Run `forward`, and record it if an input requires a gradient."""
        if not (unusual or gpu.used):
            if len(inputs) == 1 and isinstance(inputs[0], Tensor):
                return cls._unary(inputs[0], options)
            if len(inputs) == 2 and not options:
                return cls._binary(*inputs)
        # the whole story, of which those two are what usually happens
        recording, watching = (modes.grad_enabled, modes.anomaly) if unusual else (True, False)
        if not (recording or watching or gpu.used):
            return without_gradient(cls, inputs, options)
        node = WatchedNode() if watching else Node()
        arrays: list[Any] = []
        sources: list[Node | Tensor | None] = []
        for x in inputs:
            source = None
            if isinstance(x, Tensor):
                if recording and x._requires_grad:
                    source = x._node or x
                x = x._data
            arrays.append(x)
            sources.append(source)
        if gpu.used:
            arrays = _on_one_device(cls, arrays, sources, options)
        wanted = tuple([source is not None for source in sources])
        node.function, node.parents, node.needs_input_grad = cls, sources, wanted
        node.saved_arrays, node.hooks = (), None
        data = cls.forward(node, *arrays, **options)
        if type(data) is not _ndarray:
            data = _as_output(cls, data, arrays)
        output = _tensor(data, node if True in wanted else None)
        if watching:
            given = [a for a in arrays if hasattr(a, "dtype")]
            check_finite(data, f"forward: {cls.__name__}", node.call_site, given)
        if unusual and modes.tape is not None:
            modes.tape.append((cls, inputs, options, output))
        return output

    # -- written out for one tensor and for two operands: an operation on a small array takes a third less ------------

    @classmethod
    def _unary(cls, x: Tensor, options: dict[str, Any] | None = None) -> Tensor:
        """``apply(x, **options)``."""
        if unusual or gpu.used:
            return cls.apply(x, **(options or {}))
        node = Node()
        source = (x._node or x) if x._requires_grad else None
        recorded = source is not None
        node.function, node.parents, node.needs_input_grad = cls, (source,), _YES if recorded else _NO
        node.saved_arrays, node.hooks = (), None
        array = x._data
        data = cls.forward(node, array, **options) if options else cls.forward(node, array)
        if type(data) is not _ndarray:
            data = _asarray(data) if type(data) is array.dtype.type else _as_output(cls, data, (array,))
        return _tensor(data, node if recorded else None)

    @classmethod
    def _binary(cls, x: Any, y: Any) -> Tensor:
        """``apply(x, y)``."""
        if unusual or gpu.used:
            return cls.apply(x, y)
        node = Node()
        source_x = source_y = None
        if isinstance(x, Tensor):
            if x._requires_grad:
                source_x = x._node or x
            x = x._data
        if isinstance(y, Tensor):
            if y._requires_grad:
                source_y = y._node or y
            y = y._data
        wanted = wants_x, wants_y = source_x is not None, source_y is not None
        node.function, node.parents, node.needs_input_grad = cls, (source_x, source_y), wanted
        node.saved_arrays, node.hooks = (), None
        data = cls.forward(node, x, y)
        if type(data) is not _ndarray:
            usual = type(x) is _ndarray and type(data) is x.dtype.type
            data = _asarray(data) if usual else _as_output(cls, data, (x, y))
        return _tensor(data, node if wants_x or wants_y else None)


def _tensor(data: Array, node: Node | None = None) -> Tensor:
    """A tensor of what ``forward`` returned; if it is floating point, its gradient goes to ``node``."""
    dtype = data.dtype
    if dtype.kind != "f":
        return Tensor(data)
    if node is not None:
        node.like = data.shape, dtype
    return wrap(data, node)


def _plain(inputs: tuple[Any, ...]) -> list[Any]:
    return [x._data if isinstance(x, Tensor) else x for x in inputs]


class _Nowhere:
    """The node of an operation that is not recorded."""

    def __init__(self, inputs: int) -> None:
        self.needs_input_grad = (False,) * inputs

    def save_for_backward(self, *arrays: Any) -> None:
        """Forget them."""


def outcome(cls: type[Function], arrays: list[Any], options: dict[str, Any]) -> Array:
    """What `apply` computes, from plain arrays to a plain array and without a record."""
    data = cls.forward(_Nowhere(len(arrays)), *arrays, **options)  # type: ignore[arg-type]
    return data if type(data) is np.ndarray else _as_output(cls, data, arrays)


def without_gradient(
    cls: type[Function], inputs: tuple[Any, ...], options: dict[str, Any], arrays: list[Any] | None = None
) -> Tensor:
    """``cls.apply`` for what no gradient is taken of; ``arrays`` are those of the inputs, if they are known."""
    data = outcome(cls, arrays or _plain(inputs), options)
    output = _tensor(data)
    if modes.tape is not None:
        modes.tape.append((cls, inputs, options, output))
    return output


def _on_one_device(cls: type[Function], arrays: list[Any], parents: list[Any], options: dict[str, Any]) -> list[Any]:
    """The arrays, if those and the arrays among the options are on one device; 0-d host arrays there as numbers."""
    together = on_one_device(cls.operator, *arrays, *options.values())[: len(arrays)]
    for array, number, parent in zip(arrays, together, parents, strict=True):
        if number is not array and parent is not None:
            raise DeviceError(
                f"{cls.operator}: a number that requires a gradient is on cpu and what it meets on cuda; its gradient "
                'would have to be copied back in silence. Move it first: .to("cuda").'
            )
    return together


def _as_output(cls: type[Function], data: Any, arrays: Any) -> Array:
    for a in arrays:
        if type(a) is np.ndarray and a.dtype.type is type(data):  # the scalar that NumPy makes of 0-d arrays
            return np.asarray(data)
    if on_gpu(data):
        return data
    if isinstance(data, tuple | list) or data is None or isinstance(data, Tensor):
        raise TypeError(
            f"{cls.__name__}.forward returned {type(data).__name__}; it must return one plain array. "
            "For several results use several Functions, or one array that holds them all."
        )
    xp = array_module(data, *arrays)
    array = xp.asarray(data)  # NumPy gives a scalar, not a 0-d array, for a full reduction
    floats = [a.dtype for a in arrays if getattr(a, "dtype", None) is not None and a.dtype.kind == "f"]
    if array.dtype.kind == "f" and floats and array.dtype not in floats:
        array = array.astype(xp.result_type(*floats))  # NumPy 1 widens such scalars to float64
    return array
