"""minires doctor."""

from __future__ import annotations

import argparse
import time
from typing import Any

from .. import cuda
from ..backend import get_num_threads
from ..backend.room import free_memory, in_bytes
from .datasets import describe


def add(commands: Any) -> None:
    """Enter the command."""
    parser = commands.add_parser("doctor", help="what minires runs on", description="What is here, what is missing.")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print what there is."""
    from ..bench import machine  # only here: it is not needed to train

    threads = get_num_threads()
    for line in machine.lines(machine.describe(threads)):
        print(line)
    rate = _gflops(machine.BlasPeak(threads))
    print(f"{rate:.0f} GFLOP/s in a float32 product on {threads} threads (MINIRES_NUM_THREADS changes that)")
    print(_gpu())
    print("data")
    for line in describe():
        print(f"  {line}")


def _gpu() -> str:
    """One line about the GPU, or why there is none."""
    problem = cuda.problem()
    if problem is not None:
        return f"no GPU: {problem}"
    gpu = cuda.properties()
    return (
        f"GPU {gpu['name']}, compute capability {gpu['compute_capability']}, {in_bytes(gpu['memory'])} of memory, "
        f"{in_bytes(free_memory()[0])} free; driver for CUDA {gpu['driver']}, runtime {gpu['runtime']}, "
        f"CuPy {gpu['cupy']}"
    )


def _gflops(product: Any) -> float:
    """The rate of a large matrix product, the best of five."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        product()
        times.append(time.perf_counter() - started)
    return product.flop / min(times) / 1e9
