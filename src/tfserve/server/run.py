"""``serve``: listen, answer, stop cleanly."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from tfserve.errors import SettingsError, missing_extra
from tfserve.server.worker import Starting

try:
    import uvicorn

    from tfserve.server import logs
    from tfserve.server.app import create_app
    from tfserve.server.connection import Connection
except ImportError as error:
    raise missing_extra(error.name or "uvicorn", "server") from None

log = logging.getLogger("tfserve")

GRACE = 20
"""Seconds for requests that were accepted: a container is killed 30 after its SIGTERM, and the
worker may take five more."""

KEEP_ALIVE = 75
"""Seconds that a connection may be silent between requests: longer than proxies keep theirs."""


class Server(uvicorn.Server):
    """uvicorn's, whose exit status is 0 after a signal, because it does not raise it again.

    Parameters
    ----------
    given_up : whether there is nothing to wait for any more
    """

    def __init__(self, config: uvicorn.Config, given_up: Callable[[], bool]) -> None:
        super().__init__(config)
        self.given_up = given_up

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.given_up()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        signals = (signal.SIGTERM, signal.SIGINT)
        previous = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def serve(
    model_dir: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    root_path: str = "",
    keep_unhealthy: bool = False,
    first: Starting | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Parameters
    ----------
    root_path : where a proxy in front has put it
    keep_unhealthy : say at ``/ping`` why the model cannot be loaded, instead of ending
    first : a worker that loads the model already, by the same settings

    Raises
    ------
    SettingsError
        For a setting or an address.
    ServingError
        For a model that cannot be loaded.
    """
    app = create_app(model_dir, root_path=root_path, first=first)
    try:
        listening = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingsError(
            "server.address", f"cannot listen on {host}:{port}: {reason}; choose another address"
        ) from None
    batcher = app.state.service.batcher
    with listening:
        logs.configure()
        config = uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=KEEP_ALIVE,
        )
        log.info("listening on http://%s:%d", *listening.getsockname()[:2])
        Server(config, lambda: batcher.given_up and not keep_unhealthy).run(sockets=[listening])
    if batcher.given_up and not keep_unhealthy:
        raise batcher.failure
