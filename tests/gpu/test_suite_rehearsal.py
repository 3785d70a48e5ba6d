"""benchmarks/gpu_suite.py goes through on the stand-in, goes on where it stopped, and shows only what was measured."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.gpu import record, tables
from benchmarks.gpu.plots import draw_all
from benchmarks.gpu.record import Section
from benchmarks.gpu.sections import SECTIONS

from . import emulator

pytest.importorskip("torch", reason="the suite is rehearsed with PyTorch as the other contender")
pytestmark = [
    pytest.mark.host_only("the suite brings its own device, in processes of its own"),
    pytest.mark.skipif(not emulator.available(), reason="there is no C++20 compiler to compile CUDA text with"),
]

ROOT = Path(__file__).resolve().parents[2]
# every kind of section once: those of other networks and precisions run the same code on the same small network
ONE_OF_EACH = ("facts", "parity", "ladder", "steps-resnet20", "kernels-resnet20-fp32", "schedule-resnet20",
               "schedule-resnet20-torch", "sanitizers", "kernels-others", "steps-compiled", "launches")  # fmt: skip


def suite(*arguments):
    """Status and output of the command."""
    command = [sys.executable, "benchmarks/gpu_suite.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """The output of a rehearsal, and the folder that it wrote to."""
    out = tmp_path_factory.mktemp("rehearsal")
    kept = {path: path.stat().st_mtime_ns for path in (ROOT / "benchmarks" / "results").rglob("*")}
    status, output = suite("--rehearse", "--out", out, "--only", *ONE_OF_EACH, "--archive", out / "all.tar.gz")
    assert status == 0, output[-3000:]
    assert kept == {path: path.stat().st_mtime_ns for path in (ROOT / "benchmarks" / "results").rglob("*")}
    return output, out


def test_every_kind_of_section_goes_through(rehearsed):
    output, out = rehearsed
    assert output.startswith("rehearsal: no figure below is a measurement\n")
    results = record.read_all(out)
    assert set(results) == set(ONE_OF_EACH)
    for name, result in results.items():
        assert result["rehearsal"], name
        assert not {"failed", "wrong"} & set(result), (name, result.get("failed"), result.get("wrong"))
        assert {"machine", "commit", "command", "ceilings", "seconds", "precision"} <= set(result), name
    assert shlex.split(results["facts"]["command"])[2] == "--rehearse"
    assert (out / "all.tar.gz").stat().st_size > 1000


def test_minires_and_pytorch_run_the_same_schedule(rehearsed):
    _, out = rehearsed
    ours, theirs = (json.loads((out / f"schedule-resnet20{end}.json").read_text()) for end in ("", "-torch"))
    for (step, _, loss), (other_step, _, other_loss) in zip(ours["tests"], theirs["tests"], strict=True):
        assert step == other_step
        assert loss == pytest.approx(other_loss, rel=1e-4)  # one batch that was another would show in the second digit


def test_what_is_there_is_not_measured_again(rehearsed):
    _, out = rehearsed
    before = (out / "facts.json").stat().st_mtime_ns
    status, output = suite("--rehearse", "--out", out, "--only", *ONE_OF_EACH)
    assert status == 0
    assert "0 done" in output
    assert (out / "facts.json").stat().st_mtime_ns == before


def test_nothing_begins_that_the_budget_has_no_room_for(tmp_path):
    status, output = suite("--rehearse", "--out", tmp_path, "--only", "facts", "kernels-*", "--budget", 5)
    assert status == 0
    assert "facts                        no time left" in output
    assert not list(tmp_path.iterdir())


def test_a_rehearsal_stays_out_of_the_tables(rehearsed):
    _, out = rehearsed
    text = tables.tables(out)
    assert "No GPU has been measured on" in text
    rows = [line for part in text.split("### ")[1:] for line in part.strip().splitlines()[4:]]
    assert len(rows) > 40
    assert all(row.endswith(f"{tables.NOTHING} |") for row in rows)


def test_tables_show_what_was_measured(rehearsed, tmp_path):
    _, out = rehearsed
    for name, result in record.read_all(out).items():  # as if it had been measured, of the networks' own sizes
        result["rehearsal"] = False
        for row in result.get("rows", ()):
            row |= {"model": "resnet20", "images": 128 if row["bench"] == "step" else 0}
            row["precision"] = "tf32" if row["bench"] == "step" else row.get("precision")
        record.write(tmp_path / f"{name}.json", result)
    text = tables.tables(tmp_path)
    assert "Measured on a stand-in for CuPy" in text
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert tables.NOTHING not in lines["test error of ResNet-20, minires minus PyTorch"]
    assert tables.NOTHING not in lines["as a CUDA graph"]
    step = next(line for line in text.splitlines() if line.startswith("| resnet20 | 128 | tf32 |"))
    assert tables.NOTHING not in step
    assert text.count(tables.NOTHING) > 50  # the rest


def test_pictures_say_that_it_was_a_rehearsal(rehearsed):
    drawn = draw_all(rehearsed[1])
    assert {"ladder.png", "schedules.png", "steps-resnet20.png", "kernels-resnet20-fp32.png"} <= {p.name for p in drawn}
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_a_section_that_fails_is_recorded_with_its_traceback(tmp_path):
    lab = SimpleNamespace(out=tmp_path, rehearsal=True, free=lambda: None, commit="abc",
                          described={"host": {"commit": None}}, ceilings={"copy": {}})  # fmt: skip

    def run(lab):
        raise ZeroDivisionError("no such luck")

    section = Section("broken", "one that breaks", 1, run)
    assert record.perform(section, lab, "command") == "failed"
    result = json.loads((tmp_path / "broken.json").read_text())
    assert result["failed"] == "ZeroDivisionError: no such luck"
    assert "in run" in result["traceback"]
    assert result["commit"] == "abc"


def test_sections_have_names_of_their_own_and_fit_into_a_command():
    names = [section.name for section in SECTIONS]
    assert len(set(names)) == len(names)
    assert all(0 < section.seconds < 540 for section in SECTIONS)


def test_an_unknown_section_is_refused(tmp_path):
    status, output = suite("--rehearse", "--out", tmp_path, "--only", "fact")
    assert status != 0
    assert "there is no section 'fact'" in output
