"""Fixtures that every test file shares."""

import numpy as np
import pytest

import minires


@pytest.fixture
def rng():
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20151210)  # the day arXiv 1512.03385 appeared


@pytest.fixture(params=["numpy", "reference"])
def kernels(request):
    """Run the test with each set of kernels."""
    with minires.use_kernels(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def no_leaked_switches():
    """Fail a test that leaves a switch of the engine in another position."""
    yield
    assert minires.is_grad_enabled()
    assert minires.kernels.active() is minires.kernels.KERNELS["numpy"]
