"""What every optimiser shares: parameter groups, gradients, and state that can be saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..backend import asnumpy, device_of, gpu, host_copy, to_device
from ..errors import ArgumentError, CheckpointError, DeviceError
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
        name = type(self).__name__
        given = [params] if isinstance(params, Tensor) else list(params)
        raw: list[Any] = given if given and all(isinstance(group, Mapping) for group in given) else [{"params": given}]
        self.groups: list[dict[str, Any]] = []
        for group in raw:
            unknown = set(group) - set(defaults) - {"params"}
            if unknown or "params" not in group:
                problem = f"unknown settings {sorted(unknown)}" if unknown else "a group without 'params'"
                raise ArgumentError(f"{name}: {problem}; a group may have params, {', '.join(defaults)}.")
            tensors = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
            settings = {k: _plain(v) for k, v in {**defaults, **group}.items()}
            self.groups.append({**settings, "params": tensors})
            self.check(self.groups[-1])
        parameters = self.parameters()
        if not parameters:
            raise ArgumentError(f"{name}: there are no parameters to optimise.")
        for p in parameters:
            if not isinstance(p, Tensor):
                raise ArgumentError(f"{name}: expected tensors, or only groups as dicts, got {type(p).__name__}.")
            if not p.is_leaf:
                raise ArgumentError(f"{name}: a tensor of shape {p.shape} was computed from others. Give a leaf.")
        if len({id(p) for p in parameters}) != len(parameters):
            raise ArgumentError(f"{name}: a parameter is given twice; it would be stepped twice.")
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
        first = 0
        for number, group in enumerate(self.groups):
            states = self.state[first : first + len(group["params"])]
            first += len(group["params"])
            moved = [(p, state) for p, state in zip(group["params"], states, strict=True) if p.grad is not None]
            if gpu.used:
                self._check_devices(moved)
            self.update_group(number, moved)
            for p, _ in moved:
                p.data = p.data  # tells backward() of a change in place

    def update_group(self, number: int, moved: list[tuple[Tensor, dict[str, Any]]]) -> None:
        """Change the parameters of a group that have a gradient, given with their states."""
        for p, state in moved:
            self.update(p.data, p.grad, self.groups[number], state)

    def _check_devices(self, moved: list[tuple[Tensor, dict[str, Any]]]) -> None:
        """Raise DeviceError unless each parameter, its gradient and its state are on one device."""
        for p, state in moved:
            for name, array in {"gradient": p.grad, **state}.items():
                if hasattr(array, "dtype") and device_of(array) != p.device:
                    raise DeviceError(
                        f"{type(self).__name__}: a parameter of shape {p.shape} is on {p.device}, but its {name} on "
                        f"{device_of(array)}. Move the model before the first step, or afterwards the state too: "
                        "optimizer.load_state_dict(optimizer.state_dict())."
                    )

    def check(self, group: dict[str, Any]) -> None:
        """Raise ArgumentError for settings of a group that make no sense."""

    def update(self, value: Any, grad: Any, group: dict[str, Any], state: dict[str, Any]) -> None:
        """Change ``value`` in place."""
        raise NotImplementedError(f"{type(self).__name__} has no update method.")

    def state_dict(self) -> dict[str, Any]:
        """Settings and copies of all state, on the host: ``{"groups": [...], "state": {"0.momentum": array, ...}}``."""
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.groups]
        state = {f"{i}.{k}": host_copy(v) for i, s in enumerate(self.state) for k, v in s.items()}
        return {"groups": groups, "state": state}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore `state_dict`, on the device and in the dtype of each parameter.

        Raises:
            CheckpointError: it is of another optimiser or of other parameters; nothing was changed.
        """
        parameters, owner = self.parameters(), f"the {type(self).__name__} here"
        state: list[dict[str, Any]] = [{} for _ in parameters]
        if not {"groups", "state"} <= set(saved):
            raise CheckpointError(f"{owner} expects a state with 'groups' and 'state', got {sorted(saved)}.")
        if len(saved["groups"]) != len(self.groups):
            raise CheckpointError(f"{owner} has {len(self.groups)} groups but the state has {len(saved['groups'])}.")
        for group, settings in zip(self.groups, saved["groups"], strict=True):
            if set(settings) != set(group) - {"params"}:
                expected = ", ".join(sorted(set(group) - {"params"}))
                found = ", ".join(sorted(settings))
                raise CheckpointError(f"{owner} has the settings {expected}, but the state has {found}.")
        for name, value in saved["state"].items():
            number, _, key = name.partition(".")
            array, i = asnumpy(value), int(number) if number.isdigit() else len(parameters)
            is_count = array.dtype.kind == "i" and not array.ndim
            if i >= len(parameters) or not (is_count or array.shape == parameters[i].shape):
                raise CheckpointError(f"the state {name} of shape {array.shape} belongs to no parameter of {owner}.")
            if is_count:
                state[i][key] = array.item()
            else:
                state[i][key] = to_device(np.array(array, parameters[i].dtype), parameters[i].device)
        self.state = state
        for group, settings in zip(self.groups, saved["groups"], strict=True):
            group.update(settings)


def _plain(value: Any) -> Any:
    """A NumPy scalar as a Python number, which JSON can hold and which does not widen float32."""
    return value.item() if isinstance(value, np.generic) else value


def check_not_negative(owner: str, **values: float) -> None:
    """Raise ArgumentError for a negative or non-finite setting."""
    for name, value in values.items():
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ArgumentError(f"{owner}: {name} must be a finite number of at least 0, got {value!r}.")
