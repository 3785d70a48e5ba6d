"""Whole networks: the time of a training step, and of inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import functional as F
from ..errors import MiniresError
from ..models import BasicBlock, ResNet, build, parse_name
from ..models.resnet import IMAGENET_LAYOUTS
from ..nn import Replay
from ..optim import SGD
from ..tensor import Tensor, no_grad
from .report import Row
from .timing import alternate

RATE, MOMENTUM, DECAY = 0.01, 0.9, 1e-4  # a small rate: random labels must not make the loss overflow
_AGREEMENT = 5e-3  # relative: float32, and sums in another order through a hundred layers


@dataclass(frozen=True)
class Network:
    """A network that is measured.

    Attributes:
        name: as for `models.build`, or "resnet18-cifar".
        size: pixels of a side of its pictures.
        classes: outputs.
        batch: pictures in a training step unless told otherwise.
    """

    name: str
    size: int
    classes: int
    batch: int

    @property
    def large(self) -> bool:
        """Whether it is one of the networks for 224x224 pictures."""
        return self.size == 224

    def depth_and_kind(self) -> tuple[int, bool]:
        """The depth, and whether it has shortcuts."""
        return parse_name(self.name)

    def build(self) -> ResNet:
        """The network, with the same weights every time."""
        if self.name == "resnet18-cifar":
            layout = (2, 2, 2, 2), (64, 128, 256, 512)
            return ResNet(BasicBlock, *layout, self.classes, stem="cifar", shortcut="B", generator=0)
        return build(self.name, generator=0)

    def data(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Random pictures (batch, size, size, 3) in float32, and labels (batch,)."""
        rng = np.random.default_rng(0)
        pictures = rng.standard_normal((batch, self.size, self.size, 3), np.float32)
        return pictures, rng.integers(0, self.classes, batch)


def network(name: str) -> Network:
    """By name: "resnet18-cifar", a ResNet-18 for 32x32 pictures, or any that `models.build` knows.

    Raises:
        ArgumentError: there is no such network.
    """
    if name == "resnet18-cifar":
        return Network(name, 32, 10, 128)
    large = parse_name(name)[0] in IMAGENET_LAYOUTS
    found = Network(name, 224, 1000, 16) if large else Network(name, 32, 10, 128)
    found.build()  # which depths there are is known there
    return found


def train_step(model: ResNet, pictures: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """A function that takes one step of SGD on this batch and returns the loss."""
    optimizer = SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(Tensor(pictures)), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def infer(model: ResNet, pictures: np.ndarray, replayed: bool = False) -> Callable[[], np.ndarray]:
    """A function that returns the logits of these pictures, by the model or by a `nn.Replay` of it."""
    run = Replay(model.eval()) if replayed else model.eval()

    def logits() -> np.ndarray:
        with no_grad():
            return run(Tensor(pictures)).numpy()

    return logits


def steps(net: Network, batch: int | None, rounds: int, beside: Any = None) -> Iterator[Row]:
    """Time a training step: forward, backward and SGD with momentum and decay, the data being there.

    Args:
        net: what to train.
        batch: pictures in a step, or None for the usual.
        rounds: see `alternate`.
        beside: the module `torch_side`, to run PyTorch in turn.
    """
    pictures, labels = net.data(batch or net.batch)
    model = net.build()
    contenders: dict[str, Callable[[], Any]] = {}
    if beside:
        contenders = beside.steps(net, model, pictures, labels)
    contenders = {"minires": train_step(model, pictures, labels), **contenders}
    for f in contenders.values():
        f()
    _must_agree(net, contenders)  # the loss after a step: forward, backward and update have been the same
    yield _row("step", f"training step of {net.name}, {net.size}x{net.size}", net, contenders, len(pictures), rounds)


def inferences(net: Network, batch: int | None, rounds: int, beside: Any = None) -> Iterator[Row]:
    """Time inference on a batch, on one picture, and on one by `nn.Replay`; arguments as for `steps`."""
    for number, replayed in dict.fromkeys(((batch or net.batch, False), (1, False), (1, True))):
        pictures, _ = net.data(number)
        model = net.build()
        contenders: dict[str, Callable[[], Any]] = {"minires": infer(model, pictures, replayed)}
        if beside:
            contenders |= beside.inferences(net, model, pictures)
        _must_agree(net, contenders)
        heading = f"inference of {net.name}, {net.size}x{net.size}"
        yield _row("inference", heading, net, contenders, number, rounds, "replayed" if replayed else "")


def _row(
    bench: str, heading: str, net: Network, contenders: Mapping[str, Callable[[], Any]], batch: int, rounds: int,
    how: str = "",
) -> Row:  # fmt: skip
    seconds = alternate(contenders, rounds)
    values = {name: [1e3 * s for s in times] for name, times in seconds.items()}
    label = f"batch {batch}" + (f", {how}" if how else "")
    return Row(bench, net.name, heading, label, "ms", values, images=batch)


def _must_agree(net: Network, contenders: dict[str, Callable[[], Any]]) -> None:
    """Times of two programs that compute different things are no comparison."""
    ours, *others = ((name, np.asarray(f())) for name, f in contenders.items())
    for name, result in others:
        apart = np.abs(result - ours[1]).max() / np.abs(ours[1]).max()
        if not apart <= _AGREEMENT:
            raise MiniresError(
                f"{net.name}: minires and {name} differ by {apart:.1e}, more than {_AGREEMENT:g}: they do not compute "
                "the same, so their times are not compared. Run the tests; they say where."
            )
