"""Rows as training sees them: a row of several windows is one example, answered as in serving."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import Loaded
from safetensors.numpy import load_file

import tfserve
from tfserve import tasks
from tfserve.arrays import softmax
from tfserve.engines.torch import tensors
from tfserve.records import Record
from tfserve.tables import Row, Table
from tfserve.training.examples import Examples, drawn, pooled
from tfserve.training.pretrained import Pretrained, begin_at

SHORT, LONG = "the parcel is late again", " ".join(["my invoice was wrong"] * 12)
RNG = np.random.default_rng


@pytest.fixture(scope="module")
def predictor(loaded: Loaded) -> tfserve.Predictor:
    return loaded("classif", long_text="window", max_length=16)


@pytest.fixture
def examples(predictor: tfserve.Predictor) -> Examples:
    texts = [SHORT, LONG, SHORT, " ".join([LONG] * 8)]
    rows = [Row(Record(text), predictor.task.labels[i % 2], i) for i, text in enumerate(texts)]
    return Examples.make(Table("t", tuple(rows)), predictor.task, predictor.encoder)


def test_a_row_is_an_example_with_one_target(examples: Examples) -> None:
    counts = [len(span) for span in examples.spans]
    assert counts[0] == counts[2] == 1 < counts[1] < counts[3]
    assert sum(counts) == len(examples.windows) and len(examples.targets) == 4
    assert examples.lengths[0] == len(examples.windows[0]) < examples.lengths[1]


def test_training_answers_a_row_as_serving_does(
    examples: Examples, predictor: tfserve.Predictor
) -> None:
    batch, targets, owners = examples.batch(
        [1, 0], predictor.encoder.pad_token_id, per_word=False, most=99, rng=RNG(0)
    )
    assert owners is not None and targets.shape == (2,)
    engine = predictor.engine
    logits = engine.model(**tensors(batch, engine.device)).logits  # type: ignore[attr-defined]
    found = pooled(logits, torch.from_numpy(owners)).detach().numpy()
    answers = predictor.predict([LONG, SHORT], {"scores": True})
    heat = predictor.task.temperature  # type: ignore[attr-defined]
    for row, answer in zip(softmax(found / heat), answers, strict=True):
        given = [answer["scores"][label] for label in predictor.task.labels]
        np.testing.assert_allclose(row, given, atol=1e-5)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 4, 8, 1000])
def test_a_batch_is_cut_into_pieces_and_no_row_is(
    most: int, world: int, examples: Examples
) -> None:
    chosen = np.array([0, 1, 2, 3, 1, 1])
    pieces = list(examples.pieces(chosen, most, world))
    assert np.concatenate(pieces).tolist() == chosen.tolist()
    for piece in pieces[:-1]:
        assert len(piece) >= world
    for piece in pieces:
        windows = sum(min(len(examples.spans[i]), most) for i in piece)
        assert windows <= most * world or len(piece) == world
    assert (len(pieces) == 1) == (most == 1000 or world * most > 100)


def test_of_a_long_row_other_windows_are_drawn_each_time(examples: Examples) -> None:
    given = {"per_word": False, "most": 5}
    _, _, owners = examples.batch([3, 0], 0, **given, rng=RNG(0))
    assert owners is not None and owners.tolist() == [0, 0, 0, 0, 0, 1]
    one, again, other = (drawn(range(100), 16, RNG(seed)) for seed in (0, 0, 1))
    assert one == again != other and len(set(one)) == 16
    assert drawn(range(3), 16, RNG(0)) == range(3)


def test_the_steps_of_an_epoch_are_those_of_its_rows(tmp_path: Path) -> None:
    encoder = tiny.model(tmp_path / "encoder", initializer_range=0.1)
    rows = [(" ".join([text] * 9), label) for text, label in tiny.rows("multilabel-classif", 24)]
    tiny.table(tmp_path / "data" / "train.csv", rows, ("text", "labels"))
    tiny.table(tmp_path / "data" / "dev.csv", rows[:8], ("text", "labels"))
    hparams = {
        **tiny.hparams("multilabel-classif", encoder), "long_text": "window", "max_length": 32,
        "max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-9,
    }  # fmt: skip
    tfserve.train(hparams, train_dir=tmp_path / "data", model_dir=tmp_path / "model")
    predictor = tfserve.load(tmp_path / "model", precision="fp32")
    assert predictor.artifact is not None
    assert predictor.artifact.manifest.history[-1]["epoch"] == 2.0  # of three steps each
    # Nothing was learned at that rate, so that the head is as it began.
    labels = [label for _, label in rows]
    counts = np.array(
        [sum(f'"{name}"' in cell for cell in labels) for name in predictor.task.labels]
    )
    bias = load_file(tmp_path / "model" / "model.safetensors")["classifier.bias"]
    np.testing.assert_allclose(bias, np.log((counts + 0.5) / (24 - counts + 0.5)), atol=1e-4)


def test_a_head_that_was_trained_before_goes_on_from_where_it_is(tmp_path: Path) -> None:
    task = tasks.get("multilabel-classif").fit([("a",), ("b",), ("a", "c")])
    model = Pretrained.find(str(tiny.model(tmp_path / "plain", "bert"))).model(task, use_bbox=False)
    begin_at(model, np.array([0.5, -1.0, 2.0], np.float32))
    model.save_pretrained(tmp_path / "trained")
    for file in (tmp_path / "plain").glob("*token*"):
        shutil.copyfile(file, tmp_path / "trained" / file.name)
    again = Pretrained.find(str(tmp_path / "trained")).model(task, use_bbox=False)
    assert not again.fresh
    begin_at(again, np.array([9.0, 9.0, 9.0], np.float32))
    assert again.classifier.bias.tolist() == [0.5, -1.0, 2.0]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_head_of_every_family_begins_where_it_is_told(family: str, tmp_path: Path) -> None:
    labels = [("a",), ("b",), ("a", "c")]
    task = tasks.get("multilabel-classif").fit(labels)
    found = Pretrained.find(str(tiny.model(tmp_path / family, family)))
    model = found.model(task, use_bbox=False)
    bias = np.array([0.5, -1.0, 2.0], np.float32)
    begin_at(model, bias)
    same = [p for p in model.parameters() if p.shape == (3,) and p.tolist() == bias.tolist()]
    assert len(same) == 1
