"""``python -m tests.mutation``: see the package's docstring."""

import argparse
import random
import shlex
import sys
import time
from pathlib import Path

from . import cuda, report, runner
from .edits import edits_of

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ["minires/ops", "minires/kernels/numpy", "minires/kernels/reference", "minires/kernels/window.py",
           "minires/optim/algorithms.py", "minires/kernels/cuda"]  # fmt: skip
TESTS = ["tests/test_ops_gradients.py", "tests/test_ops_exact.py", "tests/test_kernels.py", "tests/test_fusion.py",
         "tests/test_streaming.py", "tests/test_layers.py", "tests/test_optim.py", "tests/test_functional_errors.py",
         "tests/test_in_place.py", "tests/test_tensor.py", "tests/test_graph.py", "tests/test_nn.py",
         "tests/test_memory.py", "tests/test_recycling.py", "tests/test_threads.py", "tests/test_models.py",
         "tests/test_torch_parity.py", "tests/gpu/test_cuda_kernels.py", "tests/gpu/test_classifier.py",
         "tests/gpu/test_switching.py", "tests/gpu/test_step.py"]  # fmt: skip


def main(arguments=None):
    """Edit, run, report; the exit status is 1 if an edit has survived that is not recorded as equivalent."""
    options = _parser().parse_args(arguments)
    root = options.root.resolve()
    paths, wanted = _chosen(root, options.what)
    edits = [e for path in paths for e in edits_in(root, path, wanted)]
    equivalent = report.read_equivalent(options.equivalent)
    left_out = [e for e in edits if e.key in equivalent]
    if not options.all:
        edits = [e for e in edits if e.key not in equivalent]
    if options.again:
        before = report.survivors(options.again)
        edits = [e for e in edits if e.key in before]
    if options.sample is not None:
        edits = sorted(random.Random(options.seed).sample(edits, min(options.sample, len(edits))), key=edits.index)
    if options.list:
        print(*edits, sep="\n")
        print(f"{len(edits)} edits, and {len(left_out)} recorded as equivalent")
        return 0
    began = time.perf_counter()
    limits = runner.Limits(
        options.seconds, options.device_seconds, options.patience, jobs=options.jobs, sanitizers=options.sanitizers
    )
    judge = runner.judge(root, edits, _python(_files(root, DEFAULT) if root == ROOT else paths), options.tests, limits,
                         root / ".pytest_cache" / "mutation")  # fmt: skip
    summary = report.Summary(judge.verdicts, {} if options.all else {e: equivalent[e.key] for e in left_out},
                             equivalent if options.all else {}, time.perf_counter() - began)  # fmt: skip
    print(summary.text(judge.failing))
    if options.again or options.json:
        summary.write(options.again or options.json, again=bool(options.again))
    return 0 if summary.clean else 1


def edits_in(root, path, functions=()):
    """The edits of a file, of Python or of CUDA text."""
    return (edits_of if path.endswith(".py") else cuda.edits_of)(root, path, functions)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("what", nargs="*", help="files, folders or functions; default: ops, kernels and optimisers")
    parser.add_argument("--list", action="store_true", help="only say what would be edited")
    parser.add_argument("--jobs", type=int, default=1, help="edits at a time")
    parser.add_argument("--json", type=Path, help="write numbers and survivors to this file")
    parser.add_argument("--again", type=Path, help="only what survived by this file of --json, and bring it up to date")
    parser.add_argument("--sample", type=int, help="so many edits, by chance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="try those that are recorded as equivalent, too")
    parser.add_argument("--seconds", type=float, default=30.0, help="of tests for one edit, as recorded (30)")
    parser.add_argument("--device-seconds", type=float, default=60.0, help="of those on the stand-in for a GPU (60)")
    parser.add_argument(
        "--sanitizers", action="store_true", help="try CUDA text that survives under them, a minute each"
    )
    parser.add_argument("--patience", type=float, default=10.0, help="seconds that a test may take in any case (10)")
    parser.add_argument(
        "--tests", type=shlex.split, default=TESTS, help="arguments for pytest that select tests, in one word"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder that the files are in")
    parser.add_argument("--equivalent", type=Path, default=Path(__file__).with_name("equivalent.txt"))
    return parser


def _chosen(root, what):
    """The files that are meant, and the names of functions, none for all."""
    places = [w for w in what if (root / w).exists()]
    names = {w for w in what if w not in places}
    return _files(root, places or DEFAULT), names


def _files(root, places):
    found = []
    for place in places:
        path = root / place
        inside = [f for kind in ("*.py", cuda.PATHS) for f in sorted(path.glob(f"**/{kind}"))]
        files = inside if path.is_dir() else [path]
        found += [f.relative_to(root).as_posix() for f in files if f.name != "__init__.py"]
    return found


def _python(paths):
    return [path for path in paths if path.endswith(".py")]


if __name__ == "__main__":
    sys.exit(main())
