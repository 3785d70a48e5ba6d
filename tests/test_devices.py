"""The fixtures `device` and `kernels` do what the rest of the suite relies on."""

from types import SimpleNamespace

import numpy as np
import pytest

import minires
from minires import nn, tensor
from minires.kernels import KERNELS

from . import devices
from .devices import here
from .gpu import standin


def test_everything_is_on_the_device_of_the_test(device):
    layer, x = nn.Linear(3, 2), tensor(np.ones((4, 3)), requires_grad=True, dtype="float32")
    y = layer(x)
    y.backward(np.ones(y.shape))
    layer.bias.data = np.ones(2)
    for t in (x, y, *layer.parameters(), *nn.BatchNorm2d(3).parameters(), here(tensor([1, 2])), tensor(3)):
        assert t.device == device
    kinds = {type(a) for a in (x.grad, layer.weight.grad, layer.bias.data, here(np.ones(2)), here((np.ones(()),))[0])}
    assert kinds == {type(x.data)}
    np.testing.assert_allclose(layer.bias.grad, [4, 4])
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(layer.bias.grad, [4, 5])


def test_the_kernels_asked_for_compute(device, kernels):
    assert minires.kernels.active(here(np.ones(1))) is KERNELS[kernels]
    assert kernels.startswith("cuda") == (device == "cuda")


@pytest.mark.host_only("it is about the stand-in")
@pytest.mark.parametrize("failed", [0, 1])
def test_an_array_that_a_test_leaves_on_the_stand_in_is_noticed(failed):
    session = SimpleNamespace(testsfailed=0)
    request, left = SimpleNamespace(session=session, node=SimpleNamespace(funcargs={})), []
    used = devices.stand_in(request)
    used.__enter__()
    left.append(standin.module.ones(3))
    session.testsfailed = failed
    if failed:  # its traceback may hold them
        used.__exit__(None, None, None)
    else:
        with pytest.raises(AssertionError, match="left arrays on the device"):
            used.__exit__(None, None, None)
