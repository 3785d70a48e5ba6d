"""Reading the files of a .tar.gz straight from it: nothing is written to disk."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..errors import DataError

if TYPE_CHECKING:  # imported where it is used: few readers have an archive
    import gzip
    import tarfile

LARGEST_MEMBER = 256 * 2**20  # bytes; the largest file that we look for has 154 MB

_GZIP = b"\x1f\x8b"  # how every gzip file begins


def tar_members(path: Path, wanted: set[tuple[str, str]]) -> Iterator[tuple[str, str, bytes]]:
    """Yield (folder, file, content) of the members that are wanted, in the archive's order.

    The archive is read to its very end, so that its checksum is tested too.

    Args:
        path: the archive.
        wanted: pairs (folder, file).

    Raises:
        DataError: it is not a gzipped tar, it is damaged, or a member is a link, a device or a path that leads outside.
    """
    with _opened(path) as (stream, tar):
        for member in tar:
            folder, file = _place(path, member)
            content = tar.extractfile(member) if (folder, file) in wanted else None
            if content is not None:
                yield folder, file, content.read()
        while stream.read(2**20):
            pass


def tar_names(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (folder, file) of each member, in the archive's order; no more is decompressed than was asked for.

    Raises:
        DataError: as for `tar_members`, as far as it was read.
    """
    with _opened(path) as (_, tar):
        for member in tar:
            yield _place(path, member)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[gzip.GzipFile, tarfile.TarFile]]:
    """The decompressed stream and the tar in it; whatever goes wrong inside the block becomes a DataError."""
    import gzip
    import tarfile

    try:
        if not _begins_like_one(path):
            raise DataError(
                f"{path} is not CIFAR: expected a folder with its files, or one of the official .tar.gz archives; give "
                "the path of one of these, or fetch one with `minires data download`."
            )
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            yield stream, tar
    except DataError:
        raise
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not gzip's: no fault of the file
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None
        detail = str(error) or type(error).__name__
        raise DataError(
            f"{path} cannot be read as a .tar.gz ({detail}); it is damaged or cut short: delete it, and copy or "
            "download it again."
        ) from None


def _begins_like_one(path: Path) -> bool:
    """Whether a file begins as a gzipped tar does; one that ends or breaks too soon to tell may have been one."""
    import tarfile

    with open(path, "rb") as file:
        head = file.read(2**16)
    if not _GZIP.startswith(head[: len(_GZIP)]):
        return False
    inflater = zlib.decompressobj(wbits=31)  # gzip
    try:
        header = inflater.decompress(head, tarfile.BLOCKSIZE)
        if len(header) < tarfile.BLOCKSIZE:
            return not inflater.eof
        tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except zlib.error:
        return True
    except tarfile.TarError:
        return False
    return True


def _place(path: Path, member: tarfile.TarInfo) -> tuple[str, str]:
    """The last two parts of a harmless member's name."""
    name = PurePosixPath(member.name.replace("\\", "/"))
    if not (member.isfile() or member.isdir()):
        problem = "is a link or a device"
    elif name.is_absolute() or ".." in name.parts or ":" in member.name:
        problem = "leads outside the archive"
    elif member.size > LARGEST_MEMBER:
        problem = f"has {member.size} bytes, more than any official file"
    else:
        return name.parent.name, name.name
    raise DataError(
        f"{path} was refused: its member {member.name!r} {problem}, as in no official archive; download it again."
    )
