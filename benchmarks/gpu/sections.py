"""All sections of the suite, in the order of their worth.

The seconds are what a section is expected to take, by calculation from the predictions in benchmarks/NOTES.md and from
the number of repeats; a run tells how long each really took.
"""

from __future__ import annotations

from functools import partial

from . import checks, facts, kernels, ladder, layers, parity, schedule, steps
from .record import Section


def _kernels(name: str, batch: int, precision: str, seconds: float) -> Section:
    title = f"convolutions of {name}, batch {batch}, {precision}, beside cuDNN"
    run = partial(kernels.measure, name=name, batch=batch, precision=precision)
    return Section(f"kernels-{name}-{precision}", title, seconds, run, precision)


def _steps(name: str, batches: tuple[int, ...], seconds: float) -> Section:
    title = f"training step of {name}, batch {' and '.join(map(str, batches))}, beside PyTorch"
    return Section(f"steps-{name}", title, seconds, partial(steps.measure, name=name, batches=batches))


def _schedule(name: str, seconds: float, beside: bool = False) -> Section:
    run, what = (schedule.pytorch, "PyTorch") if beside else (schedule.minires, "minires")
    title = f"64,000 iterations of {name} on CIFAR-10 by {what}"
    return Section(f"schedule-{name}{'-torch' * beside}", title, seconds, partial(run, name=name), "tf32", resumes=True)


SECTIONS = (
    Section("facts", "ceilings, launches, graphs, what capture refuses", 50, facts.measure),
    Section("parity", "one step and fifty losses beside NumPy", 60, parity.measure),
    Section("ladder", "the predicted rungs", 30, ladder.measure),
    _steps("resnet20", (128, 1024), 60),
    _kernels("resnet20", 128, "tf32", 30),
    _schedule("resnet20", 90),
    _schedule("resnet20", 110, beside=True),
    Section("tests", "the test suite on the card", 240, checks.tests),
    _kernels("resnet50", 64, "tf32", 75),
    _steps("resnet50", (64,), 90),
    Section("sanitizers", "memcheck and racecheck over the kernels", 180, checks.sanitizers),
    _schedule("plain20", 80),
    _schedule("resnet56", 190),
    _schedule("plain56", 180),
    _kernels("resnet20", 128, "fp32", 40),
    _kernels("resnet20", 128, "bf16", 30),
    _kernels("resnet50", 64, "bf16", 70),
    Section("kernels-others", "batch norm, sums, pooling, loss and update beside PyTorch", 40, layers.measure),
    _steps("resnet56", (128, 1024), 80),
    _steps("resnet110", (128, 1024), 120),
    _steps("resnet18", (64,), 60),
    _kernels("resnet50", 64, "fp32", 120),
    _kernels("resnet20", 128, "fp16", 30),
    _kernels("resnet50", 64, "fp16", 70),
    Section("steps-compiled", "training steps of resnet20 and resnet18 beside torch.compile", 300,
            partial(steps.compiled, names=("resnet20", "resnet18"), batches=(128, 64))),
    Section("launches", "how many launches a step has without a graph", 40,
            partial(steps.launches, names=("resnet20", "resnet56", "resnet110", "resnet18", "resnet50")), "tf32",
            last=True),
)  # fmt: skip
