"""Checkpoints: one .npz file that is either whole or not there, and never runs code when it is read."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import CheckpointError

VERSION = 1


def save_checkpoint(path: str | os.PathLike, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write arrays and JSON-able ``meta`` to ``path``, replacing what is there only when all of it is on the disk.

    Raises:
        CheckpointError: it could not be written (a full disk, no permission); the old file is as it was.
    """
    path = Path(path)
    entries: dict[str, Any] = {**arrays, "meta": np.array(json.dumps({"version": VERSION, **meta}))}
    try:
        replace_file(path, lambda file: np.savez(file, **entries))
    except OSError as error:
        kept = f" The previous checkpoint {path} is untouched." if path.exists() else ""
        raise CheckpointError(f"could not write the checkpoint {path}: {error.strerror or error}.{kept}") from error


def load_checkpoint(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: (arrays, meta).

    Raises:
        CheckpointError: missing, cut off, not a checkpoint, or of another version.
    """
    path = Path(path)
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:  # np.load alone leaks a broken file
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
        version = meta.pop("version")
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}.") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        raise CheckpointError(
            f"{path} is not a whole minires checkpoint: it was cut off, damaged, or is something else. Use another one."
        ) from None
    if version != VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this minires reads {VERSION}. Use the minires that wrote it."
        )
    return arrays, meta


def with_prefix(prefix: str, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """Names moved into a folder: ``{"w": ...}`` as ``{"model/w": ...}``."""
    return {f"{prefix}/{name}": np.asarray(array) for name, array in arrays.items()}


def without_prefix(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What stands in a folder, under its own names."""
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(prefix + "/")}


def replace_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Give ``path`` new contents, all of them or none: written beside it, synced to the disk, then renamed."""
    temporary = path.with_name(path.name + ".writing")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
