"""Between the CPU and the GPU: the same numbers on both, nothing copied in silence, and everything moves freely.

Here tensors are moved by hand, so these tests do not take part in the running of the suite on all devices.
"""

import copy
import importlib.metadata
import re
import types

import numpy as np
import pytest

import minires
from minires import Tensor, nn, optim
from minires import functional as F
from minires.backend import arrays, cupy, on_gpu
from minires.errors import ArgumentError, DeviceError
from minires.tensor.node import storage
from minires.tensor.operators import OPERATIONS
from tests.gpu import standin
from tests.programs import run_program
from tests.test_ops_gradients import CASES, IDS

pytestmark = pytest.mark.host_only("moves its tensors by hand")


only_standin = pytest.mark.parametrize("gpu", ["standin"], indirect=True)


def there(value):
    """A tensor, array, or index with arrays in it, on the GPU; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(there, value))
    if isinstance(value, np.ndarray | np.generic):
        return Tensor(value).to("cuda").data
    return value.to("cuda") if isinstance(value, Tensor) else value


def leaf_there(array):
    return None if array is None else Tensor(there(array), requires_grad=True)


def small_network(generator=0):
    return minires.models.cifar_resnet(8, width=4, in_channels=1, classes=5, generator=generator)


# -- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels_there", ["cuda-implicit", "cuda-im2col"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_an_operation_is_the_same_on_both(gpu, case, kernels_there, rng):
    given = case.arrays(rng)
    options = case.fresh_options(given)
    options_there = {name: there(value) for name, value in case.fresh_options(given).items()}
    here = [None if a is None else Tensor(a, requires_grad=True) for a in given]
    moved = [leaf_there(a) for a in given]
    with minires.use_kernels(kernels_there):
        expected, y = (
            OPERATIONS[case.name].apply(*here, **options),
            OPERATIONS[case.name].apply(*moved, **options_there),
        )
        assert y.device == ("cpu" if case.name == "to" else "cuda")
        assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-10, atol=1e-10)
        upstream = rng.standard_normal(y.shape)
        expected.backward(upstream)
        y.backward(Tensor(upstream).to(y.device))
    for a, b in zip(here, moved, strict=True):
        if a is not None:
            assert on_gpu(b.grad)
            assert b.like == (b.grad.shape, b.grad.dtype)
            assert b.grad.flags.c_contiguous
            np.testing.assert_allclose(b.grad.get(), a.grad, rtol=1e-10, atol=1e-10)


def test_comparisons_assignments_and_the_rest_are_the_same_on_both(gpu, rng):
    a, b, mask = rng.standard_normal((3, 4)), rng.standard_normal((3, 4)), rng.random((3, 4)) < 0.5
    calls = [
        lambda x, y, m: x < y, lambda x, y, m: x == [0.0, 1.0, 2.0, 3.0], lambda x, y, m: x <= 0.1,
        lambda x, y, m: (x > 0) & m, lambda x, y, m: ~m | True, lambda x, y, m: x.argmax(1),
        lambda x, y, m: x + 1 + [1.0, 2.0, 3.0, 4.0], lambda x, y, m: 2 ** x, lambda x, y, m: 3 - x * np.float64(2),
        lambda x, y, m: np.add(x, y), lambda x, y, m: np.exp(x), lambda x, y, m: x * np.array(2.0),
        lambda x, y, m: F.one_hot(x.argmax(1), 4),
        lambda x, y, m: F.dropout(x, 0.5, generator=np.random.default_rng(3)),
        lambda x, y, m: F.where(m, x, 0.5), lambda x, y, m: F.maximum(x, np.float32(0.2)), lambda x, y, m: x[x > 0],
        lambda x, y, m: x[Tensor([2, 0, 2]).to(x.device), 1:], lambda x, y, m: x.detach().clip(-0.5, 0.5),
    ]  # fmt: skip
    for call in calls:
        here, moved = call(Tensor(a), Tensor(b), Tensor(mask)), call(*(Tensor(v).to("cuda") for v in (a, b, mask)))
        assert (moved.device, moved.dtype, moved.shape) == ("cuda", here.dtype, here.shape)
        np.testing.assert_allclose(moved.numpy(), here.numpy(), rtol=1e-12)
    for value in (2.0, [1.0, 2.0, 3.0, 4.0], np.array(2.0), np.float32(3)):
        here, moved = Tensor(a.copy()), Tensor(a).to("cuda")
        for t in (here, moved):
            t += value
            t *= value
            t[1] = value
            t[:, 0] = t[:, 1]
        np.testing.assert_allclose(moved.numpy(), here.numpy(), rtol=1e-12)


def test_numbers_beside_a_tensor_have_the_same_gradients(gpu, rng):
    a = rng.uniform(0.5, 2, (3, 4))
    for call in (lambda x: x**2, lambda x: x**0.0, lambda x: 2.0**x, lambda x: x / 3, lambda x: 3 / x,
                 lambda x: x * np.array(2.0),
                 lambda x: F.maximum(x, 1.0) + F.minimum(1.5, x), lambda x: F.where(x > 1, x, 0.0)):  # fmt: skip
        here, moved = Tensor(a, requires_grad=True), leaf_there(a)
        upstream = rng.standard_normal((3, 4))
        call(here).backward(upstream)
        call(moved).backward(there(upstream))
        np.testing.assert_allclose(moved.grad.get(), here.grad, rtol=1e-12, atol=1e-12)


def test_a_network_learns_the_same_on_both(gpu, rng):
    x, labels = rng.standard_normal((6, 8, 8, 1)), rng.integers(0, 5, 6)
    losses = {}
    for device in ("cpu", "cuda"):
        model = small_network().astype("float64").to(device)
        sgd = optim.SGD(model.parameters(), 0.05, 0.9, 1e-3)
        adam = optim.Adam(model.parameters(), 1e-3, weight_decay=1e-3)
        images, right = Tensor(x).to(device), Tensor(labels).to(device)
        losses[device] = []
        for optimizer in (sgd, sgd, adam, adam):
            loss = F.cross_entropy(model(images), right, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[device].append(loss.item())
        model.eval()
        losses[device] += model(images).numpy().ravel().tolist()
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-7)


def test_repeated_indices_are_added_in_a_fixed_order(gpu, rng):
    x, index = rng.standard_normal((7, 3)).astype("f4"), rng.integers(0, 7, 200)
    upstream = (rng.standard_normal((200, 3)) * 10.0 ** rng.integers(-6, 6, (200, 1))).astype("f4")
    grads = []
    for _ in range(2):
        t = leaf_there(x)
        t[there(index)].backward(there(upstream))
        grads.append(t.grad.get())
    assert np.array_equal(*grads)
    exact = np.zeros((7, 3))
    np.add.at(exact, index, upstream.astype("f8"))
    np.testing.assert_allclose(grads[0], exact, rtol=1e-5, atol=1e-5 * np.abs(upstream).max())
    for empty in (np.zeros(0, int), np.array([4])):
        t = leaf_there(x)
        t[there(empty)].sum().backward()
        assert t.grad.get().sum() == 3 * len(empty)


# -- moving -----------------------------------------------------------------------------------------------------------


def test_moving_is_an_operation(gpu):
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x.to("cuda")
    assert (x.device, y.device, y.is_leaf, y.requires_grad) == ("cpu", "cuda", False, True)
    (y * y).cpu().sum().backward()
    assert type(x.grad) is np.ndarray
    assert x.grad.tolist() == [2.0, 4.0]
    assert x.to("cpu") is x
    assert y.cuda() is y.to("cuda") is y
    assert Tensor([1, 2]).cuda().dtype == np.int64
    assert repr(Tensor([1.0, 2.0]).to("cuda")) == "Tensor([1., 2.], device='cuda')"
    with minires.no_grad():
        assert not x.to("cuda").requires_grad


def test_a_module_moves_in_place_with_all_it_has(gpu, rng):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(4))
    sgd = optim.SGD(model.parameters(), 0.1)
    model(Tensor(rng.standard_normal((5, 3)).astype("f4"))).sum().backward()
    parameters, calls = list(model.parameters()), []
    before, grad = model.state_dict(), parameters[0].grad
    parameters[0].register_hook(calls.append)
    assert model.to("cuda") is model
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert {t.device for t in (*model.parameters(), *(b for _, b in model.named_buffers()))} == {"cuda"}
    assert on_gpu(parameters[0].grad)
    assert np.array_equal(parameters[0].grad.get(), grad)
    model(Tensor(rng.standard_normal((5, 3)).astype("f4")).cuda()).sum().backward()
    assert len(calls) == 1  # hooks stay
    sgd.step()
    assert all(type(a) is np.ndarray and a.flags.c_contiguous for a in model.state_dict().values())
    assert model.cuda().cpu() is model
    model.load_state_dict(before)
    assert all(np.array_equal(before[n], a) for n, a in model.state_dict().items())


def test_moving_a_model_leaves_a_graph_as_it_was(gpu):
    layer = nn.Linear(2, 2)
    weight, y = layer.weight.data.copy(), layer(Tensor([[1.0, 2.0]], requires_grad=True)).sum()
    layer.to("cuda")
    with pytest.raises(DeviceError, match="gradient"):  # its leaves are elsewhere now
        y.backward()
    assert np.array_equal(layer.weight.numpy(), weight)


def test_states_move_freely(gpu, rng):
    x, labels = rng.standard_normal((6, 8, 8, 1)), rng.integers(0, 5, 6)
    trained = {}

    def run(model, optimizer, device, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(Tensor(x).to(device)), Tensor(labels).to(device)).backward()
            optimizer.step()

    for first, second in (("cpu", "cuda"), ("cuda", "cpu"), ("cpu", "cpu")):
        for make in (lambda p: optim.SGD(p, 0.05, 0.9), lambda p: optim.Adam(p, 0.01)):
            model = small_network().astype("float64").to(first)
            optimizer = make(model.parameters())
            run(model, optimizer, first, 2)
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
            other = small_network(1).astype("float64").to(second)
            resumed = make(other.parameters())
            other.load_state_dict(saved[0])
            resumed.load_state_dict(saved[1])
            assert {on_gpu(a) for s in resumed.state for k, a in s.items() if k != "step"} == {second == "cuda"}
            assert all(type(a) is np.ndarray for a in saved[1]["state"].values())
            run(other, resumed, second, 2)
            trained.setdefault(type(optimizer).__name__, []).append(other.state_dict())
    for states in trained.values():
        for state in states[:2]:
            for name, expected in states[2].items():
                np.testing.assert_allclose(state[name], expected, rtol=1e-6, atol=1e-8, err_msg=name)


def test_a_state_takes_the_dtype_of_its_parameter(gpu):
    wide = optim.SGD([Tensor(np.ones(3), requires_grad=True)], 0.1, 0.9)
    wide.state[0]["momentum"] = np.arange(3.0)
    p = Tensor(np.ones(3, "f4"), requires_grad=True)
    narrow = optim.SGD([p.cuda().detach().requires_grad_()], 0.1, 0.9)
    narrow.load_state_dict(wide.state_dict())
    assert narrow.state[0]["momentum"].dtype == np.float32
    assert narrow.state[0]["momentum"].get().tolist() == [0, 1, 2]


def test_models_are_copied_and_looked_into_where_they_are(gpu, rng):
    model = small_network().to("cuda")
    before = model.state_dict()
    costs = minires.inspect.summary(model, (8, 8, 1))
    expected = minires.inspect.summary(small_network(), (8, 8, 1))
    assert [r.output_shape for r in costs.rows] == [r.output_shape for r in expected.rows]
    assert costs.saved_bytes >= expected.saved_bytes / 2
    assert all(np.array_equal(before[n], a) for n, a in model.state_dict().items())
    report = minires.gradcheck(model, {"x": Tensor(rng.standard_normal((2, 8, 8, 1))).to("cuda")}, max_entries=2)
    assert report.assert_ok().inputs.keys() >= {"x"}
    assert copy.deepcopy(model).state_dict().keys() == before.keys()
    wrong = minires.gradcheck(lambda x: x * x.detach(), {"x": leaf_there(rng.standard_normal(3))})
    assert wrong["x"].verdict == "FAIL"


# -- nothing in silence -----------------------------------------------------------------------------------------------


def mixed_calls():
    """name -> (a call with one operand on each device, what its sentence must say)."""
    x, w = np.ones((2, 5, 5, 3), "f4"), np.ones((3, 3, 3, 4), "f4")
    a, v = np.ones((2, 3), "f4"), np.ones(3, "f4")
    labels = np.array([0, 2])

    def in_place(t, other):
        t += other

    def assign(t, name, value):
        setattr(t, name, value)

    def hooked():
        t = leaf_there(a)
        t.register_hook(lambda grad: a)
        t.sum().backward()

    def stale_gradient():
        t = leaf_there(a)
        t.grad = a
        t.sum().backward()

    class Careless(minires.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, dy):
            return 2 * np.ones(dy.shape, dy.dtype)

    def step(gradient=None, momentum=None):
        p = leaf_there(a)
        sgd = optim.SGD([p], 0.1, 0.9)
        p.grad = there(a) if gradient is None else gradient
        if momentum is not None:
            sgd.state[0]["momentum"] = momentum
        sgd.step()

    g, h = lambda array: Tensor(array).to("cuda"), Tensor
    norm = nn.BatchNorm2d(3)
    return {
        "add": (lambda: g(a) + h(a), r"add: .*\(2, 3\) and float32 is on cuda and .*\(2, 3\).* on cpu.*\.to"),
        "radd": (lambda: a + g(a), "add: .* on cpu"),
        "array": (lambda: g(a) * v, r"multiply: .*shape \(3,\) and float32 on cpu"),
        "divide": (lambda: h(v) / g(a), "divide: "),
        "power": (lambda: g(a) ** h(a), "power: "),
        "matmul": (lambda: g(a) @ h(a.T), "matmul: "),
        "maximum": (lambda: F.maximum(g(a), a), "maximum: "),
        "where, a branch": (lambda: F.where(g(a) > 0, g(a), h(a)), "where: "),
        "where, the condition": (lambda: F.where(h(a) > 0, g(a), 0.0), r"where: .*bool on cpu"),
        "concatenate": (lambda: F.concatenate([g(a), h(a)]), "concatenate: "),
        "concatenate an array": (lambda: F.concatenate([g(a), a]), "concatenate: "),
        "stack": (lambda: F.stack([h(a), g(a)]), "stack: "),
        "index": (lambda: g(a)[np.array([0, 1])], "getitem: .*int64 on cpu"),
        "index in a tuple": (lambda: h(a)[:, g(labels)], "getitem: .*int64 is on cuda"),
        "compare": (lambda: g(a) < h(a), "less: "),
        "equal": (lambda: g(a) == a, "equal: "),
        "np.less": (lambda: np.less(a, g(a)), "less: "),
        "and": (lambda: (g(a) > 0) & (h(a) > 0), "and: "),
        "in place": (lambda: in_place(g(a), a), "add: "),
        "in place on the host": (lambda: in_place(h(a.copy()), g(a)), "add: "),
        "a number in place on the host": (lambda: in_place(h(a.copy()), g(np.ones(()))), "add: .* on cpu"),
        "setitem": (lambda: g(a).__setitem__(0, v), "setitem: "),
        "setitem, the index": (lambda: g(a).__setitem__(np.array([0]), 1.0), "setitem: "),
        "data": (lambda: assign(g(a), "data", a), "data: "),
        "data on the host": (lambda: assign(h(a), "data", g(a)), "data: "),
        "backward": (lambda: leaf_there(a).backward(a), "backward: "),
        "backward on the host": (lambda: h(a, requires_grad=True).backward(g(a)), "backward: "),
        "hook": (hooked, "register_hook: "),
        "old gradient": (stale_gradient, "backward: "),
        "a careless Function": (lambda: Careless.apply(leaf_there(a)).sum().backward(), "Careless.backward: .*0.*cpu"),
        "conv2d": (lambda: F.conv2d(g(x), h(w)), r"conv2d: x \(2, 5, 5, 3\) float32 is on cuda, but w "
                   r'\(3, 3, 3, 4\) .*cpu\. Move w, .*w\.to\("cuda"\)'),
        "conv2d, the other way": (lambda: F.conv2d(h(x), g(w)), r"conv2d: .*Move x, which is on cpu"),
        "conv2d bias": (lambda: F.conv2d(g(x), g(w), np.ones(4, "f4")), "conv2d: .*but b"),
        "linear": (lambda: nn.Linear(3, 2)(g(a)), "linear: .*w.*model.to"),
        "batch_norm": (lambda: norm(g(a)), "batch_norm: .*gamma"),
        "running statistics": (lambda: F.batch_norm(g(a), g(v), g(v), norm.running_mean, norm.running_var),
                               "batch_norm: .*running_mean"),
        "layer_norm": (lambda: F.layer_norm(g(a), g(v), v), "layer_norm: .*beta"),
        "labels": (lambda: F.cross_entropy(g(a), labels), r"cross_entropy: .*labels\.to\(\"cuda\"\)"),
        "mse": (lambda: F.mse_loss(g(a), a), "mse_loss: .*target"),
        "fused": (minires.fused(lambda: F.relu(F.conv2d(g(x), g(w)) + h(np.ones((2, 3, 3, 4), "f4")))), "conv2d: "),
        "a number that learns": (lambda: g(a) * h(2.0, requires_grad=True), "multiply: a number that requires a grad"),
        "gradient": (lambda: step(gradient=a), "SGD: .*its gradient on cpu"),
        "momentum": (lambda: step(momentum=a), r"SGD: .*its momentum on cpu.*load_state_dict\(optimizer\.state_dict"),
    }  # fmt: skip


@pytest.mark.parametrize("name", mixed_calls())
def test_mixed_devices_raise_and_say_what_to_do(gpu, name):
    call, sentence = mixed_calls()[name]
    with pytest.raises(DeviceError, match=sentence):
        call()


@only_standin
def test_only_what_says_so_copies_to_the_host(gpu, rng):
    model, x = small_network().to("cuda"), Tensor(rng.standard_normal((4, 8, 8, 1)).astype("f4")).to("cuda")
    labels, sgd = Tensor([0, 1, 2, 3]).to("cuda"), optim.SGD(model.parameters(), 0.1, 0.9)
    for _ in range(2):  # the second time everything is there
        with standin.counter() as counts:
            sgd.zero_grad()
            F.cross_entropy(model(x), labels, 0.1).backward()
        sgd.step()  # which may say anew where the gradients lie
    assert (counts.synchronisations, counts.copies_to_host, counts.copies_to_device) == (0, 0, 0)
    assert not {"dot", "matmul"} & set(counts.names)  # no product is cuBLAS's
    assert counts.names.count("copy") <= 2  # of what was broadcast; no gradient is copied
    assert "sum" not in counts.names  # over all but the channels, CuPy's own leaves most of the card idle
    for look in (np.asarray, np.array, lambda t: np.concatenate([t, t])):
        with pytest.raises(TypeError, match=r"on cuda .* t\.numpy\(\)"):
            look(x)
    with standin.counter() as counts:
        for look in (Tensor.numpy, repr, lambda t: t[0, 0, 0, 0].item(), minires.asnumpy, lambda t: float(t.sum())):
            look(x)
    assert counts.copies_to_host == 5


def test_labels_out_of_range(gpu):
    logits = Tensor(np.zeros((2, 3), "f4")).to("cuda")
    for labels in ([0, 3], [-1, 0]):
        labels = Tensor(labels).to("cuda")
        losses = F.cross_entropy(logits, labels, reduction="none")
        assert np.isnan(losses.numpy()).tolist() == [not 0 <= k < 3 for k in labels.numpy()]
        with pytest.raises(ArgumentError, match="labels must be 0 to 2"), minires.detect_anomaly():
            F.cross_entropy(logits, labels)


# -- gradients and memory ---------------------------------------------------------------------------------------------


def random_program(rng, device):
    """Layers in any order over a few leaves that are used again and again; the leaves, and everything that was made."""

    def leaf(*shape):
        return Tensor(Tensor(rng.standard_normal(shape).astype("f4")).to(device).data, requires_grad=True)

    x, pixelwise, depthwise = leaf(2, 4, 4, 3), leaf(1, 1, 3, 3), leaf(3, 3, 1, 3)
    filters, gammas = [leaf(3, 3, 3, 3) for _ in range(2)], [leaf(3) for _ in range(3)]
    biases, weights = [leaf(3), leaf(3)], [leaf(3, 3) for _ in range(2)]
    leaves = [x, pixelwise, depthwise, *filters, *gammas, *biases, *weights]
    pick = lambda some: some[rng.integers(len(some))]

    def skip():  # often used only once
        leaves.append(leaf(2, 4, 4, 3))
        return leaves[-1]

    @minires.fused
    def block(h):
        y = pick([F.conv2d(h, pick(filters), padding=1), F.conv2d(h, pixelwise), h])
        if y is h or rng.random() < 0.4:
            y = F.batch_norm(y, pick(gammas), pick(biases))
        if rng.random() < 0.7:
            y = y + pick([h, x, skip(), skip()])
        return F.relu(y) if rng.random() < 0.6 else y

    steps = [
        *[block] * 4,
        lambda h: F.conv2d(h, pick(filters), pick(biases), padding=1),
        lambda h: F.conv2d(h, depthwise, padding=1, groups=3),
        lambda h: F.batch_norm(h, pick(gammas), pick(biases)),
        lambda h: F.linear(h, pick(weights), pick(biases)),
        lambda h: h + pick([h, x, skip()]),
        lambda h: h + pick(biases),
        lambda h: h @ pick(weights),
        lambda h: h.reshape(2, -1).reshape(h.shape),
    ]
    h, made = x, []
    for _ in range(rng.integers(1, 7)):
        h = pick(steps)(h)
        made.append(h)
    return h, leaves, made


def host_view(array):
    """An array whose memory can be compared with that of others: of the stand-in's what is behind it."""
    return getattr(array, "_array", array)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@only_standin
def test_no_gradient_shares_memory_with_anything(gpu, where):
    taken = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        y, leaves, made = random_program(rng, where)
        upstream = Tensor(rng.standard_normal(y.shape).astype("f4")).to(where).data
        retained = [t for t in made if not t.is_leaf and not getattr(t, "absorbed", False) and rng.random() < 0.3]
        for t in retained:
            t.retain_grad()
        kept = []
        results = [t for t in made if not getattr(t, "absorbed", False)]
        for t in (*leaves, *results):
            if rng.random() < (0.3 if t.is_leaf else 0.7):
                t.register_hook(kept.append)
        for _ in range(rng.integers(1, 3)):
            y.backward(upstream, retain_graph=True)
        grads = [t.grad for t in (*leaves, *retained) if t.grad is not None]
        others = [upstream, *kept, *(t.data for t in (*leaves, *made))]
        for i, grad in enumerate(grads):
            assert grad.flags.c_contiguous
            assert storage(grad).nbytes <= grad.nbytes + 4096  # nothing larger stays alive with it
            for other in (*grads[:i], *others):
                assert not np.shares_memory(host_view(grad), host_view(other)), seed
        taken += len(grads)
    assert taken > 300


@only_standin
def test_a_gradient_that_is_known_to_be_new_is_not_copied(gpu, rng):
    x, w, b = (leaf_there(rng.standard_normal(s)) for s in ((4, 3), (3, 2), (2,)))

    class Doubled(minires.Function):
        fresh = True

        @staticmethod
        def forward(ctx, a):
            return a * 2

        @staticmethod
        def backward(ctx, dy):
            Doubled.returned = dy * 2
            return Doubled.returned

    with standin.counter() as counts:
        F.linear(x, w, b).backward(there(np.ones((4, 2))))
    assert "copy" not in counts.names
    host = Tensor([1.0, 2.0], requires_grad=True)
    Doubled.apply(host).backward([1.0, 1.0])
    assert host.grad is Doubled.returned
    kept = []
    remove = host.register_hook(kept.append)
    host.grad = None
    Doubled.apply(host).backward([1.0, 1.0])
    assert kept[0] is Doubled.returned is not host.grad  # somebody holds it: a copy
    remove()
    host.grad = None
    (Doubled.apply(host) + host).backward([1.0, 1.0])
    assert host.grad.tolist() == [3.0, 3.0]


# -- other libraries --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_dlpack_with_numpy_shares_memory(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    t = minires.from_dlpack(array)
    assert t.dtype == array.dtype
    assert np.shares_memory(t.data, array)
    assert np.array_equal(t.numpy(), array)
    back = np.from_dlpack(t)
    assert np.shares_memory(back, array)
    assert np.array_equal(back, array)


def test_dlpack_with_torch_shares_memory():
    torch = pytest.importorskip("torch")
    theirs = torch.arange(6.0).reshape(2, 3).T
    ours = minires.from_dlpack(theirs)
    theirs[0, 1] = 50
    assert ours[0, 1].item() == 50
    ours += 1
    assert theirs[0, 1] == 51
    layer = nn.Linear(3, 2)
    seen = torch.from_dlpack(layer.weight.detach())
    layer.weight.data[0, 0] = 7
    assert seen[0, 0] == 7
    large = F.relu(Tensor(np.ones((64, 64, 64), "f4")))  # in recycled memory
    seen = torch.from_dlpack(large)
    del large
    assert float(F.relu(Tensor(np.zeros((64, 64, 64), "f4"))).sum().item()) == 0
    assert float(seen.sum()) == 64**3
    for unusable in (torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, requires_grad=True)):
        with pytest.raises(ArgumentError, match="does not give its memory away"):
            minires.from_dlpack(unusable)


def test_dlpack_on_the_gpu_stays_there(gpu):
    t = Tensor([1.0, 2.0]).to("cuda")
    assert t.__dlpack_device__()[0] == 2
    for taken in (minires.from_dlpack(t), Tensor(cupy().from_dlpack(t))):
        assert taken.device == "cuda"
        taken += 1
    assert t.numpy().tolist() == [3.0, 4.0]


def test_dlpack_gives_no_gradient_away():
    with pytest.raises(BufferError, match=r"t\.detach\(\)"):
        np.from_dlpack(Tensor([1.0], requires_grad=True))
    with pytest.raises(ArgumentError, match="list has no __dlpack__"):
        minires.from_dlpack([1.0])
    elsewhere = types.SimpleNamespace(__dlpack__=None, __dlpack_device__=lambda: (8, 0))
    with pytest.raises(DeviceError, match="kind 8"):
        minires.from_dlpack(elsewhere)


# -- no GPU -----------------------------------------------------------------------------------------------------------


class NoCuPy:
    """Makes ``import cupy`` do what a test wants; minires is made to ask again, before and after."""

    def __init__(self, patch, **modules):
        patch.setattr(importlib.metadata, "version", self.version)
        self.wheels, self.imports = {}, 0
        real = arrays.importlib.import_module

        def importing(name):
            if name != "cupy":
                return real(name)
            self.imports += 1
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer

        patch.setattr(arrays.importlib, "import_module", importing)
        self.answer = None

    def version(self, name):
        if name in self.wheels:
            return self.wheels[name]
        raise importlib.metadata.PackageNotFoundError(name)

    def gives(self, answer):
        self.answer = answer
        arrays._forget_cupy()


@pytest.fixture
def no_cupy(monkeypatch):
    yield NoCuPy(monkeypatch)
    monkeypatch.undo()
    arrays._forget_cupy()


def fake(available=False, driver=12040):
    def devices_found():
        raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    def is_available():
        if isinstance(available, Exception):
            raise available
        return available

    runtime = types.SimpleNamespace(driverGetVersion=lambda: driver, getDeviceCount=devices_found)
    return types.SimpleNamespace(
        __version__="14.2.0", cuda=types.SimpleNamespace(is_available=is_available, runtime=runtime)
    )


@pytest.mark.parametrize(
    ("answer", "wheels", "sentence"),
    [
        (
            ModuleNotFoundError("No module named 'cupy'", name="cupy"),
            [],
            r"not installed.*minires\[cuda12\].*minires\[cuda13\]",
        ),
        (
            ModuleNotFoundError("No module named 'fastrlock'", name="fastrlock"),
            [],
            "does not import.*fastrlock.*Reinstall",
        ),
        (
            ImportError("libcudart.so.12: cannot open"),
            ["cupy-cuda12x"],
            "does not import.*libcudart.*matches the driver",
        ),
        (RuntimeError("anything"), [], "does not import: RuntimeError"),
        (SystemExit(3), [], "does not import: SystemExit"),
        (fake(), ["cupy-cuda12x", "cupy-cuda13x"], "two CuPy wheels.*cupy-cuda12x and cupy-cuda13x.*pip uninstall"),
        (fake(driver=0), ["cupy-cuda12x"], "CuPy 14.2.0 imports, but there is no usable NVIDIA driver"),
        (fake(), [], r"no GPU behind the driver for CUDA 12.4 \(cudaErrorNoDevice.*nvidia-smi"),
        (fake(available=OSError("odd")), [], "no usable NVIDIA driver"),
    ],
)
def test_why_there_is_no_gpu(no_cupy, monkeypatch, answer, wheels, sentence):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    no_cupy.wheels = dict.fromkeys(wheels, "14.2.0")
    no_cupy.gives(answer)
    for use in (
        lambda: Tensor([1.0]).to("cuda"),
        lambda: nn.Linear(2, 2).to("cuda"),
        lambda: minires.cuda.synchronize(),
    ):
        with pytest.raises(DeviceError, match=sentence) as caught:
            use()
        if isinstance(answer, BaseException):
            assert caught.value.__cause__ is answer
    assert not minires.cuda.is_available()
    assert re.search(sentence, minires.cuda.problem())
    assert no_cupy.imports == (0 if len(wheels) > 1 else 1)  # asked once
    assert (Tensor([1.0]) + 1).item() == 2


def test_a_hidden_gpu(no_cupy, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    no_cupy.gives(fake())
    assert "CUDA_VISIBLE_DEVICES='' may hide it" in minires.cuda.problem()


def test_ctrl_c_is_not_an_answer(no_cupy):
    no_cupy.gives(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        minires.cuda.is_available()
    no_cupy.answer = RuntimeError("later")
    assert "later" in minires.cuda.problem()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gpu", "there is no device 'gpu'. Write 'cpu', or 'cuda'"),
        ("cuda:1", "CUDA_VISIBLE_DEVICES=1"),
        (None, "no device None"),
    ],
)
def test_a_device_that_does_not_exist(name, sentence):
    for use in (Tensor([1.0]).to, nn.Linear(2, 2).to):
        with pytest.raises(ArgumentError, match=re.escape(sentence)):
            use(name)


def test_importing_minires_imports_no_cupy():
    done = run_program("import sys, minires, minires.cli; print('cupy' in sys.modules)")
    assert done.stdout.split() == ["False"]


@only_standin
def test_what_the_gpu_is(gpu, capsys):
    assert minires.cuda.is_available()
    assert minires.cuda.problem() is None
    found = minires.cuda.properties()
    assert found.keys() == {"name", "compute_capability", "memory", "driver", "runtime", "cupy"}
    assert re.fullmatch(r"\d+\.\d", found["compute_capability"])
    used, _ = minires.cuda.memory_in_use()
    t = Tensor(np.zeros(1 << 20, "f4")).to("cuda")
    assert minires.cuda.memory_in_use()[0] >= used + (4 << 20)
    del t
    minires.cuda.empty_cache()
    assert minires.cuda.memory_in_use() == (used, 0)
    minires.cuda.synchronize()
