"""Fixtures that every test file shares."""

import contextlib
import gc

import numpy as np
import pytest

import minires
from minires.cli import main
from minires.tensor.modes import modes
from tests import devices


def pytest_report_header():
    """Say which devices the suite runs on."""
    missing = [f"not on {name}: {problem}" for name, problem in devices.MISSING.items() if problem]
    return [f"devices: {', '.join(devices.KERNELS)}", *missing]


def pytest_generate_tests(metafunc):
    """Run every test on every device, and those that ask for `kernels` with every set of every device."""
    test = metafunc.definition
    given = {name for mark in test.iter_markers("parametrize") for name in _names(mark.args[0])}
    with_kernels = "kernels" in metafunc.fixturenames
    # those in tests/gpu and tests/lessons choose their device themselves
    only_host = test.get_closest_marker("host_only") is not None or test.path.parent.name in ("gpu", "lessons")
    if "device" not in given and (with_kernels or not only_host):
        names = ["device", "kernels"] if with_kernels else ["device"]
        metafunc.parametrize(names, devices.parameters(with_kernels), indirect=True)


def _names(names):
    return [n.strip() for n in names.split(",")] if isinstance(names, str) else names


@pytest.fixture(autouse=True)
def device(request):
    """Run the test with all its tensors on a device, "cpu" or "cuda": the stand-in for CuPy is one as well."""
    name = getattr(request, "param", "cpu")
    if name == "cpu":
        yield "cpu"
        return
    only_host = request.node.get_closest_marker("host_only")
    if only_host and "kernels" not in request.fixturenames:  # of one parameter of the test
        pytest.skip(only_host.args[0])
    gpu = devices.stand_in(request) if name == "standin" else contextlib.nullcontext()
    with gpu, pytest.MonkeyPatch.context() as patch:
        devices.tensors_on_the_gpu(patch)
        if name == "standin":
            devices.few_entries(patch)
        yield "cuda"


@pytest.fixture
def rng():
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20151210)  # the day arXiv 1512.03385 appeared


@pytest.fixture
def kernels(device, request):
    """Run the test with each set of kernels that its device has."""
    with minires.use_kernels(request.param):
        yield request.param


@pytest.fixture
def without_collector():
    """Whatever dies here dies by reference counting alone."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def no_leaked_switches():
    """Fail a test that leaves a switch of the engine in another position."""
    threads = minires.get_num_threads()
    yield
    assert minires.is_grad_enabled()
    assert (modes.may_fuse, modes.fusing, modes.anomaly, modes.tape) == (True, False, False, None)
    assert minires.get_num_threads() == threads
    assert minires.kernels.chosen() == ("numpy", "cuda-implicit")


@pytest.fixture
def bench(capsys, tmp_path, monkeypatch):
    """Run `minires bench` in an empty folder: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minires.bench.machine.keep_freed_memory", lambda: False)  # nothing would undo it

    def call(*arguments):
        try:
            status = main(["bench", *map(str, arguments)])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
