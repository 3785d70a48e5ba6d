"""The graph: backward, hooks, switches of recording, Functions of one's own, and anomalies."""

import gc
import threading
import weakref

import numpy as np
import pytest

import minires
from minires import Function, Tensor, tensor
from minires.errors import AnomalyError, ArgumentError, GraphError, ShapeError
from minires.tensor.operators import OPERATIONS
from tests.devices import here


@pytest.fixture
def x():
    return tensor([1.0, 2.0, 3.0], requires_grad=True)


# -- backward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (lambda x: x, [1, -2, 3]),
        (lambda x: x + x, [2, -4, 6]),
        (lambda x: x * x * x, [3, -24, 81]),
        (lambda x: (x * 2) + (x * 3) - x, [4, -8, 12]),
        # a diamond: h must hear from both sides before it speaks, and from the long side last
        (lambda x: (h := x * 2) * h.exp().log() + h, [10, -36, 78]),
        (lambda x: x[[0, 0, 1]] + x * 0, [-1, 3, 0]),
        (lambda x: x * x.detach(), [1, -4, 9]),
    ],
)
def test_an_element_used_several_times_receives_the_sum(x, compute, expected):
    upstream = np.array([1.0, -2.0, 3.0], np.float32)
    compute(x).backward(upstream)
    np.testing.assert_allclose(x.grad, expected, rtol=1e-6)
    assert upstream.tolist() == [1, -2, 3]


def test_gradients_add_up_over_backward_calls_until_they_are_forgotten(x):
    for n in (1, 2, 3):
        before = x.grad
        (x * 2).sum().backward()
        assert x.grad.tolist() == [2 * n] * 3
    assert before.tolist() == [4, 4, 4]  # a new array: whoever kept the old one still has it
    x.grad = None
    (x * 3).sum().backward()
    assert x.grad.tolist() == [3, 3, 3]


@pytest.mark.host_only("NumPy adds lists")
@pytest.mark.parametrize("before", [1, 1.0, [1.0, 1.0, 1.0], np.float32(1)])
def test_a_gradient_is_added_to_whatever_was_put_there(x, before):
    x.grad = before
    (x * 2).sum().backward()
    assert x.grad.tolist() == [3, 3, 3]


@pytest.mark.parametrize("shape", [(3,), ()])
def test_a_gradient_is_an_array_of_its_own(shape):
    x, y = (Tensor(np.ones(shape, np.float32), requires_grad=True) for _ in "xy")
    total = x + y
    total.retain_grad()
    upstream = Tensor(np.full(shape, 2.0, np.float32)).data
    for n in (1, 2):
        total.backward(upstream, retain_graph=True)
        arrays = [x.grad, y.grad, total.grad, upstream, x.data, y.data, total.data]
        assert all(type(a) is type(upstream) and a.dtype == np.float32 and a.shape == shape for a in arrays)
        assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
        assert x.grad.sum() == y.grad.sum() == n * upstream.sum()
    x.grad += 1  # so it may be changed, whatever view the backward returned
    y.sum().backward()
    y.grad += 1


def test_what_needs_no_gradient_gets_none(x):
    constant, mask = tensor([1.0, 2.0, 3.0]), tensor([1, 0, 1])
    (x * constant * mask).sum().backward()
    assert constant.grad is None
    assert mask.grad is None
    assert x.grad.tolist() == [1, 0, 3]


@pytest.mark.parametrize(
    ("run", "error", "sentence"),
    [
        (
            lambda x: (x * 2).backward(),
            ShapeError,
            r"a tensor of shape \(3,\) needs an upstream gradient of that shape",
        ),
        (lambda x: (x * 2).backward(np.ones(2)), ShapeError, r"has shape \(2,\) but the tensor has \(3,\)"),
        (
            lambda x: x.detach().sum().backward(),
            GraphError,
            "this tensor was not recorded: no input requires a gradient",
        ),
        (lambda x: minires.no_grad()(x.sum)().backward(), GraphError, r"computed under no_grad\(\)"),
        (lambda x: [y := (x * x).sum(), y.backward(), y.backward()], GraphError, "retain_graph=True to the first"),
        # two losses on one trunk: the second walk meets what the first released
        (
            lambda x: [h := x * x, h.sum().backward(), h.mean().backward()],
            GraphError,
            "released by an earlier backward",
        ),
        (
            lambda x: x.detach().register_hook(print),
            GraphError,
            "does not require a gradient, so the hook would never run",
        ),
        (
            lambda x: [x.register_hook(lambda g: g[:1]), x.sum().backward()],
            ShapeError,
            r"returned shape \(1,\) for .* \(3,\)",
        ),
    ],
)
def test_backward_that_cannot_be_right_says_why(x, run, error, sentence):
    with pytest.raises(error, match=sentence):
        run(x)


def test_a_retained_graph_can_be_walked_again(x):
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward(Tensor(2.0))
    assert x.grad.tolist() == [6, 12, 18]


def test_what_was_recorded_can_be_walked_inside_no_grad(x):
    y = (x * x).sum()
    with minires.no_grad():
        y.backward()
    assert x.grad.tolist() == [2, 4, 6]


def test_retain_grad_keeps_the_gradient_of_a_result(x):
    h = x * 2
    h.retain_grad()
    h.retain_grad()  # asked twice it is still counted once
    x.retain_grad()
    y = h * h
    y.sum().backward()
    assert h.grad.tolist() == [4, 8, 12]
    assert x.grad.tolist() == [8, 16, 24]
    assert y.grad is None


# -- hooks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_leaf", [True, False])
def test_a_hook_sees_the_whole_gradient_and_may_replace_it(x, on_leaf):
    h = x * 1
    target, seen = (x if on_leaf else h), []
    target.register_hook(seen.append)
    remove = target.register_hook(lambda g: g * np.float64(10))
    (h + h * 2).sum().backward(retain_graph=True)
    assert [g.tolist() for g in seen] == [[3, 3, 3]]  # once, with the sum over both uses
    assert x.grad.tolist() == [30, 30, 30]
    assert x.grad.dtype == np.float32
    remove()
    remove()
    x.grad = None
    (h * 2).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]


def test_a_hook_may_remove_itself(x):
    calls = []
    remove = x.register_hook(lambda g: [calls.append("once"), remove()][0])
    x.register_hook(lambda g: calls.append("always"))
    for _ in range(2):
        x.sum().backward()
    assert calls == ["once", "always", "always"]


def test_a_hook_that_is_there_twice_is_taken_off_once(x):
    calls = []
    hook = lambda g: calls.append(g.copy())
    remove, _ = x.register_hook(hook), x.register_hook(hook)
    remove()
    remove()
    x.sum().backward()
    assert len(calls) == 1


def test_what_is_retained_is_what_comes_of_all_hooks(x):
    y = x * 2.0
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    y.retain_grad()
    y.register_hook(lambda g: g + 1)
    y.sum().backward()
    np.testing.assert_array_equal(y.grad, np.full(y.shape, 11.0))


def test_a_function_that_changes_another_ones_backward_need_not_give_new_arrays():
    class Same(OPERATIONS["linear"]):
        @staticmethod
        def backward(ctx, grad):
            return grad, None, None

    x, w = Tensor(np.ones((2, 2)), requires_grad=True), Tensor(np.eye(2))
    upstream = here(np.ones((2, 2)))
    Same.apply(x, w, None).backward(upstream)
    upstream[0] = 5
    np.testing.assert_array_equal(x.grad, np.ones((2, 2)))


# -- switches ---------------------------------------------------------------------------------------------------------


def test_no_grad_and_enable_grad_nest_and_come_back(x):
    off = minires.no_grad()
    with off:
        assert not (x * 2).requires_grad
        with minires.enable_grad():
            assert (x * 2).requires_grad
            with off:  # the same object again
                assert not minires.is_grad_enabled()
            assert minires.is_grad_enabled()
        assert not minires.is_grad_enabled()
    assert (x * 2).requires_grad
    with minires.no_grad():
        with minires.no_grad():
            pass
        assert not minires.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), minires.no_grad():
        raise ZeroDivisionError
    assert minires.is_grad_enabled()


def test_switches_decorate_functions(x):
    @minires.no_grad()
    def inner(fail=False):
        """Doc."""
        if fail:
            raise ZeroDivisionError
        return x * 2, minires.enable_grad()(lambda: x * 2)()

    assert [t.requires_grad for t in inner()] == [False, True]
    assert (inner.__name__, inner.__doc__) == ("inner", "Doc.")
    with pytest.raises(ZeroDivisionError):
        inner(fail=True)
    assert minires.is_grad_enabled()
    with pytest.raises(TypeError, match=r"no_grad cannot decorate the generator batches: .*Use a with block inside it"):

        @minires.no_grad()
        def batches():
            yield 1

    with pytest.raises(TypeError, match="no_grad cannot decorate the coroutine fetch: "):

        @minires.no_grad()
        async def fetch():
            return 1

    with pytest.raises(TypeError, match="detect_anomaly cannot decorate the asynchronous generator fetch_all: "):

        @minires.detect_anomaly()
        async def fetch_all():
            yield 1


@pytest.mark.parametrize(("switch", "state", "inside"), [
    (minires.no_grad(), minires.is_grad_enabled, False),
    (minires.use_kernels("reference"), lambda: minires.kernels.active().__name__, "minires.kernels.reference"),
])  # fmt: skip
def test_two_threads_may_be_inside_one_switch(switch, state, inside):
    seen, entered, leave = [], threading.Event(), threading.Event()

    def other():
        with minires.no_grad(), minires.use_kernels("reference"):
            with switch:
                entered.set()
                assert leave.wait(60)
            seen.append(state())

    thread, outside = threading.Thread(target=other), state()
    thread.start()
    assert entered.wait(60)
    with switch:
        leave.set()
        thread.join()
        assert state() == inside
    assert seen == [inside]
    assert state() == outside


def test_switches_belong_to_a_thread():
    seen = []
    with minires.no_grad(), minires.detect_anomaly(), minires.use_kernels("reference"):
        thread = threading.Thread(
            target=lambda: seen.extend([minires.is_grad_enabled(), minires.kernels.active().__name__])
        )
        thread.start()
        thread.join()
    assert seen == [True, "minires.kernels.numpy"]


@pytest.mark.parametrize("switch", [minires.no_grad, minires.detect_anomaly])
def test_what_another_thread_switches_changes_nothing_here(switch):
    def work():
        x, y = tensor([1.0, 2.0], requires_grad=True), tensor([3.0, 4.0], requires_grad=True)
        z = minires.functional.where(Tensor([True, False]), (x * y).exp(), -x) + x[0].tanh() - 2.0
        z.sum().backward()
        return z._node.call_site, [z.numpy().tolist(), x.grad.tolist(), y.grad.tolist()]

    alone, entered, done = work(), threading.Event(), threading.Event()

    def elsewhere():
        with switch():
            entered.set()
            done.wait()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    entered.wait()
    beside = work()
    done.set()
    thread.join()
    assert beside == alone == work()


# -- a Function of one's own ------------------------------------------------------------------------------------------


class Cube(Function):
    """The example of the documentation."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved
        return 3 * x**2 * grad


class Scale(Function):
    """Takes a number, and keeps it."""

    @staticmethod
    def forward(ctx, x, factor, *, wrong=None):
        ctx.save_for_backward(x, factor)
        ctx.wrong = wrong
        return (x * factor, x) if wrong == "tuple" else None if wrong == "none" else x * factor

    @staticmethod
    def backward(ctx, grad):
        _, factor = ctx.saved
        assert ctx.needs_input_grad == (True, False)
        return {None: (grad * factor, None), "one": grad, "shape": (grad[:1], None)}[ctx.wrong]


def test_a_function_of_ones_own(rng):
    assert minires.gradcheck(lambda x: Cube.apply(x), {"x": rng.standard_normal((3, 4))}).assert_ok()
    assert minires.gradcheck(lambda x: Scale.apply(x, 2.5), {"x": rng.standard_normal(3)}).assert_ok()


@pytest.mark.parametrize(
    ("wrong", "error", "sentence"),
    [
        ("one", GraphError, r"Scale.backward returned 1 gradients for 2 inputs: .*None for those that have none"),
        (
            "shape",
            ShapeError,
            r"Scale.backward: the gradient of input 0 has shape \(1,\), but the input has shape \(3,\)",
        ),
        ("tuple", TypeError, r"Scale.forward returned tuple; it must return one plain array"),
        ("none", TypeError, r"Scale.forward returned NoneType; it must return one plain array"),
    ],
)
def test_a_wrong_function_says_what_is_wrong(x, wrong, error, sentence):
    with pytest.raises(error, match=sentence):
        Scale.apply(x, 2.0, wrong=wrong).sum().backward()


def test_an_unfinished_function_and_a_name_that_is_taken(x):
    with pytest.raises(NotImplementedError, match=r"forward\(ctx, \*inputs\)"):
        Function.apply(x)
    with pytest.raises(ArgumentError, match="'add' is taken by"):
        type("Add", (Function,), {}, operator="add")


# -- anomalies --------------------------------------------------------------------------------------------------------


GIVEN = " They were there in what it was given."
ANOMALIES = [  # the call on a line of its own, because the message shows that line
    (r"forward: Log has 0 NaN and 1 infinite values of 3,", False,
     lambda x: (x - 1).log()),
    (r"forward: Sqrt has 1 NaN and 0 infinite values of 3,", False,
     lambda x: (x - 2).sqrt()),
    (r"forward: Multiply has 3 NaN and 0 infinite values of 3,", True,
     lambda x: x * np.nan),
    (r"backward of Sqrt: the gradient of input 0 has 0 NaN and 1 infinite values of 3,", False,
     lambda x: (x - 1).sqrt().sum().backward()),
    (r"backward of Multiply: the gradient of input 0 has 1 NaN and 0 infinite values of 3,", True,
     lambda x: (x * 1).backward(np.array([np.nan, 0, 0]))),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "came_in", "run"), ANOMALIES)
def test_the_first_bad_value_is_reported_with_the_line_that_made_it(x, sentence, came_in, run):
    with np.errstate(all="ignore"):
        with minires.detect_anomaly(), pytest.raises(AnomalyError, match=sentence) as caught:
            run(x)
        message = str(caught.value)
        assert f"called at test_graph.py:{run.__code__.co_firstlineno}: lambda x: " in message  # file, line and source
        assert message.endswith(GIVEN) == came_in
        run(x.detach().requires_grad_())  # outside the block nothing is said


def test_an_array_changed_behind_the_engines_back_is_caught(x):
    with minires.detect_anomaly():
        y = (x * x).sum()
        x.data[0] = 5.0
        with pytest.raises(
            GraphError, match=r"saved .* changed in place .*\(called at test_graph.py:\d+: y = \(x \* x\)"
        ):
            y.backward()
        (x * [1.0, 2.0, 3.0]).sum().backward()


def test_a_hook_may_mention_its_own_tensor_without_a_leak():
    def backward_with_a_hook():
        y = tensor([1.0, 2.0], requires_grad=True) * 2
        shapes = []
        y.register_hook(lambda grad: shapes.append(y.shape))  # y holds its node, the node the hook, the hook y
        y.sum().backward()
        assert shapes == [(2,)]
        return weakref.ref(y)

    gc.disable()
    try:
        assert backward_with_a_hook()() is None
    finally:
        gc.enable()


def test_an_array_beside_a_tensor_may_be_used_again(rng):
    x, a = tensor(rng.standard_normal(3), requires_grad=True), here(rng.standard_normal(3))
    expected = a.copy()
    y = (x * a).sum()
    a *= 5
    y.backward()
    np.testing.assert_array_equal(x.grad, expected)
