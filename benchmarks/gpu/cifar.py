"""CIFAR-10 for the schedules: the official files, or JPEG copies of all its pictures in two packs."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from minires.data import Dataset, Normalise, shapes
from minires.data.layouts import FAMILIES
from minires.errors import DataError
from minires.train import Sets

from .lab import ROOT, Lab
from .record import tell

PACKS = ("train-jpeg.npz", "test-jpeg.npz")
_FOLDER = "cifar-10-batches-bin"


def ready(lab: Lab) -> tuple[str, str]:
    """The path for `Config.data`, and what to call the data; the packs are unpacked the first time.

    Raises:
        DataError: there is no data.
    """
    if lab.data is None:
        raise DataError("the schedules need CIFAR-10: give --data a folder with cifar-10-batches-bin, an archive of "
                        f"it, or the packs {' and '.join(PACKS)}.")  # fmt: skip
    # a checkpoint knows its data by the path, and may be taken to another machine: where it can be it is relative
    data = lab.data.resolve()
    data = data.relative_to(ROOT) if data.is_relative_to(ROOT) else data
    packs = [data / name for name in PACKS]
    if not all(pack.is_file() for pack in packs):
        return str(data), "CIFAR-10"
    unpack(data, packs)
    return str(data / _FOLDER), "CIFAR-10 (JPEG copy)"


def unpack(folder: Path, packs: list[Path]) -> None:
    """Write the pictures of two packs in the official binary layout, unless they are there.

    A pack has the arrays ``jpeg`` (bytes end to end), ``offset`` (N + 1,) and ``label`` (N,), in the official order.  A
    record is a byte of label and 3 x 32 x 32 bytes of picture.
    """
    target = folder / _FOLDER
    if (target / "batches.meta.txt").exists():
        return
    tell(f"unpacking {packs[0].parent} to {target}")
    target.mkdir(parents=True, exist_ok=True)
    train, test = map(_decoded, packs)
    for k, part in enumerate(np.array_split(train, 5), start=1):
        (target / f"data_batch_{k}.bin").write_bytes(part.tobytes())
    (target / "test_batch.bin").write_bytes(test.tobytes())
    (target / "batches.meta.txt").write_text("\n".join(FAMILIES["cifar10"].classes) + "\n", encoding="ascii")  # is last


def _decoded(pack: Path) -> np.ndarray:
    from PIL import Image

    with np.load(pack) as arrays:
        jpeg, offset, label = arrays["jpeg"].tobytes(), arrays["offset"], arrays["label"]
    records = np.empty((len(label), 3073), np.uint8)
    records[:, 0] = label

    def decode(i: int) -> None:
        with Image.open(io.BytesIO(jpeg[offset[i] : offset[i + 1]])) as image:
            records[i, 1:] = np.asarray(image.convert("RGB")).transpose(2, 0, 1).reshape(-1)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, range(len(label)), chunksize=500):
            pass
    return records


def rehearsal_sets() -> Sets:
    """A handful of small pictures, as if they were CIFAR-10: the last batch of an epoch is smaller."""
    parts: list[Dataset] = []
    for count, seed in ((20, 1), (10, 2)):
        drawn = shapes(count, seed=seed)
        small = np.ascontiguousarray(drawn.images[:, ::4, ::4])
        parts.append(Dataset(small, drawn.labels, drawn.classes, drawn.name))
    return Sets(parts[0], parts[1], "cifar10", Normalise.fit(parts[0]).mean)
