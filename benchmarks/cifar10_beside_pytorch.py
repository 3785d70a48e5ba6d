"""ResNet-20 on CIFAR-10 in minires and in PyTorch: the same weights, the same batches, the same recipe.

    python benchmarks/cifar10_beside_pytorch.py --data PATH --label "CIFAR-10" --epochs 3

Rounding makes any two implementations drift apart after some hundred steps, so "the same" needs a yardstick.  PyTorch
therefore runs twice: once from the same weights and once from weights changed by one part in a million.  If minires and
PyTorch differ no more than PyTorch and PyTorch, nothing but rounding separates them.

Needs torch.  Writes log.jsonl, curves.png, comparison.json and comparison.png to --out.  No times are compared here.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import minires
from minires.bench.torch_twin import cifar_twin, copy_weights, nchw
from minires.data import DataLoader
from minires.train import Trainer, recipe


def train_torch(trainer: Trainer, nudge: float) -> dict:
    """PyTorch from the trainer's initial weights, times (1 + nudge * normal), through the trainer's batches."""
    config = trainer.config
    twin = copy_weights(trainer.model, cifar_twin(20))
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(1 + nudge * torch.randn(p.shape, generator=generator))
    sgd = torch.optim.SGD(twin.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.MultiStepLR(sgd, list(config.drops(trainer.iterations)), 0.1)
    loader = DataLoader(trainer.sets.train, config.batch_size, shuffle=True, seed=config.seed,
                        transform=trainer.sets.train_transform(config))  # fmt: skip
    losses, tests = [], []
    with tqdm(total=trainer.iterations, desc=f"PyTorch, nudge {nudge:g}", disable=None) as bar:
        while len(losses) < trainer.iterations:
            twin.train()
            for images, labels in loader:
                sgd.zero_grad()
                loss = torch.nn.functional.cross_entropy(twin(nchw(images)), torch.from_numpy(labels))
                loss.backward()
                sgd.step()
                schedule.step()
                losses.append(loss.item())
                bar.update()
                if len(losses) == trainer.iterations:
                    break
            tests.append(test_torch(twin, trainer))
    return {"losses": losses, "test": tests}


def test_torch(twin: torch.nn.Module, trainer: Trainer) -> dict:
    """Loss and error of the twin on the test set."""
    twin.eval()
    loss, wrong = 0.0, 0
    with torch.no_grad():
        for images, labels in DataLoader(trainer.sets.test, 250, transform=trainer.sets.test_transform):
            logits, target = twin(nchw(images)), torch.from_numpy(labels)
            loss += torch.nn.functional.cross_entropy(logits, target, reduction="sum").item()
            wrong += int((logits.argmax(1) != target).sum())
    return {"loss": loss / len(trainer.sets.test), "error": wrong / len(trainer.sets.test)}


def train_minires(trainer: Trainer, folder: Path) -> dict:
    """minires itself, recording the loss of every iteration."""
    losses: list[float] = []
    with tqdm(total=trainer.iterations, desc="minires", disable=None) as bar:

        def record(trainer: Trainer) -> None:
            losses.append(trainer.last_loss)
            bar.update()

        trainer.on_step = record
        trainer.fit()
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {"losses": losses, "test": [{"loss": r["loss"], "error": r["error"]} for r in log if r["kind"] == "test"]}


def compare(runs: dict[str, dict], last: int) -> dict:
    """The mean training loss of the last iterations, and how far apart the runs are."""
    means = {name: float(np.mean(run["losses"][-last:])) for name, run in runs.items()}
    # batches are the same in all runs, so the difference batch by batch is what counts, with its standard error
    spread = {}
    for name in list(runs)[1:]:
        difference = np.subtract(runs[name]["losses"][-last:], runs["minires"]["losses"][-last:])
        spread[f"{name} - minires"] = {
            "mean": float(difference.mean()),
            "standard error": float(difference.std(ddof=1) / np.sqrt(last)),
        }
    first = {  # how rounding grows, iteration by iteration
        f"{name} - PyTorch": np.subtract(runs[name]["losses"][:6], runs["PyTorch"]["losses"][:6]).tolist()
        for name in ("minires", "PyTorch, nudged")
    }
    return {
        "iterations averaged": last,
        "mean training loss": means,
        "PyTorch nudged - PyTorch": means["PyTorch, nudged"] - means["PyTorch"],
        "difference, batch by batch": spread,
        "first six losses": first,
        "test": {name: run["test"][-1] for name, run in runs.items()},
    }


def draw(runs: dict[str, dict], picture: Path, title: str) -> None:
    """Training loss, a running mean over 20 iterations, and the test error of each epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, run), style in zip(runs.items(), ("-", "--", ":"), strict=True):
        smooth = np.convolve(run["losses"], np.ones(20) / 20, "valid")
        left.plot(np.arange(len(smooth)) + 20, smooth, style, lw=1.3, label=name)
        errors = [100 * t["error"] for t in run["test"]]
        right.plot(range(1, len(errors) + 1), errors, style, marker="o", ms=4, label=name)
    left.set(xlabel="iteration", ylabel="training loss (nats), mean of 20")
    right.set(xlabel="epoch", ylabel="test error (%)", xticks=range(1, len(errors) + 1))
    for panel in (left, right):
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(picture, dpi=130)


def main() -> None:
    """Run all three and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a path that holds CIFAR-10")
    parser.add_argument("--label", default="CIFAR-10", help='its name in the results: "CIFAR-10 (JPEG copy)"')
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cifar10-three-epochs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    config = recipe(options.data, model="resnet20", epochs=options.epochs, log_every=10)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        trainer = Trainer(config, folder, report=tqdm.write)
        pytorch = {"PyTorch": train_torch(trainer, 0.0), "PyTorch, nudged": train_torch(trainer, 1e-6)}
        runs = {"minires": train_minires(trainer, folder), **pytorch}
        for name in ("log.jsonl", "curves.png"):
            shutil.copy(folder / name, options.out / name)
    result = {
        "data": options.label,
        "network": "ResNet-20, option A, 269,722 parameters, float32",
        "recipe": {"batch": config.batch_size, "lr": config.lr, "momentum": config.momentum,
                   "weight decay": config.weight_decay, "lr / 10 at": config.drops(trainer.iterations),
                   "iterations": trainer.iterations, "seed": config.seed},
        "comparison": compare(runs, last=100),
        "versions": {"minires": minires.__version__, "numpy": np.__version__, "torch": torch.__version__,
                     "python": platform.python_version()},
        "command": f'python benchmarks/cifar10_beside_pytorch.py --data PATH --label "{options.label}" '
                   f"--epochs {options.epochs:g}",
        "runs": {n: {"losses": [round(v, 6) for v in run["losses"]], "test": run["test"]} for n, run in runs.items()},
    }  # fmt: skip
    (options.out / "comparison.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(runs, options.out / "comparison.png", f"ResNet-20 on {options.label}: one recipe, one set of batches")
    print(json.dumps(result["comparison"], indent=2))


if __name__ == "__main__":
    main()
