"""Every kernel compiles for every kind of card without a warning, and keeps to its registers and its shared memory."""

import re

import pytest

from minires.kernels.cuda import module
from tests.gpu import emulator, nvrtc

pytestmark = [
    pytest.mark.host_only,
    pytest.mark.skipif(
        not nvrtc.available(), reason="needs the wheel nvidia-cuda-nvrtc (pip install nvidia-cuda-nvrtc)"
    ),
]

ARCHITECTURES = ("sm_80", "sm_90", "sm_120")
MOST_SHARED = 48 << 10  # bytes that a block may have without asking for more

# None: the kernels that are no convolutions.  Without tensor cores for these formats a card gets no more than fp32.
CASES = [(part, architecture) for part in (None, *module.PRECISIONS) for architecture in ARCHITECTURES]
CASES += [(None, "sm_75"), ("fp32", "sm_75")]


@pytest.mark.parametrize(("part", "architecture"), CASES)
def test_kernels_compile_and_do_not_spill(part, architecture):
    code = module.source(part)
    report = nvrtc.compile(code, architecture)
    assert report.complaints == ""
    assert report.kernels
    assert {name: kernel for name, kernel in report.kernels.items() if kernel.spilled or kernel.stack} == {}
    assert {name: kernel for name, kernel in report.kernels.items() if kernel.shared > MOST_SHARED} == {}


@pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++ with C++20")
@pytest.mark.parametrize("part", [None, "fp32"])
def test_the_emulator_knows_the_same_kernels(part):
    code = module.source(part)
    assert emulator.compile(code).names == sorted(nvrtc.compile(code, "sm_90").kernels)


SPILLS = r"""
extern "C" __global__ void __launch_bounds__(1024) spills(float* x) {
    float all[128];
    for (int i = 0; i < 128; i++) all[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
    for (int i = 0; i < 128; i++) x[i * 1024 + threadIdx.x] = all[i] * all[127 - i];
}
extern "C" __global__ void keeps(float* x) {
    __shared__ float some[128];
    some[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = some[127 - threadIdx.x];
}
"""


def test_a_kernel_that_spills_is_found():
    report = nvrtc.compile(SPILLS, "sm_90")
    assert sorted(report.kernels) == ["keeps", "spills"]
    assert report.kernels["spills"].spilled > 0
    assert report.kernels["spills"].registers <= 64
    assert (report.kernels["keeps"].spilled, report.kernels["keeps"].shared) == (0, 512)
    assert report.complaints == ""


def test_a_warning_is_found():
    report = nvrtc.compile('extern "C" __global__ void f(int* x) { int unused; x[0] = 1; }', "sm_80")
    assert re.search(r'kernels\.cu\(1\): warning .*"unused"', report.complaints)
    assert list(report.kernels) == ["f"]


def test_an_error_is_raised_with_its_line():
    with pytest.raises(nvrtc.CompileError, match=r'kernels\.cu\(2\): error: .*"nonsense"'):
        nvrtc.compile('\nextern "C" __global__ void f() { nonsense(); }', "sm_80")


def test_a_block_with_too_much_shared_memory_is_an_error():
    text = 'extern "C" __global__ void f(int* x) { __shared__ int a[12289]; a[*x] = 1; __syncthreads(); *x = a[1]; }'
    with pytest.raises(nvrtc.CompileError, match="49156 bytes smem"):
        nvrtc.compile(text, "sm_80")
