"""A whole training step, launch by launch and as a graph, in each precision, beside PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from minires.bench.networks import DECAY, MOMENTUM, RATE, Network
from minires.bench.report import Row
from minires.errors import MiniresError
from minires.kernels.cuda import use_precision
from minires.kernels.cuda.descent import scaling_of
from minires.kernels.cuda.module import PRECISIONS
from minires.optim import SGD
from minires.train.step import DeviceStep

from . import floors
from .clock import DeviceClock, Work, of_torch
from .lab import Lab
from .nets import the_network
from .peers import TorchStep
from .record import row_record, tell

_FIRST = 4  # steps before anything is timed; the loss of the last must agree
AGREEMENT = {"fp32": 5e-3, "tf32": 2e-2, "bf16": 1e-1, "fp16": 5e-2}  # relative
_SCALE = 1024.0  # of the loss in fp16


def measure(lab: Lab, name: str, batches: Sequence[int], precisions: Sequence[str] = PRECISIONS) -> dict[str, Any]:
    """Section steps-NETWORK."""
    net = the_network(lab, name)
    rows, wrong = [], []
    for batch in lab.pick(batches, (4,)):
        for precision in lab.pick(precisions, precisions[-1:]):
            try:
                rows.append(_row(lab, net, batch, precision, compiled=False))
            except MiniresError as error:  # the others are worth having
                wrong.append(f"batch {batch}, {precision}: {error}")
                tell(wrong[-1])
            lab.free()
    return {"network": net.name, "rows": rows} | ({"wrong": "; ".join(wrong)} if wrong else {})


def compiled(lab: Lab, names: Sequence[str], batches: Sequence[int]) -> dict[str, Any]:
    """Section steps-compiled: beside torch.compile, which takes its time."""
    rows, missing = [], []
    for name, batch in zip(names, batches, strict=True):
        for precision in lab.pick(("tf32", "bf16"), ("tf32",)):
            if lab.left() < lab.pick(90, 0):  # what there is, is better than nothing
                missing.append(f"{name}, {precision}")
                continue
            rows.append(_row(lab, the_network(lab, name), lab.pick(batch, 4), precision, compiled=True))
            lab.free()
    if not rows:
        lab.check_time(90)
    return {"rows": rows, "no time for": missing}


def _row(lab: Lab, net: Network, batch: int, precision: str, compiled: bool) -> dict[str, Any]:
    pictures, labels = net.data(batch)
    works: dict[str, Work] = {}
    losses, memory, steps = {}, {}, {}
    with use_precision(precision), lab.torch_precision(precision):
        makers: dict[str, Callable[[], tuple[Work, Any, float]]] = {
            "minires": lambda: _ours(lab, net, pictures, labels, precision, graph=True)}  # fmt: skip
        if not compiled:
            makers["minires eager"] = lambda: _ours(lab, net, pictures, labels, precision, graph=False)
        if lab.torch and compiled:
            makers["torch.compile"] = lambda: _torch_compiled(lab, net, pictures, labels, precision)
        elif lab.torch:
            makers["torch"] = lambda: _torch(lab, net, pictures, labels, precision, graph=False)
            makers["torch graph"] = lambda: _torch(lab, net, pictures, labels, precision, graph=True)
        for name, make in makers.items():
            lab.free()
            before = _reserved(lab, name)
            works[name], steps[name], losses[name] = make()
            memory[name] = {"reserved bytes": _reserved(lab, name) - before}
        _must_agree(net, precision, losses)
        seconds = DeviceClock(lab).measure(works, turn=10e-3)
    lab.synchronize()
    heading = f"training step of {net.name}, {net.size}x{net.size}"
    row = Row("step", net.name, heading, f"batch {batch}, {precision}", "ms",
              {name: [1e3 * s for s in values] for name, values in seconds.items()}, images=batch)  # fmt: skip
    least, ours = floors.training_step(net, batch).seconds(lab, precision), row.spread["minires"].median
    tell(f"{heading}, batch {batch}, {precision}: {ours:.3f} ms, {1e3 * batch / ours:,.0f} images/s, "
         f"{ours / 1e3 / least['floor s']:.2f} times the floor ({least['bound']}); "
         + ", ".join(f"{r.median:.2f} times {n}" for n, r in row.ratios.items()))  # fmt: skip
    return row_record(row, precision=precision, floor=least, memory=memory, losses=losses,
                      recorded=steps["minires"].recorded, problem=steps["minires"].problem,
                      **{"times the floor": ours / 1e3 / least["floor s"], "images/s": 1e3 * batch / ours})  # fmt: skip


def _reserved(lab: Lab, name: str) -> int:
    """Bytes that the contender's library has taken for arrays; it gives nothing back while nobody asks it to."""
    if name.startswith("minires") or lab.rehearsal:
        return lab.taken()
    return lab.torch.cuda.memory_reserved()


def _ours(
    lab: Lab, net: Network, pictures: Any, labels: Any, precision: str, graph: bool
) -> tuple[Work, DeviceStep, float]:
    step = our_step(net, len(pictures), precision, graph)
    with step.stream:
        step.images.set(pictures)
        step.labels.set(labels)
    for _ in range(_FIRST):
        step.read()
        step()
    loss = step.read()[0] / len(pictures)
    return Work(step, step.stream, how="graph" if graph else "eager"), step, loss


def our_step(net: Network, batch: int, precision: str, graph: bool) -> DeviceStep:
    """A step of minires with its model on the card."""
    model = net.build().to("cuda")
    optimizer = SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    scaling = scaling_of(_SCALE) if precision == "fp16" else None
    return DeviceStep(model, optimizer, batch, (net.size, net.size, 3), graph=graph, scaling=scaling)


def _torch(
    lab: Lab, net: Network, pictures: Any, labels: Any, precision: str, graph: bool
) -> tuple[Work, TorchStep, float]:
    step = TorchStep(lab, net, net.build(), len(pictures), precision)
    step.set(pictures, labels)
    lab.synchronize()
    run: Callable[[], Any] = step
    done = 0
    if graph:
        run, done = lab.torch_graph(step, _FIRST - 1), lab.pick(_FIRST - 1, 0)
    work = of_torch(lab, run, how="graph" if graph else "eager")
    for _ in range(_FIRST - done):
        work.run()
    lab.synchronize()
    return work, step, float(step.loss.item())


def _torch_compiled(
    lab: Lab, net: Network, pictures: Any, labels: Any, precision: str
) -> tuple[Work, TorchStep, float]:
    step = TorchStep(lab, net, net.build(), len(pictures), precision)
    step.set(pictures, labels)
    if not lab.rehearsal:
        step.forward = lab.torch.compile(step.model, mode="reduce-overhead")
    lab.synchronize()

    def run() -> None:
        if not lab.rehearsal:
            lab.torch.compiler.cudagraph_mark_step_begin()
        step()

    work = of_torch(lab, run, how="compiled")
    for _ in range(_FIRST):
        work.run()
    lab.synchronize()
    return work, step, float(step.loss.item())


def _must_agree(net: Network, precision: str, losses: dict[str, float]) -> None:
    """Times of two programs that compute different things are no comparison."""
    ours = losses["minires"]
    for name, loss in losses.items():
        if not abs(loss - ours) <= AGREEMENT[precision] * abs(ours):
            raise MiniresError(f"{net.name}, {precision}: the loss of step {_FIRST} is {ours:.6f} by "
                               f"minires and {loss:.6f} by {name}, so their times are not compared.")  # fmt: skip


def launches(lab: Lab, names: Sequence[str]) -> dict[str, Any]:
    """Section launches: of one step without a graph, by minires and by PyTorch."""
    found = {}
    for name in names:
        net, batch = the_network(lab, name), lab.pick(32, 4)
        pictures, labels = net.data(batch)
        with use_precision("tf32"), lab.torch_precision("tf32"):
            works = {"minires": _ours(lab, net, pictures, labels, "tf32", graph=False)[0]}
            if lab.torch:
                works["torch"] = _torch(lab, net, pictures, labels, "tf32", graph=False)[0]
            found[name] = {by: count_launches(lab, work.run) for by, work in works.items()}
        tell(f"  {name}: {found[name]}")
        lab.free()
    return {"launches": found}


def count_launches(lab: Lab, call: Callable[[], Any]) -> int | str:
    """Kernels, copies and fills that a call starts, by PyTorch's profiler; in a rehearsal by the stand-in."""
    if lab.rehearsal:
        with import_module("tests.gpu.standin").counter() as counts:
            call()
        return counts.launches
    try:
        profiler = lab.torch.profiler
        with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as profile:
            call()
            lab.synchronize()
        kind = lab.torch.autograd.DeviceType.CUDA
        return sum(event.device_type == kind for event in profile.events())
    except Exception as error:
        return f"not counted: {type(error).__name__}: {str(error)[:100]}"
