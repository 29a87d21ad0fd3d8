"""Plots as inline SVG, in the colours of the page around them, light or dark."""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure

from tfserve.arrays import Array
from tfserve.report.page import short

INK, GRID = "#010101", "#010102"
SERIES = ("#010103", "#010104", "#010105", "#010106", "#010107")
COLOURS = {
    INK: "currentColor",
    GRID: "var(--grid)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, 1)},
}
"""matplotlib writes these, the page means those."""

STYLE: Any = {
    "axes.edgecolor": GRID, "axes.grid": True, "axes.axisbelow": True, "axes.labelcolor": INK,
    "axes.labelsize": 9, "axes.spines.right": False, "axes.spines.top": False,
    "axes.titlecolor": INK, "axes.titlesize": 10, "axes.titlelocation": "left",
    "figure.constrained_layout.use": True, "figure.facecolor": "none", "axes.facecolor": "none",
    "font.size": 9, "grid.color": GRID, "grid.linewidth": 0.6, "legend.frameon": False,
    "legend.fontsize": 8, "lines.linewidth": 1.8, "savefig.transparent": True,
    "svg.fonttype": "none", "svg.hashsalt": "tfserve", "text.color": INK, "text.parse_math": False,
    "xtick.color": INK, "ytick.color": INK, "xtick.major.size": 0, "ytick.major.size": 0,
}  # fmt: skip

WIDTH, BINS = 6.4, 40
HEAT = LinearSegmentedColormap.from_list("heat", [(0.2, 0.45, 0.85, 0.0), (0.2, 0.45, 0.85, 1.0)])
DIAGONAL = LinearSegmentedColormap.from_list("own", [(0.5, 0.5, 0.5, 0.0), (0.5, 0.5, 0.5, 0.6)])

Line = tuple[str, Array, Array]
"""A name, and x and y of its points."""

_drawing = threading.Lock()
"""Styles are global in matplotlib."""


@contextmanager
def _axes(
    width: float, height: float, columns: int = 1
) -> Iterator[tuple[list[Any], list[Markup]]]:
    """Axes to draw on; afterwards the list beside them holds the picture."""
    picture: list[Markup] = []
    with _drawing, mpl.rc_context(STYLE), warnings.catch_warnings():
        # Of glyphs that are missing here: the browser has them.
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        axes = figure.subplots(1, columns, squeeze=False)[0]
        yield list(axes), picture
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"#01010[1-7]", lambda found: COLOURS[found[0]], svg)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', _opening, svg, count=1)
    picture.append(Markup(svg))


def _opening(found: re.Match[str]) -> str:
    width = found[1].split()[2]
    return (
        f'<svg viewBox="{found[1]}" style="width: {float(width) * 1.35:.0f}px" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true">'
    )


def bars(names: Sequence[str], series: Mapping[str, Sequence[float]], label: str) -> Markup:
    """A group of lying bars for each name."""
    height = 1.0 + len(names) * (0.12 + 0.13 * len(series))
    with _axes(WIDTH, height) as ([axes], picture):
        places, thick = np.arange(len(names)), 0.8 / len(series)
        for number, (name, values) in enumerate(series.items()):
            at = places + (number - (len(series) - 1) / 2) * thick
            axes.barh(at, values, thick * 0.92, color=SERIES[number], label=_told(name))
        axes.set_yticks(places, [short(name) for name in names])
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(label)
        if len(series) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series))
    return picture[0]


def histogram(
    series: Mapping[str, Array],
    label: str,
    *,
    bins: Array | None = None,
    marks: Mapping[str, float] | None = None,
    counts: str = "rows",
    shares: bool = False,
    log: bool = False,
) -> Markup:
    """Steps of several sets of values over the same bins; ``marks`` are upright lines.

    ``log`` sets lengths that differ by much on a logarithmic axis.
    """
    every = np.concatenate([np.asarray(values, float) for values in series.values()])
    farthest = max([every.max(), *(marks or {}).values()])
    log = log and every.min() > 0 and farthest > 20 * every.min()
    edges = bins if bins is not None else _ratios(every) if log else _edges(every)
    # Bins of whole numbers are not all as wide: each counts as if it were as wide as the mean.
    widths = np.diff(np.log(edges) if log else edges)
    with _axes(WIDTH, 2.6) as ([axes], picture):
        for (name, values), colour in zip(series.items(), SERIES, strict=False):
            heights = np.histogram(values, edges)[0] * widths.mean() / widths
            heights = heights / max(1, len(values)) if shares else heights
            axes.stairs(heights, edges, fill=len(series) == 1, color=colour, label=_told(name),
                        linewidth=1.6)  # fmt: skip
        _marked(axes, marks or {})
        axes.set_ylim(bottom=0)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
            axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
            axes.set_yticks([])  # a bar's area is what it stands for
        axes.set_xlabel(label)
        what = "density of " if log else "share of " if shares else ""
        axes.set_ylabel(f"{what}{counts}")
        if len(series) > 1 or marks:
            axes.legend()
    return picture[0]


def _edges(values: Array) -> Array:
    """Of ``BINS`` bins; those of whole numbers hold as many numbers each."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):  # but for rounding they are one value
        return np.array([low - 0.5, low + 0.5])
    if np.array_equal(values, values.round()):
        width = max(1.0, np.ceil((high - low + 1) / BINS))
        return np.arange(low - 0.5, high + 0.5 + width, width)
    return np.linspace(low, high, BINS + 1)


def _ratios(values: Array) -> Array:
    """Edges between whole numbers, of bins that grow with the numbers."""
    high = float(values.max())
    step = (high / float(values.min())) ** (1 / 60)
    edges = [float(values.min()) - 0.5]
    while edges[-1] < high:
        edges.append(edges[-1] + max(1.0, np.floor(edges[-1] * (step - 1))))
    return np.array(edges)


def _told(name: str) -> str:
    """A name in a legend, which leaves out those that begin with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


def _marked(axes: Any, marks: Mapping[str, float]) -> None:
    for number, (name, value) in enumerate(marks.items()):
        axes.axvline(value, color=SERIES[3 + number % 2], linestyle="--", linewidth=1.2, label=name)


def lines(
    panels: Sequence[tuple[str, str, str, Sequence[Line]]],
    *,
    limits: bool = False,
    marks: Mapping[str, float] | None = None,
) -> Markup:
    """Panels beside each other: title, x's and y's labels, and lines; ``limits``: 0..1;
    ``marks`` are upright lines in each."""
    with _axes(WIDTH if len(panels) == 1 else 8.6, 3.2, len(panels)) as (row, picture):
        for axes, (title, x_label, y_label, series) in zip(row, panels, strict=True):
            for (name, x, y), colour in zip(series, SERIES, strict=False):
                marker = "o" if len(x) <= 30 else ""
                axes.plot(x, y, color=colour, label=_told(name), marker=marker, markersize=3.5)
            if limits:
                axes.set_xlim(-0.02, 1.02)
                axes.set_ylim(-0.02, 1.02)
            _marked(axes, marks or {})
            axes.set_title(title)
            axes.set_xlabel(x_label)
            axes.set_ylabel(y_label)
            if len(series) > 1 or marks:
                axes.legend()
    return picture[0]


def reliability(counts: Array, given: Array, so: Array) -> Markup:
    """Shares that are so over the probabilities given; points as large as what they stand for."""
    with _axes(4.6, 4.2) as ([axes], picture):
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2)
        axes.plot(given, so, color=SERIES[0], linewidth=1.0)
        axes.scatter(given, so, 4 + 240 * counts / counts.sum(), color=SERIES[0])
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("probability given")
        axes.set_ylabel("share that is so")
    return picture[0]


def heat(
    matrix: Array, rows: Sequence[str], columns: Sequence[str], x_label: str, y_label: str
) -> Markup:
    """A map of shares 0..1; where a row meets itself it is grey."""
    size = max(3.0, 1.6 + 0.14 * len(rows))  # a name fits beside its row
    with _axes(size + 0.6, size + 0.6) as ([axes], picture):
        same = np.array([[row == column for column in columns] for row in rows])
        if same.any():
            own = np.where(same, matrix, np.nan)
            axes.imshow(own, cmap=DIAGONAL, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
            matrix = np.where(same, np.nan, matrix)
        top = np.nanmax(matrix) if np.isfinite(matrix).any() else 1.0
        scale = PowerNorm(0.5, 0, top or 1.0)  # few are to be seen too
        drawn = axes.imshow(matrix, cmap=HEAT, norm=scale, interpolation="nearest")
        percent = mpl.ticker.PercentFormatter(1.0, decimals=0 if top >= 0.1 else 1)
        axes.figure.colorbar(drawn, ax=axes, location="top", anchor=(0.0, 0.0), format=percent,
                             shrink=min(1.0, 3 / size), aspect=20, pad=0.01)  # fmt: skip
        axes.set_xticks(range(len(columns)), [short(c) for c in columns], rotation=90, size=8)
        axes.set_yticks(range(len(rows)), [short(r) for r in rows], size=8)
        axes.grid(visible=False)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
    return picture[0]


def density(x: Array, y: Array, x_label: str, y_label: str, *, diagonal: bool = False) -> Markup:
    """How many points lie where; single ones are still seen."""
    with _axes(4.6, 4.2) as ([axes], picture):
        sides = [np.concatenate([x, y])] * 2 if diagonal else [x, y]
        bounds = [[edges[0], edges[-1]] for edges in map(_edges, sides)]
        counts, across, up = np.histogram2d(x, y, bins=60, range=bounds)
        shown = np.where(counts.T > 0, 0.15 + 0.85 * counts.T / max(1, counts.max()), np.nan)
        extent = (across[0], across[-1], up[0], up[-1])
        axes.imshow(shown, cmap=HEAT, vmin=0, vmax=1, origin="lower", aspect="auto",
                    interpolation="nearest", extent=extent)  # fmt: skip
        if diagonal:
            axes.plot(bounds[0], bounds[0], color=GRID, linewidth=1.2)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
    return picture[0]


def boxes_map(density_: Array, label: str) -> Markup:
    """Where words lie on a page, from its upper left corner."""
    with _axes(3.6, 4.2) as ([axes], picture):
        axes.imshow(density_, cmap=HEAT, vmin=0, interpolation="nearest", extent=(0, 1000, 1000, 0))
        axes.set_title(label)
    return picture[0]
