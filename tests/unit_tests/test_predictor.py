"""Records in, answers out: the same answer for the same record, whatever stands beside it."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from conftest import Loaded, PretrainedFolder, Trained
from hypothesis import given
from hypothesis import strategies as st

import tfserve
from tfserve import artifact, engines
from tfserve.batching import Batch
from tfserve.codecs import Request
from tfserve.encoding import Encoder, Window
from tfserve.engines import Engine
from tfserve.errors import ParameterError, RecordError, TooLargeError
from tfserve.predictor import Predictor, golden_distance
from tfserve.records import Record
from tfserve.strict_json import dumps
from tfserve.tasks.classif import Classif
from tfserve.tasks.ner import Ner

TASKS = ("classif", "multilabel-classif", "ner", "regression")
TEXTS = [
    *tiny.SENTENCES,
    "refund",
    "staff " * 30,
    "where is my parcel " * 5,
    "naïve café 👍🏽 東京",
    "never again cold food rude staff",
]
BOX = [10, 20, 30, 40]
LONG = "the parcel never arrived please refund the invoice " * 20


def record(text: str, boxed: bool = False) -> dict[str, Any]:
    """A record whose words all have one box."""
    return {"text": text, "bbox": [BOX] * len(text.split())} if boxed else {"text": text}


def records(family: str, texts: list[str] = TEXTS) -> list[dict[str, Any]]:
    return [record(text, family in tiny.BOXED) for text in texts]


def numbers(answer: Any) -> list[float]:
    """All numbers of an answer, in order."""
    if isinstance(answer, dict):
        return [n for key in sorted(answer) for n in numbers(answer[key])]
    if isinstance(answer, list):
        return [n for item in answer for n in numbers(item)]
    return [answer] if isinstance(answer, float) else []


def assert_alike(one: list[dict[str, Any]], other: list[dict[str, Any]], atol: float) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(numbers(a), numbers(b), atol=atol)


@dataclass
class Counting:
    """An engine that notes what another one runs."""

    engine: Engine
    lanes: int = 1
    budget: int = 512
    precision: str = "fp32"
    name: str = "counting"
    batches: list[Batch] = field(default_factory=list)
    alone: list[bool] = field(default_factory=list)

    def rounded(self, length: int) -> int:
        return length

    def run(self, batch: Batch, *, alone: bool = True) -> Any:
        self.batches.append(batch)
        self.alone.append(alone)
        return self.engine.run(batch, alone=alone)

    @property
    def rows(self) -> int:
        return sum(len(batch.input_ids) for batch in self.batches)


class Hashing:
    """An engine without a model: a token's logits follow from its id and its place alone."""

    name, lanes, budget, precision = "hashing", 2, 64, "fp32"

    def __init__(self, labels: int, per_word: bool) -> None:
        self.labels, self.per_word = labels, per_word

    def rounded(self, length: int) -> int:
        return length

    def run(self, batch: Batch, *, alone: bool = True) -> Any:
        ids = batch.input_ids * batch.attention_mask
        places = np.arange(ids.shape[1])
        tokens = np.stack([np.sin(ids * (k + 1) + places) for k in range(self.labels)], -1)
        tokens *= batch.attention_mask[..., None]
        logits = tokens if self.per_word else tokens.sum(1)
        return logits.astype(np.float32)


def counting(predictor: Predictor, **options: Any) -> tuple[Predictor, Counting]:
    engine = Counting(predictor.engine, **options)
    return Predictor(predictor.task, predictor.encoder, engine), engine


def hashing(predictor: Predictor) -> Predictor:
    """The same task and encoder with an engine that costs nothing."""
    engine = Hashing(len(predictor.task.labels), predictor.task.per_word)
    return Predictor(predictor.task, predictor.encoder, engine)


# --- the right answers --------------------------------------------------------------------------


def plain_logits(folder: Path, task: str, text: str) -> Any:
    """Of a text, or of each of its words, through transformers and nothing else."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    model = getattr(transformers, config["architectures"][0]).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(
        text, truncation=True, max_length=64, return_offsets_mapping=True, return_tensors="pt"
    )
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    if config["model_type"] in tiny.BOXED:
        boxes = torch.tensor([BOX] * inputs["input_ids"].shape[1])
        boxes[0], boxes[-1] = 0, 1000 if config["model_type"] == "layoutlm" else 0
        inputs["bbox"] = boxes[None]
    with torch.inference_mode():
        logits = model(**inputs).logits[0].numpy()
    if task != "ner":
        return logits
    rows, place = [], 0
    for word in text.split():
        start = text.index(word, place)
        place = start + len(word)
        rows.append(
            next(
                row
                for row, (a, b) in zip(logits, encoded["offset_mapping"][0].tolist(), strict=True)
                if max(a, start) < min(b, place)
            )
        )
    return np.stack(rows)


def softmax(logits: Any) -> Any:
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def probable(task: Any, logits: Any) -> Any:
    """Probabilities by the temperatures of ``tfserve.json``."""
    if task.name == "multilabel-classif":
        return 1 / (1 + np.exp(-logits.astype(np.float64) / np.array(task.temperatures)))
    if task.name == "ner":
        heat = np.array([task.temperatures[best] for best in logits.argmax(-1)])
        return softmax(logits / heat[:, None])
    return softmax(logits / task.temperature)


def check_answer(task: Any, logits: Any, answer: dict[str, Any]) -> None:
    """``answer`` is what the logits of plain transformers mean."""
    if task.name == "classif":
        probabilities = probable(task, logits)
        assert answer["pred"] == task.labels[int(probabilities.argmax())]
        assert answer["proba"] == pytest.approx(probabilities.max(), abs=1e-4)
        assert answer.keys() == {"pred", "proba"}
    elif task.name == "multilabel-classif":
        rows = zip(probable(task, logits), task.labels, task.thresholds, strict=True)
        expected = sorted(((p, label) for p, label, least in rows if p >= least), reverse=True)
        assert answer["pred"] == [label for _, label in expected]
        assert answer["proba"] == pytest.approx([p for p, _ in expected], abs=1e-4)
        assert answer.keys() == {"pred", "proba"}
    elif task.name == "ner":
        probabilities = probable(task, logits)
        assert answer["proba"] == pytest.approx(probabilities.max(-1).tolist(), abs=1e-4)
        kinds = [task.labels[i].removeprefix("B-").removeprefix("I-") for i in logits.argmax(-1)]
        assert [tag.removeprefix("B-").removeprefix("I-") for tag in answer["pred"]] == kinds
        assert answer.keys() == {"pred", "proba", "entities"}
    else:
        assert answer["pred"] == pytest.approx(logits[0] * task.std + task.mean, rel=1e-4)
        assert answer.keys() == {"pred"}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_answers_every_task_as_plain_transformers_would(
    family: str, task: str, trained: Trained, loaded: Loaded
) -> None:
    texts = [*tiny.SENTENCES[:3], "refund"]
    predictor = loaded(task, family)
    answers = predictor.predict(records(family, texts))
    assert len(answers) == len(texts)
    for text, answer in zip(texts, answers, strict=True):
        check_answer(predictor.task, plain_logits(trained(task, family), task, text), answer)


@pytest.mark.parametrize("family", ["bert", "layoutlm"])
@pytest.mark.parametrize("task", ["classif", "multilabel-classif"])
def test_probabilities_are_those_of_the_text_classification_pipeline(
    task: str, family: str, trained: Trained
) -> None:
    """But for the temperatures."""
    folder = trained(task, family, boxed=False)
    pipeline = transformers.pipeline(
        "text-classification",
        model=str(folder),
        tokenizer=str(folder),
        top_k=None,
        function_to_apply="none",
        device="cpu",
    )
    logits = [
        {row["label"]: row["score"] for row in rows}
        for rows in pipeline(TEXTS, truncation=True, max_length=64)
    ]
    predictor = tfserve.load(folder, precision="fp32")
    labels = predictor.task.labels
    answers = predictor.predict(TEXTS, {"scores": True})
    for answer, row in zip(answers, logits, strict=True):
        means = probable(predictor.task, np.array([row[label] for label in labels]))
        scores = dict(zip(labels, means.tolist(), strict=True))
        assert answer["scores"] == pytest.approx(scores, abs=1e-4)
        assert list(answer["scores"]) == sorted(scores, key=lambda label: -scores[label])
        if task == "classif":
            assert answer["pred"] == max(scores, key=scores.__getitem__)
        else:
            least = dict(zip(labels, predictor.task.thresholds, strict=True))
            given = [label for label, p in answer["scores"].items() if p >= least[label]]
            assert answer["pred"] == given
    assert len({dumps(answer) for answer in answers}) == len(TEXTS)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("task", ["classif", "ner"])
def test_answers_do_not_depend_on_the_texts_beside(task: str, family: str, loaded: Loaded) -> None:
    predictor = loaded(task, family)
    together = predictor.predict(records(family), {"scores": True})
    alone = [predictor.predict([raw], {"scores": True})[0] for raw in records(family)]
    assert_alike(together, alone, 1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_answers_in_bf16_are_close_to_those_in_fp32(
    task: str, trained: Trained, loaded: Loaded
) -> None:
    coarse = tfserve.load(trained(task), precision="bf16")
    assert coarse.engine.precision == "bf16"
    fine = loaded(task)
    parameters = fine.task.all_scores
    for one, other in zip(
        coarse.predict(TEXTS, parameters), fine.predict(TEXTS, parameters), strict=True
    ):
        assert fine.task.distance(one, other) < 0.05


# --- order, duplicates, batches -----------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_answers_come_in_the_order_of_the_records(task: str, loaded: Loaded) -> None:
    predictor = hashing(loaded(task))
    alone = {text: predictor.predict([text])[0] for text in TEXTS}
    assert len({dumps(answer) for answer in alone.values()}) == len(TEXTS)
    shuffled = TEXTS * 3
    random.Random(5).shuffle(shuffled)
    assert predictor.predict(shuffled) == [alone[text] for text in shuffled]


@given(st.lists(st.integers(0, 120), max_size=40))
def test_any_lengths_come_back_in_order(lengths: list[int]) -> None:
    predictor = words_predictor()
    texts = [f"{i} " + "parcel " * length for i, length in enumerate(lengths)]
    answers = predictor.predict(texts, {"scores": True})
    assert [len(answer["pred"]) for answer in answers] == [length + 1 for length in lengths]
    assert answers == [predictor.predict(text, {"scores": True})[0] for text in texts]


def words_predictor(**options: Any) -> Predictor:
    """Tags words without a model; windows of 12 tokens."""
    tokenizer = tiny.tokenizer("wordpiece")
    encoder = Encoder(tokenizer, max_length=12, per_word=True, **options)
    return Predictor(Ner(("O", "B-X", "I-X")), encoder, Hashing(3, True))


@pytest.mark.parametrize("task", TASKS)
def test_equal_records_are_computed_once(task: str, loaded: Loaded) -> None:
    predictor, engine = counting(loaded(task))
    texts = ["where is my parcel", "refund", "where is my parcel", "refund", "refund"]
    # All scores, for a model of a few steps may give every text the same label, or none.
    asked = {} if task == "regression" else {"scores": True}
    answers = predictor.predict([{"text": text, "id": i} for i, text in enumerate(texts)], asked)
    assert engine.rows == 2
    assert [answer.pop("id") for answer in answers] == [0, 1, 2, 3, 4]
    assert answers[0] == answers[2] != answers[1] == answers[3] == answers[4]


def test_equal_words_in_other_places_of_the_string_keep_their_own_offsets(loaded: Loaded) -> None:
    predictor, engine = counting(loaded("ner"))
    close, wide = predictor.predict(["parcel refund", "  parcel \t refund"], {"scores": True})
    assert engine.rows == 1
    assert close["scores"] == wide["scores"]
    for answer, text in ((close, "parcel refund"), (wide, "  parcel \t refund")):
        for entity in answer["entities"]:
            assert text[entity["start"] : entity["end"]] == entity["text"]


def test_equal_texts_cut_into_other_words_keep_their_own_tags(loaded: Loaded) -> None:
    raw = [{"words": ["the", "parcel", "staff"]}, {"words": ["the parcel", "staff"]}]
    predictor = hashing(loaded("ner"))
    apart, joined = predictor.predict(raw, {"scores": True})
    assert [len(apart["pred"]), len(joined["pred"])] == [3, 2]
    assert joined["scores"] == [apart["scores"][0], apart["scores"][2]]


def test_equal_words_with_other_boxes_are_computed_apart(loaded: Loaded) -> None:
    predictor, engine = counting(loaded("classif", "layoutlm"))
    raw = [{"text": "refund", "bbox": [box]} for box in (BOX, BOX, [500, 600, 700, 800])]
    one, same, other = predictor.predict(raw)
    assert engine.rows == 2
    assert one == same != other


def test_batches_keep_the_budget_and_pad_little(loaded: Loaded) -> None:
    predictor, engine = counting(loaded("classif", "roberta"), budget=64)
    predictor.predict([f"{i}{' parcel' * (i % 40)}" for i in range(100)])
    assert engine.rows == 100
    for batch in engine.batches:
        assert batch.input_ids.size <= 64 or len(batch.input_ids) == 1
    useful = sum(int(batch.attention_mask.sum()) for batch in engine.batches)
    assert useful > 0.9 * sum(batch.attention_mask.size for batch in engine.batches)


@pytest.mark.parametrize(
    ("lanes", "texts", "alone"),
    [(2, 40, False), (2, 1, True), (1, 40, True)],
    ids=["many-batches", "one-batch", "one-lane"],
)
def test_a_batch_is_alone_unless_lanes_run_several(
    lanes: int, texts: int, alone: bool, loaded: Loaded
) -> None:
    predictor, engine = counting(loaded("classif"), lanes=lanes, budget=32)
    predictor.predict([f"refund {i}" for i in range(texts)])
    assert set(engine.alone) == {alone}
    assert (len(engine.batches) > 1) == (texts > 1)


@pytest.mark.parametrize("task", ["classif", "ner"])
def test_lanes_give_the_answers_of_one_lane(task: str, loaded: Loaded) -> None:
    several, _ = counting(loaded(task), lanes=3, budget=32)
    single, _ = counting(loaded(task), lanes=1, budget=32)
    assert_alike(
        several.predict(TEXTS, {"scores": True}), single.predict(TEXTS, {"scores": True}), 1e-5
    )


def test_an_engine_s_failure_in_a_lane_is_not_swallowed(loaded: Loaded) -> None:
    class Failing(Hashing):
        def run(self, batch: Batch, *, alone: bool = True) -> Any:
            raise MemoryError("no room")

    predictor = Predictor(loaded("classif").task, loaded("classif").encoder, Failing(4, False))
    with pytest.raises(MemoryError, match="no room"):
        predictor.predict([f"refund {i}" for i in range(99)])
    with pytest.raises(MemoryError, match="no room"):
        list(predictor.stream(["refund"]))


def test_threads_that_share_a_predictor_get_their_own_answers(loaded: Loaded) -> None:
    predictor = loaded("classif")
    alone = [predictor.predict([text], {"scores": True}) for text in TEXTS]
    with ThreadPoolExecutor(6) as threads:
        shared = list(
            threads.map(lambda text: predictor.predict([text], {"scores": True}), TEXTS * 3)
        )
    for one, other in zip(alone * 3, shared, strict=True):
        assert_alike(one, other, 1e-5)


# --- what goes in and what comes with it --------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        "refund",
        {"text": "refund"},
        {"words": ["refund"]},
        Record("refund"),
        ["refund"],
        ({"text": "refund"},),
        iter(["refund"]),
    ],
    ids=["string", "object", "words", "record", "list", "tuple", "iterator"],
)
def test_one_record_may_be_given_in_any_form(given: Any, loaded: Loaded) -> None:
    predictor = hashing(loaded("classif"))
    assert predictor.predict(given) == predictor.predict([{"text": "refund"}])
    assert len(predictor.predict("refund")) == 1


def test_no_records_have_no_answers(loaded: Loaded) -> None:
    assert loaded("classif").predict([]) == []
    assert list(loaded("classif").stream([])) == []


def test_other_keys_come_back_behind_the_answer_and_never_over_it(loaded: Loaded) -> None:
    raw = {"id": 7, "text": "refund", "pred": "mine", "nested": {"a": [1, None]}, "naïve": "é"}
    (answer,) = hashing(loaded("classif")).predict([raw])
    (plain,) = hashing(loaded("classif")).predict(["refund"])
    assert list(answer) == ["pred", "proba", "id", "nested", "naïve"]
    assert answer == {**plain, "id": 7, "nested": {"a": [1, None]}, "naïve": "é"}


def test_the_caller_s_records_are_left_as_they_were(loaded: Loaded) -> None:
    raw = [{"text": "refund", "id": 1}, {"words": ["a", "b"], "extra": [1]}]
    before = json.dumps(raw)
    hashing(loaded("ner")).predict(raw, {"scores": True})
    assert json.dumps(raw) == before


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_plain_json(task: str, loaded: Loaded) -> None:
    predictor = loaded(task)
    answers = predictor.predict(TEXTS, predictor.task.all_scores)
    assert json.loads(dumps(answers)) == answers


@pytest.mark.parametrize(
    ("bad", "code", "field_name"),
    [
        (5, "record.type", None),
        (None, "record.type", None),
        ({"id": 3}, "record.field_missing", "text"),
        ({"text": ""}, "record.text_empty", "text"),
        ({"text": ["a"]}, "record.field_type", "text"),
        ({"words": "a b"}, "record.field_type", "words"),
        ({"text": "\ud800 a"}, "record.text_invalid", "text"),
    ],
)
def test_the_first_bad_record_refuses_the_request_with_its_index(
    bad: Any, code: str, field_name: str | None, loaded: Loaded
) -> None:
    predictor, engine = counting(loaded("classif"))
    with pytest.raises(RecordError) as caught:
        predictor.predict(["refund", "parcel", bad, 6])
    assert caught.value.code == code
    assert caught.value.place.get("field") == field_name
    assert caught.value.place["index"] == 2
    assert engine.rows == 0


def test_a_text_that_is_too_long_is_refused_with_its_index(loaded: Loaded) -> None:
    with pytest.raises(TooLargeError) as caught:
        loaded("classif").predict(["refund", "a" * 1_000_001])
    assert (caught.value.code, caught.value.place["index"]) == ("record.too_long", 1)


@pytest.mark.parametrize("task", TASKS)
def test_a_bad_record_may_cost_itself_alone(task: str, loaded: Loaded) -> None:
    predictor = hashing(loaded(task))
    raw = [{"id": 0}, "refund", 5, {"text": "", "id": 3}, "parcel"]
    answers = predictor.predict(raw, {"on_error": "record"})
    assert [answers[1], answers[4]] == predictor.predict(["refund", "parcel"])
    found = [(answers[i]["error"]["code"], answers[i]["error"]["index"]) for i in (0, 2, 3)]
    assert found == [("record.field_missing", 0), ("record.type", 2), ("record.text_empty", 3)]
    assert answers[3]["error"]["message"].startswith("found an empty text")
    assert [answers[0].keys(), answers[2].keys()] == [{"id", "error"}, {"error"}]
    assert (answers[0]["id"], answers[3]["id"]) == (0, 3)


def test_only_bad_records_have_only_errors(loaded: Loaded) -> None:
    answers = loaded("classif").predict([1, 2], {"on_error": "record"})
    assert [answer["error"]["index"] for answer in answers] == [0, 1]


def test_missing_boxes_are_a_bad_record(loaded: Loaded) -> None:
    with pytest.raises(RecordError) as caught:
        loaded("classif", "layoutlm").predict([record("refund", True), "refund"])
    assert caught.value.code == "record.bbox_missing"
    assert caught.value.place == {"field": "bbox", "index": 1}


@pytest.mark.parametrize("by_line", [True, False])
def test_a_request_by_lines_answers_a_bad_line_in_its_place(by_line: bool, loaded: Loaded) -> None:
    predictor = hashing(loaded("classif"))
    line = RecordError("record.not_json", "found no JSON", line=30)  # it knows its own place
    request = Request(["refund", {"id": 1}, line], lines=(1, 2, 3) if by_line else None)
    if not by_line:
        with pytest.raises(RecordError) as caught:
            predictor.answer(request)
        assert caught.value.place == {"field": "text", "index": 1}
        return
    good, bad, worse = predictor.answer(request)
    assert good == predictor.predict("refund")[0]
    assert (bad["error"]["line"], bad["id"]) == (2, 1)
    assert worse == {"error": {"code": "record.not_json", "message": "found no JSON", "line": 30}}


def test_a_request_by_lines_may_ask_to_be_refused_as_a_whole(loaded: Loaded) -> None:
    request = Request(["refund", 5], {"on_error": "raise"}, lines=(1, 2))
    with pytest.raises(RecordError) as caught:
        loaded("classif").answer(request)
    assert caught.value.place == {"line": 2}


@pytest.mark.parametrize(
    ("task", "parameters", "code"),
    [
        ("classif", {"topk": 2}, "parameters.unknown"),
        ("classif", {"threshold": 0.5}, "parameters.value"),  # of four labels
        ("multilabel-classif", {"abstain": 0.5}, "parameters.unknown"),
        ("regression", {"scores": True}, "parameters.unknown"),
        ("classif", {"top_k": 0}, "parameters.value"),
        ("classif", {"top_k": True}, "parameters.value"),
        ("classif", {"scores": 1}, "parameters.value"),
        ("multilabel-classif", {"threshold": 1.5}, "parameters.value"),
        ("multilabel-classif", {"threshold": float("nan")}, "parameters.value"),
        ("ner", {"on_error": "ignore"}, "parameters.value"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(
    task: str, parameters: dict[str, Any], code: str, loaded: Loaded
) -> None:
    with pytest.raises(ParameterError) as caught:
        loaded(task).predict(["refund"], parameters)
    assert caught.value.code == code
    with pytest.raises(ParameterError):
        list(loaded(task).stream(["refund"], parameters))


def test_parameters_change_what_is_answered(loaded: Loaded) -> None:
    (scores,) = (a["scores"] for a in loaded("classif").predict("refund", {"scores": True}))
    (best,) = (a["scores"] for a in loaded("classif").predict("refund", {"top_k": 2}))
    assert len(scores) == 4
    assert list(best.items()) == list(scores.items())[:2]
    multilabel = loaded("multilabel-classif")
    (everything,) = multilabel.predict("refund", {"threshold": 0})
    (nothing,) = multilabel.predict("refund", {"threshold": 1})
    assert sorted(everything["pred"]) == ["angry", "money", "order", "parcel"]
    assert everything["proba"] == sorted(everything["proba"], reverse=True)
    assert nothing == {"pred": [], "proba": []}


# --- long texts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classif", "multilabel-classif", "regression"])
def test_a_text_longer_than_the_model_sees_is_cut_and_says_so(
    task: str, trained: Trained, loaded: Loaded
) -> None:
    predictor = loaded(task)
    fits = "parcel " * 62  # and two special tokens
    answers = predictor.predict([fits, f"{fits}refund", LONG, "refund"])
    assert ["truncated" in answer for answer in answers] == [False, True, True, False]
    cut = answers[1]
    assert cut.pop("truncated") is True
    assert cut == answers[0]
    del answers[2]["truncated"]
    check_answer(predictor.task, plain_logits(trained(task), task, LONG), answers[2])


@pytest.mark.parametrize("task", ["classif", "multilabel-classif", "regression"])
def test_a_long_text_may_be_answered_from_all_its_windows(
    task: str, trained: Trained, loaded: Loaded
) -> None:
    predictor = loaded(task, long_text="window")
    (answer,) = predictor.predict(LONG)
    (encoded,) = predictor.encoder.encode([Record(LONG)])
    assert len(encoded.windows) > 2
    folder = trained(task, long_text="window")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        each = [
            model(input_ids=torch.tensor(window.ids[None])).logits[0].numpy()
            for window in encoded.windows
        ]
    check_answer(predictor.task, np.mean(each, axis=0), answer)
    # Its end counts: without it the answer is another.
    assert np.ptp(each, axis=0).max() > 0.01


def test_windows_do_not_change_the_answer_to_a_short_text(loaded: Loaded) -> None:
    windowed, cut = loaded("classif", long_text="window"), loaded("classif")
    short = Predictor(cut.task, windowed.encoder, cut.engine)
    assert_alike(short.predict(TEXTS[:5]), cut.predict(TEXTS[:5]), 1e-6)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_every_one_of_three_thousand_words_gets_its_tag(family: str, loaded: Loaded) -> None:
    predictor = loaded("ner", family)
    assert predictor.encoder.max_length == 64
    vocabulary = " ".join(tiny.SENTENCES).split()
    words = [random.Random(3).choice(vocabulary) if i % 7 else str(i) for i in range(3000)]
    (answer,) = predictor.predict(" ".join(words), {"scores": True})
    assert len(answer["pred"]) == len(answer["proba"]) == len(answer["scores"]) == 3000
    assert min(answer["proba"]) > 1 / 4  # the best of three labels, and no word without a token
    assert "truncated" not in answer


def test_each_word_is_answered_from_the_window_where_it_has_most_context(loaded: Loaded) -> None:
    predictor = loaded("ner")
    words = [f"{word}" for word in LONG.split()]
    (answer,) = predictor.predict({"words": words}, {"scores": True})
    (encoded,) = predictor.encoder.encode([Record.parse({"words": words})])
    starts, found = [0], {}
    for before, after in itertools.pairwise(encoded.windows):
        starts.append(starts[-1] + int(after.words[0]) - int(before.words[0]))
    for window in encoded.windows:
        logits = run_alone(predictor, window)
        for word, place in zip(window.words.tolist(), window.places.tolist(), strict=True):
            left = np.inf if window is encoded.windows[0] else place - 1
            right = np.inf if window is encoded.windows[-1] else len(window) - 2 - place
            context = min(left, right)
            if word not in found or context > found[word][0]:
                found[word] = (context, probable(predictor.task, logits[[place]])[0])
    assert sorted(found) == list(range(len(words)))
    labels = predictor.task.labels
    for word, scores in enumerate(answer["scores"]):
        expected = dict(zip(labels, found[word][1], strict=True))
        assert scores == pytest.approx(expected, abs=1e-5)


def run_alone(predictor: Predictor, window: Window) -> Any:
    ids = window.ids[None]
    return predictor.engine.run(Batch(ids, np.ones_like(ids)))[0]


def test_a_long_page_with_boxes_gets_a_tag_a_word(loaded: Loaded) -> None:
    words = LONG.split()
    boxes = [[i % 900, i % 800, i % 900 + 50, i % 800 + 20] for i in range(len(words))]
    for family in tiny.BOXED:
        (answer,) = loaded("ner", family).predict({"words": words, "bbox": boxes})
        assert len(answer["pred"]) == len(words)


# --- words and entities -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        {"text": "  the parcel,\n 12 invoices\t\tand  STAFF of naïve 東京 café  "},
        {"text": "parcel"},
        {"text": " ".join(tiny.SENTENCES)},
        {"words": ["the parcel", "", "invoice", "\u200b", "new york staff", "lemons"]},
    ],
    ids=["odd-blanks", "one-word", "several-windows", "given-words"],
)
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_entities_are_cut_from_the_caller_s_own_string(
    raw: dict[str, Any], family: str, loaded: Loaded
) -> None:
    text = raw.get("text") or " ".join(raw["words"])
    words = raw.get("words") or text.split()
    predictor = hashing(loaded("ner", family))
    (answer,) = predictor.predict(raw)
    assert len(answer["pred"]) == len(words)
    begun = [i for i, tag in enumerate(answer["pred"]) if tag.startswith("B-")]
    assert len(answer["entities"]) == len(begun)
    assert begun or len(words) == 1
    place, starts, ends = 0, [], []
    for word in words:
        starts.append(text.index(word, place))
        place = starts[-1] + len(word)
        ends.append(place)
        place += "words" in raw
    for first, entity in zip(begun, answer["entities"], strict=True):
        last = first
        while answer["pred"][last + 1 : last + 2] == ["I-THING"]:
            last += 1
        assert (entity["start"], entity["end"]) == (starts[first], ends[last])
        assert entity["text"] == text[entity["start"] : entity["end"]]
        assert entity["label"] == "THING"
        assert entity["proba"] == pytest.approx(
            np.mean(answer["proba"][first : last + 1]), abs=1e-5
        )


@pytest.mark.parametrize("dropped", ["\u200b", "\u0301", "\u00ad\u200d"])
def test_a_word_of_which_the_tokenizer_leaves_nothing_is_outside(
    dropped: str, loaded: Loaded
) -> None:
    predictor = loaded("ner")
    words = ["parcel", dropped, "invoice", dropped]
    (answer,) = predictor.predict({"words": words})
    assert len(answer["pred"]) == 4
    assert [answer["pred"][1], answer["pred"][3]] == ["O", "O"]
    assert [answer["proba"][1], answer["proba"][3]] == [0, 0]
    (plain,) = predictor.predict("parcel invoice")
    assert [answer["proba"][0], answer["proba"][2]] == plain["proba"]


def test_a_text_of_which_the_tokenizer_leaves_nothing_is_outside(loaded: Loaded) -> None:
    (answer,) = loaded("ner").predict("\u0301 \u0308")
    assert answer == {"pred": ["O", "O"], "proba": [0.0, 0.0], "entities": []}


CHARACTERS = st.one_of(
    st.sampled_from("ab\u200b\u0301東👍ßﷺ \t\n"), st.characters(exclude_categories=["Cs"])
)


@given(st.lists(st.text(CHARACTERS, max_size=6), max_size=60))
def test_there_is_one_tag_for_every_given_word(words: list[str]) -> None:
    words = [*words, "parcel"]
    (answer,) = words_predictor().predict({"words": words})
    assert len(answer["pred"]) == len(answer["proba"]) == len(words)
    assert set(answer["pred"]) <= {"O", "B-X", "I-X"}
    text = " ".join(words)
    assert all(text[e["start"] : e["end"]] == e["text"] for e in answer["entities"])


@given(st.text(CHARACTERS, max_size=200))
def test_there_is_one_tag_for_every_word_of_any_text(text: str) -> None:
    (answer,) = words_predictor().predict(f"{text} parcel")
    assert len(answer["pred"]) == len(Record(f"{text} parcel").words)


# --- streams ------------------------------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfserve.predictor.CHUNK_RECORDS", (4,))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 23])
def test_a_stream_is_answered_as_a_list_is(task: str, count: int, loaded: Loaded) -> None:
    predictor = hashing(loaded(task))
    raw = [{"text": f"{TEXTS[i % len(TEXTS)]} {i}", "id": i} for i in range(count)]
    streamed = list(predictor.stream(iter(raw)))
    assert streamed == predictor.predict(raw)
    assert [answer["id"] for answer in streamed] == list(range(count))


@pytest.mark.usefixtures("small_chunks")
def test_a_stream_through_a_real_model_is_answered_as_a_list_is(loaded: Loaded) -> None:
    predictor = loaded("ner")
    asked = {"scores": True}
    assert_alike(list(predictor.stream(TEXTS, asked)), predictor.predict(TEXTS, asked), 1e-5)


def endless(read: list[int], text: str = "refund the parcel") -> Iterator[dict[str, Any]]:
    for number in itertools.count():
        read.append(number)
        yield {"text": f"{text} {number}", "id": number}


@pytest.mark.usefixtures("small_chunks")
def test_a_stream_reads_no_more_than_one_chunk_ahead(loaded: Loaded) -> None:
    read: list[int] = []
    stream = hashing(loaded("classif")).stream(endless(read))
    assert read == []
    assert [answer["id"] for answer in itertools.islice(stream, 6)] == list(range(6))
    stream.close()  # type: ignore[attr-defined]
    assert 6 <= len(read) <= 12


def test_a_chunk_of_a_stream_is_bounded_in_characters_too(
    monkeypatch: pytest.MonkeyPatch, loaded: Loaded
) -> None:
    monkeypatch.setattr("tfserve.predictor.CHUNK_CHARACTERS", 150)
    read: list[int] = []
    stream = hashing(loaded("classif")).stream(endless(read, "refund " * 10))
    assert [answer["id"] for answer in itertools.islice(stream, 3)] == [0, 1, 2]
    stream.close()  # type: ignore[attr-defined]
    assert 3 <= len(read) <= 9


def test_words_count_towards_the_characters_of_a_chunk(
    monkeypatch: pytest.MonkeyPatch, loaded: Loaded
) -> None:
    monkeypatch.setattr("tfserve.predictor.CHUNK_CHARACTERS", 100)
    read: list[int] = []

    def pages() -> Iterator[dict[str, Any]]:
        for raw in endless(read):
            yield {"words": ["refunded!"] * 20, "id": raw["id"]}

    stream = hashing(loaded("classif")).stream(pages())
    assert next(stream)["id"] == 0
    stream.close()  # type: ignore[attr-defined]
    assert len(read) <= 3


@pytest.mark.usefixtures("small_chunks")
def test_an_abandoned_stream_leaves_no_thread_behind(loaded: Loaded) -> None:
    stream = hashing(loaded("classif")).stream(endless([]))
    next(stream)
    assert any(thread.name.startswith("tfserve-encode") for thread in threading.enumerate())
    stream.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("tfserve-encode") for thread in threading.enumerate())


@pytest.mark.usefixtures("small_chunks")
def test_a_stream_survives_bad_records(loaded: Loaded) -> None:
    predictor = hashing(loaded("classif"))
    raw = [{"text": f"refund {i}" if i % 3 else "", "id": i} for i in range(25)]
    # A chunk of nothing but bad records is a chunk too.
    raw[8:16] = [{"id": i} for i in range(8, 16)]
    good = [i for i, item in enumerate(raw) if item.get("text")]
    answers = list(predictor.stream(raw))
    assert [answer["id"] for answer in answers] == list(range(25))
    assert [i for i, answer in enumerate(answers) if "pred" in answer] == good
    assert [answers[i] for i in good] == predictor.predict([raw[i] for i in good])
    for i in sorted({*range(25)} - {*good}):
        assert answers[i]["error"]["index"] == i


@pytest.mark.usefixtures("small_chunks")
def test_a_stream_may_stop_at_the_first_bad_record(loaded: Loaded) -> None:
    predictor = hashing(loaded("classif"))
    raw = [*(f"refund {i}" for i in range(10)), 5, "refund"]
    stream = predictor.stream(raw, {"on_error": "raise"})
    answered = []
    with pytest.raises(RecordError) as caught:
        for answer in stream:
            answered.append(answer)
    assert caught.value.place == {"index": 10}
    assert answered == predictor.predict(raw[:8])


@pytest.mark.usefixtures("small_chunks")
def test_the_failure_of_a_stream_s_source_is_the_caller_s_to_see(loaded: Loaded) -> None:
    def broken() -> Iterator[str]:
        yield from (f"refund {i}" for i in range(6))
        raise OSError("the disk is gone")

    stream = hashing(loaded("classif")).stream(broken())
    answered = []
    with pytest.raises(OSError, match="the disk is gone"):
        for answer in stream:
            answered.append(answer)
    assert len(answered) == 4


# --- golden answers -----------------------------------------------------------------------------


def altered(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that no engine will give."""
    if "scores" not in answer:
        return {"pred": answer["pred"] + 100}
    scores = answer["scores"]
    rows = scores if isinstance(scores, list) else [scores]
    moved = [{label: value + 0.5 for label, value in row.items()} for row in rows]
    return {**answer, "scores": moved if isinstance(scores, list) else moved[0]}


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest, and give it the digests of the files as they now are."""
    manifest = json.loads((folder / artifact.MANIFEST).read_text("utf-8"))
    change(manifest)
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / artifact.MANIFEST).write_text(json.dumps(manifest), "utf-8")


def edit_head(folder: Path, change: Callable[[Any], None]) -> None:
    """Change the weights of a directory's classifier, and the manifest with it."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        change(model.classifier)
    model.save_pretrained(folder)
    edit(folder, lambda manifest: None)


@pytest.mark.parametrize("task", TASKS)
def test_a_model_answers_its_golden_records_as_training_did(
    task: str, trained: Trained, loaded: Loaded, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(artifact.load(trained(task)).manifest.golden) == 4
    with caplog.at_level(logging.WARNING, "tfserve"):
        tfserve.load(trained(task), precision="fp32")
    assert caplog.records == []
    assert golden_distance(loaded(task)) < 1e-5


@pytest.mark.parametrize("task", TASKS)
def test_golden_answers_that_differ_are_reported(
    task: str, copied: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(task)

    def change(manifest: dict[str, Any]) -> None:
        manifest["golden"][-1]["answer"] = altered(manifest["golden"][-1]["answer"])

    edit(folder, change)
    with caplog.at_level(logging.WARNING, "tfserve"):
        predictor = tfserve.load(folder, precision="fp32")
    (warning,) = caplog.records
    assert "answers its golden records differently" in warning.getMessage()
    assert str(folder) in warning.getMessage()
    assert golden_distance(predictor) >= 0.49
    assert len(predictor.predict("refund")) == 1


def test_other_weights_are_noticed_by_their_golden_answers(
    copied: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied("classif")
    edit_head(folder, lambda head: head.bias.add_(torch.tensor([0.0, 0.0, 0.0, 3.0])))
    with caplog.at_level(logging.WARNING, "tfserve"):
        tfserve.load(folder, precision="fp32")
    assert "answers its golden records differently" in caplog.text


@pytest.mark.parametrize("task", ["classif", "regression"])
def test_a_model_that_computes_no_numbers_is_noticed_by_its_golden_answers(
    task: str, copied: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(task)
    edit_head(folder, lambda head: head.bias.fill_(float("nan")))
    with caplog.at_level(logging.WARNING, "tfserve"):
        tfserve.load(folder, precision="fp32")
    assert "answers its golden records differently" in caplog.text


def test_a_precision_that_changes_golden_answers_is_not_chosen(
    copied: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied("regression")
    edit_head(folder, lambda head: head.weight.mul_(1000))
    answers = Predictor(
        artifact.load(folder).task(),
        artifact.load(folder).encoder(),
        engines.load("torch", folder, "fp32"),
    )

    def change(manifest: dict[str, Any]) -> None:
        for pair in manifest["golden"]:
            pair["answer"] = answers.predict([pair["record"]])[0]

    edit(folder, change)
    with caplog.at_level(logging.WARNING, "tfserve"):
        assert tfserve.load(folder).engine.precision == "fp32"
        assert "answers its golden records differently" not in caplog.text
        assert tfserve.load(folder, precision="bf16").engine.precision == "bf16"
    assert "answers its golden records differently" in caplog.text


def test_without_golden_records_nothing_is_compared(copied: Trained) -> None:
    folder = copied("classif")
    edit(folder, lambda manifest: manifest.update(golden=[]))
    assert golden_distance(tfserve.load(folder, precision="fp32")) == 0.0
    assert golden_distance(words_predictor()) == 0.0


def test_a_predictor_knows_the_directory_it_came_from(trained: Trained, loaded: Loaded) -> None:
    predictor = loaded("classif")
    assert predictor.artifact is not None
    assert predictor.artifact.path == trained("classif")
    assert predictor.artifact.version == artifact.load(trained("classif")).version
    assert isinstance(predictor.task, Classif)
    assert predictor.task.labels == ("billing", "delivery", "order", "praise")
    assert words_predictor().artifact is None


def test_padding_is_the_model_s_own(loaded: Loaded, pretrained: PretrainedFolder) -> None:
    config = json.loads((pretrained("roberta") / "config.json").read_text("utf-8"))
    predictor, engine = counting(loaded("classif", "roberta"))
    predictor.predict(["refund", "where is my parcel"])
    (batch,) = engine.batches
    assert set(batch.input_ids[batch.attention_mask == 0].tolist()) == {config["pad_token_id"]}
    assert config["pad_token_id"] == 1


# --- imports ------------------------------------------------------------------------------------

BLOCK = """
import importlib.abc, json, sys
BLOCKED = ("torch", "transformers", "accelerate", "sklearn", "scipy", "safetensors")
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
"""
SERVING = f"""{BLOCK}
import tfserve
from tfserve import (artifact, batching, checks, cli, codecs, encoding, engines, errors, handlers,
                     predictor, records, tables, tasks)
import numpy as np
class Numbers:
    name, lanes, budget, precision = "numbers", 2, 64, "fp32"
    def rounded(self, length):
        return length
    def run(self, batch, *, alone=True):
        return np.sin(batch.input_ids[..., None] * np.arange(1, 4)).astype(np.float32)
found = artifact.load(sys.argv[1])
model = tfserve.Predictor(found.task(), found.encoder(), Numbers(), artifact=found)
body = json.dumps({{"data": [{{"text": "where is my parcel " * 30, "id": 7}}, "refund"]}})
request = handlers.input_fn(body, "application/json")
print(handlers.output_fn(handlers.predict_fn(request, model), "application/json"))
print(json.dumps([name for name in BLOCKED if name in sys.modules]))
for room in (lambda: engines.load("torch", found.path), lambda: tfserve.train):
    try:
        room()
    except errors.InstallError as error:
        print(error.code, "'.[train]'" in error.message)
"""


def python(script: str, *arguments: str) -> list[str]:
    """The lines that a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_serving_needs_neither_torch_nor_transformers(trained: Trained) -> None:
    answered, imported, *refusals = python(SERVING, str(trained("ner")))
    long, short = json.loads(answered)["predictions"]
    assert (len(long["pred"]), long["id"], len(short["pred"])) == (120, 7, 1)
    assert set(long["pred"]) <= {"O", "B-THING", "I-THING"}
    assert json.loads(imported) == []
    assert refusals == ["install.missing_extra True"] * 2


def test_importing_the_library_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "tokenizers", "sklearn", "scipy", "accelerate", "numpy")
    (line,) = python(
        f"import json, sys, tfserve; print(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    )
    assert json.loads(line) == []


def test_the_library_s_names_are_there_when_asked_for() -> None:
    assert sorted(tfserve.__all__) == dir(tfserve)
    assert tfserve.Predictor is Predictor
    for name in tfserve.__all__:
        assert getattr(tfserve, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = tfserve.trian
