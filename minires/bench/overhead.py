"""What the engine itself costs: chains of operations so small that the arithmetic takes no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import MiniresError
from ..tensor import Tensor
from .report import Row
from .timing import Contender, alternate

LINKS = 100  # of a chain


@dataclass(frozen=True)
class Chain:
    """y -> link(y, *others), again and again.

    Attributes:
        name: of the operations in a link.
        link: by operators and methods that minires and PyTorch share.
        operations: in a link.
        others: arrays besides y that a link takes.
    """

    name: str
    link: Callable[..., Any]
    operations: int = 1
    others: tuple[np.ndarray, ...] = ()


def chains(start: np.ndarray) -> list[Chain]:
    """The chains that begin with this array; their values neither overflow nor vanish."""
    near_one, small = np.full_like(start, 0.999), np.full_like(start, 1e-3)
    found = [
        Chain("y + a", lambda y, a: y + a, others=(small,)),
        Chain("y * a", lambda y, a: y * a, others=(near_one,)),
        Chain("y / a", lambda y, a: y / a, others=(near_one,)),
        Chain("y * 0.999 + 0.001", lambda y: y * 0.999 + 0.001, 2),
        Chain("relu", lambda y: y.relu()),
        Chain("tanh", lambda y: y.tanh()),
        Chain("exp(-y)", lambda y: (-y).exp(), 2),
        Chain("y + y.mean()", lambda y: y + y.mean(), 2),
    ]
    if start.ndim == 2:
        turn = (0.999 * np.eye(len(start))).astype(start.dtype)
        found += [
            Chain("y @ a", lambda y, a: y @ a, others=(turn,)),
            Chain("relu(y @ a + b)", lambda y, a, b: (y @ a + b).relu(), 3, (turn, small)),
            Chain("reshape", lambda y: y.reshape(-1).reshape(8, 8), 2),
        ]
    return found


def starts() -> dict[str, np.ndarray]:
    """A single number, and a matrix of 8x8."""
    return {
        "0-d": np.array(0.5, np.float32),
        "8x8": np.random.default_rng(0).uniform(0.1, 0.9, (8, 8)).astype(np.float32),
    }


def measure(rounds: int, beside: Any = None) -> Iterator[Row]:
    """Time the chains forward, while they are recorded, and backward; in microseconds for each operation.

    Every array of a chain requires its gradient, as parameters do.

    Args:
        rounds: see `alternate`.
        beside: the module `torch_side`, to run PyTorch in turn.
    """
    engines: dict[str, Callable[[np.ndarray, bool], Any]] = {"minires": lambda a, leaf: Tensor(a, requires_grad=leaf)}
    if beside:
        engines["torch"] = beside.tensor
    for size, start in starts().items():
        for direction in ("forward", "backward"):
            for chain in chains(start):
                runs = {name: _Run(chain, start, tensor) for name, tensor in engines.items()}
                _must_agree(chain, runs)
                times = alternate({name: getattr(run, direction) for name, run in runs.items()}, rounds)
                operations = LINKS * chain.operations
                values = {name: [1e6 * s / operations for s in seconds] for name, seconds in times.items()}
                heading = f"{direction}, one operation on {size} float32"
                yield Row("overhead", "", heading, chain.name, "us", values)


class _Run:
    """A chain on one of the engines."""

    def __init__(self, chain: Chain, start: np.ndarray, tensor: Callable[[np.ndarray, bool], Any]) -> None:
        self._link = chain.link
        self.leaves = [tensor(a, True) for a in (start, *chain.others)]
        self._upstream = tensor(np.ones_like(start), False)

    @property
    def forward(self) -> Contender:
        """Recording a whole chain."""
        return Contender(self._record)

    @property
    def backward(self) -> Contender:
        """Going back through one that has just been recorded."""

        def record() -> tuple[Any]:
            for leaf in self.leaves:
                leaf.grad = None
            return (self._record(),)

        return Contender(lambda y: y.backward(self._upstream), record)

    def _record(self) -> Any:
        y, *others = self.leaves
        link = self._link
        for _ in range(LINKS):
            y = link(y, *others)
        return y

    def results(self) -> list[np.ndarray]:
        """The end of the chain and the gradient of each array."""
        y = self._record()
        y.backward(self._upstream)
        return [np.asarray(t.detach().numpy() if t is y else t.grad) for t in (y, *self.leaves)]


def _must_agree(chain: Chain, runs: dict[str, _Run]) -> None:
    ours, *others = (run.results() for run in runs.values())
    for theirs in others:
        if not all(np.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(ours, theirs, strict=True)):
            raise MiniresError(f"overhead: minires and torch differ on {chain.name}, so their times are not compared.")
