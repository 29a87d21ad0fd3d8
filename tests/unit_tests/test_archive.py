"""``tfserve package`` and ``tfserve doctor``."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Trained

from tfserve import archive, doctor
from tfserve.cli import main
from tfserve.errors import ModelError, StorageError

INFERENCE = "code/inference.py"


def names(file: Path) -> list[str]:
    with tarfile.open(file) as tar:
        return tar.getnames()


def wrong(folder: Path) -> str:
    """All that the doctor holds to be wrong."""
    return doctor.render([f for f in doctor.examine(folder) if f.level == doctor.WRONG])


def test_an_archive_holds_the_model_and_nothing_else(copied: Trained, tmp_path: Path) -> None:
    model = copied("classif")
    (model / "notes.txt").write_text("mine", "utf-8")
    (model / "code" / "__pycache__").mkdir(exist_ok=True)
    (model / "code" / "__pycache__" / "inference.pyc").write_bytes(b"x")
    found = names(archive.package(model, tmp_path / "out" / "model.tar.gz"))
    assert found == sorted(found)
    assert {"config.json", "model.safetensors", "tokenizer.json", "tfserve.json", INFERENCE,
            "code/tfserve/handlers.py", "code/jsonlines/__init__.py"} <= set(found)  # fmt: skip
    assert not [n for n in found if "notes.txt" in n or "pycache" in n or n.startswith(("/", "."))]


def test_the_same_model_gives_the_same_bytes(copied: Trained, tmp_path: Path) -> None:
    model = copied("classif")
    first = archive.package(model, tmp_path / "a.tar.gz").read_bytes()
    moved = shutil.copytree(model, tmp_path / "elsewhere")
    for file in moved.rglob("*"):
        os.utime(file, (time.time() + 1000, 1))
        file.chmod(0o755)
    assert archive.package(moved, tmp_path / "b.tar.gz").read_bytes() == first


def test_a_damaged_model_is_not_packed(copied: Trained, tmp_path: Path) -> None:
    model = copied("classif")
    (model / "config.json").write_text("{}", "utf-8")
    with pytest.raises(ModelError) as caught:
        archive.package(model, tmp_path / "model.tar.gz")
    assert caught.value.code == "model.tampered"
    assert not list(tmp_path.glob("*.tar.gz*"))


def test_an_archive_that_cannot_be_written_leaves_nothing(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", "utf-8")
    with pytest.raises(StorageError):
        archive.package(trained("classif"), tmp_path / "file" / "model.tar.gz")
    (tmp_path / "taken").mkdir()
    with pytest.raises(StorageError):
        archive.package(trained("classif"), tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


@pytest.mark.parametrize(
    ("task", "family"), [("classif", "bert"), ("ner", "layoutlm"), ("regression", "roberta")]
)
def test_an_archive_of_a_trained_model_is_found_well(
    task: str, family: str, trained: Trained, tmp_path: Path
) -> None:
    file = archive.package(trained(task, family), tmp_path / "model.tar.gz")
    findings = doctor.examine(file)
    assert {f.level for f in findings} == {doctor.OK}, doctor.render(findings)
    assert [f.topic for f in findings] == ["archive", "model", "versions", "start", "answers"]
    assert "golden records, off by" in findings[-1].message
    assert json.loads(doctor.as_json(findings))[0]["topic"] == "archive"


def replace(old: str, new: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        file = model / INFERENCE
        file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")

    return change


def add(name: str, text: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        (model / name).parent.mkdir(exist_ok=True)
        with (model / name).open("a", encoding="utf-8") as file:
            file.write(text)

    return change


def manifest(**changes: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        file = model / "tfserve.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")

    return change


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda model: shutil.rmtree(model / "code"), "found no code/inference.py"),
        (add("model.safetensors", "x"), "model.safetensors is not the file that training wrote"),
        (lambda model: (model / "config.json").unlink(), "found no config.json"),
        (manifest(schema=99), "found schema version 99"),
        (lambda model: (model / "tfserve.json").unlink(), "found no tfserve.json"),
        (replace("input_fn, ", ""), "inference.py has no input_fn"),
        (add(INFERENCE, "\ndef predict_fn(data, model, context=None, more=1): ...\n"),
         "predict_fn takes 4 parameters; the toolkit wants 2 or 3"),
        (add(INFERENCE, "\ndef transform_fn(model, data, kind, accept): ...\n"),
         "transform_fn cannot stand beside"),
        (add(INFERENCE, "\nimport no_such_package\n"), "No module named 'no_such_package'"),
        (add(INFERENCE, "\nimport urllib.request as r\nr.urlopen('http://127.0.0.1:9')\n"),
         "no network here"),
        (add("code/torch/__init__.py", ""), "code/torch would replace the container's own torch"),
        (add("code/requirements.txt", "Torch==2.9\nattrs\n"),
         "requirements.txt would replace the container's own torch"),
        (lambda model: shutil.rmtree(model / "code" / "jsonlines"), "found no code/jsonlines"),
    ],
)  # fmt: skip
def test_what_a_container_would_complain_about_is_said(
    spoil: Callable[[Path], None], expected: str, copied: Trained
) -> None:
    model = copied("classif")
    spoil(model)
    said = wrong(model)
    assert expected in said
    assert "Traceback" not in said


def test_answers_that_differ_from_those_of_training_are_said(copied: Trained) -> None:
    model = copied("classif")
    golden = json.loads((model / "tfserve.json").read_text("utf-8"))["golden"]
    scores = golden[0]["answer"]["scores"]
    first = next(iter(scores))
    scores[first] = 1 - scores[first]
    manifest(golden=golden)(model)
    assert "answered differently than in training" in wrong(model)


def test_requirements_that_need_a_network_are_noted(copied: Trained) -> None:
    model = copied("classif")
    add("code/requirements.txt", "attrs\n")(model)
    findings = doctor.examine(model)
    assert [f.message for f in findings if f.level == doctor.NOTE] == [
        "requirements.txt is installed at start: an endpoint without a network fails"
    ]
    assert not wrong(model)


def test_a_model_packed_in_a_folder_is_told_from_one_at_the_root(
    trained: Trained, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(trained("classif"), "my-model")
    assert "the files lie in my-model/" in wrong(tmp_path / "model.tar.gz")


def refused(folder: Path) -> str:
    """Why the archive in a folder is not unpacked beside it; nothing of it is."""
    with pytest.raises(ModelError) as caught:
        archive.unpack(folder / "model.tar.gz", folder / "unpacked")
    assert not (folder / "unpacked").exists()
    return caught.value.code


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/outside.txt"])
def test_paths_that_lead_out_of_an_archive_are_refused(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    assert "expected plain files inside it" in wrong(tmp_path / "model.tar.gz")
    assert refused(tmp_path) == "archive.unsafe"
    assert not (tmp_path / "outside.txt").exists()


def test_links_in_an_archive_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("config.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert "expected plain files inside it" in wrong(tmp_path / "model.tar.gz")
    assert refused(tmp_path) == "archive.unsafe"


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00 cut off"])
def test_a_file_that_is_no_archive_is_said(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.tar.gz").write_bytes(content)
    assert "as a gzipped tar" in wrong(tmp_path / "model.tar.gz")
    assert refused(tmp_path) == "archive.unreadable"


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_says_what_is_wrong_and_fails(
    as_json: bool, copied: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    model = copied("classif")
    (model / "config.json").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(model), *["--json"] * as_json])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert said.err == ""
    if as_json:
        [finding] = json.loads(said.out)
        assert (finding["level"], finding["topic"]) == ("wrong", "model")
        assert finding["message"].startswith("found no config.json in ")
    else:
        assert said.out.startswith("wrong model        found no config.json in ")


def test_the_command_ends_well_where_nothing_is_wrong(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", str(trained("classif"))])
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["ok", "model"], ["ok", "versions"], ["ok", "start"], ["ok", "answers"],
    ]  # fmt: skip
    assert not list(trained("classif").rglob("*.pyc"))


def test_an_archive_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        doctor.examine(tmp_path / "none.tar.gz")
    assert caught.value.code == "archive.not_found"
