"""20 Newsgroups, sorted by date, as tables: posts of up to some thousand words.

    curl -O http://qwone.com/~jason/20Newsgroups/20news-bydate.tar.gz
    mkdir newsgroups && tar -xzf 20news-bydate.tar.gz -C newsgroups
    python examples/long_documents/newsgroups.py newsgroups TABLES

Of a post's header the subject is kept, since the rest (names, hosts) gives groups away; addresses
become EMAIL. dev is held out of train by tfserve.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import Row, arguments, write

ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)*")
SUBJECT = re.compile(r"^subject:[ \t]*(re:[ \t]*)*(.*)$", re.I | re.M)


def rows(folder: Path) -> Iterator[Row]:
    """Text and group of every post."""
    for file in sorted(folder.glob("*/*")):
        header, _, body = file.read_text("latin-1").partition("\n\n")
        subject = SUBJECT.search(header)
        text = f"{subject[2] if subject else ''}\n{body}"
        if text.strip():
            yield ADDRESS.sub("EMAIL", text), file.parent.name


def main() -> None:
    """Read the posts, write the tables."""
    source, target = arguments(__doc__)
    names = {"train": "20news-bydate-train", "test": "20news-bydate-test"}
    write(target, {split: rows(source / name) for split, name in names.items()})


if __name__ == "__main__":
    main()
