"""minires data download and minires data info."""

from __future__ import annotations

import argparse
from typing import Any

from .. import data


def add(commands: Any) -> None:
    """Enter the command with its two actions."""
    text = "Download data sets, or list those that are here."
    parser = commands.add_parser("data", help="download data sets, or list those that are here", description=text)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    text = "Fetch CIFAR, resuming what was broken off, and check its MD5 sum."
    download = actions.add_parser("download", help="fetch CIFAR, resuming what was broken off", description=text)
    download.set_defaults(run=run_download)
    download.add_argument("name", choices=("cifar10", "cifar100"))
    download.add_argument("--root", metavar="DIR", help="where to put it ($MINIRES_DATA, or the user's cache)")
    download.add_argument("--version", choices=("binary", "python"), default="binary", help="which archive (binary)")
    download.add_argument("--url", action="append", metavar="URL", help="another address; may be given several times")
    info = actions.add_parser("info", help="list the data sets found", description="List the data sets found.")
    info.set_defaults(run=run_info)
    info.add_argument("root", nargs="?", metavar="PATH", help="where to look ($MINIRES_DATA, or the user's cache)")


def run_download(options: argparse.Namespace) -> None:
    """Fetch an archive and say where it is."""
    print(data.download(options.name, options.root, version=options.version, urls=options.url))


def run_info(options: argparse.Namespace) -> None:
    """Print a line for each data set found."""
    for line in describe(options.root):
        print(line)


def describe(root: str | None = None) -> list[str]:
    """A line for each data set at ``root``."""
    lines = []
    for found in data.info(root):
        counts = found.problem or f"{found.train:,} to train on, {found.test:,} to test on"
        verified = ", MD5 verified" if found.verified else ""
        lines.append(f"{found.name:<9} {found.layout:<14} {counts}{verified}  {found.path}")
    if len(lines) == 1:
        where = root or data.default_root()
        lines.append(f"no CIFAR in {where}: minires data download cifar10, or set MINIRES_DATA to a local copy")
    return lines
