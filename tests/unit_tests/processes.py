"""The command line in processes of its own, for tests that kill it or take its disk away.

The processes are forked from a server that has imported torch, which takes most of a start.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tfserve.cli", "tfserve.checks", "tfserve.training", "sklearn.metrics", "torch._dynamo",
     "torch.distributed.tensor", "torch.utils.tensorboard", "transformers.generation",
     "transformers.models.bert.modeling_bert"]
)  # fmt: skip

NOT_ALLOWED = 77
"""Exit status where this machine does not let a test mount a file system."""


class Process:
    """``tfserve ARGUMENTS`` in a process of its own, on one core.

    Parameters
    ----------
    module : whose ``main(arguments)`` it is
    environment : variables that it sees besides
    log : where its standard output and error are kept
    file_limit : files cannot grow over this many bytes
    disk : a folder that holds at most so many bytes, as the process sees it; what lies in it at
        the end is in ``left``
    """

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        *,
        module: str = "tfserve.cli",
        environment: dict[str, str] | None = None,
        file_limit: int | None = None,
        disk: tuple[Path, int] | None = None,
    ) -> None:
        self.out_file, self.err_file, self.left_file = (
            log.with_name(f"{log.name}.{kind}") for kind in ("out", "err", "left")
        )
        names = [str(file) for file in (self.out_file, self.err_file, self.left_file)]
        self.out_file.touch()
        self._process = CONTEXT.Process(
            target=_run, args=(arguments, names, module, environment or {}, file_limit, disk)
        )
        self._process.start()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait(self, seconds: float = 60) -> int:
        """Its exit status: negative where a signal ended it."""
        self._process.join(seconds)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            self._process.join()
            raise AssertionError(f"still running after {seconds} s: {self.err}")
        self._process.close()
        return status

    def wait_until(self, reached: Callable[[], Any], seconds: float = 60) -> None:
        """Wait until ``reached()`` is true, looking often."""
        end = time.monotonic() + seconds
        while not reached():
            assert self._process.exitcode is None, f"ended too early: {self.err}"
            assert time.monotonic() < end, f"nothing happened in {seconds} s: {self.err}"
            time.sleep(0.001)

    @property
    def out(self) -> str:
        return self.out_file.read_text("utf-8") if self.out_file.exists() else ""

    @property
    def err(self) -> str:
        return self.err_file.read_text("utf-8") if self.err_file.exists() else ""

    @property
    def left(self) -> list[str]:
        return self.left_file.read_text("utf-8").split("\n")[:-1]


def run(arguments: list[str], log: Path, **limits: Any) -> tuple[int, Process]:
    """Run to the end; exit status and process."""
    process = Process(arguments, log, **limits)
    return process.wait(), process


def _run(
    arguments: list[str],
    names: list[str],
    module: str,
    environment: dict[str, str],
    file_limit: int | None,
    disk: tuple[Path, int] | None,
) -> None:
    import torch

    os.environ.update(environment)
    main = importlib.import_module(module).main
    for number, name in enumerate(names[:2], 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    torch.set_num_threads(1)
    # What is started in the background of a script is born deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if disk is not None:
        _mount(*disk)
    if file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error instead of the end
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    try:
        main(arguments)
    finally:
        if disk is not None:
            files = sorted(str(f.relative_to(disk[0])) for f in disk[0].rglob("*") if f.is_file())
            Path(names[2]).write_text("".join(f"{name}\n" for name in files), "utf-8")


def _mount(folder: Path, size: int) -> None:
    """A file system of ``size`` bytes on ``folder``, seen by this process alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, new_user = 0x20000, 0x10000000
    recursive_private = 0x4000 | 0x40000
    allowed = (
        libc.unshare(new_mounts if os.geteuid() == 0 else new_mounts | new_user) == 0
        and libc.mount(None, b"/", None, recursive_private, None) == 0
        and libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, f"size={size}".encode()) == 0
    )
    if not allowed:
        sys.exit(NOT_ALLOWED)
