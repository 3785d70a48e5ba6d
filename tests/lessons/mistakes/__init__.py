"""Wrong solutions of the exercises: what each grader must refuse, and what it must say."""

from typing import NamedTuple


class Mistake(NamedTuple):
    """A text of an exercise replaced by a wrong one.

    Attributes:
        task: whose tests must fail.
        name: in words.
        old: occurs exactly once in the exercise with its solutions.
        new: stands in its place.
        says: a regular expression that the grader's output must match.
    """

    task: int
    name: str
    old: str
    new: str
    says: str
