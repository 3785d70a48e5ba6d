"""The rungs that were predicted before any of them was measured: one step of ResNet-20, batch 128.

benchmarks/NOTES.md has the predictions and how they were calculated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

from minires.bench.networks import Network
from minires.bench.timing import Spread
from minires.errors import MiniresError
from minires.kernels import KERNELS
from minires.kernels.cuda import im2col, implicit, norm, use_precision
from minires.kernels.cuda.descent import Descent
from minires.kernels.reference.norm import update_running
from minires.tensor import no_fusion

from .clock import DeviceClock, Work
from .lab import Lab
from .nets import the_network
from .record import tell
from .steps import AGREEMENT, our_step

_BATCH = 128


@dataclass(frozen=True)
class Rung:
    """A way of computing a training step on the card.

    Attributes:
        name: what is new.
        predicted: images/s, from and to; None where nothing was predicted.
        kernels: a module with the functions of `minires.kernels`.
        fusion: convolution, batch norm, addition and ReLU are one.
        one_update: SGD on all parameters in one launch.
        graph: recorded and replayed.
        precision: see `minires.cuda.set_precision`.
    """

    name: str
    predicted: tuple[int, int] | None
    kernels: Any
    fusion: bool = True
    one_update: bool = True
    graph: bool = False
    precision: str = "fp32"

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Compute as on this rung inside a ``with`` block."""
        with ExitStack() as stack:
            stack.enter_context(patch.dict(KERNELS, {"cuda-implicit": self.kernels}))
            stack.enter_context(use_precision(self.precision))
            if not self.fusion:
                stack.enter_context(no_fusion())
            if not self.one_update:
                stack.enter_context(patch.object(Descent, "applies", staticmethod(lambda arrays: False)))
            yield


def _over(x: Any) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _channel_sum(x: Any) -> Any:
    """By CuPy's own reduction."""
    return x.sum(_over(x))


def _moments(x: Any, running: Any = None) -> tuple[Any, Any]:
    mean, var = x.mean(_over(x)), x.var(_over(x))
    update_running(running, mean, var, x.size // x.shape[-1])
    return mean, var


def _batch_norm_backward(dy: Any, y: Any, x: Any, gamma: Any, mean: Any, var: Any, eps: float) -> Any:
    g = dy if y is None else dy * (y > 0)
    count = x.size // x.shape[-1]
    std = (var + x.dtype.type(eps)) ** 0.5
    xhat = (x - mean) / std
    dbeta, dgamma = _channel_sum(g), _channel_sum(g * xhat)
    return (gamma / std) * (g - dbeta / count - xhat * (dgamma / count)), dgamma, dbeta, g


def _conv2d_moments(x: Any, w: Any, b: Any, *window: Any) -> Any:
    """The window, and perhaps the running statistics after it."""
    y = im2col.conv2d(x, w, b, *window[:4])
    return y, *implicit.moments(y, *window[4:])


def _conv2d_norm_backward(
    dy: Any, y: Any, z: Any, gamma: Any, mean: Any, var: Any, eps: float, x: Any, w: Any, x_shape: Any, w_shape: Any,
    *window: Any, residual: bool,
) -> Any:  # fmt: skip
    dz, dgamma, dbeta, dresidual = norm.batch_norm_backward(dy, y, z, gamma, mean, var, eps, keep_g=residual)
    return *im2col.conv2d_backward(dz, x, w, x_shape, w_shape, *window), dgamma, dbeta, dresidual if residual else None


def _changed(name: str, base: ModuleType, **functions: Callable) -> ModuleType:
    """A set of kernels like another but for these functions."""
    made = ModuleType(name)
    vars(made).update({n: getattr(base, n) for n in base.__all__} | functions)
    return made


_SWAP = _changed("swap", im2col, channel_sum=_channel_sum, moments=_moments, batch_norm_backward=_batch_norm_backward)
_FEW_PASSES = _changed("few passes", im2col, batch_norm=norm.batch_norm, batch_norm_backward=norm.batch_norm_backward,
                       conv2d_moments=_conv2d_moments, conv2d_norm_backward=_conv2d_norm_backward)  # fmt: skip

RUNGS = (
    Rung("plain swap of the array module, im2col, CuPy's reductions", (1_000, 1_000), _SWAP, False, False),
    Rung("sums in two stages", (6_000, 12_000), im2col, False, False),
    Rung("batch norm in few passes, one update", (24_000, 36_000), _FEW_PASSES),
    Rung("own convolutions, launch by launch", (90_000, 200_000), implicit),
    Rung("as a CUDA graph", (180_000, 280_000), implicit, graph=True),
    Rung("tf32", None, implicit, graph=True, precision="tf32"),
    Rung("bf16", None, implicit, graph=True, precision="bf16"),
    Rung("fp16", None, implicit, graph=True, precision="fp16"),
)


def measure(lab: Lab) -> dict[str, Any]:
    """Section ladder."""
    net = the_network(lab, "resnet20")
    batch = lab.pick(_BATCH, 4)
    pictures, labels = net.data(batch)
    works, losses = {}, {}
    for rung in RUNGS[:-1] if lab.rehearsal else RUNGS:
        works[rung.name], losses[rung.name] = _climb(net, rung, pictures, labels)
    for rung in RUNGS:
        ours, exact = losses.get(rung.name), losses[RUNGS[4].name]
        if ours is not None and not abs(ours - exact) <= AGREEMENT[rung.precision] * abs(exact):
            raise MiniresError(f"rung {rung.name!r} begins with the loss {ours:.6f}, the others with {exact:.6f}.")
    seconds = DeviceClock(lab).measure(works, turn=10e-3)
    rungs = []
    for rung in RUNGS:
        if rung.name not in seconds:
            continue
        spread = Spread.of(seconds[rung.name])
        rate = batch / spread.median
        rungs.append({"rung": rung.name, "predicted images/s": rung.predicted, "images/s": rate,
                      "seconds": seconds[rung.name], "spread s": vars(spread), "precision": rung.precision,
                      "graph": rung.graph, "loss": losses[rung.name]})  # fmt: skip
        guess = f"{rung.predicted[0]:,} to {rung.predicted[1]:,}" if rung.predicted else "nothing"
        tell(f"  {rung.name:58s} {1e3 * spread.median:9.3f} ms {rate:12,.0f} images/s, predicted {guess}")
    return {"network": net.name, "batch": batch, "rungs": rungs}


def _climb(net: Network, rung: Rung, pictures: Any, labels: Any) -> tuple[Work, float]:
    with rung.standing():
        step = our_step(net, len(pictures), rung.precision, rung.graph)
        with step.stream:
            step.images.set(pictures)
            step.labels.set(labels)
        for _ in range(4):
            step()
        loss = step.read()[0] / 4 / len(pictures)
        if step.problem:
            raise MiniresError(step.problem)

    def run() -> None:
        with rung.standing():
            step()

    return Work(run, step.stream, how="graph" if rung.graph else "eager"), loss
