"""What was measured, as Markdown: every cell is there, and says so if it was not."""

from __future__ import annotations

from math import exp, log
from pathlib import Path
from typing import Any

from minires.bench.report import Row
from minires.bench.timing import Spread

from .ladder import RUNGS
from .record import read_all, rows_of

NOTHING = "not yet measured"

# network, batch, precision of the rows of the first table
_STEPS = (
    *(("resnet20", 128, p) for p in ("fp32", "tf32", "bf16", "fp16")),
    *((name, batch, "tf32") for name in ("resnet20", "resnet56", "resnet110") for batch in (128, 1024)
      if (name, batch) != ("resnet20", 128)),
    *((name, 64, p) for name in ("resnet18", "resnet50") for p in ("tf32", "bf16")),
)  # fmt: skip
_OTHERS = ("torch", "torch graph", "torch.compile")
_SCHEDULES = ("resnet20", "plain20", "resnet56", "plain56")

Results = dict[str, dict[str, Any]]


def tables(out: Path) -> str:
    """All tables of a folder of results."""
    results = {name: result for name, result in read_all(out).items() if not result.get("rehearsal")}
    parts = [_machines(results), _goals(results), _steps(results), _kernels(results), _schedules(results),
             _ladder(results), _checks(results)]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machines(results: Results) -> str:
    told = dict.fromkeys(
        f"{m['card']} (compute capability {m['compute capability']}), driver {m['driver']}, CUDA {m['CUDA of CuPy']}, "
        f"CuPy {m['CuPy']}, PyTorch {m['PyTorch']}, NumPy {m['NumPy']}, minires at {r['commit']}"
        for r in results.values() if (m := r.get("machine"))
    )  # fmt: skip
    if not told:
        return "No GPU has been measured on: every cell below is empty."
    return "Measured on " + "; and on ".join(told) + "." + _ceilings(results)


def _ceilings(results: Results) -> str:
    copies = [r["ceilings"]["copy"]["bytes/s"] for r in results.values() if "ceilings" in r]
    told = [f" Ceilings: a large copy {Spread.of(copies).median / 1e12:.2f} TB/s, read and written"]
    for precision in ("fp32", "tf32", "bf16", "fp16"):
        rates = [r["ceilings"]["product"][precision]["FLOP/s"] for r in results.values()
                 if precision in r.get("ceilings", {}).get("product", {})]  # fmt: skip
        if rates:
            told.append(f"a large product in {precision} {Spread.of(rates).median / 1e12:.0f} TFLOP/s")
    return ", ".join(told) + "." if copies else ""


def _found(results: Results, prefix: str) -> list[tuple[dict[str, Any], Row]]:
    """The records of all sections of a kind, and the same as rows."""
    return [pair for name, result in results.items() if name.startswith(prefix)
            for pair in zip(result.get("rows", ()), rows_of(result), strict=True)]  # fmt: skip


def _step(results: Results, name: str, batch: int, precision: str) -> tuple[dict[str, Any], dict[str, Spread]]:
    """The record of a training step and the ratios of its time to everybody's else; both empty if there is none."""
    record: dict[str, Any] = {}
    ratios: dict[str, Spread] = {}
    for found, row in _found(results, "steps-"):
        if (row.model, row.images, found["precision"]) == (name, batch, precision):
            if len(found["memory"]) > len(record.get("memory", ())):  # torch.compile has rows of its own
                record = found
            ratios |= row.ratios
    return record, ratios


def _goals(results: Results) -> str:
    """The goals of the project, as ratios in one run."""
    rows = []
    for precision in ("fp32", "tf32", "bf16"):
        record, ratios = _step(results, "resnet20", 128, precision)
        for other, goal in (("torch", 3.0), ("torch graph", 1.0)):
            cell = f"{1 / ratios[other].median:.2f}x" if other in ratios else NOTHING
            rows.append([f"step of ResNet-20, batch 128, as a graph, {precision}: times as fast as {_called(other)}",
                         f"at least {goal:g}x", cell])  # fmt: skip
        bytes_s = record.get("floor", {}).get("bytes s")
        times = f"{record['summary']['spread']['minires']['median'] / 1e3 / bytes_s:.2f}" if bytes_s else NOTHING
        rows.append([f"the same, times the floor of its bytes, {precision}", "at most 2.5", times])
    for name in ("resnet20", "resnet50"):
        for precision in ("fp32", "tf32", "bf16", "fp16"):
            speeds = _speeds(results, name, precision)
            cell = f"{_mean(speeds):.2f}x, from {min(speeds):.2f} to {max(speeds):.2f}" if speeds else NOTHING
            what = f"convolutions of {name}, {precision}: times as fast as cuDNN (geometric mean of all shapes)"
            rows.append([what, "at least 0.7x", cell])
    ours, theirs = (results.get(f"schedule-resnet20{end}", {}).get("test error") for end in ("", "-torch"))
    apart = NOTHING if ours is None or theirs is None else f"{100 * (ours - theirs):+.2f} points"
    rows.append(["test error of ResNet-20, minires minus PyTorch", "within 0.3 points", apart])
    return "### Goals\n\n" + _table(["goal", "wanted", "measured"], rows)


def _called(contender: str) -> str:
    return {"torch": "PyTorch", "torch graph": "PyTorch's CUDA graph"}.get(contender, contender)


def _mean(values: list[float]) -> float:
    return exp(sum(map(log, values)) / len(values))


def _speeds(results: Results, name: str, precision: str, kind: str | None = None) -> list[float]:
    """How many times as fast as cuDNN each convolution is."""
    return [1 / row.ratios["cuDNN"].median for record, row in _found(results, f"kernels-{name}-{precision}")
            if "cuDNN" in row.ratios and kind in (None, record["kind"])]  # fmt: skip


def _steps(results: Results) -> str:
    rows = []
    for name, batch, precision in _STEPS:
        record, ratios = _step(results, name, batch, precision)
        line = [name, str(batch), precision]
        if not record:
            rows.append([*line, *[NOTHING] * 9])
            continue
        spread = record["summary"]["spread"]["minires"]
        line += [f"{spread['median']:.3f} ({spread['low']:.3f} - {spread['high']:.3f})", f"{record['images/s']:,.0f}",
                 f"{record['times the floor']:.2f}"]  # fmt: skip
        for other in ("minires eager", *_OTHERS):
            r = ratios.get(other)
            line.append(f"{1 / r.median:.2f}x" if r else NOTHING)
        counts = results.get("launches", {}).get("launches", {}).get(name, {})
        line.append(f"{counts['minires']} / {counts['torch']}" if "torch" in counts else NOTHING)
        memory = record["memory"]
        pair = [f"{memory[n]['reserved bytes'] / 1e9:.2f}" if n in memory else NOTHING for n in ("minires", "torch")]
        rows.append([*line, " / ".join(pair)])
    head = ["network", "batch", "precision", "ms of a step as a graph (quartiles)", "images/s", "times the floor",
            "faster than launch by launch", "than PyTorch", "than its CUDA graph", "than torch.compile",
            "launches without a graph, minires / PyTorch", "GB reserved, minires / PyTorch"]  # fmt: skip
    return "### Training steps\n\n" + _table(head, rows)


def _kernels(results: Results) -> str:
    rows = []
    for name in ("resnet20", "resnet50"):
        for precision in ("fp32", "tf32", "bf16", "fp16"):
            cells = []
            for kind in ("forward", "dx", "dw"):
                speeds = _speeds(results, name, precision, kind)
                cells.append(f"{_mean(speeds):.2f}x ({min(speeds):.2f} - {max(speeds):.2f})" if speeds else NOTHING)
            share = [record["of ceiling"] for record, _ in _found(results, f"kernels-{name}-{precision}")]
            rows.append([name, precision, *cells, f"{_mean(share):.0%}" if share else NOTHING])
    head = [
        "convolutions of",
        "precision",
        "forward: cuDNN's time / ours (least - most)",
        "dx",
        "dw",
        "share of the ceiling",
    ]
    return "### Convolutions\n\n" + _table(head, rows)


def _schedules(results: Results) -> str:
    rows = []
    for name in _SCHEDULES:
        for end, by in (("", "minires"), ("-torch", "PyTorch")):
            if end and name != "resnet20":
                continue
            result = results.get(f"schedule-{name}{end}", {})
            if "test error" not in result:
                rows.append([name, by, *[NOTHING] * 4])
                continue
            last = next(v for k, v in result.items() if k.startswith("mean test error"))
            errors = [f"{100 * result['test error']:.2f}%", f"{100 * last:.2f}%"]
            how = f"{result['data']}, {result['precision']}"
            rows.append([name, by, *errors, f"{result['training seconds']:.0f} s", how])
    head = ["64,000 iterations of", "by", "test error", "mean of the last epochs", "time", "data, precision"]
    return "### The paper's schedule\n\n" + _table(head, rows)


def _ladder(results: Results) -> str:
    measured = {entry["rung"]: entry for entry in results.get("ladder", {}).get("rungs", ())}
    rows = []
    for rung in RUNGS:
        low, high = rung.predicted or (0, 0)
        guess = "" if not high else f"about {low:,}" if low == high else f"{low:,} to {high:,}"
        entry = measured.get(rung.name)
        rows.append([rung.name, guess, f"{entry['images/s']:,.0f}" if entry else NOTHING])
    return "### The ladder: ResNet-20, batch 128, images/s\n\n" + _table(["rung", "predicted", "measured"], rows)


def _checks(results: Results) -> str:
    rows = []
    counts = results.get("tests", {}).get("counts")
    rows.append(["tests on the card", ", ".join(f"{v} {k}" for k, v in counts.items()) if counts else NOTHING])
    for tool in ("memcheck", "racecheck"):
        entry = results.get("sanitizers", {}).get(tool)
        rows.append([f"{tool} over every kernel", "; ".join(entry["summary"]) or "no summary" if entry else NOTHING])
    parity = results.get("parity", {}).get("one step", {})
    for precision in ("fp32", "tf32", "bf16", "fp16"):
        entry = parity.get(f"cuda-implicit {precision}, graph")
        cell = NOTHING
        if entry:
            cell = (f"worst {entry['worst']['distance']:.1e} in {entry['worst']['tensor']}, out of tolerance: "
                    f"{entry['first out of tolerance'] or 'nothing'}, two runs differ in: "
                    f"{entry['two runs differ in'] or 'nothing'}")  # fmt: skip
        rows.append([f"a step of ResNet-20 beside float64, {precision}", cell])
    bad = [
        f"{name}: {result[kind]}" for name, result in results.items() for kind in ("failed", "wrong") if kind in result
    ]
    rows.append(["sections that failed or found something wrong", "; ".join(bad) or ("none" if results else NOTHING)])
    return "### Checks\n\n" + _table(["check", "result"], rows)
