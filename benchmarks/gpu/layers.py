"""Everything of a step that is no convolution: batch norm, sums, pooling, cross-entropy, the update; beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from minires.backend import asnumpy
from minires.bench.networks import DECAY, MOMENTUM, RATE
from minires.bench.report import Row
from minires.errors import MiniresError
from minires.kernels import KERNELS
from minires.kernels.cuda import implicit
from minires.kernels.cuda.descent import Descent

from . import floors
from .clock import DeviceClock, Work, in_turns, of_torch, recorded, turns
from .floors import Floor
from .lab import Lab
from .nets import the_network
from .record import row_record, tell

_EPS = 1e-5
_TOLERANCE = 3e-5
_SEEN = slice(0, 4)  # channels that are checked: they do not depend on the others


@dataclass(frozen=True)
class _Operation:
    """Something to be timed.

    Attributes:
        heading, name: of its row.
        floor: the least it needs.
        ours: takes one set of arrays of the card.
        torch: the same of PyTorch, on the same set as tensors, or None.
        make: makes a set on the card for minires.
        check: distance of what ``ours`` gave for the first set from float64.
        tensors: makes PyTorch's set from minires's.
    """

    heading: str
    name: str
    floor: Floor
    ours: Callable[..., Any]
    make: Callable[[], tuple[Any, ...]]
    check: Callable[[Any], float]
    torch: Callable[..., Any] | None = None
    tensors: Callable[[tuple[Any, ...]], tuple[Any, ...]] = field(default=tuple)


def measure(lab: Lab) -> dict[str, Any]:
    """Section kernels-others."""
    of_resnet20 = (128, 32, 32, 16), (128, 16, 16, 32), (128, 8, 8, 64)
    of_resnet50 = (64, 112, 112, 64), (64, 56, 56, 256), (64, 7, 7, 2048)
    shapes = lab.pick([*of_resnet20, *of_resnet50], [(2, 4, 4, 8)])
    rows, wrong = [], []
    clock = DeviceClock(lab)
    for operations in (*(_norms(lab, shape) for shape in shapes), _pools(lab), _losses(lab), _updates(lab)):
        for operation in operations:
            try:
                rows.append(_measured(lab, clock, operation))
            except MiniresError as error:
                wrong.append(str(error))
                tell(wrong[-1])
        lab.free()
    return {"rows": rows} | ({"wrong": "; ".join(wrong)} if wrong else {})


def _measured(lab: Lab, clock: DeviceClock, operation: _Operation) -> dict[str, Any]:
    sets, launches = turns(lab, int(operation.floor.bytes), 1e11)
    arrays = [operation.make() for _ in range(sets)]
    distance = operation.check(operation.ours(*arrays[0]))
    if not distance <= _TOLERANCE:
        raise MiniresError(f"{operation.heading}, {operation.name}: relative distance from float64 {distance:.1e}, "
                           f"allowed {_TOLERANCE:g}; what is wrong is not timed.")  # fmt: skip
    lab.synchronize()
    works: dict[str, Work] = {"minires": recorded(lab, in_turns(operation.ours, arrays, launches), launches)}
    if lab.torch and operation.torch:
        tensors = [operation.tensors(own) for own in arrays]
        run = lab.torch_graph(in_turns(operation.torch, tensors, launches))
        works["torch"] = of_torch(lab, run, launches, held=True, how="graph")
    seconds = clock.measure(works, turn=1e-3)
    row = Row("layers", "", operation.heading, operation.name, "ms",
              {name: [1e3 * s for s in values] for name, values in seconds.items()})  # fmt: skip
    least, ours = operation.floor.seconds(lab, "fp32"), row.spread["minires"].median / 1e3
    ratios = ", ".join(f"{r.median:.2f} times {n}" for n, r in row.ratios.items())
    tell(f"  {operation.heading}, {operation.name}: {1e6 * ours:.1f} us, {least['floor s'] / ours:.0%} of the ceiling; "
         f"{ratios}")  # fmt: skip
    return row_record(row, floor=least, distance=distance, sets=sets, launches=launches,
                      how={name: work.how for name, work in works.items()},
                      **{"of ceiling": least["floor s"] / ours})  # fmt: skip


def _apart(found: Any, exact: np.ndarray) -> float:
    distance = np.linalg.norm(asnumpy(found).astype(np.float64) - exact) / np.linalg.norm(exact)
    return float(distance) if np.isfinite(distance) else float("inf")


def _farthest(exact: tuple[np.ndarray, ...], found: Any) -> float:
    return max(_apart(a, b) for a, b in zip(found, exact, strict=True))


def _all_put(lab: Lab, arrays: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
    return tuple(map(lab.put, arrays))


def _norms(lab: Lab, shape: tuple[int, ...]) -> Iterator[_Operation]:
    """Batch norm with ReLU, its backward pass, and the sum of each channel."""
    rng, channels, size = np.random.default_rng(0), shape[3], int(np.prod(shape))
    noise = rng.standard_normal(lab.pick(1 << 22, 1 << 10), np.float32)
    x, dy = np.resize(noise, shape), np.resize(noise[::-1], shape)
    gamma, beta = rng.uniform(0.5, 1.5, channels).astype(np.float32), rng.standard_normal(channels, np.float32)
    wide = [a[..., _SEEN].astype(np.float64) for a in (x, dy, gamma, beta)]
    host = KERNELS["numpy"]
    mean, var = host.moments(wide[0])
    y = host.batch_norm(wide[0], wide[2], wide[3], mean, var, _EPS, None, True)
    dx = host.batch_norm_backward(wide[1], y, wide[0], wide[2], mean, var, _EPS)[0]
    heading = "x".join(map(str, shape))
    on_card = lambda: tuple(map(lab.put, (x, gamma, beta)))
    put = lambda *arrays: tuple(lab.shared(a).permute(0, 3, 1, 2) if a.ndim == 4 else lab.shared(a) for a in arrays)
    functional = lab.torch and lab.torch.nn.functional

    def forward(x: Any, gamma: Any, beta: Any) -> Any:
        mean, var = implicit.moments(x)
        return implicit.batch_norm(x, gamma, beta, mean, var, _EPS, None, True)

    def torch_forward(x: Any, gamma: Any, beta: Any) -> Any:
        return functional.batch_norm(x, None, None, gamma, beta, True, 0.1, _EPS).relu_()

    yield _Operation(heading, "moments, batch norm, ReLU", floors.arrays(size, size, size), forward, on_card,
                     lambda found: _apart(found[..., _SEEN], y), torch_forward, lambda own: put(*own))  # fmt: skip

    def with_moments() -> tuple[Any, ...]:
        own = on_card()
        return (*own, *implicit.moments(own[0]))

    yield _Operation(heading, "batch norm, ReLU", floors.arrays(size, size),
                     lambda x, gamma, beta, mean, var: implicit.batch_norm(x, gamma, beta, mean, var, _EPS, None, True),
                     with_moments, lambda found: _apart(found[..., _SEEN], y))  # fmt: skip

    def for_backward() -> tuple[Any, ...]:
        x, gamma, beta, mean, var = with_moments()
        y = implicit.batch_norm(x, gamma, beta, mean, var, _EPS, None, True)
        return lab.put(dy), y, x, gamma, mean, var

    def torch_backward(dy: Any, y: Any, x: Any, gamma: Any, mean: Any, inverse: Any) -> Any:
        g = lab.torch.ops.aten.threshold_backward(dy, y, 0)
        return lab.torch.ops.aten.native_batch_norm_backward(
            g, x, gamma, None, None, mean, inverse, True, _EPS, [True] * 3
        )

    yield _Operation(heading, "batch norm, ReLU, backward", floors.arrays(*[size] * 7),
                     lambda dy, y, x, gamma, mean, var: implicit.norm.batch_norm_backward(
                         dy, y, x, gamma, mean, var, _EPS, keep_g=False),
                     for_backward, lambda found: _apart(found[0][..., _SEEN], dx), torch_backward,
                     lambda own: (*put(*own[:5]), (lab.shared(own[5]) + _EPS).rsqrt()))  # fmt: skip
    yield _Operation(heading, "channel_sum", floors.arrays(size), implicit.channel_sum, lambda: (lab.put(x),),
                     lambda found: float(np.abs(asnumpy(found)[_SEEN] - wide[0].sum((0, 1, 2))).max()
                                         / np.abs(wide[0]).sum((0, 1, 2)).max()),
                     lambda x: x.sum((0, 2, 3)), lambda own: put(*own))  # fmt: skip


def _pools(lab: Lab) -> Iterator[_Operation]:
    """The max pooling of ResNet-50 and its gradient."""
    shape = lab.pick((64, 112, 112, 64), (2, 6, 6, 8))
    window = (3, 3), (2, 2), (1, 1)
    rng, host = np.random.default_rng(0), KERNELS["numpy"]
    x = np.resize(rng.standard_normal(lab.pick(1 << 22, 1 << 10), np.float32), shape)
    y, chosen = host.max_pool2d(x[..., _SEEN].astype(np.float64), *window)
    dy = np.resize(x[::-1], (*y.shape[:3], shape[3]))
    dx = host.max_pool2d_dx(dy[..., _SEEN].astype(np.float64), chosen, x[..., _SEEN].shape, *window)
    heading, small = "x".join(map(str, shape)), dy.size
    torch_window = (3, 3), (2, 2), (1, 1), (1, 1), False
    nchw = lambda a: lab.shared(a).permute(0, 3, 1, 2)

    yield _Operation(heading, "max pool 3x3/2", floors.arrays(x.size, small, small),
                     lambda x: implicit.max_pool2d(x, *window), lambda: (lab.put(x),),
                     lambda found: _apart(found[0][..., _SEEN], y),
                     lambda x: lab.torch.ops.aten.max_pool2d_with_indices(x, *torch_window),
                     lambda own: (nchw(own[0]),))  # fmt: skip

    def for_backward() -> tuple[Any, ...]:
        return lab.put(dy), implicit.max_pool2d(lab.put(x), *window)[1]

    def torch_backward(dy: Any, x: Any, chosen: Any) -> Any:
        return lab.torch.ops.aten.max_pool2d_with_indices_backward(dy, x, *torch_window, chosen)

    def torch_set(own: tuple[Any, ...]) -> tuple[Any, ...]:
        pictures = lab.tensor(x).permute(0, 3, 1, 2)
        return nchw(own[0]), pictures, lab.torch.ops.aten.max_pool2d_with_indices(pictures, *torch_window)[1]

    yield _Operation(heading, "max pool 3x3/2, backward", floors.arrays(x.size, small, small),
                     lambda dy, chosen: implicit.max_pool2d_dx(dy, chosen, shape, *window), for_backward,
                     lambda found: _apart(found[..., _SEEN], dx), torch_backward, torch_set)  # fmt: skip


def _losses(lab: Lab) -> Iterator[_Operation]:
    """Cross-entropy, forward and backward."""
    rng, host = np.random.default_rng(0), KERNELS["numpy"]
    for n, classes in lab.pick(((128, 10), (64, 1000)), ((4, 10),)):
        logits, labels = rng.standard_normal((n, classes), np.float32), rng.integers(0, classes, n)
        losses, probabilities = host.cross_entropy(logits.astype(np.float64), labels, 0.0)
        dx = host.cross_entropy_dx(np.ones(n), probabilities, labels, 0.0)
        arrays, exact = (logits, labels, np.ones(n, np.float32)), (losses, dx)

        def both(logits: Any, labels: Any, ones: Any) -> Any:
            losses, probabilities = implicit.cross_entropy(logits, labels, 0.0)
            return losses, implicit.cross_entropy_dx(ones, probabilities, labels, 0.0)

        def torch_both(logits: Any, labels: Any, ones: Any) -> Any:
            aten = lab.torch.ops.aten
            logs = aten._log_softmax(logits, 1, False)
            losses, weight = aten.nll_loss_forward(logs, labels, None, 0, -100)
            d = aten.nll_loss_backward(ones, logs, labels, None, 0, -100, weight)
            return losses, aten._log_softmax_backward_data(d, logs, 1, logs.dtype)

        yield _Operation(f"{n}x{classes}", "cross-entropy and its gradient", floors.arrays(3 * n * classes), both,
                         partial(_all_put, lab, arrays), partial(_farthest, exact), torch_both,
                         lambda own: tuple(map(lab.shared, own)))  # fmt: skip


def _updates(lab: Lab) -> Iterator[_Operation]:
    """SGD with momentum and decay on all parameters of a network, PyTorch's by its fused optimiser."""
    for name in lab.pick(("resnet20", "resnet50"), ("resnet20",)):
        values = [np.array(p.data) for p in the_network(lab, name).build().parameters()]
        rng = np.random.default_rng(0)
        grads = [rng.standard_normal(v.shape, np.float32) for v in values]
        velocities = [0.1 * rng.standard_normal(v.shape, np.float32) for v in values]
        g = grads[0].astype(np.float64) + DECAY * values[0]
        exact = values[0] - RATE * (MOMENTUM * velocities[0].astype(np.float64) + g)
        count = sum(v.size for v in values)

        def make(arrays: Any = (values, grads, velocities)) -> tuple[Any, ...]:
            own = tuple([lab.put(a) for a in group] for group in arrays)
            descent = Descent()
            descent.set(RATE, MOMENTUM, DECAY, False)
            return (descent, *own)

        def step(descent: Descent, values: Any, grads: Any, velocities: Any) -> Any:
            descent.step(values, grads, velocities)
            return values[:1]

        def tensors(own: tuple[Any, ...]) -> tuple[Any, ...]:
            values = [lab.shared(v.copy()).requires_grad_() for v in own[1]]
            for v, g in zip(values, own[2], strict=True):
                v.grad = lab.shared(g)
            fused = None if lab.rehearsal else True
            return (lab.torch.optim.SGD(values, RATE, MOMENTUM, weight_decay=DECAY, fused=fused),)

        heading = f"{name}, {count:,} parameters"
        yield _Operation(heading, "SGD", floors.arrays(*[count] * 5), step, make, partial(_farthest, (exact,)),
                         lambda optimizer: optimizer.step(), tensors)  # fmt: skip
