"""Fixtures that every test file shares."""

import gc

import numpy as np
import pytest

import minires
from minires.cli import main
from minires.tensor.modes import modes


@pytest.fixture
def rng():
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20151210)  # the day arXiv 1512.03385 appeared


@pytest.fixture(params=["numpy", "reference"])
def kernels(request):
    """Run the test with each set of kernels."""
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
    assert (modes.may_fuse, modes.fusing, modes.anomaly) == (True, False, False)
    assert minires.get_num_threads() == threads
    assert minires.kernels.active() is minires.kernels.KERNELS["numpy"]


@pytest.fixture
def bench(capsys, tmp_path, monkeypatch):
    """Run `minires bench` in an empty folder: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        try:
            status = main(["bench", *map(str, arguments)])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
