"""Small lessons to try the classroom on."""

import textwrap

from minires.cli import main

CONFTEST = "from minires.classroom.fixtures import *\n"

EXERCISE = '''
"""Lesson 03: products.  Of a test."""

def scale(x, a):
    """x a."""
    return a * x


def scale_backward(dy, x, a):
    """dx and da."""
    # BEGIN SOLUTION task 1: the "gradients" of a product
    da = (dy * x).sum(0)
    return {"x": dy * a, "a": da}
    # END SOLUTION


def twice(x):
    """2x."""
    if x is None:
        # BEGIN SOLUTION task 2: what is twice nothing
        return 0
        # END SOLUTION
    # BEGIN SOLUTION task 2: twice
    return 2 * x
    # END SOLUTION
'''

GRADER = """
import numpy as np
import pytest

pytestmark = pytest.mark.lesson03


def test_scale(mine):
    assert mine.scale(2, 3) == 6


@pytest.mark.task1
def test_gradients(mine, sizes, rng, gradcheck):
    n, c = sizes(N=3, C=5)
    print("sizes", n, c)
    inputs = {"x": rng.standard_normal((n, c)), "a": rng.standard_normal(c)}
    gradcheck(mine.scale, mine.scale_backward, inputs)


@pytest.mark.task2
@pytest.mark.parametrize("x", [None, 1.5])
def test_twice(mine, x):
    assert mine.twice(x) == 2 * (x or 0), "expected twice the number"
"""

SCRIPT = """\
# %% [markdown]
# # Lesson 3: products
# Text.
"""


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return folder


def tree_in(folder):
    """Lessons with solutions: one lesson with two tasks."""
    files = {"conftest.py": CONFTEST, "pytest.ini": "[pytest]\naddopts = --strict-markers\ntestpaths = tests\n"}
    files |= {"03_products.py": SCRIPT, "README.md": "# Lessons\n", "exercises/lesson03_products.py": EXERCISE}
    return write(folder, files | {"tests/test_lesson03.py": GRADER, "figures/a.png": "", "teaching/notes.md": "x"})


def command(capsys):
    """What runs `minires lessons`: (exit status, standard output, standard error)."""

    def call(*words):
        try:
            status = main(["lessons", *(str(w) for w in words)])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
