"""The hate speech data set of Vicomtech (de Gibert et al. 2018), as tables.

    git clone https://github.com/Vicomtech/hate-speech-dataset
    python examples/hate_speech/vicomtech.py hate-speech-dataset TABLES

Its balanced samples are train and test; dev is held out of train by tfserve.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import Row, arguments, write


def rows(folder: Path, labels: dict[str, str]) -> Iterator[Row]:
    """Text and label of every file."""
    for file in sorted(folder.glob("*.txt")):
        yield file.read_text("utf-8"), labels[file.stem]


def main() -> None:
    """Read the repository, write the tables."""
    source, target = arguments(__doc__)
    with (source / "annotations_metadata.csv").open(encoding="utf-8", newline="") as file:
        labels = {row["file_id"]: row["label"] for row in csv.DictReader(file)}
    splits = {"train": "sampled_train", "test": "sampled_test"}
    write(target, {split: rows(source / name, labels) for split, name in splits.items()})


if __name__ == "__main__":
    main()
