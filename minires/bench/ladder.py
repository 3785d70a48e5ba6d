"""The ladder: one training step as it was computed on every rung, from seven loops to the kernels of today.

A rung is a set of kernels and the switches that go with it.  It is put in under a name of its own, and before its time
counts its loss and gradients are held against those of the kernels that minires uses.  `benchmarks/LADDER.md` tells why
each rung is faster than the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import threadpoolctl

from .. import functional as F
from ..backend import get_num_threads, memory, set_num_threads
from ..errors import MiniresError
from ..kernels import KERNELS, reference, use_kernels
from ..kernels import numpy as fast
from ..kernels.numpy import im2col
from ..kernels.window import output_size
from ..models import ResNet, cifar_resnet
from ..tensor import Tensor, no_fusion
from . import naive, whole_batch
from .networks import Network, train_step
from .timing import BLAS_AWAKE, Contender, alternate

_TOLERANCE = 1e-9  # of the norm, in float64


@dataclass(frozen=True)
class Rung:
    """How a training step was computed.

    Attributes:
        name: what is new.
        kernels: a module with the functions of `minires.kernels`, as many as a residual network needs.
        shared: the kernels may use all threads, and BLAS as well.
        recycled: large arrays lie in memory that was used before.
        fusion: a convolution, batch norm, addition and ReLU are one.
    """

    name: str
    kernels: ModuleType
    shared: bool = True
    recycled: bool = False
    fusion: bool = False

    @contextmanager
    def standing(self, threads: int) -> Iterator[None]:
        """Compute as on this rung inside a ``with`` block, with so many threads where it shares its work."""
        before, number = get_num_threads(), threads if self.shared else 1
        with ExitStack() as stack:
            stack.callback(set_num_threads, before)
            set_num_threads(number)
            stack.enter_context(_BLAS.limit(limits=number))
            stack.callback(KERNELS.pop, "rung")
            KERNELS["rung"] = self.kernels
            stack.enter_context(use_kernels("rung"))
            if not self.fusion:
                stack.enter_context(no_fusion())
            if not self.recycled:
                stack.enter_context(_fresh_memory())
            yield


_BLAS = threadpoolctl.ThreadpoolController().select(user_api="blas")


@contextmanager
def _fresh_memory() -> Iterator[None]:
    """Let every array have new memory from the system: to the store no array is large enough."""
    before, memory._SMALLEST = memory._SMALLEST, 1 << 62
    try:
        yield
    finally:
        memory._SMALLEST = before


def _changed(name: str, base: ModuleType, **functions: Callable) -> ModuleType:
    """A set of kernels like ``base`` but for these functions.

    What a rung without fusion never calls is left out, so that it cannot be computed by later means in silence.
    """
    made = ModuleType(name)
    fused = ("conv2d_moments", "conv2d_norm_backward", "norm_receiver")
    vars(made).update({n: getattr(base, n) for n in base.__all__ if n not in fused} | functions)
    return made


def _whole_batch(name: str, conv2d: Callable, conv2d_backward: Callable) -> ModuleType:
    names = ("relu", "relu_dx", "moments", "batch_norm", "batch_norm_backward")
    plain = {n: getattr(whole_batch, n) for n in names}
    return _changed(name, fast, conv2d=conv2d, conv2d_backward=conv2d_backward, **plain)


def _tiled_conv2d(x, w, b, stride, padding, dilation, groups, residual=None, relu=False):
    """im2col a few images at a time, for every shape of window."""
    rows, columns = (output_size(x.shape[1 + a], w.shape[a], stride[a], padding[a], dilation[a]) for a in (0, 1))
    y_shape = (len(x), rows, columns, w.shape[3])
    return im2col.convolve(np.ascontiguousarray(x), w, y_shape, (stride, padding, dilation, groups))[0]


def _tiled_conv2d_backward(dy, x, w, x_shape, w_shape, *window):
    x = None if x is None else np.ascontiguousarray(x)
    return im2col.gradients(np.ascontiguousarray(dy), x, w, x_shape, w_shape, window)[:2]


_NCHW = _whole_batch("nchw", whole_batch.conv2d_nchw, whole_batch.conv2d_backward_nchw)
_NHWC = _whole_batch("nhwc", whole_batch.conv2d_nhwc, whole_batch.conv2d_backward_nhwc)
_TILED = _changed("tiled", fast, conv2d=_tiled_conv2d, conv2d_backward=_tiled_conv2d_backward)

RUNGS = (
    Rung("naive loops", reference, shared=False),
    Rung("im2col, NCHW, whole batch, BLAS threads", _NCHW),
    Rung("NHWC", _NHWC),
    Rung("tiles, one thread", _TILED, shared=False),
    Rung("threads", _TILED),
    Rung("Winograd", fast),
    Rung("recycled memory", fast, recycled=True),
    Rung("fusion", fast, recycled=True, fusion=True),
)


def check(rung: Rung, model: ResNet, pictures: np.ndarray, labels: np.ndarray, threads: int) -> float:
    """The largest difference of loss and gradients from those of the kernels that minires uses, relative, in float64.

    Raises:
        MiniresError: it is more than rounding explains; the parameter is named.
    """
    model.astype(np.float64)
    expected = _loss_and_gradients(model, pictures, labels)
    with rung.standing(threads):
        found = _loss_and_gradients(model, pictures, labels)
    apart = {n: float(np.linalg.norm(found[n] - e) / np.linalg.norm(e)) for n, e in expected.items()}
    worst = max(apart, key=lambda name: apart[name])
    if not apart[worst] <= _TOLERANCE:
        raise MiniresError(
            f"rung {rung.name!r} and the kernels of minires differ by {apart[worst]:.1e} in {worst}, more than "
            f"{_TOLERANCE:g}, so its time would mean nothing. Run the tests; they say which of the two is wrong."
        )
    return apart[worst]


def _loss_and_gradients(model: ResNet, pictures: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    model.zero_grad()
    loss = F.cross_entropy(model(Tensor(pictures.astype(np.float64))), labels)
    loss.backward()
    return {"loss": loss.numpy(), **{f"d {n}": np.asarray(p.grad) for n, p in model.named_parameters()}}


def small(net: Network) -> tuple[ResNet, np.ndarray, np.ndarray]:
    """A network and a batch that the loops can manage."""
    pictures, labels = Network(net.name, 8, 10, 3).data(3)
    return cifar_resnet(8, width=4, generator=0), pictures, labels


def climb(
    net: Network,
    batch: int,
    rounds: int,
    threads: int,
    chosen: Sequence[int],
    into: dict[str, list[float]],
    tell: Callable[[str], Any],
) -> None:
    """Check rungs, then let them take turns at a training step; the loops, if chosen, come before.

    Args:
        net: what to train.
        batch: pictures in a step.
        rounds: see `alternate`.
        threads: of the rungs that share their work.
        chosen: numbers of rungs, from 1 upwards in ascending order.
        into: where to put the seconds of a step, by `label`.
        tell: called with a line of text now and then.
    """
    for number in chosen:
        rung = RUNGS[number - 1]
        model, pictures, labels = small(net) if rung.kernels is reference else (net.build(), *net.data(4))
        apart = check(rung, model, pictures, labels, threads)
        tell(f"checked  {label(number):<42} loss and gradients as by the kernels of minires, to {apart:.0e}")
    if 1 in chosen:
        into[label(1)] = naive.seconds(net, batch, rounds)
    others = [number for number in chosen if number > 1]
    steps = {label(n): _on(RUNGS[n - 1], threads, train_step(net.build(), *net.data(batch))) for n in others}
    alternate(steps, rounds, into=into)


def label(number: int) -> str:
    """Number and name of a rung."""
    return f"{number} {RUNGS[number - 1].name}"


def _on(rung: Rung, threads: int, step: Callable[[], float]) -> Contender:
    def standing() -> float:
        with rung.standing(threads):
            return step()

    return Contender(standing, awake=BLAS_AWAKE)
