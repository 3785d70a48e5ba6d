"""Ctrl-C in the middle of a run."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Interrupted(Exception):  # noqa: N818 - not an error: the run was saved and can go on
    """Ctrl-C: the run is saved and can be resumed."""


class StopOnRequest:
    """Turns Ctrl-C into a request that the loop meets at the end of its iteration; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopOnRequest:
        if threading.current_thread() is threading.main_thread():  # only there may signals be handled
            self._before = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *exception: Any) -> None:
        if hasattr(self, "_before"):
            signal.signal(signal.SIGINT, self._before)

    def _request(self, *_: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
