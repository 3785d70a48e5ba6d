"""One training step on the card against NumPy in float64, and fifty steps of loss against NumPy in float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from minires import functional as F
from minires.backend import asnumpy
from minires.bench.networks import DECAY, MOMENTUM, RATE, Network
from minires.data import Normalise, shapes
from minires.kernels import use_kernels
from minires.kernels.cuda import use_precision
from minires.kernels.cuda.module import PRECISIONS
from minires.nn import Module
from minires.optim import SGD
from minires.tensor import Tensor
from minires.train.step import DeviceStep

from .lab import Lab
from .nets import the_network
from .record import tell

Named = dict[str, np.ndarray]

# half the distance of two neighbouring numbers: the relative error of an operand
ROUNDING = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}


def tolerance(tensor: str, precision: str) -> float:
    """Allowed relative distance, norm of the difference / norm, of a tensor from float64.

    Going forward, twenty layers of errors u leave about u: errors of many summands cancel, and batch norm keeps the
    scale.  Going backward a share of the order of u of the activations of each layer has changed sides of zero, and
    their whole gradients are wrong: sqrt(u) for each layer.  Run on a processor, rounding the operands in the same way,
    this step ended within 4 u (float32: 5 u) and 7 sqrt(u).  The margins are twofold or so; float32, in which no
    activation changes sides, or one by chance, gets 1e-5 and 1e-4.  Mistakes in dx and dw that are smaller than this
    are found where every convolution is checked by itself, before it is timed.
    """
    u = ROUNDING[precision]
    if tensor.startswith(("running", "logits", "loss")):
        return max(8 * u, 1e-5)
    return 1e-4 if precision == "fp32" else 12 * u**0.5


def measure(lab: Lab) -> dict[str, Any]:
    """Section parity."""
    net = the_network(lab, "resnet20", size=8)
    batch = lab.pick(16, 4)
    found = {"network": net.name, "batch": batch,
             "tolerance": {p: {t: tolerance(t, p) for t in ("logits", "gradient")} for p in PRECISIONS},
             "one step": one_step(lab, net, batch), "fifty steps": fifty_steps(lab, net)}  # fmt: skip
    wrong = [f"{name}: {entry['first out of tolerance']}" for name, entry in found["one step"].items()
             if entry.get("first out of tolerance")]  # fmt: skip
    wrong += [f"{name}: two runs differ in {entry['two runs differ in']}" for name, entry in found["one step"].items()
              if entry.get("two runs differ in")]  # fmt: skip
    return found | ({"wrong": "; ".join(wrong)} if wrong else {})


def one_step(lab: Lab, net: Network, batch: int) -> dict[str, Any]:
    """Every tensor of a step, in the order of computation, in each way of computing it on the card."""
    pictures, labels = net.data(batch)
    exact = host_step(net.build().astype(np.float64), pictures.astype(np.float64), labels)
    found = {"NumPy float32": judge(host_step(net.build(), pictures, labels), exact, None)}
    ways = [("cuda-implicit", p, graph) for p in PRECISIONS for graph in (False, True)]
    ways.append(("cuda-im2col", "fp32", False))
    for kernels, precision, graph in ways:
        name = f"{kernels} {precision}{', graph' if graph else ''}"
        with use_kernels(kernels), use_precision(precision):
            first, second = (card_step(lab, net, pictures, labels, graph) for _ in range(2))
        entry = judge(first, exact, precision)
        entry["two runs differ in"] = next((n for n in first if first[n].tobytes() != second[n].tobytes()), None)
        found[name] = entry
        tell(f"  {name:28s} worst {entry['worst']['distance']:.1e} in {entry['worst']['tensor']}; out of tolerance: "
             f"{entry['first out of tolerance'] or 'nothing'}; two runs differ in "
             f"{entry['two runs differ in'] or 'nothing'}")  # fmt: skip
    return found


def host_step(model: Module, pictures: np.ndarray, labels: np.ndarray) -> Named:
    """One step by NumPy: every tensor by name, in the order of computation."""
    optimizer = _sgd(model)
    logits = model(Tensor(pictures))
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    optimizer.step()
    return _collect(model, optimizer, logits, loss.data)


def card_step(lab: Lab, net: Network, pictures: np.ndarray, labels: np.ndarray, graph: bool) -> Named:
    """The same on the card.  As a graph it is the first step that is replayed, from weights that were put back."""
    model = net.build().to("cuda")
    start = model.state_dict()
    step = _Watched(model, pictures, labels, graph)
    if graph:
        while not step.recorded and step.problem is None:
            step()
        if step.problem:
            raise RuntimeError(step.problem)
        with step.stream:
            model.load_state_dict(start)
            for state in step.optimizer.state:
                state["momentum"].fill(0)
        step.read()
    step()
    loss = np.array(step.read()[0] / len(pictures))
    with step.stream:
        return _collect(model, step.optimizer, step.logits, loss)


class _Watched(DeviceStep):
    """A step that keeps its logits."""

    def __init__(self, model: Module, pictures: np.ndarray, labels: np.ndarray, graph: bool) -> None:
        super().__init__(model, _sgd(model), len(pictures), pictures.shape[1:], graph=graph)
        self.logits: Any = None
        model.register_forward_hook(self._keep)
        with self.stream:
            self.images.set(pictures)
            self.labels.set(labels)

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        self.logits = output


def _sgd(model: Module) -> SGD:
    return SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)


def _collect(model: Module, optimizer: SGD, logits: Any, loss: Any) -> Named:
    """Running statistics and logits forward, gradients backward, then what the update made."""
    found = {f"running {name}": t.data for name, t in model.named_buffers()}
    found |= {"logits": logits.data, "loss": loss}
    backward = list(model.named_parameters())[::-1]
    found |= {f"gradient of {name}": p.grad for name, p in backward}
    names = {id(p): name for name, p in backward}
    for p, state in zip(optimizer.parameters(), optimizer.state, strict=True):
        found[f"momentum of {names[id(p)]}"] = state["momentum"]
        found[f"updated {names[id(p)]}"] = p.data
    return {name: np.array(asnumpy(array)) for name, array in found.items()}


def judge(found: Named, exact: Named, precision: str | None) -> dict[str, Any]:
    """The distance of every tensor, the worst, and the first that is out of tolerance."""
    distances = {}
    for name, array in found.items():
        if name not in exact:
            continue
        scale = np.linalg.norm(exact[name])
        distance = float(np.linalg.norm(array.astype(np.float64) - exact[name]) / (scale or 1.0))
        distances[name] = distance if np.isfinite(distance) else float("inf")
    worst = max(distances, key=lambda name: distances[name])
    within = lambda name: precision is None or distances[name] <= tolerance(name, precision)
    first = next((name for name in distances if not within(name)), None)
    return {"worst": {"tensor": worst, "distance": distances[worst]}, "first out of tolerance": first,
            "distances": distances}  # fmt: skip


def fifty_steps(lab: Lab, net: Network) -> dict[str, Any]:
    """The loss of every step, from the same weights and through the same batches of drawn shapes.

    NumPy runs twice, the second time from weights changed by one part in a million: what differs from NumPy no more
    than that differs by rounding.
    """
    steps, batch = lab.pick(50, 5), lab.pick(64, 4)
    pictures = shapes(steps * batch, seed=1)
    apart = pictures.images.shape[1] // net.size  # smaller pictures in a rehearsal
    images = np.ascontiguousarray(Normalise.fit(pictures)(pictures.images)[:, ::apart, ::apart])
    batches = [(images[i : i + batch], pictures.labels[i : i + batch]) for i in range(0, len(images), batch)]
    small = replace(net, batch=batch)
    found = {"NumPy float32": _host_losses(small, batches, 0.0), "NumPy, nudged": _host_losses(small, batches, 1e-6)}
    for precision in PRECISIONS:
        with use_precision(precision):
            found[precision] = _card_losses(small, batches)
    reference = np.array(found["NumPy float32"])
    differences = {name: float(np.abs(np.array(losses) - reference).max()) for name, losses in found.items()}
    tell("  loss of fifty steps, largest difference from NumPy float32: "
         + ", ".join(f"{name} {value:.1e}" for name, value in list(differences.items())[1:]))  # fmt: skip
    return {"losses": found, "largest difference from NumPy float32": differences}


def _host_losses(net: Network, batches: Any, nudge: float) -> list[float]:
    model, rng = net.build(), np.random.default_rng(1)
    for p in model.parameters():
        p.data = p.data * (1 + nudge * rng.standard_normal(p.shape)).astype(np.float32)
    optimizer, losses = _sgd(model), []
    for images, labels in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(Tensor(images)), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _card_losses(net: Network, batches: Any) -> list[float]:
    model = net.build().to("cuda")
    step = DeviceStep(model, _sgd(model), net.batch, batches[0][0].shape[1:])
    losses = []
    for images, labels in batches:
        with step.stream:
            step.images.set(images)
            step.labels.set(labels)
        step()
        losses.append(step.read()[0] / net.batch)
    if step.problem:
        raise RuntimeError(step.problem)
    return losses
