"""Texts that are the same, or nearly: repeated, leaked from one split into another, labelled twice.

Texts are compared as sets of shingles, five characters each, by their Jaccard similarity. MinHash
with locality-sensitive hashing finds the candidates (Broder, "On the resemblance and containment of
documents", 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfserve.errors import missing_extra
from tfserve.tallies import Array

SIMILAR, CANDIDATE = 0.8, 0.6
"""From which on texts are twins, and are compared: hashes know a similarity only roughly."""

PERMUTATIONS = 64
SHINGLE = 5
MOST_CHARACTERS, MOST_CANDIDATES = 4000, 50
"""Of a text that are compared, and texts with which it is: from one template all are alike."""

Place = tuple[str, int]
"""A split, and the number of a row in it."""


@dataclass(frozen=True)
class Twins:
    """Two rows whose texts are nearly the same; ``one`` comes first, train before dev and test."""

    one: Place
    other: Place
    similarity: float


def twins(texts: Mapping[str, Sequence[str]]) -> list[Twins]:
    """For each row the most similar earlier one of each split; the most similar pairs first.

    Case and spaces do not count. Raises InstallError without the extra ``report``.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise missing_extra(error.name or "datasketch", "report") from None
    index = MinHashLSH(threshold=CANDIDATE, num_perm=PERMUTATIONS)
    seen: dict[Place, Array] = {}
    same: dict[str, dict[str, Place]] = {}
    found = []
    for split, rows in texts.items():
        for number, text in enumerate(rows):
            place, bare = (split, number), plain(text)
            best = {other[0]: (1.0, other) for other in same.get(bare, {}).values()}
            same.setdefault(bare, {}).setdefault(split, place)
            if split not in best:  # otherwise all that it may be like is in the index already
                shingles = _shingles(bare)
                sketch = MinHash(PERMUTATIONS, hashfunc=int)
                sketch.update_batch(shingles.tolist())
                for other in sorted(index.query(sketch))[:MOST_CANDIDATES]:  # in no order at all
                    similarity = _jaccard(seen[other], shingles)
                    if similarity >= max(SIMILAR, best.get(other[0], (0.0, place))[0]):
                        best[other[0]] = (similarity, other)
                seen[place] = shingles
                index.insert(place, sketch, check_duplication=False)
            found += [Twins(other, place, similarity) for similarity, other in best.values()]
    return sorted(found, key=lambda pair: -pair.similarity)


def plain(text: str) -> str:
    """A text without what does not count: case and spaces."""
    return " ".join(text.casefold().split())


def _shingles(bare: str) -> Array:
    """Hashes of all that a text holds, sorted."""
    bare = bare[:MOST_CHARACTERS]
    count = max(1, len(bare) - SHINGLE + 1)
    hashes = [zlib.crc32(bare[i : i + SHINGLE].encode()) for i in range(count)]
    return np.unique(np.array(hashes, np.uint32))


def _jaccard(one: Array, other: Array) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
