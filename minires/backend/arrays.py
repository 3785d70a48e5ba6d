"""Which array module an array belongs to, and the random generator that everything shares by default.

The only module that knows CuPy.  CuPy is imported when it is first asked for, never before: a broken CUDA installation
must not break a laptop that does not use it, so any exception from that import is kept and told at the first use.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import DeviceError

Array = Any  # numpy.ndarray or cupy.ndarray: the two share an interface, not a type


def _is_cupy(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "cupy"


def array_module(*arrays: Any) -> ModuleType:
    """The module that computes on these arrays: ``numpy`` or ``cupy``.  Numbers and None belong to either.

    Raises:
        DeviceError: host and device arrays are mixed; nothing is copied between them in silence.
    """
    if len(arrays) == 1 and type(arrays[0]) is np.ndarray:
        return np
    on_device = [a for a in arrays if _is_cupy(a)]
    if not on_device:
        return np
    on_host = [a for a in arrays if isinstance(a, np.ndarray) and a.ndim]
    if on_host:
        raise DeviceError(
            f"operands are on different devices: an array of shape {on_host[0].shape} is on the CPU and one of shape "
            f"{on_device[0].shape} is on the GPU. Move one of them first, so that both are on the same device."
        )
    return cupy()


def device_of(array: Any) -> str:
    """``"cuda"`` for a CuPy array, ``"cpu"`` for anything else."""
    return "cuda" if _is_cupy(array) else "cpu"


def cupy() -> ModuleType:
    """CuPy, with a usable GPU behind it.

    Raises:
        DeviceError: CuPy does not import, or finds no GPU; the cause is in the message.
    """
    problem = cupy_problem()
    if problem:
        raise DeviceError(problem)
    return importlib.import_module("cupy")


def cupy_problem() -> str | None:
    """Why the GPU cannot be used, in a sentence that says what to install; None if it can."""
    try:
        module = importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return "CuPy is not installed. For an NVIDIA GPU: pip install 'minires[cuda12]' or 'minires[cuda13]'."
        return f"CuPy does not import: {error!r}. Reinstall it: pip install --force-reinstall 'minires[cuda12]'."
    except Exception as error:  # a wrong driver or wheel can raise anything at all here
        return f"CuPy does not import: {error!r}. Check that its wheel (cuda12 or cuda13) matches the driver."
    if not module.cuda.is_available():
        return f"CuPy {module.__version__} imports but finds no usable NVIDIA GPU or driver (see nvidia-smi)."
    return None


def asnumpy(array: Any) -> np.ndarray:
    """The array on the host: itself if it is there already, a copy if it is on a GPU."""
    return array.get() if _is_cupy(array) else np.asarray(array)


_generator = np.random.default_rng()


def default_generator() -> np.random.Generator:
    """The generator used by initialisers and dropout that are not given one."""
    return _generator


def manual_seed(seed: int) -> np.random.Generator:
    """Start the default generator again from ``seed``, and return it."""
    global _generator
    _generator = np.random.default_rng(seed)
    return _generator
