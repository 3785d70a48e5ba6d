"""CUDA text compiled for a card that need not be there, by NVIDIA's run-time compiler alone: there is no driver."""

import ctypes
import hashlib
import importlib.util
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_CACHE = Path(__file__).parents[2] / ".pytest_cache" / "nvrtc"
_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)


class CompileError(RuntimeError):
    """The text is no CUDA; what the compiler says about it."""


@dataclass(frozen=True)
class Kernel:
    """What one thread, or for shared memory one block, of a kernel occupies; bytes but for the registers."""

    registers: int
    shared: int
    stack: int
    spilled: int


@dataclass(frozen=True)
class Report:
    """Kernels by name, and whatever the compiler has to complain about."""

    kernels: dict[str, Kernel]
    complaints: str


def available():
    """Whether the wheel is installed."""
    return _library() is not None


@lru_cache
def _library():
    package = importlib.util.find_spec("nvidia")
    folders = list(package.submodule_search_locations or ()) if package else []
    found = [path for folder in folders for path in sorted(Path(folder).glob("cu1*/lib/libnvrtc.so.1?"))]
    return ctypes.CDLL(str(found[-1])) if found else None


def compile(code, architecture, options=("-std=c++17",)):
    """Compile for "sm_90" and the like.  What the compiler said is kept on the disk: it takes seconds.

    Raises:
        CompileError: there is an error in the text.
    """
    options = (*options, f"--gpu-architecture={architecture}", "--ptxas-options=-v")
    key = "\0".join((code, *options, str(_version())))
    kept = _CACHE / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.log"
    if not kept.exists():
        log = _compile(code, options)
        _CACHE.mkdir(parents=True, exist_ok=True)
        kept.write_text(log, encoding="utf-8")
    return _read(kept.read_text(encoding="utf-8"))


def _version():
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def _compile(code, options):
    library, program, size = _library(), ctypes.c_void_p(), ctypes.c_size_t()
    if library.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None):
        raise CompileError("NVRTC does not take this text at all")
    try:
        texts = [option.encode() for option in options]
        failed = library.nvrtcCompileProgram(program, len(texts), (ctypes.c_char_p * len(texts))(*texts))
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise CompileError(log.value.decode())
    return log.value.decode()


def _read(log):
    kernels = {}
    for found in _KERNEL.finditer(log):
        number = {name: int(value or 0) for name, value in found.groupdict().items() if name != "name"}
        spilled = number["stores"] + number["loads"]
        kernels[found["name"]] = Kernel(number["registers"], number["shared"], number["stack"], spilled)
    complaints = [line for line in log.splitlines() if not re.match(r"ptxas info |ptxas +\. |\s*$", line)]
    return Report(kernels, "\n".join(complaints))
