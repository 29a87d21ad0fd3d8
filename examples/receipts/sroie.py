"""The receipts of SROIE (ICDAR 2019), as a table of words, boxes and tags.

    git clone https://github.com/zzzDavid/ICDAR-2019-SROIE
    python examples/receipts/sroie.py ICDAR-2019-SROIE/data TABLES

Published are lines with a box each, and four values a receipt, without saying where they stand. So
a line's box is shared among its words by their characters, and words are tagged where they spell a
value: every date, the last total that stands beside that word, the first company and address. Such
tags are called silver: a value that is printed otherwise than it is written down stays untagged.
Every eighth receipt is test, every eighth of the others dev.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import Row, arguments, write

VALUES = ("company", "address", "date", "total")


@dataclass(frozen=True)
class Word:
    """A word and its corners, in pixels."""

    text: str
    box: tuple[float, float, float, float]


def words(file: Path) -> list[Word]:
    """Of every line ``x1,y1,…,x4,y4,text`` (corners clockwise from the upper left) its words."""
    found = []
    for line in file.read_text("utf-8-sig", errors="replace").split("\n"):
        *corners, text = line.split(",", 8)
        if len(corners) < 8 or not text.split():
            continue
        xs, ys = [float(x) for x in corners[::2]], [float(y) for y in corners[1::2]]
        width, begin = (max(xs) - min(xs)) / len(text), 0
        for word in text.split():
            begin = text.index(word, begin)
            left = min(xs) + width * begin
            begin += len(word)
            found.append(Word(word, (left, min(ys), min(xs) + width * begin, max(ys))))
    return found


def places(spelled: Sequence[str], value: str) -> list[range]:
    """Where consecutive words spell ``value``, letters and digits alone compared."""
    wanted, found = plain(value), []
    for begin in range(len(spelled)):
        so_far, end = "", begin
        while end < len(spelled) and len(so_far) < len(wanted):
            so_far += spelled[end]
            end += 1
        if wanted and so_far == wanted and spelled[begin]:
            found.append(range(begin, end))
    return found


def plain(text: str) -> str:
    """Its letters and digits."""
    return "".join(c for c in text.lower() if c.isalnum())


def tags(found: Sequence[Word], values: dict[str, Any]) -> list[str]:
    """IOB2."""
    spelled, given = [plain(word.text) for word in found], ["O"] * len(found)
    for name in VALUES:
        at = places(spelled, str(values.get(name) or ""))
        if name == "total":  # not the same sum beside what was paid, if there is another
            at = [p for p in at if _beside_total(found, p[0])] or at
        chosen = {"date": at, "total": at[-1:]}.get(name, at[:1])
        for place in chosen:
            if all(given[i] == "O" for i in place):
                for i in place:
                    given[i] = f"{'B' if i == place[0] else 'I'}-{name.upper()}"
    return given


def _beside_total(found: Sequence[Word], place: int) -> bool:
    """Whether a word stands at the height of the word "total"."""
    _, top, _, bottom = found[place].box
    return any(
        plain(word.text).startswith("total") and top < (word.box[1] + word.box[3]) / 2 < bottom
        for word in found
    )


def rows(files: Sequence[Path]) -> Iterator[Row]:
    """Words, boxes of 0 to 1000 and tags of every receipt."""
    for file in files:
        found = words(file)
        values = json.loads((file.parents[1] / "key" / f"{file.stem}.json").read_text("utf-8"))
        # The page ends where its last words do: close enough, and no image need be read.
        right, bottom = (max(word.box[i] for word in found) for i in (2, 3))
        scale = (1000 / right, 1000 / bottom) * 2
        boxes = [
            " ".join(
                str(min(1000, max(0, round(corner * by))))
                for corner, by in zip(word.box, scale, strict=True)
            )
            for word in found
        ]
        yield " ".join(w.text for w in found), ", ".join(boxes), " ".join(tags(found, values))


def main() -> None:
    """Read boxes and values, write the tables."""
    source, target = arguments(__doc__)
    keys = {file.stem for file in (source / "key").glob("*.json")}
    seen: dict[tuple[str, ...], Path] = {}  # some receipts are there twice
    for file in sorted((source / "box").glob("*.csv")):
        found = tuple(word.text for word in words(file))
        if found and file.stem in keys:
            seen.setdefault(found, file)
    files = list(seen.values())
    test, rest = files[7::8], [file for i, file in enumerate(files) if i % 8 != 7]
    dev, train = rest[7::8], [file for i, file in enumerate(rest) if i % 8 != 7]
    splits = {"train": rows(train), "dev": rows(dev), "test": rows(test)}
    write(target, splits, ("text", "bbox", "labels"))


if __name__ == "__main__":
    main()
