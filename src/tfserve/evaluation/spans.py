"""What is wrong with entities: a border, the type, both, missed, or invented."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tfserve.tasks.common import Answer
from tfserve.tasks.ner import entities

Entity = tuple[int, int, str]
"""First word, one past the last, type."""

KINDS = {
    "boundary": "the type is right, a border is not",
    "type": "both borders are right, the type is not",
    "both": "it overlaps, but neither type nor borders are right",
    "missed": "nothing was found where an entity is",
    "invented": "an entity was found where there is none",
}


@dataclass(frozen=True)
class Slip:
    """One error.

    Attributes
    ----------
    kind : of ``KINDS``
    row : of the table
    gold, given : the entities, None where there is none
    proba : of what was given; of a missed one that of its words being outside
    """

    kind: str
    row: int
    gold: Entity | None
    given: Entity | None
    proba: float


def slips(gold: Sequence[Sequence[str]], answers: Sequence[Answer]) -> list[Slip]:
    """All errors of a table. What covers two entities, or two parts of one, stands in two."""
    found = []
    for row, (tags, answer) in enumerate(zip(gold, answers, strict=True)):
        probas = answer["proba"]
        for kind, right, given in _paired(_of(tags), _of(answer["pred"])):
            first, last, _ = given or right or (0, 0, "")
            proba = sum(probas[first:last]) / max(1, last - first)
            found.append(Slip(kind, row, right, given, proba))
    return found


def _of(tags: Sequence[str]) -> list[Entity]:
    return [(first, last, kind or "") for first, last, kind in entities(tags)]


Rule = Callable[[Entity, Entity], bool]
RULES: tuple[tuple[str, Rule], ...] = (
    ("right", lambda a, b: a == b),
    ("type", lambda a, b: a[:2] == b[:2]),
    ("boundary", lambda a, b: a[2] == b[2] and _overlap(a, b)),
    ("both", lambda a, b: _overlap(a, b)),
)


def _paired(
    gold: list[Entity], given: list[Entity]
) -> Iterator[tuple[str, Entity | None, Entity | None]]:
    """Each error with its entities; whoever fits best is paired first."""
    every, gold, given = (gold, given), list(gold), list(given)
    for kind, fits in RULES:
        for right in list(gold):
            guess = next((guess for guess in given if fits(right, guess)), None)
            if guess is None:
                continue
            gold.remove(right)
            given.remove(guess)
            if kind != "right":
                yield kind, right, guess
    for right in gold:
        guess = next((guess for guess in every[1] if _overlap(right, guess)), None)
        yield ("missed" if guess is None else _kind(right, guess), right, guess)
    for guess in given:
        found = next((right for right in every[0] if _overlap(right, guess)), None)
        yield ("invented" if found is None else _kind(found, guess), found, guess)


def _kind(one: Entity, other: Entity) -> str:
    """Of two that overlap, and have not both borders alike."""
    return "boundary" if one[2] == other[2] else "both"


def _overlap(one: Entity, other: Entity) -> bool:
    return one[0] < other[1] and other[0] < one[1]
