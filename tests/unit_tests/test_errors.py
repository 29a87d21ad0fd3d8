from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Trained

from tfserve import errors, job
from tfserve.aws.source import source_dir
from tfserve.errors import (
    BodyError,
    DataError,
    HParamsError,
    InstallError,
    MediaTypeError,
    ModelError,
    NotAcceptableError,
    ParameterError,
    Problem,
    RecordError,
    RequestError,
    StoppedError,
    StorageError,
    TfserveError,
    TooLargeError,
)
from tfserve.export import export

PLAIN_KINDS = [
    HParamsError,
    ModelError,
    InstallError,
    StorageError,
    StoppedError,
    RequestError,
    BodyError,
    RecordError,
    ParameterError,
    MediaTypeError,
    NotAcceptableError,
    TooLargeError,
]


def problems(count: int) -> list[Problem]:
    return [Problem("label.empty", "found x", "train.csv", n + 2, "labels") for n in range(count)]


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_every_error_is_a_tfserve_error_with_code_message_and_place(
    kind: type[TfserveError],
) -> None:
    error = kind("some.code", "found x", line=3, field="text")
    assert isinstance(error, TfserveError)
    assert error.as_dict() == {
        "code": "some.code",
        "message": "found x",
        "line": 3,
        "field": "text",
    }


@pytest.mark.parametrize(
    "kind", [BodyError, RecordError, ParameterError, MediaTypeError, TooLargeError]
)
def test_what_a_client_can_cause_is_a_request_error(kind: type[TfserveError]) -> None:
    assert issubclass(kind, RequestError)


@pytest.mark.parametrize("kind", [HParamsError, DataError, ModelError, InstallError, StorageError])
def test_what_a_client_cannot_cause_is_no_request_error(kind: type[TfserveError]) -> None:
    assert not issubclass(kind, RequestError)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BodyError("body.empty", "m"), 400),
        (RecordError("record.type", "m"), 400),
        (ParameterError("parameters.value", "m"), 400),
        (TooLargeError("record.too_long", "m"), 413),
        (MediaTypeError("content_type.unsupported", "m"), 415),
        (MediaTypeError("content_type.charset", "m"), 415),
        (NotAcceptableError("accept.unsupported", "m"), 406),
    ],
)
def test_status(error: TfserveError, status: int) -> None:
    assert error.status == status


def test_unknown_places_are_left_out() -> None:
    assert RecordError("c", "m", line=None, field="text").place == {"field": "text"}


@pytest.mark.parametrize(
    ("place", "text"),
    [({}, "found x"), ({"line": 3}, "found x (line 3)"),
     ({"index": 0, "field": "text"}, "found x (index 0, field text)")],
)  # fmt: skip
def test_str_names_the_place(place: dict[str, object], text: str) -> None:
    assert str(RecordError("c", "found x", **place)) == text


def test_at_adds_a_place_to_a_copy() -> None:
    error = RecordError("c", "m", field="text")
    placed = error.at(index=2, line=None)
    assert isinstance(placed, RecordError)
    assert placed.as_dict() == {"code": "c", "message": "m", "field": "text", "index": 2}
    assert error.place == {"field": "text"}


def test_at_overrides_an_earlier_place() -> None:
    assert RecordError("c", "m", line=1).at(line=9).place == {"line": 9}


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_errors_survive_pickling(kind: type[TfserveError]) -> None:
    error = pickle.loads(pickle.dumps(kind("some.code", "found x", line=3)))
    assert type(error) is kind
    assert (error.code, error.message, error.place) == ("some.code", "found x", {"line": 3})
    assert str(error) == "found x (line 3)"


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_data_error_survives_copying_and_pickling(again: object) -> None:
    error = DataError(problems(3))
    twin = again(error)  # type: ignore[operator]
    assert type(twin) is DataError
    assert twin.problems == error.problems
    assert str(twin) == str(error)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("data.empty", "found no rows", "a.csv"), "a.csv: found no rows [data.empty]"),
        (
            Problem("record.columns", "found 3 cells", "a.csv", 7),
            "a.csv:7: found 3 cells [record.columns]",
        ),
        (
            Problem("label.empty", "found nothing", "a.csv", 7, "labels"),
            "a.csv:7: labels: found nothing [label.empty]",
        ),
    ],
)
def test_a_problem_names_file_line_and_column(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_a_data_error_of_one_problem() -> None:
    error = DataError(problems(1))
    assert error.code == "data.problems"
    assert str(error) == (
        "1 problem in the data\n  train.csv:2: labels: found x [label.empty]"
    )  # fmt: skip


def test_a_data_error_of_twenty_problems_shows_them_all() -> None:
    lines = str(DataError(problems(20))).splitlines()
    assert lines[0] == "20 problems in the data"
    assert len(lines) == 21
    assert lines[-1].startswith("  train.csv:21:")


def test_a_data_error_shows_twenty_problems_and_keeps_all() -> None:
    error = DataError(problems(25))
    lines = str(error).splitlines()
    assert lines[0] == "25 problems in the data"
    assert lines[20].startswith("  train.csv:21:")
    assert "5 more" in lines[21]
    assert len(lines) == 22
    assert len(error.problems) == 25


def test_a_missing_extra_is_named_with_its_cure() -> None:
    error = errors.missing_extra("fastapi", "server")
    assert isinstance(error, InstallError)
    assert error.code == "install.missing_extra"
    assert "fastapi" in error.message
    assert "pip install '.[server]'" in error.message


def a_full_folder(folder: Path) -> None:
    (folder / "mine.txt").touch()
    source_dir(folder)


def hyperparameters_in_half(folder: Path) -> None:
    job.hyperparameters([], {"SM_HPS": '{"seed": '})


def hyperparameters_in_a_list(folder: Path) -> None:
    (folder / "input" / "config").mkdir(parents=True)
    (folder / "input" / "config" / "hyperparameters.json").write_text("[1]", "utf-8")
    job.hyperparameters([], {"SAGEMAKER_BASE_DIR": str(folder)})


@pytest.mark.parametrize(
    ("provoke", "kind", "code"),
    [
        (a_full_folder, StorageError, "storage.not_empty"),
        (hyperparameters_in_half, HParamsError, "hparams.not_json"),
        (hyperparameters_in_a_list, HParamsError, "hparams.not_json"),
    ],
)
def test_an_error_has_the_code_that_programs_compare(
    provoke: Callable[[Path], None], kind: type[TfserveError], code: str, tmp_path: Path
) -> None:
    with pytest.raises(kind) as caught:
        provoke(tmp_path)
    assert caught.value.code == code


def test_an_export_that_would_write_over_something_has_its_code(
    trained: Trained, tmp_path: Path
) -> None:
    with pytest.raises(StorageError) as caught:
        export(trained("classif"), "openvino", output=tmp_path)
    assert caught.value.code == "storage.exists"
    assert not list(tmp_path.iterdir())
