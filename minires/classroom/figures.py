"""What a lesson asks of the classroom: whether it is in a hurry, and where its figures go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .tree import home

FAST = os.environ.get("MINIRES_FAST", "0") not in ("", "0")
"""Whether a lesson has to be done in a few seconds: ``MINIRES_FAST=1``."""


def save(figure: Any, name: str) -> Path:
    """Write a matplotlib figure as ``NAME.png`` and print where it is.

    It goes to ``$MINIRES_FIGURES``; without that to ``figures/`` of the lessons, or of the working folder if there are
    no lessons.
    """
    folder = os.environ.get("MINIRES_FIGURES")
    path = (Path(folder) if folder else (home() or Path()) / "figures") / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"figure: {path}")
    return path
