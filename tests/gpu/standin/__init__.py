"""A stand-in for CuPy 14 on machines without a GPU, stricter than CuPy where CuPy is silent or slow.

Arrays compute with NumPy but refuse everything that would cross to the host unseen.  Launches, synchronisations and
copies are counted.  Raw kernels run on the CPU.  What a graph captures is run again on the same memory.

    standin.install()            # import cupy now gives the stand-in
    with standin.counter() as counts:
        step()
    assert counts.launches <= 190 and not counts.synchronisations

It is stricter than CuPy in that
- a host array as an index, and a list of them as an index or a value, is refused rather than copied;
- an index out of range is an error, where CuPy wraps around;
- writing to a broadcast view is an error, where CuPy lets its elements race;
- a raw kernel takes C-contiguous arrays and NumPy scalars only, where CuPy passes any pointer;
- floats are not added by atomics (`add.at`), whose sums differ from run to run;
- new memory is poisoned, also that of `empty`;
- while capturing, memory must come from a private pool, and a graph is not launched once memory of it was freed.

What it does not have is an AttributeError that says so: add it here, as CuPy does it.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from . import creation, cuda, memory, raw, routines, streams
from .array import ndarray
from .launches import Counter, counter
from .memory import memory_limit

__all__ = ["Counter", "counter", "install", "memory_in_use", "memory_limit", "module", "ndarray", "uninstall"]


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"the stand-in for CuPy has no {self.__name__}.{name}. If CuPy 14 has it and minires needs it, add it to "
            "tests/gpu/standin."
        )


def _filled(name: str, **names: Any) -> _Module:
    made = _Module(name)
    vars(made).update(names)
    return made


_NUMPYS_OWN = (
    "bool_", "int8", "int16", "int32", "int64", "intp", "uint8", "uint16", "uint32", "uint64", "float16",
    "float32", "float64", "dtype", "newaxis", "inf", "nan", "pi", "e", "finfo", "iinfo", "result_type",
    "promote_types", "can_cast", "issubdtype", "floating", "integer", "generic",
)  # fmt: skip
_PUBLIC = {
    home: {k: v for k, v in vars(home).items() if k[0] != "_" and getattr(v, "__module__", "") == home.__name__}
    for home in (creation, routines, raw)
}
_memory = _filled("cupy.cuda.memory", OutOfMemoryError=memory.OutOfMemoryError, MemoryPool=memory.MemoryPool,
                  MemoryPointer=memory.MemoryPointer)  # fmt: skip
_runtime = _filled("cupy.cuda.runtime", **{k: getattr(cuda.runtime, k) for k in vars(cuda.runtime) if k[0] != "_"})
_cuda = _filled("cupy.cuda", **{k: getattr(cuda, k) for k in cuda.__all__}, memory=_memory, runtime=_runtime,
                stream=SimpleNamespace(Stream=streams.Stream, Event=streams.Event))  # fmt: skip
module = _filled(
    "cupy",
    **{name: getattr(np, name) for name in _NUMPYS_OWN},
    **routines.UFUNCS,
    **_PUBLIC[creation],
    **_PUBLIC[routines],
    **_PUBLIC[raw],
    ndarray=ndarray,
    cuda=_cuda,
    __version__="14.2.0",
    is_available=cuda.is_available,
    get_default_memory_pool=lambda: memory.default_pool,
    get_array_module=lambda *args: module if any(isinstance(a, ndarray) for a in args) else np,
    shares_memory=lambda a, b: np.shares_memory(a._array, b._array),
    may_share_memory=lambda a, b: np.may_share_memory(a._array, b._array),
)
_INSTALLED = {"cupy": module, "cupy.cuda": _cuda, "cupy.cuda.memory": _memory, "cupy.cuda.runtime": _runtime}
_before: dict[str, ModuleType | None] = {}


def install() -> ModuleType:
    """From now on ``import cupy`` gives the stand-in."""
    for name, made in _INSTALLED.items():
        _before.setdefault(name, sys.modules.get(name))
        sys.modules[name] = made
    return module


def uninstall() -> None:
    """Put back what was there before."""
    for name, was in _before.items():
        if was is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = was
    _before.clear()


def memory_in_use() -> int:
    """Bytes on the card that arrays or pools hold."""
    return memory.card.taken
