"""minires lessons."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from ..errors import ArgumentError

_SECONDS, _SECONDS_OF_A_TRIAL, _MEMORY, _SEEDS = 60.0, 600.0, 1024, 20


def add(commands: Any) -> None:
    """Enter the command with its two actions."""
    parser = commands.add_parser(
        "lessons",
        help="list the lessons, make a student's folder, check exercises",
        description="List the lessons; make a folder of exercises to write in; check what was written.",
    )
    parser.set_defaults(run=run_list)
    _add_from(parser, None)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=False)
    text = "Make a folder of lessons and exercises without solutions, or add to one what it lacks."
    release = actions.add_parser("release", help="make a student's folder", description=text)
    release.set_defaults(run=run_release)
    release.add_argument("folder", metavar="DEST", help="new or empty, or released before: what is there is kept")
    _add_from(release)
    text = (
        "Run the tests of exercises, each task in a process of its own.  Exit status 0 if all passed, 1 if not.  The "
        "limits are for accidents: code of strangers belongs in a container."
    )
    check = actions.add_parser("check", help="check exercises", description=text)
    check.set_defaults(run=run_check)
    check.add_argument("lessons", metavar="LESSON", nargs="*", help="such as 07 (all whose exercise is there)")
    check.add_argument("--task", type=int, metavar="N", help="only this task")
    check.add_argument("--of", metavar="DIR", help="exercises of somebody else, by the tests from here")
    _add_from(check)
    check.add_argument("--seed", type=int, default=0, help="of numbers; other than 0 draws the sizes too (0)")
    check.add_argument("--shapes", default="", metavar="N=7,C=9", help="sizes by name, for all tests that have them")
    check.add_argument("--timeout", type=float, metavar="S", help="seconds for a task (60), or for --mutants (600)")
    check.add_argument("--memory", type=int, default=_MEMORY, metavar="MB", help=f"for a task, on Linux ({_MEMORY})")
    check.add_argument("--jobs", type=int, metavar="N", help="tasks at once (one for each core)")
    check.add_argument("--json", metavar="FILE", help="write everything that is known as JSON")
    check.add_argument("--gradescope", metavar="FILE", help="write a results.json for Gradescope")
    check.add_argument(
        "--mutants",
        nargs="?",
        const="",
        metavar="FILE[:FUNCTION]",
        help="check a gradient checker instead, by the mistakes it catches (gradcheck of exercises/lesson03_*.py)",
    )
    check.add_argument("--seeds", type=int, metavar="N", help=f"of --mutants: tried from --seed on ({_SEEDS})")


def _add_from(parser: argparse.ArgumentParser, default: Any = argparse.SUPPRESS) -> None:
    parser.add_argument("--from", dest="home", default=default, metavar="DIR", help="where the lessons are")


def run_list(options: argparse.Namespace) -> None:
    """Print a line for each lesson, and one for each of its tasks."""
    from ..classroom import report, tree

    home = tree.find_home(options.home)
    for lesson in tree.lessons(home):
        print(report.head(lesson))
        for task, title in lesson.tasks.items():
            print(f"  task {task}  {title}".rstrip())
    print(f"\nThey are in {report.near(home)}. minires lessons release DEST makes a folder to write the exercises in;")
    print("there minires lessons check 01 checks the tasks of a lesson.")


def run_release(options: argparse.Namespace) -> None:
    """Make a student's folder, and say what is in it."""
    from ..classroom import report, tree
    from ..classroom.release import release

    done = release(tree.find_home(options.home), Path(options.folder))
    folder = report.near(Path(options.folder).resolve())
    if done.kept:
        print(f"{folder}: {len(done.written)} files written, {len(done.kept)} that are there kept as they are.")
    else:
        print(f"{folder}: {len(done.written)} files. Write the exercises in {Path(folder, 'exercises')}.")
    print(f"cd {folder} && minires lessons check 01 checks the first.")


def run_check(options: argparse.Namespace) -> int:
    """Check exercises, or a checker; exit status 1 unless everything passed."""
    for name, least in (("task", 1), ("timeout", 0.1), ("memory", 1), ("jobs", 1), ("seeds", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise ArgumentError(f"--{name} must be at least {least}, got {value}.")
    for name in ("json", "gradescope"):
        file = getattr(options, name)
        if file is not None and (Path(file).is_dir() or not Path(file).absolute().parent.is_dir()):
            raise ArgumentError(f"--{name} {file} is no file that can be written: its folder must be there.")
    if options.mutants is not None:
        return _try_checker(options)
    if options.seeds is not None:
        raise ArgumentError("--seeds belongs to --mutants; a task is checked with one --seed.")
    return _grade(options)


def _grade(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..classroom import check, report, sizes, tree
    from ..classroom.process import Limits
    from ..classroom.verdict import TaskResult

    shapes = sizes.parse(options.shapes) if options.shapes else {}
    home = tree.find_home(options.home)
    there = tree.lessons(home)
    exercises = check.submission(options.of) if options.of else home / "exercises"
    lessons = check.chosen(there, options.lessons, options.task, exercises)
    limits = Limits(options.timeout or _SECONDS, options.memory)
    settings = check.Settings(exercises, options.seed, options.shapes, limits, options.jobs)
    by_number = {lesson.number: lesson for lesson in lessons}
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    count = sum(len(check.tasks_of(lesson, options.task)) for lesson in lessons)
    results: list[TaskResult] = []
    asked: set[str] = set()
    above = ""
    with tqdm(total=count, unit="task", disable=None, leave=False) as bar:
        for result, names in check.grade(lessons, settings, options.task):
            if not results or results[-1].lesson != result.lesson:
                tqdm.write(f"{chr(10) if results else ''}{report.head(by_number[result.lesson])}")
                above = ""
            if result.task or not result.ok:
                tqdm.write(report.text(result, colour, above))
                above = result.message
            results.append(result)
            asked |= names
            bar.update()
    print(f"\n{report.total(results)}")
    for name in sorted(shapes.keys() - asked):
        print(f"No test asked for the size {name} of --shapes; they have {', '.join(sorted(asked)) or 'none'}.")
    _write(options.json, report.as_json(results, lessons, options.seed, options.shapes))
    _write(options.gradescope, report.as_gradescope(results))
    if following := report.following(results, lessons, there, exercises):
        print(following)
    if exercises == home / "exercises" and check.solved(exercises):
        print("These are the solutions; minires lessons release DEST makes a folder to write one's own in.")
    return 0 if all(r.ok for r in results) else 1


def _try_checker(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..classroom import check, load, report, tree, trial
    from ..classroom.process import Limits

    if options.lessons or options.task is not None or options.shapes:
        raise ArgumentError("--mutants checks a gradient checker: it goes without lessons, --task and --shapes.")
    file, _, function = options.mutants.rpartition(":")
    if not (file and function.isidentifier()):
        file, function = options.mutants, "gradcheck"
    if file:
        path = Path(file)
    else:
        path = load.pick(
            check.submission(options.of) if options.of else tree.find_home(options.home) / "exercises", lesson=3
        )
    seeds = list(range(options.seed, options.seed + (options.seeds or _SEEDS)))
    limits = Limits(options.timeout or _SECONDS_OF_A_TRIAL, options.memory)
    with tqdm(total=trial.backward_passes(), unit="pass", disable=None, leave=False) as bar:
        result = trial.try_checker(path, function, seeds, limits, lambda done: bar.update(done - bar.n))
    print(report.trial_text(result))
    _write(options.json, report.trial_json(result))
    _write(options.gradescope, report.trial_gradescope(result))
    return 0 if result.ok else 1


def _write(file: str | None, content: dict[str, Any]) -> None:
    if file is not None:
        Path(file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
