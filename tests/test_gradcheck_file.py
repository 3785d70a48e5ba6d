"""minires gradcheck FILE.py: the functions of a student, checked from the shell."""

import textwrap

import pytest

from minires.cli import main

pytestmark = pytest.mark.host_only("plain NumPy")

LINEAR = """
    import numpy as np
    INPUTS = {"linear": {"x": (4, 3), "w": (3, 5)}}

    def linear(x, w):
        return x @ w

    def linear_backward(dy, x, w):
        return {"x": dy @ w.T, "w": x.T @ dy}
"""


@pytest.fixture
def check(tmp_path, capsys):
    """Write a file and check it: (exit status, standard output, standard error)."""

    def call(source, *options):
        path = tmp_path / "mine.py"
        path.write_text(textwrap.dedent(source))
        status = main(["gradcheck", str(path), *options])
        return status, *capsys.readouterr()

    return call


def test_what_is_right(check):
    status, out, err = check(LINEAR)
    assert (status, err) == (0, "")
    assert out.startswith("gradcheck linear ")
    assert out.endswith("all gradients agree\n")


def test_what_is_wrong_gets_its_hint(check):
    status, out, _ = check(LINEAR.replace("dy @ w.T", "2 * dy @ w.T"), "--seed", "3")
    assert status == 1
    assert "hint: it is 2 times too large" in out
    assert "seed 3" in out
    assert out.endswith("some gradients are wrong or not there: see above\n")


def test_one_that_is_not_written_does_not_stop_the_others(check):
    more = """
    INPUTS["square"] = lambda rng: {"x": rng.standard_normal(5), "labels": np.arange(5)}

    def square_forward(x, labels):
        return x**2 * labels

    def square_backward(dy, x, labels):
        return 2 * dy * x * labels
    """
    later = LINEAR.replace('return {"x": dy @ w.T, "w": x.T @ dy}', 'raise NotImplementedError("lesson 03, task 2")')
    status, out, _ = check(later + more)
    assert status == 1
    assert "gradcheck linear   not written yet (lesson 03, task 2)" in out
    assert "gradcheck square   float64" in out


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (LINEAR.replace("dy @ w.T", "dy @ w"), "ValueError: matmul"),
        (LINEAR.replace("dy @ w.T", "dy @ w"), "(line 9)"),
        (LINEAR.replace("x @ w\n", "x @ w * np.inf\n"), "the result is not finite"),
    ],
)
def test_what_raises_is_told(check, source, said):
    status, out, _ = check(source)
    assert status == 1
    assert said in out


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1", 'does not say what to check: give it a dict such as INPUTS = {"linear"'),
        ("def f(:", "line 1: "),
        ("import numpy\n1 / 0", "mine.py, line 2: ZeroDivisionError when it is loaded: division by zero"),
        (LINEAR.replace("def linear(", "def line("), "has no function linear or linear_forward, which its INPUTS ask"),
        (LINEAR.replace("_backward", "_back"), "has no function linear_backward, which its INPUTS ask for."),
    ],
)
def test_files_that_cannot_be_checked(check, source, said):
    status, out, err = check(source)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_file_that_is_not_there(capsys):
    assert main(["gradcheck", "nowhere.py"]) == 2
    assert "nowhere.py cannot be read: " in capsys.readouterr().err
