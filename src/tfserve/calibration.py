"""Probabilities that mean what they say, and thresholds that serve an aim: fitted to dev.

A temperature divides logits before they become probabilities (Guo, Pleiss, Sun and Weinberger, "On
Calibration of Modern Neural Networks", 2017): it changes how sure a model says that it is, and not
which label it finds the likeliest. A threshold is the probability from which a label is given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfserve.arrays import Array
from tfserve.errors import HParamsError

WIDE, NARROW = 1.0, 0.5
"""How far a temperature's logarithm is expected from where it is drawn to, before any row is seen:
one of all labels from 1, one of a label from that of all, which few rows do not move far."""

COOLEST, HOTTEST = 0.05, 20.0
BINS = 15

NEVER = math.nextafter(1.0, 2.0)
"""The threshold of a label that is never given: a probability may be 1."""

ROWS_OF_FAITH = 10
"""With so many rows of a label on dev, they and the probabilities are believed alike."""

AIM = re.compile(r"(precision|recall)\s*>=\s*(0?\.\d+|1(?:\.0*)?|0)")


@dataclass(frozen=True)
class Aim:
    """What thresholds are for.

    Attributes
    ----------
    name : ``f1`` of each label, ``f1_micro`` of all together, ``precision`` or ``recall``
    least : of a precision or recall
    """

    name: str
    least: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Aim:
        """Raises HParamsError for anything but ``f1``, ``f1_micro``, ``precision>=0.9``, …"""
        if text in ("f1", "f1_micro"):
            return cls(text)
        found = AIM.fullmatch(text)
        if found is None:
            raise HParamsError(
                "hparams.value",
                f"threshold_for: found {text[:40]!r}; expected f1, f1_micro, or such as "
                "precision>=0.9 and recall>=0.95",
            )
        return cls(found[1], float(found[2]))


def never_given(thresholds: Mapping[str, float]) -> list[str]:
    """Labels whose threshold no probability reaches."""
    return sorted(label for label, threshold in thresholds.items() if threshold >= NEVER)


def temperature(loss: Callable[[float], float], around: float | None = None) -> float:
    """The temperature at which held-out rows are the likeliest.

    Parameters
    ----------
    loss : the summed negative log-likelihood of the rows at a temperature
    around : where the prior has its centre: for a single label the temperature of all labels, near
        which one with few rows stays
    """
    expected, spread = (1.0, WIDE) if around is None else (around, NARROW)
    from scipy.optimize import minimize_scalar

    def cost(log: float) -> float:
        return loss(math.exp(log)) + (log - math.log(expected)) ** 2 / (2 * spread**2)

    bounds = (math.log(COOLEST), math.log(HOTTEST))
    found = minimize_scalar(cost, bounds=bounds, method="bounded")
    return round(math.exp(float(found.x)), 4)


def softmax_loss(logits: Array, targets: Array) -> Callable[[float], float]:
    """Of rows ``(rows, labels)`` with their labels' ids."""
    from scipy.special import log_softmax

    logits = logits.astype(np.float64)
    rows = np.arange(len(logits))

    def loss(heat: float) -> float:
        return -float(log_softmax(logits / heat, axis=-1)[rows, targets].sum())

    return loss


def sigmoid_loss(logits: Array, targets: Array) -> Callable[[float], float]:
    """Of logits of any shape, with targets of 0 and 1."""
    logits = logits.astype(np.float64)

    def loss(heat: float) -> float:
        scaled = logits / heat
        return float((np.logaddexp(0.0, scaled) - targets * scaled).sum())

    return loss


def calibration_bins(confidence: Array, right: Array) -> tuple[Array, Array, Array]:
    """Of bins of like confidence that hold anything: how much, the mean confidence, and the share
    that is right."""
    bins = _bins(confidence)
    counts = np.bincount(bins, minlength=BINS)
    sure = np.bincount(bins, confidence, minlength=BINS)
    hits = np.bincount(bins, np.asarray(right, np.float64), minlength=BINS)
    held = counts > 0
    return counts[held], sure[held] / counts[held], hits[held] / counts[held]


def calibration_error(confidence: Array, right: Array) -> float:
    """The expected calibration error: between confidence and accuracy, over bins of like
    confidence, 0..1."""
    counts, sure, hits = calibration_bins(confidence, right)
    return float(np.average(np.abs(sure - hits), weights=counts)) if len(counts) else 0.0


def chance_error(confidence: Array) -> float:
    """What ``calibration_error`` is to be expected of so few rows though every confidence is true.

    In each bin the number of those that are right is nearly normal around what is expected, with
    the sum of p (1 - p) as its variance.
    """
    confidence = np.asarray(confidence, np.float64)
    spread = np.bincount(_bins(confidence), confidence * (1 - confidence), minlength=BINS)
    return float(np.sqrt(2 / np.pi * spread).sum() / max(1, len(confidence)))


def _bins(confidence: Array) -> Array:
    return np.asarray(np.minimum((np.asarray(confidence) * BINS).astype(int), BINS - 1))


def top_error(probabilities: Array, targets: Array) -> float:
    """The calibration error of the likeliest label's probability; rows ``(rows, labels)``."""
    return calibration_error(probabilities.max(-1), probabilities.argmax(-1) == targets)


class Curve:
    """What each threshold of one label would give on held-out rows.

    Attributes
    ----------
    low, high : between which a threshold gives the same rows, from the highest down; the first
        gives none
    given, hits, believed : rows that are given there, of these those that have the label, and how
        many are believed to have it
    positives : rows that have the label
    """

    def __init__(self, probabilities: Array, truth: Array) -> None:
        order = np.argsort(-probabilities, kind="stable")
        ranked, true = probabilities[order].astype(np.float64), truth[order].astype(np.float64)
        believed = _believed(ranked, true)
        last = np.flatnonzero(np.append(np.diff(ranked) < 0, True))  # of rows that are alike
        self.high = np.concatenate(([1.0], ranked[last]))
        self.low = np.append(ranked[0], np.append(ranked[1:], 0.0)[last])
        self.given = np.concatenate(([0.0], last + 1.0))
        self.hits = np.concatenate(([0.0], np.cumsum(true)[last]))
        self.believed = np.concatenate(([0.0], np.cumsum(believed)[last]))
        self.positives = float(true.sum())

    def best(self, aim: Aim, worth: float = 0.0) -> int:
        """The place that serves the aim; ``worth`` is the F1 of all labels so far."""
        if aim.name == "precision":  # as many rows as it allows, none if it allows none
            served = _served(self.hits, self.given, aim.least)
            return int(served[-1]) if len(served) else 0
        if aim.name == "recall":  # as few
            served = _served(self.hits, self.positives, aim.least)
            return int(served[0]) if len(served) else len(self.given) - 1
        if aim.name == "f1":
            return int(self._f1().argmax())
        return int((self.believed - worth / 2 * self.given).argmax())

    def threshold(self, place: int, aim: Aim, worth: float = 0.0) -> float:
        """One that gives the rows of a place.

        Half of the best F1 is what is best where probabilities are right (Lipton, Elkan and
        Naryanaswamy, "Optimal thresholding of classifiers to maximize F1 measure", 2014): it is
        taken as far as the rows allow it.
        """
        if aim.name == "precision" and not place:
            return NEVER
        if aim.name == "recall" and not self.positives:  # nothing is known of it
            return 0.5
        low, high = float(self.low[place]), float(self.high[place])
        wanted = {"f1": float(self._f1().max()) / 2, "f1_micro": worth / 2}.get(aim.name)
        middle = (low + high) / 2
        margin = (high - low) / 4
        return middle if wanted is None else min(max(wanted, low + margin), high - margin)

    def _f1(self) -> Array:
        return np.asarray(2 * self.believed / (self.given + self.positives + 1e-9))


def _served(hits: Array, rows: Any, least: float) -> Array:
    """The places where a share is reached surely; where rows are too few to say so, at all."""
    surely = np.flatnonzero(_surely(hits, rows) >= least)
    return surely if len(surely) else np.flatnonzero((hits >= least * rows) & (hits > 0))


def _surely(hits: Array, rows: Any) -> Array:
    """A share less one standard error (Wilson, "Probable inference, the law of succession, and
    statistical inference", 1927): what it was by luck it will not be again."""
    n = np.maximum(rows, 1e-9)
    share = np.minimum(1.0, hits / n)
    spread = np.sqrt(share * (1 - share) / n + 1 / (4 * n**2))
    return np.asarray((share + 1 / (2 * n) - spread) / (1 + 1 / n))


def _believed(probabilities: Array, truth: Array) -> Array:
    """Truth, mixed with what the probabilities expect where rows with the label are few; together
    they expect no more rows than there are, whatever weights of classes have made of them."""
    positives = truth.sum()
    doubt = ROWS_OF_FAITH / (ROWS_OF_FAITH + positives)
    expected = np.minimum(1.0, probabilities * positives / max(1e-9, probabilities.sum()))
    return np.asarray((1 - doubt) * truth + doubt * expected)


def thresholds(probabilities: Array, truth: Array, aim: Aim) -> list[float]:
    """A threshold for each label, from ``(rows, labels)`` of held-out rows.

    For ``f1_micro`` Dinkelbach's method for ratios: with the F1 that was reached, a label is given
    where that gains more hits than half of it in labels given, which cannot make it worse.
    """
    curves = [Curve(column, right) for column, right in zip(probabilities.T, truth.T, strict=True)]
    worth = 0.0
    while True:
        places = [curve.best(aim, worth) for curve in curves]
        given = sum(curve.given[place] for curve, place in zip(curves, places, strict=True))
        hits = sum(curve.believed[place] for curve, place in zip(curves, places, strict=True))
        reached = 2 * hits / max(1e-9, given + sum(curve.positives for curve in curves))
        if aim.name != "f1_micro" or reached <= worth + 1e-9:
            pairs = zip(curves, places, strict=True)
            return [curve.threshold(place, aim, worth) for curve, place in pairs]
        worth = reached
