"""Which data sets are on this machine: what `minires data info` prints."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .cifar import Copy, default_root, find_copies, identify
from .layouts import FAMILIES, decode
from .uci_digits import DIGITS_FILE, digits

OFFICIAL_COUNTS = (50_000, 10_000)


@dataclass(frozen=True)
class Found:
    """A data set that was found.

    Attributes:
        name: "digits", "cifar10" or "cifar100"; "unknown" for a file that is none of these.
        path: where it is.
        layout: "binary" or "python", with ".tar.gz" for an archive, or "package" for what minires brings along.
        train: how many pictures there are to train on; None if they could not be counted.
        test: how many there are to test on; None likewise.
        verified: whether it is an archive with the official MD5 sum.  Folders, and the digits of the package, have no
            official sum to compare with.
        problem: a sentence that says why the pictures could not be counted.
    """

    name: str
    path: Path
    layout: str
    train: int | None
    test: int | None
    verified: bool
    problem: str | None = None


def info(root: str | os.PathLike[str] | None = None) -> list[Found]:
    """List the data sets at a path, every copy of each, and the digits of the package.

    Counts come from file sizes where these tell, and from one batch at a time where they do not.  A broken copy is
    listed with its problem; nothing is raised for it.

    Args:
        root: a folder or an archive; None means `default_root`.
    """
    place = default_root() if root is None else Path(root).expanduser()
    train, test = digits()
    found = [Found("digits", DIGITS_FILE, "package", len(train), len(test), verified=False)]
    problems = []
    for family in FAMILIES.values():
        try:
            found += [_describe(copy) for copy in find_copies(family, place)]
        except DataError as error:  # ``place`` is a file, and not an archive of this family
            problems.append(str(error))
    if len(problems) == len(FAMILIES):
        found.append(Found("unknown", place, "unknown", None, None, verified=False, problem=problems[0]))
    return found


def families_at(root: str | os.PathLike[str] | None = None) -> list[str]:
    """Tell which of CIFAR-10 and CIFAR-100 are at a path, whole or not, without reading them.

    File names tell; only in an archive of another name the names of its members are looked at.

    Args:
        root: a folder or an archive; None means `default_root`.

    Returns:
        some of "cifar10" and "cifar100", in this order; nothing for a path that holds neither or does not exist.
    """
    place = default_root() if root is None else Path(root).expanduser()
    if not place.is_file():
        return [name for name, family in FAMILIES.items() if find_copies(family, place)]
    try:
        found = identify(place)
    except DataError:  # no archive at all, or too damaged to tell
        return []
    return [found[0].name] if found else []


def _describe(copy: Copy) -> Found:
    layout = copy.layout.version + (".tar.gz" if copy.archived else "")
    verified = copy.archived and md5_of(copy.path) == copy.layout.md5
    try:
        train, test = OFFICIAL_COUNTS if verified else _count(copy)
        return Found(copy.family.name, copy.path, layout, train, test, verified)
    except DataError as error:
        return Found(copy.family.name, copy.path, layout, None, None, verified, str(error))


def _count(copy: Copy) -> tuple[int, int]:
    if copy.layout.version == "binary" and not copy.archived:
        counts = _counts_by_size(copy)
    else:
        counts = {
            file: len(decode(copy.family, copy.layout, raw, str(copy.path / file))[1]) for file, raw in copy.batches()
        }
    copy.check_complete(counts)
    return sum(counts[file] for file in copy.layout.train), sum(counts[file] for file in copy.layout.test)


def _counts_by_size(copy: Copy) -> dict[str, int]:
    counts = {}
    for path in (copy.path / file for file in copy.layout.files):
        if path.is_file():
            counts[path.name], rest = divmod(path.stat().st_size, copy.family.record)
            if rest or not counts[path.name]:
                raise DataError(f"{path} is truncated: {path.stat().st_size} bytes are no whole number of records.")
    return counts


def md5_of(path: Path) -> str:
    """Return the MD5 sum of a file, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
