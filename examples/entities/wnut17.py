"""WNUT 2017, new and rare entities (Derczynski et al. 2017), as tables.

    git clone https://github.com/leondz/emerging_entities_17
    python examples/entities/wnut17.py emerging_entities_17 TABLES

They hold a word and a tag a line, a tab between them, and an empty line between sentences.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import Row, arguments, write

FILES = {
    "train": "wnut17train.conll",
    "dev": "emerging.dev.conll",
    "test": "emerging.test.annotated",
}


def rows(file: Path) -> Iterator[Row]:
    """Words and tags of every sentence, joined by spaces."""
    lines = file.read_text("utf-8").split("\n")
    for written, sentence in groupby(lines, key=lambda line: bool(line.strip())):
        if written:
            pairs = [line.split("\t")[:2] for line in sentence]
            # A word must be one: some hold characters that count as spaces, or nothing else.
            words = ["".join(word.split()) or "_" for word, _ in pairs]
            yield " ".join(words), " ".join(tag.strip() for _, tag in pairs)


def main() -> None:
    """Read the three files, write the tables."""
    source, target = arguments(__doc__)
    write(target, {split: rows(source / name) for split, name in FILES.items()})


if __name__ == "__main__":
    main()
