"""Module: parameters, buffers and modules inside modules, under the names they were assigned to."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..backend import asnumpy, check_device, host_copy, on_gpu, to_device
from ..errors import ArgumentError, CheckpointError
from ..tensor import Tensor, as_tensor
from ..tensor.graph import remover


class Parameter(Tensor):
    """A tensor that a module learns: it requires a gradient, and assigning it to an attribute registers it."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True, dtype: Any = None) -> None:
        super().__init__(data, requires_grad, dtype)


class Module:
    """A part of a network.  Assign parameters and modules to attributes, and say in `forward` what is computed.

        class Block(nn.Module):
            def __init__(self, channels):
                self.conv = nn.Conv2d(channels, channels, 3, padding=1)

            def forward(self, x):
                return F.relu(self.conv(x)) + x

    Everything is kept and visited in the order of assignment.
    """

    training: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Module:
        """Here rather than in __init__, so that a subclass that forgets super().__init__() works all the same."""
        self = super().__new__(cls)
        # which attributes are parameters, modules and buffers (the kind Tensor)
        self.__dict__.update(_kinds={}, _hooks=[], training=True)
        return self

    def forward(self, *inputs: Any) -> Any:
        """What the module computes; called through ``module(x)``."""
        raise NotImplementedError(f"{type(self).__name__} has no forward method.")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run `forward`, then the hooks."""
        output = self.forward(*inputs, **options)
        if self._hooks:
            for hook in list(self._hooks):
                replaced = hook(self, inputs, output)
                output = output if replaced is None else replaced
        return output

    def register_forward_hook(self, hook: Callable[[Module, tuple, Any], Any]) -> Callable[[], None]:
        """Call ``hook(module, inputs, output)`` after each forward; what it returns, if anything, replaces the output.

        Returns:
            a function that takes the hook off again.
        """
        self._hooks.append(hook)
        return remover(self._hooks, hook)

    # -- attributes ---------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        if any(isinstance(v, Module | Parameter) for v in inside):
            raise TypeError(
                f"{type(self).__name__}.{name}: the modules in a plain {type(value).__name__} would not be found by "
                "parameters(). Use nn.Sequential(*modules), which can be indexed and iterated."
            )
        kind: type | None = next((k for k in (Parameter, Module) if isinstance(value, k)), None)
        if (
            kind is None
            and self._kinds.get(name) is Tensor
            and (isinstance(value, Tensor | np.ndarray) or on_gpu(value))
        ):
            kind, value = Tensor, as_tensor(value)
        if kind is not None:
            self._check_name(name, type(value).__name__)
        if self._kinds.get(name) is not kind and self._kinds.pop(name, None) is not None:
            self.__dict__.pop(name, None)
        if kind is None:
            object.__setattr__(self, name, value)
        else:
            self.__dict__[name], self._kinds[name] = value, kind

    def _check_name(self, name: str, what: str) -> None:
        if hasattr(Module, name):
            raise AttributeError(
                f"{type(self).__name__}.{name}: that is a method of every module, which a {what} of this name would "
                "hide. Choose another name."
            )

    def _own(self, kind: type) -> list[tuple[str, Any]]:
        found = [(name, self.__dict__.get(name)) for name, k in list(self._kinds.items()) if k is kind]
        return [(name, value) for name, value in found if isinstance(value, kind)]  # whatever was done to __dict__

    def __getattr__(self, name: str) -> Any:  # only called when the usual places do not have it
        if name in self.__dict__.get("_kinds", ()) and name in self.__dict__:
            return self.__dict__[name]  # behind a property that failed
        if hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__}.{name}: the property itself met an unknown attribute.")
        near = difflib.get_close_matches(name, dir(self), 1)
        raise AttributeError(
            f"{type(self).__name__} has no attribute {name!r}." + (f" Did you mean {near[0]!r}?" if near else "")
        )

    def __delattr__(self, name: str) -> None:
        if self._kinds.pop(name, None) is not None:
            del self.__dict__[name]
        else:
            object.__delattr__(self, name)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy has what it is copied from, and registers on its own."""
        self.__dict__.update(state, _kinds=dict(state["_kinds"]), _hooks=list(state["_hooks"]))

    def register_buffer(self, name: str, value: Any) -> None:
        """Keep a tensor that is saved with the module but not learned, such as a running mean."""
        self._check_name(name, "buffer")
        self.__dict__[name], self._kinds[name] = value if isinstance(value, Tensor) else Tensor(value), Tensor

    # -- what is inside -----------------------------------------------------------------------------------------------

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """This module and all inside it, each before its own: ``("", self), ("stem", ...), ("stem.conv", ...)``.

        A module that stands in several places comes once, under its first name.
        """
        return self._walk("", set())

    def _walk(self, prefix: str, seen: set[int]) -> Iterator[tuple[str, Module]]:
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, module in self._own(Module):
            yield from module._walk(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        """`named_modules` without the names."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside this one."""
        return iter(self._own(Module))

    def named_parameters(self, recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their dotted names, a shared one once, under its first name.

        Args:
            recurse: False leaves out those of the modules inside.
        """
        return self._named(Parameter, recurse)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """`named_parameters` without the names."""
        return (parameter for _, parameter in self.named_parameters(recurse))

    def named_buffers(self, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """All buffers with their dotted names; arguments as for `named_parameters`."""
        return self._named(Tensor, recurse)

    def _named(self, kind: type, recurse: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for prefix, module in self.named_modules() if recurse else [("", self)]:
            for name, value in module._own(kind):
                if id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{prefix}.{name}" if prefix else name), value

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by name, on the host: later training does not change them."""
        return {name: host_copy(t.data) for name, t in (*self.named_parameters(), *self.named_buffers())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set every parameter and buffer from `state_dict`, each on the device where it is.  All or nothing.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape differs; nothing was changed.
        """
        own = dict((*self.named_parameters(), *self.named_buffers()))
        arrays = {n: v.numpy() if isinstance(v, Tensor) else asnumpy(v) for n, v in state.items()}
        problems = [f"missing {n}" for n in own if n not in arrays] + [f"unknown {n}" for n in arrays if n not in own]
        problems += [
            f"{n} is {arrays[n].shape} here and {t.shape} in the model"
            for n, t in own.items()
            if n in arrays and arrays[n].shape != t.shape
        ]
        problems += [f"{n} holds {a.dtype}, not numbers" for n, a in arrays.items() if a.dtype.kind not in "fiub"]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise CheckpointError(f"these weights are of another model than {type(self).__name__}: {shown}.")
        for name, t in own.items():
            t.data[...] = to_device(arrays[name], t.device)
            t.data = t.data  # an in-place change: a graph that saved the old values must not use the new ones

    def astype(self, dtype: Any) -> Module:
        """Convert all parameters and buffers of floating point, in place; gradients are dropped.

        Raises:
            ArgumentError: the dtype is none of floating point.
        """
        dtype = np.dtype(dtype)
        if dtype.kind != "f":
            raise ArgumentError(f"astype: expected a dtype of floating point, got {dtype}; others have no gradients.")
        for _, t in (*self.named_parameters(), *self.named_buffers()):
            if t.dtype.kind == "f":
                t._convert(dtype)
        return self

    def to(self, device: str) -> Module:
        """Move all parameters, their gradients and all buffers to ``"cpu"`` or ``"cuda"``, in place.

        An optimiser keeps the parameters it has; move the model before it takes its first step.

        Raises:
            ArgumentError: it is not the name of a device.
            DeviceError: there is no usable GPU.
        """
        check_device(device)
        for _, t in (*self.named_parameters(), *self.named_buffers()):
            t._move(device)
        return self

    def cuda(self) -> Module:
        """``to("cuda")``: to the GPU."""
        return self.to("cuda")

    def cpu(self) -> Module:
        """``to("cpu")``: to the host's memory."""
        return self.to("cpu")

    # -- switches -----------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Training behaviour (batch moments, dropout) here and in all modules inside."""
        for module in self.modules():
            object.__setattr__(module, "training", mode)
        return self

    def eval(self) -> Module:
        """Evaluation behaviour: running statistics, no dropout."""
        return self.train(False)

    def apply(self, function: Callable[[Module], Any]) -> Module:
        """Call ``function`` once on every module inside, innermost first, and on this one."""
        self._apply(function, set())
        return self

    def _apply(self, function: Callable[[Module], Any], seen: set[int]) -> None:
        seen.add(id(self))
        for _, module in self.named_children():
            if id(module) not in seen:
                module._apply(function, seen)
        function(self)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Freeze (False) or unfreeze all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets."""
        return ""

    def __repr__(self) -> str:
        inside = [f"({name}): {module!r}".replace("\n", "\n  ") for name, module in self.named_children()]
        if not inside:
            return f"{type(self).__name__}({self.extra_repr()})"
        return f"{type(self).__name__}({self.extra_repr()}\n  " + "\n  ".join(inside) + "\n)"


def device_of_module(module: Module) -> str:
    """Where its parameters are; ``"cpu"`` if it has none.  (`Module` leaves the name ``device`` to its subclasses.)"""
    return next((p.device for p in module.parameters()), "cpu")


class Sequential(Module):
    """Modules one after the other; can be indexed, sliced and iterated."""

    def __init__(self, *modules: Module) -> None:
        for i, module in enumerate(modules):
            if not isinstance(module, Module):
                raise TypeError(f"Sequential: argument {i} is {type(module).__name__}, not a Module.")
            setattr(self, str(i), module)

    def forward(self, x: Any) -> Any:
        """Each module on the output of the one before."""
        for module in self:
            x = module(x)
        return x

    def __iter__(self) -> Iterator[Module]:
        return iter([module for _, module in self._own(Module)])

    def __len__(self) -> int:
        return len(self._own(Module))

    def __getitem__(self, index: int | slice) -> Any:
        chosen = list(self)[index]
        return Sequential(*chosen) if isinstance(index, slice) else chosen
