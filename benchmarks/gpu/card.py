"""What was measured on, and the two ceilings: how fast the card copies, and how fast it multiplies."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from typing import Any

import numpy as np

from minires.backend import get_num_threads
from minires.backend.arrays import cuda_version
from minires.bench import machine
from minires.bench.timing import Spread
from minires.kernels.cuda.module import PRECISIONS

from .clock import DeviceClock, Work, of_torch
from .lab import Lab


def describe(lab: Lab) -> dict[str, Any]:
    """Card, driver, versions, processor and commit; asked once in a process."""
    if lab.described:
        return lab.described
    runtime = lab.xp.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    lab.described |= {
        "card": properties["name"].decode(),
        "compute capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": properties["multiProcessorCount"],
        "L2 bytes": properties["l2CacheSize"],
        "memory bytes": properties["totalGlobalMem"],
        "driver": _driver(),
        "CUDA of the driver": cuda_version(runtime.driverGetVersion()),
        "CUDA of CuPy": cuda_version(runtime.runtimeGetVersion()),
        "CuPy": lab.xp.__version__,
        "PyTorch": lab.torch and str(lab.torch.__version__),
        "CUDA of PyTorch": lab.torch and lab.torch.version.cuda,
        "cuDNN": lab.torch and lab.torch.backends.cudnn.version(),
        "NumPy": np.__version__,
        "threadpoolctl": version("threadpoolctl"),
        "host": machine.describe(get_num_threads()),
    }
    return lab.described


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def ceilings(lab: Lab) -> dict[str, Any]:
    """Bytes a second of a large copy, read and written, and FLOP/s of a large product in each precision.

    Measured once in a process.  Without PyTorch only float32 products are measured.
    """
    if lab.ceilings:
        return lab.ceilings
    lab.free()
    clock = DeviceClock(lab)
    found = {**_copy(lab, clock, lab.pick(1 << 29, 1 << 12)), "product": {}}
    size = lab.pick(8192, 32)
    for precision in PRECISIONS:
        rate = _product(lab, clock, size, precision)
        if rate is not None:
            found["product"][precision] = {"FLOP/s": rate, "size": size}
    lab.free()
    lab.ceilings.update(found)
    return found


def _copy(lab: Lab, clock: DeviceClock, count: int) -> dict[str, Any]:
    """One and the same copy as two contenders: what differs less than they do is noise."""
    source = lab.put(np.resize(np.random.default_rng(0).standard_normal(1 << 12, np.float32), count))
    target = lab.xp.empty_like(source)
    copy = Work(lambda: lab.xp.copyto(target, source), lab.xp.cuda.get_current_stream(), how="CuPy")
    seconds = clock.measure({"copy": copy, "again": copy})
    rate = 2 * source.nbytes / Spread.of(seconds["copy"]).median
    return {"copy": {"bytes/s": rate, "array bytes": source.nbytes},
            "noise": vars(Spread.of_ratios(seconds["copy"], seconds["again"]))}  # fmt: skip


def _product(lab: Lab, clock: DeviceClock, n: int, precision: str) -> float | None:
    a, b = np.random.default_rng(0).standard_normal((2, n, n), np.float32)
    if lab.torch is None:
        if precision != "fp32":
            return None
        x, y = lab.put(a), lab.put(b)
        work = Work(lambda: x @ y, lab.xp.cuda.get_current_stream(), how="CuPy")
        return 2 * n**3 / Spread.of(clock.measure({"product": work}, 0.02)["product"]).median
    dtype = {"bf16": lab.torch.bfloat16, "fp16": lab.torch.float16}.get(precision, lab.torch.float32)
    p, q = lab.tensor(a).to(dtype), lab.tensor(b).to(dtype)
    lab.synchronize()
    with lab.torch_precision(precision):
        seconds = clock.measure({"product": of_torch(lab, lambda: p @ q)}, 0.02)
    return 2 * n**3 / Spread.of(seconds["product"]).median


def peak(lab: Lab, precision: str) -> float | None:
    """FLOP/s of the large product, None where it was not measured."""
    entry = ceilings(lab)["product"].get(precision)
    return entry and entry["FLOP/s"]


def bandwidth(lab: Lab) -> float:
    """Bytes/s of the large copy."""
    return ceilings(lab)["copy"]["bytes/s"]
