"""The gradient checker itself: it accepts what is right, rejects what is wrong, and says so when it cannot tell."""

import numpy as np
import pytest

import minires
from minires import Tensor, gradcheck, nn
from minires import functional as F
from minires.errors import ArgumentError, ShapeError
from minires.gradcheck import GradientError, Report
from minires.mutants import CATALOGUE, OPERATIONS, point
from minires.mutants.operations import LABELS, batch_norm, batch_norm_backward

pytestmark = pytest.mark.host_only("its Functions are written with NumPy; other tests run gradcheck on a GPU")


def function(forward, backward):
    """An operation of minires from ``forward(*arrays)`` and ``backward(dy, *arrays)``, called with arrays by name."""

    class Handmade(minires.Function):
        @staticmethod
        def forward(ctx, *arrays):
            ctx.save_for_backward(*arrays)
            return forward(*arrays)

        @staticmethod
        def backward(ctx, dy):
            return backward(dy, *ctx.saved)

    return lambda **inputs: Handmade.apply(*inputs.values())


SEEDS = range(5)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_right_backwards_pass(operation):
    forward, backward, _ = OPERATIONS[operation]
    for seed in range(6):
        gradcheck(function(forward, backward), point(operation, seed), seed).assert_ok()


# the engine itself stops at a gradient of the wrong shape, see below
WITH_RIGHT_SHAPES = [m for m in CATALOGUE if m.mistake != "not summed over the broadcast axis"]


@pytest.mark.parametrize(
    ("operation", "mistake", "backward", "hint"), WITH_RIGHT_SHAPES, ids=[f"{m[0]}: {m[1]}" for m in WITH_RIGHT_SHAPES]
)
def test_wrong_backwards_fail(operation, mistake, backward, hint):
    forward = OPERATIONS[operation][0]
    for seed in SEEDS:
        report = gradcheck(function(forward, backward), point(operation, seed), seed)
        assert not report, f"accepted with seed {seed}:\n{report}"
        assert "FAIL" in {r.verdict for r in report.inputs.values()}
        assert not any(r.kinks for r in report.inputs.values())  # a wrong backward is not excused as a kink


def test_only_the_wrong_input_fails():
    report = gradcheck(function(np.subtract, lambda dy, a, b: (dy, dy)), point("subtract", 0))
    assert report["a"].ok
    assert report["b"].verdict == "FAIL"
    assert report["b"].error == pytest.approx(2)  # n and -n differ by twice |n|
    assert report["b"].norm_error == pytest.approx(2)


def test_a_gradient_that_is_not_summed_over_broadcast_axes_stops_the_walk():
    with pytest.raises(ShapeError, match=r"input 1 has shape \(4, 4\), but the input has shape \(4,\)"):
        gradcheck(function(np.add, lambda dy, x, b: (dy, dy)), point("bias", 0))


def test_mistakes_in_a_network(rng):
    """A wrong backward deep inside is found from the outside, in every parameter below it and in none above."""
    twice = function(np.tanh, lambda dy, x: 2 * dy * (1 - np.tanh(x) ** 2))
    shapes = {"x": (3, 4), "below": (4, 5), "above": (5, 2)}
    inputs = {n: rng.standard_normal(shape) for n, shape in shapes.items()}
    report = gradcheck(lambda x, below, above: twice(x=x @ below) @ above, inputs)
    assert {n: r.verdict for n, r in report.inputs.items()} == {"x": "FAIL", "below": "FAIL", "above": "ok"}


# -- why the upstream gradient is random ------------------------------------------------------------------------------


def checked_with_ones(fn, x):
    """The checker of many a course: the gradient of the sum, by differences."""
    t = Tensor(x, requires_grad=True)
    fn(x=t).sum().backward()
    total = lambda at: fn(x=Tensor(at)).sum().item()
    h = 1e-5 * np.eye(x.size).reshape(x.size, *x.shape)
    return np.allclose(t.grad, np.array([total(x + d) - total(x - d) for d in h]).reshape(x.shape) / 2e-5, 1e-4, 1e-5)


@pytest.mark.parametrize("mistake", ["zero", "no variance term", "gamma forgotten", "eps omitted"])
def test_ones_accept_a_wrong_batch_norm_and_random_numbers_do_not(mistake):
    (backward,) = [m.backward for m in CATALOGUE if m[:2] == ("batch norm", mistake)]
    inputs = point("batch norm", 1)
    gamma, beta = Tensor(inputs["gamma"]), Tensor(inputs["beta"])
    wrong = function(batch_norm, backward)
    assert checked_with_ones(lambda x: wrong(x=x, gamma=gamma, beta=beta), inputs["x"])
    assert gradcheck(wrong, inputs)["x"].verdict == "FAIL"


def test_the_upstream_gradient_is_not_the_input_of_the_same_seed():
    """x and dy from one seed would be equal, and the gradient of a batch norm along its own input is nearly zero."""
    x = np.random.default_rng(0).standard_normal((3, 4, 2, 3))
    report = gradcheck(function(batch_norm, batch_norm_backward), {"x": x, "gamma": np.ones(3), "beta": np.zeros(3)}, 0)
    assert np.abs(report["x"].analytic).max() > 0.1


def test_the_seed_chooses_the_upstream_gradient():
    grads = [gradcheck(F.tanh, {"x": np.zeros(3)}, seed)["x"].analytic for seed in (1, 1, 2)]
    assert grads[0].tobytes() == grads[1].tobytes() != grads[2].tobytes()
    assert len(set(np.abs(grads[0]))) == 3  # not ones


# -- no false alarm ---------------------------------------------------------------------------------------------------

CORRECT = {
    "relu": (lambda x: F.relu(x), {"x": (6, 7)}),
    "max pool": (lambda x: F.max_pool2d(x, 3, 2, 1), {"x": (2, 6, 5, 3)}),
    "average pool": (lambda x: F.avg_pool2d(x, (2, 3), 2, 1), {"x": (2, 6, 5, 3)}),
    "batch norm": (lambda x, g, b: F.batch_norm(x, g, b), {"x": (3, 4, 2, 3), "g": (3,), "b": (3,)}),
    "layer norm": (lambda x, g, b: F.layer_norm(x, g, b), {"x": (4, 5), "g": (5,), "b": (5,)}),
    "conv": (lambda x, w, b: F.conv2d(x, w, b, 2, 1), {"x": (2, 5, 4, 2), "w": (3, 3, 2, 3), "b": (3,)}),
    "cross entropy": (lambda x: F.cross_entropy(x, LABELS, 0.1), {"x": (3, 5)}),
    "softmax": (lambda x: F.softmax(x), {"x": (3, 5)}),
    "sigmoid, exp and division": (lambda x, y: F.sigmoid(x) / (1 + F.exp(y)), {"x": (3, 4), "y": (4,)}),
    "powers and roots": (lambda x: F.sqrt(1 + x**2) * x**3, {"x": (3, 4)}),
    "maximum, abs and sums": (lambda x, y: F.maximum(x, y).sum(0) * abs(x - y).mean(1), {"x": (4, 4), "y": (4, 4)}),
    "a block": (
        lambda x, w, g, b: F.relu(x + F.batch_norm(F.conv2d(x, w, padding=1), g, b)),
        {"x": (2, 4, 3, 2), "w": (3, 3, 2, 2), "g": (2,), "b": (2,)},
    ),
}


@pytest.mark.parametrize("name", CORRECT)
def test_no_false_alarm(name):
    fn, shapes = CORRECT[name]
    for seed in range(12):  # 144 checks in all
        rng = np.random.default_rng(1000 + seed)
        gradcheck(fn, {n: rng.standard_normal(shape) for n, shape in shapes.items()}, seed).assert_ok()


@pytest.mark.parametrize("scale", [1e-4, 1e4, 1e8])
def test_no_false_alarm_at_other_scales(rng, scale):
    x, w = scale * rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
    gradcheck(lambda x, w: (x @ w) * 3, {"x": x, "w": w}).assert_ok()
    gradcheck(F.log_softmax, {"x": min(scale, 10) * rng.standard_normal((3, 4))}).assert_ok()


def test_no_false_alarm_where_the_gradient_is_small_beside_the_result(rng):
    """Rounding of the result, divided by a small step, is the only error of a linear function: a larger step helps."""
    gradcheck(lambda x: x + 3e5, {"x": rng.standard_normal((3, 4))}).assert_ok()


def test_no_false_alarm_where_other_results_are_large(rng):
    inputs = {"large": rng.standard_normal(30), "small": rng.standard_normal(3)}
    gradcheck(lambda large, small: F.concatenate([1e6 * large, small]), inputs).assert_ok()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_small_mistake_is_seen_at_every_scale(rng, scale):
    wrong = function(lambda x: scale * np.sin(x), lambda dy, x: scale * dy * np.cos(x) * (1 + 1e-5))
    assert gradcheck(wrong, {"x": rng.standard_normal((3, 4))})["x"].verdict == "FAIL"


def test_one_wrong_entry_among_many(rng):
    def backward(dy, x):
        dx = dy * 2 * x
        dx[7, 3] *= 1.001
        return dx

    report = gradcheck(function(np.square, backward), {"x": rng.standard_normal((20, 10))})
    assert report["x"].worst == (7, 3)
    assert report["x"].error == pytest.approx(0.001, rel=0.01)


# -- nothing checked is a failure -------------------------------------------------------------------------------------


def test_a_gradient_that_is_zero_everywhere_fails(rng):
    report = gradcheck(lambda x, y: x.sum() + 0 * y, {"x": rng.standard_normal(3), "y": rng.standard_normal(3)})
    assert report["x"].ok
    assert report["y"].verdict == "vacuous"
    assert "nothing was checked. If that is meant, say zero=('y',)" in str(report)
    assert not report


@pytest.mark.parametrize("shape", [(4, 5, 3), (6, 4), (3, 4, 2, 3)])
def test_the_sum_of_a_batch_norm_tells_nothing(shape):
    """What makes ones blind: its gradient is zero, and differences measure rounding."""
    fn = lambda x: F.batch_norm(x, Tensor(np.ones(shape[-1])), Tensor(np.zeros(shape[-1]))).sum()
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal(shape)
        assert gradcheck(fn, {"x": x})["x"].verdict == "vacuous"
        assert gradcheck(fn, {"x": x}, zero=("x",)).ok


def test_dead_units_are_vacuous(rng):
    assert gradcheck(F.relu, {"x": -1 - rng.random((3, 4))})["x"].verdict == "vacuous"


def test_a_declared_zero_passes(rng):
    inputs = {"x": rng.standard_normal(3), "y": rng.standard_normal(3)}
    gradcheck(lambda x, y: x.sum() + 0 * y, inputs, zero=["y"]).assert_ok()
    bias_before_norm = lambda x, b: F.batch_norm(x + b, Tensor(np.ones(4)), Tensor(np.zeros(4)))
    inputs = {"x": rng.standard_normal((5, 4)), "b": rng.standard_normal(4)}
    assert not gradcheck(bias_before_norm, inputs)
    gradcheck(bias_before_norm, inputs, zero=("b",)).assert_ok()


def test_a_declared_zero_that_is_claimed_not_to_be_fails(rng):
    wrong = function(lambda x, y: x + 0 * y, lambda dy, x, y: (dy, dy))
    report = gradcheck(wrong, {"x": rng.standard_normal(3), "y": rng.standard_normal(3)}, zero=("y",))
    assert report["y"].verdict == "FAIL"


def test_a_misspelt_zero_is_refused(rng):
    with pytest.raises(ArgumentError, match=r"zero names \['gama'\], but what is checked is \['x'\]"):
        gradcheck(F.tanh, {"x": rng.standard_normal(3)}, zero=("gama",))


def test_a_missing_gradient(rng):
    report = gradcheck(function(np.multiply, lambda dy, a, b: (dy * b, None)), point("multiply", 0))
    assert report["a"].ok
    assert report["b"].verdict == "missing"
    assert "backward returned no gradient for this input, but the output depends on it" in str(report)
    detached = gradcheck(lambda a, b: a * b.detach(), point("multiply", 0))
    assert detached["b"].verdict == "missing"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_gradient_that_is_not_finite(rng, bad, everywhere):
    def backward(dy, x):
        dx = dy * 2 * x
        dx[... if everywhere else (1, 2)] = bad
        return dx

    report = gradcheck(function(np.square, backward), {"x": rng.standard_normal((2, 4))})
    assert report["x"].verdict == "FAIL"
    assert report["x"].worst == ((0, 0) if everywhere else (1, 2))
    assert f"yours {bad:+g}" in str(report)


# -- kinks ------------------------------------------------------------------------------------------------------------


def test_a_kink_is_inconclusive_and_not_wrong(rng):
    x = rng.standard_normal((3, 4))
    x[1, 2] = 0
    report = gradcheck(F.relu, {"x": x})
    assert report["x"].kinks == [(1, 2)]
    assert report["x"].verdict == "inconclusive"
    assert "1 where no difference can judge, at a kink or for rounding: [1, 2]" in str(report)
    assert "check at another point" in str(report)
    with pytest.raises(GradientError):
        report.assert_ok()


def test_a_few_kinks_among_many_entries_are_listed_and_pass(rng):
    x = rng.standard_normal((10, 20))
    x[3, 7] = x[9, 0] = 0
    report = gradcheck(F.relu, {"x": x})
    assert report.ok
    assert report["x"].kinks == [(3, 7), (9, 0)]
    assert "2 where no difference can judge, at a kink or for rounding: [3, 7], [9, 0]" in str(
        report
    )  # never silently skipped
    x[5, 5] = x[6, 6] = x[7, 7] = 0
    report = gradcheck(F.relu, {"x": x})
    assert report["x"].verdict == "inconclusive"  # more than 2 %
    assert "5 where no difference can judge, at a kink or for rounding: [3, 7], [5, 5], [6, 6]..." in str(report)


def test_ties_of_a_maximum_are_kinks():
    report = gradcheck(lambda x: x.max(1), {"x": np.array([[1.0, 2.0, 2.0], [3.0, 0.0, 1.0]])})
    assert report["x"].kinks == [(0, 1), (0, 2)]
    report = gradcheck(lambda x: F.max_pool2d(x, 2), {"x": np.ones((1, 4, 4, 1))})
    assert len(report["x"].kinks) == 16


@pytest.mark.parametrize("distance", [1e-6, 4e-6, -4e-6, 1e-8])
def test_a_kink_within_reach_of_a_step_is_no_mistake(rng, distance):
    x = rng.standard_normal((10, 20))
    x[3, 7] = distance
    report = gradcheck(F.relu, {"x": x})
    assert report.ok, str(report)


@pytest.mark.parametrize("kink", [(0, 0), (3, 7), (9, 19)])
def test_kinks_do_not_excuse_a_wrong_backward(rng, kink):
    x = rng.standard_normal((10, 20))
    x[kink] = 0
    report = gradcheck(function(lambda x: np.maximum(x, 0), lambda dy, x: dy * (x > 0) * 1.01), {"x": x})
    assert report["x"].verdict == "FAIL"
    assert report["x"].kinks == [kink]
    assert report["x"].worst != kink


def test_kinks_far_from_the_entry_do_not_matter(rng):
    """All inputs shift every normalised value a little, so that some ReLU is crossed: a smaller step settles it."""
    x = rng.standard_normal((40, 30))
    fn = lambda x: F.relu(F.batch_norm(x, Tensor(np.ones(30)), Tensor(np.zeros(30))))
    gradcheck(fn, {"x": x}, max_entries=60).assert_ok()


# -- forward passes that cannot be checked ----------------------------------------------------------------------------


def test_a_forward_pass_that_is_not_repeatable(rng):
    masks = np.random.default_rng(0)
    with pytest.raises(ArgumentError, match=r"gradcheck dropout: two runs .* differ. Take randomness out, or give it"):
        gradcheck(lambda x: F.dropout(x, 0.5, generator=masks), {"x": rng.standard_normal((4, 5))}, name="dropout")
    fixed = lambda x: F.dropout(x, 0.5, generator=np.random.default_rng(0))
    gradcheck(fixed, {"x": rng.standard_normal((4, 5))}).assert_ok()


def test_inputs_changed_by_the_forward_pass(rng):
    def forward(x):
        x[0] = 1.0
        return x * 2

    with pytest.raises(ArgumentError, match="the forward or backward pass changed its input x in place"):
        gradcheck(function(forward, lambda dy, x: 2 * dy), {"x": rng.standard_normal(3)})


def test_inputs_changed_more_at_every_run(rng):
    def forward(x):
        x += 1
        return x * x

    with pytest.raises(ArgumentError, match="changed its input x in place"):  # and not "two runs differ"
        gradcheck(function(forward, lambda dy, x: 2 * x * dy), {"x": rng.standard_normal(3)})


def test_inputs_changed_by_the_backward_pass(rng):
    def backward(dy, a, b):
        b *= dy
        return b, dy * a

    with pytest.raises(ArgumentError, match="changed its input b in place"):
        gradcheck(function(np.multiply, backward), point("multiply", 0))


def test_results_that_are_not_recorded(rng):
    x = {"x": rng.standard_normal(3)}
    for fn in (lambda x: x.detach() * 2, lambda x: (x * 2).numpy(), minires.no_grad()(lambda x: x * 2)):
        with pytest.raises(ArgumentError, match="the result is not a recorded Tensor"):
            gradcheck(fn, x)


def test_results_that_are_not_finite():
    with pytest.raises(ArgumentError, match="the result is not finite, so it has no slope"):
        gradcheck(lambda x: x * np.inf, {"x": np.array([1.0, 2.0])})


def test_nothing_to_check():
    with pytest.raises(ArgumentError, match="none of the inputs is of floating point, so there is nothing to check"):
        gradcheck(lambda n: Tensor(np.ones(3), requires_grad=True) * n, {"n": np.arange(3)})
    with pytest.raises(ArgumentError, match="nothing to check"):
        gradcheck(lambda: Tensor(np.ones(3), requires_grad=True), {})


def test_it_works_inside_no_grad(rng):
    with minires.no_grad():
        gradcheck(F.tanh, {"x": rng.standard_normal(3)}).assert_ok()


# -- the report -------------------------------------------------------------------------------------------------------


def test_the_report():
    wrong = function(lambda x, w: x * w, lambda dy, x, w: (dy * w, -dy * x))
    x, w = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, -1.0, 0.5]])
    report = gradcheck(wrong, {"x": x, "w": w}, seed=4, name="scaling")
    assert isinstance(report, Report)
    text = str(report)
    head, of_x, of_w, worst, hint = text.splitlines()
    assert head.startswith("gradcheck scaling ")
    assert all(part in head for part in ("float64", "upstream random", "seed 4", "rtol 1e-06"))
    assert of_x.split()[:4] == ["x", "(1,", "3)", "ok"]
    assert "3/3 entries" in of_x
    assert of_w.split()[:4] == ["w", "(1,", "3)", "FAIL"]
    assert "max rel 2.0e+00  norm rel 2.0e+00" in of_w
    index = report["w"].worst
    analytic, numeric = report["w"].analytic[index], report["w"].numeric[index]
    assert analytic == pytest.approx(-numeric)
    assert worst.strip() == f"worst w[0, {index[1]}]: yours {analytic:+.6g}   measured {numeric:+.6g}"
    assert hint.strip() == "hint: the sign is wrong"
    assert (report.name, report.seed, report.rtol, list(report.inputs)) == ("scaling", 4, 1e-6, ["x", "w"])
    assert report["w"].shape == (1, 3)
    assert not report.ok
    assert not bool(report)

    with pytest.raises(GradientError) as error:
        report.assert_ok()
    assert str(error.value) == text
    assert isinstance(error.value, AssertionError)


def test_a_report_that_passes(rng):
    report = gradcheck(F.tanh, {"x": rng.standard_normal((2, 3))})
    assert report.assert_ok() is report
    assert bool(report)
    assert "gradcheck tanh" in str(report)  # the name of the function, where none is given
    assert report["x"].error < 1e-8
    np.testing.assert_allclose(report["x"].numeric, report["x"].analytic, rtol=1e-8)


def test_rtol():
    wrong = function(np.square, lambda dy, x: 2 * x * dy * 1.01)
    assert not gradcheck(wrong, {"x": np.array([1.0, 2.0])}, rtol=1e-3)
    assert gradcheck(wrong, {"x": np.array([1.0, 2.0])}, rtol=0.1)


# -- what is checked --------------------------------------------------------------------------------------------------


def test_max_entries(rng):
    x = rng.standard_normal((5, 8))
    report = gradcheck(F.tanh, {"x": x}, max_entries=7)
    assert report["x"].checked == np.isfinite(report["x"].numeric).sum() == 7
    assert "7/40 entries" in str(report)
    assert gradcheck(F.tanh, {"x": x}, max_entries=40)["x"].checked == 40
    assert gradcheck(F.tanh, {"x": x})["x"].checked == 40
    sample = lambda seed: np.isfinite(gradcheck(F.tanh, {"x": x}, seed, max_entries=7)["x"].numeric).tobytes()
    chosen = [sample(seed) for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]
    with pytest.raises(ArgumentError, match="max_entries must be at least 1, got 0"):
        gradcheck(F.tanh, {"x": x}, max_entries=0)


def test_a_sample_is_not_all_zeros(rng):
    """A gradient of few entries, as shortcut A and embeddings have: the sample must hold some of them."""
    for seed in range(20):
        report = gradcheck(lambda x: x[::9, ::9] * 2, {"x": rng.standard_normal((20, 20))}, seed, max_entries=2)
        assert report.ok, str(report)
        assert np.nanmax(np.abs(report["x"].numeric)) > 0


def test_a_sample_finds_gradients_that_were_left_out(rng):
    """... and entries where the backward claims nothing are in the sample too."""

    def backward(dy, x):
        dx = 2 * x * dy
        dx[5:] = 0
        return dx

    for seed in range(5):
        assert not gradcheck(function(np.square, backward), {"x": rng.standard_normal((20, 5))}, seed, max_entries=10)


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "reversed": lambda x: x[::-1, ::2],
    "transposed": np.transpose,
    "slice": lambda x: x[:, 1:3],
    "broadcast": lambda x: np.broadcast_to(x[:1], (5, 6)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_any_layout(rng, layout):
    x = LAYOUTS[layout](rng.standard_normal((5, 6)))
    before = x.copy()
    report = gradcheck(lambda x: F.exp(x) * x, {"x": x}).assert_ok()
    assert report["x"].shape == x.shape
    np.testing.assert_array_equal(x, before)


def test_inputs_of_any_kind(rng):
    """Arrays, tensors, lists and numbers are taken as float64; whatever is not floating point is passed on."""
    seen = []

    def fn(x, t, number, listed, index, flag):
        seen.append((x.dtype, t.dtype, number.shape, listed.shape, index, flag))
        return (x * number)[index] + listed * t

    report = gradcheck(fn, {
        "x": rng.standard_normal((4, 3)).astype(np.float32),
        "t": Tensor(rng.standard_normal(3).astype(np.float32)),
        "number": 1.5,
        "listed": [1.0, 2.0, 3.0],
        "index": (INDEX := np.array([0, 2, 2])),
        "flag": "text",
    }).assert_ok()  # fmt: skip
    assert set(report.inputs) == {"x", "t", "number", "listed"}
    assert seen[0][:4] == (np.float64, np.float64, (), (3,))
    assert seen[0][4] is INDEX
    assert seen[0][5] == "text"


def test_inputs_of_the_caller_are_not_changed(rng):
    array, tensor = rng.standard_normal((3, 4)), Tensor(rng.standard_normal((3, 4)), requires_grad=True)
    kept = array.copy(), tensor.numpy().copy()
    inputs = {"a": array, "b": tensor}
    gradcheck(lambda a, b: F.tanh(a) * b, inputs).assert_ok()
    gradcheck(function(np.multiply, lambda dy, a, b: (dy, dy)), inputs)
    np.testing.assert_array_equal(array, kept[0])
    np.testing.assert_array_equal(tensor.numpy(), kept[1])
    assert tensor.grad is None
    assert list(inputs) == ["a", "b"]


def test_the_point_is_put_back_when_the_forward_pass_fails(rng):
    calls = []

    def fn(x):
        calls.append(x.numpy().copy())
        if len(calls) == 5:  # alone, recorded, repeated, above; then below
            raise RuntimeError("out of memory")
        return x * x

    held = {}
    with pytest.raises(RuntimeError, match="out of memory"):
        gradcheck(lambda x: fn(held.setdefault("x", x)), {"x": rng.standard_normal(3)}, max_entries=3)
    np.testing.assert_array_equal(held["x"].numpy(), calls[0])


def test_modules(rng):
    model = nn.Sequential(nn.Linear(4, 3, generator=rng), nn.BatchNorm2d(3), nn.ReLU(), nn.Linear(3, 2, generator=rng))
    model[0].bias.requires_grad_(False)
    before = model.state_dict()
    report = gradcheck(model, {"x": rng.standard_normal((6, 4))}).assert_ok()
    assert list(report.inputs) == ["x", "0.weight", "1.gamma", "1.beta", "3.weight", "3.bias"]  # but not 0.bias
    assert "gradcheck Sequential" in str(report)
    after = model.state_dict()
    assert all(after[n].tobytes() == before[n].tobytes() and after[n].dtype == np.float32 for n in before)
    assert all(p.grad is None for p in model.parameters())


def test_a_bias_before_a_batch_norm_is_vacuous(rng):
    model = nn.Sequential(nn.Linear(4, 3, generator=rng), nn.BatchNorm2d(3))
    x = {"x": rng.standard_normal((6, 4))}
    assert gradcheck(model, x)["0.bias"].verdict == "vacuous"
    gradcheck(model, x, zero=["0.bias"]).assert_ok()


def test_a_module_of_integer_inputs(rng):
    class Embedding(nn.Module):
        def __init__(self):
            self.table = nn.Parameter(rng.standard_normal((5, 3)))

        def forward(self, words):
            return F.tanh(Tensor(F.one_hot(words, 5).numpy(), dtype="float64") @ self.table)

    report = gradcheck(Embedding(), {"words": np.array([0, 2, 2, 4])}).assert_ok()
    assert list(report.inputs) == ["table"]


def test_an_input_named_like_a_parameter_is_refused(rng):
    class Scale(nn.Module):
        def __init__(self):
            self.x = nn.Parameter(np.ones(3))

        def forward(self, x):
            return x * self.x

    with pytest.raises(ArgumentError, match="'x' names an input and a parameter"):
        gradcheck(Scale(), {"x": rng.standard_normal(3)})


def test_a_view_of_the_input_is_measured_rightly(rng):
    """The output of reshape shares memory with x: what was measured must not move when x is put back."""
    gradcheck(lambda x: x.reshape(-1), {"x": rng.standard_normal((3, 4))}).assert_ok()


def test_a_sampled_entry_at_a_kink_is_replaced(rng):
    """Half of x lies exactly at the kink of ReLU: listed, not judged, and other entries are measured instead."""
    x = rng.standard_normal(60) + np.sign(rng.standard_normal(60))
    x[::3] = 0
    report = gradcheck(lambda x: x.relu(), {"x": x}, max_entries=12)
    found = report["x"]
    assert found.ok
    assert found.kinks
    assert found.checked == 12 + len(found.kinks)
    assert all(x[k] == 0 for k in found.kinks)
    assert "where no difference can judge, at a kink or for rounding" in str(report)
