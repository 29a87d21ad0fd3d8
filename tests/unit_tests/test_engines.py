"""Engines: the same numbers as the plain model, alone or beside other batches."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from conftest import PretrainedFolder, Trained

from tfserve import artifact, engines
from tfserve.batching import Batch, collate
from tfserve.encoding import Window
from tfserve.engines import torch as torch_engine
from tfserve.engines.torch import TorchEngine, load_pretrained, quiet, resolve_precision
from tfserve.errors import ModelError
from tfserve.records import Record

TEXTS = [
    sentence * n for n, sentence in zip((1, 2, 1, 3, 1, 1, 2, 1), tiny.SENTENCES, strict=False)
]


def windows(folder: Path, texts: list[str] = TEXTS) -> list[Window]:
    """The windows of a directory's model; where it wants boxes, each word gets one of its own."""
    found = artifact.load(folder)
    use_bbox = found.manifest.use_bbox
    records = [
        Record.parse(
            {
                "text": text,
                "bbox": [[i, 2 * i, i + 9, 2 * i + 9] for i in range(len(text.split()))],
            },
            use_bbox=use_bbox,
        )
        for text in texts
    ]
    return [window for encoded in found.encoder().encode(records) for window in encoded.windows]


def batch(folder: Path, texts: list[str] = TEXTS) -> Batch:
    return collate(windows(folder, texts), artifact.load(folder).manifest.pad_token_id)


def plain_logits(folder: Path, padded: Batch, auto_model: str) -> Any:
    """Of each row by itself, without padding, through transformers alone."""
    model = getattr(transformers, auto_model).from_pretrained(folder).eval()
    rows = []
    for row in range(len(padded.input_ids)):
        length = int(padded.attention_mask[row].sum())
        inputs = {"input_ids": torch.tensor(padded.input_ids[row : row + 1, :length])}
        if padded.bbox is not None:
            inputs["bbox"] = torch.tensor(padded.bbox[row : row + 1, :length])
        with torch.inference_mode():
            rows.append(model(**inputs).logits[0].numpy())
    return rows


@pytest.mark.parametrize("name", ["nope", "", "Torch", "torch.py", "../torch"])
def test_an_unknown_engine_is_refused_with_the_known_ones(name: str, trained: Trained) -> None:
    with pytest.raises(ModelError, match="torch") as caught:
        engines.load(name, trained("classif"))
    assert caught.value.code == "model.engine"
    assert repr(name) in caught.value.message


@pytest.mark.parametrize("precision", ["fp64", "int8", "", "FP32"])
def test_an_unknown_precision_is_refused_with_the_known_ones(
    precision: str, trained: Trained
) -> None:
    with pytest.raises(ModelError, match="auto, fp32, bf16, fp16") as caught:
        engines.load("torch", trained("classif"), precision)
    assert caught.value.code == "model.precision"
    assert repr(precision) in caught.value.message


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes fp16")
def test_fp16_on_a_cpu_is_refused(trained: Trained) -> None:
    with pytest.raises(ModelError, match="fp16 on a CPU") as caught:
        engines.load("torch", trained("classif"), "fp16")
    assert caught.value.code == "model.precision"


def test_torch_is_among_the_engines() -> None:
    assert "torch" in engines.names()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_in_fp32_are_those_of_each_text_alone_in_transformers(
    family: str, trained: Trained
) -> None:
    folder = trained("classif", family)
    padded = batch(folder)
    found = engines.load("torch", folder, "fp32").run(padded)
    assert found.dtype == np.float32
    assert found.shape == (len(TEXTS), 4)
    expected = plain_logits(folder, padded, "AutoModelForSequenceClassification")
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    assert np.ptp(found, axis=0).max() > 0.1  # else equal answers would mean nothing


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "lilt"])
def test_logits_per_token_are_those_of_each_text_alone_in_transformers(
    family: str, trained: Trained
) -> None:
    folder = trained("ner", family)
    padded = batch(folder)
    found = engines.load("torch", folder, "fp32").run(padded)
    assert found.shape == (*padded.input_ids.shape, 3)
    expected = plain_logits(folder, padded, "AutoModelForTokenClassification")
    for row, alone in zip(found, expected, strict=True):
        np.testing.assert_allclose(row[: len(alone)], alone, atol=1e-5)


def test_boxes_reach_the_model(trained: Trained) -> None:
    folder = trained("classif", "layoutlm")
    engine = engines.load("torch", folder, "fp32")
    padded = batch(folder)
    assert padded.bbox is not None
    words = padded.bbox.any(-1, keepdims=True) & (padded.bbox < 1000)
    moved = Batch(padded.input_ids, padded.attention_mask, padded.bbox + 90 * words)
    assert np.abs(engine.run(padded) - engine.run(moved)).max() > 0.01


@pytest.mark.parametrize("task", ["classif", "ner"])
def test_logits_in_bf16_are_close_and_come_in_fp32(task: str, trained: Trained) -> None:
    folder = trained(task)
    exact, rounded = (engines.load("torch", folder, p) for p in ("fp32", "bf16"))
    assert (exact.precision, rounded.precision) == ("fp32", "bf16")
    padded = batch(folder)
    found = rounded.run(padded)
    assert found.dtype == np.float32
    difference = np.abs(found - exact.run(padded)).max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_are_held_in_the_precision(precision: str, trained: Trained) -> None:
    engine = engines.load("torch", trained("classif"), precision)
    assert isinstance(engine, TorchEngine)
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert {p.dtype for p in engine.model.parameters()} == {expected}
    assert not engine.model.training


def test_autocast_leaves_the_weights_as_they_are(pretrained: PretrainedFolder) -> None:
    model = load_pretrained("AutoModelForSequenceClassification", pretrained(), num_labels=2).eval()
    ids = np.arange(6, 18, dtype=np.int64).reshape(2, 6)
    padded = Batch(ids, np.ones_like(ids))
    exact = TorchEngine(model).run(padded)
    cast = TorchEngine(model, precision="bf16", autocast=True).run(padded)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert 0 < np.abs(exact - cast).max() < 0.05
    off = TorchEngine(model, precision="fp32", autocast=True).run(padded)
    np.testing.assert_array_equal(off, exact)


def test_a_gain_is_a_product_that_takes_less_time_in_the_other_precision() -> None:
    left, right = torch.ones(64, 64), torch.ones(64, 64)

    def once() -> object:
        return left @ right

    def often() -> object:
        return [left @ right for _ in range(50)]

    assert engines.gains(often, once)
    assert not engines.gains(once, often)


@pytest.fixture
def _measured_anew() -> Iterator[None]:
    """What this processor gains is measured once a process."""
    torch_engine._cpu_gains_by_bf16.cache_clear()
    yield
    torch_engine._cpu_gains_by_bf16.cache_clear()


@pytest.mark.usefixtures("_measured_anew")
@pytest.mark.parametrize(("gain", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_a_processor_gains_by_it(
    gain: bool, precision: str, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Any] = []

    def gains(fp32: Any, other: Any) -> bool:
        compared.append((fp32().dtype, other().dtype))
        return gain

    monkeypatch.setattr(torch_engine, "gains", gains)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engines.load("torch", trained("classif")).precision == precision
    assert resolve_precision("auto", torch.device("cpu")) == precision
    assert resolve_precision("fp16", torch.device("cpu")) == "fp16"
    assert compared == [(torch.float32, torch.bfloat16)]


def test_lanes_give_the_same_as_a_batch_alone(trained: Trained) -> None:
    folder = trained("classif")
    engine = engines.load("torch", folder, "fp32")
    batches = [batch(folder, [text]) for text in TEXTS] * 4
    alone = [engine.run(one, alone=True) for one in batches]
    with ThreadPoolExecutor(max(2, engine.lanes)) as lanes:
        beside = list(lanes.map(lambda one: engine.run(one, alone=False), batches))
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    again = engine.run(batches[0], alone=True)
    np.testing.assert_allclose(again, alone[0], atol=1e-6)


def test_a_lane_takes_one_core_and_a_batch_alone_takes_all(trained: Trained) -> None:
    folder = trained("classif")
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # also where the machine or the environment would give one
    try:
        engine = engines.load("torch", folder, "fp32")
        _check_threads(engine, folder)
    finally:
        torch.set_num_threads(before)


def _check_threads(engine: engines.Engine, folder: Path) -> None:
    assert isinstance(engine, TorchEngine)
    assert engine.lanes == 2
    padded = batch(folder)

    def threads(alone: bool) -> int:
        engine.run(padded, alone=alone)
        return torch.get_num_threads()

    with ThreadPoolExecutor(1) as lane:
        found = [lane.submit(threads, alone).result() for alone in (False, True, False)]
    assert found == [1, engine.cores, 1]
    assert threads(alone=True) == engine.cores


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "model.safetensors").unlink(),
        lambda f: (f / "model.safetensors").write_bytes(b""),
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:1000]
        ),
        lambda f: (f / "config.json").write_text("{"),
        lambda f: (f / "config.json").write_text('{"model_type": "no-such-family"}'),
        shutil.rmtree,
    ],
    ids=["no-weights", "empty-weights", "cut-weights", "cut-config", "unknown-family", "no-folder"],
)
def test_a_folder_that_holds_no_usable_model_is_named(
    damage: Any, pretrained: PretrainedFolder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pretrained(), tmp_path / "damaged"))
    damage(folder)
    with pytest.raises(ModelError, match="cannot load") as caught:
        load_pretrained("AutoModelForSequenceClassification", folder)
    assert caught.value.code == "model.load"
    assert str(folder) in caught.value.message


def test_pickled_weights_are_not_read(pretrained: PretrainedFolder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pretrained(), tmp_path / "pickled"))
    model = transformers.AutoModel.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError) as caught:
        load_pretrained("AutoModel", folder)
    assert caught.value.code == "model.load"


def test_code_that_comes_with_a_model_is_not_run(
    pretrained: PretrainedFolder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pretrained(), tmp_path / "remote"))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Own: ...\n"
    )
    with pytest.raises(ModelError) as caught:
        load_pretrained("AutoModel", folder)
    assert caught.value.code == "model.load"
    assert not (tmp_path / "ran").exists()


def test_chatter_is_off_inside_and_as_before_afterwards() -> None:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_info()
    try:
        with quiet():
            assert transformers.logging.get_verbosity() == transformers.logging.ERROR
            assert not transformers.logging.is_progress_bar_enabled()
        assert transformers.logging.get_verbosity() == transformers.logging.INFO
        assert transformers.logging.is_progress_bar_enabled()
    finally:
        transformers.logging.set_verbosity(before)
