"""What the card and CuPy do, without minires' network: launches, graphs, what capture refuses, reductions."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minires.bench.timing import Spread
from minires.kernels.cuda import plain
from minires.kernels.cuda.module import compile_all

from .clock import DeviceClock, Work
from .lab import Lab
from .record import tell

_ONE = 'extern "C" __global__ void add_one(float* x) { if (threadIdx.x == 0) x[0] += 1.f; }'


def measure(lab: Lab) -> dict[str, Any]:
    """Section facts."""
    started = time.perf_counter()
    compile_all(report=tell)
    lab.synchronize()
    found: dict[str, Any] = {"compile all kernels s": time.perf_counter() - started}
    found["launches us"] = _launches(lab)
    found["graph"] = _graphs(lab)
    found["refused while capturing"] = _refusals(lab)
    found["reductions us"] = _reductions(lab)
    return found


def _launches(lab: Lab) -> dict[str, Any]:
    """Microseconds of the host until a call returns, and until the card has done it, in a long row of calls."""
    xp = lab.xp
    x, m = lab.put(np.random.default_rng(0).standard_normal(1024, np.float32)), xp.ones((256, 256), np.float32)
    y, raw = xp.empty_like(x), xp.RawModule(code=_ONE, options=("-std=c++17",)).get_function("add_one")
    calls: dict[str, Callable[[], Any]] = {
        "raw kernel": lambda: raw((1,), (32,), (x,)),
        "ufunc into an array": lambda: xp.add(x, x, out=y),
        "ufunc into a new array": lambda: x + x,
        "sum": lambda: x.sum(),
        "sum of an axis": lambda: m.sum(0),
        "product 256": lambda: m @ m,
    }
    found = {}
    for name, call in calls.items():
        times = []
        for _ in range(lab.pick(5, 1)):
            times.append(_row_of_calls(lab, call, lab.pick(1000, 3)))
        host, whole = np.median(times, 0)
        found[name] = {"host": float(host), "done": float(whole)}
        tell(f"  {name:24s} host {host:7.2f} us, done {whole:7.2f} us")
    return found


def _row_of_calls(lab: Lab, call: Callable[[], Any], number: int) -> tuple[float, float]:
    for _ in range(lab.pick(50, 1)):
        call()
    lab.synchronize()
    started = time.perf_counter()
    for _ in range(number):
        call()
    issued = time.perf_counter() - started
    lab.synchronize()
    return 1e6 * issued / number, 1e6 * (time.perf_counter() - started) / number


def _graphs(lab: Lab) -> dict[str, Any]:
    """Microseconds of a node of a graph whose nodes wait for one another, and of the call that launches it."""
    xp, clock = lab.xp, DeviceClock(lab)
    x, raw = xp.ones(1024, np.float32), xp.RawModule(code=_ONE, options=("-std=c++17",)).get_function("add_one")
    found = {}
    lab.synchronize()
    for nodes in lab.pick((100, 200, 1000), (5,)):
        with lab.stream:
            raw((1,), (32,), (x,))
            lab.stream.synchronize()
            lab.stream.begin_capture()
            for _ in range(nodes):
                raw((1,), (32,), (x,))
            graph = lab.stream.end_capture()
        launch = partial(graph.launch, lab.stream)
        seconds = Spread.of(clock.measure({"graph": Work(launch, lab.stream, nodes)})["graph"])
        issue, _ = _row_of_calls(lab, launch, lab.pick(200, 2))
        found[str(nodes)] = {"us a node": 1e6 * seconds.median, "launch call us": issue}
        tell(f"  graph of {nodes} nodes: {1e6 * seconds.median:.3f} us a node, {issue:.1f} us for the call")
    return found


def _refusals(lab: Lab) -> dict[str, str]:
    """Which operations CuPy records and which it refuses while a stream is being captured."""
    xp, stream = lab.xp, lab.xp.cuda.Stream(non_blocking=True)
    host = np.ones((64, 64), np.float32)
    m = lab.put(host)
    pool = xp.cuda.MemoryPool()
    operations: dict[str, Callable[[], Any]] = {
        "ufunc": lambda: m + m,
        "sum of an axis": lambda: m.sum(0),
        "sum": lambda: m.sum(),
        "index by an array": lambda: m[xp.arange(3)],
        "product": lambda: m @ m,
        "copy to the card": lambda: xp.asarray(host),
        "copy to the host": lambda: m.get(),
        "item": lambda: m[0, 0].item(),
        "synchronize": lambda: stream.synchronize(),
    }
    found = {}
    for name, operation in operations.items():
        with stream, xp.cuda.using_allocator(pool.malloc):
            operation()
            stream.synchronize()
            stream.begin_capture()
            kept: Any = None
            try:
                kept = operation()
                found[name] = "recorded"
            except Exception as error:
                found[name] = f"{type(error).__name__}: {str(error)[:100]}"
            try:
                stream.end_capture()
            except Exception as error:
                found[name] += f"; at the end {type(error).__name__}: {str(error)[:100]}"
            del kept
        tell(f"  while capturing, {name}: {found[name]}")
    return found


def _reductions(lab: Lab) -> dict[str, Any]:
    """The reduction trap: the sum of each channel by CuPy's own reduction, and in two stages."""
    clock, found = DeviceClock(lab), {}
    stream = lab.xp.cuda.get_current_stream()
    for size, channels in lab.pick(((32, 16), (16, 32), (8, 64)), ((4, 4),)):
        shape = (lab.pick(128, 2), size, size, channels)
        x = lab.put(np.random.default_rng(0).standard_normal(shape, np.float32))
        works = {
            "x.sum((0, 1, 2))": Work(partial(x.sum, (0, 1, 2)), stream, held=True),
            "x.var((0, 1, 2))": Work(partial(x.var, (0, 1, 2)), stream, held=True),
            "channel_sum": Work(partial(plain.channel_sum, x), stream, held=True),
        }
        times = clock.measure(works, turn=1e-3)
        found["x".join(map(str, shape))] = {name: 1e6 * Spread.of(s).median for name, s in times.items()}
    for name, values in found.items():
        tell(f"  {name}: " + ", ".join(f"{kind} {us:.1f} us" for kind, us in values.items()))
    return found
