"""``export``: the same answers from a graph, with torch's weights or without them."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import Graph, Loaded, Trained
from test_predictor import BLOCK, python

import tfserve
from tfserve import archive, artifact, doctor, quantization
from tfserve.artifact import Artifact
from tfserve.batching import Batch
from tfserve.cli import main
from tfserve.errors import DataError, ModelError, StorageError
from tfserve.export import export

RECORDS = [{"text": sentence, "bbox": [[5, 5, 9, 9]] * len(sentence.split()), "id": number}
           for number, sentence in enumerate(tiny.SENTENCES)]  # fmt: skip


@pytest.fixture(autouse=True)
def _kept(
    request: pytest.FixtureRequest, graph: Graph,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each graph is made once, and here: a process of its own takes seconds to start."""
    if request.node.get_closest_marker("apart") is None:
        monkeypatch.setattr(
            "tfserve.export.convert",
            lambda engine, folder, target: shutil.copytree(
                graph(engine, folder), target, dirs_exist_ok=True
            ),
        )


@pytest.fixture
def light(trained: Trained, tmp_path: Path) -> Callable[..., Path]:
    """``light(engine, task, family)``: an exported directory without weights."""

    def make(engine: str = "openvino", task: str = "classif", family: str = "bert") -> Path:
        found, _ = export(trained(task, family), engine, output=tmp_path / "light")
        return found.path

    return make


def near(answers: Any, expected: Any) -> None:
    """Equal but for the last digits of numbers."""
    if isinstance(expected, dict):
        assert list(answers) == list(expected)
        answers, expected = list(answers.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(answers) == len(expected)
        for one, other in zip(answers, expected, strict=True):
            near(one, other)
    elif isinstance(expected, float):
        assert answers == pytest.approx(expected, abs=1e-4)
    else:
        assert answers == expected


@pytest.mark.parametrize("engine, task, family", [
    ("openvino", "classif", "bert"),
    ("openvino", "ner", "lilt"),
    ("openvino", "regression", "roberta"),
    ("onnx", "multilabel-classif", "bert"),
])  # fmt: skip
def test_an_export_answers_as_the_model_does(
    engine: str, task: str, family: str, light: Callable[..., Path], loaded: Loaded
) -> None:
    expected = loaded(task, family).predict(RECORDS)
    found = tfserve.load(light(engine, task, family), precision="fp32")
    assert found.engine.name == engine
    near(found.predict(RECORDS), expected)


def test_it_answers_where_torch_and_transformers_are_not(
    light: Callable[..., Path], loaded: Loaded
) -> None:
    script = f"""{BLOCK}
import tfserve
answers = tfserve.load(sys.argv[1], precision="fp32").predict(json.loads(sys.argv[2]))
print(json.dumps(answers))
print(json.dumps([name for name in BLOCKED if name in sys.modules]))
"""
    answers, imported = python(script, str(light()), json.dumps(RECORDS))
    near(json.loads(answers), loaded("classif").predict(RECORDS))
    assert json.loads(imported) == []


def test_an_exported_directory_holds_no_weights_and_is_whole(
    light: Callable[..., Path], trained: Trained, tmp_path: Path
) -> None:
    source, folder = artifact.load(trained("classif")), light()
    found = artifact.load(folder)
    assert found.graphs == {"openvino"} and not found.weights
    assert not list(folder.rglob("*.safetensors"))
    assert {"openvino/model.xml", "openvino/model.bin"} <= set(found.manifest.files)
    assert set(found.manifest.files) - {"openvino/model.xml", "openvino/model.bin"} == {
        name for name in source.manifest.files if not name.endswith(".safetensors")
    }
    assert found.version != source.version
    assert found.manifest.versions == source.manifest.versions | artifact.installed_versions(
        ["openvino"]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["light"]
    packed = archive.package(folder, tmp_path / "model.tar.gz")
    wrong = [f for f in doctor.examine(packed) if f.level == doctor.WRONG]
    assert ["docker/Dockerfile.light" in f.message for f in wrong] == [True]
    (folder / "openvino" / "model.bin").write_bytes(b"other weights")
    with pytest.raises(ModelError) as caught:
        tfserve.load(folder)
    assert caught.value.code == "model.tampered"


def test_an_engine_whose_graph_is_not_there_is_refused(light: Callable[..., Path]) -> None:
    folder = light()
    for engine in ("torch", "onnx"):
        with pytest.raises(ModelError, match="was exported for openvino") as caught:
            tfserve.load(folder, engine=engine)
        assert caught.value.code == "model.engine"


def test_a_graph_is_added_to_the_model_directory(copied: Trained, loaded: Loaded) -> None:
    folder = copied("classif")
    before = sorted(path.name for path in folder.iterdir())
    versions = [artifact.load(folder).version]
    for engine in ("onnx", "openvino", "openvino"):
        found, _ = export(folder, engine)
        assert found.weights and engine in found.graphs
        versions.append(found.version)
        assert tfserve.load(folder, precision="fp32").engine.name == engine
    assert versions[0] != versions[1] != versions[2] == versions[3]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*before, "onnx", "openvino"])
    expected = loaded("classif").predict(RECORDS)
    for engine in ("torch", "onnx", "openvino"):
        found_ = tfserve.load(folder, engine=engine, precision="fp32")
        assert found_.engine.name == engine
        near(found_.predict(RECORDS), expected)


@pytest.mark.parametrize("call", range(1, 4))
def test_an_export_that_breaks_off_leaves_a_model(
    call: int, copied: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied("classif")
    export(folder, "openvino")
    replaced, calls = os.replace, []

    def replace(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        replaced(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StorageError, match="free some space"):
        export(folder, "openvino")
    monkeypatch.undo()
    found = artifact.load(folder)
    assert found.weights
    assert not list(folder.glob(".tfserve*"))
    assert tfserve.load(folder, precision="fp32").predict(["refund"])


def test_what_cannot_be_exported_is_refused(
    trained: Trained, light: Callable[..., Path], tmp_path: Path
) -> None:
    model, dev = trained("classif"), tmp_path / "dev.csv"
    dev.write_text("text\tlabels\nrefund\t\n", "utf-8")
    cases: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
        (ModelError, "runs the weights as they are", (model, "torch"), {}),
        (ModelError, "expected one of", (model, "tensorrt"), {}),
        (ModelError, "holds no weights", (light(), "onnx"), {}),
        (ModelError, "expected openvino for int8", (model, "onnx"), {"dev": dev}),
        (DataError, "dev.csv:2", (model, "openvino"), {"dev": dev}),
        (StorageError, "expected the name of a new folder", (model, "openvino"),
         {"output": tmp_path}),
        (ModelError, "found no folder", (tmp_path / "none", "openvino"), {}),
    ]  # fmt: skip
    for error, message, arguments, options in cases:
        with pytest.raises(error, match=message):
            export(*arguments, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dev.csv", "light"]


@pytest.mark.apart
def test_a_model_that_no_graph_holds_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"openvino cannot run .*: use the engine torch") as caught:
        export(trained("ner", "longformer"), "openvino", output=tmp_path / "light")
    assert caught.value.code == "model.convert"
    assert not list(tmp_path.iterdir())


def test_a_graph_that_cannot_be_loaded_leaves_it_to_torch(
    copied: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    """The exact weights are there, and int8 was not asked for."""
    folder = copied("classif")
    export(folder, "onnx")
    with caplog.at_level(logging.WARNING, "tfserve"):
        found = tfserve.load(folder, precision="bf16")
    assert (found.engine.name, found.engine.precision) == ("torch", "bf16")
    assert [r for r in caplog.records if "found bf16 for onnx" in r.getMessage()]


def test_training_again_removes_the_graph_of_the_old_weights(copied: Trained) -> None:
    folder = copied("classif")
    export(folder, "openvino")
    (folder / "onnx").mkdir()  # of somebody else
    found = artifact.load(folder)
    weights = (folder / "model.safetensors").read_bytes()
    files = {n: folder / n for n in found.manifest.files if n.startswith(("token", "vocab"))}

    def write_weights(staging: Path) -> None:
        (staging / "model.safetensors").write_bytes(weights)
        shutil.copyfile(folder / "config.json", staging / "config.json")

    again = artifact.save(
        folder, found.manifest, write_weights=write_weights, tokenizer_files=files
    )
    assert again.graphs == frozenset()
    assert not (folder / "openvino").exists()
    assert (folder / "onnx").is_dir()


# --- int8 ---------------------------------------------------------------------------------------


@pytest.fixture
def dev(trained: Trained) -> Path:
    """The table that the model was tried on."""
    return trained("classif").parent / "data" / "dev.csv"


def quantized(
    model: Path,
    dev: Path,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    faster: float,
    lost: float,
) -> tuple[Artifact, Any]:
    """Models of a test gain no time, and their metric jumps by whole rows: both are set."""
    monkeypatch.setattr(quantization, "_faster", lambda *_: faster)
    monkeypatch.setattr(quantization, "MOST_LOST", lost)
    return export(model, "openvino", output=output, dev=dev)


def test_int8_is_kept_where_it_loses_little(
    trained: Trained, loaded: Loaded, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "light"
    found, told = quantized(trained("classif"), dev, output, monkeypatch, 2.0, 1.0)
    assert (told.metric, told.faster) == ("f1_macro", 2.0)
    assert 0 <= told.after <= 1 and 0 <= told.before <= 1
    full, _ = export(trained("classif"), "openvino", output=tmp_path / "full")
    sizes = [(folder.path / "openvino" / "model.bin").stat().st_size for folder in (found, full)]
    assert sizes[0] < 0.6 * sizes[1]
    model = tfserve.load(output)
    assert model.engine.precision == "int8"
    with pytest.raises(ModelError, match="found fp32 for a graph in int8"):
        tfserve.load(output, precision="fp32")
    scores = {"scores": True}
    expected = loaded("classif").predict(RECORDS, scores)
    for answer, other in zip(model.predict(RECORDS, scores), expected, strict=True):
        assert answer["scores"] == pytest.approx(other["scores"], abs=0.2)
        assert answer["scores"] != other["scores"]


@pytest.mark.parametrize("faster, lost", [(2.0, -1.0), (0.9, 1.0)])
def test_int8_is_refused_where_it_loses_much_or_gains_nothing(
    faster: float, lost: float, copied: Trained, dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied("classif")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ModelError, match=rf"f1_macro on dev 0\.\d{{4}} in int8.* {faster} times"):
        quantized(folder, dev, None, monkeypatch, faster, lost)  # type: ignore[arg-type]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_is_lost_of_an_error_is_a_share_of_it(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = artifact.load(trained("regression"))
    for small, worth in ((1.004, True), (1.006, False), (0.5, True)):
        errors = iter([1.0 * 7, small * 7])
        monkeypatch.setattr(quantization, "_metric", lambda *_, errors=errors: next(errors))
        monkeypatch.setattr(quantization, "_faster", lambda *_: 2.0)
        target = tmp_path / str(small)
        target.mkdir()
        args = (found, _Copying(), _table(trained, "regression"), found.path, target)
        if worth:
            assert quantization.quantize(*args).after == small * 7
        else:
            with pytest.raises(ModelError, match="rmse"):
                quantization.quantize(*args)


class _Copying:
    """An engine's module whose int8 is what it was."""

    BUDGET = 512

    def load(self, folder: Path) -> Any:
        from tfserve.engines.torch import load

        return load(folder, "fp32")

    def quantize(self, graph: Path, batches: Any, target: Path) -> None:
        assert batches
        shutil.copytree(graph, target, dirs_exist_ok=True)


def _table(trained: Trained, task: str) -> Any:
    from tfserve import tables, tasks

    return tables.read_table(trained(task).parent / "data" / "dev.csv", tasks.get(task))


def test_faster_is_the_second_that_takes_less_time(
    trained: Trained, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev, fast = _table(trained, "classif"), loaded("classif")
    table = replace(dev, rows=dev.rows[:1])
    slow = tfserve.load(trained("classif"), engine="torch", precision="fp32")
    plain = slow.engine.run

    def often(batch: Batch, *, alone: bool = True) -> Any:
        return [plain(batch, alone=alone) for _ in range(100)][-1]

    monkeypatch.setattr(slow.engine, "run", often)
    assert quantization._faster(slow, fast, table) > 1 > quantization._faster(fast, slow, table)


# --- the shell ----------------------------------------------------------------------------------


@pytest.mark.apart
def test_the_shell_exports(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", str(trained("classif")), "--output", str(tmp_path / "light")])
    assert f"{tmp_path / 'light'}: openvino, " in capsys.readouterr().out
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), "utf-8")
    answers = []
    for model in (trained("classif"), tmp_path / "light"):
        main(["predict", str(model), str(rows), "--precision", "fp32"])
        answers.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    near(*answers)


@pytest.mark.parametrize("flags, message", [
    (["--int8"], "--int8 and --dev FILE together"),
    (["--dev", "dev.csv"], "--int8 and --dev FILE together"),
    (["--engine", "tensorrt"], "found engine 'tensorrt'"),
])  # fmt: skip
def test_the_shell_refuses_in_a_line(
    flags: list[str], message: str, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["export", str(trained("classif")), *flags])
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
