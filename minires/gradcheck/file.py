"""Checking the functions in a Python file, as ``minires gradcheck FILE.py`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import ArgumentError
from .pair import gradcheck_fn
from .report import Report
from .source import load

_EXAMPLE = 'INPUTS = {"linear": {"x": (4, 3), "w": (3, 5)}}'


def check_file(path: Path, seed: int = 0) -> Iterator[tuple[str, Report | str]]:
    """Check every pair of functions that a file names in ``INPUTS``, one after the other.

        INPUTS = {"linear": {"x": (4, 3), "w": (3, 5)}}

        def linear(x, w):
            return x @ w

        def linear_backward(dy, x, w):
            return {"x": dy @ w.T, "w": x.T @ dy}

    A name stands for the function ``name`` (or ``name_forward``) and ``name_backward``, as `gradcheck_fn` takes them.
    Its inputs are shapes, which are filled with random numbers, or arrays, such as labels, or a function of a
    `numpy.random.Generator` that makes a dict of arrays.

    Yields:
        the name, and a `Report`; or a sentence if a function is not written yet (NotImplementedError) or raises.

    Raises:
        LoadError: the file cannot be read, is no Python, or raises an exception.
        ArgumentError: it has no ``INPUTS``, or lacks a function.
    """
    module = load(path)
    wanted = getattr(module, "INPUTS", None)
    if not isinstance(wanted, Mapping) or not wanted:
        raise ArgumentError(f"{path} does not say what to check: give it a dict such as {_EXAMPLE}.")
    for name, inputs in wanted.items():
        forward = _function(module, path, name, f"{name}_forward")
        backward = _function(module, path, f"{name}_backward")
        try:
            yield name, gradcheck_fn(forward, backward, _arrays(name, inputs, seed), seed, name=name)
        except NotImplementedError as error:
            yield name, f"not written yet{f' ({error})' if str(error) else ''}"
        except ArgumentError as error:
            yield name, str(error)
        except Exception as error:  # whatever a student's function raises
            yield name, f"{type(error).__name__}: {error}{_place(error, path)}"


def _function(module: ModuleType, path: Path, *names: str) -> Callable[..., Any]:
    for name in names:
        if callable(found := getattr(module, name, None)):
            return found
    raise ArgumentError(f"{path} has no function {' or '.join(names)}, which its INPUTS ask for.")


def _arrays(name: str, inputs: Any, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    given = inputs(rng) if callable(inputs) else inputs
    if not isinstance(given, Mapping):
        raise ArgumentError(f"the inputs of {name} must be a dict by name, such as {_EXAMPLE}.")
    shapes = {n: isinstance(v, tuple) and all(isinstance(size, int) for size in v) for n, v in given.items()}
    return {n: rng.standard_normal(v) if shapes[n] else v for n, v in given.items()}


def _place(error: BaseException, path: Path) -> str:
    """The last line of the file that an error came through."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""
