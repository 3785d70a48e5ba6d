"""Arithmetic, element by element, and the matrix product.

Either operand may be a number or a plain array; gradients are summed back over broadcast axes.  NumPy's functions of
one array, like np.exp, call CuPy's for an array of CuPy's.
"""

from __future__ import annotations

import numpy as np

from ..backend import array_module
from ..errors import ShapeError
from ..tensor import Function
from .broadcast import floating, selected, unbroadcast
from .product import product


def _explained(error, name, a, b):
    """A sentence in place of NumPy's error, if it is about shapes that do not broadcast."""
    if "broadcast" not in str(error):
        return error
    return ShapeError(
        f"{name}: the shapes {a.shape} and {b.shape} do not broadcast. Aligned from the right, each pair of "
        "lengths must be equal or contain a 1."
    )


_ndarray = np.ndarray  # to look it up in its module takes 0.03 us
# The shapes of two arrays of one number.  Of numbers themselves, x[()], NumPy makes a sum in a sixth of the time and an
# exponential in half; but it warns when whole ones leave their range, as it does not of arrays.
_NUMBERS = (), ()


def _shape(x):
    return getattr(x, "shape", ())


def _shapes(a, b):
    try:
        return a.shape, b.shape
    except AttributeError:  # one of them is a number of Python
        return _shape(a), _shape(b)


def _float_arrays(a, b):
    """Whether both are NumPy's arrays of floats, in one dtype as operands are."""
    return type(a) is type(b) is _ndarray and a.dtype.kind == "f"


def _floats(a, b):
    """Both as floating point; a number of Python takes the dtype of the other."""
    a, b = (floating(x) if hasattr(x, "dtype") else x for x in (a, b))
    dtype = getattr(a, "dtype", None) or b.dtype
    return (x if hasattr(x, "dtype") else dtype.type(x) for x in (a, b))  # NumPy 1 would widen a number beside a number


class Add(Function, operator="add"):
    """y = a + b.  Keeps only the two shapes."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.shapes = shapes = _shapes(a, b)
        try:
            return a[()] + b[()] if shapes == _NUMBERS and _float_arrays(a, b) else a + b
        except ValueError as error:
            raise _explained(error, "add", a, b) from None

    @staticmethod
    def backward(ctx, dy):
        shape = dy.shape
        if ctx.shapes == (shape, shape):  # nothing was broadcast
            return dy, dy
        wants_a, wants_b = ctx.needs_input_grad
        da = unbroadcast(dy, ctx.shapes[0]) if wants_a else None
        db = unbroadcast(dy, ctx.shapes[1]) if wants_b else None
        return da, db


class Subtract(Function, operator="subtract"):
    """y = a - b."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.shapes = shapes = _shapes(a, b)
        try:
            return a[()] - b[()] if shapes == _NUMBERS and _float_arrays(a, b) else a - b
        except ValueError as error:
            raise _explained(error, "subtract", a, b) from None

    @staticmethod
    def backward(ctx, dy):
        wants_a, wants_b = ctx.needs_input_grad
        da = unbroadcast(dy, ctx.shapes[0]) if wants_a else None
        db = unbroadcast(-dy, ctx.shapes[1]) if wants_b else None
        return da, db


class Multiply(Function, operator="multiply"):
    """y = a * b, so da = dy * b and db = dy * a."""

    @staticmethod
    def forward(ctx, a, b):
        wants_a, wants_b = ctx.needs_input_grad
        ctx.save_for_backward(a if wants_b else None, b if wants_a else None)
        ctx.shapes = shapes = _shapes(a, b)
        try:
            return a[()] * b[()] if shapes == _NUMBERS and _float_arrays(a, b) else a * b
        except ValueError as error:
            raise _explained(error, "multiply", a, b) from None

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved
        wants_a, wants_b = ctx.needs_input_grad
        da = unbroadcast(dy * b, ctx.shapes[0]) if wants_a else None
        db = unbroadcast(dy * a, ctx.shapes[1]) if wants_b else None
        return da, db


class Divide(Function, operator="divide"):
    """y = a / b, so da = dy / b and db = -dy * a / b^2.  Integers are divided as float32."""

    @staticmethod
    def forward(ctx, a, b):
        usual = type(a) is type(b) is _ndarray and a.dtype.kind == "f"  # and so is b: operands have one dtype
        if not usual:
            a, b = _floats(a, b)
        ctx.shapes = shapes = a.shape, b.shape
        ctx.save_for_backward(a if ctx.needs_input_grad[1] else None, b)
        try:
            return a[()] / b[()] if usual and shapes == _NUMBERS else a / b
        except ValueError as error:
            raise _explained(error, "divide", a, b) from None

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved
        wants_a, wants_b = ctx.needs_input_grad
        da = unbroadcast(dy / b, ctx.shapes[0]) if wants_a else None
        db = unbroadcast(-dy * a / (b * b), ctx.shapes[1]) if wants_b else None
        return da, db


class Power(Function, operator="power"):
    """y = a^b, so da = dy * b * a^(b-1) and db = dy * y * log(a).

    At a = 0 the limits are taken: da = 0 for b = 0 (where a^b is the constant 1), and db = 0.
    """

    @staticmethod
    def forward(ctx, a, b):
        try:
            y = a**b
        except ValueError as error:
            raise _explained(error, "power", a, b) from None
        ctx.save_for_backward(a, b, y if ctx.needs_input_grad[1] else None)
        return y

    @staticmethod
    def backward(ctx, dy):
        a, b, y = ctx.saved
        da = db = None
        if ctx.needs_input_grad[0]:
            xp = array_module(b)  # a number stays on the host; [()] makes it a scalar again
            slope = b * a ** xp.where(b == 0, xp.ones_like(b), b - 1)[()]  # b = 0: 0 * a^1, never 0 * a^-1
            da = unbroadcast(dy * slope, a.shape)
        if ctx.needs_input_grad[1]:
            xp = array_module(a)
            log_a = xp.log(xp.where(a == 0, xp.ones_like(a), a)[()])
            db = unbroadcast(dy * y * log_a, b.shape)
        return da, db


class MatMul(Function, operator="matmul"):
    """y = a @ b over the last two axes, any leading axes broadcast; a or b may be a vector, as in NumPy.

    For matrices da = dy @ b^T and db = a^T @ dy.
    """

    @staticmethod
    def forward(ctx, a, b):
        ctx.shapes = shape_a, shape_b = a.shape, b.shape
        if not (shape_a and shape_b) or shape_a[-1] != shape_b[-2 if len(shape_b) > 1 else 0]:
            raise ShapeError(
                f"matmul: {shape_a} @ {shape_b} does not fit: the last axis of the first must be as long as the "
                "last but one of the second."
            )
        wants_a, wants_b = ctx.needs_input_grad
        ctx.save_for_backward(a if wants_b else None, b if wants_a else None)
        try:
            return product(a, b)
        except ValueError as error:
            raise _explained(error, "matmul", a, b) from None

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved
        shape_a, shape_b = ctx.shapes
        if len(shape_b) == 1:  # a vector on the right is a column that the result does not keep
            dy = dy[..., None]
        if len(shape_a) == 1:  # and one on the left a row
            dy = dy[..., None, :]
        da = db = None
        if ctx.needs_input_grad[0]:
            columns = b[:, None] if b.ndim == 1 else b
            da = product(dy, columns, transpose_b=True)
            da = unbroadcast(da, (1, *shape_a)).reshape(shape_a) if len(shape_a) == 1 else unbroadcast(da, shape_a)
        if ctx.needs_input_grad[1]:
            rows = a[None, :] if a.ndim == 1 else a
            db = product(rows, dy, transpose_a=True)
            db = unbroadcast(db, (*shape_b, 1)).reshape(shape_b) if len(shape_b) == 1 else unbroadcast(db, shape_b)
        return da, db


class Negative(Function, operator="negative"):
    """y = -x."""

    @staticmethod
    def forward(ctx, x):
        return -x[()] if type(x) is _ndarray and not x.ndim and x.dtype.kind == "f" else -x

    @staticmethod
    def backward(ctx, dy):
        return -dy


class Abs(Function, operator="abs"):
    """y = |x|; the derivative at 0 is taken as 0."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return abs(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        return dy * array_module(x).sign(x)


class Exp(Function, operator="exp"):
    """y = e^x, its own derivative."""

    @staticmethod
    def forward(ctx, x):
        x = floating(x)
        y = np.exp(x if x.ndim else x[()])
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return dy * y


class Log(Function, operator="log"):
    """y = log(x), so dx = dy / x."""

    @staticmethod
    def forward(ctx, x):
        x = floating(x)
        ctx.save_for_backward(x)
        return np.log(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        return dy / x


class Sqrt(Function, operator="sqrt"):
    """y = sqrt(x), so dx = dy / (2 y)."""

    @staticmethod
    def forward(ctx, x):
        y = np.sqrt(floating(x))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved
        return dy / (2 * y)


class Maximum(Function, operator="maximum"):
    """y = max(a, b) element by element; where they are equal the gradient goes to a."""

    @staticmethod
    def forward(ctx, a, b):
        try:
            y = array_module(a, b).maximum(a, b)
        except ValueError as error:
            raise _explained(error, "maximum", a, b) from None
        ctx.save_for_backward(a, b)
        return y

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved
        return unbroadcast(selected(dy, a >= b), _shape(a)), unbroadcast(selected(dy, a < b), _shape(b))


class Minimum(Function, operator="minimum"):
    """y = min(a, b) element by element; where they are equal the gradient goes to a."""

    @staticmethod
    def forward(ctx, a, b):
        try:
            y = array_module(a, b).minimum(a, b)
        except ValueError as error:
            raise _explained(error, "minimum", a, b) from None
        ctx.save_for_backward(a, b)
        return y

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved
        return unbroadcast(selected(dy, a <= b), _shape(a)), unbroadcast(selected(dy, a > b), _shape(b))


class Clip(Function, operator="clip"):
    """y = min(max(x, low), high), either bound None for none.  The gradient passes where low <= x <= high."""

    @staticmethod
    def forward(ctx, x, *, low, high):
        if any(bound is not None and not float(bound).is_integer() for bound in (low, high)):
            x = floating(x)  # an integer would cut its bounds off at the point, and knows no infinity
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high
        y = x if low is None else array_module(x).maximum(x, x.dtype.type(low))
        return y if high is None else array_module(x).minimum(y, x.dtype.type(high))

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved
        inside = True if ctx.low is None else x >= ctx.low
        return selected(dy, inside if ctx.high is None else inside & (x <= ctx.high))


class Where(Function, operator="where"):
    """y = a where the condition holds, b elsewhere."""

    @staticmethod
    def forward(ctx, a, b, *, condition):
        ctx.save_for_backward(condition.copy())  # a mask may be used again for the next batch
        ctx.shapes = _shapes(a, b)
        try:
            return array_module(condition, a, b).where(condition, a, b)
        except ValueError:
            raise ShapeError(
                f"where: the shapes {condition.shape} of the condition, {_shape(a)} and {_shape(b)} do not broadcast. "
                "Aligned from the right, the lengths must be equal or 1."
            ) from None

    @staticmethod
    def backward(ctx, dy):
        (condition,) = ctx.saved
        return unbroadcast(selected(dy, condition), ctx.shapes[0]), unbroadcast(selected(dy, ~condition), ctx.shapes[1])


class AsType(Function, operator="astype"):
    """The same values in another dtype; the walk returns the gradient in the dtype of the input."""

    @staticmethod
    def forward(ctx, x, *, dtype):
        return x.astype(dtype)

    @staticmethod
    def backward(ctx, dy):
        return dy
