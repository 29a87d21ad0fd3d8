"""``tfserve train``, ``tune``, ``evaluate`` and ``calibrate``: models, and how good they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from tfserve.cli import options
from tfserve.cli.answering import progress
from tfserve.hparams import HParams


@click.command()
@options.channels
@click.option("--model_dir", required=True, help="Where the model directory is written.")
@click.option("--output_dir", help="Metrics, predictions, events. Default: MODEL_DIR-output.")
@click.option("--checkpoint_dir", help="Checkpoints to resume from. Default: in output_dir.")
@options.hyperparameters
def train(**values: str | None) -> None:
    """Fine-tune a model; run the same command again after an interruption to go on."""
    given, folders = _parsed(values)
    from tfserve.training import train as run

    metrics = run(given, **folders)
    if os.environ.get("RANK", "0") != "0":  # another process of torchrun's has said it
        return
    for split, values_ in metrics.items():
        click.echo(f"{split}: {_summary(values_)}")
    click.echo(f"model: {folders['model_dir']}")


@click.command()
@options.channels
@click.option("--output_dir", required=True, help="The search; its best model is in best/.")
@click.option(
    "--trials", type=click.IntRange(1), default=20, show_default=True, help="Trainings in all."
)
@click.option("--search", help="Hyperparameters, by commas. Default: all with a range, not given.")
@options.hyperparameters
def tune(trials: int, search: str | None, **values: str | None) -> None:
    """Train again and again with other hyperparameters, and keep the best model on dev.

    The first trial takes the defaults. Run the same command again after an interruption to go on.
    """
    given, folders = _parsed(values)
    from tfserve.tuning import tune as run

    def told(trial: dict[str, Any]) -> None:
        chosen = "  ".join(f"{k} {v:.4g}" for k, v in trial["hparams"].items()) or "the defaults"
        said = f"{trial['value']:.4f}" if "value" in trial else trial["error"]
        click.echo(f"trial {trial['number']}: {said}  ({chosen})")

    names = [name.strip() for name in search.split(",")] if search else None
    best = run(given, trials=trials, search=names, watched=told, **folders)[0]
    told(best)
    click.echo(f"model: {Path(folders['output_dir']) / 'best'}")


@click.command()
@click.argument("model")
@click.argument("file")
@click.option("--compare", metavar="OTHER", help="A model directory to set beside MODEL.")
@click.option(
    "--output", help="A folder for metrics.json, predictions.jsonl and report.html (extra report)."
)
@click.option("--json", "as_json", is_flag=True, help="Print what metrics.json holds.")
@options.computed
def evaluate(
    model: str,
    file: str,
    compare: str | None,
    output: str | None,
    as_json: bool,
    engine: str,
    precision: str,
) -> None:
    """Metrics of the MODEL directory on the labelled FILE, with 95% intervals.

    With --compare those of both models, and whether what sets them apart is more than chance.
    """
    from tfserve.evaluated import Evaluated
    from tfserve.evaluation.notes import notes

    names = [model] if compare is None else [model, compare]
    if len({Path(name).resolve() for name in names}) < len(names):
        raise click.UsageError("expected two models to compare, found the same twice")
    evaluated = Evaluated.of(names, file, engine=engine, precision=precision, watched=progress)
    for name, found in zip(names, evaluated.found, strict=True):
        for note in notes(found):
            click.echo(f"note: {name}: {note}", err=True)
    click.echo(json.dumps(evaluated.as_dict(), ensure_ascii=False, indent=2) if as_json
               else evaluated.render())  # fmt: skip
    if output is not None:
        evaluated.write(Path(output))
        if not as_json:
            click.echo(f"output: {output}")


@click.command()
@click.argument("model")
@click.argument("file")
@click.option("--output", required=True, help="The new model directory.")
@options.choices
def calibrate(model: str, file: str, output: str, **values: str | None) -> None:
    """Fit the temperatures and thresholds of the MODEL directory anew, to the labelled FILE.

    For another aim, or texts that have changed, without a training: FILE holds rows that the model
    was not trained on. What is not given stays as it was in training; `none` takes back an aim.
    """
    from tfserve.evaluation.notes import notes
    from tfserve.training.recalibration import calibrate as run

    given = {name: value for name, value in values.items() if value is not None}
    found = run(model, file, output, **given)
    for note in notes(found):
        click.echo(f"note: {note}", err=True)
    click.echo(_summary(found.metrics))
    click.echo(f"model: {output}")


def _parsed(values: dict[str, str | None]) -> tuple[dict[str, str], dict[str, str]]:
    """Hyperparameters and folders that were given; a typo is reported before heavy imports."""
    given = {name: value for name, value in values.items() if value is not None}
    folders = {name: given.pop(name) for name in list(given) if name.endswith("_dir")}
    HParams.parse(given)
    return given, folders


def _summary(metrics: dict[str, Any]) -> str:
    return "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if isinstance(v, float))
