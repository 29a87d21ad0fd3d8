"""What is to be known of an evaluation before its figures are believed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfserve.calibration import never_given
from tfserve.evaluation import Evaluation
from tfserve.tallies import Labels, Numbers, figure
from tfserve.tasks.common import named

MOST_NAMES = 10

KNOWN = {
    "train": "The model was trained on these very rows: what it makes of others, they do not show.",
    "train with dev": "The model was trained on most of these very rows, and chosen by the others: "
    "what it makes of others, they do not show.",
    "calibration": "Temperatures and thresholds were fitted to these very rows: the figures are "
    "somewhat too good.",
    "dev": "This is the dev table of the model's training, which chose its checkpoint and fitted "
    "temperatures and thresholds: its figures are somewhat too good. Test is what to go by.",
}


def notes(found: Evaluation) -> Iterator[str]:
    """A sentence each, what weighs most first."""
    labels = found.table.labels
    if found.known_as is not None:
        yield KNOWN[found.known_as]
    if unknown := found.task.unknown(labels):
        yield (
            f"The model does not know {len(unknown)} of the labels ({_named(unknown)}): they all "
            "count as errors, and the figures of probabilities leave them out."
        )
    if isinstance(found.tally, Numbers):
        if np.ptp(found.tally.gold) == 0:
            yield (
                f"Every row has the target {figure(float(found.tally.gold[0]))}: r2, pearson and "
                "spearman have no value and stand as 0."
            )
    elif isinstance(found.tally, Labels) and not any(found.tally.gold):
        what = "an entity" if found.task.per_word else "a label"
        yield f"No row has {what}: there is nothing to be found, and F1 stands as 0."
    elif not found.task.per_word and len(set(labels)) == 1:
        same = labels[0] if found.task.exclusive else ", ".join(labels[0])
        yield f"Every row has the label {_named([same])}: of other labels nothing can be said."
    if never := never_given(found.task.thresholds_by_label()):
        yield (
            f"No threshold of {_named(never)} met threshold_for on the rows that it was fitted to, "
            "so it is never given. A lower aim, or more rows of it, would give it one."
        )
    if isinstance(found.tally, Labels) and found.tally.right.all():
        rows = len(found.answers)
        yield (
            f"Every row is right, which {rows:,} rows say of all texts only with a margin: up to "
            f"{min(1.0, 3 / rows):.1%} may be wrong (rule of three)."
        )
    if cut := sum(answer.get("truncated") is True for answer in found.answers):
        yield (
            f"{cut:,} rows ({cut / len(found.answers):.1%}) are longer than the model sees "
            f"({found.capacity} tokens) and were truncated: long_text=window reads them whole."
        )


def _named(names: list[str]) -> str:
    names = [named(name) for name in names]
    shown = ", ".join(name if len(name) <= 60 else f"{name[:59]}…" for name in names[:MOST_NAMES])
    return f"{shown}, …" if len(names) > MOST_NAMES else shown
