"""Wrong backward passes, to try a gradient checker on: yours, or the one that is here."""

from .catalogue import CATALOGUE, Mutant
from .operations import OPERATIONS, Operation
from .selftest import Result, point, self_test

__all__ = ["CATALOGUE", "OPERATIONS", "Mutant", "Operation", "Result", "point", "self_test"]
