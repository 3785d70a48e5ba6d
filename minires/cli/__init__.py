"""The command line: ``minires train | eval | predict | summary | gradcheck | lessons | bench | data | doctor``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..backend.room import is_out_of_memory, out_of_memory
from ..errors import MiniresError
from ..train import Interrupted
from . import bench, check, datasets, doctor, lessons, runs, summarise, train

_COMMANDS = (train, runs, summarise, check, lessons, bench, datasets, doctor)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}. See {self.prog} --help.", file=sys.stderr)
        raise SystemExit(2)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(prog="minires", description="A deep-learning engine from scratch: residual networks on NumPy.")
    parser.add_argument("--version", action="version", version=f"minires {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for module in _COMMANDS:
        module.add(commands)
    _accept_debug(commands)
    return parser


def _accept_debug(commands: Any) -> None:
    """Let --debug stand after a command too, where one adds it when something has failed."""
    for command in set(commands.choices.values()):
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                _accept_debug(action)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 after an error, which is told in one sentence."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options: Any = make_parser().parse_args(words)
    options.words = words
    try:
        return options.run(options) or 0
    except Interrupted as stopped:
        print(f"\n{stopped}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `minires summary resnet152 | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            raise
        print(f"minires: {_sentence(error)}", file=sys.stderr)
        return 2


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MiniresError):
        return text
    if is_out_of_memory(error):
        return f"{out_of_memory(error)}. Give it less at a time: a smaller batch, size or network."
    if isinstance(error, MemoryError):
        return f"out of memory ({text or 'no more detail'}). Use a smaller --batch-size."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    return f"unexpected {type(error).__name__}: {text} (this is a bug; --debug shows where)"
