"""What is wrong with a gradient: hypotheses about the mistake, each tested on the difference from the measured one.

A wrong backward pass is seldom wrong at random.  It forgets a term, a factor, an axis or a mask, and then the
difference between what it gives and what was measured has a form that says which.  Most hypotheses here are formulas,
told only if they hold to 1e-5; where none does, what can be said of the places is.  A hint is a guess all the same.
"""

from __future__ import annotations

from . import layout, listening, multiple, norm, residual, simple, where
from .case import Case

__all__ = ["Case", "hints"]

# Formulas for the gradient; properties that it should have; where it is wrong; what it should be.  The less telling are
# asked only where nothing better was found.
_LADDER = (
    (
        simple.not_linear, simple.factor, simple.exchanged, residual.skip, residual.branch,
        residual.masked, residual.path, simple.sums, simple.product, simple.rearranged, norm.normalised,
        norm.linear_in_x, norm.moments, simple.other_input, simple.other_channels, simple.overwritten,
    ),
    (residual.partly_masked, multiple.of_the_input, multiple.quotient),
    (where.conserved, where.invariant),
    (simple.scattered, multiple.constant),
    (where.signs,),
    (where.unreached,),
    (where.masks,),
    (listening.deaf,),
    (where.places,),
    (where.derivative,),
)  # fmt: skip
# those that look at each entry by itself, and so can be asked of a sample
_OF_A_SAMPLE = (simple.not_linear, simple.factor, residual.skip)


def hints(case: Case) -> list[str]:
    """Sentences that say what the mistake may be, the most telling first; none if nothing fits."""
    if not case.a.any():
        return ["it is zero everywhere: never computed, or not returned"]
    (measured,) = case.measured(case.n)
    if not measured.any():
        return ["the result does not depend on it, so it must be zero"]
    case.order = layout.order(case)
    if case.order == "NCHW":
        return [layout.in_the_order_of(hint, case) for hint in _climb(layout.channels_last(case))]
    return _climb(case)


def _climb(case: Case) -> list[str]:
    for hypotheses in _LADDER if case.complete else (_OF_A_SAMPLE,):
        found = [hint for hypothesis in hypotheses for hint in hypothesis(case)]
        if found:
            return list(dict.fromkeys(found))[:3]
    return []
