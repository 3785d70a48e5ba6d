"""Learning-rate schedules, counted in iterations (optimiser steps), as the paper counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import cos, pi
from typing import Any

from ..errors import ArgumentError, CheckpointError
from .optimizer import Optimizer


class Schedule:
    """Sets ``group["lr"]`` to the group's first learning rate times `factor`, once now and after each ``step()``.

    Call ``step()`` after each ``optimizer.step()``.

    Args:
        optimizer: its learning rates at this moment are the base rates.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.base = [group["lr"] for group in optimizer.groups]
        self.iteration = 0
        self._apply()

    def factor(self, iteration: int) -> float:
        """What the base rate is multiplied by at this iteration, counted from 0; a pure function."""
        raise NotImplementedError(f"{type(self).__name__} has no factor method.")

    def step(self) -> None:
        """Go on to the next iteration."""
        self.iteration += 1
        self._apply()

    def _apply(self) -> None:
        factor = self.factor(self.iteration)
        for group, base in zip(self.optimizer.groups, self.base, strict=True):
            group["lr"] = base * factor

    def state_dict(self) -> dict[str, Any]:
        """The iteration and the base rates."""
        return {"iteration": self.iteration, "base": list(self.base)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` and set the learning rates accordingly.

        Raises:
            CheckpointError: it is of another number of groups; nothing was changed.
        """
        if not {"iteration", "base"} <= set(state):
            raise CheckpointError(f"a schedule expects a state with 'iteration' and 'base', got {sorted(state)}.")
        if len(state["base"]) != len(self.base):
            raise CheckpointError(f"the schedule has {len(self.base)} base rates, the state has {len(state['base'])}.")
        self.iteration, self.base = int(state["iteration"]), list(state["base"])
        self._apply()


class ConstantLR(Schedule):
    """The base rate throughout."""

    def factor(self, iteration: int) -> float:
        """1."""
        return 1.0


class MultiStepLR(Schedule):
    """Multiply by ``gamma`` at each milestone: the paper divides by 10 at 32k and 48k iterations.

    Args:
        optimizer: see `Schedule`.
        milestones: iterations, increasing; the new rate holds from that iteration on.
        gamma: the factor.
    """

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        if list(milestones) != sorted(set(milestones)):
            raise ArgumentError(f"MultiStepLR: milestones must increase, got {list(milestones)}.")
        self.milestones, self.gamma = list(milestones), gamma
        super().__init__(optimizer)

    def factor(self, iteration: int) -> float:
        """gamma to the power of the milestones passed."""
        return self.gamma ** sum(m <= iteration for m in self.milestones)


class CosineLR(Schedule):
    """Half a cosine from the base rate to ``final`` times it over ``iterations`` (Loshchilov and Hutter 2017, eq. 5).

    Args:
        optimizer: see `Schedule`.
        iterations: length of the descent; the rate stays at its end value afterwards.
        final: end value as a share of the base rate.
    """

    def __init__(self, optimizer: Optimizer, iterations: int, final: float = 0.0) -> None:
        if iterations < 1:
            raise ArgumentError(f"CosineLR: iterations must be at least 1, got {iterations}.")
        self.iterations, self.final = iterations, final
        super().__init__(optimizer)

    def factor(self, iteration: int) -> float:
        """final + (1 - final) (1 + cos(pi t / T)) / 2."""
        done = min(iteration / self.iterations, 1.0)
        return self.final + (1 - self.final) * (1 + cos(pi * done)) / 2


class WarmUp(Schedule):
    """Another schedule, after ``iterations`` at a lower rate.

    Args:
        schedule: what applies afterwards, on the same count of iterations.
        iterations: length of the warm-up.
        start: share of the rate to start with; the paper trains ResNet-110 at 0.01 instead of 0.1 for about 400
            iterations, until the training error is below 80%.
        shape: "constant" stays at ``start``, "linear" rises from it to 1.
    """

    def __init__(self, schedule: Schedule, iterations: int, start: float = 0.1, shape: str = "constant") -> None:
        if shape not in ("constant", "linear"):
            raise ArgumentError(f"WarmUp: shape must be 'constant' or 'linear', got {shape!r}.")
        if iterations < 0:
            raise ArgumentError(f"WarmUp: iterations must be at least 0, got {iterations}.")
        self.schedule, self.length, self.start, self.shape = schedule, iterations, start, shape
        for group, base in zip(schedule.optimizer.groups, schedule.base, strict=True):
            group["lr"] = base  # what the inner schedule made of it is not the base rate
        super().__init__(schedule.optimizer)

    def factor(self, iteration: int) -> float:
        """The other schedule's factor, lowered during the warm-up."""
        factor = self.schedule.factor(iteration)
        if iteration >= self.length:
            return factor
        rise = iteration / self.length if self.shape == "linear" else 0.0
        return factor * (self.start + (1 - self.start) * rise)
