"""The devices that the suite runs on: the CPU, the stand-in for CuPy, and a GPU if there is one.

On the last two every new tensor is put on the device, so a test need not say where its tensors are: `minires.tensor(x)`
is there, and so is the plain array ``here(x)``.  `np.testing` looks at arrays on the device through a copy.
"""

import contextlib
import gc
import importlib
import sys

import numpy as np
import pytest

from minires import Tensor
from minires.backend import arrays, asnumpy, cupy, cupy_problem, on_gpu
from minires.kernels.cuda import module as compiled
from tests.gpu import emulator, standin

MISSING = {  # devices that cannot be had here, and why
    "standin": None if emulator.available() else "there is no C++20 compiler to compile CUDA text with",
    "cuda": cupy_problem(),
}
KERNELS = {  # by device, the default set first
    "cpu": ("numpy", "reference"),
    **{name: ("cuda-implicit", "cuda-im2col") for name, problem in MISSING.items() if problem is None},
}
MARKS = {"cuda": pytest.mark.gpu}
_ENTRIES = 6
_COMPARE = ("assert_allclose", "assert_array_equal", "assert_array_less", "assert_equal")


def parameters(with_kernels):
    """The devices, each with each set of kernels for it if so wished, as parameters of a test."""
    if with_kernels:
        return [pytest.param(n, k, marks=MARKS.get(n, ()), id=f"{n}-{k}") for n, sets in KERNELS.items() for k in sets]
    return [pytest.param(n, marks=MARKS.get(n, ()), id=n) for n in KERNELS]


def here(value):
    """What was made on the host, on the device of the test: plain arrays, tensors, tuples of them."""
    if isinstance(value, tuple):
        return tuple(map(here, value))
    if isinstance(value, Tensor):
        return Tensor(value.data)
    return Tensor(value).data if isinstance(value, np.ndarray) else value


def affordable(number, on_the_stand_in):
    """How often to do something: less often on the stand-in, which takes its time."""
    return on_the_stand_in if sys.modules.get("cupy") is standin.module else number


def tensors_on_the_gpu(patch):
    """Put what a tensor is made of, set to or differentiated with on the GPU; let `np.testing` see what is there."""
    initialise, backward, data = Tensor.__init__, Tensor.backward, Tensor.data

    def on_the_gpu(self, data, requires_grad=False, dtype=None):
        initialise(self, data, dtype=dtype)
        self._data = _moved(self._data)
        if requires_grad:
            self.requires_grad_()

    patch.setattr(Tensor, "__init__", on_the_gpu)
    patch.setattr(
        Tensor, "backward", lambda self, grad=None, *more, **named: backward(self, _moved(grad), *more, **named)
    )
    patch.setattr(Tensor, "data", property(data.fget, lambda self, value: data.fset(self, _moved(value))))
    for name in _COMPARE:
        patch.setattr(np.testing, name, _with_copies(getattr(np.testing, name)))


def few_entries(patch):
    """Measure a handful of entries of each input in a gradcheck: each takes two passes, and the stand-in is slow."""
    examine = importlib.import_module("minires.gradcheck.examine")
    measure = examine.check_input

    def fewer(name, probe, gradient, rng, rtol, entries, zero, method):
        return measure(name, probe, gradient, rng, rtol, min(entries or _ENTRIES, _ENTRIES), zero, method)

    patch.setattr(examine, "check_input", fewer)


def _moved(value):
    return cupy().asarray(value) if isinstance(value, np.ndarray) else value


def _with_copies(compare):
    return lambda *args, **options: compare(*map(_host, args), **options)


def _host(value):
    if isinstance(value, list | tuple):
        return type(value)(map(_host, value))
    return asnumpy(value) if on_gpu(value) else value


@contextlib.contextmanager
def stand_in(request):
    """minires' GPU is the stand-in; after the test nothing is left in its memory."""
    before, failed = standin.memory_in_use(), request.session.testsfailed
    standin.install()
    forget()
    yield
    forget()
    standin.uninstall()
    arrays._forget_cupy()
    request.node.funcargs.clear()  # what other fixtures made for the test
    if standin.memory_in_use() > before:
        gc.collect()
    if request.session.testsfailed == failed:  # otherwise a traceback keeps what it shows
        assert standin.memory_in_use() <= before, "the test left arrays on the device"


def forget():
    """Nothing that minires keeps of one CuPy may meet another."""
    arrays._forget_cupy()
    compiled.forget()
    for name in ("norm", "im2col", "implicit"):  # tables and counters on the device
        for value in vars(importlib.import_module(f"minires.kernels.cuda.{name}")).values():
            getattr(value, "cache_clear", lambda: None)()
