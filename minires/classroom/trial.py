"""A student's gradient checker graded by the mistakes that it catches: the side of the teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ArgumentError
from ..mutants import CATALOGUE, OPERATIONS
from .process import Ended, Limits, run
from .verdict import early_end, plain


@dataclass
class Trial:
    """What a checker did.

    Attributes:
        name: of the file and the function.
        seeds: how many were tried.
        killed: the mistakes that it refused with every seed, as (operation, mistake).
        survivors: the mistakes that it did not, and what it did instead, and with which seed.
        alarms: the operations whose right backward pass it did not accept, and what it did instead.
        unknown: what was not tried any more, because the checker ended the process.
        problem: why the trial came to no end.
    """

    name: str
    seeds: int
    killed: list[tuple[str, str]] = field(default_factory=list)
    survivors: dict[tuple[str, str], str] = field(default_factory=dict)
    alarms: dict[str, str] = field(default_factory=dict)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether every mistake was caught, and nothing right was refused."""
        return not (self.survivors or self.alarms or self.unknown or self.problem)


def try_checker(
    file: Path, function: str, seeds: list[int], limits: Limits, advance: Callable[[int], object] = lambda done: None
) -> Trial:
    """Try a checker on the catalogue of mistakes and on what is right, in a process of its own.

    ``advance`` is called with how many backward passes have been tried.

    Raises:
        ArgumentError: there is no such file.
    """
    if not file.is_file():
        raise ArgumentError(f"there is no file {file} with a gradient checker.")
    plan = {"checker": {"file": str(file.resolve()), "function": function, "seeds": seeds}}
    ended = run(plan, limits, lambda lines: advance(lines // 2))
    result = Trial(f"{function} of {file.name}", len(seeds))
    for line in (line for line in ended.lines if line.get("event") == "tried" and line["kind"] != "unwritten"):
        key = (line["operation"], line["mistake"])
        message = plain(line["message"])
        told = "" if line["seed"] is None else f"with seed {line['seed']} {message}"
        if line["kind"] in ("error", "memory", "exit"):
            told = f"with seed {line['seed']} it raised an exception: {message}"
        if line["mistake"] is None:
            if line["seed"] is not None:
                result.alarms[line["operation"]] = told
        elif line["seed"] is None:
            result.killed.append(key)
        else:
            result.survivors[key] = told
    tried = {*result.killed, *result.survivors}
    result.unknown = [m[:2] for m in CATALOGUE if m[:2] not in tried]
    result.problem = plain(_problem(ended, limits, file.name))
    return result


def backward_passes() -> int:
    """How many a trial tries."""
    return len(CATALOGUE) + len(OPERATIONS)


def _problem(ended: Ended, limits: Limits, file: str) -> str:
    for line in ended.lines:
        if line.get("kind") == "unwritten":
            return f"it is not written yet: {line['message']}"
        if line.get("event") == "unusable":
            return str(line["message"])
    if any(line.get("event") == "end" for line in ended.lines):
        return ""
    message = early_end(ended, limits, file)[1]
    last = [line for line in ended.lines if line.get("event") == "start"]
    if not last:
        return message
    return f"{message}\nat {last[-1]['operation']}: {last[-1]['mistake'] or 'the right backward pass'}"
