"""The most memory that a training step takes, above what stood before it.

Each measurement is a process of its own, so that nobody finds the memory that another has left.  The process builds
model and data (PyTorch's weights come from a minires model, which stays), gives back what is free, notes what it
occupies, takes two steps (the first one makes the optimiser's buffers), and reads how high it came.  Linux tells all
that in /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..backend import set_num_threads
from ..errors import MiniresError
from .networks import Network, network, train_step
from .report import Row

_STEPS = 2
_ROUNDS = 3  # a process costs seconds, and memory hardly varies
_STATUS = Path("/proc/self/status")


def measure(net: Network, batch: int | None, rounds: int, threads: int, beside: Any = None) -> Iterator[Row]:
    """The peak of a training step in MB (10^6 bytes), of three processes at most.

    Args:
        net: what to train.
        batch: pictures in a step, or None for the usual.
        rounds: processes of each contender.
        threads: of each.
        beside: the module `torch_side`, to measure PyTorch too.

    Raises:
        MiniresError: the system does not tell, or a process failed.
    """
    if not _STATUS.exists():
        raise MiniresError("memory is measured on Linux only, by /proc/self/status, which is not here. Leave it out.")
    number = batch or net.batch
    values: dict[str, list[float]] = {"minires": [], **{name: [] for name in (beside.LAYOUTS if beside else ())}}
    for _ in range(min(rounds, _ROUNDS)):
        for name, found in values.items():
            found.append(_in_process(net.name, number, name, threads) / 1e6)
    yield Row("memory", net.name, f"training step of {net.name}, above model and data", f"batch {number}", "MB", values)


def _in_process(name: str, batch: int, contender: str, threads: int) -> int:
    command = [sys.executable, "-m", "minires.bench.memory", name, str(batch), contender, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise MiniresError(f"memory: the process that measures {contender} failed ({last}). Try a smaller --batch.")
    return json.loads(done.stdout)["bytes"]


def main(arguments: list[str]) -> None:
    """Measure one contender in this process: model, batch, contender, threads; prints JSON."""
    name, batch, contender, threads = arguments[0], int(arguments[1]), arguments[2], int(arguments[3])
    net = network(name)
    pictures, labels = net.data(batch)
    model = net.build()
    set_num_threads(threads)
    if contender == "minires":
        step = train_step(model, pictures, labels)
    else:
        from . import torch_side

        torch_side.set_num_threads(threads)
        step = torch_side.train_step(torch_side.twin(net, model, contender), contender, pictures, labels)
    _return_what_is_free()
    before = _kilobytes("VmRSS")
    _forget_the_highest()
    for _ in range(_STEPS):
        step()
    print(json.dumps({"bytes": 1024 * (_kilobytes("VmHWM") - before)}))


def _kilobytes(name: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def _return_what_is_free() -> None:
    """Give the system what building has left over: a step that used it again would seem to need less.  glibc only."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _forget_the_highest() -> None:
    """Start VmHWM again from the present.  A container may forbid it; building a model is no match for a step then."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main(sys.argv[1:])
