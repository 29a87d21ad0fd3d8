"""Engines that run a graph: torch's numbers from every family, or a refusal that says so."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from conftest import Graph, Loaded, Trained
from test_engines import TEXTS, batch

import tfserve
from tfserve import artifact, conversion, engines
from tfserve.batching import Batch
from tfserve.errors import InstallError, ModelError
from tfserve.records import Record

GRAPHS = ("openvino", "onnx")
UNTRACEABLE = ("longformer",)
"""Families whose attention depends on lengths in ways that no graph holds."""


@pytest.mark.parametrize(
    "family, task",
    [*((f, "classif") for f in tiny.FAMILIES if f not in UNTRACEABLE), ("bert", "ner"),
     ("lilt", "ner")],
)  # fmt: skip
def test_openvino_computes_what_torch_does(
    family: str, task: str, trained: Trained, graph: Graph
) -> None:
    _same_as_torch("openvino", trained(task, family), graph)


@pytest.mark.parametrize("family, task", [("bert", "ner"), ("lilt", "classif")])
def test_onnx_computes_what_torch_does(
    family: str, task: str, trained: Trained, graph: Graph
) -> None:
    _same_as_torch("onnx", trained(task, family), graph)


def _same_as_torch(engine: str, folder: Path, graph: Graph) -> None:
    reference = engines.load("torch", folder, "fp32")
    found = engines.load(engine, graph(engine, folder), "fp32")
    assert (found.name, found.precision) == (engine, "fp32")
    for padded in (batch(folder), batch(folder, TEXTS[:1]), batch(folder, ["parcel"])):
        kept = padded.attention_mask.astype(bool)
        expected, logits = reference.run(padded), found.run(padded)
        assert logits.dtype == np.float32
        if expected.ndim == 2:
            kept = np.ones(len(expected), bool)
        np.testing.assert_allclose(logits[kept], expected[kept], atol=1e-4)
    assert np.ptp(expected) > 0.01  # else equal answers would mean nothing


@pytest.mark.parametrize("engine", GRAPHS)
def test_lanes_give_the_same_as_a_batch_alone(
    engine: str, trained: Trained, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # a lane for each, where there are two cores
    folder = trained("classif")
    loaded = engines.load(engine, graph(engine, folder), "fp32")
    batches = [batch(folder, [text]) for text in TEXTS] * 4
    alone = [loaded.run(one, alone=True) for one in batches]
    with ThreadPoolExecutor(2 * loaded.lanes) as lanes:  # more than there are
        beside = list(lanes.map(lambda one: loaded.run(one, alone=False), batches))
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def _in_bf16(source: Path, precision: str) -> engines.Engine:
    """OpenVINO in bf16; the test is skipped where the processor has none."""
    try:
        return engines.load("openvino", source, precision)
    except ModelError as error:
        assert error.code == "model.precision"
        assert "found bf16, which this processor lacks" in error.message
        pytest.skip("this processor cannot multiply in bf16")


def test_bf16_is_close_and_comes_in_fp32(trained: Trained, graph: Graph) -> None:
    folder = trained("classif")
    source = graph("openvino", folder)
    exact, rounded = engines.load("openvino", source, "fp32"), _in_bf16(source, "bf16")
    assert (exact.precision, rounded.precision) == ("fp32", "bf16")
    padded = batch(folder)
    assert rounded.run(padded).dtype == np.float32
    assert 0 < np.abs(rounded.run(padded) - exact.run(padded)).max() < 0.05


@pytest.mark.parametrize("gain", [False, True])
def test_auto_is_bf16_where_a_processor_gains_by_it(
    gain: bool, trained: Trained, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfserve.engines import openvino

    monkeypatch.setattr(openvino, "_gains_by_bf16", lambda: gain)
    source = graph("openvino", trained("classif"))
    if gain:
        assert _in_bf16(source, "auto").precision == "bf16"
    else:
        assert engines.load("openvino", source).precision == "fp32"


@pytest.mark.parametrize("engine, precision", [("openvino", "fp16"), ("onnx", "bf16")])
def test_a_precision_that_an_engine_lacks_is_refused(
    engine: str, precision: str, trained: Trained, graph: Graph
) -> None:
    folder = trained("classif")
    with pytest.raises(ModelError, match=precision) as caught:
        engines.load(engine, graph(engine, folder), precision)
    assert caught.value.code == "model.precision"


@pytest.mark.parametrize("engine", GRAPHS)
def test_a_damaged_graph_is_named(engine: str, trained: Trained, tmp_path: Path) -> None:
    for name in ("model.xml", "model.onnx"):
        (tmp_path / name).write_text("damaged")
    with pytest.raises(ModelError, match="cannot load") as caught:
        engines.load(engine, tmp_path, "fp32")
    assert caught.value.code == "model.graph"


def test_without_a_graph_one_is_made_for_the_moment(trained: Trained) -> None:
    folder = trained("classif")
    before = sorted(folder.rglob("*"))
    found = tfserve.load(folder, engine="openvino", precision="fp32").engine.run(batch(folder))
    expected = engines.load("torch", folder, "fp32").run(batch(folder))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("wrong", [
    lambda logits: logits + 1e-3,
    lambda logits: np.where(np.arange(logits.size).reshape(logits.shape) == 3, np.nan, logits),
    lambda logits: logits[:, :1],
], ids=["off", "nan", "shape"])  # fmt: skip
def test_logits_that_differ_are_found(wrong: Any, trained: Trained) -> None:
    padded = batch(trained("classif"))
    logits = np.random.default_rng(0).normal(size=(len(padded.input_ids), 4))
    conversion.compare(logits, logits + 1e-6, padded)
    with pytest.raises(ModelError, match="logits"):
        conversion.compare(logits, wrong(logits), padded)


def test_what_is_compared_has_padding_and_boxes_that_a_model_takes(trained: Trained) -> None:
    found = artifact.load(trained("classif", "layoutlm"))
    padded = conversion.random_batch(found, 5, 33, np.random.default_rng(0))
    assert isinstance(padded, Batch)
    assert padded.bbox is not None
    kept = padded.attention_mask.astype(bool)
    assert kept.any(axis=1).all() and not kept.all()
    assert (padded.input_ids[~kept] == found.manifest.pad_token_id).all()
    assert (padded.input_ids[kept] != found.manifest.pad_token_id).all()
    assert (padded.bbox[..., :2] <= padded.bbox[..., 2:]).all()
    assert padded.bbox.max() <= 1000 and not padded.bbox[~kept].any()


@pytest.mark.parametrize("engine, package", [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_an_engine_that_is_not_installed_names_its_extra(
    engine: str, package: str, trained: Trained
) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from pathlib import Path\nfrom tfserve import engines, errors\n"
        f"try: engines.load({engine!r}, Path({str(trained('classif'))!r}))\n"
        "except errors.InstallError as error: print(error.code, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install.missing_extra" in done.stdout
    assert f"pip install '.[{engine}]'" in done.stdout


def test_a_conversion_that_lacks_a_package_names_its_extra(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxscript.py").write_text("raise ImportError(name='onnxscript')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InstallError, match=r"'\.\[export\]'"):
        conversion.convert("onnx", trained("classif"), tmp_path)


@pytest.mark.parametrize("stored, weights, expected", [
    ((), True, ["torch"]),
    (("onnx",), True, ["onnx", "torch"]),
    (("onnx", "openvino"), True, ["openvino", "onnx", "torch"]),
    (("onnx",), False, ["onnx"]),
    (("openvino",), False, ["openvino"]),
    (("of-the-future",), False, ["of-the-future"]),
])  # fmt: skip
def test_a_stored_graph_is_preferred(
    stored: tuple[str, ...], weights: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "may_have_gpu", lambda: False)
    assert engines.candidates(frozenset(stored), weights=weights) == expected


def test_a_gpu_is_torch_s_where_there_are_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "may_have_gpu", lambda: True)
    stored = frozenset(["openvino"])
    for has, expected in ((True, ["torch"]), (False, ["openvino", "torch"])):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has=has: has)
        assert engines.candidates(stored, weights=True) == expected
        assert engines.candidates(stored, weights=False) == ["openvino"]


def test_what_is_not_installed_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "may_have_gpu", lambda: False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    stored = frozenset(["openvino"])
    assert engines.candidates(stored, weights=True) == ["torch"]
    # Then the error says what to install.
    assert engines.candidates(stored, weights=False) == ["openvino"]


def test_cores_are_those_that_the_process_may_use() -> None:
    def cores(limit: str, **environment: str) -> int:
        code = f"import os; {limit}; from tfserve import engines; print(engines.cores())"
        given = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | environment
        command = [sys.executable, "-c", code]
        return int(subprocess.run(command, capture_output=True, check=True, env=given).stdout)

    assert cores("pass") >= 1
    assert cores("pass", OMP_NUM_THREADS="1") == 1
    if sys.platform == "linux":
        assert cores("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})") == 1


def test_openvino_tells_nobody(trained: Trained, graph: Graph, tmp_path: Path) -> None:
    """Its telemetry leaves a note of itself in the home folder."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tfserve import engines\n"
        f"engines.load('openvino', Path({str(graph('openvino', trained('classif')))!r}))\n"
        "print([n for n in sys.modules if 'openvino_telemetry' in n and sys.modules[n]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())


def test_lengths_are_rounded_to_few_and_never_down(trained: Trained, graph: Graph) -> None:
    engine = engines.load("openvino", graph("openvino", trained("classif")), "fp32")
    rounded = [engine.rounded(length) for length in range(1, 513)]
    assert all(0 <= more - length < 16 for length, more in enumerate(rounded, 1))
    assert len(set(rounded)) < 60
    assert engine.rounded(9) == 10 and engine.rounded(64) == 64


def test_no_batch_is_padded_over_what_the_model_sees(loaded: Loaded, graph: Graph) -> None:
    """roberta counts positions from the padding token on, which must be its own."""
    predictor = loaded("classif", "roberta", max_length=27)
    assert predictor.artifact is not None
    folder = predictor.artifact.path
    found = tfserve.load(folder, engine="torch", precision="fp32")
    found.engine = engines.load("openvino", graph("openvino", folder), "fp32")
    texts = [" ".join(TEXTS[:count]) for count in range(1, 6)]
    lengths = [found.batch([w]).input_ids.shape[1] for w in found.preprocess(
        [Record(text) for text in texts]).windows]  # fmt: skip
    assert max(lengths) == 27
    for answer, expected in zip(found.predict(texts), predictor.predict(texts), strict=True):
        assert answer["proba"] == pytest.approx(expected["proba"], abs=1e-4)
