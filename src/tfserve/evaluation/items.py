"""What was decided one by one, with the probability of every choice: rows, or words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfserve.arrays import Array
from tfserve.calibration import calibration_error, chance_error
from tfserve.tasks import Task
from tfserve.tasks.common import Answer


@dataclass(frozen=True)
class Items:
    """Rows, or the words of all rows.

    Attributes
    ----------
    labels : that are chosen from
    exclusive : whether an item has one of them
    probabilities : ``(items, labels)``
    truth : whether an item has the label, ``(items, labels)``; a label that the model does not know
        stands in no column
    """

    labels: tuple[str, ...]
    exclusive: bool
    probabilities: Array
    truth: Array

    @property
    def confidence(self) -> Array:
        """Probability of what is decided: the likeliest label's, or each label's own."""
        return self.probabilities.max(-1) if self.exclusive else self.probabilities.ravel()

    @property
    def right(self) -> Array:
        """Whether what has that probability is so."""
        if not self.exclusive:
            return self.truth.ravel()
        return np.take_along_axis(self.truth, self.probabilities.argmax(-1)[:, None], -1)[:, 0]

    @property
    def calibration_error(self) -> float | None:
        """The expected one, 0..1; None of no items."""
        return calibration_error(self.confidence, self.right) if len(self.truth) else None

    @property
    def chance_error(self) -> float:
        """What of it so few items would show though every probability were true."""
        return chance_error(self.confidence)


class Collector:
    """Takes scores out of answers as they come, so that few are held as dicts."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.decided: list[str | None] = []
        self._rows: list[Array] = []
        self._seen: list[Array] = []

    def without_scores(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """The answers, whose scores are kept here; those without a label show them."""
        if "scores" not in self.task.parameters:
            yield from answers  # what has that name is the record's
            return
        for answer in answers:
            scores = answer["scores"]
            if answer["pred"] is None:  # it abstains, which no threshold is beside
                self.decided.append(max(scores, key=scores.__getitem__))
            else:
                self.decided.append(answer["pred"])
                del answer["scores"]
            each = scores if self.task.per_word else [scores]
            rows = [[one[label] for label in self.task.labels] for one in each]
            self._rows.append(np.array(rows, np.float32).reshape(-1, len(self.task.labels)))
            # A word that the model did not see has a tag all the same, with no probability.
            probas = answer["proba"] if self.task.per_word else [1.0]
            self._seen.append(np.array(probas) > 0)
            yield answer

    def items(self, gold: Sequence[Any]) -> Items | None:
        """With what is right; None where answers have no scores.

        Of rows or words with one label those are left out whose label the model does not know, and
        words that it did not see: their probabilities are about something else.
        """
        if not self._rows:
            return None
        places = {label: i for i, label in enumerate(self.task.labels)}
        words = [tag for row in gold for tag in row] if self.task.per_word else gold
        exclusive = self.task.exclusive
        truth = np.zeros((len(words), len(places)), dtype=bool)
        for item, label in enumerate(words):
            for name in (label,) if exclusive else label:
                if name in places:
                    truth[item, places[name]] = True
        probabilities, known = np.concatenate(self._rows), np.concatenate(self._seen)
        if exclusive:
            known &= truth.any(-1)
            probabilities, truth = probabilities[known], truth[known]
        return Items(self.task.labels, exclusive, probabilities, truth)
