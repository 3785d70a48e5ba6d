"""Results on the screen, and as files for programs and for Gradescope."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..mutants import CATALOGUE, OPERATIONS
from .tree import Lesson
from .trial import Trial
from .verdict import WORDS, TaskResult

_LINES, _PRINTED = 40, 8  # shown of a message, and of what the student's code printed
_GREEN, _RED, _PLAIN = "\033[32m", "\033[31m", "\033[0m"


def head(lesson: Lesson) -> str:
    """The line above the tasks of a lesson."""
    return f"lesson {lesson.number:02d}  {lesson.title}".rstrip()


def text(result: TaskResult, colour: bool = False, above: str = "") -> str:
    """A line for a task, and what is to be said about it; not again, if that is ``above``."""
    word = f"{WORDS[result.verdict]:<13}"
    if colour and result.verdict != "unwritten":
        word = f"{_GREEN if result.ok else _RED}{word}{_PLAIN}"
    lines = [f"  {result.name:<6}  {word}  {result.title}".rstrip()]
    if result.message and result.verdict != "unwritten":
        told = ["as above"] if result.message == above else details(result).splitlines()
        lines += [f"{'':12}{line}".rstrip() for line in told]
    return "\n".join(lines)


def details(result: TaskResult) -> str:
    """What is to be said about a task that has not passed: the message, and the last of what its code printed."""
    lines = result.message.splitlines()
    if len(lines) > _LINES:
        lines = [*lines[:_LINES], f"... {len(lines) - _LINES} more lines (--json has them)"]
    printed = result.output.strip().splitlines()
    if printed and result.verdict in ("wrong", "error"):
        lines += ["it printed:", *(f"  {line[:200]}" for line in printed[-_PRINTED:])]
    return "\n".join(lines)


def total(results: Sequence[TaskResult]) -> str:
    """How many tasks passed, and what became of the others."""
    tasks = [r for r in results if r.task]
    passed = sum(r.ok for r in tasks)
    words = [WORDS[r.verdict] for r in tasks if not r.ok]
    others = [f"{words.count(word)} {word}" for word in dict.fromkeys(words)]
    if any(not r.ok for r in results if not r.task):
        others.append("something that was given has been changed")
    count = f"{passed} of {len(tasks)} task{'s' if len(tasks) != 1 else ''} passed"
    return f"{count}{': ' if others else ''}{', '.join(others)}."


def following(results: Sequence[TaskResult], graded: Sequence[Lesson], there: Sequence[Lesson], files: Path) -> str:
    """What to do next."""
    open_ = [r for r in results if not r.ok]
    if not open_:
        after = [lesson for lesson in there if lesson.number > graded[-1].number]
        return f"Next: lesson {after[0].number:02d}, {after[0].title}." if after else ""
    first = min(open_, key=lambda r: (r.lesson, r.verdict not in ("unreadable", "missing"), r.task))
    name = next((p.name for p in sorted(files.glob(f"lesson{first.lesson:02d}*.py"))), "")
    where = f"{near(files / name)}{f', line {first.line}' if first.line else ''}"
    what = f"lesson {first.lesson:02d}, {'what is given' if not first.task else first.name}"
    if first.verdict == "missing":
        return f"Next: put the file of lesson {first.lesson:02d} into {near(files)}."
    if first.verdict == "unreadable":
        return f"Next: make {near(files / name)} a file that Python can load."
    if first.verdict == "unwritten":
        return f"Next: {what}, in {where}: write it in place of the NotImplementedError."
    alone = f"minires lessons check {first.lesson:02d} --task {first.task}"
    return f"Next: {what}, in {where}" + (f"; {alone} checks it alone." if first.task and len(results) > 1 else ".")


def near(path: Path) -> str:
    """A path as short as it can be said from the working folder."""
    try:
        return os.path.relpath(path) if Path.cwd() in path.parents else str(path)
    except (OSError, ValueError):
        return str(path)


def as_json(results: Sequence[TaskResult], lessons: Iterable[Lesson], seed: int, shapes: str) -> dict[str, Any]:
    """Everything that is known, for programs."""
    tasks = [r for r in results if r.task]
    return {
        "minires": __version__,
        "seed": seed,
        "shapes": shapes,
        "passed": sum(r.ok for r in tasks),
        "total": len(tasks),
        "lessons": [
            {
                "lesson": lesson.number,
                "title": lesson.title,
                "tasks": [
                    {"ok": r.ok, **{k: v for k, v in vars(r).items() if k != "lesson"}}
                    for r in results
                    if r.lesson == lesson.number
                ],
            }
            for lesson in lessons
        ],
    }


def as_gradescope(results: Sequence[TaskResult]) -> dict[str, Any]:
    """``results.json`` of a Gradescope autograder: one point for each task; what is given counts none, but is shown."""
    tests = []
    for r in results:
        if not r.task and r.ok:
            continue
        output = "" if r.ok else f"{WORDS[r.verdict]}\n{details(r)}".strip()
        name = f"lesson {r.lesson:02d}, {r.name}: {r.title}".removesuffix(": ")
        tests.append(_entry(name, float(r.ok) if r.task else 0.0, 1.0 if r.task else 0.0, r.ok, output))
    return _gradescope(tests, total(results))


def _entry(name: str, score: float, most: float, ok: bool, output: str) -> dict[str, Any]:
    return {
        "name": name,
        "score": score,
        "max_score": most,
        "status": "passed" if ok else "failed",
        "output": output,
        "output_format": "text",
        "visibility": "visible",
    }


def _gradescope(tests: list[dict[str, Any]], output: str) -> dict[str, Any]:
    return {"output": output, "output_format": "text", "visibility": "visible", "tests": tests}


# a checker on trial


def trial_text(trial: Trial) -> str:
    """What a checker missed and refused, and how many."""
    lines = [f"{trial.name}, with {trial.seeds} seed{'s' if trial.seeds > 1 else ''}"]
    survivors = {f"{operation}: {mistake}": told for (operation, mistake), told in trial.survivors.items()}
    lines += _list("mistakes that survive:", survivors, len(CATALOGUE))
    lines += _list("right backward passes that it does not accept:", trial.alarms, len(OPERATIONS))
    if trial.problem:
        lines += ["", "the trial came to no end:", *(f"  {line}" for line in trial.problem.splitlines())]
    untried = f", {len(trial.unknown)} not tried" if trial.unknown else ""
    lines += [
        "",
        f"{len(trial.killed)} of {len(CATALOGUE)} mistakes killed with every seed{untried}; "
        f"{len(trial.alarms)} of {len(OPERATIONS)} right backward passes refused.",
    ]
    return "\n".join([*lines, _advice(trial)])


def _list(title: str, told: dict[str, str], count: int) -> list[str]:
    """A line for each name with what is told of it; one line for all if there is nothing to tell them apart."""
    if not told:
        return []
    if len(told) == count and len(set(told.values())) == 1:
        told = {f"all {count}": next(iter(told.values()))}
    return ["", title, *(_indented(name, text) for name, text in told.items())]


def _indented(name: str, told: str) -> str:
    first, *more = told.splitlines() or [""]
    return "\n".join([f"  {name:<58} {first}".rstrip(), *(f"  {'':<58} {line}" for line in more[:4])])


def _advice(trial: Trial) -> str:
    if trial.ok:
        return "Passed: it catches every mistake and refuses nothing right."
    if trial.problem:
        return "Not passed. Next: make it give an answer for every pair of a forward and a backward pass."
    if trial.alarms:
        return "Not passed. Next: it must return True for a right backward pass, for every operation and seed."
    return "Not passed. Next: find out why it returns anything but False for those that survive."


def trial_json(trial: Trial) -> dict[str, Any]:
    """Everything that is known of a trial, for programs."""
    return {
        "minires": __version__,
        "checker": trial.name,
        "seeds": trial.seeds,
        "passed": trial.ok,
        "killed": [list(key) for key in trial.killed],
        "survivors": [[*key, told] for key, told in trial.survivors.items()],
        "alarms": trial.alarms,
        "not tried": [list(key) for key in trial.unknown],
        "problem": trial.problem,
    }


def trial_gradescope(trial: Trial) -> dict[str, Any]:
    """``results.json`` of a Gradescope autograder: for each operation a point for each mistake that is caught.

    No point for an operation whose right backward pass is not accepted: refusing everything catches every mistake.
    """
    tests = []
    for operation in OPERATIONS:
        mistakes = [m.mistake for m in CATALOGUE if m.operation == operation]
        killed = [m for m in mistakes if (operation, m) in trial.killed]
        told = [
            f"survives: {m}; {trial.survivors.get((operation, m), 'not tried')}" for m in mistakes if m not in killed
        ]
        alarm = trial.alarms.get(operation)
        if alarm is not None:
            told.insert(0, f"the right backward pass is not accepted: {alarm}")
        ok = alarm is None and len(killed) == len(mistakes)
        score = 0.0 if alarm is not None else float(len(killed))
        tests.append(_entry(f"checker: {operation}", score, float(len(mistakes)), ok, "\n".join(told)))
    return _gradescope(tests, trial_text(trial).splitlines()[-1] + (f"\n{trial.problem}" if trial.problem else ""))
