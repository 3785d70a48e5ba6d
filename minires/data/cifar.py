"""CIFAR-10 and CIFAR-100 from the official files, wherever a reader has them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minires.data.archive import tar_members
from minires.data.dataset import Dataset
from minires.data.layouts import FAMILIES, Family, Layout, decode
from minires.errors import DataError


def default_root() -> Path:
    """Return where data sets are looked for: ``$MINIRES_DATA``, or the user's cache, ``~/.cache/minires``.

    The cache honours ``XDG_CACHE_HOME``.
    """
    if os.environ.get("MINIRES_DATA"):
        return Path(os.environ["MINIRES_DATA"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "minires"


def cifar10(root: str | os.PathLike[str] | None = None, download: bool = False) -> tuple[Dataset, Dataset]:
    """Load CIFAR-10: by default 50,000 pictures 32x32x3 to train on and 10,000 to test on, in ten classes.

    `root` is a folder or a file: ``cifar-10-batches-bin``, ``cifar-10-batches-py``, ``cifar-10-binary.tar.gz``,
    ``cifar-10-python.tar.gz``, or a folder with one of these in it.  None means `default_root`.  With several, the one
    that is quickest to read is taken.  Batches may be shorter than the official ones.

    `download` fetches the binary archive first if there is nothing yet.

    Raises DataError when the data is missing, truncated, corrupted or something else.
    """
    return _load(FAMILIES["cifar10"], root, download)


def cifar100(root: str | os.PathLike[str] | None = None, download: bool = False) -> tuple[Dataset, Dataset]:
    """Load CIFAR-100 with its 100 fine classes; the 20 coarse ones are left out.

    `root` is ``cifar-100-binary``, ``cifar-100-python``, an archive of one, or a folder with one in it; the rest as in
    `cifar10`.
    """
    return _load(FAMILIES["cifar100"], root, download)


@dataclass(frozen=True)
class Copy:
    """One copy of a data set on disk: a folder of batches, or an archive."""

    family: Family
    layout: Layout
    path: Path
    archived: bool

    def batches(self) -> Iterator[tuple[str, bytes]]:
        """Yield (file name, content) of the batches that are there, one in memory at a time."""
        if self.archived:
            wanted = {(self.layout.folder, file) for file in self.layout.files}
            for _, file, raw in tar_members(self.path, wanted):
                yield file, raw
            return
        for file in self.layout.files:
            if (self.path / file).is_file():
                try:
                    yield file, (self.path / file).read_bytes()
                except OSError as error:
                    raise DataError(f"{self.path / file} cannot be read: {error.strerror}.") from None

    def load(self) -> tuple[Dataset, Dataset]:
        """Read the training and the test set.  Raises DataError for a missing, truncated or corrupted batch."""
        parts = {file: decode(self.family, self.layout, raw, str(self.path / file)) for file, raw in self.batches()}
        self.check_complete(parts)
        return self._join("train", parts, self.layout.train), self._join("test", parts, self.layout.test)

    def check_complete(self, present: Collection[str]) -> None:
        """Raise DataError unless all batches are among `present`."""
        missing = [file for file in self.layout.files if file not in present]
        if missing:
            raise DataError(
                f"{self.path} lacks {', '.join(missing)}: {self.family.title} in the {self.layout.version} layout is "
                f"{', '.join(self.layout.files)}; copy what is missing, or run `minires data download "
                f"{self.family.name}`."
            )

    def _join(self, part: str, parts: dict[str, tuple[np.ndarray, np.ndarray]], files: tuple[str, ...]) -> Dataset:
        images = np.concatenate([parts[file][0] for file in files])
        labels = np.concatenate([parts[file][1] for file in files])
        return Dataset(images, labels, self.family.classes, f"{self.family.name} {part}")


def find_copies(family: Family, root: Path) -> list[Copy]:
    """Return the copies of `family` at `root` or directly beneath it, the quickest to read first."""
    if root.is_file():
        return [Copy(family, _layout_inside(family, root), root, archived=True)]
    folders = [
        Copy(family, layout, folder, archived=False)
        for layout in family.layouts
        for folder in (root, root / layout.folder)
        if any((folder / file).is_file() for file in layout.files)
    ]
    archives = [
        Copy(family, layout, root / layout.archive, archived=True)
        for layout in family.layouts
        if (root / layout.archive).is_file()
    ]
    return folders + archives


def _layout_inside(family: Family, archive: Path) -> Layout:
    """Return the layout that an archive of any name holds; its first batch tells."""
    known = {(layout.folder, file): layout for layout in family.layouts for file in layout.files}
    for folder, file, _ in tar_members(archive, set(known)):
        return known[folder, file]
    raise DataError(
        f"{archive} holds no {family.title}: expected {' or '.join(layout.folder + '/' for layout in family.layouts)} "
        f"in it, as in {' and '.join(layout.archive for layout in family.layouts)}; give one of these instead."
    )


def _load(family: Family, root: str | os.PathLike[str] | None, download: bool) -> tuple[Dataset, Dataset]:
    place = default_root() if root is None else Path(root).expanduser()
    copies = find_copies(family, place)
    if not copies and download:
        from minires.data.fetch import download as fetch

        copies = find_copies(family, fetch(family.name, place))
    if not copies:
        raise DataError(_not_found(family, place))
    return copies[0].load()


def _not_found(family: Family, place: Path) -> str:
    accepted = [layout.folder + "/" for layout in family.layouts] + [layout.archive for layout in family.layouts]
    if place.is_dir():
        names = sorted(entry.name for entry in place.iterdir())
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        found = f"{place} holds {shown or 'nothing'}"
    else:
        found = f"{place} does not exist"
    return (
        f"{family.title} was not found: {found}, and one of {', '.join(accepted)} was expected there. "
        f"Run `minires data download {family.name}`, or say where it is with MINIRES_DATA=PATH or --data PATH."
    )
