"""A student's gradient checker is graded by the mistakes that it catches."""

import json
import re

import pytest

from minires.classroom import process
from minires.classroom.trial import try_checker
from minires.mutants import CATALOGUE, OPERATIONS
from tests.classrooms import command, write

pytestmark = pytest.mark.host_only("students' code runs in processes of its own, on NumPy")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run `minires lessons` in an empty folder: (exit status, standard output, standard error)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return command(capsys)


CHECKERS = """
import numpy as np
import minires

minires_own = minires.gradcheck_fn

def gradcheck(forward, backward, inputs, seed):
    y = forward(**inputs)
    return check(forward, backward, inputs, np.random.default_rng(seed).standard_normal(y.shape))

def with_ones(forward, backward, inputs, seed):
    return check(forward, backward, inputs, np.ones(forward(**inputs).shape))

def check(forward, backward, inputs, dy):
    grads = backward(dy, **inputs)
    for name, x in inputs.items():
        if np.shape(grads[name]) != x.shape:
            return False
        measured = np.zeros(x.shape)
        for i in np.ndindex(x.shape):
            up, down = x.copy(), x.copy()
            up[i] += 1e-5
            down[i] -= 1e-5
            difference = forward(**{**inputs, name: up}) - forward(**{**inputs, name: down})
            measured[i] = (dy * difference).sum() / 2e-5
        if np.linalg.norm(grads[name] - measured) > 1e-6 * np.linalg.norm(measured) + 1e-8:
            return False
    return True

def refuses_everything(forward, backward, inputs, seed):
    return False

def raises(forward, backward, inputs, seed):
    if "gamma" in inputs:
        raise KeyError("gamma")
    return gradcheck(forward, backward, inputs, seed)

def forgets_to_return(forward, backward, inputs, seed):
    check(forward, backward, inputs, 1.0)

def hangs(forward, backward, inputs, seed):
    while "gamma" in inputs:
        pass
    return False

def unwritten(forward, backward, inputs, seed):
    raise NotImplementedError("lesson 03, task 4: a checker")

number = 3
"""


@pytest.fixture(scope="module")
def checkers(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkers"), {"mine.py": CHECKERS}) / "mine.py"


@pytest.mark.parametrize("function", ["gradcheck", "minires_own"])
def test_a_good_checker(run, checkers, tmp_path, function):
    words = ["--seeds", 2, "--json", tmp_path / "out.json", "--gradescope", tmp_path / "results.json"]
    status, out, err = run("check", "--mutants", f"{checkers}:{function}", *words)
    assert (status, err) == (0, ""), out
    assert f"{len(CATALOGUE)} of {len(CATALOGUE)} mistakes killed" in out
    assert f"0 of {len(OPERATIONS)} right backward passes refused" in out
    assert out.splitlines()[-1].startswith("Passed")
    assert json.loads((tmp_path / "out.json").read_text())["passed"] is True
    tests = json.loads((tmp_path / "results.json").read_text())["tests"]
    assert sum(t["score"] for t in tests) == sum(t["max_score"] for t in tests) == len(CATALOGUE)


def test_a_checker_with_ones(run, checkers, tmp_path):
    words = ["--seeds", 1, "--gradescope", tmp_path / "results.json"]
    status, out, _ = run("check", "--mutants", f"{checkers}:with_ones", *words)
    assert status == 1
    for mistake in ("batch norm: zero", "softmax: zero", "multiply: upstream gradient dropped"):
        assert re.search(rf"^  {mistake} +with seed 0 it said True$", out, re.MULTILINE), out
    assert "0 of 28 right".replace("28", str(len(OPERATIONS))) in out
    tests = {t["name"]: t for t in json.loads((tmp_path / "results.json").read_text())["tests"]}
    assert tests["checker: softmax"]["status"] == "failed"
    assert "survives: zero; with seed 0 it said True" in tests["checker: softmax"]["output"]
    assert tests["checker: softmax"]["score"] < tests["checker: softmax"]["max_score"]


def test_a_checker_that_refuses_everything(run, checkers, tmp_path):
    words = ["--seeds", 1, "--gradescope", tmp_path / "results.json", "--json", tmp_path / "out.json"]
    status, out, _ = run("check", "--mutants", f"{checkers}:refuses_everything", *words)
    assert status == 1
    assert re.search(rf"^  all {len(OPERATIONS)} +with seed 0 it said False$", out, re.MULTILINE)
    assert "it must return True for a right backward pass" in out
    tests = json.loads((tmp_path / "results.json").read_text())["tests"]
    assert sum(test["score"] for test in tests) == 0
    assert json.loads((tmp_path / "out.json").read_text())["alarms"].keys() == OPERATIONS.keys()


def test_checkers_that_give_no_answer(checkers):
    raises = try_checker(checkers, "raises", [0], process.Limits(60))
    with_gamma = {name for name, operation in OPERATIONS.items() if "gamma" in operation.shapes}
    assert with_gamma
    assert raises.alarms.keys() == with_gamma
    assert {operation for operation, _ in raises.survivors} == with_gamma
    assert "raised an exception: KeyError: 'gamma'\nin mine.py, line 34" in raises.alarms["batch norm"]
    nothing = try_checker(checkers, "forgets_to_return", [0], process.Limits(60))
    assert len(nothing.survivors) == len(CATALOGUE)
    assert nothing.alarms["multiply"] == "with seed 0 it returned NoneType, not True or False"
    assert not nothing.ok
    hangs = try_checker(checkers, "hangs", [0], process.Limits(3))
    assert "still running after 3 s" in hangs.problem
    assert re.search(r"in mine\.py, line 4[12]\b", hangs.problem)  # the loop, or its body
    assert "at batch norm: the right backward pass" in hangs.problem
    assert not hangs.ok
    assert hangs.killed
    assert hangs.unknown
    for function, says in [
        ("unwritten", "not written yet: lesson 03, task 4"),
        ("missing", "has no function missing"),
        ("number", "has no function number"),
    ]:
        trial = try_checker(checkers, function, [0], process.Limits(60))
        assert says in trial.problem
        assert not trial.ok
        assert trial.alarms == {}


def test_the_inputs_are_not_the_upstream_gradient_of_a_right_checker(tmp_path):
    code = """
        import numpy as np
        def gradcheck(forward, backward, inputs, seed):
            rng = np.random.default_rng(seed)
            same = any(np.array_equal(rng.standard_normal(x.shape), x) for x in inputs.values())
            return not same
    """
    trial = try_checker(write(tmp_path, {"mine.py": code}) / "mine.py", "gradcheck", [0, 1], process.Limits(60))
    assert trial.alarms == {}
    assert not trial.killed
