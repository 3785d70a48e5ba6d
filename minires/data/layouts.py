"""How the official CIFAR files are laid out, and how their records become arrays.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; https://www.cs.toronto.edu/~kriz/cifar.html
describes both layouts.  A picture is 3,072 bytes: the red plane, row by row, then the green, then the blue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ArgumentError, DataError
from .pickles import load_pickle

PIXELS = 3 * 32 * 32

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = tuple(  # a string, as a hundred quoted names would fill two pages
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Layout:
    """One official way of packing one data set: a folder of batch files, and the archive of that folder.

    Attributes:
        version: "binary" or "python".
        folder: name of the folder.
        archive: name of the archive.
        size: of the archive, in bytes.
        md5: of the archive, from the official page.
        train: names of the batch files to train on.
        test: names of those to test on.
    """

    version: str
    folder: str
    archive: str
    size: int
    md5: str
    train: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The batch files, training first."""
        return self.train + self.test


@dataclass(frozen=True)
class Family:
    """A data set, its classes and its layouts.

    Attributes:
        name: "cifar10" or "cifar100".
        title: as people write it.
        classes: the names of the classes, in the order of the labels.
        label_counts: how many values each label byte before a picture can have; the last byte is the class.
        label_key: where the Python layout keeps the labels.
        layouts: the quickest to read first.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    label_counts: tuple[int, ...]
    label_key: str
    layouts: tuple[Layout, ...]

    @property
    def record(self) -> int:
        """Bytes in one record of the binary layout."""
        return len(self.label_counts) + PIXELS


_FIVE = tuple(f"data_batch_{i}" for i in range(1, 6))

FAMILIES = {
    "cifar10": Family(
        name="cifar10",
        title="CIFAR-10",
        classes=CIFAR10_CLASSES,
        label_counts=(10,),
        label_key="labels",
        layouts=(
            Layout(
                version="binary",
                folder="cifar-10-batches-bin",
                archive="cifar-10-binary.tar.gz",
                size=170_052_171,
                md5="c32a1d4ab5d03f1284b67883e8d87530",
                train=tuple(f"{name}.bin" for name in _FIVE),
                test=("test_batch.bin",),
            ),
            Layout(
                version="python",
                folder="cifar-10-batches-py",
                archive="cifar-10-python.tar.gz",
                size=170_498_071,
                md5="c58f30108f718f92721af3b95e74349a",
                train=_FIVE,
                test=("test_batch",),
            ),
        ),
    ),
    "cifar100": Family(
        name="cifar100",
        title="CIFAR-100",
        classes=CIFAR100_CLASSES,
        label_counts=(20, 100),
        label_key="fine_labels",
        layouts=(
            Layout(
                version="binary",
                folder="cifar-100-binary",
                archive="cifar-100-binary.tar.gz",
                size=168_513_733,
                md5="03b5dce01913d631647c71ecec9e9cb8",
                train=("train.bin",),
                test=("test.bin",),
            ),
            Layout(
                version="python",
                folder="cifar-100-python",
                archive="cifar-100-python.tar.gz",
                size=169_001_437,
                md5="eb9058c3a382ffc7106e4002c42a8d85",
                train=("train",),
                test=("test",),
            ),
        ),
    ),
}


def family_of(name: str) -> Family:
    """Return the family called ``name``.

    Raises:
        ArgumentError: the name is not among `FAMILIES`.
    """
    if name not in FAMILIES:
        raise ArgumentError(f"no data set is called {name!r}; choose {' or '.join(map(repr, FAMILIES))}.")
    return FAMILIES[name]


def decode(family: Family, layout: Layout, raw: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Turn one batch file into arrays.

    Args:
        family, layout: what the file is a part of.
        raw: its content.
        where: names the file in the sentence of an error.

    Returns:
        images (N, 32, 32, 3) uint8 and labels (N,) int64.

    Raises:
        DataError: anything is wrong in it.
    """
    if layout.version == "binary":
        planes, labels = _decode_binary(family, raw, where)
    else:
        planes, labels = _decode_python(family, raw, where)
    images = np.empty((len(planes), 1024, 3), dtype=np.uint8)
    for channel in range(3):  # three times as fast as one transposed copy
        images[..., channel] = planes[:, 1024 * channel : 1024 * (channel + 1)]
    return images.reshape(-1, 32, 32, 3), labels


def _decode_binary(family: Family, raw: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    if not raw or len(raw) % family.record:
        raise DataError(
            f"{where} is truncated or of another kind: {family.title} records are {family.record} bytes, but its "
            f"{len(raw)} bytes hold {len(raw) // family.record} of them and {len(raw) % family.record} bytes over; "
            "copy or download it again."
        )
    records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, family.record)
    width = len(family.label_counts)
    for column, count in enumerate(family.label_counts):
        _check_labels(records[:, column], count, where)
    return records[:, width:], records[:, width - 1].astype(np.int64)


def _decode_python(family: Family, raw: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    batch = load_pickle(raw, where)
    if not isinstance(batch, dict):
        raise DataError(f"{where} holds a {type(batch).__name__}, but a CIFAR batch is a dict; download it again.")
    batch = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    missing = {"data", family.label_key} - set(batch)
    if missing:
        raise DataError(
            f"{where} has no {' and no '.join(map(repr, sorted(missing)))} among its keys {sorted(map(str, batch))}; "
            f"is it a {family.title} batch? Download it again."
        )
    planes = batch["data"]
    if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8 or planes.shape[1:] != (PIXELS,):
        found = f"{planes.dtype} {planes.shape}" if isinstance(planes, np.ndarray) else type(planes).__name__
        raise DataError(f"{where}: 'data' must be uint8 (N, {PIXELS}), found {found}; download it again.")
    try:
        labels = np.asarray(batch[family.label_key])
    except ValueError:  # rows of different lengths
        labels = np.empty(0, dtype=object)
    if labels.shape != (len(planes),) or labels.dtype.kind not in "iu" or not len(planes):
        raise DataError(
            f"{where}: {family.label_key!r} must be one whole number for each of its {len(planes)} pictures, at least "
            f"one, but it is {labels.dtype} {labels.shape}; download it again."
        )
    _check_labels(labels, len(family.classes), where)
    return planes, labels.astype(np.int64)


def _check_labels(labels: np.ndarray, count: int, where: str) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if wrong.size:
        raise DataError(
            f"{where} is corrupted: record {wrong[0]} has the label {labels[wrong[0]]}, but labels run from 0 to "
            f"{count - 1}; copy or download it again."
        )
