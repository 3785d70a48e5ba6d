"""Results as files: JSON with every value of every round, a chart, and the table of the ladder as Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .report import Row, disturbed, duration
from .timing import Spread

HOME = Path("benchmarks", "results")
_BEGIN, _END = "<!-- table: minires bench --ladder -->", "<!-- end of table -->"


def save(folder: Path, result: dict[str, Any], rows: list[Row]) -> list[Path]:
    """Write what was measured, named after the time and the kinds of measurement; returns the files."""
    from .chart import draw

    folder.mkdir(parents=True, exist_ok=True)
    kinds = "-".join(dict.fromkeys(row.bench for row in rows))
    stem = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{kinds}"
    text, picture = folder / f"{stem}.json", folder / f"{stem}.png"
    _write(text, {**result, "rows": [row.record() for row in rows]})
    machine = result["machine"]
    beside = f" beside PyTorch {machine['torch']['version']}" if "torch" in machine else ""
    title = f"minires{beside}: {machine['cpu']}, {machine['threads']} threads, {result['date'][:10]}"
    draw(rows, picture, "\n".join([title, *disturbed(result["used by others"])]))
    return [text, picture]


def ladder(times: dict[str, list[float]], scaled: str) -> list[dict[str, Any]]:
    """Each rung with the seconds of a step in each round, their spread, and how many times faster it is.

    Args:
        times: by the rung's label, the slowest first.
        scaled: the label of the rung that did not take turns with the others: ratios to it are of medians, those to
            any other the median of the ratios of the rounds.
    """
    found: list[dict[str, Any]] = []
    for label, seconds in times.items():
        rung = {"rung": label, "seconds": seconds, "spread": asdict(Spread.of(seconds)), "scaled": label == scaled}
        if found:
            rung["to the rung above"] = _factor(found[-1], rung)
            rung["to the first"] = _factor(found[0], rung)
        found.append(rung)
    return found


def _factor(slow: dict[str, Any], fast: dict[str, Any]) -> float:
    if slow["scaled"]:
        return slow["spread"]["median"] / fast["spread"]["median"]
    return Spread.of_ratios(slow["seconds"], fast["seconds"]).median


SCALED = "scaled: small pieces of every kind of layer were timed, and multiplied by how much more work a step has"


def ladder_lines(rungs: list[dict[str, Any]]) -> list[str]:
    """The ladder as a table of text."""
    lines = [f"{'rung':<43}{'one step':>10}  {'quartiles':<21}{'to the one above':>16} {'to the first':>13}"]
    for rung in rungs:
        time, quartiles, above, first = _cells(rung)
        lines.append(f"{rung['rung']:<43}{time:>10}  {quartiles:<21}{above:>16} {first:>13}".rstrip())
    return lines + [f"* {SCALED}"] * any(rung["scaled"] for rung in rungs)


def ladder_markdown(result: dict[str, Any]) -> str:
    """The ladder as a table in Markdown, with what it was measured on."""
    machine, rungs = result["machine"], result["rungs"]
    lines = [
        "| rung | one step | quartiles | to the rung above | to the first |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(f"| {rung['rung']} | {' | '.join(_cells(rung))} |" for rung in rungs),
        "",
        f"One training step of {result['model']}, batch {result['batch']}, median of {len(rungs[-1]['seconds'])} "
        f"rounds in which the rungs took turns; {machine['cpu']}, {machine['threads']} threads, NumPy "
        f"{machine['numpy']}, {_blas(machine)}.",
        f"\\* {SCALED}; this one took no turns with the others.",
        *disturbed(result["used by others"]),
    ]
    return "\n".join(lines) + "\n"


def save_ladder(folder: Path, result: dict[str, Any]) -> list[Path]:
    """Write ladder.json, ladder.md and ladder.png, and renew the table in LADDER.md two folders up, if there is one.

    A ladder that was stopped is called ladder-stopped and renews nothing.
    """
    from .chart import draw_ladder

    folder.mkdir(parents=True, exist_ok=True)
    stem = "ladder-stopped" if result.get("stopped") else "ladder"
    files = [folder / f"{stem}.{kind}" for kind in ("json", "md", "png")]
    table, rungs = ladder_markdown(result), result["rungs"]
    _write(files[0], result)
    files[1].write_text(table, encoding="utf-8")
    names = [f"{rung['rung']}: {_cells(rung)[0]}" for rung in rungs]
    title = f"One training step of {result['model']}, batch {result['batch']}"
    draw_ladder(names, [Spread(**rung["spread"]) for rung in rungs], files[2], title)
    page = folder.resolve().parent.parent / "LADDER.md"
    if page.exists() and not result.get("stopped") and renew(page, table):
        files.append(page)
    return files


def renew(page: Path, table: str) -> bool:
    """Put a table between the two comments that mark its place in a page; whether they were there."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        return False
    page.write_text(f"{before}{begin}\n{table}{end}{after}", encoding="utf-8")
    return True


def _cells(rung: dict[str, Any]) -> tuple[str, str, str, str]:
    spread = rung["spread"]
    quartiles = f"{duration(spread['low'])} - {duration(spread['high'])}"
    factors = (rung.get(name) for name in ("to the rung above", "to the first"))
    return (duration(spread["median"]) + " *" * rung["scaled"], quartiles,
            *("" if f is None else f"{f:,.0f}x" if f >= 100 else f"{f:.2f}x" for f in factors))  # fmt: skip


def _blas(machine: dict[str, Any]) -> str:
    named = [f"{b['internal_api']} {b['version']} ({b['architecture']})" for b in machine["blas"]]
    held = [f"{k}={v}" for k, v in machine["environment"].items()]
    return ", ".join(named + held) or "BLAS not known"


def _write(path: Path, result: dict[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
