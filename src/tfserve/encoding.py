"""Records to token windows: the model's true capacity, word alignment, boxes.

Works on the ``tokenizers`` library and numpy alone, so that what training saw is what a server
without torch or transformers computes. A text is always encoded whole, as the caller wrote it,
and its tokens are matched to words by their character offsets: that holds for WordPiece,
byte-level BPE and SentencePiece alike, and needs no mode for words that were split beforehand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tfserve.errors import ModelError, RecordError
from tfserve.records import BOX_MAX, Record

Ints = npt.NDArray[np.int64]

# These number their positions from the padding token's id on, so that the first ones are lost.
OFFSET_POSITIONS = frozenset(
    ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "lilt", "layoutlmv3",
     "roberta-prelayernorm", "data2vec-text", "mpnet", "ibert", "xmod", "esm", "led")
)  # fmt: skip
# The box of the last special token; the first one's is all zeros everywhere.
SEPARATOR_BOX = {"layoutlm": BOX_MAX, "layoutlmv2": BOX_MAX}
# These take boxes beside the text.
BOXED = frozenset(("layoutlm", "layoutlmv2", "layoutlmv3", "lilt", "bros"))
NO_LIMIT = 100_000
"""Tokenizer files write "no limit" as a huge number."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of one record's tokens with the special tokens around it.

    Attributes
    ----------
    ids : ``(length,)`` token ids
    boxes : ``(length, 4)`` or None
    words : indices of the record's words whose first token stands here
    places : where in ``ids`` each of these first tokens stands
    owned : for which of these words this window is the one that answers
    """

    ids: Ints
    boxes: Ints | None
    words: Ints
    places: Ints
    owned: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def key(self) -> bytes:
        """Equal for windows that the model cannot tell apart and that answer the same places."""
        boxes = b"" if self.boxes is None else self.boxes.tobytes()
        return b"|".join((self.ids.tobytes(), boxes, self.places.tobytes()))


@dataclass(frozen=True, slots=True)
class Encoded:
    """One record as windows, of which ``truncated`` says whether they hold all of it."""

    windows: tuple[Window, ...]
    words: int
    truncated: bool


class Encoder:
    """Turns records into windows for one model.

    Parameters
    ----------
    tokenizer : a fast tokenizer; truncation and padding baked into its file are switched off
    model_type : of the model's config; decides the boxes of special tokens
    pad_token_id : the token that fills a batch of them
    max_length : tokens per window, special tokens included
    stride : tokens that neighbouring windows share
    per_word : whether answers are wanted for words; their texts are always windowed
    windowed : cut long texts into windows instead of truncating them
    use_bbox : whether windows carry boxes
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        model_type: str = "bert",
        pad_token_id: int = 0,
        max_length: int,
        stride: int | None = None,
        per_word: bool = False,
        windowed: bool = False,
        use_bbox: bool = False,
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer, self.pad_token_id = tokenizer, pad_token_id
        self.per_word, self.use_bbox = per_word, use_bbox
        self.windowed = windowed or per_word
        self.prefix, self.suffix = _special_tokens(tokenizer)
        self.max_length = max_length
        self.content = max_length - len(self.prefix) - len(self.suffix)
        self.stride = self.content // 4 if stride is None else stride
        if self.content < 1 or self.stride >= self.content:
            raise ModelError(
                "model.stride",
                f"found stride {self.stride} with max_length {max_length}; expected a stride below "
                f"{self.content}, the tokens that a window has besides the special ones",
            )
        edge = SEPARATOR_BOX.get(model_type, 0)
        self._prefix_boxes = np.zeros((len(self.prefix), 4), np.int64)
        self._suffix_boxes = np.full((len(self.suffix), 4), edge, np.int64)

    def encode(self, records: Sequence[Record]) -> list[Encoded]:
        """Encode records; the tokenizer uses all cores and releases the GIL.

        Raises
        ------
        RecordError
            ``record.bbox_missing``: the model wants boxes and a record has none.
        """
        texts = [record.text for record in records]
        if not (self.per_word or self.use_bbox):
            encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            return [self._cut(np.array(e.ids, np.int64), None, None) for e in encodings]
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self._align(record, e) for record, e in zip(records, encodings, strict=True)]

    def _align(self, record: Record, encoding: Any) -> Encoded:
        """Match tokens to words by character offsets, and give each token its word's box."""
        ids = np.array(encoding.ids, np.int64)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        first, owner = first_tokens(np.array(record.spans, np.int64).reshape(-1, 2), offsets)
        boxes = None
        if self.use_bbox:
            if record.bbox is None:
                raise RecordError(
                    "record.bbox_missing", "expected a bbox with four numbers a word", field="bbox"
                )
            boxes = np.where(owner[:, None] >= 0, record.bbox[owner], 0)
        return self._cut(ids, boxes, first if self.per_word else None)

    def _cut(self, ids: Ints, boxes: Ints | None, first: Ints | None) -> Encoded:
        count = len(ids)
        spans = window_spans(count, self.content, self.stride) if self.windowed else [
            (0, min(count, self.content))
        ]  # fmt: skip
        seen = None if first is None else list(_words_within(first, spans))
        owners = None if first is None else owning_windows(first, spans)
        windows = []
        for number, (start, end) in enumerate(spans):
            words = places = np.empty(0, np.int64)
            owned = np.empty(0, np.bool_)
            if first is not None and seen is not None and owners is not None:
                words = seen[number]
                places = first[words] - start + len(self.prefix)
                owned = owners[words] == number
            windows.append(
                Window(
                    np.concatenate((self.prefix, ids[start:end], self.suffix)),
                    boxes
                    if boxes is None
                    else np.concatenate((self._prefix_boxes, boxes[start:end], self._suffix_boxes)),
                    words,
                    places,
                    owned,
                )
            )
        words_in_all = 0 if first is None else len(first)
        return Encoded(tuple(windows), words_in_all, truncated=spans[-1][1] < count)


def window_spans(count: int, content: int, stride: int) -> list[tuple[int, int]]:
    """Cut ``count`` tokens into the fewest windows of at most ``content`` that share ``stride``.

    The windows are of one length: the last is no scrap without context, and the batch they
    travel in has no padding.
    """
    if count <= content:
        return [(0, count)]
    number = math.ceil((count - stride) / (content - stride))
    length = math.ceil((count + (number - 1) * stride) / number)
    starts = [min(i * (length - stride), count - length) for i in range(number)]
    return [(start, start + length) for start in starts]


def owning_windows(first: Ints, spans: Sequence[tuple[int, int]]) -> Ints:
    """For each word, the window where its first token has most context on its poorer side.

    The text's own beginning and end are no lack of context.
    """
    count = spans[-1][1]
    most, owners = np.full(len(first), -1, np.int64), np.zeros(len(first), np.int64)
    for number, ((start, end), words) in enumerate(
        zip(spans, _words_within(first, spans), strict=True)
    ):
        places = first[words]
        left = places - start if start else np.full_like(places, count)
        right = end - 1 - places if end < count else np.full_like(places, count)
        margin = np.minimum(left, right)
        better = margin > most[words]
        most[words[better]], owners[words[better]] = margin[better], number
    return owners


def _words_within(first: Ints, spans: Sequence[tuple[int, int]]) -> Iterator[Ints]:
    """The words whose first token stands in each window; a long text has many of both."""
    order = np.argsort(first, kind="stable")
    ranked = first[order]
    for start, end in spans:
        yield np.sort(order[slice(*np.searchsorted(ranked, (start, end)))])


def first_tokens(spans: Ints, offsets: Ints) -> tuple[Ints, Ints]:
    """Each word's first token and each token's word, from character offsets.

    Both are -1 where there is none: a word that the tokenizer dropped (a zero-width character,
    say), a token between words. A token that covers several words belongs to the first of them
    and is the first token of each.

    Parameters
    ----------
    spans : ``(words, 2)`` start and end of each word
    offsets : ``(tokens, 2)`` start and end of each token
    """
    first = np.full(len(spans), -1, np.int64)
    owner = np.full(len(offsets), -1, np.int64)
    if not len(spans) or not len(offsets):
        return first, owner
    visible = np.flatnonzero(spans[:, 1] > spans[:, 0])  # an empty word has no token
    starts, ends = spans[visible, 0], spans[visible, 1]
    # The first word that ends behind the token's start, and the last that starts before its end.
    low = np.searchsorted(ends, offsets[:, 0], side="right")
    high = np.searchsorted(starts, offsets[:, 1], side="left") - 1
    touching = (low <= high) & (offsets[:, 1] > offsets[:, 0])
    owner[touching] = visible[low[touching]]
    tokens = np.flatnonzero(touching)[::-1]  # backwards, so that a word's first token stays
    first[owner[tokens]] = tokens
    for token in tokens[high[tokens] > low[tokens]]:
        covered = visible[low[token] + 1 : high[token] + 1]
        later = (first[covered] == -1) | (first[covered] > token)
        first[covered[later]] = token
    return first, owner


MANY = 1000


def token_counts(tokenizer: Tokenizer, records: Sequence[Record]) -> list[int]:
    """Tokens of each record, special ones included, however many the model sees."""
    counts: list[int] = []
    for start in range(0, len(records), MANY):  # not all encodings at a time
        texts = [record.text for record in records[start : start + MANY]]
        counts += [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts)]
    return counts


def load_tokenizer(path: Path | str) -> Tokenizer:
    """A tokenizer from a ``tokenizer.json``. Raises ModelError when it cannot be read."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(
            "model.tokenizer",
            f"cannot read the tokenizer {path}: {error}; expected the tokenizer.json of a fast "
            "tokenizer (transformers writes it with save_pretrained)",
        ) from None


def capacity(folder: Path | str) -> int:
    """How many tokens a model sees at once, special tokens included.

    The least of its position embeddings (less the ones that some families leave unused) and the
    tokenizer's limit; truncation baked into ``tokenizer.json`` does not count.
    """
    config = _read_json(Path(folder) / "config.json")
    limit = _read_json(Path(folder) / "tokenizer_config.json").get("model_max_length")
    limits = [limit] if isinstance(limit, (int, float)) and limit < NO_LIMIT else []
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    if isinstance(positions, int) and positions > 0:
        if config.get("model_type") in OFFSET_POSITIONS:
            pad = config.get("pad_token_id")
            positions -= 2 if pad is None else pad + 1  # 1 is what transformers takes by default
        limits.append(positions)
    return int(min(limits, default=512))


def takes_bbox(folder: Path | str) -> bool:
    """Whether a model's family takes boxes."""
    return _read_json(Path(folder) / "config.json").get("model_type") in BOXED


def _special_tokens(tokenizer: Tokenizer) -> tuple[Ints, Ints]:
    """The ids that the tokenizer puts before and behind a text."""
    mask = tokenizer.encode("a", add_special_tokens=True)
    ids, special = np.array(mask.ids, np.int64), np.array(mask.special_tokens_mask, bool)
    content = np.flatnonzero(~special)
    if not len(content):  # a tokenizer that knows no "a" at all
        bare = tokenizer.encode("", add_special_tokens=True).ids
        half = (len(bare) + 1) // 2
        return np.array(bare[:half], np.int64), np.array(bare[half:], np.int64)
    return ids[: content[0]], ids[content[-1] + 1 :]


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise ModelError("model.json", f"cannot read {path}: {error}") from None
