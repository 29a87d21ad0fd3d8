"""SIGTERM and SIGINT, which ask a run to stop when it can."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """Whether somebody asked the run to stop: SIGTERM or SIGINT, inside ``listening``."""

    def __init__(self) -> None:
        self.asked: str | None = None
        self._interruptible = False

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Catch the signals; what the process did with them before is restored afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield self  # only the main thread may, and a notebook's other threads need not
            return
        before = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside, a signal raises KeyboardInterrupt at once: for work that can be done again."""
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def _handle(self, number: int, frame: Any) -> None:
        self.asked = signal.Signals(number).name
        if self._interruptible:
            raise KeyboardInterrupt
