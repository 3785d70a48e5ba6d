"""Which array module an array belongs to, and the random generator that everything shares by default.

The only module that imports CuPy, and only when a GPU is first asked for: a broken CUDA installation must not break a
laptop that does not use it.  So any exception from that import is kept, and told at the first use.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import ArgumentError, DeviceError

Array = Any  # numpy.ndarray or cupy.ndarray: the two share an interface, not a type
DEVICES = ("cpu", "cuda")

# every distribution that brings a package called cupy
_WHEELS = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x", "cupy-rocm-5-0", "cupy-rocm-7-0")
_INSTALL = "For an NVIDIA GPU: pip install 'minires[cuda12]' or 'minires[cuda13]', whichever CUDA the driver has."


class _Gpu:
    """What is known of CuPy.  It is imported once in a process: asking again costs nothing."""

    def __init__(self) -> None:
        self.used = False  # whether arrays can be on a GPU at all; while they cannot, nobody need ask where one is
        self.module: ModuleType | None = None
        self.asked = False
        self.problem: str | None = None
        self.cause: BaseException | None = None


gpu = _Gpu()


def _forget_cupy() -> None:
    """Ask again at the next use: for tests, which put a CuPy there and take it away."""
    vars(gpu).update(vars(_Gpu()))


# -- which device -----------------------------------------------------------------------------------------------------


class _Kinds(dict[type, bool]):
    """Whether a class is CuPy's, looked up once."""

    def __missing__(self, kind: type) -> bool:
        answer = self[kind] = kind.__module__.partition(".")[0] == "cupy"
        return answer


_is_of_cupy = _Kinds()


def on_gpu(value: Any) -> bool:
    """Whether it is a CuPy array."""
    return _is_of_cupy[type(value)]


def device_of(array: Any) -> str:
    """``"cuda"`` for a CuPy array, ``"cpu"`` for anything else."""
    return "cuda" if _is_of_cupy[type(array)] else "cpu"


def check_device(device: Any) -> str:
    """The name of a device that can be used: ``"cpu"`` or ``"cuda"``.

    Raises:
        ArgumentError: it is the name of none.
        DeviceError: it is ``"cuda"``, and there is no usable GPU.
    """
    if device not in DEVICES:
        advice = "Write 'cpu', or 'cuda' for the GPU."
        if str(device).startswith("cuda:"):
            advice = f"minires uses one GPU: write 'cuda', and choose it with CUDA_VISIBLE_DEVICES={str(device)[5:]}."
        raise ArgumentError(f"there is no device {device!r}. {advice}")
    if device == "cuda":
        cupy()
    return device


def array_module(*arrays: Any, caller: str = "") -> ModuleType:
    """The module that computes on these arrays: ``numpy`` or ``cupy``.  Numbers and None belong to either.

    Raises:
        DeviceError: host and device arrays are mixed; nothing is copied between them in silence.  The message begins
            with ``caller``.
    """
    if len(arrays) == 1 and type(arrays[0]) is np.ndarray:
        return np
    if not any(_is_of_cupy[type(a)] for a in arrays):
        return np
    on_one_device(caller, *arrays)
    return cupy()


def on_one_device(caller: str, *values: Any) -> list[Any]:
    """The values, where those beside an array on the GPU that are host arrays of one number have become that number.

    Raises:
        DeviceError: one array is on the GPU and another, of one axis or more, on the CPU.
    """
    if not any(map(on_gpu, _inside(values))):
        return list(values)
    stray = next((v for v in _inside(values) if isinstance(v, np.ndarray) and v.ndim), None)
    if stray is not None:
        there = next(filter(on_gpu, _inside(values)))
        raise DeviceError(
            f"{caller and caller + ': '}the operands are on different devices: one of {_described(there)} is on cuda "
            f"and one of {_described(stray)} on cpu. Nothing is copied in silence: move one of them first, with "
            '.to("cuda") or .to("cpu").'
        )
    return [v[()] if isinstance(v, np.ndarray) else v for v in values]


def _inside(values: Any) -> Iterator[Any]:
    """The values, and those in a tuple among them: an index is one."""
    for value in values:
        yield from value if isinstance(value, tuple) else (value,)


def _described(array: Any) -> str:
    return f"shape {array.shape} and {getattr(array, 'dtype', 'unknown dtype')}"


# -- CuPy -------------------------------------------------------------------------------------------------------------


def cupy() -> ModuleType:
    """CuPy, with a usable GPU behind it.

    Raises:
        DeviceError: CuPy does not import, or finds no GPU; what was wrong is in the message, and its cause behind it.
    """
    if gpu.module is None:
        problem = cupy_problem()
        if problem:
            raise DeviceError(problem) from gpu.cause
    return gpu.module  # type: ignore[return-value]


def cupy_problem() -> str | None:
    """Why the GPU cannot be used, in a sentence that says what to install; None if it can."""
    if not gpu.asked:
        gpu.problem = _import_cupy()
        gpu.asked = True
    return gpu.problem


def _import_cupy() -> str | None:
    wheels = [name for name in _WHEELS if _installed(name)]
    if len(wheels) > 1:
        return (
            f"two CuPy wheels are installed, {' and '.join(wheels)}, and each has overwritten files of the other. "
            f"Take both out (pip uninstall {' '.join(wheels)}) and install one. {_INSTALL}"
        )
    try:
        module = importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        gpu.cause = error
        if error.name == "cupy":
            return f"CuPy is not installed. {_INSTALL}"
        return f"CuPy does not import: {error!r}. Reinstall it: pip install --force-reinstall 'minires[cuda12]'."
    except (Exception, SystemExit) as error:  # a wrong driver or wheel can raise anything at all here
        gpu.cause = error
        return f"CuPy does not import: {error!r}. Check that its wheel (cuda12 or cuda13) matches the driver."
    problem = _gpu_problem(module)
    if problem is None:
        gpu.module, gpu.used = module, True
    return problem


def _installed(wheel: str) -> bool:
    try:
        return bool(importlib.metadata.version(wheel))
    except importlib.metadata.PackageNotFoundError:
        return False


def _gpu_problem(module: ModuleType) -> str | None:
    """CuPy imports without a GPU and without a driver too."""
    name = f"CuPy {getattr(module, '__version__', '?')}"
    try:
        if module.cuda.is_available():
            return None
        driver = module.cuda.runtime.driverGetVersion()
    except Exception as error:
        gpu.cause, driver = error, 0
    if not driver:
        return f"{name} imports, but there is no usable NVIDIA driver. Install one until nvidia-smi lists the GPU."
    try:
        module.cuda.runtime.getDeviceCount()
    except Exception as error:
        gpu.cause = error
    reason = f" ({gpu.cause})" if gpu.cause else ""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = "Does nvidia-smi list one?" if hidden is None else f"CUDA_VISIBLE_DEVICES={hidden!r} may hide it."
    return f"{name} imports, but finds no GPU behind the driver for CUDA {cuda_version(driver)}{reason}. {hint}"


def cuda_version(number: int) -> str:
    """A version as CUDA counts them: 12040 is "12.4"."""
    return f"{number // 1000}.{number % 1000 // 10}"


# -- copies -----------------------------------------------------------------------------------------------------------


def asnumpy(array: Any) -> np.ndarray:
    """The array on the host: itself if it is there already, a copy if it is on a GPU."""
    return array.get() if on_gpu(array) else np.asarray(array)


def host_copy(array: Any) -> np.ndarray:
    """A copy on the host, from either device."""
    return array.get() if on_gpu(array) else np.array(array, order="C")


def to_device(array: Any, device: str) -> Array:
    """The array on that device: itself if it is there already, otherwise a copy."""
    if device_of(array) == check_device(device):
        return array
    return array.get() if device == "cpu" else cupy().asarray(array)


# -- random numbers ---------------------------------------------------------------------------------------------------

_generator = np.random.default_rng()


def default_generator() -> np.random.Generator:
    """The generator used by initialisers and dropout that are not given one.  It is on the host, for every device."""
    return _generator


def manual_seed(seed: int) -> np.random.Generator:
    """Start the default generator again from ``seed``, and return it."""
    global _generator
    _generator = np.random.default_rng(seed)
    return _generator
