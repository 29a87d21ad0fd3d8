"""The ``source_dir`` of a training job: an entry point and tfserve itself, for any container.

A training container has torch and transformers, and installs ``requirements.txt`` from an index
that need not know tfserve: so tfserve travels with the job, in the version that started it.
"""

from __future__ import annotations

from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

from tfserve.errors import StorageError
from tfserve.files import storing
from tfserve.vendoring import CONTAINERS_OWN, VENDORED, vendor

ENTRY_POINT = "train.py"
EXTRAS = ("train", "report")
TRAIN = '''"""The entry point of a training job."""

from tfserve.job import main

if __name__ == "__main__":
    main()
'''


def source_dir(folder: Path | str) -> Path:
    """Write a training job's source into a folder, new or empty, and return it.

    Raises StorageError when the folder holds something or cannot be written.
    """
    folder = Path(folder)
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StorageError(
                "storage.not_empty", f"found files in {folder}; expected a new or empty folder"
            )
        (folder / ENTRY_POINT).write_text(TRAIN, "utf-8")
        (folder / "requirements.txt").write_text("\n".join(requirements()) + "\n", "utf-8")
        vendor(folder)
    return folder


def requirements() -> list[str]:
    """What training needs beside what a container brings and what travels with the job."""
    wanted = [Requirement(line) for line in requires("tfserve") or ()]
    return sorted(
        f"{r.name}{r.specifier}"
        for r in wanted
        if r.name not in (*CONTAINERS_OWN, *VENDORED)
        and (r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in EXTRAS))
    )
