"""Lesson 05: a convolution in loops, the adjoint of im2col, and the gradients of a convolution."""

import numpy as np
import pytest

from minires import Tensor
from minires import functional as F

pytestmark = pytest.mark.lesson05

# stride and padding; of 6 rows, windows of 3 with stride 2 and no border leave one over
WINDOWS = pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 0), (2, 1), (3, 2)])


def agree(yours, right):
    return np.shape(yours) == right.shape and np.allclose(yours, right, rtol=1e-10, atol=1e-11)


def compare(yours, right, usual):
    """Fail unless both agree; where yours is what a usual mistake gives, say which."""
    __tracebackhide__ = True
    if agree(yours, right):
        return
    if np.shape(yours) != right.shape:
        pytest.fail(f"expected shape {right.shape}, yours {np.shape(yours)}")
    named = [what for what, wrong in usual.items() if agree(yours, wrong)]
    at = np.unravel_index(np.abs(yours - right).argmax(), right.shape)
    where = f"at {tuple(map(int, at))} expected {right[at]:+.6f}, yours {yours[at]:+.6f}"
    pytest.fail(f"{where}\n{named[0] if named else 'none of the usual mistakes'}")


def filters(rng, sizes, square=False):
    """x, w, b, of which all lengths differ; or with equal windows and as many channels out as in."""
    h, w, c, o = sizes(H=6, W=5, C=3, O=4)
    kernel, o = ((3, 3), c) if square else ((3, 2), o)
    return rng.standard_normal((2, h, w, c)), rng.standard_normal((*kernel, c, o)), rng.standard_normal(o)


def convolution(x, w, b, stride, padding):
    return F.conv2d(x, w, b, stride, padding).numpy()


def gather_back(cols, x_shape, kernel, stride, padding):
    """What the engine sends back through a convolution whose filters are the cells of the window themselves."""
    k = kernel[0] * kernel[1] * x_shape[3]
    x = Tensor(np.zeros(x_shape), requires_grad=True)
    y = F.conv2d(x, np.eye(k).reshape(*kernel, x_shape[3], k), None, stride, padding)
    y.backward(np.reshape(cols, y.shape))
    return x.grad


@pytest.mark.task1
@WINDOWS
def test_loops(mine, sizes, rng, stride, padding):
    x, w, b = filters(rng, sizes)
    right = convolution(x, w, b, stride, padding)
    rows, columns = right.shape[1:3]
    usual = {
        "the filter is turned around: tap u, v meets pixel i s + u, j s + v, not i s - u, j s - v": convolution(
            x, w[::-1, ::-1], b, stride, padding
        ),
        "the stride is left out: window i begins at pixel i s": convolution(x, w, b, 1, padding)[:, :rows, :columns],
        "the bias is missing": right - b,
        "the bias is added with every product: once for each result is enough": right + b * (w[..., 0].size - 1),
        "only the first channel is seen: the sum runs over u, v and c": convolution(
            x[..., :1], w[:, :, :1], b, stride, padding
        ),
    }
    compare(mine.conv2d_loops(x, w, b, stride, padding), right, usual)


@pytest.mark.task2
@WINDOWS
def test_col2im_is_the_adjoint_of_im2col(mine, sizes, rng, stride, padding):
    x, w, _ = filters(rng, sizes)
    kernel = w.shape[:2]
    cols = mine.im2col(x, kernel, stride, padding)
    c = rng.standard_normal(cols.shape)
    try:
        yours = mine.col2im(c.copy(), x.shape, kernel, stride, padding)
    except ValueError as error:
        pytest.fail(
            f"{error}\nwith pictures {x.shape}, windows {kernel}, stride {stride}, border {padding}: are H and W, or "
            "KH and KW, exchanged? Is the picture with its border H + 2p by W + 2p, whatever the windows leave over?"
        )
    told = _diagnosis(yours, c, x.shape, kernel, stride, padding)
    assert np.shape(yours) == x.shape, f"expected a picture of shape {x.shape}, yours {np.shape(yours)}: {told}"
    left, right = (cols * c).sum(), (x * yours).sum()
    assert abs(left - right) <= 1e-12 * np.linalg.norm(cols) * np.linalg.norm(c), (
        f"<im2col x, c> = {left:.12f}, but <x, col2im c> = {right:.12f}, stride {stride}, border {padding}: {told}"
    )


def _diagnosis(yours, c, x_shape, kernel, stride, padding):
    """What a col2im that is wrong has probably done."""
    n, h, w, channels = x_shape
    right = gather_back(c, x_shape, kernel, stride, padding)
    with_border = n, h + 2 * padding, w + 2 * padding, channels
    whole = gather_back(c, with_border, kernel, stride, 0)
    if padding and np.shape(yours) == with_border:
        return "the border is not cut off"
    if np.shape(yours) != x_shape:
        return (
            "the pixels that no window reaches are missing: they are left over, and have the gradient 0"
            if np.ndim(yours) == 4 and np.shape(yours)[1] <= h and np.shape(yours)[2] <= w
            else "are H and W exchanged?"
        )
    visits = gather_back(np.ones_like(c), x_shape, kernel, stride, padding)
    wrong = ~np.isclose(yours, right, rtol=1e-10, atol=1e-11)
    if not wrong.any():
        return "right"
    if agree(yours, whole[:, :h, :w]) or agree(yours, whole[:, 2 * padding :, 2 * padding :]):
        return (
            "the border is cut off in the wrong place: pixel (0, 0) of x lies at (p, p) of the picture with its border"
        )
    cells = c.reshape(-1, *kernel, channels)
    rows, columns = ((s + 2 * padding - k) // stride + 1 for s, k in zip((h, w), kernel, strict=True))
    side_by_side = np.zeros(with_border)
    side_by_side[:, : rows + kernel[0] - 1, : columns + kernel[1] - 1] = gather_back(
        c, (n, rows + kernel[0] - 1, columns + kernel[1] - 1, channels), kernel, 1, 0
    )
    if agree(yours, side_by_side[:, padding : padding + h, padding : padding + w]):
        return "the stride is left out: window i begins at pixel i s"
    turned = cells[:, ::-1, ::-1].reshape(c.shape)
    if agree(yours, gather_back(turned, x_shape, kernel, stride, padding)):
        return "the window is turned around: cell (u, v) came from pixel (i s + u, j s + v), and goes back there"
    by_columns = c.reshape(-1, kernel[1], kernel[0], channels).swapaxes(1, 2).reshape(c.shape)
    if agree(yours, gather_back(by_columns, x_shape, kernel, stride, padding)):
        return "rows and columns of the window are exchanged: cells are numbered row by row, (KH, KW, C)"
    by_positions = c.reshape(n, columns, rows, -1).swapaxes(1, 2).reshape(c.shape)
    if agree(yours, gather_back(by_positions, x_shape, kernel, stride, padding)):
        return "rows and columns of windows are exchanged: windows are numbered row by row, (N, OH, OW)"
    if agree(yours * np.maximum(visits, 1), right):
        return "it is averaged over the windows: they add up"
    if not wrong[visits < 2].any():
        return "it is wrong only at pixels that several windows see: they add up, += instead of ="
    if padding and np.array_equal(wrong.any((0, 3)), _ring(h, w, padding)):
        return "it is wrong only at the edge: the border is treated wrongly"
    return "none of the usual mistakes"


def _ring(h, w, padding):
    inside = np.zeros((h, w), bool)
    inside[padding : h - padding, padding : w - padding] = True
    return ~inside


@pytest.mark.task2
def test_pixels_that_no_window_sees_get_zero(mine, sizes, rng):
    n, c = sizes(N=2, C=3)
    yours = mine.col2im(rng.standard_normal((n * 3 * 2, 3 * 2 * c)), (n, 8, 5, c), (3, 2), 2, 0)
    assert np.shape(yours) == (n, 8, 5, c), f"expected the whole picture, {(n, 8, 5, c)}, yours {np.shape(yours)}"
    assert not yours[:, 7].any(), "three windows of 3 rows with stride 2 see the rows 0 to 6: row 7 must get 0"
    assert not yours[:, :, 4].any(), (
        "two windows of 2 columns with stride 2 see the columns 0 to 3: column 4 must get 0"
    )
    assert yours[:, :7, :4].all()


@pytest.mark.task3
@pytest.mark.parametrize(
    ("stride", "padding", "square"), [(1, 0, False), (1, 1, False), (2, 0, False), (2, 1, False), (2, 1, True)]
)
def test_gradients(mine, sizes, rng, gradcheck, monkeypatch, stride, padding, square):
    monkeypatch.setattr(mine, "col2im", gather_back)  # whatever became of task 2
    x, w, b = filters(rng, sizes, square)
    inputs = {"x": x, "w": w, "b": b, "stride": stride, "padding": padding}
    gradcheck(mine.conv2d, mine.conv2d_backward, inputs)


@pytest.mark.task3
@pytest.mark.parametrize("square", [False, True], ids=["oblong", "square"])
def test_gradients_are_those_of_the_engine(mine, sizes, rng, monkeypatch, square):
    monkeypatch.setattr(mine, "col2im", gather_back)
    x, w, b = filters(rng, sizes, square)
    tensors = {name: Tensor(array, requires_grad=True) for name, array in (("x", x), ("w", w), ("b", b))}
    y = F.conv2d(*tensors.values(), stride=2, padding=1)
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    right = {name: t.grad for name, t in tensors.items()}
    turned = "the filter is turned around, which is for those who gather: dy times the filters goes back as it is"
    exchanged = "the channels in and out of the filter are exchanged: dx = col2im(dy W^T)"
    usual = {
        "x": {turned: _dx(dy, x, w[::-1, ::-1])} | ({exchanged: _dx(dy, x, w.swapaxes(2, 3))} if square else {}),
        "w": {
            "the window is turned around": right["w"][::-1, ::-1],
            "it is averaged over the pictures: a gradient of a sum is a sum": right["w"] / len(x),
            "it is averaged over all windows: a gradient of a sum is a sum": right["w"] / dy[..., 0].size,
            "channels in and out are exchanged": right["w"].swapaxes(2, 3),
        },
        "b": {
            "it is averaged over pictures and pixels: b is added everywhere, so its gradient is a sum": dy.mean(
                (0, 1, 2)
            ),
            "it is averaged over the pixels: b is added everywhere, so its gradient is a sum": dy.mean((1, 2)).sum(0),
        },
    }
    yours = mine.conv2d_backward(dy.copy(), x, w, b, 2, 1)
    for name in "xwb":
        compare(yours[name], right[name], usual[name])


def _dx(dy, x, w):
    x = Tensor(x, requires_grad=True)
    F.conv2d(x, w, None, 2, 1).backward(dy)
    return x.grad
