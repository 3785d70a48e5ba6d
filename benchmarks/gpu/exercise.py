"""Every kernel once, on small and odd shapes, for a sanitizer to watch: ``python -m benchmarks.gpu.exercise``.

CuPy's pool is switched off, so that every array has borders of its own.
"""

from __future__ import annotations

import sys
from importlib import import_module

import numpy as np

from minires import functional as F
from minires.backend import cupy
from minires.data import DataLoader, train_transform
from minires.data.resident import Resident
from minires.kernels import KERNELS, use_kernels
from minires.kernels.cuda import use_precision
from minires.kernels.cuda.descent import scaling_of
from minires.kernels.cuda.module import PRECISIONS
from minires.models import cifar_resnet
from minires.optim import SGD
from minires.tensor import Tensor
from minires.train.step import DeviceStep

from . import cifar

# N, H, W, C, O, kernel, stride, padding, dilation, groups
_SHAPES = (
    (2, 9, 7, 3, 16, 3, 1, 1, 1, 1),
    (1, 8, 9, 16, 32, 3, 2, 1, 1, 1),
    (2, 6, 7, 8, 12, 1, 2, 0, 1, 1),
    (1, 10, 9, 36, 68, 3, 1, 2, 2, 1),
    (1, 10, 11, 3, 70, 7, 2, 3, 1, 1),
    (2, 6, 7, 6, 6, 3, 1, 1, 1, 6),
)


def main() -> None:
    """All of it."""
    rehearsal = "--rehearse" in sys.argv
    if rehearsal:
        import_module("tests.gpu.standin").install()
    else:
        cupy().cuda.set_allocator(None)
    for precision in PRECISIONS[: 1 if rehearsal else None]:
        with use_precision(precision):
            for shape in _SHAPES[: 2 if rehearsal else None]:
                _convolution(*shape)
            _training(precision)
    _pooling()
    cupy().cuda.runtime.deviceSynchronize()
    print("every kernel has run")


def _convolution(n: int, height: int, width: int, channels: int, out: int, kernel: int, stride: int, padding: int,
                 dilation: int, groups: int) -> None:  # fmt: skip
    rng, put = np.random.default_rng(0), cupy().asarray
    window = (stride, stride), (padding, padding), (dilation, dilation), groups
    x = put(rng.standard_normal((n, height, width, channels), np.float32))
    w = put(rng.standard_normal((kernel, kernel, channels // groups, out), np.float32))
    for name in ("cuda-implicit", "cuda-im2col"):
        kernels = KERNELS[name]
        y, _, _ = kernels.conv2d_moments(x, w, None, *window)
        kernels.conv2d(x, w, None, *window)
        kernels.conv2d_backward(y, x, w, x.shape, w.shape, *window)


def _training(precision: str) -> None:
    """Steps of a small network, batches made on the card; by both sets of kernels, and recorded."""
    sets = cifar.rehearsal_sets()
    for name in ("cuda-implicit", "cuda-im2col"):
        with use_kernels(name):
            model = cifar_resnet(8, width=4, generator=0).to("cuda")
            optimizer = SGD(model.parameters(), 0.1, 0.9, 1e-4)
            batches = Resident(DataLoader(sets.train, 10, shuffle=True, transform=train_transform(sets.mean, 1)))
            graph = name == "cuda-implicit"
            scaling = scaling_of(1024.0) if precision == "fp16" else None
            step = DeviceStep(model, optimizer, 10, (8, 8, 3), fill=batches.fill, graph=graph, scaling=scaling)
            for _ in range(5):
                with step.stream:
                    batches.advance()
                step()
            loss, _ = step.read()
            if not np.isfinite(loss):
                raise ArithmeticError(f"the loss of {name} in {precision} became {loss}")


def _pooling() -> None:
    rng = np.random.default_rng(0)
    x = Tensor(cupy().asarray(rng.standard_normal((2, 7, 9, 5), np.float32)), requires_grad=True)
    F.max_pool2d(x, 3, 2, 1).sum().backward()
    F.avg_pool2d(x, 2, 2).sum().backward()


if __name__ == "__main__":
    main()
