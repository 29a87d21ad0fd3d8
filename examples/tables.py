"""What the converters share: tables in tfserve's format, from rows of plain values."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

Row = Sequence[str]


def arguments(usage: str | None) -> tuple[Path, Path]:
    """The downloaded folder and the folder to write, from the command line."""
    if len(sys.argv) != 3 or not Path(sys.argv[1]).is_dir():
        sys.exit(f"{usage}\nexpected two arguments: the downloaded FOLDER and the TABLES to write")
    return Path(sys.argv[1]), Path(sys.argv[2])


def write(
    folder: Path, splits: Mapping[str, Iterable[Row]], columns: Row = ("text", "labels")
) -> None:
    """Write ``SPLIT.csv`` for every split, tab-separated; runs of white space become one space."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t", lineterminator="\n")
            table.writerow(columns)
            written = 0
            for row in rows:
                table.writerow(" ".join(cell.split()) for cell in row)
                written += 1
        print(f"{folder / f'{split}.csv'}: {written:,} rows")
