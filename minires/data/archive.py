"""Reading the files of a .tar.gz straight from it: nothing is written to disk."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from minires.errors import DataError

if TYPE_CHECKING:  # imported where it is used: few readers have an archive
    import tarfile

LARGEST_MEMBER = 256 * 2**20  # bytes; the largest file that we look for has 154 MB


def tar_members(path: Path, wanted: set[tuple[str, str]]) -> Iterator[tuple[str, str, bytes]]:
    """Yield (folder, file, content) of the `wanted` (folder, file) pairs, in the archive's order.

    The archive is read to its very end, so that its checksum is tested too.  Raises DataError when it is not a gzipped
    tar, when it is damaged, and when any member is a link, a device or a path that leads outside.
    """
    import gzip
    import tarfile

    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    folder, file = _place(path, member)
                    content = tar.extractfile(member) if (folder, file) in wanted else None
                    if content is not None:
                        yield folder, file, content.read()
            while stream.read(2**20):
                pass
    except DataError:
        raise
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        detail = str(error) or type(error).__name__
        raise DataError(
            f"{path} cannot be read as a .tar.gz ({detail}); it is damaged, cut short or of another kind: "
            "delete it, and copy or download it again."
        ) from None


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
