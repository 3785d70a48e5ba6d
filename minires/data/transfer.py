"""One HTTP request that goes on where an earlier one stopped."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

TIMEOUT = 30  # seconds without a byte
BLOCK = 2**16


class BrokenTransferError(Exception):
    """An address that does not answer, or stopped before the end."""


def transfer(url: str, part: Path, progress: bool) -> None:
    """Append to a file what it lacks of the content of an address.

    A server that ignores the request for a range sends everything, and the file begins anew; so it does when the server
    has nothing where the file ends.

    Args:
        url: the address.
        part: the file.
        progress: show a progress bar.

    Raises:
        BrokenTransferError: the end was not reached; what came is kept.
    """
    offset = size_of(part)
    response = _open(url, offset)
    if response is None:
        part.unlink()
        return transfer(url, part, progress)
    with closing(response):
        if response.status != 206:
            offset = 0
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length and length.isdecimal() else None
        with (
            open(part, "ab" if offset else "wb") as file,
            tqdm(total=total, initial=offset, unit="B", unit_scale=True, desc=part.stem, disable=not progress) as bar,
        ):
            for block in _blocks(response):
                file.write(block)
                bar.update(len(block))
    if total is not None and size_of(part) < total:
        raise BrokenTransferError(f"the connection closed after {size_of(part)} of {total} bytes")


def size_of(path: Path) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def _open(url: str, offset: int) -> http.client.HTTPResponse | None:
    """Ask for the bytes from ``offset`` on; None if the server says that there is nothing there (416)."""
    request = urllib.request.Request(url, headers={"User-Agent": "minires"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and offset:
            return None
        raise BrokenTransferError(f"the server answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BrokenTransferError(str(getattr(error, "reason", error)) or type(error).__name__) from None
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if response.status == 206 and (start is None or int(start[1]) != offset):
        response.close()
        raise BrokenTransferError(f"asked for the bytes from {offset} on, the server sent others")
    return response


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the body; what goes wrong in the network becomes a BrokenTransferError."""
    while True:
        try:
            block = response.read(BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise BrokenTransferError(f"the connection broke: {error or type(error).__name__}") from None
        if not block:
            return
        yield block
