"""A section of the suite, and the file that it leaves: whole, or not there."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from minires.bench.report import Row
from minires.train.checkpoint import replace_file

from . import card
from .lab import Lab, Unfinished


@dataclass(frozen=True)
class Section:
    """One part of the suite.

    Attributes:
        name: of its file.
        title: what it finds out.
        seconds: how long it is expected to take, by calculation: nothing of it was measured.
        run: the measurement; what it returns goes into the file.
        precision: of minires, for the file; None where there are several.
        resumes: whether it goes on where an earlier call stopped, so that less time than ``seconds`` will do.
        last: whether it spoils the process for measurements after it.
    """

    name: str
    title: str
    seconds: float
    run: Callable[[Lab], dict[str, Any]]
    precision: str | None = None
    resumes: bool = False
    last: bool = False

    def file(self, out: Path) -> Path:
        """Where its result is."""
        return out / f"{self.name}.json"


def perform(section: Section, lab: Lab, command: str) -> str:
    """Run a section and write its file; "done", "unfinished" or "failed".  A failure is recorded with its traceback.

    A section that was done and found something wrong with what it measured says so under "wrong".
    """
    began = time.monotonic()
    found: dict[str, Any] = {"section": section.name, "title": section.title, "command": command,
                             "precision": section.precision, "date": now(), "rehearsal": lab.rehearsal}  # fmt: skip
    outcome = "done"
    try:
        lab.free()
        found |= {"machine": card.describe(lab)}
        found |= {"commit": lab.commit or found["machine"]["host"]["commit"]}
        found |= {"ceilings": card.ceilings(lab)}
        found |= section.run(lab)
    except Unfinished as reason:
        tell(f"{section.name}: unfinished, {reason}")
        return "unfinished"
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        found |= {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        outcome = "failed"
    found["seconds"] = round(time.monotonic() - began, 2)
    write(section.file(lab.out), found)
    if "wrong" in found:
        tell(f"{section.name}: {found['wrong']}")
    return outcome


def record_loss(section: Section, out: Path, command: str, reason: str) -> None:
    """Write the file of a section whose process ended before it could."""
    found = {"section": section.name, "title": section.title, "command": command, "date": now(), "failed": reason}
    write(section.file(out), found)


def row_record(row: Row, **more: Any) -> dict[str, Any]:
    """A `Row` for JSON, with what belongs beside it."""
    return {**row.record(), **more}


def rows_of(result: dict[str, Any]) -> list[Row]:
    """The rows of a result that was read."""
    names = [f.name for f in fields(Row)]
    return [Row(**{n: record[n] for n in names}) for record in result.get("rows", ())]


def now() -> str:
    """The time, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write(path: Path, result: dict[str, Any]) -> None:
    """As JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(result), indent=1) + "\n"
    replace_file(path, lambda file: file.write(text.encode()))


def read_all(out: Path) -> dict[str, dict[str, Any]]:
    """The results in a folder, by section."""
    found = {}
    for path in sorted(out.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(result, dict) and "section" in result:
            found[result["section"]] = result
    return found


def tell(line: str) -> None:
    """A line for whoever watches."""
    print(line, flush=True)


def _plain(value: Any) -> Any:
    """What JSON can hold: NaN and infinity as words."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
