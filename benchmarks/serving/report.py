"""Tables and plots of what `run.py` measured.

    python benchmarks/serving/report.py RESULTS.json docs/performance.md

writes the tables between their marks in the document, and the plots beside it.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import spread, table

mpl.use("svg")
mpl.rcParams.update({"svg.hashsalt": "tfserve", "font.size": 9, "axes.spines.top": False,
                     "axes.spines.right": False, "svg.fonttype": "none"})  # fmt: skip
from matplotlib import pyplot as plt  # noqa: E402

BEGIN, END = "<!-- serving: begin -->\n", "<!-- serving: end -->"
CLIENTS = (1, 8, 32, 64)
NAMES = {"banking77": "short texts (`banking77`)", "mix": "the mix with long documents"}
BASE = "HuggingFace toolkit"


class Results:
    """What was measured, by server, texts and figure."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.servers = list(dict.fromkeys(result["server"] for result in told["results"]))

    def values(self, server: str, texts: str, figure: str) -> list[float]:
        """Of each round."""
        return [
            result[figure]
            for result in self.told["results"]
            if (result["server"], result["texts"]) == (server, texts)
        ]

    def median(self, server: str, texts: str, figure: str) -> float:
        """Of the rounds."""
        return statistics.median(self.values(server, texts, figure))


def tables(found: Results) -> str:
    """In Markdown."""
    rounds = len(found.values(found.servers[0], "mix", "open"))
    parts = [
        f"{found.told['machine']}. Requests per second, median (range) of {rounds} interleaved "
        f"rounds of {found.told['seconds']:.0f} seconds each; × is the toolkit's rate.\n"
    ]
    for texts, name in NAMES.items():
        rows = []
        for server in found.servers:
            base = found.median(BASE, texts, "rate 32")
            times = found.median(server, texts, "rate 32") / base
            rows.append([
                server,
                *(spread(found.values(server, texts, f"rate {n}")) for n in CLIENTS),
                f"{times:.1f}",
                spread(found.values(server, texts, "open")),
                f"{found.median(server, texts, 'open') / found.median(BASE, texts, 'open'):.1f}",
                spread(found.values(server, texts, "p50 1"), 1),
                spread(found.values(server, texts, "p99 32")),
            ])  # fmt: skip
        header = [name, "1 client", *(f"{n} clients" for n in CLIENTS[1:]), "× at 32",
                  "open loop", "× open", "ms p50, 1 client", "ms p99, 32 clients"]  # fmt: skip
        parts.append(table(header, rows) + "\n")
    return "\n".join(parts)


def plot(found: Results, file: Path) -> None:
    """Rates over clients, and the highest rate of the open loop."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), gridspec_kw={"width_ratios": (3, 2)})
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for (texts, name), (over, highest) in zip(NAMES.items(), axes, strict=True):
        for server, colour in zip(found.servers, colours, strict=False):
            values = [found.values(server, texts, f"rate {n}") for n in CLIENTS]
            middle = [statistics.median(some) for some in values]
            style = "-" if server.startswith("tfserve") else "--"
            over.plot(CLIENTS, middle, style, marker="o", markersize=3, color=colour, label=server)
            over.fill_between(CLIENTS, [min(v) for v in values], [max(v) for v in values],
                              color=colour, alpha=0.15, linewidth=0)  # fmt: skip
        over.set_xscale("log", base=2)
        over.set_xticks(CLIENTS, [str(n) for n in CLIENTS])
        over.set_ylim(0)
        over.set_xlabel("clients that ask again as soon as they are answered")
        over.set_ylabel("requests per second")
        over.set_title(name.replace("`", ""), loc="left")
        rates = [found.median(server, texts, "open") for server in found.servers]
        bars = highest.barh(found.servers, rates, color=colours[: len(rates)])
        highest.bar_label(bars, fmt="%.0f", padding=3)
        highest.invert_yaxis()
        highest.set_xlabel("highest rate with 99% answered in 250 ms")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Read, draw, write."""
    found = Results(json.loads(Path(sys.argv[1]).read_text("utf-8")))
    document = Path(sys.argv[2])
    picture = document.with_name("serving.svg")
    plot(found, picture)
    text = document.read_text("utf-8")
    if BEGIN not in text:
        text += f"\n## Serving\n\n{BEGIN}{END}\n"
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    drawn = f"![rates of all servers]({picture.name})\n"
    document.write_text(f"{before}{BEGIN}{tables(found)}\n{drawn}{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
