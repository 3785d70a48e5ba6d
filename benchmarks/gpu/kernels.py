"""Every different convolution of a network, forward, dx and dw, beside cuDNN; checked before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires.bench.kernels import Layer, layers
from minires.bench.networks import Network
from minires.bench.report import Row
from minires.kernels import KERNELS
from minires.kernels.cuda import use_precision

from . import floors, peers
from .clock import DeviceClock, Work, in_turns, of_torch, queued, recorded, turns
from .lab import Lab
from .nets import the_network
from .record import row_record, tell

# of the norm, on the rows that are checked: well above what rounding the operands does, far below a wrong index
TOLERANCE = {"fp32": 5e-5, "tf32": 2e-3, "bf16": 1.5e-2, "fp16": 2e-3}
_CHECKED = 48  # numbers of the result, with all their channels


@dataclass(frozen=True)
class _Case:
    """A convolution and its arrays on the host."""

    layer: Layer
    batch: int
    x: np.ndarray
    w: np.ndarray
    dy: np.ndarray


def measure(lab: Lab, name: str, batch: int, precision: str) -> dict[str, Any]:
    """Section kernels-NETWORK-PRECISION."""
    net = the_network(lab, name)
    batch = lab.pick(batch, net.batch)
    convolutions, _ = layers(net.build(), net.size)
    noise = np.random.default_rng(0).standard_normal(lab.pick(1 << 24, 1 << 12), np.float32)
    rows, wrong = [], []
    for i, (layer, count) in enumerate(convolutions.items()):
        if lab.rehearsal and i not in (0, 2):
            continue  # the first of all, and one with a stride
        shapes = (batch, *layer.size, layer.channels), layer.filters, (batch, *layer.output)
        case = _Case(layer, batch, *(_drawn(noise, shape, i) for i, shape in enumerate(shapes)))
        heading = f"{layer}, {count} times in {net.name}, batch {batch}"
        tell(heading)
        for record in _passes(lab, net, heading, case, precision):
            if isinstance(record, str):
                wrong.append(record)
                tell(record)
            else:
                rows.append(record | {"count": count})
        lab.free()
    return {"network": net.name, "batch": batch, "rows": rows} | ({"wrong": "; ".join(wrong)} if wrong else {})


def _drawn(noise: np.ndarray, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Normal numbers, drawn once for all: the larger arrays repeat them."""
    return np.resize(np.roll(noise, 7919 * seed), shape)


def _passes(lab: Lab, net: Network, heading: str, case: _Case, precision: str) -> Iterator[dict[str, Any] | str]:
    """A record for each pass, or what is wrong with it: that is not timed."""
    floor = floors.convolution(case.layer, case.batch)
    sets, launches = turns(lab, int(floor.bytes), floor.flop)
    on_card = [(lab.put(case.x), lab.put(case.w), lab.put(case.dy)) for _ in range(sets)]
    lab.synchronize()  # what follows runs on other streams
    clock = DeviceClock(lab)
    for kind in ("forward", "dx", "dw"):
        if kind == "dx" and case.layer.first:
            continue
        works: dict[str, Work] = {}
        apart = {}
        # cuda-im2col multiplies by CuPy's own product, which knows nothing of minires' precision
        for label, kernels in {"minires": "cuda-implicit", "cuda-im2col": "cuda-im2col"}.items():
            if label == "minires" or precision == "fp32":
                call = _ours(case.layer, KERNELS[kernels], kind)
                with use_precision(precision):
                    apart[label] = _distance(case, kind, call(*on_card[0]))
                    many = in_turns(call, on_card, launches)
                    works[label] = (recorded if label == "minires" else queued)(lab, many, launches)
        bad = {label: value for label, value in apart.items() if not value <= TOLERANCE[precision]}
        if bad:
            yield f"{heading}, {kind}: relative distance from float64 {bad}, allowed {TOLERANCE[precision]:g}"
            continue
        with use_precision(precision), lab.torch_precision(precision):
            if lab.torch:
                works["cuDNN"] = _cudnn(lab, case, kind, precision, sets, launches)
            seconds = clock.measure(works, turn=1e-3)
        row = Row("kernels", net.name, heading, f"{kind}, {precision}", "ms",
                  {name: [1e3 * s for s in values] for name, values in seconds.items()}, floor.flop)  # fmt: skip
        least = floor.seconds(lab, precision)
        ours = row.spread["minires"].median / 1e3
        ratios = ", ".join(f"{r.median:.2f} times {n}" for n, r in row.ratios.items())
        share = least["floor s"] / ours
        tell(f"  {kind:8s}{precision}  {1e6 * ours:9.1f} us, {share:4.0%} of the ceiling ({least['bound']}); {ratios}")
        yield row_record(row, kind=kind, precision=precision, floor=least, distance=apart, sets=sets, launches=launches,
                         how={name: work.how for name, work in works.items()},
                         **{"of ceiling": share})  # fmt: skip


def _ours(layer: Layer, kernels: Any, kind: str) -> Callable[..., Any]:
    """(x, w, dy) -> y, dx or dw."""

    def call(x: Any, w: Any, dy: Any) -> Any:
        if kind == "forward":
            return kernels.conv2d(x, w, None, *layer.window)
        inputs = (None, w) if kind == "dx" else (x, None)
        return kernels.conv2d_backward(dy, *inputs, x.shape, w.shape, *layer.window)[kind == "dw"]

    return call


def _cudnn(lab: Lab, case: _Case, kind: str, precision: str, sets: int, launches: int) -> Work:
    dtype = peers.dtype_of(lab, precision)
    filters = np.ascontiguousarray(case.w.transpose(3, 2, 0, 1))
    calls: list[tuple[Callable[[], Any]]] = []
    for _ in range(sets):
        w = lab.tensor(filters).to(dtype).contiguous(memory_format=lab.torch.channels_last)
        x, dy = peers.pictures(lab, case.x, dtype), peers.pictures(lab, case.dy, dtype)
        calls.append((peers.convolutions(lab, case.layer, x, w, dy)[kind],))

    many = in_turns(lambda call: call(), calls, launches)

    def run() -> Any:
        with lab.torch.inference_mode():
            return many()

    with lab.torch_precision(precision):
        return of_torch(lab, lab.torch_graph(run), launches, held=True, how="graph")


def _distance(case: _Case, kind: str, result: Any) -> float:
    """Relative distance from float64 of some rows of the result."""
    rng = np.random.default_rng(0)
    rows, right = _ROWS[kind](case, result, rng)
    found, exact = np.stack([np.asarray(row.get(), np.float64) for row in rows]), np.stack(right)
    distance = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    return distance if np.isfinite(distance) else float("inf")


def _forward_rows(case: _Case, y: Any, rng: Any) -> tuple[list[Any], list[np.ndarray]]:
    """y[n, i, j] is the window at (i, j) times w."""
    found, exact = [], []
    for n, i, j in _places(rng, y.shape[:3]):
        total = np.zeros(y.shape[3])
        for u, v, row, column in _taps(case.layer, i, j):
            total += case.x[n, row, column].astype(np.float64) @ case.w[u, v].astype(np.float64)
        found.append(y[n, i, j])
        exact.append(total)
    return found, exact


def _dx_rows(case: _Case, dx: Any, rng: Any) -> tuple[list[Any], list[np.ndarray]]:
    """dx[n, h, v] collects dy through every window that sees the pixel."""
    layer, (rows, columns, _) = case.layer, case.layer.output
    found, exact = [], []
    for n, h, k in _places(rng, dx.shape[:3]):
        total = np.zeros(dx.shape[3])
        for u in range(layer.filters[0]):
            for v in range(layer.filters[1]):
                i, off_row = divmod(h + layer.padding[0] - u * layer.dilation[0], layer.stride[0])
                j, off_column = divmod(k + layer.padding[1] - v * layer.dilation[1], layer.stride[1])
                if not off_row and not off_column and 0 <= i < rows and 0 <= j < columns:
                    total += case.w[u, v].astype(np.float64) @ case.dy[n, i, j].astype(np.float64)
        found.append(dx[n, h, k])
        exact.append(total)
    return found, exact


def _dw_rows(case: _Case, dw: Any, rng: Any) -> tuple[list[Any], list[np.ndarray]]:
    """dw[u, v, c] is the sum over all windows of the pixel under that tap times dy."""
    layer, (rows, columns, out) = case.layer, case.layer.output
    dy = case.dy.reshape(-1, out)
    found, exact = [], []
    top, left = layer.padding
    for u, v, c in _places(rng, dw.shape[:3])[:4]:
        seen = np.pad(case.x[..., c], ((0, 0), (top, top), (left, left)))
        first, second = u * layer.dilation[0], v * layer.dilation[1]
        window = seen[:, first : first + rows * layer.stride[0] : layer.stride[0],
                      second : second + columns * layer.stride[1] : layer.stride[1]]  # fmt: skip
        weights = window[:, :rows, :columns].reshape(-1)
        total = np.zeros(out)
        for start in range(0, len(dy), 1 << 16):
            part = slice(start, start + (1 << 16))
            total += weights[part].astype(np.float64) @ dy[part].astype(np.float64)
        found.append(dw[u, v, c])
        exact.append(total)
    return found, exact


def _places(rng: Any, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Both ends, and others drawn."""
    drawn = [tuple(int(rng.integers(n)) for n in shape) for _ in range(_CHECKED)]
    return [(0,) * len(shape), tuple(n - 1 for n in shape), *drawn]


def _taps(layer: Layer, i: int, j: int) -> Iterator[tuple[int, int, int, int]]:
    """The taps of a window that lie on the picture."""
    for u in range(layer.filters[0]):
        for v in range(layer.filters[1]):
            row = i * layer.stride[0] - layer.padding[0] + u * layer.dilation[0]
            column = j * layer.stride[1] - layer.padding[1] + v * layer.dilation[1]
            if 0 <= row < layer.size[0] and 0 <= column < layer.size[1]:
                yield u, v, row, column


_ROWS = {"forward": _forward_rows, "dx": _dx_rows, "dw": _dw_rows}
