"""minires gradcheck."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..gradcheck import Report, gradcheck
from ..gradcheck.file import check_file
from ..models.blocks import SHORTCUTS
from ..nn import BatchNorm2d
from ..tensor import Tensor
from .device import add_device
from .summarise import model_and_size

_SEEDS, _CHECKS = 20, 2000  # of the self-test: for each mistake, and of right backward passes


def add(commands: Any) -> None:
    """Enter the command."""
    parser = commands.add_parser(
        "gradcheck",
        help="check the gradients of a network, or of the functions in a file",
        description="Compare gradients with differences of the forward pass, in float64: every parameter of a network "
        "in training mode, or the pairs of functions that INPUTS in a Python file names.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL|FILE.py", nargs="?", help="resnetN, plainN or a Python file")
    parser.add_argument("--self-test", action="store_true", help="try the checker itself on a catalogue of mistakes")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="of the pictures (9, or 33 for resnet18 to 152)")
    parser.add_argument("--batch", type=int, default=3, help="how many pictures (3)")
    parser.add_argument("--entries", type=int, default=3, metavar="N", help="measured in each parameter (3)")
    parser.add_argument("--shortcut", choices=SHORTCUTS, help="A for small pictures, B for large")
    parser.add_argument("--seed", type=int, default=0, help="of weights, pictures and choice of entries (0)")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Print the report; exit status 1 if a gradient is wrong."""
    if options.self_test:
        return _self_test()
    if options.model is None:
        raise ArgumentError("gradcheck needs the name of a network, such as resnet20, a Python file, or --self-test.")
    for name, least in (("size", 1), ("batch", 1), ("entries", 1), ("seed", 0)):
        if getattr(options, name) is not None and getattr(options, name) < least:
            raise ArgumentError(f"--{name} must be at least {least}, got {getattr(options, name)}.")
    if options.model.endswith(".py"):
        return _check_file(Path(options.model), options.seed)
    model, usual_size = model_and_size(options.model, {"shortcut": options.shortcut} if options.shortcut else {})
    rng = np.random.default_rng(options.seed)
    for module in model.modules():
        if isinstance(module, BatchNorm2d):  # 1 and 0 would hide a gamma left out
            module.gamma.data[...] = 1 + 0.3 * rng.standard_normal(module.gamma.shape)
            module.beta.data[...] = 0.3 * rng.standard_normal(module.beta.shape)
    size = options.size or (9 if usual_size == 32 else 33)
    pictures = Tensor(rng.standard_normal((options.batch, size, size, 3))).to(options.device)
    report = gradcheck(
        model.to(options.device), {"x": pictures}, seed=options.seed, max_entries=options.entries, name=options.model
    )
    print(report)
    if report.ok:
        print("all gradients agree")
        return 0
    if all(r.verdict in ("ok", "inconclusive") for r in report.inputs.values()):
        print(
            "no gradient is wrong, but some could not be judged at this point: try another --seed, or a larger --size"
        )
    else:
        print("some gradients are wrong: see above")
    return 1


def _check_file(path: Path, seed: int) -> int:
    """Print a report of each pair of functions in a file; exit status 1 unless all are right."""
    passed = True
    for name, outcome in check_file(path, seed):
        passed &= isinstance(outcome, Report) and outcome.ok
        print(outcome if isinstance(outcome, Report) else f"gradcheck {name}   {outcome}", end="\n\n")
    print("all gradients agree" if passed else "some gradients are wrong or not there: see above")
    return 0 if passed else 1


def _self_test() -> int:
    """Print what the checker catches, names and refuses wrongly; exit status 1 unless it is all of it."""
    from tqdm import tqdm

    from ..mutants import self_test, selftest  # only here: nothing else needs the catalogue

    with tqdm(total=_SEEDS * len(selftest.CATALOGUE) + _CHECKS, unit="check", disable=None, leave=False) as bar:
        result = self_test(_SEEDS, _CHECKS, bar.update)
    print(result)
    return 0 if result.ok else 1
