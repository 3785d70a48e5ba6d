"""For tests that use the CPU and a GPU, side by side."""

import pytest

from .. import devices


@pytest.fixture(params=devices.parameters(with_kernels=False)[1:])
def gpu(request):
    """A GPU, "standin" or "cuda", beside the CPU: tensors are where the test puts them."""
    if request.param == "cuda":
        yield request.param
        return
    with devices.stand_in(request):
        yield request.param
