from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import ready
import tiny
from conftest import PretrainedFolder, Trained
from processes import Process

import tfserve
from tfserve.cli import main, outputs
from tfserve.errors import ModelError
from tfserve.hparams import HParams

TFSERVE = [sys.executable, "-m", "tfserve"]


@pytest.fixture(scope="module", autouse=True)
def _one_core() -> Iterator[None]:
    with ready.one_core():
        yield


@pytest.fixture
def tfserve_(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line here; exit status, standard output and error."""

    def command(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        status = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            assert isinstance(end.code, int)
            status = end.code
        return (status, *capsys.readouterr())

    return command


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model() -> Path:
    return ready.ready("classif").model


def jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")
    return path


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


RECORDS: list[Any] = [
    {"id": 1, "text": "where is my parcel"},
    {"id": 2, "text": "naïve café 東京"},
    {"id": 3, "text": ""},
    "great coffee friendly staff",
    {"id": 5, "words": ["refund", "the", "invoice"], "note": {"a": [1, None]}},
    {"id": 6, "text": "cold food " * 100},
    {"id": 7, "text": "where is my parcel"},
]


# --- what it says of itself ---------------------------------------------------------------------


def test_the_help_lists_every_command(tfserve_: Command) -> None:
    status, out, err = tfserve_("--help")
    assert (status, err) == (0, "")
    for command in ("check", "explore", "train", "tune", "evaluate", "predict"):
        assert f"\n  {command} " in out


def test_the_help_of_train_lists_every_hyperparameter_with_default_and_choices(
    tfserve_: Command,
) -> None:
    status, out, _ = tfserve_("train", "--help")
    assert status == 0
    words = " ".join(out.split())
    for f in fields(HParams):
        assert f"--{f.name} VALUE {f.metadata['help']}" in words
        _, _, rest = words.partition(f"--{f.name} VALUE ")
        described = rest.partition(" --")[0]
        if f.default not in (None, MISSING):
            assert f"[default: {f.default}]" in described
        if "choices" in f.metadata:
            assert "|".join(f.metadata["choices"]) in described.replace(" ", "")


def test_the_version_is_the_packages(tfserve_: Command) -> None:
    assert tfserve_("--version") == (0, f"{tfserve.__version__}\n", "")


def test_help_and_typos_are_answered_without_importing_torch() -> None:
    program = (
        "import sys\n"
        "from tfserve.cli import main\n"
        "main(['train', '--help'])\n"
        "try:\n"
        "    main(['train', '--train_dir', '.', '--model_dir', 'm', '--task_name', 'ner',\n"
        "          '--model_name', 'x', '--learning_rate', 'high'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 1\n"
        "print(sorted({'torch', 'transformers', 'sklearn', 'numpy.linalg'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] in ("[]", "['numpy.linalg']")
    assert "learning_rate: found 'high'; expected a number" in done.stderr


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([*TFSERVE, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{tfserve.__version__}\n")


# --- errors -------------------------------------------------------------------------------------

FOLDERS = ("--train_dir", ".", "--model_dir", "m")
BASE = (*FOLDERS, "--task_name", "ner", "--model_name", "x")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", *BASE, "--nonesuch", "1"], "No such option '--nonesuch'"),
        (["train", *BASE, "--learning_rat", "1"], "--learning_rate"),
        (["train", *FOLDERS], "task_name is missing"),
        (["train", "--task_name", "ner"], "Missing option '--train_dir'"),
        (["train", *BASE, "--use_bbox"], "Option '--use_bbox' requires an argument"),
        (
            ["train", *BASE, "--use_bbox", "maybe"],
            "use_bbox: found 'maybe'; expected true or false",
        ),
        (["train", *BASE, "--max_steps", "1.5"], "max_steps: found '1.5'; expected a whole number"),
        (["train", *BASE, "--learning-rate", "7"], "learning_rate: found '7'; expected a number"),
        (["train", *BASE, "--precision", "bf61"], "did you mean bf16?"),
        (["train", *BASE, "--seed", "-1", "--stride", "x"], "stride: found 'x'"),
        (["check", ".", "--task_name", "nerr"], "task_name: found 'nerr'"),
        (["check", ".", "--task_name", "ner", "--use_bbox", "maybe"], "'maybe'"),
        (["predict", "/no/such/model", "-"], "found no folder /no/such/model"),
        (["predict", "."], "Missing argument 'IN'"),
        (["predict", ".", "x.jsonl", "--top_k", "few"], "'few'"),
        (["evaluate", "/no/such/model", "x.csv"], "found no folder /no/such/model"),
    ],
)
def test_an_error_is_one_line_and_exit_status_1(
    arguments: list[str], says: str, tfserve_: Command
) -> None:
    status, out, err = tfserve_(*arguments)
    assert status == 1
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("tfserve: ")
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "{model}", "/no/such/file.jsonl"], "found no file /no/such/file.jsonl"),
        (
            ["predict", "{model}", "{tmp}/in.jsonl", "--output", "{tmp}/no/out"],
            "cannot write {tmp}",
        ),
        (["predict", "{model}", "{tmp}/in.jsonl", "--precision", "fp61"], "found 'fp61'"),
        (
            ["predict", "{model}", "{tmp}/in.jsonl", "--threshold", "0.5"],
            "expected none for 4 labels",
        ),
        (
            ["predict", "{model}", "{tmp}/in.jsonl", "--top_k", "0"],
            "top_k: expected a whole number",
        ),
        (["evaluate", "{model}", "/no/such/file.csv"], "cannot read /no/such/file.csv"),
        (["evaluate", "{model}", "{model}", "--precision", "fp61"], "found 'fp61'"),
    ],
)
def test_an_error_of_a_file_or_setting_is_one_line_and_exit_status_1(
    arguments: list[str], says: str, tfserve_: Command, model: Path, tmp_path: Path
) -> None:
    jsonl(tmp_path / "in.jsonl", ["where is my parcel"])
    status, out, err = tfserve_(*(a.format(model=model, tmp=tmp_path) for a in arguments))
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith(f"tfserve: {says.format(tmp=tmp_path)}") or says in err


def test_problems_of_a_table_are_listed_with_file_and_line(
    tfserve_: Command, model: Path, tmp_path: Path
) -> None:
    rows = [("great coffee", "praise"), ("", "order"), ("cold food", "")]
    file = tiny.table(tmp_path / "bad.csv", rows, ("text", "labels"))
    status, out, err = tfserve_("evaluate", model, file)
    assert (status, out) == (1, "")
    said = err.splitlines()
    assert said[0] == "tfserve: 2 problems in the data"
    assert said[1].startswith(f"  {file}:3: text: found an empty text")
    assert said[2].startswith(f"  {file}:4: labels: found an empty cell")
    assert len(said) == 3


def test_debug_raises_instead(tfserve_: Command) -> None:
    with pytest.raises(ModelError) as caught:
        tfserve_("predict", "/no/such/model", "-", "--debug")
    assert caught.value.code == "model.not_found"


def test_debug_gives_a_traceback(tmp_path: Path) -> None:
    process = Process(["--debug", "predict", "/no/such/model", "-"], tmp_path / "log")
    assert process.wait() == 1
    assert "Traceback (most recent call last)" in process.err
    assert "ModelError: found no folder /no/such/model" in process.err


# --- check --------------------------------------------------------------------------------------


def test_check_of_good_tables_says_so(tfserve_: Command) -> None:
    status, out, err = tfserve_("check", ready.ready("classif").data, "--task_name", "classif")
    assert (status, err) == (0, "")
    assert "train: 24 rows in " in out
    assert "labels  billing 6, delivery 6, order 6, praise 6" in out
    assert out.splitlines()[-1] == "no problems"


def test_check_as_json_holds_counts_and_lengths(tfserve_: Command) -> None:
    made = ready.ready("classif")
    status, out, _ = tfserve_(
        "check", made.data, "--task-name", "classif", "--json", "--model_name",
        made.model.parent / "pretrained",
    )  # fmt: skip
    report = json.loads(out)
    assert status == 0
    assert report["ok"] is True
    assert report["problems"] == []
    assert report["capacity"] == 64
    assert {name: split["rows"] for name, split in report["splits"].items()} == {
        "train": 24, "dev": 8, "test": 8,
    }  # fmt: skip
    assert report["splits"]["train"]["labels"] == dict.fromkeys(
        ("billing", "delivery", "order", "praise"), 6
    )
    assert report["splits"]["train"]["tokens"]["p100"] > report["splits"]["train"]["words"]["p50"]


@pytest.mark.parametrize("as_json", [False, True])
def test_check_of_bad_tables_exits_with_1(as_json: bool, tfserve_: Command, tmp_path: Path) -> None:
    rows = [("great coffee", "praise"), ("", "order"), ("cold food", ""), ("12 crates", "order")]
    file = tiny.table(tmp_path / "data" / "train.csv", rows, ("text", "labels"))
    flags = ["--json"] * as_json
    status, out, _ = tfserve_("check", tmp_path / "data", "--task_name", "classif", *flags)
    assert status == 1
    if as_json:
        report = json.loads(out)
        assert report["ok"] is False
        found = [(p["code"], p["file"], p["line"], p["column"]) for p in report["problems"]]
        assert found == [
            ("record.text_empty", str(file), 3, "text"),
            ("label.empty", str(file), 4, "labels"),
        ]
    else:
        assert f"problem: {file}:3: text: found an empty text" in out
        assert out.splitlines()[-1] == "2 problems"


@pytest.mark.parametrize(("word", "read"), [("true", True), ("yes", True), ("false", False)])
def test_booleans_are_words(word: str, read: bool, tfserve_: Command, tmp_path: Path) -> None:
    data = tiny.data(tmp_path / "data", "ner", boxed=True)
    rows = tiny.rows("ner", 24, boxed=True)
    rows[0] = (rows[0][0], "1 2 3", rows[0][2])  # matters only where boxes are read
    tiny.table(data / "train.csv", rows, ("text", "bbox", "labels"))
    status, out, _ = tfserve_("check", data, "--task_name", "ner", "--use_bbox", word)
    assert status == int(read)
    assert ("bbox: found 3 numbers" in out) == read


# --- train --------------------------------------------------------------------------------------


def _flags(hp: dict[str, Any], dash: bool = False) -> list[str]:
    names = {name: name.replace("_", "-") if dash else name for name in hp}
    return [part for name, value in hp.items() for part in (f"--{names[name]}", str(value))]


def test_dashes_and_underscores_in_flags_are_the_same(tfserve_: Command, tmp_path: Path) -> None:
    made = ready.ready("classif")
    hp = tiny.hparams("classif", made.model.parent / "pretrained", max_steps=2)
    found = []
    for name in ("dash", "underscore"):
        dash = name == "dash"
        folders = {"train_dir": made.data, "model_dir": tmp_path / name}
        status, out, _ = tfserve_("train", *_flags({**folders, **hp}, dash))
        assert status == 0
        weights = (tmp_path / name / "model.safetensors").read_bytes()
        results = json.loads((tmp_path / f"{name}-output" / "metrics.json").read_text("utf-8"))
        found.append((weights, results["hparams"], results["test"]))
        assert out.splitlines()[-1] == f"model: {tmp_path / name}"
        accuracy = results["test"]["accuracy"]
        assert f"test: accuracy {accuracy:.4f}" in out
        assert "dev: loss " in out
    assert found[0] == found[1]
    assert found[0][1]["learning_rate"] == 1e-3


def test_channels_are_given_one_by_one(tfserve_: Command, tmp_path: Path) -> None:
    made = ready.ready("regression")
    for split in ("train", "dev", "test"):
        (tmp_path / split).mkdir()
        shutil.copyfile(made.data / f"{split}.csv", tmp_path / split / "part.csv")
    hp = tiny.hparams("regression", made.model.parent / "pretrained", max_steps=2)
    folders = {
        **{f"{split}_dir": tmp_path / split for split in ("train", "dev", "test")},
        "model_dir": tmp_path / "model",
        "output_dir": tmp_path / "output",
        "checkpoint_dir": tmp_path / "checkpoints",
    }
    assert tfserve_("train", *_flags({**folders, **hp}))[0] == 0
    results = json.loads((tmp_path / "output" / "metrics.json").read_text("utf-8"))
    assert results["rows"] == {"train": 24, "dev": 8, "test": 8}
    assert (tmp_path / "checkpoints" / "checkpoint-2").is_dir()
    assert not (tmp_path / "model-output").exists()


# --- tune ---------------------------------------------------------------------------------------


def test_tune_says_what_it_tried_and_where_the_best_is(
    tfserve_: Command, pretrained: PretrainedFolder, tmp_path: Path
) -> None:
    data, output = tiny.data(tmp_path / "data", "classif"), tmp_path / "search"
    flags = {"--task_name": "classif", "--model_name": pretrained(), "--train_dir": data,
             "--output_dir": output, "--trials": 2, "--search": "warmup_ratio", "--max_steps": 2,
             "--report": "false", "--precision": "fp32"}  # fmt: skip
    status, out, _ = tfserve_("tune", *(part for flag in flags.items() for part in flag))
    assert status == 0
    said = [line for line in out.splitlines() if line.startswith("trial ")]
    assert said[0].startswith("trial 0: ") and said[0].endswith("(the defaults)")
    assert re.search(r"trial 1: 0\.\d{4}  \(warmup_ratio 0\.\d+\)", said[1])
    assert len(said) == 3 and out.endswith(f"model: {output / 'best'}\n")
    assert (output / "best" / "tfserve.json").is_file()


# --- evaluate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ready.KINDS)
def test_evaluate_prints_the_test_metrics_of_training(
    kind: str, tfserve_: Command, tmp_path: Path
) -> None:
    made = ready.ready(kind)
    output = tmp_path / "evaluated"
    status, out, _ = tfserve_(
        "evaluate", made.model, made.data / "test.csv", "--output", output, "--precision", "fp32",
        "--json",
    )  # fmt: skip
    trained = json.loads((made.output / "metrics.json").read_text("utf-8"))
    assert status == 0
    assert json.loads(out) == trained["test"]
    assert json.loads((output / "metrics.json").read_text("utf-8")) == trained["test"]
    written = lines((output / "predictions.jsonl").read_text("utf-8"))
    known = lines((made.output / "test_predictions.jsonl").read_text("utf-8"))
    assert written == ready.about(known)
    assert len(written) == 8

    assert (output / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_evaluate_says_metrics_with_their_intervals(tfserve_: Command, tmp_path: Path) -> None:
    made, output = ready.ready("classif"), tmp_path / "evaluated"
    file = made.data / "test.csv"
    status, out, _ = tfserve_("evaluate", made.model, file, "--output", output)
    found = json.loads((output / "metrics.json").read_text("utf-8"))
    said = out.splitlines()
    assert status == 0
    assert said[:2] == ["classif: 8 rows of test.csv", "metric       model  95% interval"]
    low, high = found["intervals"]["accuracy"]
    assert f"accuracy     {found['accuracy']:.3f}  {low:.3f} to {high:.3f}" in said
    assert [line.split()[0] for line in said[2:]] == [
        "accuracy", "f1_macro", "f1_weighted", "ece", "ece_chance", "output:",
    ]  # fmt: skip


def test_a_difference_says_whether_it_is_more_than_chance(
    tfserve_: Command, tmp_path: Path
) -> None:
    one = ready.ready("classif")
    never = shutil.copytree(one.model, tmp_path / "never")
    manifest = json.loads((never / "tfserve.json").read_text("utf-8"))
    manifest["task_state"]["abstain"] = 1.0
    (never / "tfserve.json").write_text(json.dumps(manifest), "utf-8")
    file = one.data / "train.csv"
    status, out, _ = tfserve_("evaluate", one.model, file, "--compare", never)
    said = {line.split()[0]: line for line in out.splitlines()}
    assert status == 0
    assert said["metric"].split()[:3] == ["metric", "model", "never"]
    assert said["accuracy"].endswith("0.001, significant")
    assert said["coverage"].split() == ["coverage", "0.000"]  # the first always answers
    assert said["ece"].split()[0] == "ece" and len(said["ece"].split()) == 3
    copied = shutil.copytree(one.model, tmp_path / "copied")
    _, out, _ = tfserve_("evaluate", one.model, file, "--compare", copied)
    assert "significant" not in out
    assert out.splitlines()[2].split()[3:] == ["0.000", "0.000", "to", "0.000", "1.000"]


def test_two_models_are_compared(tfserve_: Command, tmp_path: Path) -> None:
    one = ready.ready("classif")
    other = shutil.copytree(one.model, tmp_path / "other")
    file, output = one.data / "test.csv", tmp_path / "compared"
    status, out, _ = tfserve_(
        "evaluate", one.model, file, "--compare", other, "--output", output, "--json"
    )
    assert status == 0
    told = json.loads(out)
    assert list(told["models"]) == [str(one.model), str(other)]
    same = told["differences"]["accuracy"]
    assert same["one"] == same["other"] == told["models"][str(other)]["accuracy"]
    assert (same["interval"], same["p"], same["significant"]) == ([0, 0], 1, False)
    assert "model or other?" in (output / "report.html").read_text("utf-8")
    ner = ready.ready("ner").model
    status, out, err = tfserve_("evaluate", one.model, file, "--compare", ner)
    assert (status, out) == (1, "")
    assert f"{one.model} is a model for classif, {ner} one for ner" in err


def test_a_model_is_not_compared_with_itself(tfserve_: Command, model: Path) -> None:
    file = ready.ready("classif").data / "test.csv"
    for same in (model, model.parent / "." / "pretrained" / ".." / model.name):
        status, out, err = tfserve_("evaluate", model, file, "--compare", same)
        assert (status, out) == (1, "")
        assert err == "tfserve: expected two models to compare, found the same twice\n"


def test_models_of_one_name_are_told_apart_by_their_paths(
    tfserve_: Command, tmp_path: Path
) -> None:
    one = ready.ready("regression")
    other = shutil.copytree(one.model, tmp_path / "elsewhere" / one.model.name)
    output = tmp_path / "compared"
    given = ("evaluate", one.model, one.data / "test.csv", "--compare", other, "--output", output)
    assert tfserve_(*given)[0] == 0
    assert f"{one.model} or {other}?" in (output / "report.html").read_text("utf-8")


@pytest.mark.parametrize("task", ["ner", "regression"])
def test_what_a_comparison_writes_is_what_it_prints(
    task: str, tfserve_: Command, trained: Trained, tmp_path: Path
) -> None:
    one, other, output = ready.ready(task), trained(task), tmp_path / "compared"
    file = one.data / "test.csv"
    status, out, _ = tfserve_(
        "evaluate", one.model, file, "--compare", other, "--output", output, "--precision", "fp32",
        "--json",
    )  # fmt: skip
    assert status == 0
    told = json.loads(out)
    assert json.loads((output / "metrics.json").read_text("utf-8")) == told
    assert told["models"][str(one.model)] == one.metrics["test"]
    metric = ready.METRIC[task]
    difference = told["differences"][metric]
    assert difference["one"] == one.metrics["test"][metric]
    assert difference["other"] == told["models"][str(other)][metric] != difference["one"]
    written = lines((output / "predictions.jsonl").read_text("utf-8"))
    table = tfserve.tables.read_table(file, tfserve.tasks.get(task))
    texts, labels = [record.text for record in table.records], table.labels
    assert [line.pop("text") for line in written] == texts
    assert [line.pop("labels") for line in written] == json.loads(json.dumps(labels))
    assert written == ready.about(ready.predictor(task).predict(texts))


# --- explore ------------------------------------------------------------------------------------


def test_explore_writes_a_page_and_says_what_matters(tfserve_: Command, tmp_path: Path) -> None:
    data, page = tmp_path / "data", tmp_path / "page.html"
    text = "please send the twelve crates of lemons before friday"
    rows = [(text, "a"), (f"{text}!", "a"), *[(f"no {i} of quite others", "b") for i in range(29)]]
    rows.append((f"{text} or so", "b"))
    tiny.table(data / "train.csv", rows, ("text", "labels"))
    tiny.table(data / "dev.csv", [(text, "a"), ("something else", "b")], ("text", "labels"))
    status, out, err = tfserve_("explore", data, "--task_name", "classif", "--output", page)
    assert (status, err) == (0, "")
    assert "train: 32 rows in " in out and out.endswith(f"page: {page}\n")
    assert "labels  b 30, a 2\n  note    15 : 1 from the commonest label to the rarest" in out
    assert "\n1 rows of dev and test nearly repeat one of an earlier split\n" in out
    assert "\n2 rows nearly repeat one of their own split\n" in out
    assert "\n1 rows nearly repeat a text with another label\n" in out
    assert "What is in data?" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "found no rows"),
        ([("one text", "a"), ("another text", "a")], "found one label only"),
        ([("one text", ""), ("another text", "")], "empty cell"),
    ],
    ids=["empty", "one class", "no labels"],
)
def test_explore_of_bad_tables_says_why(
    rows: list[tuple[str, str]], says: str, tfserve_: Command, tmp_path: Path
) -> None:
    tiny.table(tmp_path / "data" / "train.csv", rows, ("text", "labels"))
    page = tmp_path / "page.html"
    given = ("explore", tmp_path / "data", "--task_name", "classif", "--output", page)
    status, out, _ = tfserve_(*given)
    assert status == 1
    assert says in out
    assert page.exists() == (says == "found one label only")


# --- predict ------------------------------------------------------------------------------------


def predicted(tfserve_: Command, model: Path, source: Any, *flags: Any) -> list[dict[str, Any]]:
    status, out, _ = tfserve_("predict", model, source, "--precision", "fp32", *flags)
    assert status == 0
    return lines(out)


def test_answers_come_in_order_with_the_records_other_keys(
    tfserve_: Command, model: Path, tmp_path: Path
) -> None:
    answers = predicted(tfserve_, model, jsonl(tmp_path / "in.jsonl", RECORDS))
    assert len(answers) == 7
    assert [a.get("id") for i, a in enumerate(answers) if i not in (2, 3)] == [1, 2, 5, 6, 7]
    assert answers[4]["note"] == {"a": [1, None]}
    assert answers[0] == {**answers[6], "id": 1}
    assert [i for i, a in enumerate(answers) if a.get("truncated")] == [5]
    good = [record for i, record in enumerate(RECORDS) if i != 2]
    expected = ready.predictor("classif").predict(good)
    assert [a for i, a in enumerate(answers) if i != 2] == ready.about(expected)


def test_a_bad_record_is_answered_with_its_error_and_counted(
    tfserve_: Command, model: Path, tmp_path: Path
) -> None:
    source = jsonl(tmp_path / "in.jsonl", RECORDS)
    source.write_text(source.read_text("utf-8") + "{broken\n\nnull\n", "utf-8")
    status, out, err = tfserve_("predict", model, source)
    assert status == 0
    errors = {n: a["error"] for n, a in enumerate(lines(out), 1) if "error" in a}
    assert {n: e["code"] for n, e in errors.items()} == {
        3: "record.text_empty", 8: "record.not_json", 9: "record.blank_line", 10: "record.type",
    }  # fmt: skip
    assert all(e["line"] == n for n, e in errors.items())
    assert "4 records could not be answered; their lines hold the error" in err


def test_a_bad_record_keeps_its_other_keys(tfserve_: Command, model: Path, tmp_path: Path) -> None:
    answers = predicted(tfserve_, model, jsonl(tmp_path / "in.jsonl", RECORDS))
    assert answers[2]["id"] == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", "text\tid\twhy\nwhere is my parcel\t1\ta\n\ncold food\t2\tb\n"),
        ("in.tsv", "id\ttext\twhy\n1\twhere is my parcel\ta\n2\tcold food\tb\n"),
        ("in.csv", 'id,text,why\n1,"where is my parcel",a\n2,cold food,b\n'),
        ("in.csv", "\ufefftext;id;why\r\nwhere is my parcel;1;a\r\ncold food;2;b\r\n"),
    ],
    ids=["csv with tabs", "tsv", "csv with commas", "csv with semicolons"],
)
def test_tables_are_predicted_with_their_columns(
    name: str, content: str, tfserve_: Command, model: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    answers = predicted(tfserve_, model, tmp_path / name)
    expected = ready.predictor("classif").predict(["where is my parcel", "cold food"])
    more = [{"id": "1", "why": "a"}, {"id": "2", "why": "b"}]
    assert answers == [{**ready.about(e), **m} for e, m in zip(expected, more, strict=True)]


def test_a_table_with_boxes_and_labels_is_predicted(tfserve_: Command) -> None:
    made = ready.ready("boxed ner")
    answers = predicted(tfserve_, made.model, made.data / "test.csv")
    table = tfserve.tables.read_table(
        made.data / "test.csv", tfserve.tasks.get("ner"), use_bbox=True
    )
    assert [" ".join(row.label) for row in table.rows] == [a["labels"] for a in answers]
    assert [len(a["pred"]) for a in answers] == [len(row.record.words) for row in table.rows]


def test_a_bad_row_of_a_table_is_answered_with_its_line(
    tfserve_: Command, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "in.csv"
    file.write_bytes(b"text\tid\ngreat coffee\t1\ncold\tfood\t2\nca\xe9\t3\n\t4\nstaff\t5\n")
    answers = predicted(tfserve_, model, file)
    assert [a.get("error", {}).get("code") for a in answers] == [
        None, "record.columns", "data.not_utf8", "record.text_empty", None,
    ]  # fmt: skip
    assert [a["error"]["line"] for a in answers if "error" in a] == [3, 4, 5]
    assert [a["id"] for a in answers if "pred" in a] == ["1", "5"]


def test_a_table_without_a_text_column_says_so(
    tfserve_: Command, model: Path, tmp_path: Path
) -> None:
    file = tiny.table(tmp_path / "in.csv", [("great coffee", "1")], ("sentence", "id"))
    status, out, err = tfserve_("predict", model, file)
    assert (status, out) == (1, "")
    assert "expected 'text' among them: rename 'sentence'?" in err


@pytest.mark.parametrize(
    ("flags", "counts"),
    [(["--top_k", "2"], [2, 2]), (["--scores"], [4, 4]), (["--top-k", "9"], [4, 4])],
)
def test_scores_are_given_when_asked(
    flags: list[str], counts: list[int], tfserve_: Command, model: Path, tmp_path: Path
) -> None:
    source = jsonl(tmp_path / "in.jsonl", ["where is my parcel", "cold food"])
    answers = predicted(tfserve_, model, source, *flags)
    assert [len(a["scores"]) for a in answers] == counts
    for answer in answers:
        assert answer["scores"][answer["pred"]] == answer["proba"] == max(answer["scores"].values())


@pytest.mark.parametrize("threshold", [0, 0.25, 0.75, 1])
def test_a_threshold_decides_which_labels_are_given(
    threshold: float, tfserve_: Command, tmp_path: Path
) -> None:
    source = jsonl(tmp_path / "in.jsonl", ["where is my parcel", "cold food rude staff"])
    model = ready.ready("multilabel-classif").model
    for answer in predicted(tfserve_, model, source, "--threshold", threshold, "--scores"):
        over = {label for label, score in answer["scores"].items() if score >= threshold}
        assert set(answer["pred"]) == over
        assert answer["proba"] == [answer["scores"][label] for label in answer["pred"]]
        if threshold == 0:
            assert len(over) == 4


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """Records and the output of a prediction that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    source = jsonl(folder / "in.jsonl", RECORDS)
    main(["predict", str(model), str(source), "--precision", "fp32", "--output",
          str(folder / "out.jsonl")])  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.jsonl"]
    return source, (folder / "out.jsonl").read_bytes()


def test_an_output_file_holds_what_is_printed_otherwise(
    whole: tuple[Path, bytes], tfserve_: Command, model: Path
) -> None:
    assert predicted(tfserve_, model, whole[0]) == lines(whole[1].decode("utf-8"))


@pytest.mark.parametrize(
    ("kept", "resume"),
    [(0, True), (1, True), (20, True), ("after 1 line", True), ("in line 4", True),
     ("in the last line", True), ("after the last line", True), ("in line 4", False)],
)  # fmt: skip
def test_an_interrupted_output_is_gone_on_with(
    kept: int | str, resume: bool, whole: tuple[Path, bytes], tfserve_: Command, model: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    source, content = whole
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    places: dict[int | str, int] = {
        "after 1 line": ends[0],
        "in line 4": ends[2] + 9,
        "in the last line": ends[-1] - 1,
        "after the last line": ends[-1],
    }
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    partial.write_bytes(content[: places.get(kept, kept)])  # type: ignore[call-overload]
    noted(output, source, model, precision="fp32")
    flags = ["--resume"] * resume
    status, out, _ = tfserve_(
        "predict", model, source, "--precision", "fp32", "--output", output, *flags
    )
    assert (status, out) == (0, "")
    assert output.read_bytes() == content
    assert not partial.exists()


def test_going_on_does_not_answer_again_what_was_answered(
    whole: tuple[Path, bytes], tfserve_: Command, model: Path, tmp_path: Path
) -> None:
    source, content = whole
    output = tmp_path / "out.jsonl"
    mark = b'{"pred":"kept as it was"}\n'
    Path(f"{output}.partial").write_bytes(mark * 2)
    noted(output, source, model, precision="auto")
    assert tfserve_("predict", model, source, "--output", output, "--resume")[0] == 0
    assert output.read_bytes().splitlines(keepends=True)[:2] == [mark, mark]
    assert len(output.read_bytes().splitlines()) == len(content.splitlines())


@pytest.mark.parametrize("other", ["input", "model", "settings", "no note"])
def test_an_interrupted_output_of_another_command_is_not_gone_on_with(
    other: str, whole: tuple[Path, bytes], tfserve_: Command, model: Path, tmp_path: Path
) -> None:
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    partial.write_bytes(whole[1].splitlines(keepends=True)[0])
    before = partial.read_bytes()
    noted(output, whole[0], model, precision="auto")
    note = Path(f"{partial}.json")
    asked = json.loads(note.read_text("utf-8"))
    note.write_text(json.dumps({**asked, other: "another"}), "utf-8")
    if other == "no note":
        note.unlink()
    status, out, err = tfserve_("predict", model, whole[0], "--output", output, "--resume")
    assert (status, out) == (1, "")
    assert "[storage.other_output]" in err and "without --resume" in err
    assert partial.read_bytes() == before
    assert tfserve_("predict", model, whole[0], "--output", output)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_going_on_with_a_complete_output_leaves_it_as_it_is(
    tfserve_: Command, model: Path, tmp_path: Path, whole: tuple[Path, bytes]
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("done\n" * 7, "utf-8")
    status, out, err = tfserve_("predict", model, whole[0], "--output", output, "--resume")
    assert (status, out) == (0, "")
    assert f"{output} is complete" in err
    assert output.read_text("utf-8") == "done\n" * 7
    output.write_text("done\n", "utf-8")
    status, out, err = tfserve_("predict", model, whole[0], "--output", output, "--resume")
    assert (status, out) == (1, "")
    assert "1 answers to 7 records" in err
    assert output.read_text("utf-8") == "done\n"


def noted(output: Path, source: Path, model: Path, **settings: Any) -> None:
    """Leave the note of an interrupted output."""
    asked = outputs.question(str(source), model, {"engine": "auto", **settings})
    Path(f"{output}.partial.json").write_text(json.dumps(asked), "utf-8")


def test_an_output_that_is_a_folder_is_refused_at_once(
    whole: tuple[Path, bytes], tfserve_: Command, tmp_path: Path
) -> None:
    output = tmp_path / "folder"
    output.mkdir()
    status, _, err = tfserve_("predict", tmp_path / "no-model", whole[0], "--output", output)
    assert status == 1
    assert "Is a directory" in err
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_evaluate_says_which_labels_the_model_does_not_know(
    tfserve_: Command, model: Path, tmp_path: Path
) -> None:
    tiny.table(
        tmp_path / "other.csv", [("late", "delivery"), ("why", "Fragen")], ("text", "labels")
    )
    status, out, err = tfserve_("evaluate", model, tmp_path / "other.csv", "--json")
    assert status == 0
    assert json.loads(out)["accuracy"] <= 0.5
    assert f"note: {model}: The model does not know 1 of the labels (Fragen): " in err


def test_a_prediction_that_is_interrupted_keeps_its_whole_lines_and_is_gone_on_with(
    model: Path, tfserve_: Command, tmp_path: Path
) -> None:
    texts = [text for text, _ in tiny.rows("classif", 24)]
    source = jsonl(tmp_path / "in.jsonl", [{"id": i, "text": texts[i % 24]} for i in range(60_000)])
    output = tmp_path / "out.jsonl"
    partial = Path(f"{output}.partial")
    command = ["predict", str(model), str(source), "--precision", "fp32", "--output", str(output)]
    process = Process(command, tmp_path / "log")
    process.wait_until(lambda: partial.exists() and partial.stat().st_size > 1000)
    process.send(signal.SIGINT)
    assert process.wait() == 130
    assert process.err.splitlines()[-1] == "tfserve: interrupted"
    assert not output.exists()
    assert 0 < partial.read_bytes().count(b"\n") < 60_000
    assert tfserve_(*command, "--resume")[0] == 0
    answers = lines(output.read_text("utf-8"))
    assert [answer["id"] for answer in answers] == list(range(60_000))
    expected = ready.about(ready.predictor("classif").predict(texts))
    assert [{"pred": a["pred"], "proba": a["proba"]} for a in answers[-24:]] == expected


def test_a_character_that_utf8_cannot_write_does_not_cost_the_others_their_answers(
    tfserve_: Command, model: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "great coffee", "id": "\\ud800"}\n"cold food"\n', "utf-8")
    output = tmp_path / "out.jsonl"
    status, _, err = tfserve_("predict", model, source, "--output", output)
    assert (status, err) == (0, "")
    answers = lines(output.read_text("utf-8"))
    assert len(answers) == 2
    assert "pred" in answers[1]


def test_standard_input_is_read_as_json_lines(model: Path) -> None:
    body = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)
    command = [*TFSERVE, "predict", str(model), "-", "--precision", "fp32"]
    done = subprocess.run(command, input=body.encode("utf-8"), capture_output=True)
    assert done.returncode == 0, done.stderr
    answers = lines(done.stdout.decode("utf-8"))
    good = [record for i, record in enumerate(RECORDS) if i != 2]
    expected = ready.predictor("classif").predict(good)
    assert [a for i, a in enumerate(answers) if i != 2] == ready.about(expected)
    assert answers[2]["error"]["line"] == 3


def test_a_reader_that_goes_away_is_no_error_to_speak_of(model: Path, tmp_path: Path) -> None:
    running = []
    for count in (1, 9000):  # less than a buffer, more than a pipe
        records = [{"id": i, "text": "where is my parcel"} for i in range(count)]
        source = jsonl(tmp_path / f"{count}.jsonl", records)
        command = [*TFSERVE, "predict", str(model), str(source)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.close()
        running.append(process)
    said = []
    for process in running:
        assert process.stderr is not None
        said.append((process.stderr.read().decode("utf-8"), process.wait()))
        process.stderr.close()
    assert said == [("", 1), ("", 1)]


def test_the_command_line_leaves_no_client_text_in_the_log(
    tfserve_: Command, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source = jsonl(
        tmp_path / "in.jsonl", ["Zanzibar", {"Zanzibar": 1}, {"text": "", "a": "Zanzibar"}]
    )
    status, _, err = tfserve_("predict", model, source)
    assert status == 0
    assert "2 records could not be answered" in err
    assert "Zanzibar" not in caplog.text + err
