"""What a measurement was made on, and the fastest that its BLAS can multiply."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from .. import __version__
from ..backend import has_gil
from ..errors import MiniresError
from ..kernels.numpy.product import AVX512

# variables that change how fast a library computes: a ratio means little without them
VARIABLES = (
    "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OPENBLAS_L2_SIZE", "MKL_NUM_THREADS", "MKL_ENABLE_INSTRUCTIONS",
    "BLIS_NUM_THREADS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "MINIRES_NUM_THREADS",
    "NPY_DISABLE_CPU_FEATURES", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MALLOC_ARENA_MAX",
    "GLIBC_TUNABLES", "PYTHON_GIL",
)  # fmt: skip


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h numbers what `mallopt` sets
_SIZES = 1 << 30, 1 << 25  # bytes, from which on it may give memory back; an old glibc takes no more than the second


class BlasPeak:
    """One large float32 product with all threads: what a convolution could hope for if it were nothing else.

    Args:
        threads: for BLAS.
    """

    def __init__(self, threads: int) -> None:
        self._threads, n = threads, 1024 if threads <= 4 else 2048
        self._a, self._b = np.random.default_rng(0).standard_normal((2, n, n), np.float32)
        self._product = np.empty_like(self._a)
        self._blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
        self.flop = 2 * n**3

    def __call__(self) -> None:
        """Multiply once."""
        with self._blas.limit(limits=self._threads):
            np.matmul(self._a, self._b, out=self._product)


class Others:
    """How much of the machine other programs use from now on.  Linux tells; elsewhere nobody knows.

    It matters: whoever waits for all of his threads, as BLAS and PyTorch do, becomes many times slower when one of the
    cores is taken, and nothing in his own times shows why.

    Args:
        now: for tests.
    """

    def __init__(self, now: Callable[[], tuple[float, float] | None] | None = None) -> None:
        self._now = now or _busy
        self._before = self._now()

    def share(self) -> float | None:
        """The part of all cores' time that others have used, 0 to 1; None where it is not known."""
        after = self._now()
        if self._before is None or after is None or after[1] <= self._before[1]:
            return None
        return max(0.0, (after[0] - self._before[0]) / (after[1] - self._before[1]))


def _busy() -> tuple[float, float] | None:
    """Seconds for which all cores have worked for others, and seconds that have passed, times the cores."""
    try:
        numbers = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        ticks = [int(n) / os.sysconf("SC_CLK_TCK") for n in numbers[:8]]  # user, nice, system, idle, iowait, ...
    except (OSError, ValueError, AttributeError):
        return None
    return sum(ticks) - ticks[3] - ticks[4] - sum(os.times()[:4]), sum(ticks)


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed for whoever asks next; whether it keeps all of it from now on.

    Otherwise it gives large arrays back to the system, and gets them again page by page: in a process that has not
    trained, PyTorch spends half of an inference on that.  minires recycles its arrays itself, and is not to win by it.

    Only glibc can do it, and an old one keeps only what is smaller than 32 MiB: then the answer is no.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another library than glibc
        return False
    for size in _SIZES:
        if mallopt(_MMAP_THRESHOLD, size) and mallopt(_TRIM_THRESHOLD, size):
            return size == _SIZES[0]
    return False


def describe(threads: int, with_torch: bool = False, kept: bool = False) -> dict[str, Any]:
    """Processor, versions, BLAS, commit and variables, as they go into a result; ``kept``: by `keep_freed_memory`."""
    torch = import_module("torch") if with_torch else None  # which may turn the interpreter's lock on
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": _python(),
        "numpy": np.__version__,
        "minires": __version__,
        "commit": _commit(),
        "threads": threads,
        "blas": [
            {name: library.get(name) for name in ("internal_api", "version", "architecture", "threading_layer")}
            for library in threadpoolctl.threadpool_info()
            if library["user_api"] == "blas"
        ],
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    if torch is not None:
        found["torch"] = {"version": torch.__version__, "cpu capability": torch.backends.cpu.get_cpu_capability()}
        found["malloc keeps freed memory"] = kept
    return found


def lines(machine: dict[str, Any]) -> list[str]:
    """The same for a reader."""
    blas = "; ".join(
        " ".join(str(b[name]) for name in ("internal_api", "version", "architecture") if b.get(name))
        for b in machine["blas"]
    )
    told = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} used; {machine['system']}",
        f"minires {machine['minires']} ({machine['commit'] or 'commit not known'}), Python {machine['python']}, "
        f"NumPy {machine['numpy']}",
        f"BLAS {blas or 'not known'}",
    ]
    if "torch" in machine:
        told.append(f"torch {machine['torch']['version']}, {machine['torch']['cpu capability']}")
        if machine.get("malloc keeps freed memory"):
            told.append("malloc keeps freed memory, or PyTorch would lose up to half of its time to page faults")
    if machine["environment"]:
        told.append("set: " + ", ".join(f"{name}={value}" for name, value in machine["environment"].items()))
    if "torch" in machine:
        told += _unequal(machine)
    return told


def _unequal(machine: dict[str, Any]) -> list[str]:
    """What to do where variables keep AVX-512, twice the arithmetic, from one contender and leave it to the other."""
    variables = machine["environment"]
    blas = any(library["architecture"] in AVX512 for library in machine["blas"])
    loops = machine["torch"]["cpu capability"] == "AVX512"
    most = variables.get("ONEDNN_MAX_CPU_ISA", variables.get("DNNL_MAX_CPU_ISA", "ALL")).upper()
    convolutions = most != "AVX" and not most.startswith(("SSE", "AVX2"))  # which oneDNN computes for PyTorch
    if loops and convolutions and not blas and "OPENBLAS_CORETYPE" in variables:
        return [
            "BLAS may not use AVX-512 here and PyTorch may, which is twice the arithmetic: unset",
            "OPENBLAS_CORETYPE, or set ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 as well",
        ]
    if blas and not (loops or convolutions):
        return [
            "PyTorch may not use AVX-512 here and BLAS may, which is twice the arithmetic: unset what",
            "holds PyTorch, or set OPENBLAS_CORETYPE=Haswell as well",
        ]
    return []


def need_torch() -> None:
    """Raise MiniresError, in a sentence that says what to do, unless PyTorch is here."""
    if find_spec("torch") is None:
        raise MiniresError("--vs torch needs PyTorch, which is not installed. Run pip install torch, or leave it out.")


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, platform.machine())


def _python() -> str:
    """The version, and whether threads share the work of a free-threaded Python."""
    version = platform.python_version()
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        version += " free-threaded" + (" (but with the GIL, see PYTHON_GIL)" if has_gil() else "")
    return version


def _commit() -> str | None:
    """The commit of this source, and whether files have changed since; None where there is no git."""
    here = ("git", "-C", str(Path(__file__).parent))
    commit = _output(*here, "rev-parse", "--short=10", "HEAD")
    changed = commit and _output(*here, "status", "--porcelain", "--untracked-files=all", "--", "..")
    return f"{commit} and changes" if changed else commit


def _output(*command: str) -> str | None:
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return shown.stdout.strip() or None
