"""Which labels are taken for which."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tfserve.report import figures
from tfserve.report.page import MANY, Grid, Matrix, Part, Plot, Section
from tfserve.tallies import Labels

LARGE, MOST_PAIRS = 150, 30
NONE = "(none)"


def sections(tally: Labels) -> list[Section]:
    """Of rows that hold one label each."""
    pairs = Counter(
        (str(next(iter(gold))[0]), str(next(iter(given))[0]) if given else NONE)
        for gold, given in zip(tally.gold, tally.given, strict=True)
    )
    wrong = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    totals = Counter(gold for gold, _ in pairs.elements())
    text = "Rows of the label at the left that were given the label above."
    if not wrong and len(tally.labels) > MANY:
        return [Section("Confusion", "Nothing is confused with anything.", [])]
    parts: list[Part] = []
    labels = list(tally.labels)
    if len(labels) > LARGE:
        mixed = Counter(label for pair in wrong.elements() for label in pair)
        labels = sorted(label for label, _ in mixed.most_common(LARGE) if label != NONE)
        text += f" The {len(labels)} labels that are confused most."
    if len(labels) > MANY:
        labels = _neighbours(labels, pairs)
    columns = [*labels, NONE] if any(given == NONE for _, given in pairs) else labels
    counts = np.array([[pairs[gold, given] for given in columns] for gold in labels])
    if len(labels) <= MANY:
        parts.append(Matrix(labels, columns, counts, "Rows by label (left) and answer (above)."))
    elif len(labels) > 1:
        shares = counts / np.maximum(1, [[totals[label]] for label in labels])
        svg = figures.heat(shares, labels, columns, "given", "label")
        parts.append(
            Plot(
                svg,
                "Share of each label's rows (down) that were given another label (across), in "
                "blue; right answers in grey. Labels that are confused stand side by side.",
                wide=True,
            )
        )
    if wrong:
        rows = [
            (gold, given, count, count / totals[gold])
            for (gold, given), count in wrong.most_common(MOST_PAIRS)
        ]
        header = ["label", "given", "rows", "of its rows"]
        parts.append(Grid(header, rows, "What is confused most.", tall=True))
    return [Section("Confusion", text, parts)]


def _neighbours(labels: list[str], pairs: Counter[tuple[str, str]]) -> list[str]:
    """In an order in which labels that are confused are near each other."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    both = np.array([[pairs[a, b] + pairs[b, a] for b in labels] for a in labels], float)
    size = np.sqrt(np.maximum(1, np.outer(both.diagonal(), both.diagonal())) / 4)
    distance = 1 - np.minimum(1, both / size)
    np.fill_diagonal(distance, 0)
    order = leaves_list(linkage(squareform(distance, checks=False), "average"))
    return [labels[i] for i in order]
