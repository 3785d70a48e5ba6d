"""CIFAR-10 and CIFAR-100 from the official files, wherever a reader has them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from .archive import tar_members, tar_names
from .dataset import Dataset
from .layouts import FAMILIES, Family, Layout, decode


def default_root() -> Path:
    """Return where data sets are looked for: ``$MINIRES_DATA``, or the user's cache, ``~/.cache/minires``.

    The cache honours ``XDG_CACHE_HOME``.
    """
    if os.environ.get("MINIRES_DATA"):
        return Path(os.environ["MINIRES_DATA"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "minires"


def cifar10(root: str | os.PathLike[str] | None = None, download: bool = False) -> tuple[Dataset, Dataset]:
    """Load CIFAR-10: 50,000 pictures 32x32x3 to train on and 10,000 to test on, in ten classes.

    Batches may be shorter than the official ones.

    Args:
        root: a folder or a file: ``cifar-10-batches-bin``, ``cifar-10-batches-py``, ``cifar-10-binary.tar.gz``,
            ``cifar-10-python.tar.gz``, or a folder with one of these in it.  None means `default_root`.  With several,
            the one that is quickest to read is taken.
        download: fetch the binary archive first if there is nothing yet.

    Returns:
        the training set and the test set.

    Raises:
        DataError: the data is missing, truncated, corrupted or something else.
    """
    return _load(FAMILIES["cifar10"], root, download)


def cifar100(root: str | os.PathLike[str] | None = None, download: bool = False) -> tuple[Dataset, Dataset]:
    """Load CIFAR-100 with its 100 fine classes; the 20 coarse ones are left out.

    Args:
        root: ``cifar-100-binary``, ``cifar-100-python``, an archive of one, or a folder with one in it; None and
            several as in `cifar10`.
        download: as in `cifar10`.

    Returns:
        the training set and the test set.

    Raises:
        DataError: the data is missing, truncated, corrupted or something else.
    """
    return _load(FAMILIES["cifar100"], root, download)


@dataclass(frozen=True)
class Copy:
    """One copy of a data set on disk.

    Attributes:
        family: which data set.
        layout: how it is packed.
        path: a folder of batches, or an archive.
        archived: whether it is an archive.
    """

    family: Family
    layout: Layout
    path: Path
    archived: bool

    def batches(self) -> Iterator[tuple[str, bytes]]:
        """Yield (file name, content) of the batches that are there, one in memory at a time.

        Raises:
            DataError: a batch cannot be read, or the archive is damaged.
        """
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
        """Read the training and the test set.

        Raises:
            DataError: a batch is missing, truncated or corrupted.
        """
        parts = {file: decode(self.family, self.layout, raw, str(self.path / file)) for file, raw in self.batches()}
        self.check_complete(parts)
        return self._join("train", parts, self.layout.train), self._join("test", parts, self.layout.test)

    def check_complete(self, present: Collection[str]) -> None:
        """Raise DataError unless all batches are among those present."""
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
    """Return the copies of a data set at a path or directly beneath it, the quickest to read first.

    Raises:
        DataError: the path is a file, but not an archive of this data set.
    """
    if root.is_file():
        found = identify(root)
        if found is None or found[0].name != family.name:
            folders = " or ".join(f"{layout.folder}/" for layout in family.layouts)
            archives = " and ".join(layout.archive for layout in family.layouts)
            raise DataError(
                f"{root} holds no {family.title}: expected {folders} in it, as in {archives}; give one of these "
                "instead."
            )
        return [Copy(*found, root, archived=True)]
    unpacked = [
        Copy(family, layout, folder, archived=False)
        for layout in family.layouts
        for folder in (root, root / layout.folder)
        if any((folder / file).is_file() for file in layout.files)
    ]
    packed = [
        Copy(family, layout, root / layout.archive, archived=True)
        for layout in family.layouts
        if (root / layout.archive).is_file()
    ]
    return unpacked + packed


def identify(archive: Path) -> tuple[Family, Layout] | None:
    """Tell what an archive holds: by its name if that is official, otherwise by the first batch named in it.

    Returns:
        the data set and its layout, or None for an archive of something else.

    Raises:
        DataError: it has another name, and is no archive or is damaged before the first batch.
    """
    layouts = [(family, layout) for family in FAMILIES.values() for layout in family.layouts]
    for family, layout in layouts:
        if archive.name == layout.archive:
            return family, layout
    batches = {(layout.folder, file): (family, layout) for family, layout in layouts for file in layout.files}
    return next((batches[place] for place in tar_names(archive) if place in batches), None)


def _load(family: Family, root: str | os.PathLike[str] | None, download: bool) -> tuple[Dataset, Dataset]:
    place = default_root() if root is None else Path(root).expanduser()
    copies = find_copies(family, place)
    if not copies and download:
        from .fetch import download as fetch

        copies = find_copies(family, fetch(family.name, place))
    if not copies:
        raise DataError(_not_found(family, place))
    try:
        return copies[0].load()
    except DataError as error:
        others = [str(copy.path) for copy in copies[1:] if copy.path != place]  # ``place`` leads here again
        if not others:
            raise
        which = "its path" if len(others) == 1 else "the path of one"
        raise DataError(f"{error} There is also {' and '.join(others)}; give {which} to load that instead.") from None


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
