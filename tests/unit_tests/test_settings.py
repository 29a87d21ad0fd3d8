"""Settings from the environment, and what they change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Trained

from tfserve import handlers
from tfserve.errors import ParameterError, SettingsError, TooLargeError
from tfserve.settings import Settings

LINES = "application/jsonlines"


def test_settings_are_read_from_the_environment() -> None:
    assert Settings.from_environment({"LANG": "C", "TFSERVE_TOP_K": ""}) == Settings()
    environment = {
        "TFSERVE_ENGINE": "openvino",
        "TFSERVE_PRECISION": "fp32",
        "TFSERVE_TOP_K": "3",
        "TFSERVE_SCORES": "True",
        "TFSERVE_THRESHOLD": "0.25",
        "TFSERVE_ON_ERROR": "record",
        "TFSERVE_MAX_BODY_MB": "6",
        "TFSERVE_MAX_RECORDS": "500",
    }
    parameters = {"top_k": 3, "scores": True, "threshold": 0.25, "on_error": "record"}
    expected = Settings("openvino", "fp32", parameters, max_body_mb=6, max_records=500)
    assert Settings.from_environment(environment) == expected


def test_a_setting_may_be_an_object_whose_names_stay_as_they_are() -> None:
    environment = {"TFSERVE_THRESHOLD": '{"Anger": 0.25}', "TFSERVE_SCORES": "TRUE"}
    parameters = {"threshold": {"Anger": 0.25}, "scores": True}
    assert Settings.from_environment(environment).parameters == parameters


def test_settings_of_the_server_are_read(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one\n\n  two \n", "utf-8")
    environment = {
        "TFSERVE_DEADLINE_S": "5",
        "TFSERVE_MAX_QUEUE_TOKENS": "1000",
        "TFSERVE_API_KEYS_FILE": str(keys),
        "TFSERVE_CORS_ORIGINS": "https://a.example, https://b.example",
    }
    settings = Settings.from_environment(environment)
    assert (settings.deadline_s, settings.max_queue_tokens) == (5, 1000)
    assert settings.api_keys == ("one", "two")
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert Settings.from_environment({"TFSERVE_API_KEYS": "a,b"}).api_keys == ("a", "b")
    assert "one" not in repr(settings)


def test_batch_transform_may_take_its_time() -> None:
    batch = {"SAGEMAKER_BATCH": "True"}
    assert Settings.from_environment({}).deadline_s == 60
    assert Settings.from_environment(batch).deadline_s == 3600
    assert Settings.from_environment({**batch, "TFSERVE_DEADLINE_S": "9"}).deadline_s == 9


def test_no_key_is_shown(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(SettingsError, match=r"no key in .*keys; expected a key a line"):
        Settings.from_environment({"TFSERVE_API_KEYS_FILE": str(tmp_path / "keys")})
    with pytest.raises(SettingsError, match="found none; expected keys separated by commas"):
        Settings.from_environment({"TFSERVE_API_KEYS": " , "})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TFSERVE_TOP_K", "three", "'three'; expected a whole number of at least 1"),
        ("TFSERVE_TOP_K", "0", "at least 1"),
        ("TFSERVE_TOP_K", "true", "at least 1"),
        ("TFSERVE_SCORES", "1", "true or false"),
        ("TFSERVE_THRESHOLD", "half", "a number from 0 to 1"),
        ("TFSERVE_THRESHOLD", "NaN ", "a number from 0 to 1"),
        ("TFSERVE_PRECISION", "fp8", "auto, fp32, bf16, fp16"),
        ("TFSERVE_ON_ERROR", "ignore", "raise or record"),
        ("TFSERVE_MAX_BODY_MB", "-1", "of at least 1"),
        ("TFSERVE_DEADLINE_S", "soon", "of at least 1"),
        ("TFSERVE_API_KEYS_FILE", "/nowhere", "a file with a key a line"),
    ],
)
def test_a_setting_that_is_wrong_is_said(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({name: value})
    assert caught.value.code == "settings.value"
    assert name in caught.value.message
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("TFSERVE_TOPK", "did you mean TFSERVE_TOP_K?"),
        ("TFSERVE_Z", "top_k, scores, threshold, abstain, on_error, engine, "),
    ],
)
def test_a_setting_that_there_is_none_of_is_said(name: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({name: "3"})
    assert caught.value.code == "settings.unknown"
    assert caught.value.message.startswith(f"found {name}: {said}")


def test_settings_are_the_parameters_of_requests_that_give_none(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFSERVE_TOP_K", "2")
    monkeypatch.setenv("TFSERVE_PRECISION", "fp32")
    model = handlers.model_fn(trained("classif"))
    assert model.engine.precision == "fp32"
    request = handlers.input_fn(b'{"text": "a parcel"}\n{"text": "no parcel"}\n', LINES)
    for answer in handlers.predict_fn(request, model):
        assert len(answer["scores"]) == 2
    own = {"data": ["a parcel"], "parameters": {"top_k": 1}}
    request = handlers.input_fn(json.dumps(own), "application/json")
    assert len(handlers.predict_fn(request, model)[0]["scores"]) == 1
    assert [len(answer["scores"]) for answer in model.stream(["a", "b"])] == [2, 2]


def test_a_setting_that_the_task_does_not_know_fails_at_load(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFSERVE_THRESHOLD", "0.5")
    with pytest.raises(ParameterError, match="'threshold'; regression understands"):
        handlers.model_fn(trained("regression"))


def test_requests_over_a_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFSERVE_MAX_BODY_MB", "1")
    monkeypatch.setenv("TFSERVE_MAX_RECORDS", "2")
    with pytest.raises(TooLargeError, match="1,000,001 bytes; expected at most 1 MB") as caught:
        handlers.input_fn(b" " * 1_000_001, LINES)
    assert (caught.value.status, caught.value.code) == (413, "body.too_large")
    assert len(handlers.input_fn(b'"a"\n"b"\n', LINES).items) == 2
    with pytest.raises(TooLargeError, match="found more than 2 records") as caught:
        handlers.input_fn(b'"a"\n"b"\n"c"\n', LINES)
    assert caught.value.code == "body.too_many"
