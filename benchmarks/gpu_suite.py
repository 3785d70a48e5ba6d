"""Everything that is to be measured where there is an NVIDIA GPU, in commands of less than ten minutes.

    python benchmarks/gpu_suite.py --out runs/gpu --data .cifar10 --budget 540 --archive $OUT/gpu.tar.gz

The same command again goes on where the last one stopped: three of them do what matters most, five everything, if the
expected seconds (--list) are right.  A section writes DIR/SECTION.json when it is finished and not before, and is left
out when that is there; a schedule goes on from its checkpoint.  What fails is recorded with its traceback, and the
others follow in a new process, because an error on the card spoils the process that it happened in.

Before the first command put CIFAR-10 into .cifar10 (git ignores it): the folder cifar-10-batches-bin, an archive of it,
or the packs train-jpeg.npz and test-jpeg.npz, which are unpacked there.  Where the card is on another machine, which
gets a copy of the repository, have .cifar10 copied too, and give --commit, as there may be no git there.  --archive
packs all results into one file to take home: unpack it in the repository's root, where --plot and --table read it, and
have runs/gpu copied along to go on on a new machine.  What is to stay goes to benchmarks/results/gpu, the
JSON files and the pictures.

    python benchmarks/gpu_suite.py --list                   sections, how long they should take, which are there
    python benchmarks/gpu_suite.py --plot runs/gpu          pictures, without a GPU
    python benchmarks/gpu_suite.py --table runs/gpu         tables for the README, without a GPU
    python benchmarks/gpu_suite.py --rehearse               all sections at tiny sizes on the tests' stand-in for CuPy
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_SLOW = 4  # times its expected seconds, after which a section is given up
_RUNNING = "running"  # the file that says which section is being measured
_STATES = ("checkpoint.npz", "torch.pt")  # of runs, to go on with
_WAKE = 0.2  # seconds
_GRACE = 20  # seconds beyond the budget, for what is about to write its file


def main() -> int:
    """Measure, rehearse, or show what was measured."""
    options = _options()
    if options.plot:
        from benchmarks.gpu.plots import draw_all

        print(*draw_all(options.plot), sep="\n")
        return 0
    if options.table:
        from benchmarks.gpu.tables import tables

        print(tables(options.table))
        return 0
    if options.list:
        return _list(options)
    if options.worker:
        return _work(options)
    if options.rehearse:
        print("rehearsal: no figure below is a measurement", flush=True)
        if options.out is None:
            with tempfile.TemporaryDirectory() as scratch:
                options.out = Path(scratch)
                return _supervise(options)
    if options.out is None:
        sys.exit("--out says where the results go, for example --out runs/gpu")
    return _supervise(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="these sections; a name may end with *")
    parser.add_argument("--list", action="store_true", help="name the sections and stop")
    parser.add_argument("--budget", type=float, metavar="SECONDS", default=float("inf"),
                        help="begin no section that would be expected to end later")  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder that holds CIFAR-10")
    parser.add_argument("--again", action="store_true", help="measure sections anew that are there")
    parser.add_argument("--commit", help="of the source, where there is no git to ask")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="pack the results into a .tar.gz at the end")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU; measures nothing")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw the results of a folder")
    parser.add_argument("--table", type=Path, metavar="DIR", help="print the results of a folder as Markdown")
    parser.add_argument("--worker", nargs="+", metavar="SECTION", help=argparse.SUPPRESS)
    parser.add_argument("--stop-at", type=float, help=argparse.SUPPRESS)  # time.monotonic, which all processes share
    parser.add_argument("--typed", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("out", "data", "archive", "plot", "table"):
        if (path := getattr(options, name)) is not None:
            setattr(options, name, path.resolve())
    options.typed = options.typed or shlex.join(["python", "benchmarks/gpu_suite.py", *sys.argv[1:]])
    return options


# -- the process that hands out sections, and never touches the card --------------------------------------------------


def _supervise(options: argparse.Namespace) -> int:
    """Let a process go through the sections, and another one through the rest whenever that ends early."""
    from benchmarks.gpu.record import tell

    began = time.monotonic()
    stop_at = began + options.budget
    options.out.mkdir(parents=True, exist_ok=True)
    waiting = _waiting(options)
    outcomes: dict[str, str] = {}
    seconds: dict[str, float] = {}
    while waiting:
        waiting, late = _in_time(waiting, stop_at)
        outcomes |= dict.fromkeys(late, "no time left")
        if waiting:
            ended = _one_process(options, waiting, stop_at, outcomes, seconds)
            waiting = [name for name in waiting if name not in ended]
    for name, outcome in outcomes.items():
        tell(f"{name:28s} {outcome:12s} {seconds.get(name, 0.0):7.1f} s")
    tell(f"{sum(o == 'done' for o in outcomes.values())} done, {time.monotonic() - began:.0f} s in all")
    if options.archive:
        _pack(options.out, options.archive)
    return int(any(outcome == "failed" for outcome in outcomes.values()))


def _waiting(options: argparse.Namespace) -> list[str]:
    """The sections that are asked for and not there yet."""
    from benchmarks.gpu.sections import SECTIONS

    names = [s.name for s in SECTIONS]
    wanted = options.only or names
    for name in wanted:
        if not any(_means(name, n) for n in names):
            sys.exit(f"there is no section {name!r}; --list names them.")
    chosen = [s for s in SECTIONS if any(_means(name, s.name) for name in wanted)]
    if options.again:
        for section in chosen:
            section.file(options.out).unlink(missing_ok=True)
            shutil.rmtree(options.out / section.name, ignore_errors=True)
    missing = [s for s in chosen if not section_is_there(s.file(options.out))]
    # what failed before is tried again when everything else is done
    return [s.name for s in sorted(missing, key=lambda s: s.file(options.out).exists())]


def _means(given: str, name: str) -> bool:
    return name.startswith(given[:-1]) if given.endswith("*") else given == name


def section_is_there(path: Path) -> bool:
    """Whether a section was measured; a failure is tried again."""
    return path.exists() and "failed" not in json.loads(path.read_text(encoding="utf-8"))


def _in_time(names: list[str], stop_at: float) -> tuple[list[str], list[str]]:
    """Those that can begin, and those that there is no time for; what resumes needs only some of its time."""
    from benchmarks.gpu.sections import SECTIONS

    known = {s.name: s for s in SECTIONS}
    left = stop_at - time.monotonic()
    fits = {name: (30.0 if known[name].resumes else known[name].seconds) <= left for name in names}
    return [n for n in names if fits[n]], [n for n in names if not fits[n]]


def _one_process(
    options: argparse.Namespace, waiting: list[str], stop_at: float, outcomes: dict[str, str], seconds: dict[str, float]
) -> set[str]:
    """Run a process until it ends or a section of it takes far too long; the sections that it has ended."""
    from benchmarks.gpu.record import record_loss
    from benchmarks.gpu.sections import SECTIONS

    known = {s.name: s for s in SECTIONS}
    state = options.out / _RUNNING
    state.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--worker", *waiting, "--out", str(options.out), "--typed", options.typed]
    command += ["--stop-at", repr(stop_at)] + ["--rehearse"] * options.rehearse
    for name in ("data", "commit"):
        command += [f"--{name}", str(getattr(options, name))] if getattr(options, name) else []
    process = subprocess.Popen(command, cwd=ROOT)
    slow = False
    try:
        while process.poll() is None:
            time.sleep(_WAKE)
            running = _running(state)
            busy = running["section"] if running else None
            if running and busy and time.time() - running["since"] > _limit(known[busy].seconds, stop_at):
                slow = True
                process.kill()
                process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    told = _running(state)
    state.unlink(missing_ok=True)
    if told is None:  # it did not come to the first section, nor would another one
        outcomes |= dict.fromkeys(waiting, "failed" if process.returncode else "no time left")
        return set(waiting)
    outcomes |= {name: entry["outcome"] for name, entry in told["ended"].items()}
    seconds |= {name: entry["seconds"] for name, entry in told["ended"].items()}
    lost = told["section"]
    if lost is None:
        return set(told["ended"])
    if not (slow and known[lost].resumes):
        reason = "it took far too long" if slow else f"its process ended with status {process.returncode}"
        record_loss(known[lost], options.out, options.typed, reason)
    outcomes[lost], seconds[lost] = "failed", time.time() - told["since"]
    return {*told["ended"], lost}


def _limit(expected: float, stop_at: float) -> float:
    """Seconds until a section is given up: several times what it should take, and not far beyond the budget."""
    return _SLOW * expected + 60 if stop_at - time.monotonic() > -_GRACE else 0.0


def _running(state: Path) -> dict | None:
    try:
        return json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _pack(out: Path, archive: Path) -> None:
    """All results in one file; of the runs only what is needed to read them and to go on."""
    home = ROOT if out.is_relative_to(ROOT) else out.parent
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as packed:
        for path in sorted(out.rglob("*")):
            if path.is_file() and not path.name.endswith(".writing"):
                finished = section_is_there(out / f"{path.parent.name}.json")
                if not (finished and path.name in _STATES):
                    packed.add(path, path.relative_to(home))
    print(f"packed {archive}, {archive.stat().st_size / 1e6:.1f} MB")


# -- the process that measures ----------------------------------------------------------------------------------------


def _work(options: argparse.Namespace) -> int:
    """Go through sections; stop after one that failed, because the card may be in any state then."""
    from benchmarks.gpu.lab import Lab
    from benchmarks.gpu.record import perform, tell
    from benchmarks.gpu.sections import SECTIONS
    from minires.errors import MiniresError

    known = {s.name: s for s in SECTIONS}
    state = options.out / _RUNNING
    ended: dict[str, dict] = {}
    try:
        lab = Lab(options.out, options.data, options.rehearse, options.stop_at)
    except MiniresError as error:
        sys.exit(f"nothing can be measured: {error}")
    lab.commit = options.commit

    def note(section: str | None) -> None:
        writing = state.with_suffix(".writing")
        writing.write_text(json.dumps({"section": section, "since": time.time(), "ended": ended}), encoding="utf-8")
        os.replace(writing, state)

    for name in options.worker:
        if not _in_time([name], options.stop_at)[0]:
            continue
        note(name)
        tell(f"-- {name}: {known[name].title}")
        began = time.monotonic()
        outcome = perform(known[name], lab, options.typed)
        ended[name] = {"outcome": outcome, "seconds": time.monotonic() - began}
        note(None)
        if outcome == "failed":
            return 1
        if known[name].last:
            return 0
    return 0


def _list(options: argparse.Namespace) -> int:
    from benchmarks.gpu.sections import SECTIONS

    for section in SECTIONS:
        there = options.out is not None and section_is_there(section.file(options.out))
        print(f"{section.name:28s} {section.seconds:5.0f} s  {section.title}{'  (there)' if there else ''}")
    print(f"{'':28s} {sum(s.seconds for s in SECTIONS):5.0f} s expected in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
