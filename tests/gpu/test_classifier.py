"""A linear layer and the cross-entropy of its result as one launch each way: what it computes, and when it is one."""

import numpy as np
import pytest

import minires
from minires import Tensor, fused, no_fusion, no_grad, tensor
from minires import functional as F
from minires.backend import cupy
from minires.errors import GraphError
from minires.kernels import KERNELS, reference
from minires.kernels.cuda import implicit
from tests.gpu import standin
from tests.test_fusion import operations

pytestmark = [pytest.mark.host_only("uses both devices in one test"), pytest.mark.usefixtures("gpu")]


@pytest.mark.parametrize(
    ("rows", "inputs", "classes"), [(1, 1, 1), (5, 3, 10), (9, 31, 33), (17, 32, 7), (6, 65, 70), (3, 95, 2)]
)
@pytest.mark.parametrize("smoothing", [0, 0.3])
@pytest.mark.parametrize("each", [True, False])
def test_the_kernels_are_the_plain_formulas(rows, inputs, classes, smoothing, each, rng):
    x, w, b = rng.standard_normal((rows, inputs)), rng.standard_normal((inputs, classes)), rng.standard_normal(classes)
    labels, dloss = rng.integers(0, classes, rows), rng.standard_normal(rows if each else ())
    there = [cupy().asarray(a.astype(np.float32)) for a in (x, w, b, dloss)]
    marks = cupy().asarray(labels)
    losses, logits, probabilities = implicit.linear_cross_entropy(*there[:3], marks, smoothing)
    expected = reference.cross_entropy(x @ w + b, labels, smoothing)
    close = lambda got, exact: np.testing.assert_allclose(got.get(), exact, rtol=1e-4, atol=1e-5)
    close(logits, x @ w + b)
    close(losses, expected[0])
    close(probabilities, expected[1])

    g = reference.cross_entropy_dx(0.25 * np.broadcast_to(dloss, rows), expected[1], labels, smoothing)
    bare = implicit.linear_cross_entropy(*there[:2], None, marks, smoothing)[1]
    close(bare, x @ w)

    backward = lambda x, w: implicit.linear_cross_entropy_backward(
        there[3], 0.25, probabilities, marks, smoothing, x, w
    )
    dx, dw, db = backward(*there[:2])
    for one, exact in ((dx, g @ w.T), (dw, x.T @ g), (db, g.sum(0))):
        close(one, exact)
    np.testing.assert_array_equal(backward(None, there[1])[0].get(), dx.get())
    assert backward(None, there[1])[1:] == (None, None)
    assert backward(there[0], None)[0] is None
    np.testing.assert_array_equal(backward(there[0], None)[1].get(), dw.get())


def test_a_label_out_of_range_makes_its_loss_nan(rng):
    x, w = (cupy().asarray(a.astype(np.float32)) for a in (rng.standard_normal((4, 3)), rng.standard_normal((3, 5))))
    losses, *_ = implicit.linear_cross_entropy(x, w, None, cupy().asarray(np.array([0, 5, 4, -1])), 0.1)
    assert np.isnan(losses.get()).tolist() == [False, True, False, True]


def test_what_is_not_contiguous_is_copied(rng):
    """A kernel gets a pointer and knows of no strides."""
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((5, 3), (3, 4), (4,), (5,))]
    labels = cupy().asarray(rng.integers(0, 4, 5))
    results = []
    for x, w, b, dloss in (
        [cupy().asarray(a) for a in arrays],
        [cupy().asarray(np.stack([0 * a, a], -1))[..., 1] for a in arrays],
    ):
        losses, logits, probabilities = implicit.linear_cross_entropy(x, w, b, labels, 0.1)
        backward = implicit.linear_cross_entropy_backward(dloss, 0.5, probabilities, labels, 0.1, x, w)
        results.append((losses, logits, probabilities, *backward))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one.get(), other.get())


@pytest.mark.parametrize(("x", "w", "suit"), [((1, 1), (1, 1), True), ((0, 3), (3, 4), False), ((2, 3), (3, 0), False)])
def test_nothing_is_left_to_other_kernels(x, w, suit):
    """There is no launch of no blocks, and no first class to begin with."""
    assert implicit.suits_linear_cross_entropy(cupy().ones(x, np.float32), cupy().ones(w, np.float32)) == suit


class Things:
    """A layer and pictures of them, on the GPU; everything requires a gradient."""

    def __init__(self, dtype=np.float32):
        rng = np.random.default_rng(8)
        new = lambda *shape: tensor(cupy().asarray(rng.standard_normal(shape).astype(dtype)), requires_grad=True)
        self.x, self.w, self.b, self.r = new(9, 7), new(7, 5), new(5), new(9, 5)
        self.labels = Tensor(cupy().asarray(rng.integers(0, 5, 9)))

    def loss(self, z, reduction="mean"):
        return F.cross_entropy(z, self.labels, 0.1, reduction)

    def found(self, y):
        """The result and all gradients."""
        y.backward(cupy().asarray(np.random.default_rng(9).standard_normal(y.shape).astype(y.dtype)))
        return [y.numpy(), *(None if t.grad is None else t.grad.get() for t in (self.x, self.w, self.b, self.r))]


def twice(z, t):
    return t.loss(z) + (z * t.r).sum()


JOINED = ["LinearCrossEntropy"]
FUNCTIONS = {  # what is computed, and the operations that are left of it
    "mean": (lambda t: t.loss(F.linear(t.x, t.w, t.b)), JOINED),
    "sum": (lambda t: t.loss(F.linear(t.x, t.w, t.b), "sum"), JOINED),
    "of each": (lambda t: t.loss(F.linear(t.x, t.w, t.b), "none"), JOINED),
    "no bias": (lambda t: t.loss(F.linear(t.x, t.w)), JOINED),
    "x is data": (lambda t: t.loss(F.linear(Tensor(t.x.data), t.w, t.b)), JOINED),
    "w is data": (lambda t: t.loss(F.linear(t.x, Tensor(t.w.data), Tensor(t.b.data))), JOINED),
    "only the bias": (lambda t: t.loss(F.linear(Tensor(t.x.data), Tensor(t.w.data), t.b)), JOINED),
    "views": (lambda t: t.loss(F.linear(t.x.T.T, t.w[:, ::-1], t.b)), ["GetItem", *JOINED, "Transpose", "Transpose"]),
    "logits used afterwards": (lambda t: twice(F.linear(t.x, t.w, t.b), t),
                               ["Add", "Linear", *JOINED, "Multiply", "Sum"]),
    "logits that were used": (lambda t: (lambda z: (z * t.r).sum() + t.loss(z))(F.linear(t.x, t.w, t.b)),
                              ["Add", "CrossEntropy", "Linear", "Multiply", "Sum"]),
    "plus": (lambda t: t.loss(F.linear(t.x, t.w, t.b) + t.r), ["Add", "CrossEntropy", "Linear"]),
    "plus from the left": (lambda t: t.loss(t.r + F.linear(t.x, t.w, t.b)), ["Add", "CrossEntropy", "Linear"]),
    "relu": (lambda t: t.loss(F.relu(F.linear(t.x, t.w, t.b))), ["CrossEntropy", "Linear", "ReLU"]),
    "relu as a method": (lambda t: t.loss(F.linear(t.x, t.w, t.b).relu()), ["CrossEntropy", "Linear", "ReLU"]),
    "two layers": (lambda t: t.loss(F.linear(F.linear(t.x, t.w @ t.w.T), t.w, t.b)),
                   ["Linear", *JOINED, "MatMul", "Transpose"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_function_is_the_same(name):
    function, left = FUNCTIONS[name]
    plain, things = Things(), Things()
    y, fast = function(plain), fused(function)(things)
    assert operations(fast) == sorted(left)
    assert "LinearCrossEntropy" not in operations(y)
    for one, other in zip(things.found(fast), plain.found(y), strict=True):
        if other is None:
            assert one is None
        else:
            assert np.abs(other).max() > 0
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def joined(t):
    """The loss in a fused function."""
    return fused(lambda: t.loss(F.linear(t.x, t.w, t.b)))()


def test_it_is_one_only_where_that_is_fast(monkeypatch):
    assert operations(joined(Things())) == JOINED
    plain = ["CrossEntropy", "Linear"]
    assert operations(joined(Things(np.float64))) == plain
    with minires.use_kernels("cuda-im2col"):
        assert operations(joined(Things())) == plain
    with no_fusion():
        assert operations(joined(Things())) == plain
    with minires.detect_anomaly():
        assert operations(joined(Things())) == plain
    on_the_cpu = Things()
    for name, value in vars(on_the_cpu).items():
        setattr(on_the_cpu, name, tensor(value.numpy(), requires_grad=value.requires_grad))
    assert operations(joined(on_the_cpu)) == plain
    monkeypatch.setattr("minires.kernels.cuda.classifier._MOST_WEIGHTS", 34)
    assert operations(joined(Things())) == plain


def test_stacks_of_rows_are_computed_at_once():
    t = Things()
    t.x = tensor(cupy().ones((2, 3, 7), np.float32), requires_grad=True)
    y = fused(lambda: F.linear(t.x, t.w, t.b))()
    assert type(y) is Tensor
    assert y.shape == (2, 3, 5)


def test_it_is_one_launch_each_way(gpu):
    if gpu != "standin":
        pytest.skip("only the stand-in counts")
    t, seen = Things(), []

    @minires.fused
    def loss_and_a_look():
        z = F.linear(t.x, t.w, t.b)
        loss = t.loss(z)
        seen.append(z.data)  # which costs nothing
        return loss

    with standin.counter() as counts:
        loss_and_a_look().backward()
    assert [name for name in counts.names if "conv" in name or "linear" in name] == [
        "linear_cross_entropy", "linear_cross_entropy_backward"
    ]  # fmt: skip


def test_logits_are_there_without_another_launch_and_can_be_differentiated():
    t = Things()

    @fused
    def both():
        z = F.linear(t.x, t.w, t.b)
        return z, t.loss(z)

    z, loss = both()
    np.testing.assert_allclose(z.numpy(), t.x.numpy() @ t.w.numpy() + t.b.numpy(), rtol=1e-5, atol=1e-6)
    assert operations(z) == ["Linear"]
    with pytest.raises(GraphError, match="retain_grad: this Linear was computed in one pass with the operation after"):
        z.retain_grad()
    loss.backward()
    z.sum().backward()


def test_without_recording_it_is_one_as_well():
    t = Things()
    with no_grad():
        loss = joined(t)
    assert loss.item() == pytest.approx(t.loss(F.linear(t.x, t.w, t.b)).item(), rel=1e-5)
    assert not loss.requires_grad


def test_a_layer_changed_in_place_before_the_loss_is_an_error():
    t = Things()

    @fused
    def changed():
        z = F.linear(t.x, t.w, t.b)
        with no_grad():
            t.b += 1
        return t.loss(z)

    with pytest.raises(GraphError, match="Linear: an input was changed before this result"):
        changed()


def test_labels_may_be_filled_again_before_the_backward_pass():
    t, other = Things(), Things()
    expected = other.found(joined(other))
    loss = joined(t)
    t.labels.data[...] = 0
    for one, right in zip(t.found(loss), expected, strict=True):
        if right is not None:
            np.testing.assert_array_equal(one, right)


def test_no_other_set_has_the_kernels():
    assert [name for name, kernels in KERNELS.items() if hasattr(kernels, "linear_cross_entropy")] == ["cuda-implicit"]
