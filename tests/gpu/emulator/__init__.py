"""CUDA text run on the CPU: compiled by g++, one block after the other, a fiber for each thread of a block.

The text is compiled as it stands, with `CUDA_EMU` defined; `cuda_emu.h` holds the words it may use.  What is an error
on a card, or is left undefined there, is an error here: threads that wait at different barriers, a block that is too
large, an argument of the wrong type.  Shared memory starts each block as NaN: reading what nobody wrote is seen.

    module = compile('extern "C" __global__ void twice(float* x, int n) { ... }')
    module.get_function("twice")((1,), (32,), (x, np.int32(x.size)))
"""

import ctypes
import hashlib
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

_HERE = Path(__file__).parent
_OPTIONS = ("-std=c++20", "-O2", "-g1", "-w", "-march=native", "-fPIC", "-shared", "-fno-strict-aliasing")
if platform.machine() == "x86_64":
    _OPTIONS += ("-mno-red-zone",)  # fibers push onto a stack where the compiler may not have said it keeps anything
_SANITIZERS = {
    "thread": ("-DEMU_THREADS", "-O1", "-fsanitize=thread"),
    "address": ("-DEMU_THREADS", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}
_KERNEL = re.compile(
    r'extern\s*"C"\s*__global__\s+(?:void\s+)?'
    r"(?:__launch_bounds__\s*\(((?:[^()]|\([^()]*\))*)\)\s*)?(?:void\s+)?(\w+)\s*\("
)


class EmulatorError(RuntimeError):
    """What would be an error on a card, or undefined there."""


def available():
    """Whether there is a g++ that knows C++20."""
    return _toolchain() is not None


@lru_cache
def _toolchain():
    """The compiler and a description of it and of this processor; None without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        return None
    probe = subprocess.run(
        [compiler, "-###", "-E", *_OPTIONS, "-x", "c++", os.devnull], capture_output=True, text=True, check=False
    )  # -E for it would name a scratch file otherwise, another each time
    return (compiler, probe.stderr) if probe.returncode == 0 else None


def compile(code, options=(), sanitizer=None):
    """Compile CUDA text, or find what an earlier call compiled, and load it.

    options are definitions, -DNAME or -DNAME=VALUE; the -std of the card's compiler is not needed.  sanitizer is None,
    "thread" or "address", whose library then has to be loaded already: with it, as with -DEMU_THREADS, every CUDA
    thread is a thread of the system.
    """
    if not available():
        raise EmulatorError("the emulator needs g++ 11 or newer, on Linux")
    own = ["-DCUDA_EMU", *(_SANITIZERS[sanitizer] if sanitizer else ())]
    defined = ""
    for option in options:
        if option == "-DEMU_THREADS":
            own.append(option)
        elif option.startswith("-D"):
            defined += "#define {} {}\n".format(*(*option[2:].split("=", 1), "1")[:2])
        elif not option.startswith(("-std", "--std")):
            raise ValueError(f"the emulator knows the options -D and -std, not {option}")
    headers = "".join(path.read_text() for path in sorted(_HERE.glob("*.h")))
    key = "\0".join([code, defined, *own, headers, *_toolchain(), *_OPTIONS, _KERNEL.pattern])
    folder = Path(os.environ.get("MINIRES_EMULATOR_CACHE") or _HERE.parents[2] / ".pytest_cache" / "emulator")
    library = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # renamed when ready: others may be compiling it too
            _build(code, defined, own, Path(scratch) / library.name).replace(library)
    return _load(library)


def _build(code, defined, options, library):
    source = library.with_suffix(".cpp")
    text = f'{defined}#line 1 "kernels.cu"\n{code}\n'
    source.write_text(text)
    kernels = _KERNEL.findall(_run_compiler("-E", "-P", "-x", "c++", *options, source))
    table = [f"EMU_KERNEL({name}, {most_threads or 'emu::MOST'})" for most_threads, name in kernels]
    source.write_text(  # in a namespace without a name nothing is shared with other libraries
        f'#include "cuda_emu.h"\nnamespace {{\n{text}}}\n'
        f'extern "C" {{ extern const emu::Kernel emu_kernels[] = {{{", ".join([*table, "{}"])}}}; }}\n'
    )
    _run_compiler(*_OPTIONS, *options, f"-I{_HERE}", source, "-o", library)
    return library


def _run_compiler(*arguments):
    done = subprocess.run([_toolchain()[0], *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EmulatorError(f"the C++ compiler refuses this text:\n{done.stderr}")
    return done.stdout


class _Kernel(ctypes.Structure):
    """One row of the table in launch.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("letters", ctypes.c_char_p),
        ("pointers", ctypes.c_char_p),
        ("call", ctypes.c_void_p),
        ("most_threads", ctypes.c_uint),
    )


class Module:
    """The kernels of one text."""

    def __init__(self, library):
        self._library = ctypes.PyDLL(str(library))  # keeps the lock of the interpreter: there is one block at a time
        self._library.emu_launch.restype = ctypes.c_char_p
        self._functions = {}
        row = ctypes.addressof(ctypes.c_char.in_dll(self._library, "emu_kernels"))
        while (kernel := _Kernel.from_address(row)).name:
            self._functions[kernel.name.decode()] = Function(self._library, kernel)
            row += ctypes.sizeof(_Kernel)
        self._find_shared(library)

    def _find_shared(self, library):
        """Tell the library where its shared memory is: those variables of its functions that can be written."""
        listing = subprocess.run(["nm", "-S", str(library)], capture_output=True, text=True, check=True).stdout
        place = {words[3]: words for words in map(str.split, listing.splitlines()) if len(words) == 4}
        table = ctypes.addressof(ctypes.c_char.in_dll(self._library, "emu_kernels"))
        base = table - int(place["emu_kernels"][0], 16)
        own = [words for name, words in place.items() if name.startswith("_ZZ") and words[2] in "bBdD"]
        self._shared = (ctypes.c_size_t * (2 * len(own)))()  # the library reads it at each launch
        self._shared[0::2] = [base + int(address, 16) for address, *_ in own]
        self._shared[1::2] = [int(size, 16) for _, size, *_ in own]
        self._library.emu_shared(self._shared, len(own))

    @property
    def names(self):
        """The names of all kernels."""
        return sorted(self._functions)

    def get_function(self, name):
        """The kernel of this name."""
        if name not in self._functions:
            raise EmulatorError(f"no kernel is called {name!r}; the text has {', '.join(self.names) or 'none'}")
        return self._functions[name]


@cache
def _load(library):
    """The module of a file, once for all: what it told the library has to stay where it is."""
    return Module(library)


class Function:
    """One kernel.  Called with a grid, a block and the arguments, each a tuple, it runs to the end."""

    backwards = False  # whether blocks and threads start from the last one: no result may depend on it

    def __init__(self, library, kernel):
        self._library = library
        self._kernel = kernel
        self.name = kernel.name.decode()
        self._parameters = [
            (pointer == "*", np.dtype(letter))
            for pointer, letter in zip(kernel.pointers.decode(), kernel.letters.decode(), strict=True)
        ]

    def __call__(self, grid, block, args):
        grid = self._shape("grid", grid, (2**31 - 1, 65535, 65535))
        block = self._shape("block", block, (1024, 1024, 64))
        if math.prod(block) > self._kernel.most_threads:
            raise EmulatorError(f"{self.name}: a block of {block} is more than {self._kernel.most_threads} threads")
        if len(args) != len(self._parameters):
            raise EmulatorError(f"{self.name}: takes {len(self._parameters)} arguments, {len(args)} were given")
        values = b"".join(map(self._value, range(len(args)), args, self._parameters))
        message = self._library.emu_launch(
            ctypes.byref(self._kernel), (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), values,
            ctypes.c_bool(self.backwards),
        )  # fmt: skip
        if message:
            raise EmulatorError(f"{self.name}: {message.decode()}")

    def _shape(self, what, shape, limits):
        sizes = (*shape, 1, 1)[:3]
        if len(shape) > 3 or not all(1 <= size <= limit for size, limit in zip(sizes, limits, strict=True)):
            raise EmulatorError(f"{self.name}: a {what} has 1 to 3 sizes, from 1 to {limits}; got {tuple(shape)}")
        return sizes

    def _value(self, i, value, parameter):
        """The eight bytes that stand for this argument."""
        pointer, dtype = parameter
        where = f"{self.name}: argument {i}"
        if not pointer:
            if not isinstance(value, np.generic) or value.dtype != dtype:
                raise EmulatorError(f"{where} is {type(value).__name__} {value!r}, expected np.{dtype.name}")
            return value.tobytes().ljust(8)
        if type(value) is np.uintp and value == 0:  # a null pointer
            return bytes(8)
        if not isinstance(value, np.ndarray):
            raise EmulatorError(
                f"{where} is {type(value).__name__} {value!r}, expected an array, or np.uintp(0) for none"
            )
        if not value.flags.c_contiguous:
            raise EmulatorError(f"{where} {value.shape} has strides {value.strides}: make it C-contiguous")
        if dtype.char in "fdiqB" and value.dtype != dtype:
            raise EmulatorError(f"{where} is an array of {value.dtype}, expected {dtype}")
        return value.ctypes.data.to_bytes(8, "little")
