"""The option --device, which several commands have."""

from __future__ import annotations

from typing import Any

from ..backend import DEVICES


def add_device(parser: Any) -> None:
    """Enter the option."""
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where to compute: cpu (default), or cuda")
