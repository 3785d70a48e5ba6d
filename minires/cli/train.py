"""minires train."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from ..kernels.cuda import PRECISIONS
from ..models.blocks import SHORTCUTS
from ..train import Config, Interrupted, Trainer, recipe
from ..train.config import DECAYED, OPTIMIZERS, SCHEDULES, WARMUP_SHAPES
from .device import add_device

_DESCRIPTION = """Train a network. Without arguments: a small ResNet on the digits that come with minires, in under a
minute: 20 epochs, batch 32, cosine, weight decay 5e-3. With CIFAR (--data PATH): the recipe of the paper, every part of
which is an option: ResNet-20, 64000 iterations, batch 128, steps, weight decay 1e-4, crops and flips."""


def add(commands: Any) -> None:
    """Enter the command."""
    parser = commands.add_parser("train", help="train a network", description=_DESCRIPTION)
    parser.set_defaults(run=run)
    what = parser.add_argument_group("what")
    what.add_argument("--data", default="digits", metavar="NAME|PATH",
                      help="digits (default), shapes, cifar10, cifar100, or a path that holds CIFAR")  # fmt: skip
    what.add_argument("--model", help="resnetN or plainN (resnet20 for CIFAR, resnet14 for the digits)")
    what.add_argument("--shortcut", choices=SHORTCUTS, help="A: padded identity, B: projections, C: all projections")
    what.add_argument("--width", type=int, help="channels of the first stage (16)")
    what.add_argument("--zero-init-residual", action="store_true", default=None, help="start each branch at zero")
    what.add_argument("--validation", type=int, metavar="N", help="hold N training images out and test on them")
    length = parser.add_argument_group("how long").add_mutually_exclusive_group()
    length.add_argument("--epochs", type=float, help="passes through the training set")
    length.add_argument("--iterations", type=int, help="optimiser steps; the schedule scales with them")
    how = parser.add_argument_group("how")
    how.add_argument("--batch-size", type=int, metavar="N", help="images in a step")
    how.add_argument("--optimizer", choices=OPTIMIZERS, help="momentum SGD (default) or Adam")
    how.add_argument("--lr", type=float, help="learning rate (0.1)")
    how.add_argument("--momentum", type=float, help="of SGD (0.9)")
    how.add_argument("--nesterov", action="store_true", default=None, help="Nesterov momentum")
    how.add_argument("--weight-decay", type=float, metavar="L", help="L2 penalty")
    how.add_argument("--decay", choices=DECAYED, help="what decays: all parameters, or only weights")
    how.add_argument("--schedule", choices=SCHEDULES, help="steps: multiply by gamma at the milestones")
    how.add_argument("--gamma", type=float, help="factor of the steps (0.1)")
    how.add_argument("--milestones", type=int, nargs="+", metavar="N", help="iterations (1/2 and 3/4 of the run)")
    how.add_argument("--warmup", type=int, metavar="N", help="iterations of warm-up (1/160 of the run for 110 layers)")
    how.add_argument("--warmup-lr", type=float, metavar="LR", help="rate at its beginning (0.01)")
    how.add_argument("--warmup-shape", choices=WARMUP_SHAPES, help="stay at that rate (default), or rise from it")
    yes_or_no = argparse.BooleanOptionalAction
    how.add_argument("--augment", action=yes_or_no, default=None, help="random crops and flips (not for the digits)")
    how.add_argument("--padding", type=int, metavar="N", help="pixels around a picture before a crop (4 of 32)")
    how.add_argument("--flip", action=yes_or_no, default=None, help="mirror half of the pictures (not digits)")
    how.add_argument("--label-smoothing", type=float, metavar="S", help="spread S of the target over all classes (0)")
    how.add_argument("--seed", type=int, help="a run with the same seed is the same, bit for bit (0)")
    where = parser.add_argument_group("where")
    add_device(where)
    where.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of products on a GPU (fp32)")
    where.add_argument("--graph", action=yes_or_no, default=True, help="record the step on a GPU and replay it")
    where.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (runs/DATA-MODEL)")
    where.add_argument("--resume", action="store_true", help="go on with the run in --out, given the same options")
    where.add_argument("--log-every", type=int, metavar="N", help="iterations between lines of the log")
    where.add_argument("--checkpoint-every", type=int, metavar="N", help="iterations between checkpoints")


def run(options: argparse.Namespace) -> None:
    """Train, with a progress bar."""
    from tqdm import tqdm

    if options.resume and options.out is None:
        raise ArgumentError("--resume needs to know which run to go on with: add --out DIR.")
    names = {f.name for f in fields(Config)} - {"data"}
    config = recipe(options.data, **{n: v for n in names if (v := getattr(options, n, None)) is not None})
    out = options.out or _free_folder(config)
    trainer = Trainer(config, out, resume=options.resume, report=tqdm.write, device=options.device,
                      precision=options.precision, graph=options.graph)  # fmt: skip
    _introduce(trainer)
    with tqdm(total=trainer.iterations, initial=trainer.iteration, unit="it", disable=None, dynamic_ncols=True) as bar:

        def advance(trainer: Trainer) -> None:
            bar.set_postfix_str(f"loss {trainer.last_loss:.3f}", refresh=False)
            bar.update()

        trainer.on_step = advance
        try:
            metrics = trainer.fit()
        except Interrupted as stopped:
            raise Interrupted(f"{stopped}; saved. Go on with: {_resume_command(options.words, out)}") from None
    print(f"test error {100 * metrics.error:.2f}%, accuracy {100 * metrics.accuracy:.2f}%, loss {metrics.loss:.4f}")
    print(f"{out}: log.jsonl, curves.png, checkpoint.npz, config.json")


def _introduce(trainer: Trainer) -> None:
    config, sets = trainer.config, trainer.sets
    parameters = sum(p.size for p in trainer.model.parameters())
    epochs = trainer.iterations / len(trainer.loader)
    print(f"{config.model}, {parameters:,} parameters, on {sets.train!r}, tested on {len(sets.test)}")
    where = "on the CPU" if trainer.device == "cpu" else f"on the GPU in {trainer.precision}"
    print(
        f"{trainer.iterations} iterations of {config.batch_size} images ({epochs:.1f} epochs), {config.optimizer}, "
        f"learning rate {config.lr:g}, {config.schedule}, seed {config.seed}; {where}; writing {trainer.out}"
    )


def _free_folder(config: Config) -> Path:
    """runs/digits-resnet14, or the same with a number if that is taken."""
    kind = config.data if not Path(config.data).exists() else Path(config.data).resolve().name
    name, number = f"{kind}-{config.model}", 1
    while (Path("runs") / name).exists():
        number += 1
        name = f"{kind}-{config.model}-{number}"
    return Path("runs") / name


def _resume_command(typed: list[str], out: Path) -> str:
    """The command that was typed, with --out and --resume."""
    words = ["minires", *(word for word in typed if word != "--resume")]
    if "--out" not in words and not any(word.startswith("--out=") for word in words):
        words += ["--out", str(out)]
    return shlex.join([*words, "--resume"])
