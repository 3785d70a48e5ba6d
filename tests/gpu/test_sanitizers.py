"""The CUDA text under ThreadSanitizer and AddressSanitizer: no races within a block, nothing past the end of an array.

Every CUDA thread is a thread of the system, in a Python that has the sanitizer's library loaded from the start.  Run as
`python -m tests.gpu.test_sanitizers thread fp32` this file is what that Python does.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minires.kernels.cuda import module
from tests.gpu import emulator, standin

_REPOSITORY = Path(__file__).parents[2]
_LIBRARIES = {
    "thread": ("libtsan.so",),
    "address": ("libasan.so", "libstdc++.so"),
}  # the last so that it can be watched


def _problem(sanitizer):
    """Why it cannot be used here, or None."""
    if not emulator.available() or shutil.which("g++") is None:
        return "needs g++"
    missing = [
        name for name, path in zip(_LIBRARIES[sanitizer], _libraries(sanitizer), strict=True) if not path.exists()
    ]
    return f"needs {', '.join(missing)} of g++" if missing else None


def _libraries(sanitizer):
    found = (["g++", f"-print-file-name={name}"] for name in _LIBRARIES[sanitizer])
    return [
        Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()) for command in found
    ]


def _run(sanitizer, *arguments):
    """This file in a Python of its own: exit status and what it said."""
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(map(str, _libraries(sanitizer))),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__, sanitizer, *map(str, arguments)], cwd=_REPOSITORY, env=environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this sanitizer cannot live with how this kernel places memory (vm.mmap_rnd_bits)")
    return done.returncode, done.stdout + done.stderr


pytestmark = [pytest.mark.host_only]


@pytest.fixture(params=list(_LIBRARIES))
def sanitizer(request):
    if problem := _problem(request.param):
        pytest.skip(problem)
    return request.param


@pytest.mark.parametrize("part", ["others", "fp32", "tf32", "bf16", "fp16"])
def test_kernels(sanitizer, part):
    status, said = _run(sanitizer, part)
    assert (status, said) == (0, "")


FAULTS = {
    # name: (sanitizer, what it says, a statement of the kernel that is put in place of another)
    "a missing barrier": ("thread", r"ThreadSanitizer: data race", ("__syncthreads();", "")),
    "past the end of a shared array": (
        "address",
        r"load of address .* insufficient space|global-buffer-overflow",
        ("[63 - t]", "[64 - t]"),
    ),
    "past the end of a shared array's row": ("address", r"index 8 out of bounds", ("[7 - t % 8]", "[8 - t % 8]")),
    "before an array": ("address", r"heap-buffer-overflow", ("= x[t]", "= x[t - 1]")),
    "past the end of an array": ("address", r"heap-buffer-overflow", (" y[t] =", " y[t + 1] =")),
    "a sum too large for an int": ("address", r"signed integer overflow", ("t + 1", "t + 2147483647")),
    "a crooked address": ("address", r"misaligned address", ("x + 4 * t", "x + 4 * t + 1")),
}
SOUND = r"""
template <class T> __device__ void turn(const T* x, T* y) {
    __shared__ T memory[64];
    __shared__ T rows[8][8];
    const int t = threadIdx.x;
    memory[t] = x[t];
    __syncthreads();
    const T* const all = memory;
    rows[t / 8][t % 8] = all[63 - t];
    __syncwarp();
    y[t] = rows[t / 8][7 - t % 8] + (t + 1);
    if (t < 8) {
        const float4 four = *(const float4*)(x + 4 * t);
        y[t] += four.x;
    }
}
extern "C" __global__ void turn_float(const float* x, float* y) { turn(x, y); }
"""


def test_a_sound_kernel_passes(sanitizer):
    assert _run(sanitizer, "turn") == (0, "")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault):
    sanitizer, expected, (good, bad) = FAULTS[fault]
    if problem := _problem(sanitizer):
        pytest.skip(problem)
    assert good in SOUND
    status, said = _run(sanitizer, "turn", good, bad)
    assert status != 0
    assert re.search(expected, said)


def test_a_barrier_missing_from_a_real_kernel_is_found():
    if problem := _problem("thread"):
        pytest.skip(problem)
    wait = "copy_async_wait<STAGES - 2>();"
    good = f"{wait}\n        __syncthreads();"
    assert good in module.source("fp32")
    status, said = _run("thread", "fp32", good, wait)
    assert status != 0
    assert re.search("ThreadSanitizer: data race", said)


# -- the other Python -------------------------------------------------------------------------------------------------

# N, H, W, C, O, kernel, stride, padding, dilation, groups: every width of a block, blocks that are not full, channels
# that do not come in fours, strides with classes of pixels, groups
CASES = [
    (1, 7, 5, 3, 6, 3, 1, 1, 1, 1),
    (2, 6, 7, 8, 20, 3, 2, 1, 1, 1),
    (1, 5, 9, 36, 68, 1, 1, 0, 1, 1),
    (1, 6, 5, 24, 10, 3, 1, 2, 2, 2),
    (1, 3, 7, 20, 24, 2, 1, 0, 1, 1),
]


def _arrays(*shapes, dtype=np.float32):
    import cupy

    rng = np.random.default_rng(7)
    return [cupy.asarray(rng.standard_normal(shape).astype(dtype)) for shape in shapes]


def _convolutions(precision):
    from minires.kernels.cuda import implicit, use_precision

    with use_precision(precision):
        for n, height, width, channels, out, kernel, stride, padding, dilation, groups in CASES:
            window = (stride, stride), (padding, padding), (dilation, dilation), groups
            x, w, b = _arrays((n, height, width, channels), (kernel, kernel, channels // groups, out), (out,))
            y, *_ = implicit.conv2d_moments(x, w, None, *window)
            implicit.conv2d(x, w, b, *window, residual=y, relu=True)
            implicit.conv2d_backward(y, x, w, x.shape, w.shape, *window)


def _others():
    from minires.kernels.cuda import augment, im2col, implicit

    for dtype in (np.float32, np.float64):
        x, w, dy = _arrays((2, 5, 7, 6), (3, 2, 6, 5), (2, 5, 6, 5), dtype=dtype)
        window = (1, 1), (1, 0), (1, 1), 1
        im2col.conv2d(x, w, None, *window)
        im2col.conv2d_backward(dy, x, w, x.shape, w.shape, *window)
        implicit.relu_dx(x, x)
        implicit.channel_sum(_arrays((1100, 37), dtype=dtype)[0])
        square = (3, 3), (2, 2), (1, 1)
        y, chosen = implicit.max_pool2d(x, *square)
        implicit.max_pool2d_dx(y, chosen, x.shape, *square)
        implicit.avg_pool2d_dx(implicit.avg_pool2d(x, *square), x.shape, *square)
        logits, losses = _arrays((9, 37), (9,), dtype=dtype)
        labels = (losses * 10).astype(np.int64) % 37
        _, probabilities = implicit.cross_entropy(logits, labels, 0.1)
        implicit.cross_entropy_dx(losses, probabilities, labels, 0.1)
    x, w, b = _arrays((9, 33), (33, 5), (5,))
    losses, _, probabilities = implicit.linear_cross_entropy(x, w, b, labels % 5, 0.1)
    implicit.linear_cross_entropy_backward(losses, 0.5, probabilities, labels % 5, 0.1, x, w)
    for shape in ((1, 5, 3, 4), (1, 2, 3, 132)):
        x, dy, gamma = _arrays(shape, shape, shape[-1:])
        mean, var = implicit.moments(x)
        y = implicit.batch_norm(x, gamma, gamma, mean, var, 1e-5, dy, True)
        for _ in range(2):
            implicit.batch_norm_backward(dy, y, x, gamma, mean, var, 1e-5)
    x, w = _arrays((2, 9, 9, 4), (1, 1, 4, 36))
    implicit.conv2d_moments(x, w, None, (1, 1), (0, 0), (1, 1), 1)
    loss, logits, sums = _arrays((), (300, 7), (2,))
    augment.track(loss, logits, (logits[:, 0] > 0).astype(np.int64), sums.astype(np.float64))
    _descent()
    _batches()


def _descent():
    from minires.kernels.cuda.descent import Descent, scaling_of

    values, grads, velocities = (_arrays((3, 5), (1025,), (2, 1024)) for _ in range(3))
    descent = Descent()
    descent.set(0.1, 0.9, 0.01, True)
    descent.step(values, grads, velocities)
    grads[1][1024] = np.nan
    descent.step(values, grads, [None] * 3, scaling_of(1024.0))


def _batches():
    import cupy

    from minires import data
    from minires.data.resident import Resident

    rng = np.random.default_rng(7)
    train = data.Dataset(rng.integers(0, 256, (11, 6, 5, 3)).astype(np.uint8), rng.integers(0, 4, 11), tuple("abcd"))
    prepare = data.train_transform(data.Normalise.fit(train).mean, 2, True)
    resident = Resident(data.DataLoader(train, 4, shuffle=True, seed=3, transform=prepare))
    for _ in range(3):
        rows = resident.advance()
        resident.fill(cupy.empty((rows, 6, 5, 3), np.float32), cupy.empty(rows, np.int64))


def _main(sanitizer, part, good="", bad=""):
    def changed(code, options=()):
        return load(code.replace(good, bad) if good else code, options)

    load = emulator.compile = functools.partial(emulator.compile, sanitizer=sanitizer)
    if part == "turn":
        x, y = np.ones((2, 64), np.float32)
        changed(SOUND).get_function("turn_float")((1,), (64,), (x.copy(), y.copy()))
        return
    emulator.compile = changed
    standin.install()
    with standin.counter() as counts:
        _others() if part == "others" else _convolutions(part)
    there = emulator.compile(module.source(None if part == "others" else part)).names
    if forgotten := sorted(set(there) - set(counts.names)):
        sys.exit(f"these kernels were not run: {', '.join(forgotten)}")


if __name__ == "__main__":
    _main(*sys.argv[1:])
