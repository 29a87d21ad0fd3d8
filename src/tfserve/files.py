"""Files, written whole or not at all, and what the file system refuses told as an error of ours."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfserve.errors import StorageError


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into a StorageError that says what to do."""
    try:
        yield
    except Exception as raised:
        # safetensors tells of a full disk in an error of its own.
        number = re.search(r"os error (\d+)", str(raised))
        if isinstance(raised, OSError):
            error = raised
        elif type(raised).__name__ == "SafetensorError" and number is not None:
            error = OSError(int(number[1]), os.strerror(int(number[1])))
        else:
            raise
        cure = {
            errno.ENOSPC: "free some space or choose another disk",
            errno.EDQUOT: "free some space or choose another disk",
            errno.EACCES: "choose a folder that you may write",
            errno.EROFS: "choose a folder that is not read-only",
        }.get(error.errno or 0, "check the folder")
        reason = error.strerror or type(error).__name__
        raise StorageError("storage.write", f"cannot write {path}: {reason}; {cure}") from None


def check_absent(path: Path) -> None:
    """Raise StorageError where something lies already."""
    if path.exists():
        raise StorageError("storage.exists", f"found {path}; expected the name of a new folder")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name when all is written. Raises StorageError."""
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".tfserve-", dir=path.parent))
        try:
            staging.chmod(0o755)
            yield staging
            staging.rename(path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file by atomic rename."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file by atomic rename."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, "utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
