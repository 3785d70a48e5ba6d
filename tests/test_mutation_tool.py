"""The tool that edits backward passes and kernels: what it edits, and that it tells a killed edit from a survivor."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gpu import emulator
from tests.mutation import cuda, report
from tests.mutation.__main__ import DEFAULT, ROOT, _files, edits_in
from tests.mutation.edits import edits_of

pytestmark = pytest.mark.host_only("a tool for tests, without a tensor")
EDITS = {  # a line of a function, and what at least may become of it
    "dx = g - mean(g)": ["dx = (g)", "dx = (-(mean(g)))", "dx = ((g) + (mean(g)))"],
    "da = dy @ b.T": ["da = ((b.T) @ (dy))", "da = dy @ (b)"],
    "db = product(a, dy, transpose_a=True)": ["db = product(dy, a, transpose_a=True)",
                                              "db = product(a, dy, transpose_a=False)"],
    "dx = dy * (y > 0)": ["dx = (dy)", "dx = dy * (((y) >= (0)))", "dx = dy * (((y) <= (0)))"],
    "dx = dy / y": ["dx = (dy)", "dx = ((y) / (dy))"],
    "dx += part": ["dx = part", "dx -= part", "pass"],
    "dx = total.sum(1)": ["dx = total.mean(1)", "dx = total.sum((2))", "dx = total.sum((0))"],
    "dx = np.moveaxis(dy, 0, 2)": ["dx = np.moveaxis(dy, 2, 0)"],
    "dx = dy.transpose(0, 2, 1)": ["dx = dy.transpose(2, 0, 1)", "dx = dy.transpose(0, 1, 2)", "dx = (dy)"],
    "dx = dy[a:b]": ["dx = dy[(a) + 1:b]", "dx = dy[a:(b) + 1]", "dx = dy[:b]", "dx = dy[a:]"],
    "dx = dy[::-1]": ["dx = dy[:]"],
    "dx[at] = dy": ["pass"],
    "dx = [t for t in taps if t < n]": ["dx = [t for t in taps]", "dx = [t for t in taps if ((t) <= (n))]"],
    "return dy": ["return (None if (_x := dy) is None else 0 * _x)"],
}  # fmt: skip


@pytest.mark.parametrize("line", EDITS)
def test_a_line_of_a_backward_pass_is_edited(tmp_path, line):
    source = f'def backward(dy):\n    """A docstring - of two terms."""\n    {line}\n'
    (tmp_path / "toy.py").write_text(source)
    edits = edits_of(tmp_path, "toy.py")
    edited = [e.apply(source).splitlines()[2].strip() for e in edits]
    assert set(EDITS[line]) <= set(edited)
    assert len(set(edited)) == len({e.key for e in edits}) == len(edits)
    assert line not in edited


def test_annotations_and_errors_and_thresholds_are_left_alone(tmp_path):
    source = '''def forward(x: "a - b" = 1 - 2) -> "c - d":
    """A docstring."""
    if x > 3:
        raise ValueError(f"{x - 1} is more than {2 - x}" + "?")
    n: "a - b"
    if x.size > _SMALL:
        in_pieces(work, count, 2 * x)
        share(work, count, 2 * x)
'''
    (tmp_path / "toy.py").write_text(source)
    dropped = [f"dropped `{name}(work, count, 2 * x)`" for name in ("in_pieces", "share")]
    assert [e.what for e in edits_of(tmp_path, "toy.py")] == dropped


TOY = """
def square_dx(x, dy):
    return 2 * x * dy

def halvings(n):
    count = 0
    while n > 1:
        n //= 2
        count += 1
    return count

def distance(a, b):
    return abs((b - a) / -1)

def shifted(x):
    return x + 5.0

def nobody_calls_this(x):
    return -x

def parts():
    return [6 // k for k in range(1, 4)]

PARTS = parts()

class Op:
    fresh = False

    @staticmethod
    def forward(x):
        return x if x else 7
"""
TESTS = """
import toy

def test_square():
    assert toy.square_dx(3.0, 5.0) == 30

def test_halvings():
    assert [toy.halvings(n) for n in (1, 2, 5, 8)] == [0, 1, 2, 3]

def test_distance():
    assert toy.distance(7, 4) == toy.distance(4, 7) == 3

def test_shifted_does_not_look():
    toy.shifted(1)

def test_parts():
    assert toy.distance(0, 0) == 0 and toy.PARTS == [6, 3, 2]

def test_op():
    assert toy.Op.forward(3) == 3 and not toy.Op.fresh

def test_that_fails_anyway():
    toy.shifted(2)
    assert False
"""
EQUIVALENT = """# what changes nothing
toy.py distance :: `-1` -> `1` in `(b - a) / -1` :: the absolute value is the same
toy.py distance :: `abs((b - a) / -1)`: dropped abs() :: this is not true
"""


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process for each edit is a copy of the one before it")


def run(folder, *arguments):
    """The tool on the toy: (exit status, its report, the same as JSON)."""
    for name, text in (("toy.py", TOY), ("test_toy.py", TESTS), ("equivalent.txt", EQUIVALENT)):
        (folder / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutation", "--root", folder, "--tests", "test_toy.py", "--patience", "0.4",
         "--equivalent", folder / "equivalent.txt", "--json", folder / "results" / "toy.json", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.stderr
    return done.returncode, done.stdout, json.loads((folder / "results" / "toy.json").read_text())


@forks
def test_what_is_noticed_and_what_survives(tmp_path):
    status, said, found = run(tmp_path, "--jobs", "2", "toy.py")
    assert status == 1
    assert "left out, as they fail without any edit: test_toy.py::test_that_fails_anyway" in said
    survivors = {line["what"]: line["status"] for line in found["files"]["toy.py"]["survivors"]}
    nothing = "`x + 5.0`: dropped "
    assert survivors == {
        f"{nothing}`+ 5.0`": "survived", f"{nothing}`x`": "survived", "`x + 5.0`: `+` -> `-`": "survived",
        "`5.0` -> `2 * 5.0 + 1e-3` in `x + 5.0`": "survived", "`x if x else 7`: always `x`": "survived",
        "`7` -> `8` in `x if x else 7`": "survived", "`7` -> `6` in `x if x else 7`": "survived",
        "`(b - a) / -1`: dropped `/ -1`": "survived", "`-x` -> `x`": "unreached",
    }  # fmt: skip
    total = found["total"]
    assert total["timeout"] >= 1  # the loop that halves nothing
    assert total["crash"] == 0
    assert total["equivalent"] == 2
    assert total["edits"] == total["killed"] + total["timeout"] + total["equivalent"] + len(survivors)
    noticed = found["files"]["toy.py"]["tests_that_noticed"]
    assert noticed["test_toy.py::test_parts"] >= 3  # computed when it is imported
    assert noticed["import"] == 1  # the division by 0
    assert "test_toy.py::test_that_fails_anyway" not in noticed


@forks
def test_a_false_equivalent_is_found_out(tmp_path):
    status, said, found = run(tmp_path, "--all", "toy.py", "distance", "Op")
    assert status == 1
    assert said.count("recorded as equivalent, but noticed by") == 1
    assert "dropped abs()" in said
    assert found["total"]["equivalent"] == 1


def test_every_recorded_equivalent_is_an_edit_that_exists():
    recorded = report.read_equivalent(Path(__file__).parent / "mutation" / "equivalent.txt")
    paths = {key.split()[0] for key in recorded}
    assert paths <= set(_files(ROOT, DEFAULT))
    existing = {edit.key for path in paths for edit in edits_in(ROOT, path)}
    assert set(recorded) <= existing


# -- CUDA text --------------------------------------------------------------------------------------------------------

CUDA_EDITS = {  # a line of a kernel, and what at least may become of it
    "y[i] += a[i] * b[i];": ["y[i] = a[i] * b[i];", "y[i] -= a[i] * b[i];", "y[i] += a[i] + b[i];", ";"],
    "const int row = i / width % height;": [
        "const int row = i * width % height;", "const int row = i / width / height;",
        "const int column = i / width % height;", "const int row = i / height % height;"],
    "if (i < n && n > 3) __syncthreads();": [
        "if (!(i < n && n > 3)) __syncthreads();", "if (true) __syncthreads();", "if (false) __syncthreads();",
        "if (i <= n && n > 3) __syncthreads();", "if (i < n || n > 3) __syncthreads();",
        "if (i < n && n > (4)) __syncthreads();"],
    "__syncthreads();": [";"],
    "sum.x += threadIdx.x * v.w;": ["sum.y += threadIdx.x * v.w;", "sum.x += threadIdx.x * v.x;"],
    "float m = i < n ? max(p, 1.f) : 0.5f;": [
        "float m = i < n || true ? max(p, 1.f) : 0.5f;", "float m = i < n && false ? max(p, 1.f) : 0.5f;",
        "float m = i < n ? min(p, 1.f) : 0.5f;", "float m = i < n ? max(p, 1.f) : (2.f * 0.5f + 1e-3f);"],
    "while (!done) tap++;": ["if (!done) tap++;", "while (done) tap++;", "while (!done) (tap += 2);"],
    "float* const out = (float*)y + i;  // a * b": ["float* const out = (float*)y - i;  // a * b"],
}  # fmt: skip


@pytest.mark.parametrize("line", CUDA_EDITS)
def test_a_line_of_a_kernel_is_edited(tmp_path, line):
    source = f"""// a - b
#define SIZE(n) (n + 1)
#ifndef CUDA_EMU
__device__ int on_a_card(int a) {{ return a - 1; }}
#endif  // CUDA_EMU
extern "C" __global__ void __launch_bounds__(256) first(float* y, int n) {{
    {line}
}}
"""
    (tmp_path / "toy.cu").write_text(source)
    edits = cuda.edits_of(tmp_path, "toy.cu")
    edited = [e.apply(source).splitlines()[6].strip() for e in edits]
    assert set(CUDA_EDITS[line]) <= set(edited)
    assert {e.function for e in edits} == {"first"}
    assert len(edited) == len({e.key for e in edits})
    assert line not in edited
    assert cuda.edits_of(tmp_path, "toy.cu", {"second"}) == []


needs_a_compiler = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++ with C++20")


@needs_a_compiler
def test_what_gives_the_same_machine_code_is_no_change():
    source = (ROOT / "minires/kernels/cuda/sums.cu").read_text()
    assert source.count("r += 8") == 1
    at = source.index("r += 8") + len("r += ")
    edit = cuda.Edit("minires/kernels/cuda/sums.cu", "sum_rows", 1, 1, 1, at, at + 1, "(4 + 4)", "")
    assert cuda.changes_nothing(edit, source)
    assert not cuda.changes_nothing(replace(edit, replacement="9"), source)


@forks
@needs_a_compiler
def test_an_edited_kernel_is_noticed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutation", "--sample", "3", "--seed", "0", "--json", tmp_path / "found.json",
         "--tests", "tests/gpu/test_cuda_kernels.py::test_sums_over_rows", "minires/kernels/cuda/sums.cu"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.stderr
    (found,) = json.loads((tmp_path / "found.json").read_text())["files"].values()
    assert (found["edits"] - found["equivalent"], found["survivors"]) == (3, []), done.stdout
    assert found["killed"] >= 1
