"""minires bench."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backend import get_num_threads, set_num_threads
from ..errors import ArgumentError
from ..train import Interrupted

if TYPE_CHECKING:
    from ..bench.machine import Others
    from ..bench.networks import Network
    from ..bench.report import Row

_BENCHES = ("kernels", "step", "inference", "overhead", "memory")
_USUAL = _BENCHES[:3]

_DESCRIPTION = """Measure. Contenders take turns, round by round; what is told is a median with its quartiles. Without
arguments: kernels, training step and inference of ResNet-20, in less than a minute."""


def add(commands: Any) -> None:
    """Enter the command."""
    parser = commands.add_parser("bench", help="how fast it is, beside PyTorch if asked", description=_DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(_BENCHES)} (the first three)")
    parser.add_argument("--models", nargs="+", metavar="MODEL",
                        help="resnet20, resnet56, resnet110, resnet18-cifar, resnet18, ... (resnet20)")  # fmt: skip
    parser.add_argument("--batch", type=int, metavar="N", help="pictures (128, or 16 of 224x224)")
    parser.add_argument("--vs", choices=("torch",), help="run PyTorch in turn: same weights, data and threads")
    parser.add_argument("--threads", type=int, metavar="N", help="of minires, and of PyTorch (as many as BLAS has)")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each contender (11; 5 for the ladder)")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="folder for JSON and charts (benchmarks/results/bench, where that is)")  # fmt: skip
    parser.add_argument("--ladder", type=int, nargs="*", metavar="RUNG",
                        help="a training step from naive loops to today's kernels; all rungs, or these")  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Measure, print, and keep the results."""
    from ..bench import machine
    from ..bench.networks import network

    _check(options)
    networks = [network(name) for name in options.models or ["resnet20"]]
    beside, kept = None, False
    if options.vs:
        machine.need_torch()
        kept = machine.keep_freed_memory()
        beside = import_module("minires.bench.torch_side")
    before, threads = get_num_threads(), options.threads or get_num_threads()
    torch_before = beside.set_num_threads(threads) if beside else 0
    set_num_threads(threads)
    try:
        result: dict[str, Any] = {
            "command": shlex.join(["minires", *options.words]),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine.describe(threads, bool(beside), kept),
            "rounds": options.rounds or (11 if options.ladder is None else 5),
        }
        print(*machine.lines(result["machine"]), sep="\n", flush=True)
        if options.ladder is not None:
            _ladder(options, result, networks[0], threads, machine.Others())
        else:
            _benches(options, result, networks, threads, beside, machine.Others())
    finally:
        set_num_threads(before)
        if beside:
            beside.set_num_threads(torch_before)


def _check(options: argparse.Namespace) -> None:
    for name in options.what:
        if name not in _BENCHES:
            raise ArgumentError(f"there is no benchmark {name!r}; choose from {', '.join(_BENCHES)}.")
    for name in ("batch", "threads", "rounds"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ArgumentError(f"--{name} must be at least 1, got {value}.")
    if options.out and options.out.exists() and not options.out.is_dir():
        raise ArgumentError(f"--out: {options.out} is a file; the results need a folder.")
    if options.ladder is not None:
        _check_ladder(options)


def _check_ladder(options: argparse.Namespace) -> None:
    from ..bench.ladder import RUNGS

    if options.what or options.vs:
        extra = options.what[0] if options.what else "--vs"
        raise ArgumentError(f"--ladder is a benchmark of its own and does not go with {extra}. Run them one by one.")
    if len(options.models or ()) > 1:
        raise ArgumentError(f"--ladder takes one model, got {len(options.models)}. Run them one by one.")
    for number in options.ladder:
        if not 1 <= number <= len(RUNGS):
            raise ArgumentError(f"--ladder: the rungs are 1 to {len(RUNGS)}, got {number}.")
    if options.ladder and options.out:
        raise ArgumentError("--out keeps whole ladders only. Leave it out, or the numbers of the rungs.")


def _benches(
    options: argparse.Namespace,
    result: dict[str, Any],
    networks: list[Network],
    threads: int,
    beside: Any,
    others: Others,
) -> None:
    from ..bench.report import Table, disturbed, notes

    rows: list[Row] = []
    table = Table(tuple(beside.LAYOUTS) if beside else ())
    try:
        for row in _rows(options, networks, result["rounds"], threads, beside):
            rows.append(row)
            print(*table.lines(row), sep="\n", flush=True)
    except KeyboardInterrupt:
        if not rows:
            raise
        result["stopped"] = True
    result["used by others"] = others.share()
    print("", *notes(rows), *disturbed(result["used by others"]), sep="\n")
    _end(result, _keep(options, result, rows))


def _rows(
    options: argparse.Namespace, networks: list[Network], rounds: int, threads: int, beside: Any
) -> Iterator[Row]:
    from ..bench import kernels, memory, overhead
    from ..bench import networks as whole

    for what in dict.fromkeys(options.what or _USUAL):
        if what == "overhead":
            yield from overhead.measure(rounds, beside)
            continue
        for net in networks:
            arguments = net, options.batch, rounds
            if what == "kernels":
                yield from kernels.measure(*arguments, threads, beside)
            elif what == "step":
                yield from whole.steps(*arguments, beside)
            elif what == "inference":
                yield from whole.inferences(*arguments, beside)
            else:
                yield from memory.measure(*arguments, threads, beside)


def _keep(options: argparse.Namespace, result: dict[str, Any], rows: list[Row]) -> str:
    """Write the files, and say where they are."""
    from ..bench.results import HOME, save

    if options.out is None and not HOME.is_dir():
        return "nothing was written: --out DIR keeps the results"
    return "kept in " + " and ".join(map(str, save(options.out or HOME / "bench", result, rows)))


def _end(result: dict[str, Any], kept: str) -> None:
    if "stopped" in result:
        raise Interrupted(f"stopped; {kept}")
    print(kept)


def _ladder(options: argparse.Namespace, result: dict[str, Any], net: Network, threads: int, others: Others) -> None:
    from ..bench import results
    from ..bench.ladder import RUNGS, climb, label
    from ..bench.report import disturbed

    times: dict[str, list[float]] = {}
    batch, chosen = options.batch or net.batch, sorted(set(options.ladder)) or range(1, len(RUNGS) + 1)
    try:
        climb(net, batch, result["rounds"], threads, chosen, times, print)
    except KeyboardInterrupt:
        if not times:
            raise
        result["stopped"] = True
    result |= {"model": net.name, "batch": batch, "used by others": others.share()}
    result["rungs"] = results.ladder(times, scaled=label(1))
    print("", f"one training step of {net.name}, batch {batch}", *results.ladder_lines(result["rungs"]),
          *disturbed(result["used by others"]), sep="\n")  # fmt: skip
    kept = "nothing was written: --out DIR keeps the results"
    if options.out:
        kept = "kept in " + ", ".join(map(str, results.save_ladder(options.out, result)))
    _end(result, kept)
