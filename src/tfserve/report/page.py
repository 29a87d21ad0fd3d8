"""One self-contained HTML page, made of sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from tfserve import __version__
from tfserve.arrays import Array
from tfserve.files import storing, write_text
from tfserve.tallies import figure

MOST_CHARACTERS, MOST_OF_NAME = 600, 28
"""Of a text in a table, since what makes a page heavy are texts; of a name beside an axis."""

MANY, MOST_LISTED = 25, 1000
"""With more rows than so a table is scrolled, and a picture of them cannot be read; with more than
so it ends."""

FRAME = 800
"""Pixels of a page's height in a notebook."""


@dataclass(frozen=True)
class Plot:
    """A picture; ``caption`` says what is to be seen, also to who does not see it; one that is
    ``wide`` is scrolled rather than made smaller."""

    svg: Markup
    caption: str
    wide: bool = False
    kind: str = "plot"


@dataclass(frozen=True)
class Grid:
    """A table whose columns sort by a click; numbers are right-aligned.

    Of very many rows, as where each has a label of its own, the first are shown."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    tall: bool = False
    kind: str = "grid"

    @property
    def told(self) -> str:
        """The caption, and how many rows are left out."""
        more = f"The first {MOST_LISTED:,} of {len(self.rows):,}."
        return f"{self.caption} {more}".strip() if len(self.rows) > MOST_LISTED else self.caption

    @property
    def listed(self) -> Sequence[Sequence[Any]]:
        """The rows that are shown."""
        return self.rows[:MOST_LISTED]


@dataclass(frozen=True)
class Matrix:
    """Counts by row and column, coloured by the share of their row."""

    names: Sequence[str]
    columns: Sequence[str]
    counts: Array
    caption: str
    kind: str = "matrix"


@dataclass(frozen=True)
class Cards:
    """Figures that stand out: name, value and what stands beside it."""

    cards: Sequence[tuple[str, str, str]]
    kind: str = "cards"


Part = Plot | Grid | Matrix | Cards


@dataclass(frozen=True)
class Section:
    """A heading, a sentence on how to read it, and what there is to see."""

    title: str
    text: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


@dataclass(frozen=True)
class Page:
    """What a page shows; ``notes`` are what the reader should not miss."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    notes: Sequence[str] = field(default_factory=list)

    def html(self) -> str:
        """The whole file."""
        environment = Environment(
            loader=PackageLoader("tfserve", "report"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {"shown": shown, "number": is_number}
        return environment.get_template("page.html.j2").render(page=self, version=__version__)

    def _repr_html_(self) -> str:
        """In a notebook: the page in a frame of its own, so that neither styles the other."""
        html = self.html().replace('href="#', 'href="about:srcdoc#')  # else of the notebook
        return (
            f'<iframe srcdoc="{escape(html)}" width="100%" height="{FRAME}" '
            f'title="{escape(self.title)}" style="border: 0"></iframe>'
        )

    def write(self, file: Path) -> None:
        """Under its name when it is whole. Raises StorageError."""
        with storing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, self.html())


def short(name: str) -> str:
    """A name that fits beside an axis."""
    return shown(name, MOST_OF_NAME)


def is_number(value: Any) -> bool:
    """Whether a cell holds one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: Any, most: int = MOST_CHARACTERS) -> str:
    """A cell as it is read, cut where it has more characters."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return figure(value)
    text = "" if value is None else str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"
