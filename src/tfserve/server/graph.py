"""The graph that a server makes before it starts, where an engine wants one that is not at hand.

`tfserve export` makes it, in a process of its own that ends when the server stops, and into a
folder of the server's: a worker that is started anew finds it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from tfserve import artifact, engines
from tfserve.artifact import Artifact
from tfserve.errors import ModelError, last_line

log = logging.getLogger("tfserve")


def wanted(asked: str, found: Artifact) -> str | None:
    """The engine that needs a graph; with ``auto`` where it is faster than torch and installed."""
    if not found.weights:
        return None
    if asked == "auto":
        best = next(iter(engines.FASTER))
        possible = not (found.graphs or engines.may_have_gpu()) and engines.installed(best)
        return best if possible else None
    return asked if asked in engines.FASTER and asked not in found.graphs else None


class Graph:
    """A folder that is there as long as the server is."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    async def prepare(self, found: Artifact, asked: str) -> Artifact:
        """The model directory itself, or one with the graph that the engine wants.

        Raises ModelError where that engine was asked for and cannot run the model.
        """
        engine = wanted(asked, found)
        if engine is None:
            return found
        log.info("making a graph for %s; tfserve export would make it beforehand", engine)
        try:
            return artifact.load(await self._make(engine, found.path))
        except ModelError as error:
            if asked != "auto":
                raise
            log.warning("%s", error)
            return found

    def remove(self) -> None:
        """The server ends."""
        if self._folder is not None:
            self._folder.cleanup()

    async def _make(self, engine: str, model_dir: Path) -> Path:
        """A model directory for ``engine`` alone."""
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="tfserve-")
        except OSError as error:
            raise ModelError(
                "model.convert", f"found no folder for a graph for {engine}: {error.strerror}"
            ) from None
        output = Path(self._folder.name) / "model"
        flags = ["--engine", engine, "--output", str(output)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tfserve", "export", str(model_dir), *flags,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            _, said = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and the process that converts
            await process.wait()
            raise
        if process.returncode:
            last = last_line(said.decode(errors="replace"))
            raise ModelError("model.convert", last.removeprefix("tfserve: "))
        return output
