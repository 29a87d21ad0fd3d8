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
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from tfserve.tallies import Array

INK, GRID = "#010101", "#010102"
ONE, TWO, THREE, FOUR, FIVE = SERIES = ("#010103", "#010104", "#010105", "#010106", "#010107")
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

WIDTH = 6.4
HEAT = LinearSegmentedColormap.from_list("heat", [(0.2, 0.45, 0.85, 0.0), (0.2, 0.45, 0.85, 1.0)])
DIAGONAL = LinearSegmentedColormap.from_list("own", [(0.5, 0.5, 0.5, 0.0), (0.5, 0.5, 0.5, 0.6)])

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
        f'<svg viewBox="{found[1]}" style="width: {float(width) * 1.35:.0f}px; max-width: 100%" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true">'
    )


def bars(names: Sequence[str], series: Mapping[str, Sequence[float]], label: str) -> Markup:
    """A group of lying bars for each name."""
    height = 1.0 + len(names) * (0.12 + 0.13 * len(series))
    with _axes(WIDTH, height) as ([axes], picture):
        places, thick = np.arange(len(names)), 0.8 / len(series)
        for number, (name, values) in enumerate(series.items()):
            at = places + (number - (len(series) - 1) / 2) * thick
            axes.barh(at, values, thick * 0.92, color=SERIES[number], label=name)
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
    bins: int | Array = 40,
    marks: Mapping[str, float] | None = None,
    counts: str = "rows",
    shares: bool = False,
    log: bool = False,
) -> Markup:
    """Steps of several sets of values over the same bins; ``marks`` are upright lines."""
    every = np.concatenate([np.asarray(values, float) for values in series.values()])
    edges = np.histogram_bin_edges(every, bins) if isinstance(bins, int) else bins
    if log and every.min() > 0 and every.max() > 20 * every.min():
        edges = np.unique(np.geomspace(every.min(), every.max() + 1, 61).round())
    with _axes(WIDTH, 2.6) as ([axes], picture):
        for (name, values), colour in zip(series.items(), SERIES, strict=False):
            weights = np.full(len(values), 1 / max(1, len(values))) if shares else None
            kind = "stepfilled" if len(series) == 1 else "step"
            axes.hist(values, edges, weights=weights, histtype=kind, color=colour, label=name,
                      linewidth=1.6)  # fmt: skip
        _marked(axes, marks or {})
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
            axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        axes.set_xlabel(label)
        axes.set_ylabel(f"share of {counts}" if shares else counts)
        if len(series) > 1 or marks:
            axes.legend()
    return picture[0]


def _marked(axes: Any, marks: Mapping[str, float]) -> None:
    for number, (name, value) in enumerate(marks.items()):
        axes.axvline(value, color=SERIES[3 + number % 2], linestyle="--", linewidth=1.2, label=name)


def lines(
    panels: Sequence[tuple[str, str, str, Mapping[str, tuple[Array, Array]]]],
    *,
    limits: bool = False,
    diagonal: bool = False,
) -> Markup:
    """Panels beside each other: title, x's and y's labels, and (x, y) by name; ``limits``: 0..1."""
    with _axes(WIDTH if len(panels) == 1 else 8.6, 3.2, len(panels)) as (row, picture):
        for axes, (title, x_label, y_label, series) in zip(row, panels, strict=True):
            if diagonal:
                axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2)
            for (name, (x, y)), colour in zip(series.items(), SERIES, strict=False):
                marker = "o" if len(x) <= 30 else ""
                axes.plot(x, y, color=colour, label=name, marker=marker, markersize=3.5)
            if limits:
                axes.set_xlim(-0.02, 1.02)
                axes.set_ylim(-0.02, 1.02)
            axes.set_title(title)
            axes.set_xlabel(x_label)
            axes.set_ylabel(y_label)
            if len(series) > 1:
                axes.legend()
    return picture[0]


def heat(
    matrix: Array, rows: Sequence[str], columns: Sequence[str], x_label: str, y_label: str
) -> Markup:
    """A map of shares 0..1; where a row meets itself it is grey."""
    size = min(14.0, max(3.0, 1.6 + 0.105 * len(rows)))
    font = max(4.0, min(9.0, 60 * size / max(10, len(rows)) * 0.9))
    with _axes(size + 0.6, size) as ([axes], picture):
        values = np.sqrt(matrix)  # few are to be seen too
        same = np.array([[row == column for column in columns] for row in rows])
        if same.any():
            own = np.where(same, values, np.nan)
            axes.imshow(own, cmap=DIAGONAL, vmin=0, vmax=1, interpolation="nearest")
            values = np.where(same, np.nan, values)
        top = np.nanmax(values) if np.isfinite(values).any() else 1.0
        axes.imshow(values, cmap=HEAT, vmin=0, vmax=top or 1.0, interpolation="nearest")
        axes.set_xticks(range(len(columns)), [short(c) for c in columns], rotation=90, size=font)
        axes.set_yticks(range(len(rows)), [short(r) for r in rows], size=font)
        axes.grid(visible=False)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
    return picture[0]


def density(x: Array, y: Array, x_label: str, y_label: str, *, diagonal: bool = False) -> Markup:
    """How many points lie where; single ones are still seen."""
    with _axes(4.6, 4.2) as ([axes], picture):
        span = [min(x.min(), y.min()), max(x.max(), y.max())] if diagonal else None
        bounds = None if span is None else [span, span]
        counts, across, up = np.histogram2d(x, y, bins=60, range=bounds)
        shown = np.where(counts.T > 0, 0.15 + 0.85 * counts.T / max(1, counts.max()), np.nan)
        extent = (across[0], across[-1], up[0], up[-1])
        axes.imshow(shown, cmap=HEAT, vmin=0, vmax=1, origin="lower", aspect="auto",
                    interpolation="nearest", extent=extent)  # fmt: skip
        if span is not None:
            axes.plot(span, span, color=GRID, linewidth=1.2)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
    return picture[0]


def boxes_map(density_: Array, label: str) -> Markup:
    """Where words lie on a page, from its upper left corner."""
    with _axes(3.6, 4.2) as ([axes], picture):
        axes.imshow(density_, cmap=HEAT, vmin=0, interpolation="nearest", extent=(0, 1000, 1000, 0))
        axes.set_title(label)
    return picture[0]


def short(name: str, most: int = 28) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
