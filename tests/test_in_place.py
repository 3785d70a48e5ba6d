"""Changing a tensor in place: what is allowed, what is refused, and what backward notices afterwards."""

import gc
import operator
import threading

import numpy as np
import pytest

import minires
from minires import Tensor, tensor
from minires import functional as F
from minires.errors import GraphError, ShapeError
from minires.tensor import graph
from minires.tensor.node import clock
from tests.devices import here


def _assign(t):
    t[0] = 5.0


def _add(t):
    t += 1.0


def _through_data(t):
    t.data -= 1.0


CHANGES = {
    "setitem": _assign, "+=": _add, "data": _through_data, "view": lambda t: _assign(t.reshape(3, 1)),
    "view of a view": lambda t: _add(t.reshape(3, 1).T[0]), "detached": lambda t: _assign(t.detach()),
    "Tensor of it": lambda t: _assign(Tensor(t)), "getitem": lambda t: _add(t[1:]),
}  # fmt: skip
SAVING = {
    "mul": lambda x: x * x,
    "exp": lambda x: x.exp(),
    "matmul": lambda x: x @ x,
    "view": lambda x: x.reshape(1, 3) ** 2,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("save", SAVING.values(), ids=SAVING)
def test_a_saved_array_that_changed_is_noticed(save, change):
    x = tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = save(x)
    with minires.no_grad():
        change(y if save is SAVING["exp"] else x)  # exp saves its output, the others their input
    with pytest.raises(GraphError, match=r"an array that it saved in the forward pass was changed in place since"):
        y.sum().backward()


def test_a_change_is_noticed_through_any_tensor_of_the_same_memory():
    memory = here(np.ones(3, np.float32))
    x, other = Tensor(memory, requires_grad=True), Tensor(memory[1:])
    y = x * x
    other += 1
    with pytest.raises(GraphError, match="changed in place since"):
        y.sum().backward()


def test_memory_that_is_used_again_is_not_taken_for_what_was_there_before():
    for _ in range(100):
        x = tensor([1.0, 2.0, 3.0], requires_grad=True)
        (x * x).sum().backward()
        assert x.grad.tolist() == [2, 4, 6]
        with minires.no_grad():
            x += 1


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_that_matters_to_nobody_is_allowed(change):
    x = tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x + 1  # keeps no array
    with minires.no_grad():
        change(x)
    y.sum().backward()
    assert x.grad.tolist() == [1, 1, 1]


def test_new_memory_under_the_old_name_leaves_the_old_graph_alone():
    x = tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    x.data = np.array([10.0, 20.0])
    y.backward()
    assert x.grad.tolist() == [2, 4]
    assert x.dtype == np.float32
    with pytest.raises(ShapeError, match=r"cannot put an array of shape \(3,\) into a tensor of shape \(2,\)"):
        x.data = np.zeros(3)


@pytest.mark.parametrize("change", [_assign, _add])
def test_a_leaf_is_not_changed_while_operations_are_recorded(change):
    x = tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(GraphError, match=r"no_grad\(\):"):
        change(x)
    constant = tensor([1.0, 2.0])
    with pytest.raises(GraphError, match="would lose the gradient"):
        constant[0] = x[0]
    assert (x.numpy().tolist(), constant.numpy().tolist()) == ([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("op", "result"), [("iadd", [4, 8]), ("isub", [0, 4]), ("imul", [4, 12]), ("itruediv", [1, 3])]
)
def test_in_place_operators_keep_memory_without_a_graph_and_record_with_one(op, result):
    x = constant = tensor([2.0, 6.0])
    memory = x.data
    x = getattr(operator, op)(x, here(np.full(2, 2.0)))
    assert x is constant
    assert x.data is memory
    assert (x.numpy().tolist(), x.dtype) == (result, np.float32)
    leaf = tensor([2.0, 6.0], requires_grad=True)
    y = old = leaf * 1
    y = getattr(operator, op)(y, 2.0)
    assert y is not old
    assert y.numpy().tolist() == result
    assert y.requires_grad


@pytest.mark.parametrize("operation", [
    lambda x, i, mask: x[i], lambda x, i, mask: x[mask], lambda x, i, mask: F.where(mask, x, 0.0),
    lambda x, i, mask: F.cross_entropy(x.reshape(2, 3), i),
])  # fmt: skip
def test_an_index_a_label_or_a_mask_may_change_before_backward(operation):
    grads = []
    for reuse in (False, True):
        x, i = tensor([0.0, 1, 2, 3, 4, 5], requires_grad=True), Tensor(np.array([0, 2]))
        mask = Tensor(np.arange(6) % 2 == 0)
        y = operation(x, i, mask)
        if reuse:
            i[...] = 1
            mask[:3] = False
        y.sum().backward()
        grads.append(x.grad)
    assert np.array_equal(*grads)


def test_a_list_used_as_an_index_may_change_too():
    x, index = tensor([1.0, 2.0, 3.0], requires_grad=True), [0, 0]
    y = x[index]
    index[0] = 2
    y.sum().backward()
    assert x.grad.tolist() == [2, 0, 0]


def test_a_change_beside_what_was_saved_is_none():
    memory = here(np.ones((4, 3), np.float32))
    batches = [Tensor(memory[i : i + 2], requires_grad=True) for i in (0, 2)]
    total = Tensor(0.0)
    for batch in batches:
        with minires.no_grad():
            batch += 1
        total = total + (batch * batch).sum()
    total.backward()
    for batch in batches:
        assert batch.grad.tolist() == [[4.0] * 3] * 2


@pytest.mark.parametrize("changed", [slice(0, 2), slice(1, None, 2), slice(None, None, -1), slice(3, 4)])
@pytest.mark.parametrize("others", [0, 200])  # so many that they are no longer told apart
def test_a_change_of_a_part_of_what_was_saved(changed, others):
    memory = here(np.ones(1000, np.float32))
    x = Tensor(memory[:4], requires_grad=True)
    y = x * x
    with minires.no_grad():
        Tensor(memory[:4][changed]).data += 1
        part = Tensor(memory[:4][changed])
        part += 1
        for i in range(others):
            elsewhere = Tensor(memory[10 + i : 11 + i])
            elsewhere += 1
    with pytest.raises(GraphError, match="changed in place since"):
        y.sum().backward()


# -- several threads --------------------------------------------------------------------------------------------------


class Noted:
    """A lock that notes what the clock says when it is taken and when it is left."""

    def __init__(self):
        self.lock, self.seen = clock.lock, []

    def __enter__(self):
        self.lock.acquire()
        self.seen.append(clock.now)

    def __exit__(self, *exception):
        self.seen.append(clock.now)
        self.lock.release()


def test_a_change_is_counted_while_nobody_else_counts(monkeypatch):
    noted, before = Noted(), clock.now
    monkeypatch.setattr(clock, "lock", noted)
    clock.note(np.zeros(3))
    assert noted.seen == [before, before + 1]


def test_what_interrupts_a_change_may_change_something_itself():
    before = clock.now
    with clock.lock:  # as a signal handler finds it
        clock.note(np.zeros(3))
    assert clock.now == before + 1


def test_changes_in_many_threads_are_all_counted():
    arrays, before = [np.zeros(3) for _ in range(8)], clock.now
    threads = [threading.Thread(target=lambda a=a: [clock.note(a) for _ in range(500)]) for a in arrays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.now == before + 8 * 500
    assert all(clock.changed([a], before) for a in arrays)


def test_changes_of_many_parts_are_remembered_as_one():
    a, before = np.zeros(1000), clock.now
    for i in range(100, 300, 2):
        clock.note(a[i : i + 1])
        assert len(clock._changes[id(a)]) <= 64
    for part, changed in ((a[100:101], True), (a[298:299], True), (a[:99], False), (a[301:], False)):
        assert clock.changed([part], before) == changed


def test_parts_that_touch_each_other_are_remembered_as_one_and_others_by_themselves():
    a, before = np.zeros((200, 4)), clock.now
    for i in (199, *range(70)):
        clock.note(a[i])
    for rows, changed in ((a[69], True), (a[199], True), (a[150], False), (a[70:199], False), (a[:1], True)):
        assert clock.changed([rows], before) == changed
    assert not clock.changed([a[:70]], clock.now)


def test_changes_of_memory_that_is_gone_are_forgotten():
    known = len(clock._changes), len(clock._alive)
    arrays = [np.zeros(3) for _ in range(1000)]
    for a in arrays:
        clock.note(a[:2])
    assert len(clock._changes) >= 1000
    del arrays, a
    gc.collect()
    assert len(clock._changes) <= known[0]
    assert len(clock._alive) <= known[1]


@pytest.mark.host_only("the buffer is on the host")
def test_a_change_is_seen_through_whatever_looks_at_a_buffer():
    """Two arrays of one `bytearray` have nothing in common but that."""
    buffer = bytearray(32)
    c, d = (Tensor(np.frombuffer(buffer)) for _ in range(2))
    x = Tensor(np.arange(4.0), requires_grad=True)
    y = x * c
    d += 1
    with pytest.raises(GraphError, match="was changed in place"):
        y.backward(np.ones(4))


def test_a_gradient_is_added_while_no_other_thread_adds_to_it(monkeypatch):
    noted, seen = Noted(), []
    w = Tensor(np.ones(3), requires_grad=True)
    (w * 1.0).sum().backward()
    monkeypatch.setattr(clock, "lock", noted)
    adding = lambda a, b: (seen.append(len(noted.seen)), graph.added(a, b))[1]
    monkeypatch.setitem(Tensor._accumulate.__globals__, "added", adding)  # the module's name is that of a function
    (w * 2.0).sum().backward()
    assert seen == [1]  # taken, and not yet left
    np.testing.assert_array_equal(w.grad, np.full(3, 3.0))
