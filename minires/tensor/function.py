"""Function: an operation and its derivative."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, array_module, gpu, on_gpu, on_one_device
from ..errors import ArgumentError, DeviceError
from .graph import check_finite
from .modes import modes, unusual
from .node import Node, WatchedNode
from .operators import APPLY, OPERATIONS
from .tensor import Tensor, wrap

_new, _ndarray, _asarray = object.__new__, np.ndarray, np.asarray  # looked up in a module, 0.03 us each


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
        if "backward" in vars(cls) and "streams" not in vars(cls):
            cls.streams = False  # another backward pass than that of the base class
        if operator is not None:
            if operator in OPERATIONS:
                raise ArgumentError(f"{cls.__name__}: the operator {operator!r} is taken by {OPERATIONS[operator]}.")
            OPERATIONS[operator], APPLY[operator] = cls, cls.apply

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
        # The last of three cases is the whole story: a loop over the inputs.  Written out for one input and for two,
        # which almost all operations have, it takes 0.3 us less, a fifth of an operation on a small array.
        as_usual = not unusual and not gpu.used
        if not as_usual and not (gpu.used or modes.grad_enabled or modes.anomaly):
            return without_gradient(cls, inputs, options)
        count = len(inputs) if as_usual else 0
        node = Node() if as_usual or not modes.anomaly else WatchedNode()
        node.function, node.saved_arrays, node.hooks = cls, (), None
        arrays: Any = None  # written down by the last case only
        if count == 1:
            (x,) = inputs
            source = None
            if isinstance(x, Tensor):
                if x._requires_grad:
                    source = x._node or x
                x = x._data
            node.parents = (source,)
            recorded = source is not None
            node.needs_input_grad = _YES if recorded else _NO
            data = cls.forward(node, x, **options) if options else cls.forward(node, x)
        elif count == 2:
            x, y = inputs
            source_x = source_y = None
            if isinstance(x, Tensor):
                if x._requires_grad:
                    source_x = x._node or x
                x = x._data
            if isinstance(y, Tensor):
                if y._requires_grad:
                    source_y = y._node or y
                y = y._data
            node.parents = (source_x, source_y)
            node.needs_input_grad = wants_x, wants_y = source_x is not None, source_y is not None
            recorded = wants_x or wants_y
            data = cls.forward(node, x, y, **options) if options else cls.forward(node, x, y)
        else:
            x, arrays, sources, wanted = None, [], [], []
            for x in inputs:
                source = None
                if isinstance(x, Tensor):
                    if modes.grad_enabled and x._requires_grad:
                        source = x._node or x
                    x = x._data
                arrays.append(x)
                sources.append(source)
                wanted.append(source is not None)
            node.parents, node.needs_input_grad = sources, tuple(wanted)
            recorded = True in wanted
            if gpu.used:
                arrays = _on_one_device(cls, arrays, sources, options)
            data = cls.forward(node, *arrays, **options)

        if type(data) is not _ndarray:
            if type(x) is _ndarray and x.dtype.type is type(data):  # the scalar that NumPy makes of 0-d arrays
                data = _asarray(data)
            else:
                data = _as_output(cls, data, arrays or _plain(inputs))
        dtype = data.dtype
        if dtype.kind == "f":
            output = _new(Tensor)  # `wrap`, written out: 0.04 us less
            output._data, output._hooks, output.grad = data, None, None
            output._requires_grad = recorded
            output._node = node if recorded else None
            node.like = data.shape, dtype
        else:
            output = Tensor(data)
        if not as_usual:
            if modes.anomaly:
                given = [a for a in arrays if hasattr(a, "dtype")]
                check_finite(data, f"forward: {cls.__name__}", node.call_site, given)
            if modes.tape is not None:
                modes.tape.append((cls, inputs, options, output))
        return output


_YES, _NO = (True,), (False,)


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


def without_gradient(cls: type[Function], inputs: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """``cls.apply`` for what no gradient is taken of; inputs may be plain arrays as well."""
    data = outcome(cls, _plain(inputs), options)
    output = wrap(data) if data.dtype.kind == "f" else Tensor(data)
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
