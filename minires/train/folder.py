"""The folder of a run."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError
from .config import Config

CHECKPOINT, CONFIG, LOG, CURVES = "checkpoint.npz", "config.json", "log.jsonl", "curves.png"


def check_folder(out: Path, config: Config, resume: bool) -> None:
    """Before anything is loaded: is the folder ours to write in?

    Raises:
        CheckpointError: it is a file, holds a run that is not to be resumed or one of another configuration, or
            there is none to resume.
    """
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is a file; the run needs a folder. Choose another one.")
    present = [name for name in (CONFIG, CHECKPOINT, LOG) if (out / name).exists()]
    if resume and not out.exists():
        raise CheckpointError(f"there is no run in {out} to resume. Leave --resume out to start one there.")
    if present and not resume:
        raise CheckpointError(
            f"{out} already holds a run ({', '.join(present)}). Go on with it by resuming (--resume), or "
            "choose another folder."
        )
    if not present:
        return
    differences = config.differences(Config.read(out / CONFIG))
    if differences:
        raise CheckpointError(
            f"{out} holds a run with other settings: {'; '.join(differences)}. Resume it with the command "
            "that started it."
        )
