"""Texts that are the same, or nearly: repeated, leaked from one split into another, labelled twice.

Texts are compared as sets of shingles, five characters each, by their Jaccard similarity. MinHash
with locality-sensitive hashing finds the candidates (Broder, "On the resemblance and containment of
documents", 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfserve.arrays import Array
from tfserve.errors import missing_extra
from tfserve.records import plain

SIMILAR, CANDIDATE = 0.8, 0.6
"""From which on texts are twins, and are compared: hashes know a similarity only roughly."""

PERMUTATIONS = 64
SHINGLE = 5
MOST_CHARACTERS, MOST_CANDIDATES, MOST_ALIKE = 4000, 50, 500
"""Characters of a text that are compared, and texts of a split that it is compared with. Those made
from one template are all alike: of so many in a split it is looked for the likest."""

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

    Case does not count, nor how many spaces there are. Raises InstallError without the extra
    ``report``.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise missing_extra(error.name or "datasketch", "report") from None
    index = MinHashLSH(threshold=CANDIDATE, num_perm=PERMUTATIONS)
    seen: dict[Place, Array] = {}
    numbers: dict[Place, int] = {}
    hashes = np.zeros((sum(map(len, texts.values())), PERMUTATIONS), np.uint32)
    first: dict[str, dict[str, Place]] = {}
    likest: dict[Place, dict[str, tuple[float, Place]]] = {}
    found = []
    for split, rows in texts.items():
        for number, text in enumerate(rows):
            place, bare = (split, number), plain(text)
            copies = {other[0]: (1.0, other) for other in first.get(bare, {}).values()}
            if split in copies:  # what is like this text is like its first copy
                best = {**likest[copies[split][1]], **copies}
            else:
                best = copies
                shingles = _shingles(bare)
                sketch = MinHash(PERMUTATIONS, hashfunc=int)
                sketch.update_batch(shingles.tolist())
                own = hashes[len(seen)] = sketch.hashvalues  # of 32 bits
                places = sorted(index.query(sketch))
                alike = (hashes[[numbers[other] for other in places]] == own).sum(-1)
                for other in _likest(places, alike):
                    similarity = _jaccard(seen[other], shingles)
                    if similarity >= max(SIMILAR, best.get(other[0], (0.0, place))[0]):
                        best[other[0]] = (similarity, other)
                numbers[place], seen[place], likest[place] = len(seen), shingles, best
                if sum(other[0] == split for other in places) < MOST_ALIKE:
                    index.insert(place, sketch, check_duplication=False)
                first.setdefault(bare, {})[split] = place
            found += [Twins(other, place, similarity) for similarity, other in best.values()]
    return sorted(found, key=lambda pair: -pair.similarity)


def _likest(places: Sequence[Place], alike: Array) -> Iterator[Place]:
    """Of each split those with the most hashes alike, the least of them first."""
    left: dict[str, list[Place]] = {}
    for number in np.argsort(-alike, kind="stable").tolist():
        some = left.setdefault(places[number][0], [])
        if len(some) < MOST_CANDIDATES:
            some.append(places[number])
    for some in left.values():
        yield from reversed(some)


def _shingles(bare: str) -> Array:
    """Hashes of all that a text holds, sorted."""
    bare = bare[:MOST_CHARACTERS]
    count = max(1, len(bare) - SHINGLE + 1)
    hashes = [zlib.crc32(bare[i : i + SHINGLE].encode()) for i in range(count)]
    return np.unique(np.array(hashes, np.uint32))


def _jaccard(one: Array, other: Array) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
