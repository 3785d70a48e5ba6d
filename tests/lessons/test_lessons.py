"""Every lesson runs, makes its figure, and is built as lessons are."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMBERED = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
ALL = [*NUMBERED, *sorted((ROOT / "lessons").glob("resnet_in_one_file.py"))]
OFFLINE = range(1, 11)  # they need no data but what comes with minires, and draw what they measure
MAY_IMPORT = {"minires", "numpy", "matplotlib", *sys.stdlib_module_names}


def number(path):
    return int(path.name[:2]) if path in NUMBERED else None


def cells(text):
    """The cells of a percent script: (head line, body)."""
    found = []
    for line in text.splitlines():
        if line.startswith("# %%"):
            found.append((line.strip(), []))
        elif found:
            found[-1][1].append(line)
        else:
            raise AssertionError(f"before the first cell: {line!r}")
    return [(head, "\n".join(body)) for head, body in found]


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_it_runs(path, tmp_path):
    figures, elsewhere = tmp_path / "figures", tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", str(path)],
        cwd=elsewhere,
        # one BLAS thread: other tests run on the other cores, and threads that wait for one another spin
        env=os.environ
        | {"MINIRES_FAST": "1", "MPLBACKEND": "Agg", "MINIRES_FIGURES": str(figures), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert not list(elsewhere.iterdir()), "it leaves files in the working folder"
    if number(path) in OFFLINE:
        assert [p for p in figures.glob("*.png") if p.stat().st_size > 5000], "it saves no figure"


@pytest.mark.parametrize("path", NUMBERED, ids=lambda p: p.stem)
def test_it_is_made_of_cells(path):
    text = path.read_text(encoding="utf-8")
    found = cells(text)
    assert found[0][0] == "# %% [markdown]"
    assert found[0][1].startswith("# # "), "the first cell begins with the title"
    for head, body in found:
        assert head in ("# %%", "# %% [markdown]"), head
        if head == "# %%":
            ast.parse(body)  # a whole program part: no magics, nothing cut in two
        else:
            assert all(line.startswith("#") for line in body.strip().splitlines()), body
    assert "__file__" not in text  # a notebook has none
    assert "main()" not in text


@pytest.mark.parametrize("path", NUMBERED, ids=lambda p: p.stem)
def test_it_ends_with_what_it_does_not_show(path):
    head, body = cells(path.read_text(encoding="utf-8"))[-1]
    assert head == "# %% [markdown]"
    assert "# ## What this does not show" in body.splitlines()


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_it_imports_nothing_else(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        assert {name.split(".")[0] for name in names} <= MAY_IMPORT, ast.unparse(node)
