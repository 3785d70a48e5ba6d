"""Modules: what is registered under which name, saved, loaded, switched, hooked and copied."""

import copy
import functools

import numpy as np
import pytest

import minires
from minires import Tensor, nn, tensor
from minires import functional as F
from minires.errors import ArgumentError, CheckpointError, GraphError


class Block(nn.Module):
    """Parameters, buffers and modules, on purpose not in the order of kinds; and no call of super().__init__()."""

    def __init__(self):
        self.linear = nn.Linear(3, 4)
        self.scale = nn.Parameter(np.ones(4, np.float32))
        self.register_buffer("steps", np.zeros((), np.int64))
        self.norm = nn.BatchNorm2d(4)
        self.name = "a plain attribute"
        self.shift = nn.Parameter(np.zeros(4, np.float32), requires_grad=False)

    def forward(self, x, twice=False):
        y = self.norm(self.linear(x)) * self.scale + self.shift
        return y * 2 if twice else y


@pytest.fixture
def net():
    minires.manual_seed(7)
    return nn.Sequential(Block(), nn.ReLU(), nn.Sequential(nn.Linear(4, 2, bias=False), nn.Dropout(0.5)))


def kinds(modules):
    return [(name, type(module).__name__) for name, module in modules]


# -- names ------------------------------------------------------------------------------------------------------------


def test_everything_is_found_in_the_order_of_assignment(net):
    assert [n for n, _ in net.named_parameters()] == [
        "0.scale", "0.shift", "0.linear.weight", "0.linear.bias", "0.norm.gamma", "0.norm.beta", "2.0.weight",
    ]  # fmt: skip
    assert [n for n, _ in net.named_buffers()] == ["0.steps", "0.norm.running_mean", "0.norm.running_var"]
    assert kinds(net.named_modules()) == [
        ("", "Sequential"), ("0", "Block"), ("0.linear", "Linear"), ("0.norm", "BatchNorm2d"), ("1", "ReLU"),
        ("2", "Sequential"), ("2.0", "Linear"), ("2.1", "Dropout"),
    ]  # fmt: skip
    assert kinds(net.named_children()) == [("0", "Block"), ("1", "ReLU"), ("2", "Sequential")]
    assert [m for _, m in net.named_modules()] == list(net.modules())
    assert [p for _, p in net.named_parameters()] == list(net.parameters())
    assert net[0].name == "a plain attribute"


def test_a_shared_parameter_is_found_saved_and_learned_once():
    a, b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    b.weight = a.weight
    net = nn.Sequential(a, b, a)
    assert [n for n, _ in net.named_parameters()] == ["0.weight"]
    assert list(net.state_dict()) == ["0.weight"]
    net.load_state_dict({"0.weight": np.eye(3)})
    net(tensor([[1.0, 2.0, 3.0]])).sum().backward()
    assert b.weight.grad is a.weight.grad
    np.testing.assert_array_equal(a.weight.grad, 3 * np.array([[1, 1, 1], [2, 2, 2], [3, 3, 3]]))


def test_attributes_can_be_replaced_and_deleted(net):
    block = net[0]
    new = nn.Linear(3, 4)
    block.linear = new
    assert block.linear is new
    block.scale = None  # a parameter becomes a plain attribute, ...
    assert block.scale is None
    assert "scale" not in dict(block.named_parameters())
    block.scale = nn.Parameter([2.0])  # ... and one again
    assert "scale" in dict(block.named_parameters())
    block.shift = nn.Identity()  # even a module
    assert "shift" not in dict(block.named_parameters())
    assert isinstance(dict(block.named_children())["shift"], nn.Identity)
    block.steps = tensor(5)  # a buffer stays one
    assert block.steps.item() == dict(block.named_buffers())["steps"].item() == 5
    for name in ("linear", "scale", "steps", "name"):
        delattr(block, name)
        assert not hasattr(block, name)
    assert {n for n, _ in block.named_parameters()} == {"norm.gamma", "norm.beta"}


def test_its_own_without_those_inside():
    outer = nn.Sequential(nn.BatchNorm2d(3))
    outer.scale = nn.Parameter([2.0])
    outer.again = outer.scale
    outer.register_buffer("seen", np.zeros(1))
    assert [name for name, _ in outer.named_parameters(recurse=False)] == ["scale"]
    assert list(outer.parameters(recurse=False)) == [outer.scale]
    assert [name for name, _ in outer.named_buffers(recurse=False)] == ["seen"]
    assert [name for name, _ in outer.named_buffers()] == ["seen", "0.running_mean", "0.running_var"]


def test_the_place_in_the_order_is_that_of_the_assignment():
    module = nn.Module()
    module.a, module.b, module.c = nn.Parameter([1.0]), nn.Parameter([2.0]), nn.Parameter([3.0])
    module.b = nn.Parameter([4.0])
    module.a = None
    assert [name for name, _ in module.named_parameters()] == ["b", "c"]
    module.a = nn.Parameter([5.0])
    assert [name for name, _ in module.named_parameters()] == ["b", "c", "a"]
    del module.b
    assert [name for name, _ in module.named_parameters()] == ["c", "a"]
    assert not hasattr(module, "b")


def test_what_python_keeps_itself_is_not_a_module_of_this_one():
    class Net(nn.Module):
        @functools.cached_property
        def teacher(self):
            return nn.Linear(2, 3)

    net = Net()
    assert net.teacher is net.teacher
    assert list(net.modules()) == [net]


def test_a_shallow_copy_has_the_same_parameters_and_registers_on_its_own():
    net = Block()
    names = [name for name, _ in net.named_parameters()]
    other = copy.copy(net)
    assert [p for _, p in other.named_parameters()] == [p for _, p in net.named_parameters()]
    other.extra = nn.Parameter([1.0])
    del other.scale
    other.register_forward_hook(lambda *_: pytest.fail("a hook of the copy"))
    assert [name for name, _ in net.named_parameters()] == names
    net(Tensor(np.ones((2, 3), np.float32)))


def test_a_property_may_stand_before_a_parameter():
    class Normed(nn.Linear):
        @property
        def weight(self):
            return self.direction / (self.direction**2).sum().sqrt()

        def __init__(self):
            super().__init__(2, 3)
            del self.weight
            self.direction = nn.Parameter(np.ones((2, 3), np.float32))

    layer = Normed()
    assert [name for name, _ in layer.named_parameters()] == ["bias", "direction"]
    np.testing.assert_allclose(layer.weight.numpy(), np.full((2, 3), 6**-0.5), rtol=1e-6)

    class Late(nn.Module):
        @property
        def scale(self):
            raise AttributeError

    late = Late()
    late.scale = nn.Parameter([2.0])
    assert late.scale is next(late.parameters())


@pytest.mark.parametrize("name", ["train", "apply", "forward", "named_modules"])
def test_what_would_hide_a_method_is_refused(name):
    module = nn.Module()
    with pytest.raises(AttributeError, match=rf"Module.{name}: that is a method of every module, which a Linear of"):
        setattr(module, name, nn.Linear(1, 1))
    assert list(module.modules()) == [module]


def test_what_is_done_behind_its_back_is_not_a_parameter():
    net = Block()
    object.__setattr__(net, "scale", None)
    del net.__dict__["shift"]
    names = {name for name, _ in net.named_parameters()}
    assert names == set(net.state_dict()) - {n for n, _ in net.named_buffers()}
    assert not names & {"scale", "shift"}


def test_an_unknown_attribute_is_an_error_with_a_suggestion(net):
    with pytest.raises(AttributeError, match=r"Linear has no attribute 'wieght'. Did you mean 'weight'\?"):
        net[2][0].wieght  # noqa: B018
    with pytest.raises(AttributeError, match=r"Block has no attribute 'zzz'\.$"):
        net[0].zzz  # noqa: B018
    with pytest.raises(AttributeError):
        del net[0].zzz


@pytest.mark.parametrize("several", [[nn.ReLU()], (nn.ReLU(), 1), [nn.Parameter([1.0])]])
def test_a_plain_list_of_modules_is_refused(several):
    with pytest.raises(TypeError, match=r"ReLU.layers: the modules in a plain (list|tuple) .*Use nn.Sequential"):
        nn.ReLU().layers = several


def test_sequential(net):
    assert len(net) == 3
    assert [type(m).__name__ for m in net] == ["Block", "ReLU", "Sequential"]
    assert net[-1] is net[2]
    assert list(net[1:]) == [net[1], net[2]]
    assert isinstance(net[:2], nn.Sequential)
    x = tensor([[1.0, 2.0, 3.0]])
    assert nn.Sequential()(x) is x
    with pytest.raises(TypeError, match="Sequential: argument 1 is function, not a Module"):
        nn.Sequential(nn.ReLU(), F.relu)


def test_repr_shows_the_tree():
    net = nn.Sequential(nn.Conv2d(3, 8, (3, 1), padding=1, groups=1, bias=False), nn.Sequential(nn.Linear(2, 3)))
    assert repr(net) == (
        "Sequential(\n"
        "  (0): Conv2d(3, 8, kernel_size=(3, 1), stride=(1, 1), padding=(1, 1), bias=False)\n"
        "  (1): Sequential(\n"
        "    (0): Linear(2, 3)\n"
        "  )\n"
        ")"
    )
    assert repr(nn.BatchNorm2d(4)) == "BatchNorm2d(4, eps=1e-05, momentum=0.1)"
    assert "dilation=(2, 2), groups=2" in repr(nn.Conv2d(2, 4, 3, dilation=2, groups=2))
    assert repr(nn.Dropout(0.2)) == "Dropout(p=0.2)"


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Module has no forward method"):
        nn.Module()(1)


# -- state ------------------------------------------------------------------------------------------------------------


def test_state_goes_out_as_copies_and_comes_back(net):
    state = net.state_dict()
    assert all(type(a) is np.ndarray for a in state.values())
    net(tensor(np.random.default_rng(0).standard_normal((5, 3)), dtype="float32"))  # moves the running statistics
    with minires.no_grad():
        for p in net.parameters():
            p += 1.0
    changed = net.state_dict()
    assert not any(np.array_equal(state[n], changed[n]) for n in state if n != "0.steps")
    net.load_state_dict(state)
    for name, array in net.state_dict().items():
        assert np.array_equal(array, state[name])
        assert array.dtype == state[name].dtype
    net[0].scale.data[0] = 99
    assert state["0.scale"][0] == 1  # nor does loading share memory


def test_a_state_of_another_model_is_refused_whole(net):
    before = net.state_dict()
    wrong = {n: a + 1 for n, a in before.items()}
    wrong["0.scale"] = np.zeros(5)
    wrong["extra"] = wrong.pop("0.norm.running_var")
    with pytest.raises(CheckpointError) as caught:
        net.load_state_dict(wrong)
    for problem in ("of another model than Sequential", "missing 0.norm.running_var", "unknown extra",
                    "0.scale is (5,) here and (4,) in the model"):  # fmt: skip
        assert problem in str(caught.value)
    with pytest.raises(CheckpointError, match=r"missing .*; and 5 more\."):
        net.load_state_dict({})
    with pytest.raises(CheckpointError, match=r"2.0.weight holds <U1, not numbers"):
        net.load_state_dict(wrong | before | {"2.0.weight": np.full((4, 2), "a")})
    assert all(np.array_equal(before[n], a) for n, a in net.state_dict().items())  # nothing was changed


def test_loading_converts_the_dtype_and_is_seen_by_open_graphs():
    layer = nn.Linear(2, 2)
    y = layer(tensor([[1.0, 2.0]], requires_grad=True)).sum()
    other = nn.Linear(2, 2).astype("float64")
    layer.load_state_dict(dict(other.named_parameters()))  # tensors do as well as arrays
    assert layer.weight.dtype == np.float32
    assert np.allclose(layer.weight.numpy(), other.weight.numpy())
    with pytest.raises(GraphError, match="changed in place"):
        y.backward()


def test_a_deep_copy_is_a_model_of_its_own(net):
    twin = copy.deepcopy(net)
    assert all(np.array_equal(a, twin.state_dict()[n]) for n, a in net.state_dict().items())
    ours, theirs = list(net.parameters()), list(twin.parameters())
    assert not any(a is b or np.shares_memory(a.data, b.data) for a in ours for b in theirs)
    assert [p.requires_grad for p in ours] == [p.requires_grad for p in theirs]
    shared = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    shared[1].weight = shared[0].weight
    twin = copy.deepcopy(shared)
    assert twin[1].weight is twin[0].weight


def test_astype_keeps_hooks_and_refuses_what_has_no_gradients(net):
    calls = []
    weight = next(net.parameters())
    weight.register_hook(lambda g: calls.append(g.dtype))
    before = [p.dtype for p in net.parameters()]
    with pytest.raises(ArgumentError, match="astype: expected a dtype of floating point, got int32"):
        net.astype("int32")
    assert [p.dtype for p in net.parameters()] == before
    net.astype("float64")
    weight.sum().backward()
    assert calls == [np.float64]
    assert weight.requires_grad


def test_apply_visits_a_module_that_stands_in_two_places_once():
    layer, visited = nn.ReLU(), []
    both = nn.Sequential(layer, nn.Sequential(layer))
    both.apply(visited.append)
    assert visited == [layer, both[1], both]


def test_a_buffer_does_not_hide_a_method():
    with pytest.raises(AttributeError, match="train: that is a method of every module, which a buffer"):
        nn.Module().register_buffer("train", np.zeros(1))


def test_astype_converts_all_that_is_floating(net):
    x = np.random.default_rng(0).standard_normal((5, 3))
    assert net.astype("float64") is net
    assert {t.dtype.name for t in net.parameters()} == {"float64"}
    assert {n: t.dtype.name for n, t in net.named_buffers()}["0.steps"] == "int64"
    assert [p.requires_grad for p in net[0].parameters()] == [True, False, True, True, True, True]
    assert net(Tensor(x)).dtype == np.float64
    assert all(isinstance(p, nn.Parameter) for p in net.parameters())


# -- switches and hooks -----------------------------------------------------------------------------------------------


def test_train_and_eval_reach_every_module(net):
    assert all(m.training for m in net.modules())
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net[0].train()
    assert [m.training for m in net.modules()] == [False, True, True, True, False, False, False, False]
    net.train()
    assert all(m.training for m in net.modules())


def test_apply_goes_from_the_inside_out(net):
    visited = []
    assert net.apply(lambda m: visited.append(type(m).__name__)) is net
    assert visited == ["Linear", "BatchNorm2d", "Block", "ReLU", "Linear", "Dropout", "Sequential", "Sequential"]


def test_freezing_and_forgetting(net):
    x = tensor(np.random.default_rng(0).standard_normal((5, 3)), dtype="float32")
    net.requires_grad_(False)
    assert not net(x).requires_grad
    net.requires_grad_()
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_options_of_forward_are_passed_on(net):
    x = tensor(np.random.default_rng(0).standard_normal((5, 3)), dtype="float32")
    assert np.array_equal(net[0](x, twice=True).numpy(), 2 * net[0](x).numpy())


def test_forward_hooks_see_replace_and_go():
    layer, calls = nn.ReLU(), []
    remove_first = layer.register_forward_hook(lambda m, inputs, output: calls.append((m, inputs, output)))
    remove = layer.register_forward_hook(lambda m, inputs, output: output + 1)
    x = tensor([-1.0, 2.0])
    y = layer(x)
    assert y.numpy().tolist() == [1, 3]
    ((module, inputs, output),) = calls
    assert module is layer
    assert inputs == (x,)
    assert output.numpy().tolist() == [0, 2]
    remove()
    remove()
    assert layer(x).numpy().tolist() == [0, 2]
    assert len(calls) == 2
    remove_first()
    layer(x)
    assert len(calls) == 2


def test_an_array_given_to_a_buffer_stays_a_buffer():
    norm = nn.BatchNorm2d(3)
    norm.running_mean = np.full(3, 2.0, np.float32)
    assert list(dict(norm.named_buffers())) == ["running_mean", "running_var"]
    np.testing.assert_array_equal(norm.state_dict()["running_mean"], [2, 2, 2])


def test_a_dict_of_modules_is_refused():
    with pytest.raises(TypeError, match="plain dict would not be found"):
        nn.Sequential().paths = {"skip": nn.Identity()}


def test_a_module_used_twice_is_one_module():
    class Twice(nn.Module):
        def __init__(self):
            self.a = nn.Conv2d(3, 3, 1, bias=False)
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x))

    model = Twice()
    assert [name for name, _ in model.named_modules()] == ["", "a"]
    found = minires.inspect.summary(model, (4, 4, 3))
    assert len(found.rows) == 2
    assert found.multiply_adds == 2 * 16 * 9


def test_a_property_that_fails_says_so():
    class Broken(nn.Module):
        @property
        def width(self):
            return self.missing

    with pytest.raises(AttributeError, match="the property itself met an unknown"):
        Broken().width  # noqa: B018
