"""Functions of whole arrays: reductions, products, and moving elements about."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import memory
from .array import ndarray, part, wrap, writable
from .creation import arange, full
from .elementwise import UFunc, deliver, operand
from .launches import change, compute, count

# -- reductions: one launch over any axes, and a 0-d array where NumPy gives a number ----------------------------------


def _reduction(name: str, launches: int = 1) -> Any:
    function = getattr(np, name)

    def reduce(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        values, options = operand(a), {} if dtype is None else {"dtype": dtype}
        for _ in range(launches - 1):
            count("launches", name)
        return deliver(name, lambda: np.asarray(function(values, axis, keepdims=keepdims, **options)), out, a._memory)

    reduce.__name__ = name
    return reduce


sum, prod, mean = _reduction("sum"), _reduction("prod"), _reduction("mean")


def _moment(name: str, launches: int) -> Any:
    function = getattr(np, name)

    def reduce(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0,
               keepdims: bool = False) -> ndarray:  # fmt: skip
        values = operand(a)
        for _ in range(launches - 1):
            count("launches", name)
        options = {"dtype": dtype, "ddof": ddof, "keepdims": keepdims}
        return deliver(name, lambda: np.asarray(function(values, axis, **options)), out, a._memory)

    return reduce


var, std = _moment("var", 2), _moment("std", 3)  # the mean, the deviations, the root


def _choice(name: str) -> Any:
    function = getattr(np, name)

    def reduce(a: ndarray, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        values = operand(a)
        return deliver(name, lambda: np.asarray(function(values, axis, keepdims=keepdims)), out, a._memory)

    return reduce


max, min, all, any = _choice("max"), _choice("min"), _choice("all"), _choice("any")
amax, amin = max, min


def _position(name: str) -> Any:
    function = getattr(np, name)

    def reduce(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        values = operand(a)
        return deliver(name, lambda: np.asarray(function(values, axis, keepdims=keepdims)), out, a._memory)

    return reduce


argmax, argmin = _position("argmax"), _position("argmin")


def argsort(a: ndarray, axis: int = -1, kind: Any = None) -> ndarray:
    """The order of the elements; where two are equal the first comes first."""
    values = operand(a)
    return deliver("argsort", lambda: np.argsort(values, axis, kind="stable"), None, a._memory)


def sort(a: ndarray, axis: int = -1, kind: Any = None) -> ndarray:
    """The elements in order."""
    values = operand(a)
    return deliver("sort", lambda: np.sort(values, axis), None, a._memory)


def count_nonzero(a: ndarray, axis: Any = None) -> ndarray:
    """How many are not zero."""
    values = operand(a)
    return deliver("count_nonzero", lambda: np.asarray(np.count_nonzero(values, axis)), None, a._memory)


def cumsum(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None) -> ndarray:
    """Running sums."""
    values = operand(a)
    return deliver("cumsum", lambda: np.cumsum(values, axis, dtype), out, a._memory)


def array_equal(a1: ndarray, a2: ndarray, equal_nan: bool = False) -> ndarray:
    """Whether shapes and all elements are equal: a 0-d array of booleans."""
    if a1.shape != a2.shape:
        return full((), False)
    equal = a1 == a2
    return all((equal | ((a1 != a1) & (a2 != a2))) if equal_nan else equal)


# -- products: cuBLAS, which CuPy does not call while a graph is being captured ----------------------------------------


def _product(name: str) -> Any:
    function = getattr(np, name)

    def multiply(*operands: Any, **options: Any) -> ndarray:
        if memory.capturing() is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        views = [x if isinstance(x, str) else operand(x) for x in operands if not isinstance(x, int | tuple)]
        rest = [x for x in operands if isinstance(x, int | tuple)]  # the axes of tensordot
        out = options.pop("out", None)
        reads = [x._memory for x in operands if isinstance(x, ndarray)]
        return deliver(name, lambda: np.array(function(*views, *rest, **options), order="C"), out, *reads)

    return multiply


matmul, dot, tensordot, einsum = (_product(n) for n in ("matmul", "dot", "tensordot", "einsum"))


def _matmul(x: ndarray, y: Any) -> Any:
    if isinstance(y, ndarray):
        return matmul(x, y)
    return NotImplemented if getattr(y, "__array_ufunc__", y) is None else np.matmul(x, y)


ndarray.__matmul__ = _matmul  # type: ignore[attr-defined]
ndarray.__rmatmul__ = lambda y, x: np.matmul(x, y)  # type: ignore[attr-defined]

# -- shapes and views --------------------------------------------------------------------------------------------------


def shape(a: ndarray) -> tuple[int, ...]:
    """`ndarray.shape`."""
    return operand(a).shape


def ndim(a: ndarray) -> int:
    """`ndarray.ndim`."""
    return operand(a).ndim


def size(a: ndarray) -> int:
    """`ndarray.size`."""
    return operand(a).size


def broadcast_to(array: ndarray, shape: Any) -> ndarray:
    """A view in which elements repeat."""
    return part(array, np.broadcast_to(operand(array), shape))


def moveaxis(a: ndarray, source: Any, destination: Any) -> ndarray:
    """A view with an axis elsewhere."""
    return part(a, np.moveaxis(operand(a), source, destination))


def expand_dims(a: ndarray, axis: Any) -> ndarray:
    """A view with a new axis."""
    return part(a, np.expand_dims(operand(a), axis))


def flip(a: ndarray, axis: Any = None) -> ndarray:
    """A view in reverse order."""
    return part(a, np.flip(operand(a), axis))


def reshape(a: ndarray, newshape: Any, order: str = "C") -> ndarray:
    """`ndarray.reshape`."""
    return a.reshape(newshape)


def ravel(a: ndarray, order: str = "C") -> ndarray:
    """`ndarray.ravel`."""
    return a.ravel()


def transpose(a: ndarray, axes: Any = None) -> ndarray:
    """`ndarray.transpose`."""
    return a.transpose(axes)


def swapaxes(a: ndarray, axis1: int, axis2: int) -> ndarray:
    """`ndarray.swapaxes`."""
    return a.swapaxes(axis1, axis2)


def squeeze(a: ndarray, axis: Any = None) -> ndarray:
    """`ndarray.squeeze`."""
    return a.squeeze(axis)


def copy(a: ndarray, order: str = "K") -> ndarray:
    """`ndarray.copy`."""
    return a.copy()


# -- new arrangements --------------------------------------------------------------------------------------------------


def where(condition: ndarray, x: Any = None, y: Any = None) -> ndarray:
    """x where the condition holds, y elsewhere."""
    views = [operand(v) for v in (condition, x, y)]
    reads = [v._memory for v in (condition, x, y) if isinstance(v, ndarray)]
    return wrap(*compute("where", lambda: np.array(np.where(*views), order="C"), *reads))


def clip(a: ndarray, a_min: Any = None, a_max: Any = None, out: Any = None) -> ndarray:
    """Limited to an interval."""
    views = [v if v is None else operand(v) for v in (a, a_min, a_max)]
    return deliver("clip", lambda: np.clip(*views), out, a._memory)


def concatenate(tup: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind") -> ndarray:
    """End to end; one launch for each array."""
    arrays = list(tup)
    for a in arrays:
        if not isinstance(a, ndarray):
            raise TypeError(f"Only cupy arrays can be concatenated, not {type(a)}")
    for _ in arrays[1:]:
        count("launches", "concatenate")
    views, reads = [a._array for a in arrays], [a._memory for a in arrays]
    return deliver("concatenate", lambda: np.array(np.concatenate(views, axis, dtype=dtype), order="C"), out, *reads)


def stack(tup: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind") -> ndarray:
    """Along a new axis."""
    return concatenate([expand_dims(a, axis) for a in tup], axis, out, dtype=dtype)


def pad(array: ndarray, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> ndarray:
    """A border of one value."""
    if mode != "constant":
        raise NotImplementedError(f"the stand-in does not pad with mode {mode!r}")
    widths = np.broadcast_to(pad_width, (array.ndim, 2)).tolist()
    shape = [before + n + after for (before, after), n in zip(widths, array.shape, strict=True)]
    padded = full(shape, constant_values, array.dtype)
    padded[tuple(slice(before, before + n) for (before, _), n in zip(widths, array.shape, strict=True))] = array
    return padded


def repeat(a: ndarray, repeats: int, axis: int | None = None) -> ndarray:
    """Each element several times."""
    values = operand(a)
    return deliver("repeat", lambda: np.array(np.repeat(values, repeats, axis), order="C"), None, a._memory)


def tile(A: ndarray, reps: Any) -> ndarray:
    """The whole several times."""
    values = operand(A)
    return deliver("tile", lambda: np.array(np.tile(values, reps), order="C"), None, A._memory)


def take(a: ndarray, indices: Any, axis: int | None = None, out: Any = None) -> ndarray:
    """Elements by number.  CuPy wraps a number out of range around; here it is an IndexError."""
    from .indexing import resolve

    values, (index,) = operand(a), resolve(indices)
    reads = [indices._memory] if isinstance(indices, ndarray) else []
    return deliver("take", lambda: np.array(np.take(values, index, axis), order="C"), out, a._memory, *reads)


def _along(a: ndarray, indices: ndarray, axis: int) -> tuple[ndarray, ...]:
    return tuple(
        indices if i == axis % a.ndim else arange(n).reshape((1,) * i + (-1,) + (1,) * (a.ndim - i - 1))
        for i, n in enumerate(a.shape)
    )


def take_along_axis(a: ndarray, indices: ndarray, axis: int) -> ndarray:
    """One element of each row."""
    return a[_along(a, indices, axis)]


def put_along_axis(arr: ndarray, indices: ndarray, values: Any, axis: int) -> None:
    """Set one element of each row."""
    arr[_along(arr, indices, axis)] = values


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    """Write into an array."""
    target, views = writable(dst), [operand(src), True if where is None else operand(where)]
    reads = [x._memory for x in (src, where) if isinstance(x, ndarray)]
    change("copyto", lambda: np.copyto(target, views[0], casting, where=views[1]), dst._memory, *reads)


for _name in ("sum", "prod", "mean", "var", "std", "max", "min", "all", "any", "argmax", "argmin", "cumsum", "clip",
              "repeat", "take", "dot", "argsort"):  # fmt: skip
    setattr(ndarray, _name, globals()[_name])

_UNARY = """abs absolute negative positive exp exp2 expm1 log log1p log2 sqrt square cbrt reciprocal tanh sin cos sign
isfinite isnan isinf floor ceil trunc rint logical_not invert"""
_BINARY = """add subtract multiply divide true_divide floor_divide power remainder mod maximum minimum fmax fmin
equal not_equal less less_equal greater greater_equal logical_and logical_or logical_xor bitwise_and bitwise_or
bitwise_xor left_shift right_shift hypot"""
UFUNCS = {name: UFunc(getattr(np, name)) for name in (_UNARY + " " + _BINARY).split()}
