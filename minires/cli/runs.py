"""minires eval and minires predict."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..train import Run, evaluate, load_sets
from .device import add_device


def add(commands: Any) -> None:
    """Enter both commands."""
    parser = commands.add_parser("eval", help="test a trained network", description="Loss and error on the test set.")
    parser.set_defaults(run=run_eval)
    parser.add_argument("folder", metavar="RUN", help="folder of a run")
    parser.add_argument("--data", metavar="NAME|PATH", help="other data of the same kind as it was trained on")
    parser.add_argument("--validation", action="store_true", help="test on the images held out of training instead")
    parser.add_argument("--batch-size", type=int, default=250, metavar="N", help="images at a time (250)")
    add_device(parser)

    parser = commands.add_parser(
        "predict", help="classify pictures", description="Classify picture files; each is scaled to the network's size."
    )
    parser.set_defaults(run=run_predict)
    parser.add_argument("folder", metavar="RUN", help="folder of a run")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="PNG, JPEG, ...")
    parser.add_argument("--invert", action="store_true", help="swap light and dark: for dark ink on light paper")
    add_device(parser)


def run_eval(options: argparse.Namespace) -> None:
    """Print the metrics, for each class too."""
    run = Run(options.folder, options.device)
    if options.validation and not run.config.validation:
        raise DataError(f"{options.folder} held no images out of training: leave --validation out.")
    held_out = run.config.validation if options.validation else 0
    sets = load_sets(replace(run.config, data=options.data or run.config.data, validation=held_out))
    if sets.test.image_shape != run.image_shape or sets.test.classes != run.classes:
        raise DataError(
            f"the run was trained on pictures {run.image_shape} of {len(run.classes)} classes, but {sets.test!r} is "
            "something else. Give the data it was trained on with --data."
        )
    metrics = evaluate(run.model, sets.test, run.transform, options.batch_size)
    print(f"{run.config.model}, iteration {run.iteration}, on {sets.test!r}")
    print(f"loss {metrics.loss:.4f}   error {100 * metrics.error:.2f}%   accuracy {100 * metrics.accuracy:.2f}%")
    width = max(map(len, run.classes))
    for k in range(len(run.classes)):
        counts = metrics.confusion[k]
        if not counts.sum():
            continue
        others = np.where(np.arange(len(counts)) == k, 0, counts)
        taken = f"   most often taken for {run.classes[int(others.argmax())]}" if others.any() else ""
        print(f"  {run.classes[k]:<{width}}  {100 * counts[k] / counts.sum():6.2f}% of {counts.sum()}{taken}")


def run_predict(options: argparse.Namespace) -> None:
    """Print the three most probable classes of each picture."""
    run = Run(options.folder, options.device)
    images = np.stack([_read(path, run.image_shape, options.invert) for path in options.images])
    for path, p in zip(options.images, run.probabilities(images), strict=True):
        best = np.argsort(-p)[:3]
        print(f"{path}: " + ", ".join(f"{run.classes[k]} {100 * p[k]:.1f}%" for k in best))


def _read(path: Path, shape: tuple[int, ...], invert: bool) -> np.ndarray:
    """A picture file as bytes (H, W, C) of the network's size; what is transparent becomes white."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # Pillow comes with matplotlib

    height, width, channels = shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # 16 bits: convert() would cut off what is over 255 instead of scaling it
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BOX)
    except FileNotFoundError:
        raise DataError(f"there is no picture {path}.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path} has more pixels than is safe to open. Scale it down first.") from None
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable picture ({error}).") from None
    pixels = np.asarray(image).reshape(height, width, channels)
    return 255 - pixels if invert else pixels
