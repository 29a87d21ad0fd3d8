"""The model directory: whole or not at all, and usable without this library."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import PretrainedFolder, Trained

from tfserve import artifact, engines, files, vendoring
from tfserve.artifact import MANIFEST, SCHEMA, Manifest
from tfserve.batching import collate
from tfserve.errors import ModelError, StorageError
from tfserve.records import Record
from tfserve.tasks.classif import Classif
from tfserve.tasks.multilabel import MultilabelClassif
from tfserve.tasks.ner import Ner
from tfserve.tasks.regression import Regression
from tfserve.training.pretrained import Pretrained

MADE = Manifest(
    task="classif",
    task_state={"labels": ["good", "naïve 東京", "z"]},
    model_type="bert",
    pad_token_id=0,
    max_length=32,
    stride=5,
    long_text="window",
    metrics={"dev": {"f1_macro": 0.5, "per_label": {"good": {"f1": 1.0}}}},
    golden=[{"record": {"text": "naïve"}, "answer": {"pred": "good", "scores": {"good": 1.0}}}],
    versions={"tfserve": "0"},
    hparams={"seed": 42, "class_weights": None},
)


def save(
    path: Path,
    source: Path,
    manifest: Manifest = MADE,
    write_weights: Callable[[Path], None] | None = None,
) -> artifact.Artifact:
    """A model directory with a fresh head, without any training."""
    pretrained = Pretrained.find(str(source))
    model = pretrained.model(manifest.fitted_task(), use_bbox=False)
    return artifact.save(
        path,
        manifest,
        write_weights=write_weights or model.save_pretrained,
        tokenizer_files=pretrained.tokenizer_files(),
    )


def listing(path: Path) -> dict[str, str]:
    """Every file below ``path`` with the digest of its bytes."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of a manifest."""
    raw = json.loads((folder / MANIFEST).read_text("utf-8"))
    (folder / MANIFEST).write_text(json.dumps(raw | changes), "utf-8")


# --- round trip ---------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(pretrained: PretrainedFolder, tmp_path: Path) -> None:
    saved = save(tmp_path / "deep" / "model", pretrained())
    loaded = artifact.load(tmp_path / "deep" / "model")
    assert replace(loaded.manifest, files={}) == MADE
    assert loaded.manifest == saved.manifest
    assert loaded.version == saved.version
    assert loaded.task() == Classif(("good", "naïve 東京", "z"))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("classif", Classif(("billing", "delivery", "order", "praise"))),
        ("multilabel-classif", MultilabelClassif(("angry", "money", "order", "parcel"))),
        ("ner", Ner(("O", "B-THING", "I-THING"))),
        ("regression", Regression(2.4375, float(np.std([1, 2, 1.5, 2.5, 4, 3, 5, 0.5])))),
    ],
    ids=["classif", "multilabel", "ner", "regression"],
)
def test_a_trained_task_comes_back_with_its_labels(
    task: str, expected: Any, trained: Trained
) -> None:
    loaded = artifact.load(trained(task))
    if isinstance(expected, Regression):
        assert asdict(loaded.task()) == pytest.approx(asdict(expected))
    else:
        found = loaded.task()
        assert found.labels == expected.labels
        assert found.state() == loaded.manifest.task_state  # with what was calibrated


def test_the_encoder_is_the_one_that_the_manifest_describes(
    pretrained: PretrainedFolder, tmp_path: Path
) -> None:
    encoder = save(tmp_path / "model", pretrained()).encoder()
    assert (encoder.max_length, encoder.stride) == (32, 5)
    assert (encoder.windowed, encoder.per_word, encoder.use_bbox) == (True, False, False)
    (encoded,) = encoder.encode([Record("where is my parcel " * 10)])
    # 40 tokens: (40 + 5) / 2, and 2 special ones.
    assert [len(window) for window in encoded.windows] == [25, 25]


@pytest.mark.parametrize(
    ("task", "use_bbox", "per_word", "windowed"),
    [
        ("classif", False, False, False),
        ("ner", False, True, True),
        ("ner", True, True, True),
    ],
)
def test_an_encoder_serves_as_training_used_it(
    task: str, use_bbox: bool, per_word: bool, windowed: bool, trained: Trained
) -> None:
    family = "layoutlm" if use_bbox else "bert"
    encoder = artifact.load(trained(task, family)).encoder()
    found = (encoder.use_bbox, encoder.per_word, encoder.windowed)
    assert found == (use_bbox, per_word, windowed)
    assert (encoder.max_length, encoder.stride) == (64, 15)


def test_the_manifest_lists_every_other_file_by_its_digest(trained: Trained) -> None:
    folder = trained("classif")
    files = {
        name: digest
        for name, digest in listing(folder).items()
        if name not in (MANIFEST, "README.md") and not name.startswith("code/")
    }
    assert artifact.load(folder).manifest.files == files
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(
        files
    )


def test_the_manifest_is_readable_json_of_this_schema(
    pretrained: PretrainedFolder, tmp_path: Path
) -> None:
    save(tmp_path / "model", pretrained())
    text = (tmp_path / "model" / MANIFEST).read_text("utf-8")
    assert "naïve 東京" in text
    assert json.loads(text)["schema"] == SCHEMA == 1


def test_nothing_in_the_directory_is_pickled(trained: Trained) -> None:
    suffixes = {path.suffix for path in trained("classif").rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".txt", ".py", ".typed", ".model", ".md", ".j2"}
    assert (trained("classif") / "model.safetensors").is_file()


def test_the_stored_tokenizer_truncates_and_pads_nothing(
    trained: Trained, pretrained: PretrainedFolder
) -> None:
    source = json.loads((pretrained() / "tokenizer.json").read_text("utf-8"))
    stored = json.loads((trained("classif") / "tokenizer.json").read_text("utf-8"))
    assert source["truncation"] is not None
    assert source["padding"] is not None
    assert stored == source | {"truncation": None, "padding": None}


def test_a_copy_elsewhere_is_the_same_version(copied: Trained, trained: Trained) -> None:
    folder = copied("classif")
    raw = json.loads((folder / MANIFEST).read_text("utf-8"))
    (folder / MANIFEST).write_text(json.dumps(raw, sort_keys=True), "utf-8")
    copy = artifact.load(folder)
    assert copy.path != trained("classif")
    assert copy.version == artifact.load(trained("classif")).version
    assert len(copy.version) == 12


@pytest.mark.parametrize("changes", [{"stride": 4}, {"metrics": {}}, {"task": "ner"}])
def test_another_manifest_is_another_version(
    changes: dict[str, Any], copied: Trained, trained: Trained
) -> None:
    folder = copied("classif")
    edit(folder, **changes)
    assert artifact.load(folder).version != artifact.load(trained("classif")).version


def test_other_weights_are_another_version(pretrained: PretrainedFolder, tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = save(tmp_path / "one", pretrained())
    torch.manual_seed(2)
    other = save(tmp_path / "other", pretrained())
    assert one.version != other.version


# --- without this library -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "auto_model", "problem_type", "names"),
    [
        (
            "classif",
            "AutoModelForSequenceClassification",
            "single_label_classification",
            ["billing", "delivery", "order", "praise"],
        ),
        (
            "multilabel-classif",
            "AutoModelForSequenceClassification",
            "multi_label_classification",
            ["angry", "money", "order", "parcel"],
        ),
        ("ner", "AutoModelForTokenClassification", None, ["O", "B-THING", "I-THING"]),
        ("regression", "AutoModelForSequenceClassification", "regression", ["target"]),
    ],
)
def test_plain_transformers_loads_the_directory_and_computes_the_same(
    task: str, auto_model: str, problem_type: str | None, names: list[str], trained: Trained
) -> None:
    folder = trained(task)
    model = getattr(transformers, auto_model).from_pretrained(folder).eval()
    assert model.config.id2label == dict(enumerate(names))
    assert model.config.label2id == {name: i for i, name in enumerate(names)}
    assert model.config.problem_type == problem_type
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "where is my parcel it was due on monday"
    with torch.inference_mode():
        expected = model(**tokenizer(text, return_tensors="pt")).logits.numpy()
    (encoded,) = artifact.load(folder).encoder().encode([Record(text)])
    found = engines.load("torch", folder, "fp32").run(collate(encoded.windows, 0))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.shape[-1] == len(names)


SERVE = """
import sys
from pathlib import Path
import attr, inference, jsonlines, tfserve
code = Path(sys.argv[1]) / "code"
for module in (attr, inference, jsonlines, tfserve):
    assert Path(module.__file__).is_relative_to(code), module.__file__
model = inference.model_fn(sys.argv[1])
body = b'{"data": [{"text": "where is my parcel", "id": 7}]}'
request = inference.input_fn(body, "application/json")
print(inference.output_fn(inference.predict_fn(request, model), "application/json"))
"""


def test_the_code_folder_serves_where_this_library_is_not_installed(
    copied: Trained, trained: Trained, tmp_path: Path
) -> None:
    folder = copied("classif")
    # With -S no .pth file is read and site-packages is what is named here: installed for
    # development, tfserve is then importable from code/ alone.
    packages = sysconfig.get_path("purelib")
    path = os.pathsep.join((str(folder / "code"), packages, sysconfig.get_path("platlib")))
    done = subprocess.run(
        [sys.executable, "-S", "-c", SERVE, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout.splitlines()[-1])["predictions"]
    assert answer["pred"] in ("billing", "delivery", "order", "praise")
    assert answer["id"] == 7
    assert listing(trained("classif")).keys() == {
        name for name in listing(folder) if "__pycache__" not in name
    }


def test_the_code_folder_holds_inference_and_no_compiled_files(trained: Trained) -> None:
    code = trained("classif") / "code"
    assert {path.name for path in code.iterdir()} >= {"inference.py", "tfserve", "jsonlines"}
    assert (code / "inference.py").read_text("utf-8") == vendoring.INFERENCE
    package = Path(artifact.__file__).parent
    sources = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    copied = {str(path.relative_to(code / "tfserve")) for path in (code / "tfserve").rglob("*.py")}
    assert copied == {name for name in sources if not name.startswith(("server/", "aws/stack/"))}
    assert list(code.rglob("*.pyc")) == []


# --- damage -------------------------------------------------------------------------------------


def cut_in_half(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def drop(folder: Path, name: str) -> None:
    raw = json.loads((folder / MANIFEST).read_text("utf-8"))
    del raw[name]
    (folder / MANIFEST).write_text(json.dumps(raw), "utf-8")


def test_a_directory_that_may_not_be_read_says_which_file(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(file: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr(artifact, "sha256", denied)
    with pytest.raises(
        ModelError, match=r"cannot read .*config\.json: Permission denied"
    ) as raised:
        artifact.load(trained("classif"))
    assert raised.value.code == "model.unreadable"


@pytest.mark.parametrize(
    ("damage", "code", "named"),
    [
        pytest.param(shutil.rmtree, "model.not_found", "copied", id="no-folder"),
        pytest.param(lambda f: (f / MANIFEST).unlink(), "model.no_manifest", MANIFEST, id="none"),
        pytest.param(lambda f: cut_in_half(f / MANIFEST), "model.manifest", MANIFEST, id="cut"),
        pytest.param(
            lambda f: (f / MANIFEST).write_bytes(b""), "model.manifest", MANIFEST, id="empty"
        ),
        pytest.param(
            lambda f: (f / MANIFEST).write_bytes(b'{"schema": 1, "task": "\xff"}'),
            "model.manifest",
            MANIFEST,
            id="not-utf-8",
        ),
        pytest.param(
            lambda f: (f / MANIFEST).write_text("[1]"), "model.manifest", MANIFEST, id="a-list"
        ),
        pytest.param(lambda f: drop(f, "schema"), "model.manifest", "schema", id="no-schema"),
        pytest.param(lambda f: drop(f, "max_length"), "model.manifest", "max_length", id="less"),
        pytest.param(lambda f: edit(f, new=1), "model.manifest", "new", id="unknown-key"),
        pytest.param(lambda f: edit(f, files=[]), "model.manifest", MANIFEST, id="files-a-list"),
        pytest.param(lambda f: edit(f, schema=2), "model.schema", "version 2", id="schema-2"),
        pytest.param(lambda f: edit(f, schema="1"), "model.schema", "'1'", id="schema-a-string"),
        pytest.param(lambda f: edit(f, schema=2, new=1), "model.schema", "2", id="schema-2-new"),
        pytest.param(
            lambda f: (f / "model.safetensors").unlink(),
            "model.no_file",
            "model.safetensors",
            id="no-weights",
        ),
        pytest.param(
            lambda f: (f / "tokenizer.json").unlink(),
            "model.no_file",
            "tokenizer.json",
            id="no-tokenizer",
        ),
        pytest.param(
            lambda f: flip_a_bit(f / "model.safetensors"),
            "model.tampered",
            "model.safetensors",
            id="other-weights",
        ),
        pytest.param(
            lambda f: cut_in_half(f / "model.safetensors"),
            "model.tampered",
            "model.safetensors",
            id="cut-weights",
        ),
        pytest.param(
            lambda f: (f / "config.json").write_text("{}"),
            "model.tampered",
            "config.json",
            id="other-config",
        ),
    ],
)
def test_a_damaged_directory_is_refused_with_what_is_wrong(
    damage: Callable[[Path], Any], code: str, named: str, copied: Trained
) -> None:
    folder = copied("classif")
    damage(folder)
    with pytest.raises(ModelError) as caught:
        artifact.load(folder)
    assert caught.value.code == code
    assert named in caught.value.message
    assert str(folder) in caught.value.message


def test_a_regular_file_is_no_model_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="found no folder") as caught:
        artifact.load(tmp_path / "file")
    assert caught.value.code == "model.not_found"


# --- saving -------------------------------------------------------------------------------------


def half_then(error: BaseException) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise error

    return write


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("no"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (PermissionError(errno.EACCES, "Permission denied"), StorageError),
    ],
    ids=["error", "interrupt", "full-disk", "forbidden"],
)
def test_a_save_that_fails_leaves_the_old_model_as_it_was(
    error: BaseException,
    raised: type[BaseException],
    copied: Trained,
    pretrained: PretrainedFolder,
) -> None:
    folder = copied("classif")
    before, version = listing(folder), artifact.load(folder).version
    with pytest.raises(raised):
        save(folder, pretrained(), write_weights=half_then(error))
    assert listing(folder) == before
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert artifact.load(folder).version == version


def test_a_first_save_that_fails_leaves_nothing_behind(
    pretrained: PretrainedFolder, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="no"):
        save(tmp_path / "model", pretrained(), write_weights=half_then(RuntimeError("no")))
    assert listing(tmp_path) == {}
    with pytest.raises(ModelError):
        artifact.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (PermissionError(errno.EACCES, "Permission denied"), "that you may write"),
        (OSError(errno.EROFS, "Read-only file system"), "not read-only"),
        (OSError(errno.EIO, "Input/output error"), "check the folder"),
    ],
    ids=["full", "forbidden", "read-only", "other"],
)
def test_what_the_file_system_refuses_is_named_with_its_cure(
    error: OSError, cure: str, pretrained: PretrainedFolder, tmp_path: Path
) -> None:
    with pytest.raises(StorageError) as caught:
        save(tmp_path / "model", pretrained(), write_weights=half_then(error))
    assert caught.value.code == "storage.write"
    for part in (str(tmp_path / "model"), error.strerror, cure):
        assert part in caught.value.message


@pytest.mark.parametrize("place", ["file", "file/model", "file/deep/model"])
def test_a_place_where_no_folder_can_be_is_a_storage_error(
    place: str, pretrained: PretrainedFolder, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="cannot write") as caught:
        save(tmp_path / place, pretrained())
    assert caught.value.code == "storage.write"
    assert (tmp_path / "file").read_text() == "mine"


def test_saving_over_a_model_replaces_it(copied: Trained, pretrained: PretrainedFolder) -> None:
    folder = copied("classif")
    (folder / "code" / "stale.py").write_text("")
    saved = save(folder, pretrained())
    assert artifact.load(folder).version == saved.version
    assert saved.manifest.task_state == {"labels": ["good", "naïve 東京", "z"]}
    assert not (folder / "code" / "stale.py").exists()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "good", 1: "naïve 東京", 2: "z"}
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_save_that_fails_between_two_files_leaves_no_mixed_model(
    copied: Trained, pretrained: PretrainedFolder
) -> None:
    folder = copied("classif")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json" / "in the way").mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot write"):
        save(folder, pretrained())
    with pytest.raises(ModelError) as caught:
        artifact.load(folder)
    assert caught.value.code == "model.no_manifest"
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_saving_leaves_other_files_of_the_folder_alone(
    pretrained: PretrainedFolder, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    saved = save(tmp_path, pretrained())
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert "notes.txt" not in saved.manifest.files


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    files.write_json(file, {"naïve": 1})
    assert file.read_text("utf-8") == '{\n  "naïve": 1\n}\n'
    with pytest.raises(TypeError):
        files.write_json(file, {"bad": object()})
    assert json.loads(file.read_text("utf-8")) == {"naïve": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_digests_are_those_of_sha256(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "file").write_bytes(content)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_versions_are_those_of_installed_packages() -> None:
    found = artifact.installed_versions(["numpy", "no-such-package-here"])
    assert found == {"numpy": np.__version__}
