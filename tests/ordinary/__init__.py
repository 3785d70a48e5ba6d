"""Backward passes as people write them: 60 with one ordinary mistake each, and 20 right ones, many hard to measure."""

from collections.abc import Callable
from typing import NamedTuple


class Mistake(NamedTuple):
    """A backward pass with one mistake.

    Attributes:
        name: in words.
        truth: what is wrong, in a sentence.
        make: of (rng, right): forward, backward and the inputs; with right=True the mistake is repaired.
        says: a regular expression for the first hint, where that hint names the mistake; None where it does not.
    """

    name: str
    truth: str
    make: Callable
    says: str | None


class Sound(NamedTuple):
    """A right backward pass, and what the checker may answer: "ok", "inconclusive" or "refused"."""

    name: str
    make: Callable
    answers: set


def mistake(says=None):
    """Make a Mistake of a function of (rng, right), whose docstring is the truth."""
    return lambda make: Mistake(make.__name__.replace("_", " "), make.__doc__, make, says)


def sound(*answers):
    """Make a Sound of a function of rng."""
    return lambda make: Sound(make.__name__.replace("_", " "), make, set(answers))


def among(kind, *modules):
    """All that these modules hold of one kind."""
    return [each for module in modules for each in vars(module).values() if isinstance(each, kind)]
