"""The checker on ordinary backward passes: each mistake is caught, most are named, nothing right is called wrong."""

import re

import numpy as np
import pytest

from minires import gradcheck_fn
from minires.errors import ArgumentError
from tests.ordinary import Mistake, Sound, among, beyond, blocks, layers, losses, pictures, sounds

pytestmark = pytest.mark.host_only("its functions are written with NumPy")

MISTAKES = among(Mistake, layers, losses, pictures, blocks, beyond)
SOUNDS = among(Sound, sounds)
SEEDS = range(3)


def check(make, seed, *right):
    return gradcheck_fn(*make(np.random.default_rng(1000 + seed), *right), seed)


def by_name(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


@by_name(MISTAKES)
def test_a_mistake_is_caught_and_named(case):
    for seed in SEEDS:
        report = check(case.make, seed, False)
        wrong = [found for found in report.inputs.values() if found.verdict == "FAIL"]
        assert wrong, f"not caught with seed {seed}: {case.truth}\n{report}"
        if case.says:
            named = [found.hints and re.search(case.says, found.hints[0]) for found in wrong]
            assert all(named), f"not named with seed {seed}: {case.truth}\n{report}"


@by_name(MISTAKES)
def test_repaired_it_passes(case):
    for seed in SEEDS:
        check(case.make, seed, True).assert_ok()


def test_how_many_are_named():
    """The numbers for README.  A hint that only points somewhere near, or lists it last of many, does not count."""
    assert len(MISTAKES) == 60
    assert sum(case.says is not None for case in MISTAKES) == 37


@by_name([case for case in SOUNDS if case.answers != {"refused"}])
def test_what_is_right_is_never_called_wrong(case):
    for seed in SEEDS:
        report = check(case.make, seed)
        verdicts = {found.verdict for found in report.inputs.values()}
        assert (verdicts - {"ok"} or {"ok"}) <= case.answers, f"with seed {seed}:\n{report}"


@by_name([case for case in SOUNDS if case.answers == {"refused"}])
def test_what_cannot_be_measured_is_refused(case):
    for seed in SEEDS:
        with pytest.raises(ArgumentError, match="forward returned float32 although its inputs are float64"):
            check(case.make, seed)


def test_none_is_lost():
    assert len({case.name for case in [*MISTAKES, *SOUNDS]}) == 80
