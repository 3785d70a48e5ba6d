"""minires doctor."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..backend import cupy_problem
from .datasets import describe


def add(commands: Any) -> None:
    """Enter the command."""
    parser = commands.add_parser("doctor", help="what minires runs on", description="What is here, what is missing.")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print what there is."""
    problem = cupy_problem()
    lines = {
        "minires": __version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "NumPy": np.__version__,
        "BLAS": f"{_blas_name()}, {_blas_threads()}, {_gflops():.0f} GFLOP/s in float32",
        "CuPy": problem or "ready",
    }
    for name, text in lines.items():
        print(f"{name:<9} {text}")
    print("data")
    for line in describe():
        print(f"  {line}")


def _blas_name() -> str:
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas['name']} {blas.get('version', '')}".strip()
    except (KeyError, TypeError):
        return "unknown"


def _blas_threads() -> str:
    """How many threads the BLAS of NumPy's wheels uses, asked from the library itself."""
    folder = Path(np.__file__).parent
    for library in [*folder.parent.glob("numpy.libs/*openblas*"), *folder.glob(".dylibs/*openblas*")]:
        try:
            handle = ctypes.CDLL(str(library))
        except OSError:
            continue
        for name in ("scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads"):
            if hasattr(handle, name):
                return f"{getattr(handle, name)()} threads (OPENBLAS_NUM_THREADS changes that)"
    chosen = os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS")
    return f"{chosen} threads by the environment" if chosen else "threads not known"


def _gflops(n: int = 768) -> float:
    """The rate of one matrix product of this size, the best of five."""
    a = np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best / 1e9
