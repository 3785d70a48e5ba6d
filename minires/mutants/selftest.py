"""How good the checker is: what it catches, what it names, and how often it cries wolf."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..gradcheck import Report, gradcheck_fn
from .catalogue import CATALOGUE, Mutant
from .operations import OPERATIONS


def point(operation: str, seed: int) -> dict[str, np.ndarray]:
    """Random inputs of an operation, by name."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in OPERATIONS[operation].shapes.items()}


def check(operation: str, backward: Callable[..., Any], seed: int) -> Report:
    """Check a backward pass of an operation at a random point."""

    def by_name(dy: np.ndarray, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        grads = backward(dy, *inputs.values())
        return dict(zip(inputs, grads if isinstance(grads, tuple) else (grads,), strict=True))

    forward = OPERATIONS[operation].forward
    return gradcheck_fn(
        lambda **inputs: forward(*inputs.values()), by_name, point(operation, seed), seed, name=operation
    )


def names(report: Report, mutant: Mutant) -> bool:
    """Whether the first hint of an input that failed is the right one."""
    first = [r.hints[0] for r in report.inputs.values() if not r.ok and r.hints]
    return mutant.hint is not None and any(re.search(mutant.hint, hint) for hint in first)


@dataclass
class Result:
    """What a self-test found.

    Attributes:
        seeds: tried for each mutant.
        missed: mutants that were accepted with some seed, and the seeds.
        named: mutants whose first hint is the right one with every seed.
        unnamed: the others.
        checks: of right backward passes.
        alarms: those of them that failed: operation and seed.
    """

    seeds: int
    missed: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    named: list[tuple[str, str]] = field(default_factory=list)
    unnamed: list[tuple[str, str]] = field(default_factory=list)
    checks: int = 0
    alarms: list[tuple[str, int]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every mutant was caught with every seed, and nothing right was refused."""
        return not self.missed and not self.alarms

    def __str__(self) -> str:
        mutants = len(self.named) + len(self.unnamed)
        lines = [
            f"{mutants - len(self.missed)} of {mutants} wrong backward passes are caught on each of {self.seeds} seeds",
            f"{len(self.named)} of them get the right hint with each",
            f"{len(self.alarms)} false alarms in {self.checks} checks of right ones",
        ]
        lines += [f"missed: {o}, {m}, with the seeds {seeds}" for (o, m), seeds in self.missed.items()]
        return "\n".join([*lines, *(f"false alarm: {o} with seed {seed}" for o, seed in self.alarms)])


def self_test(seeds: int = 20, checks: int = 2000, advance: Callable[[], Any] = lambda: None) -> Result:
    """Try the checker on every mutant with so many seeds, and on so many right backward passes.

    ``advance`` is called after each check.
    """
    result = Result(seeds)
    for mutant in CATALOGUE:
        key, named = mutant[:2], True
        for seed in range(seeds):
            report = check(mutant.operation, mutant.backward, seed)
            if report.ok:
                result.missed.setdefault(key, []).append(seed)
            named = named and names(report, mutant)
            advance()
        (result.named if named else result.unnamed).append(key)
    for i in range(checks):
        operation = list(OPERATIONS)[i % len(OPERATIONS)]
        if not check(operation, OPERATIONS[operation].backward, i).ok:
            result.alarms.append((operation, i))
        result.checks += 1
        advance()
    return result
