"""Records to token windows: every word is found again, whatever the tokenizer did to its text."""

from __future__ import annotations

import functools
import itertools
import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from conftest import PretrainedFolder
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from tfserve.encoding import (
    Encoded,
    Encoder,
    capacity,
    first_tokens,
    load_tokenizer,
    owning_windows,
    window_spans,
)
from tfserve.errors import ModelError, RecordError
from tfserve.records import Record

# Control and zero-width characters, marks that combine, blanks that are no word border, characters
# that normalisation makes longer, shorter or splits, other scripts and directions, emoji.
ODD = "\x00\x07\x1f\x7f\x85\u200b\u200d\u200e\u202e\u2060\ufeff\u00ad\ufffd"
MARKS = "\u0301\u0308\u0338\u20dd\ufe0f\u093f\u0e31"
BLANKS = "\u00a0\u2003\u2028\u3000\u1680"
CHANGED = "İßﬁ½Å´ﷺǆ한각①㎏ＡΣς"
SCRIPTS = "東京都שלוםالسلامпривет"
EMOJI = ("👍🏽", "👩‍👩‍👧", "🇪🇸", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️")
SPECIAL = ("[SEP]", "[MASK]", "</s>", "<mask>", "[UNK]")
BORDERS = (" ", "  ", "\t", "\n", "\r\n", "\v", "\f")

PIECES = st.one_of(
    st.sampled_from([*ODD, *MARKS, *BLANKS, *CHANGED, *SCRIPTS, *EMOJI, *SPECIAL]),
    st.sampled_from(" ".join(tiny.SENTENCES).split()),
    st.sampled_from(BORDERS),
    st.characters(exclude_categories=["Cs"]),
)
TEXTS = st.lists(PIECES, max_size=40).map("".join)
LONG_TEXTS = st.lists(PIECES, min_size=20, max_size=150).map("".join)
WORD_LISTS = st.lists(st.lists(PIECES, max_size=5).map("".join), max_size=30)

# The three kinds of tokenizer, and two variants that models come with: byte BPE whose offsets
# leave out the blank before a word, and SentencePiece that makes one blank of several.
KINDS = ("wordpiece", "bytes", "unigram", "bytes-trimmed", "unigram-merged")


@functools.cache
def tokenizer_json(kind: str) -> str:
    tok = tiny.tokenizer(kind.partition("-")[0])
    if kind == "bytes-trimmed":
        ends = [(token, tok.token_to_id(token)) for token in ("</s>", "<s>")]
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tok.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True)
    if kind == "unigram-merged":
        merged = normalizers.Replace(Regex(" {2,}"), " ")
        tok.normalizer = normalizers.Sequence([normalizers.NFKC(), merged])
    return str(tok.to_str())


def tokenizer(kind: str) -> Tokenizer:
    """As its file has it: with truncation and padding to 8 tokens baked in."""
    return Tokenizer.from_str(tokenizer_json(kind))


@functools.cache
def encoder(kind: str, max_length: int = 12, **options: Any) -> Encoder:
    return Encoder(tokenizer(kind), max_length=max_length, **options)


@functools.cache
def bare(kind: str) -> Tokenizer:
    tok = tokenizer(kind)
    tok.no_truncation()
    tok.no_padding()
    return tok


def tokens(kind: str, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and offsets of a whole text without special tokens."""
    encoding = bare(kind).encode(text, add_special_tokens=False)
    return encoding.ids, encoding.offsets


def overlap(one: Sequence[int], other: Sequence[int]) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def plain_first_tokens(
    spans: Sequence[Sequence[int]], offsets: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """What ``first_tokens`` is to compute, by comparing every word with every token."""
    first = [next((t for t, o in enumerate(offsets) if overlap(span, o)), -1) for span in spans]
    owner = [next((w for w, span in enumerate(spans) if overlap(span, o)), -1) for o in offsets]
    return first, owner


# --- capacity -----------------------------------------------------------------------------------

CAPACITIES = dict.fromkeys(tiny.FAMILIES, tiny.POSITIONS) | {"longformer": 4 * tiny.POSITIONS}


def folder(path: Path, config: dict[str, Any], tokenizer_config: dict[str, Any] | None) -> Path:
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    if tokenizer_config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), "utf-8")
    return path


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_capacity_is_what_the_position_embeddings_leave(
    family: str, pretrained: PretrainedFolder
) -> None:
    assert capacity(pretrained(family)) == CAPACITIES[family]


# ModernBERT rotates: nothing in the model itself forbids one token more.
@pytest.mark.parametrize("family", [f for f in tiny.FAMILIES if f != "modernbert"])
def test_a_model_runs_at_its_capacity_and_fails_one_token_beyond(
    family: str, pretrained: PretrainedFolder
) -> None:
    model = transformers.AutoModel.from_pretrained(pretrained(family)).eval()
    boxes = {"bbox": torch.zeros(1, CAPACITIES[family] + 1, 4, dtype=torch.long)}
    longer = {
        "input_ids": torch.full((1, CAPACITIES[family] + 1), 7),
        "attention_mask": torch.ones(1, CAPACITIES[family] + 1, dtype=torch.long),
        **(boxes if family in tiny.BOXED else {}),
    }
    with torch.inference_mode():
        fitting = {name: tensor[:, :-1] for name, tensor in longer.items()}
        assert model(**fitting).last_hidden_state.shape[1] == CAPACITIES[family]
        with pytest.raises((IndexError, RuntimeError)):
            model(**longer)


BERT = {"model_type": "bert", "max_position_embeddings": 512}
ROBERTA = {"model_type": "roberta", "max_position_embeddings": 514}
RELATIVE = {"model_type": "deberta-v2", "max_position_embeddings": -1}


@pytest.mark.parametrize(
    ("config", "tokenizer_config", "expected"),
    [
        pytest.param(BERT, None, 512, id="no-tokenizer-config"),
        pytest.param(BERT, {}, 512, id="tokenizer-without-limit"),
        pytest.param(BERT, {"model_max_length": 128}, 128, id="tokenizer-has-less"),
        pytest.param(BERT, {"model_max_length": 1024}, 512, id="positions-are-less"),
        pytest.param(BERT, {"model_max_length": 10**30}, 512, id="huge-is-no-limit"),
        pytest.param(BERT, {"model_max_length": 1e30}, 512, id="huge-float-is-no-limit"),
        pytest.param(BERT, {"model_max_length": None}, 512, id="null-is-no-limit"),
        pytest.param({**ROBERTA, "pad_token_id": 1}, {}, 512, id="roberta"),
        pytest.param({**ROBERTA, "pad_token_id": 0}, {}, 513, id="padding-is-0"),
        pytest.param(ROBERTA, {}, 512, id="padding-is-transformers-default"),
        pytest.param({**BERT, "pad_token_id": 1}, {}, 512, id="padding-does-not-matter-to-bert"),
        pytest.param({"n_positions": 1024}, {}, 1024, id="n-positions"),
        pytest.param(RELATIVE, {"model_max_length": 256}, 256, id="relative-positions"),
        pytest.param({}, {}, 512, id="nothing-said"),
        pytest.param({}, {"model_max_length": 10**30}, 512, id="nothing-said-but-no-limit"),
        pytest.param({}, {"model_max_length": 99_999}, 99_999, id="a-long-limit"),
    ],
)
def test_capacity_is_the_least_limit(
    config: dict[str, Any], tokenizer_config: dict[str, Any] | None, expected: int, tmp_path: Path
) -> None:
    assert capacity(folder(tmp_path, config, tokenizer_config)) == expected


def test_truncation_baked_into_the_tokenizer_is_no_limit(pretrained: PretrainedFolder) -> None:
    baked = json.loads((pretrained("bert") / "tokenizer.json").read_text("utf-8"))
    assert baked["truncation"]["max_length"] == 8
    assert capacity(pretrained("bert")) == 64


def test_a_config_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match=r"config\.json") as caught:
        capacity(tmp_path)
    assert caught.value.code == "model.json"


@pytest.mark.parametrize("content", [None, "", "{}", "[]"])
def test_a_tokenizer_file_that_cannot_be_read_is_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, "utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json") as caught:
        load_tokenizer(tmp_path / "tokenizer.json")
    assert caught.value.code == "model.tokenizer"


# --- special tokens and ids ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "prefix", "suffix"),
    [
        ("wordpiece", ["[CLS]"], ["[SEP]"]),
        ("bytes", ["<s>"], ["</s>"]),
        ("bytes-trimmed", ["<s>"], ["</s>"]),
        ("unigram", ["<s>"], ["</s>"]),
    ],
)
def test_special_tokens_stand_around_every_window(
    kind: str, prefix: list[str], suffix: list[str]
) -> None:
    tok = tokenizer(kind)
    found = encoder(kind, windowed=True)
    assert [tok.id_to_token(i) for i in found.prefix] == prefix
    assert [tok.id_to_token(i) for i in found.suffix] == suffix
    assert found.content == 10
    (encoded,) = found.encode([Record(" ".join(tiny.SENTENCES))])
    assert len(encoded.windows) > 3
    for window in encoded.windows:
        assert tok.id_to_token(window.ids[0]) == prefix[0]
        assert tok.id_to_token(window.ids[-1]) == suffix[0]


@pytest.mark.parametrize(
    ("template", "prefix", "suffix"),
    [
        ("$A </s>", 0, 1),
        ("<s> $A", 1, 0),
        ("<s> <s> $A </s>", 2, 1),
        ("$A", 0, 0),
    ],
    ids=["behind-only", "before-only", "two-before", "none"],
)
def test_special_tokens_are_counted_on_each_side(template: str, prefix: int, suffix: int) -> None:
    tok = tokenizer("unigram")
    ids = [(token, tok.token_to_id(token)) for token in ("<s>", "</s>")]
    tok.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    found = Encoder(tok, max_length=12)
    assert (len(found.prefix), len(found.suffix)) == (prefix, suffix)
    assert found.content == 12 - prefix - suffix


def test_special_tokens_of_a_tokenizer_that_knows_no_latin_letter() -> None:
    tok = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "東": 2}, unk_token="<none>"))
    tok.normalizer = normalizers.Replace(Regex("[a-z]"), "")
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    found = Encoder(tok, max_length=12)
    assert (found.prefix.tolist(), found.suffix.tolist()) == ([0], [1])


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.one_of(TEXTS, LONG_TEXTS))
def test_ids_are_those_of_transformers_own_tokenizer(kind: str, text: str) -> None:
    reference = transformers_tokenizer(kind)(text, truncation=True, max_length=12)["input_ids"]
    (encoded,) = encoder(kind).encode([Record(text)])
    (window,) = encoded.windows
    assert window.ids.tolist() == reference
    whole = transformers_tokenizer(kind)(text)["input_ids"]
    assert encoded.truncated == (len(whole) > 12)


@functools.cache
def transformers_tokenizer(kind: str) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bare(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_word", [False, True], ids=["whole", "per-word"])
def test_truncation_and_padding_baked_into_the_file_do_not_matter(
    kind: str, per_word: bool
) -> None:
    short, long = "the parcel", " ".join(tiny.SENTENCES[:4])
    found = Encoder(tokenizer(kind), max_length=200, per_word=per_word)
    for text, encoded in zip(
        (short, long), found.encode([Record(short), Record(long)]), strict=True
    ):
        assert encoded.windows[0].ids[1:-1].tolist() == tokens(kind, text)[0]
    assert len(tokens(kind, long)[0]) > 8


def test_without_answers_per_word_windows_hold_no_words() -> None:
    (encoded,) = encoder("wordpiece").encode([Record("where is my parcel")])
    (window,) = encoded.windows
    assert encoded.words == 0
    assert window.words.size == window.places.size == window.owned.size == 0
    assert window.boxes is None
    assert len(window) == len(window.ids) == 4 + 2


def test_records_are_encoded_in_their_order() -> None:
    texts = [sentence * n for n, sentence in enumerate(tiny.SENTENCES, 1)]
    together = encoder("bytes").encode([Record(text) for text in texts])
    alone = [encoder("bytes").encode([Record(text)])[0] for text in texts]
    assert [e.windows[0].key for e in together] == [e.windows[0].key for e in alone]
    assert len({e.windows[0].key for e in alone}) == len(texts)


def test_no_records_are_no_windows() -> None:
    assert encoder("wordpiece").encode([]) == []


@pytest.mark.parametrize(
    ("max_length", "stride", "content"),
    [(12, 10, 10), (12, 11, 10), (2, None, 0), (1, 0, -1)],
)
def test_a_stride_that_leaves_nothing_new_in_a_window_is_refused(
    max_length: int, stride: int | None, content: int
) -> None:
    with pytest.raises(ModelError, match=f"below {content}") as caught:
        Encoder(tokenizer("bytes"), max_length=max_length, stride=stride)
    assert caught.value.code == "model.stride"


def test_the_default_stride_is_a_quarter_of_a_window() -> None:
    assert encoder("bytes", 64).stride == 62 // 4
    assert encoder("bytes", 3).stride == 0
    assert encoder("bytes", 64, stride=0).stride == 0


# --- words --------------------------------------------------------------------------------------


def check_alignment(kind: str, record: Record, encoded: Encoded) -> None:
    """Each word's answer comes from one place, where the first token of that word stands."""
    ids, offsets = tokens(kind, record.text)
    first, _ = plain_first_tokens(record.spans, offsets)
    assert encoded.words == len(record.words) == len(first)
    assert not encoded.truncated
    owners = [0] * encoded.words
    for window in encoded.windows:
        assert window.words.shape == window.places.shape == window.owned.shape
        for word, place, owned in zip(window.words, window.places, window.owned, strict=True):
            assert window.ids[place] == ids[first[word]]
            owners[word] += owned
    assert owners == [int(token >= 0) for token in first]


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.one_of(TEXTS, LONG_TEXTS))
def test_every_word_of_any_text_is_owned_by_the_window_of_its_first_token(
    kind: str, text: str
) -> None:
    record = Record(text)
    check_alignment(kind, record, encoder(kind, per_word=True).encode([record])[0])


@pytest.mark.parametrize("kind", KINDS)
@given(words=WORD_LISTS)
def test_every_given_word_is_owned_by_the_window_of_its_first_token(
    kind: str, words: list[str]
) -> None:
    record = Record(" ".join(words), given=tuple(words))
    assume(record.text)
    check_alignment(kind, record, encoder(kind, per_word=True).encode([record])[0])


@pytest.mark.parametrize("kind", KINDS)
@given(text=LONG_TEXTS)
def test_the_windows_of_a_text_are_its_tokens_cut_at_the_spans(kind: str, text: str) -> None:
    found = encoder(kind, per_word=True)
    ids, _ = tokens(kind, text)
    (encoded,) = found.encode([Record(text)])
    spans = window_spans(len(ids), found.content, found.stride)
    assert [window.ids[1:-1].tolist() for window in encoded.windows] == [
        ids[start:end] for start, end in spans
    ]


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "unigram"])
def test_a_long_text_of_plain_words_has_each_word_owned_once(kind: str) -> None:
    words = [word for _ in range(20) for sentence in tiny.SENTENCES for word in sentence.split()]
    (encoded,) = encoder(kind, per_word=True).encode([Record(" ".join(words))])
    owned = np.concatenate([window.words[window.owned] for window in encoded.windows])
    assert sorted(owned.tolist()) == list(range(len(words)))


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "unigram"])
def test_the_first_token_of_a_word_is_where_its_letters_begin(kind: str) -> None:
    words = ["refund", "the", "invoice", "twice"]
    ids, offsets = tokens(kind, " ".join(words))
    (encoded,) = encoder(kind, 64, per_word=True).encode([Record(" ".join(words))])
    (window,) = encoded.windows
    assert window.words.tolist() == [0, 1, 2, 3]
    assert window.owned.all()
    begins = [" ".join(words)[slice(*offsets[place - 1])].strip()[:1] for place in window.places]
    assert begins == ["r", "t", "i", "t"]
    assert window.places[0] == 1
    assert len(ids) + 2 == len(window)


def test_a_given_word_may_hold_spaces() -> None:
    record = Record.parse({"words": ["the parcel", "refund the invoice", "staff"]})
    (encoded,) = encoder("wordpiece", 64, per_word=True).encode([record])
    (window,) = encoded.windows
    assert encoded.words == 3
    assert window.words.tolist() == [0, 1, 2]
    tok = tokenizer("wordpiece")
    assert [tok.id_to_token(window.ids[place]) for place in window.places] == [
        "the", "refund", "staff",
    ]  # fmt: skip


def test_a_word_that_the_tokenizer_drops_has_no_place() -> None:
    (encoded,) = encoder("wordpiece", 64, per_word=True).encode([Record("the \u200b parcel")])
    (window,) = encoded.windows
    assert encoded.words == 3
    assert window.words.tolist() == [0, 2]


def test_a_text_of_which_the_tokenizer_leaves_nothing_is_one_window_of_special_tokens() -> None:
    (encoded,) = encoder("wordpiece", per_word=True).encode([Record("\u0301 \u0301")])
    (window,) = encoded.windows
    assert encoded.words == 2
    assert window.ids.tolist() == [2, 3]
    assert window.words.size == 0


@pytest.mark.parametrize(
    ("spans", "offsets", "first", "owner"),
    [
        ([(0, 3), (4, 7)], [(0, 3), (4, 7)], [0, 1], [0, 1]),
        ([(0, 3), (4, 7)], [(0, 3), (3, 7)], [0, 1], [0, 1]),
        ([(0, 3), (4, 7)], [(0, 2), (2, 3), (4, 5), (5, 7)], [0, 2], [0, 0, 1, 1]),
        ([(0, 3), (4, 7)], [(0, 7)], [0, 0], [0]),
        ([(0, 1), (2, 3), (4, 5), (6, 7)], [(0, 1), (1, 5), (5, 7)], [0, 1, 1, 2], [0, 1, 3]),
        ([(0, 3), (4, 5), (6, 7)], [(0, 3), (6, 7)], [0, -1, 1], [0, 2]),
        ([(0, 3), (5, 7)], [(0, 3), (3, 4), (4, 5), (5, 7)], [0, 3], [0, -1, -1, 1]),
        ([(0, 3)], [(0, 0), (0, 3), (3, 3)], [1], [-1, 0, -1]),
        ([(0, 2)], [(0, 1), (0, 1), (0, 2), (1, 2)], [0], [0, 0, 0, 0]),
        ([(0, 1), (2, 2), (3, 5)], [(0, 1), (1, 5)], [0, -1, 1], [0, 2]),
        ([], [(0, 3)], [], [-1]),
        ([(0, 3)], [], [-1], []),
    ],
    ids=[
        "a-token-a-word", "blank-in-the-token", "pieces", "one-token-for-all", "across-words",
        "dropped-word", "tokens-between", "empty-tokens", "bytes-of-a-character", "empty-word",
        "no-words", "no-tokens",
    ],
)  # fmt: skip
def test_first_tokens_of_known_cases(
    spans: list[tuple[int, int]],
    offsets: list[tuple[int, int]],
    first: list[int],
    owner: list[int],
) -> None:
    found = first_tokens(
        np.array(spans, np.int64).reshape(-1, 2), np.array(offsets, np.int64).reshape(-1, 2)
    )
    assert [part.tolist() for part in found] == [first, owner]


@st.composite
def alignments(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Words as a text has them, and tokens that go through the text, with gaps and overlaps."""
    spans, place = [], 0
    for length, gap in draw(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), max_size=12)):
        spans.append((place, place + length))
        place += length + gap
    offsets, start, end = [], 0, 0
    steps = st.tuples(st.integers(0, 4), st.integers(0, 9))
    for advance, length in draw(st.lists(steps, max_size=25)):
        start = min(start + advance, place)
        end = min(max(end, start + length), place)
        offsets.append((start, end))
    return spans, offsets


@given(alignments())
def test_first_tokens_are_those_of_a_comparison_of_all_pairs(
    case: tuple[list[tuple[int, int]], list[tuple[int, int]]],
) -> None:
    spans, offsets = case
    first, owner = first_tokens(
        np.array(spans, np.int64).reshape(-1, 2), np.array(offsets, np.int64).reshape(-1, 2)
    )
    assert (first.tolist(), owner.tolist()) == plain_first_tokens(spans, offsets)


# --- windows ------------------------------------------------------------------------------------


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int]:
    """A number of tokens, the content of a window and a stride."""
    content = draw(st.integers(1, 40))
    return draw(st.integers(0, 300)), content, draw(st.integers(0, content - 1))


@pytest.mark.parametrize(
    ("count", "content", "stride", "expected"),
    [
        (0, 10, 2, [(0, 0)]),
        (10, 10, 2, [(0, 10)]),
        (11, 10, 2, [(0, 7), (4, 11)]),
        (18, 10, 2, [(0, 10), (8, 18)]),
        (19, 10, 2, [(0, 8), (6, 14), (11, 19)]),
        (4, 2, 1, [(0, 2), (1, 3), (2, 4)]),
        (6, 2, 0, [(0, 2), (2, 4), (4, 6)]),
    ],
)
def test_window_spans_of_known_cases(
    count: int, content: int, stride: int, expected: list[tuple[int, int]]
) -> None:
    assert window_spans(count, content, stride) == expected


@given(cuts())
def test_windows_cover_all_tokens_in_order(case: tuple[int, int, int]) -> None:
    count, content, stride = case
    spans = window_spans(count, content, stride)
    assert spans[0][0] == 0
    assert spans[-1][1] == count
    for (start, end), (next_start, next_end) in itertools.pairwise(spans):
        assert start < next_start <= end < next_end


@given(cuts())
def test_windows_are_of_one_length_that_fits(case: tuple[int, int, int]) -> None:
    count, content, stride = case
    lengths = {end - start for start, end in window_spans(count, content, stride)}
    assert len(lengths) == 1
    assert lengths.pop() <= content


@given(cuts())
def test_neighbouring_windows_share_the_stride(case: tuple[int, int, int]) -> None:
    count, content, stride = case
    spans = window_spans(count, content, stride)
    assert all(before[1] - after[0] >= stride for before, after in itertools.pairwise(spans))


@given(cuts())
def test_windows_are_as_few_as_can_be(case: tuple[int, int, int]) -> None:
    count, content, stride = case
    number = len(window_spans(count, content, stride))
    fewer = number - 1
    assert fewer == 0 or fewer * content - (fewer - 1) * stride < count


def plain_owner(token: int, spans: Sequence[tuple[int, int]], count: int) -> int:
    """The window with most context on the poorer side of ``token``, the first where several."""

    def context(span: tuple[int, int]) -> float:
        left = float("inf") if span[0] == 0 else token - span[0]
        right = float("inf") if span[1] == count else span[1] - 1 - token
        return min(left, right)

    holding = [n for n, (start, end) in enumerate(spans) if start <= token < end]
    return max(holding, key=lambda n: context(spans[n]))


@given(cuts())
def test_each_token_is_owned_by_the_window_with_most_context(case: tuple[int, int, int]) -> None:
    count, content, stride = case
    spans = window_spans(count, content, stride)
    owners = owning_windows(np.arange(count), spans).tolist()
    assert owners == [plain_owner(token, spans, count) for token in range(count)]


def test_a_text_of_many_words_and_windows_takes_little_memory() -> None:
    count = 300_000
    first = np.arange(count) - (np.arange(count) % 7 == 3)  # some words share a token
    spans = window_spans(count, 62, 15)
    assert len(spans) > 6000
    tracemalloc.start()
    owners = owning_windows(first, spans)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * count
    for word in range(0, count, 20_011):
        assert owners[word] == plain_owner(int(first[word]), spans, count)


def test_the_middle_of_a_shared_stretch_is_where_windows_part() -> None:
    owners = owning_windows(np.arange(18), [(0, 10), (8, 18)]).tolist()
    assert owners == [0] * 9 + [1] * 9
    owners = owning_windows(np.arange(20), [(0, 14), (6, 20)]).tolist()
    assert owners == [0] * 10 + [1] * 10


# --- boxes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "last"),
    [("layoutlm", 1000), ("layoutlmv2", 1000), ("lilt", 0), ("layoutlmv3", 0), ("bert", 0)],
)
def test_special_tokens_have_the_boxes_of_their_family(model_type: str, last: int) -> None:
    record = Record.parse(
        {"words": ["parcel", "refund"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}, use_bbox=True
    )
    found = Encoder(tokenizer("wordpiece"), model_type=model_type, max_length=64, use_bbox=True)
    (window,) = found.encode([record])[0].windows
    assert window.boxes is not None
    assert window.boxes.tolist() == [
        [0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8], [last, last, last, last],
    ]  # fmt: skip


def test_every_window_has_the_special_boxes() -> None:
    words = " ".join(tiny.SENTENCES).split()
    record = Record.parse({"words": words, "bbox": [[1, 2, 3, 4]] * len(words)}, use_bbox=True)
    found = encoder("wordpiece", model_type="layoutlm", use_bbox=True, windowed=True)
    (encoded,) = found.encode([record])
    assert len(encoded.windows) > 3
    for window in encoded.windows:
        assert window.boxes is not None
        assert window.boxes.shape == (len(window), 4)
        assert window.boxes[0].tolist() == [0] * 4
        assert window.boxes[-1].tolist() == [1000] * 4
        assert (window.boxes[1:-1] == [1, 2, 3, 4]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_word", [False, True], ids=["whole", "per-word"])
@given(words=WORD_LISTS)
def test_boxes_follow_words_to_their_tokens(kind: str, per_word: bool, words: list[str]) -> None:
    text = " ".join(words)
    assume(text)
    boxes = np.array([[i, i, i + 1, i + 1] for i in range(1, len(words) + 1)], np.int64)
    record = Record(text, given=tuple(words), bbox=boxes)
    _, offsets = tokens(kind, text)
    _, owner = plain_first_tokens(record.spans, offsets)
    expected = [boxes[word].tolist() if word >= 0 else [0] * 4 for word in owner]
    found = encoder(kind, 10_000, use_bbox=True, per_word=per_word)
    (window,) = found.encode([record])[0].windows
    assert window.boxes is not None
    assert window.boxes[1:-1].tolist() == expected


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "unigram"])
def test_all_tokens_of_a_word_with_spaces_have_its_box(kind: str) -> None:
    boxes = [[10, 10, 20, 20], [30, 30, 40, 40]]
    record = Record.parse({"words": ["refund the invoice", "staff"], "bbox": boxes}, use_bbox=True)
    (encoded,) = encoder(kind, 64, use_bbox=True, per_word=True).encode([record])
    (window,) = encoded.windows
    assert window.boxes is not None
    content = window.boxes[1:-1].tolist()
    second = int(window.places[1]) - 1
    assert second >= 3
    assert content == [boxes[0]] * second + [boxes[1]] * (len(content) - second)


def test_a_record_without_boxes_is_refused_where_the_model_wants_them() -> None:
    with pytest.raises(RecordError, match="four numbers a word") as caught:
        encoder("wordpiece", use_bbox=True).encode([Record("the parcel")])
    assert caught.value.code == "record.bbox_missing"
    assert caught.value.place == {"field": "bbox"}


# --- keys ---------------------------------------------------------------------------------------


def test_windows_of_the_same_words_have_the_same_key() -> None:
    found = encoder("wordpiece", 64, per_word=True)
    one, other = found.encode([Record("the parcel"), Record("the   parcel")])
    assert one.windows[0].key == other.windows[0].key


def test_windows_that_differ_in_words_alone_have_other_keys() -> None:
    records = [Record.parse({"words": words}) for words in (["the", "parcel"], ["the parcel"])]
    one, other = (e.windows[0] for e in encoder("wordpiece", 64, per_word=True).encode(records))
    assert one.ids.tolist() == other.ids.tolist()
    assert one.key != other.key


def test_windows_that_differ_in_ids_or_boxes_have_other_keys() -> None:
    found = encoder("wordpiece", 64, per_word=True, use_bbox=True)
    raw = [
        {"words": ["the", "parcel"], "bbox": "1 1 2 2 3 3 4 4"},
        {"words": ["the", "invoice"], "bbox": "1 1 2 2 3 3 4 4"},
        {"words": ["the", "parcel"], "bbox": "1 1 2 2 3 3 4 5"},
    ]
    records = [Record.parse(record, use_bbox=True) for record in raw]
    assert len({encoded.windows[0].key for encoded in found.encode(records)}) == 3
