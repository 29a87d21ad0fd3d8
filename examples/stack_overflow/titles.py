"""20,000 titles of Stack Overflow with one of 20 tags (Xu et al. 2015), as tables.

    git clone https://github.com/jacoxu/StackOverflow
    python examples/stack_overflow/titles.py StackOverflow TABLES

There is no split: of each tag every fifth title is test; dev is held out of train by tfserve.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import Row, arguments, write

TAGS = (
    "wordpress", "oracle", "svn", "apache", "excel", "matlab", "visual-studio", "cocoa", "osx",
    "bash", "spring", "hibernate", "scala", "sharepoint", "ajax", "qt", "drupal", "linq",
    "haskell", "magento",
)  # fmt: skip
"""In the order of the numbers in ``label_StackOverflow.txt``, which begin at 1."""


def main() -> None:
    """Read the two files, write the tables."""
    source, target = arguments(__doc__)
    folder = source / "rawText"
    titles = (folder / "title_StackOverflow.txt").read_text("utf-8").strip("\n").split("\n")
    numbers = (folder / "label_StackOverflow.txt").read_text("utf-8").strip("\n").split("\n")
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    seen: Counter[str] = Counter()
    for title, number in zip(titles, numbers, strict=True):
        tag = TAGS[int(number.split()[-1]) - 1]
        seen[tag] += 1
        splits["train" if seen[tag] % 5 else "test"].append((title, tag))
    write(target, splits)


if __name__ == "__main__":
    main()
