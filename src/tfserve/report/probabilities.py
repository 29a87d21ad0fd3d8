"""Whether probabilities mean what they say, and what other thresholds would give."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from tfserve.arrays import Array
from tfserve.calibration import calibration_bins
from tfserve.evaluation import Evaluation, Items
from tfserve.report import figures
from tfserve.report.page import Grid, Plot, Section, short

MOST_CURVES, MOST_POINTS = 4, 300
STEPS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)

Scored = tuple[Array, Array]
"""Probabilities, and whether they are of what is so."""


def sections(found: Evaluation, items: Items) -> list[Section]:
    """Curves of thresholds and reliability; what abstaining buys where rows have one label."""
    if found.task.per_word:
        return [_reliability(items, "words")]
    curves = _curves(items)
    if not items.exclusive:
        return [*curves, _reliability(items, "labels of rows")]
    return [*curves, *_trade(found, items), _reliability(items, "rows"), _coverage(found)]


def _curves(items: Items) -> list[Section]:
    """Nothing where no label has both kinds of rows."""
    recalls, rates = list[figures.Line](), list[figures.Line]()
    for name, (scores, truth) in curves(items):
        false, true, _ = roc_curve(truth, scores)
        area, auc = average_precision_score(truth, scores), roc_auc_score(truth, scores)
        few = _thinned(len(false))
        recalls.append((f"{short(name)} ({area:.3f})", *precision_recall(truth, scores)))
        rates.append((f"{short(name)} ({auc:.3f})", false[few], true[few]))
    if not recalls:
        return []
    panels = [
        ("precision and recall (average precision)", "recall", "precision", recalls),
        ("ROC (area under the curve)", "false positive rate", "recall", rates),
    ]
    text = "What other thresholds would give."
    if len(_drawable(items)) > MOST_CURVES:
        text += " Of many labels the two that are told apart worst and the two best."
    caption = "Precision over recall, and recall over the false positive rate."
    return [Section("Thresholds", text, [Plot(figures.lines(panels, limits=True), caption)])]


def _trade(found: Evaluation, items: Items) -> list[Section]:
    """Of two labels: what each threshold of the positive one would give."""
    state = found.task.state()
    positive, own = state.get("positive"), state.get("threshold")
    if len(items.labels) != 2 or positive is None:
        return []
    place = items.labels.index(positive)
    scores, truth = items.probabilities[:, place], items.truth[:, place]
    rows = []
    for threshold in sorted({*STEPS, *([own] if own is not None and own <= 1 else [])}):
        given = scores >= threshold
        mark = "the model's" if threshold == own else ""
        shares = (truth[given].mean() if given.any() else None,
                  given[truth].mean() if truth.any() else None)  # fmt: skip
        rows.append((round(threshold, 4), mark, int(given.sum()), *shares))
    text = (
        f"What {positive} would be at other thresholds. A threshold is chosen on dev; on test its "
        "choice would make the figures too good."
    )
    header = ["threshold", "whose", "rows given", "precision", "recall"]
    return [Section("Precision and recall by threshold", text, [Grid(header, rows)])]


def precision_recall(truth: Array, scores: Array) -> tuple[Array, Array]:
    """Recall and precision at the thresholds at which recall changes, or as many as are seen."""
    precision, recall, _ = precision_recall_curve(truth, scores, drop_intermediate=True)
    some = _thinned(len(recall))
    return recall[some], precision[some]


def curves(items: Items) -> list[tuple[str, Scored]]:
    """What is drawn: of many labels some."""
    labels = _drawable(items)
    if len(items.labels) == 2 and items.exclusive:
        return labels
    if len(labels) > MOST_CURVES:  # by what does not depend on how rare a label is
        labels.sort(key=lambda label: roc_auc_score(label[1][1], label[1][0]))
        labels = [*labels[:2], *labels[-2:]]
    every = items.probabilities.ravel(), items.truth.ravel()
    return [("all labels", every), *labels] if 0 < every[1].sum() < len(every[1]) else labels


def _drawable(items: Items) -> list[tuple[str, Scored]]:
    """Labels with a curve: one of which there is no row, or no other, has none."""
    return [
        (name, (items.probabilities[:, i], items.truth[:, i]))
        for i, name in enumerate(items.labels)
        if 0 < items.truth[:, i].sum() < len(items.truth)
    ]


def _thinned(points: int) -> Array:
    """The places of as many points as a picture needs."""
    return np.unique(np.linspace(0, points - 1, min(points, MOST_POINTS)).astype(int))


def _reliability(items: Items, what: str) -> Section:
    confidence, right = items.confidence, items.right
    names = ("right", "wrong") if items.exclusive else ("so", "not so")
    series = {
        f"{name} ({len(values):,})": values
        for name, values in zip(names, (confidence[right], confidence[~right]), strict=True)
    }
    spread = figures.histogram(
        series, "probability", bins=np.linspace(0, 1, 41), counts=what, shares=True
    )
    text = (
        f"On the diagonal a probability means what it says: of {what} with 0.8 eight in ten are "
        f"{names[0]}. The calibration error is the mean distance from it: "
        f"{items.calibration_error:.3f}."
    )
    if items.exclusive:
        text += " Each stands with its likeliest label, whatever a threshold makes of it."
    parts = (
        Plot(
            figures.reliability(*calibration_bins(confidence, right)),
            f"Share that is so over the probability that was given; the larger a point, the more "
            f"{what} it stands for.",
        ),
        Plot(spread, "Probabilities of what is right, and of what is wrong."),
    )
    return Section("Probabilities", text, parts)


def _coverage(found: Evaluation) -> Section:
    """Of answers with the model's threshold, if it has one, and without its abstaining."""
    given = np.array([answer["proba"] for answer in found.answers])
    hits = np.array([a == b for a, b in zip(found.decided, found.table.labels, strict=True)])
    order = np.argsort(-given, kind="stable")
    last = np.flatnonzero(np.append(np.diff(given[order]) < 0, True))  # of rows that are alike
    share, right = (last + 1) / len(order), np.cumsum(hits[order])[last] / (last + 1)
    places = np.unique(np.searchsorted(share, np.array(SHARES) - 1e-9))[::-1]
    rows = [  # an answer's probability is rounded to six digits, either way
        (f"{share[i]:.1%}", f"{max(0.0, given[order][last[i]] - 1e-6):.6f}", float(right[i]))
        for i in places
    ]
    some = _thinned(len(last))
    panel = ("", "share of rows answered, the surest first", "accuracy",
             [("accuracy", share[some], right[some])])  # fmt: skip
    text = (
        "What abstaining would buy: with abstain at the probability in the table the model "
        "answers that share of rows, with that accuracy, and leaves the others to a person."
    )
    parts = (
        Grid(["rows answered", "abstain under", "accuracy"], rows),
        Plot(figures.lines([panel]), "Accuracy of the surest answers over their share of all."),
    )
    return Section("Abstaining", text, parts)
