"""What every optimiser shares: parameter groups, gradients, and state that can be saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import ArgumentError, CheckpointError
from ..tensor import Tensor


class Optimizer:
    """Parameters in groups, each with its own settings, and named arrays of state for each parameter.

    Args:
        params: tensors, or dicts ``{"params": [...], "lr": ...}`` that override the defaults for their group.
        defaults: the settings of a group that does not give its own.

    Attributes:
        groups: the groups as dicts; schedules write ``group["lr"]``.
        state: for each parameter, by its number over all groups, its arrays by name.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        given = list(params)
        if not given:
            raise ArgumentError(f"{type(self).__name__}: there are no parameters to optimise.")
        raw = given if isinstance(given[0], Mapping) else [{"params": given}]
        self.groups: list[dict[str, Any]] = []
        for group in raw:
            unknown = set(group) - set(defaults) - {"params"}
            if unknown:
                raise ArgumentError(f"{type(self).__name__}: unknown settings {sorted(unknown)}; there are {sorted(defaults)}.")
            tensors = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
            self.groups.append({**defaults, **group, "params": tensors})
        parameters = self.parameters()
        for p in parameters:
            if not isinstance(p, Tensor):
                raise ArgumentError(f"{type(self).__name__}: expected tensors, got {type(p).__name__}.")
        if len({id(p) for p in parameters}) != len(parameters):
            raise ArgumentError(f"{type(self).__name__}: a parameter is given twice; it would be stepped twice.")
        self.state: list[dict[str, Any]] = [{} for _ in parameters]

    def parameters(self) -> list[Tensor]:
        """All parameters, group after group."""
        return [p for group in self.groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters():
            p.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        number = 0
        for group in self.groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p.data, p.grad, group, self.state[number])
                    p.data = p.data  # tells the version counter of a change in place
                number += 1

    def update(self, value: Any, grad: Any, group: dict[str, Any], state: dict[str, Any]) -> None:
        """Change ``value`` in place."""
        raise NotImplementedError(f"{type(self).__name__} has no update method.")

    def state_dict(self) -> dict[str, Any]:
        """Settings and copies of all state: ``{"groups": [...], "state": {"0.momentum": array, ...}}``."""
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.groups]
        state = {f"{i}.{k}": np.copy(v) for i, s in enumerate(self.state) for k, v in s.items()}
        return {"groups": groups, "state": state}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            CheckpointError: it is of other parameters; nothing was changed.
        """
        parameters = self.parameters()
        state: list[dict[str, Any]] = [{} for _ in parameters]
        if len(saved["groups"]) != len(self.groups):
            raise CheckpointError(f"the optimiser has {len(self.groups)} groups but the state has {len(saved['groups'])}.")
        for name, array in saved["state"].items():
            number, _, key = name.partition(".")
            i = int(number)
            if i >= len(parameters) or (np.ndim(array) and np.shape(array) != parameters[i].shape):
                raise CheckpointError(f"the optimiser state {name} of shape {np.shape(array)} belongs to no parameter here.")
            state[i][key] = np.copy(array) if np.ndim(array) else np.asarray(array).item()
        self.state = state
        for group, settings in zip(self.groups, saved["groups"], strict=True):
            group.update(settings)


def check_positive(owner: str, **values: float) -> None:
    """Raise ArgumentError for a negative or non-finite setting."""
    for name, value in values.items():
        if not (np.isfinite(value) and value >= 0):
            raise ArgumentError(f"{owner}: {name} must be a finite number of at least 0, got {value!r}.")
