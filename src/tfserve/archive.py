"""``model.tar.gz``: a model directory as SageMaker takes it."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tfserve import artifact
from tfserve.artifact import MANIFEST
from tfserve.errors import ModelError
from tfserve.files import storing

LEVEL = 1
"""Of compression: weights hardly shrink, and every endpoint waits for the unpacking."""


def package(model_dir: Path | str, output: Path | str) -> Path:
    """Write the archive of a model directory: the same bytes for the same files.

    It holds what the manifest lists, the manifest and ``code/``, all at its root, and nothing else
    that may lie in the directory.

    Raises
    ------
    ModelError
        The directory is no model or is damaged.
    StorageError
        The archive cannot be written; nothing half-written is left.
    """
    model_dir, output = Path(model_dir), Path(output)
    found = artifact.load(model_dir)
    code = [path for path in _files(model_dir / "code") if "__pycache__" not in path.parts]
    if not (model_dir / "code" / "inference.py").is_file():
        raise ModelError(
            "model.no_code", f"found no code/inference.py in {model_dir}; training wrote one"
        )
    files = [*(model_dir / name for name in found.manifest.files), model_dir / MANIFEST, *code]
    partial = output.with_name(f".{output.name}.partial")
    with storing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                partial.open("wb") as raw,
                gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                for file in sorted(files):
                    _add(tar, file, file.relative_to(model_dir).as_posix())
            os.replace(partial, output)
        finally:
            partial.unlink(missing_ok=True)
    return output


def unpack(archive: Path | str, folder: Path) -> None:
    """Unpack an archive into ``folder``, refusing links and paths that lead out of it.

    Raises ModelError (``archive.unreadable``, ``archive.unsafe``).
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            # Python 3.12 and 3.13 warn where none is chosen; early 3.10 and 3.11 have none.
            if hasattr(tarfile, "data_filter"):
                tar.extraction_filter = tarfile.data_filter
            for member in tar:
                inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
                if not inside or not (member.isfile() or member.isdir()):
                    raise ModelError(
                        "archive.unsafe",
                        f"found {member.name!r} in {archive}; expected plain files inside it",
                    )
                tar.extract(member, folder, set_attrs=False)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ModelError(
            "archive.unreadable",
            f"cannot read {archive} as a gzipped tar ({type(error).__name__}: {error}); "
            "`tfserve package` writes one",
        ) from None


def _add(tar: tarfile.TarFile, file: Path, name: str) -> None:
    """Add a file without what differs between machines: times, owners, modes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = file.stat().st_size, 0o644
    with file.open("rb") as content:
        tar.addfile(info, content)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
