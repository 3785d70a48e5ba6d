"""Optimisers and schedules: the formulas by hand, and stopping and going on as if nothing had happened."""

import io
import json

import numpy as np
import pytest

from minires import Tensor, nn, optim
from minires import functional as F
from minires.errors import ArgumentError, CheckpointError, GraphError
from minires.models import cifar_resnet
from minires.optim import SGD, Adam, ConstantLR, CosineLR, MultiStepLR, Schedule, WarmUp
from tests.devices import here


def parameter(*values, dtype=np.float64):
    return nn.Parameter(np.array(values, dtype))


def step_with(optimiser, *grads):
    """One step with given gradients."""
    for p, grad in zip(optimiser.parameters(), grads, strict=True):
        p.grad = None if grad is None else Tensor(np.array(grad, p.dtype)).data
    optimiser.step()


# -- SGD by hand ------------------------------------------------------------------------------------------------------


def test_sgd():
    p = parameter(1.0, -2.0)
    step_with(SGD([p], lr=0.5), [0.25, -4.0])
    np.testing.assert_array_equal(p.numpy(), [1 - 0.5 * 0.25, -2 + 0.5 * 4])


def test_momentum():
    p = parameter(1.0)
    optimiser = SGD([p], lr=0.5, momentum=0.5)
    values = []
    for grad in (1.0, 2.0, 0.0):  # velocities 1, 2.5, 1.25
        step_with(optimiser, [grad])
        values.append(p.item())
    assert values == [0.5, -0.75, -1.375]


def test_momentum_keeps_gradients_and_not_steps():
    """With v <- m v + g, p <- p - lr v a change of lr acts at once; Caffe's v <- m v + lr g goes on at the old rate."""
    p = parameter(0.0)
    optimiser = SGD([p], lr=1.0, momentum=0.5)
    step_with(optimiser, [1.0])
    optimiser.groups[0]["lr"] = 0.125
    step_with(optimiser, [0.0])
    assert p.item() == -1 - 0.125 * 0.5  # Caffe: -1 - 0.5


def test_nesterov():
    p = parameter(1.0)
    optimiser = SGD([p], lr=0.5, momentum=0.5, nesterov=True)
    step_with(optimiser, [1.0])  # v = 1, step along 1 + 0.5 v = 1.5
    assert p.item() == 0.25
    step_with(optimiser, [2.0])  # v = 2.5, step along 2 + 0.5 v = 3.25
    assert p.item() == -1.375


def test_weight_decay_joins_the_gradient_before_the_momentum():
    p = parameter(2.0)
    optimiser = SGD([p], lr=0.5, momentum=0.5, weight_decay=0.25)
    step_with(optimiser, [1.0])  # g = 1 + 0.5, v = 1.5
    assert p.item() == 1.25
    step_with(optimiser, [1.0])  # g = 1 + 0.3125, v = 0.75 + 1.3125
    assert p.item() == 1.25 - 0.5 * 2.0625


def test_weight_decay_moves_a_parameter_whose_gradient_is_zero():
    p = parameter(2.0)
    step_with(SGD([p], lr=0.5, weight_decay=0.25), [0.0])
    assert p.item() == 1.75


def test_the_gradient_is_not_changed():
    p, grad = parameter(2.0, 3.0), here(np.array([1.0, -1.0]))
    for optimiser in (SGD([p], 0.1, 0.9, 0.1), SGD([p], 0.1, 0.9, nesterov=True), Adam([p], weight_decay=0.1)):
        for _ in range(3):
            p.grad = grad
            optimiser.step()
    np.testing.assert_array_equal(grad, [1, -1])


# -- Adam by hand -----------------------------------------------------------------------------------------------------


def test_two_steps_of_adam():
    p = parameter(1.0)
    optimiser = Adam([p], lr=0.1, betas=(0.5, 0.75), eps=0.25)
    step_with(optimiser, [2.0])  # m = 1, v = 1; unbiased 1 / 0.5 = 2 and 1 / 0.25 = 4
    assert p.item() == pytest.approx(1 - 0.1 * 2 / (2 + 0.25), rel=1e-15)
    step_with(optimiser, [-1.0])  # m = 0.5 - 0.5 = 0, v = 0.75 + 0.25 = 1
    assert p.item() == pytest.approx(1 - 0.1 * 2 / 2.25 - 0, rel=1e-15)
    step_with(optimiser, [2.0])  # m = 1 / 0.875, v = (0.75 + 1) / (1 - 0.75**3)
    m, v = 1 / (1 - 0.5**3), 1.75 / (1 - 0.75**3)
    assert p.item() == pytest.approx(1 - 0.1 * 2 / 2.25 - 0.1 * m / (v**0.5 + 0.25), rel=1e-15)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_first_step_of_adam_is_the_learning_rate_whatever_the_gradient(scale):
    p = parameter(0.0, 0.0)
    step_with(Adam([p], lr=0.1, eps=0.0), [scale, -scale])
    np.testing.assert_allclose(p.numpy(), [-0.1, 0.1], rtol=1e-14)


def test_adam_adds_weight_decay_to_the_gradient():
    p, q = parameter(2.0), parameter(2.0)
    step_with(Adam([p], 0.1, weight_decay=0.25), [1.0])
    step_with(Adam([q], 0.1), [1.5])
    assert p.item() == q.item()


def test_adam_counts_the_steps_of_each_parameter():
    p, late, alone = parameter(0.0), parameter(0.0), parameter(0.0)
    optimiser = Adam([p, late], 0.1)
    step_with(optimiser, [1.0], None)
    step_with(optimiser, [1.0], [3.0])
    step_with(Adam([alone], 0.1), [3.0])
    assert late.item() == alone.item()  # not corrected as if it had been there from the beginning


def test_what_is_kept_of_each_parameter_and_under_which_name():
    plain, momentum = SGD([parameter(1.0)], 0.1), SGD([parameter(1.0)], 0.1, momentum=0.5)
    adam = Adam([parameter(1.0)], 0.1, betas=[0.75, 0.5])
    for optimiser in (plain, momentum, adam):
        step_with(optimiser, [3.0])
    assert plain.state_dict()["state"] == {}
    assert momentum.state_dict()["state"] == {"0.momentum": [3]}
    assert adam.state_dict()["state"] == {"0.step": 1, "0.first": [0.25 * 3], "0.second": [0.5 * 9]}
    assert adam.groups[0]["betas"] == (0.75, 0.5)


# -- parameters and groups --------------------------------------------------------------------------------------------

KINDS = {
    "SGD": lambda p: SGD(p, 0.1),
    "momentum": lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "Nesterov": lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "Adam": lambda p: Adam(p, 0.05, weight_decay=0.01),
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def test_groups_have_their_own_settings():
    a, b, c = parameter(1.0), parameter(1.0), parameter(1.0)
    groups = [{"params": [a]}, {"params": (p for p in [b]), "lr": 0.5}, {"params": c, "weight_decay": 1.0}]
    optimiser = SGD(groups, lr=0.25)
    step_with(optimiser, [1.0], [1.0], [1.0])
    assert [a.item(), b.item(), c.item()] == [0.75, 0.5, 0.5]
    assert [g["lr"] for g in optimiser.groups] == [0.25, 0.5, 0.25]
    assert [id(p) for p in optimiser.parameters()] == [id(a), id(b), id(c)]


@kinds
def test_parameters_without_a_gradient_are_left_alone(make):
    p, frozen = parameter(1.0), parameter(3.0)
    optimiser = make([p, frozen])
    for _ in range(3):
        step_with(optimiser, [1.0], None)
    assert frozen.item() == 3
    assert p.item() < 1
    assert not any(name.startswith("1.") for name in optimiser.state_dict()["state"])


@kinds
def test_zero_grad_forgets_and_backward_fills_again(make):
    p = parameter(1.0, 2.0)
    optimiser = make([p])
    (p * p).sum().backward()
    optimiser.zero_grad()
    assert p.grad is None
    optimiser.step()
    np.testing.assert_array_equal(p.numpy(), [1, 2])
    (p * p).sum().backward()
    np.testing.assert_array_equal(p.grad, [2, 4])


@kinds
def test_a_single_number_is_a_parameter_too(make):
    """0-d arrays turn into immutable scalars at the first opportunity: their state must be kept all the same."""
    p, q = nn.Parameter(np.array(1.5)), parameter(1.5)
    optimiser, of_vector = make([p]), make([q])
    for step in range(6):
        step_with(optimiser, 1.0 + step)
        step_with(of_vector, [1.0 + step])
        assert p.item() == q.item()
        optimiser.load_state_dict(optimiser.state_dict())


@kinds
def test_a_lone_tensor_is_a_list_of_one(make):
    p = parameter(1.0, 2.0)
    optimiser = make(p)
    assert len(optimiser.parameters()) == 1
    step_with(optimiser, [1.0, 1.0])
    assert (p.numpy() < [1, 2]).all()


P = parameter(1.0)
INVALID = {
    "no parameters": (lambda: SGD([], 0.1), "SGD: there are no parameters to optimise"),
    "exhausted generator": (lambda: Adam(iter(())), "Adam: there are no parameters to optimise"),
    "empty groups": (lambda: SGD([{"params": []}], 0.1), "SGD: there are no parameters to optimise"),
    "twice": (lambda: SGD([P, P], 0.1), "SGD: a parameter is given twice"),
    "twice in two groups": (lambda: Adam([{"params": [P]}, {"params": [P]}]), "Adam: a parameter is given twice"),
    "arrays": (lambda: SGD([np.ones(3)], 0.1), "SGD: expected tensors.*got ndarray"),
    "names": (lambda: SGD(nn.Linear(2, 2).named_parameters(), 0.1), "SGD: expected tensors.*got tuple"),
    "tensors and groups": (lambda: SGD([P, {"params": [parameter(1.0)]}], 0.1), "only groups as dicts, got dict"),
    "groups and tensors": (lambda: SGD([{"params": [parameter(1.0)]}, P], 0.1), "only groups as dicts, got dict"),
    "no params": (lambda: SGD([{"lr": 0.1}], 0.1), "SGD: a group without 'params'; a group may have"),
    "unknown setting": (lambda: SGD([{"params": [P], "betas": 1}], 0.1), r"SGD: unknown settings \['betas'\]; .* lr"),
    "not a leaf": (lambda: SGD([P * 2], 0.1), r"SGD: a tensor of shape \(1,\) was computed from others"),
    "negative lr": (lambda: SGD([P], -0.1), "SGD: lr must be a finite number of at least 0, got -0.1"),
    "infinite lr": (lambda: SGD([P], float("inf")), "SGD: lr must be a finite number of at least 0, got inf"),
    "lr of NaN": (lambda: Adam([P], float("nan")), "Adam: lr must be a finite number of at least 0, got nan"),
    "negative momentum": (lambda: SGD([P], 0.1, -0.9), "SGD: momentum must be a finite number of at least 0"),
    "negative decay": (lambda: SGD([P], 0.1, weight_decay=-1), "SGD: weight_decay must be a finite number"),
    "negative decay of Adam": (lambda: Adam([P], weight_decay=-1), "Adam: weight_decay must be a finite number"),
    "negative eps": (lambda: Adam([P], eps=-1e-8), "Adam: eps must be a finite number of at least 0"),
    "negative lr of a group": (lambda: SGD([{"params": [P], "lr": -1}], 0.1), "SGD: lr must be a finite number"),
    "Nesterov alone": (lambda: SGD([P], 0.1, nesterov=True), "SGD: nesterov needs a momentum above 0"),
    "Nesterov alone in a group": (
        lambda: SGD([{"params": [P], "momentum": 0}], 0.1, 0.9, nesterov=True), "SGD: nesterov needs a momentum"
    ),
    "beta of 1": (lambda: Adam([P], betas=(0.9, 1.0)), r"Adam: betas must lie in \[0, 1\), got \(0.9, 1.0\)"),
    "negative beta": (lambda: Adam([P], betas=(-0.1, 0.9)), r"Adam: betas must lie in \[0, 1\)"),
    "falling milestones": (lambda: MultiStepLR(SGD([P], 0.1), [5, 3]), r"milestones must increase, got \[5, 3\]"),
    "repeated milestones": (lambda: MultiStepLR(SGD([P], 0.1), [5, 5]), r"milestones must increase, got \[5, 5\]"),
    "no iterations": (lambda: CosineLR(SGD([P], 0.1), 0), "CosineLR: iterations must be at least 1, got 0"),
    "negative warm-up": (lambda: WarmUp(ConstantLR(SGD([P], 0.1)), -1), "iterations must be at least 0, got -1"),
    "warm-up shape": (
        lambda: WarmUp(ConstantLR(SGD([P], 0.1)), 5, shape="cubic"), "shape must be 'constant' or 'linear', got 'cubic'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments_are_told_in_a_sentence(case):
    make, sentence = INVALID[case]
    with pytest.raises(ArgumentError, match=sentence):
        make()


@kinds
def test_a_graph_whose_weights_were_stepped_cannot_go_backward(make):
    w, x = parameter(1.0, 2.0), Tensor(np.array([3.0, 4.0]), requires_grad=True)
    loss = (w * x).sum()
    step_with(make([w]), [1.0, 1.0])
    with pytest.raises(GraphError, match="changed in place since"):
        loss.backward()


@kinds
def test_a_graph_whose_weights_had_no_gradient_can(make):
    w, x = parameter(1.0, 2.0), Tensor(np.array([3.0, 4.0]), requires_grad=True)
    loss = (w * x).sum()
    make([w]).step()
    loss.backward()
    np.testing.assert_array_equal(x.grad, [1, 2])


@kinds
def test_steps_happen_in_place(make):
    """A layer that shares its weights, and a model that holds the parameter, see the step."""
    p = parameter(1.0, 2.0)
    memory = p.data
    step_with(make([p]), [1.0, 1.0])
    assert p.data is memory


# -- float32 stays float32 --------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("number", [float, np.float64, np.float32])
def test_nothing_drifts_to_float64(make, number):
    p = parameter(1.0, 2.0, dtype=np.float32)
    scalar = nn.Parameter(np.array(1.0, np.float32))
    optimiser = make([p, scalar])
    for key, value in optimiser.groups[0].items():
        if isinstance(value, float):
            optimiser.groups[0][key] = number(value)  # rates from np.logspace are float64 scalars, not Python numbers
    schedule = CosineLR(optimiser, 10)
    for _ in range(3):
        step_with(optimiser, [0.1, 0.2], 0.3)
        schedule.step()
        optimiser.load_state_dict(optimiser.state_dict())
    assert p.dtype == p.data.dtype == scalar.dtype == np.float32
    arrays = [v for s in optimiser.state for v in s.values() if not isinstance(v, int)]
    assert {a.dtype for a in arrays} <= {np.dtype(np.float32)}
    assert all(type(a) is type(p.data) for a in arrays)


# -- schedules --------------------------------------------------------------------------------------------------------


def rates(make, count, lr=1.0):
    """The learning rate in each iteration, read where a training loop would use it."""
    optimiser = SGD([parameter(1.0)], lr)
    schedule, used = make(optimiser), []
    for _ in range(count):
        used.append(optimiser.groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return used


def test_constant():
    assert rates(ConstantLR, 4, 0.3) == [0.3] * 4


def test_multi_step_changes_exactly_at_its_milestones():
    assert rates(lambda o: MultiStepLR(o, [3, 5], 0.5), 7, 8.0) == [8, 8, 8, 4, 4, 2, 2]


def test_multi_step_as_in_the_paper():
    schedule = MultiStepLR(SGD([parameter(1.0)], 0.1), [32_000, 48_000])
    assert [schedule.factor(i) for i in (0, 31_999, 32_000, 47_999, 48_000, 63_999)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01], rel=1e-15
    )


def test_a_milestone_at_zero_holds_from_the_first_iteration():
    assert rates(lambda o: MultiStepLR(o, [0], 0.5), 3) == [0.5] * 3


def test_no_milestones():
    assert rates(lambda o: MultiStepLR(o, []), 3) == [1] * 3


def test_cosine_starts_at_the_rate_ends_at_the_final_share_and_stays_there():
    used = rates(lambda o: CosineLR(o, 4, final=0.2), 8, 10.0)
    middle = [10 * (0.2 + 0.8 * (1 + np.cos(np.pi * i / 4)) / 2) for i in (1, 2, 3)]
    assert used == pytest.approx([10, *middle, 2, 2, 2, 2], rel=1e-15)
    assert used[4:] == [2.0] * 4
    assert rates(lambda o: CosineLR(o, 4), 5)[-1] == 0
    assert middle[1] == pytest.approx(6)


def test_constant_warm_up_then_the_inner_schedule_on_the_same_count():
    make = lambda o: WarmUp(MultiStepLR(o, [2, 5], 0.5), 3, start=0.25)
    assert rates(make, 7, 8.0) == [2, 2, 1, 4, 4, 2, 2]  # the milestone at 2 counts during the warm-up too


def test_linear_warm_up():
    make = lambda o: WarmUp(MultiStepLR(o, [6], 0.5), 4, start=0.5, shape="linear")
    assert rates(make, 8, 8.0) == [4, 5, 6, 7, 8, 8, 4, 4]


def test_linear_warm_up_from_nothing():
    assert rates(lambda o: WarmUp(ConstantLR(o), 4, start=0.0, shape="linear"), 6) == [0, 0.25, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize("shape", ["constant", "linear"])
def test_a_warm_up_of_no_iterations_is_none(shape):
    assert rates(lambda o: WarmUp(MultiStepLR(o, [2], 0.5), 0, 0.1, shape), 4) == [1, 1, 0.5, 0.5]


def test_warm_up_starts_from_the_base_rate_whatever_the_inner_schedule_made_of_it():
    assert rates(lambda o: WarmUp(MultiStepLR(o, [0], 0.5), 2, start=0.5), 4, 8.0) == [2, 2, 4, 4]


def test_every_group_keeps_its_proportion():
    optimiser = SGD([{"params": [parameter(1.0)]}, {"params": [parameter(1.0)], "lr": 0.5}], 8.0)
    schedule = WarmUp(MultiStepLR(optimiser, [2], 0.5), 1, 0.25)
    used = []
    for _ in range(4):
        used.append([g["lr"] for g in optimiser.groups])
        schedule.step()
    assert used == [[2, 0.125], [8, 0.5], [4, 0.25], [4, 0.25]]


def test_factor_is_a_pure_function():
    schedule = WarmUp(CosineLR(SGD([parameter(1.0)], 0.1), 10), 3, 0.1, "linear")
    first = [schedule.factor(i) for i in range(12)]
    assert [schedule.factor(i) for i in reversed(range(12))] == first[::-1]
    assert schedule.iteration == 0


# -- stopping and going on --------------------------------------------------------------------------------------------

SCHEDULES = {
    "constant": ConstantLR,
    "steps": lambda o: MultiStepLR(o, [4, 9, 14], 0.3),
    "cosine": lambda o: CosineLR(o, 18, 0.05),
    "warm-up": lambda o: WarmUp(MultiStepLR(o, [9, 14]), 6, 0.1),
    "linear warm-up": lambda o: WarmUp(CosineLR(o, 18), 12, 0.1, "linear"),
}


def run(values, optimiser, schedule, start, stop):
    """Iterations start to stop of a noisy descent; the noise is that of the iteration."""
    for iteration in range(start, stop):
        noise = np.random.default_rng(iteration)
        for i, p in enumerate(values):
            absent = i == 1 and iteration % 3  # one parameter that is not always used
            grad = (np.sin(3 * p.numpy()) + noise.standard_normal(p.shape)).astype(p.dtype)
            p.grad = None if absent else Tensor(grad).data
        optimiser.step()
        schedule.step()


def grouped(make, values):
    return make([{"params": values[:2]}, {"params": values[2:], "lr": 0.02}])


def through_a_file(optimiser_state, schedule_state):
    """Saved as a checkpoint is: arrays as npz, the rest as JSON."""
    file = io.BytesIO()
    np.savez(file, **optimiser_state["state"])
    text = json.dumps([optimiser_state["groups"], schedule_state])
    file.seek(0)
    groups, schedule = json.loads(text)
    with np.load(file) as arrays:
        return {"groups": groups, "state": dict(arrays)}, schedule


@pytest.mark.parametrize("optimiser_first", [True, False])
@pytest.mark.parametrize("make_schedule", SCHEDULES.values(), ids=SCHEDULES)
@kinds
def test_stopping_and_going_on_is_never_stopping(rng, make, make_schedule, optimiser_first):
    start = [rng.standard_normal(shape).astype(np.float32) for shape in [(3, 2), (4,), (), (2, 2)]]
    never = [nn.Parameter(v.copy()) for v in start]
    optimiser = grouped(make, never)
    run(never, optimiser, make_schedule(optimiser), 0, 20)

    before = [nn.Parameter(v.copy()) for v in start]
    optimiser = grouped(make, before)
    schedule = make_schedule(optimiser)
    run(before, optimiser, schedule, 0, 11)
    saved, saved_schedule = through_a_file(optimiser.state_dict(), schedule.state_dict())

    after = [nn.Parameter(p.numpy().copy()) for p in before]
    optimiser = grouped(make, after)
    schedule = make_schedule(optimiser)
    loads = [(optimiser, saved), (schedule, saved_schedule)]
    for target, state in loads if optimiser_first else reversed(loads):
        target.load_state_dict(state)
    run(after, optimiser, schedule, 11, 20)
    for i, (p, q) in enumerate(zip(never, after, strict=True)):
        assert p.numpy().tobytes() == q.numpy().tobytes(), f"parameter {i}"
        assert p.numpy().tobytes() != before[i].numpy().tobytes()  # and it did go on


@kinds
def test_stopping_and_going_on_with_a_network(rng, make):
    batches = [(rng.standard_normal((4, 6, 6, 3)).astype(np.float32), rng.integers(0, 10, 4)) for _ in range(6)]

    def train(model, optimiser, schedule, batches):
        for x, labels in batches:
            optimiser.zero_grad()
            F.cross_entropy(model(Tensor(x)), labels).backward()
            optimiser.step()
            schedule.step()
        return model.state_dict()

    model = cifar_resnet(8, width=2, generator=0)
    optimiser = make(model.parameters())
    expected = train(model, optimiser, MultiStepLR(optimiser, [2, 4]), batches)

    model = cifar_resnet(8, width=2, generator=0)
    optimiser = make(model.parameters())
    schedule = MultiStepLR(optimiser, [2, 4])
    state = train(model, optimiser, schedule, batches[:3])
    fresh = cifar_resnet(8, width=2, generator=1)
    fresh.load_state_dict(state)
    again = make(fresh.parameters())
    schedule_again = MultiStepLR(again, [2, 4])
    again.load_state_dict(optimiser.state_dict())
    schedule_again.load_state_dict(schedule.state_dict())
    got = train(fresh, again, schedule_again, batches[3:])
    assert [n for n in expected if got[n].tobytes() != expected[n].tobytes()] == []


@kinds
def test_state_dict_copies(make):
    p = parameter(1.0, 2.0)
    optimiser = make([p])
    step_with(optimiser, [1.0, -1.0])
    saved = optimiser.state_dict()
    kept = {name: array.copy() for name, array in saved["state"].items()}
    optimiser.groups[0]["lr"] = 123.0
    step_with(optimiser, [5.0, 5.0])
    assert saved["groups"][0]["lr"] != 123
    for name, array in kept.items():
        np.testing.assert_array_equal(saved["state"][name], array)

    optimiser.load_state_dict(saved)  # and the other way: what was loaded is not what was given
    step_with(optimiser, [5.0, 5.0])
    for name, array in kept.items():
        np.testing.assert_array_equal(saved["state"][name], array)


def test_what_a_state_dict_holds():
    optimiser = SGD([{"params": [parameter(1.0)]}, {"params": [parameter(1.0, 2.0)], "lr": 0.5}], 0.1, 0.9)
    step_with(optimiser, [1.0], [1.0, 2.0])
    saved = optimiser.state_dict()
    assert saved["groups"] == [
        {"lr": lr, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False} for lr in (0.1, 0.5)
    ]  # fmt: skip
    assert {n: a.tolist() for n, a in saved["state"].items()} == {"0.momentum": [1.0], "1.momentum": [1.0, 2.0]}


MISMATCHES = {
    "another shape": (lambda: SGD([parameter(1.0, 2.0), parameter(1.0)], 0.1, 0.9), "0.momentum of shape"),
    "fewer parameters": (lambda: SGD([parameter(1.0)], 0.1, 0.9), "1.momentum of shape"),
    "another number of groups": (
        lambda: SGD([{"params": [parameter(1.0)]}, {"params": parameter(1.0, 2.0, 3.0)}], 0.1, 0.9), "2 groups .* has 1"
    ),
    "another optimiser": (lambda: Adam([parameter(1.0), parameter(1.0, 2.0, 3.0)], 0.1), "has the settings betas, eps"),
    "a single number": (lambda: SGD([nn.Parameter(np.array(1.0)), parameter(1.0, 2.0, 3.0)], 0.1, 0.9), "0.momentum"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_state_that_does_not_fit_is_refused_and_nothing_changed(case):
    make, sentence = MISMATCHES[case]
    source = SGD([parameter(1.0), parameter(1.0, 2.0, 3.0)], 0.7, 0.8)
    step_with(source, [1.0], [1.0, 2.0, 3.0])
    optimiser = make()
    step_with(optimiser, *(np.ones(p.shape) for p in optimiser.parameters()))
    before = optimiser.state_dict()
    with pytest.raises(CheckpointError, match=sentence):
        optimiser.load_state_dict(source.state_dict())
    after = optimiser.state_dict()
    assert after["groups"] == before["groups"]
    assert {n: a.tolist() for n, a in after["state"].items()} == {n: a.tolist() for n, a in before["state"].items()}


def test_adams_state_is_refused_by_sgd():
    source, target = Adam([parameter(1.0)]), SGD([parameter(1.0)], 0.1, 0.9)
    step_with(source, [1.0])
    with pytest.raises(CheckpointError, match=r"the SGD here has the settings lr, .* but the state has betas"):
        target.load_state_dict(source.state_dict())


@pytest.mark.parametrize("name", ["first", "-1.momentum", "7.momentum", "x.momentum"])
def test_state_of_an_unknown_parameter_is_refused(name):
    optimiser = SGD([parameter(1.0)], 0.1, 0.9)
    saved = optimiser.state_dict() | {"state": {name: np.ones(1)}}
    with pytest.raises(CheckpointError, match="belongs to no parameter"):
        optimiser.load_state_dict(saved)


def test_a_schedule_refuses_the_state_of_another_number_of_groups():
    one = MultiStepLR(SGD([parameter(1.0)], 0.1), [2])
    optimiser = SGD([{"params": [parameter(1.0)]}, {"params": [parameter(1.0)]}], 0.3)
    two = MultiStepLR(optimiser, [2])
    one.step()
    with pytest.raises(CheckpointError, match="has 2 base rates, the state has 1"):
        two.load_state_dict(one.state_dict())
    assert two.state_dict() == {"iteration": 0, "base": [0.3, 0.3]}
    assert [g["lr"] for g in optimiser.groups] == [0.3, 0.3]


def test_a_schedule_made_on_a_resumed_optimiser_takes_its_base_rate_from_the_state():
    optimiser = SGD([parameter(1.0)], 8.0)
    schedule = MultiStepLR(optimiser, [1], 0.5)
    schedule.step()
    fresh = SGD([parameter(1.0)], 8.0)
    fresh.load_state_dict(optimiser.state_dict())  # lr 4 already
    again = MultiStepLR(fresh, [1], 0.5)
    again.load_state_dict(schedule.state_dict())
    assert fresh.groups[0]["lr"] == 4


def test_loading_brings_the_settings_back():
    source = SGD([{"params": [parameter(1.0)]}, {"params": [parameter(1.0)], "lr": 0.5}], 0.1, 0.9, 0.01, nesterov=True)
    target = SGD([{"params": [parameter(1.0)]}, {"params": [parameter(1.0)]}], 0.3)
    held = target.parameters()
    target.load_state_dict(source.state_dict())
    assert target.state_dict() == source.state_dict()
    assert all(p is q for p, q in zip(target.parameters(), held, strict=True))  # of the parameters only the state
    step_with(source, [1.0], [2.0])
    step_with(target, [1.0], [2.0])
    assert [p.item() for p in target.parameters()] == [p.item() for p in source.parameters()]


def test_loading_a_schedule_sets_the_rate_at_once():
    schedule = MultiStepLR(SGD([parameter(1.0)], 8.0), [1], 0.5)
    schedule.step()
    saved = schedule.state_dict()
    optimiser = SGD([parameter(1.0)], 2.0)
    MultiStepLR(optimiser, [1], 0.5).load_state_dict(saved)
    assert optimiser.groups[0]["lr"] == 4
    saved["base"][0] = 100.0
    schedule.step()
    assert schedule.optimizer.groups[0]["lr"] == 4  # the saved state was a copy


def test_base_classes_say_what_is_missing():
    with pytest.raises(NotImplementedError, match="Optimizer has no update method"):
        step_with(optim.Optimizer([parameter(1.0)], {}), [1.0])
    with pytest.raises(NotImplementedError, match="Schedule has no factor method"):
        Schedule(SGD([parameter(1.0)], 0.1))


@kinds
def test_it_descends(rng, make):
    target = rng.standard_normal((3, 2))
    p = nn.Parameter(np.zeros((3, 2)))
    optimiser = make([p])
    for _ in range(300):
        optimiser.zero_grad()
        F.mse_loss(p, Tensor(target), "sum").backward()
        optimiser.step()
    np.testing.assert_allclose(p.numpy(), target, atol=0.02)  # weight decay pulls a little towards 0
