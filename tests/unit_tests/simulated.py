"""An event loop whose clock jumps to the next thing that happens: hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any
from unittest import mock

from tfserve.server import batcher


class Selector(selectors.DefaultSelector):  # type: ignore[valid-type, misc]
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everything waits for something that nothing will bring"
        self.now += max(0.0, timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.simulated = Selector()
        super().__init__(self.simulated)

    def time(self) -> float:
        return self.simulated.now


def simulate(main: Coroutine[Any, Any, Any]) -> Any:
    """Run ``main`` to its end, in simulated time."""
    loop = Loop()
    try:
        with mock.patch.object(batcher, "now", loop.time):
            return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
