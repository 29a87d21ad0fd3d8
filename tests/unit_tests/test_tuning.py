"""A search over hyperparameters, on tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import PretrainedFolder

import tfserve
from tfserve import tuning
from tfserve.errors import HParamsError, ModelError, StoppedError, StorageError, TfserveError
from tfserve.hparams import HParams
from tfserve.tuning import tune


@pytest.fixture
def given(pretrained: PretrainedFolder, tmp_path: Path) -> dict[str, Any]:
    hparams = tiny.hparams("classif", pretrained(), metric_for_best_model="eval_loss")
    del hparams["learning_rate"]
    return {"hparams": hparams, "train_dir": tiny.data(tmp_path / "data", "classif"),
            "output_dir": tmp_path / "search"}  # fmt: skip


def told(given: dict[str, Any]) -> list[dict[str, Any]]:
    trials = json.loads((given["output_dir"] / tuning.TRIALS).read_text("utf-8"))["trials"]
    assert isinstance(trials, list)
    return trials


@pytest.mark.parametrize("metric", ["eval_loss", "accuracy"])  # less is better, and more is
def test_the_best_of_all_trials_is_kept(
    metric: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    returned: list[dict[str, Any]] = []

    def scored(hparams: dict[str, Any], **folders: Any) -> dict[str, Any]:
        metrics = dict(tfserve.train(hparams, **folders))
        metrics["dev"]["accuracy"] = (0.2, 0.9, 0.5)[len(returned)]
        returned.append(metrics)
        return metrics

    monkeypatch.setattr(tuning, "train", scored)
    given["hparams"]["metric_for_best_model"] = metric
    seen: list[dict[str, Any]] = []
    found = tune(**given, trials=3, search=["learning_rate", "warmup_ratio"], watched=seen.append)
    assert [trial["number"] for trial in seen] == [0, 1, 2] and told(given) == seen
    assert seen[0]["hparams"] == {}
    ranges = HParams.ranges()
    for trial in seen[1:]:
        assert trial["hparams"].keys() == {"learning_rate", "warmup_ratio"}
        for name, value in trial["hparams"].items():
            assert ranges[name].low <= value <= ranges[name].high
    losses = [metrics["dev"]["loss"] for metrics in returned]
    order = [1, 2, 0] if metric == "accuracy" else sorted(range(3), key=losses.__getitem__)
    assert [trial["number"] for trial in found] == order
    values = [0.9, 0.5, 0.2] if metric == "accuracy" else sorted(losses)
    assert [trial["value"] for trial in found] == values
    test = returned[order[0]]["test"]
    assert {"accuracy", "f1_macro"} < found[0]["test"].keys()
    assert found[0]["test"].keys() == test.keys() - {"per_label", "intervals"}  # no numbers
    assert found[0]["test"] == pytest.approx({n: test[n] for n in found[0]["test"]}, rel=1e-5)
    best = tfserve.load(given["output_dir"] / "best", precision="fp32")
    assert best.artifact is not None
    manifest = best.artifact.manifest
    assert manifest.metrics["dev"]["loss"] == pytest.approx(losses[order[0]])
    chosen = found[0]["hparams"]
    assert {name: manifest.hparams[name] for name in chosen} == chosen
    kept = {path.name for path in given["output_dir"].iterdir()}
    assert kept == {"best", tuning.TRIALS}


def test_what_is_given_is_not_searched(given: dict[str, Any]) -> None:
    given["hparams"] |= {"learning-rate": 1e-3, "weight_decay": 0.02}
    with pytest.raises(HParamsError, match="in the search; expected not, as it is given"):
        tune(**given, trials=2, search=["learning_rate"])
    tune(**given, trials=2)
    searched = set(told(given)[1]["hparams"])
    assert "warmup_ratio" in searched
    assert not searched & {"learning_rate", "weight_decay", "num_train_epochs"}  # max_steps is


def test_a_search_goes_on_where_it_was_broken_off(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def broken(hparams: dict[str, Any], **folders: Any) -> dict[str, Any]:
        asked.append(hparams)
        if len(asked) == 2:
            raise StoppedError("training.stopped", "stopped by SIGTERM")
        return dict(tfserve.train(hparams, **folders))

    monkeypatch.setattr(tuning, "train", broken)
    with pytest.raises(StoppedError):
        tune(**given, trials=3, search=["learning_rate"])
    assert len(told(given)) == 1 and (given["output_dir"] / tuning.RUNNING).is_file()
    tune(**given, trials=3, search=["learning_rate"])
    assert len(told(given)) == 3
    assert asked[2] == asked[1] != asked[3]  # the same trial again, then another
    monkeypatch.setattr(tuning, "train", None)
    assert len(tune(**given, trials=3, search=["learning_rate"])) == 3  # nothing is left to do
    with pytest.raises(StorageError, match="found another search"):
        tune(**given, trials=4, search=["warmup_ratio"])
    with pytest.raises(StorageError, match="found another search"):
        tune(**given, trials=4, search=["learning_rate"], dev_dir=given["train_dir"] / "test.csv")
    moved = given["train_dir"].rename(given["train_dir"].with_name("moved"))
    assert len(tune(**{**given, "train_dir": moved}, trials=3, search=["learning_rate"])) == 3
    tiny.table(moved / "train.csv", tiny.rows("classif", 20), ("text", "labels"))
    with pytest.raises(StorageError, match="found another search"):
        tune(**{**given, "train_dir": moved}, trials=3, search=["learning_rate"])


def test_a_search_goes_on_after_a_trial_that_could_not_be_written(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, content: Any) -> None:
        if file.name == tuning.TRIALS and len(content["trials"]) == 2:
            raise OSError("no space left")
        plain(file, content)

    plain = tuning.write_json
    monkeypatch.setattr(tuning, "write_json", full)
    with pytest.raises(StorageError, match="cannot write"):
        tune(**given, trials=3, search=["warmup_ratio"])
    monkeypatch.setattr(tuning, "write_json", plain)
    tune(**given, trials=3, search=["warmup_ratio"])
    assert [trial["number"] for trial in told(given)] == [0, 1, 2]


@pytest.mark.parametrize(
    "error",
    [
        HParamsError("hparams.value", "no such thing"),
        ModelError("model.not_finite", "nan"),
        ModelError("model.memory", "no memory"),
    ],
    ids=str,
)
def test_a_trial_that_cannot_be_costs_itself_alone(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: TfserveError
) -> None:
    calls: list[Any] = []

    def picky(hparams: dict[str, Any], **folders: Any) -> dict[str, Any]:
        calls.append(hparams)
        if len(calls) == 2:
            raise error
        return dict(tfserve.train(hparams, **folders))

    monkeypatch.setattr(tuning, "train", picky)
    found = tune(**given, trials=3, search=["learning_rate"])
    assert found[-1]["error"] == error.message and "value" not in found[-1]
    assert [trial["number"] for trial in told(given)] == [0, 1, 2]


@pytest.mark.parametrize("further", [False, True])
def test_a_trial_that_kills_its_process_is_given_up(
    further: bool, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(**given, trials=1, search=["learning_rate"])
    running, plain = given["output_dir"] / tuning.RUNNING, tuning.write_json
    checkpoints = given["output_dir"] / "trial-1" / "output" / "checkpoints"
    asked = []

    def killed(file: Path, content: Any) -> None:
        plain(file, content)
        if file == running:  # all that a killed process leaves
            raise SystemExit

    for step in range(tuning.MOST_STARTS):
        monkeypatch.setattr(tuning, "write_json", killed)
        with pytest.raises(SystemExit):
            tune(**given, trials=3, search=["learning_rate"])
        left = json.loads(running.read_text("utf-8"))
        asked.append((left["number"], left["hparams"]))
        if further:
            (checkpoints / f"checkpoint-{step + 1}").mkdir(parents=True)
    assert asked == [asked[0]] * tuning.MOST_STARTS
    monkeypatch.setattr(tuning, "write_json", plain)
    if further:  # what stands there is no checkpoint in truth
        shutil.rmtree(checkpoints.parent)
    tune(**given, trials=3, search=["learning_rate"])
    _, trial, other = told(given)
    assert (1, trial["hparams"]) == asked[0] and trial.keys() <= {*other, "error"}
    assert trial.get("error") == (None if further else "its process was killed 3 times")
    assert other["value"] and other["hparams"] != trial["hparams"]


@pytest.mark.parametrize(
    "error",
    [StoppedError("training.stopped", "by SIGTERM"), StorageError("storage.write", "no space"),
     KeyboardInterrupt()],
    ids=["stopped", "full", "interrupted"],
)  # fmt: skip
def test_what_ends_with_a_reason_was_not_killed(
    error: BaseException, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: Any, **__: Any) -> Any:
        raise error

    plain = tuning.train
    tune(**given, trials=1, search=["learning_rate"])
    monkeypatch.setattr(tuning, "train", ended)
    for _ in range(tuning.MOST_STARTS + 1):
        with pytest.raises(type(error)):
            tune(**given, trials=2, search=["learning_rate"])
    monkeypatch.setattr(tuning, "train", plain)
    tune(**given, trials=2, search=["learning_rate"])
    assert told(given)[1]["value"]


def test_proposals_are_the_same_after_the_same_trials() -> None:
    ranges = HParams.ranges()
    found: list[dict[str, Any]] = [{"number": 0, "hparams": {}, "value": 0.5}]
    for number in range(1, 15):
        trial, again = (tuning._proposed(found, ranges, 1.0, 7) for _ in range(2))
        assert trial == again and trial["number"] == number
        assert trial["hparams"].keys() == ranges.keys()
        assert all(trial["hparams"] != other["hparams"] for other in found)
        failed = number % 5 == 0
        found.append({**trial, **({"error": "no"} if failed else {"value": 0.1 * number})})


def test_the_best_model_outlives_a_kill_between_two_renames(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(**given, trials=1, search=["learning_rate"])
    best = given["output_dir"] / tuning.BEST
    replaced = best.rename(given["output_dir"] / tuning.REPLACED)
    assert len(tune(**given, trials=1, search=["learning_rate"])) == 1
    assert (best / "tfserve.json").is_file()
    shutil.copytree(best, replaced)  # or after both
    assert len(tune(**given, trials=1, search=["learning_rate"])) == 1
    assert (best / "tfserve.json").is_file() and not replaced.exists()


def test_a_search_runs_in_one_process(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(HParamsError, match="found 2 processes"):
        tune(**given)


def test_what_is_wrong_with_the_first_trial_is_said(given: dict[str, Any]) -> None:
    with pytest.raises(HParamsError, match="expected some of"):
        tune(**given, search=["seed"])
    every = {name: (*each.choices, each.high)[0] for name, each in HParams.ranges().items()}
    with pytest.raises(HParamsError, match="found nothing to search"):
        tune(**{**given, "hparams": {**given["hparams"], **every}})
    limited = {**given, "hparams": {**given["hparams"], "max_steps": 3}}
    with pytest.raises(HParamsError, match="overridden by max_steps"):
        tune(**limited, search=["num_train_epochs"])
    given["hparams"]["metric_for_best_model"] = "f7"
    with pytest.raises(HParamsError, match="metric_for_best_model"):
        tune(**given, trials=2, search=["learning_rate"])
