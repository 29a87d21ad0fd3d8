"""GoEmotions (Demszky et al. 2020), 27 emotions and neutral, as tables.

git clone --depth 1 https://github.com/google-research/google-research
python examples/emotions/goemotions.py google-research/goemotions/data TABLES
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import Row, arguments, write


def rows(file: Path, emotions: Sequence[str]) -> Iterator[Row]:
    """Text and quoted labels of every line: text, numbers of emotions, an id."""
    for line in file.read_text("utf-8").strip("\n").split("\n"):
        text, numbers, *_ = line.split("\t")
        yield text, ",".join(f'"{emotions[int(number)]}"' for number in numbers.split(","))


def main() -> None:
    """Read the three files, write the tables."""
    source, target = arguments(__doc__)
    emotions = (source / "emotions.txt").read_text("utf-8").split()
    splits = ("train", "dev", "test")
    write(target, {split: rows(source / f"{split}.tsv", emotions) for split in splits})


if __name__ == "__main__":
    main()
