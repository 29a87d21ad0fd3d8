"""The command line: ``check | explore | train | tune | evaluate | calibrate | predict | export |
serve | call | package | doctor | deploy | destroy``.

Flags are named as the hyperparameters; booleans are words (``--use_bbox true``). An error is one
readable line and exit status 1; a traceback is shown with ``--debug`` only.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from tfserve import __version__, options
from tfserve.answering import answer, parsed, progress
from tfserve.aws.cli import deploy, destroy
from tfserve.errors import StoppedError, TfserveError
from tfserve.hparams import HParams


@click.group(context_settings={"token_normalize_func": lambda name: name.replace("-", "_")})
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Fine-tune a Transformer encoder on a table of texts, and use it."""


cli.add_command(deploy)
cli.add_command(destroy)


def _parsed(values: dict[str, str | None]) -> tuple[dict[str, str], dict[str, str]]:
    """Hyperparameters and folders that were given; a typo is reported before heavy imports."""
    given = {name: value for name, value in values.items() if value is not None}
    folders = {name: given.pop(name) for name in list(given) if name.endswith("_dir")}
    HParams.parse(given)
    return given, folders


@cli.command()
@options.tables
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    data_dir: str, task_name: str, model_name: str | None, use_bbox: bool, as_json: bool
) -> None:
    """Say what is in the tables of DATA_DIR and what is wrong; exit status 1 if anything is."""
    from tfserve import checks

    folder = _model_folder(model_name) if model_name else None
    report = checks.check(data_dir, task_name, model_folder=folder, use_bbox=use_bbox)
    click.echo(json.dumps(report.as_dict(), ensure_ascii=False, indent=2) if as_json
               else checks.render(report))  # fmt: skip
    if not report.ok:
        sys.exit(1)


@cli.command()
@options.tables
@click.option("--output", default="explore.html", help="The page.", show_default=True)
def explore(
    data_dir: str, task_name: str, output: str, model_name: str | None, use_bbox: bool
) -> None:
    """Show what is in the tables of DATA_DIR as a page: labels, lengths, twins, leaks, odd rows.

    Exit status 1 if anything is wrong with them.
    """
    from tfserve import checks
    from tfserve.exploration import explore as run
    from tfserve.report import exploration

    folder = _model_folder(model_name) if model_name else None
    found = run(data_dir, task_name, model_folder=folder, use_bbox=use_bbox)
    click.echo(checks.render(found.check))
    if found.tables:
        leaks = sum(len(found.leaks(name)) for name in found.tables)
        repeats = sum(len(found.repeats(name)) for name in found.tables)
        click.echo(f"{leaks:,} rows of dev and test nearly repeat one of an earlier split")
        click.echo(f"{repeats:,} rows nearly repeat one of their own split")
        click.echo(f"{len(found.conflicting()):,} rows nearly repeat a text with another label")
        exploration.page(found, title=f"What is in {Path(data_dir).resolve().name}?").write(
            Path(output)
        )
        click.echo(f"page: {output}")
    if not found.check.ok:
        sys.exit(1)


@cli.command()
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


@cli.command()
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


@cli.command()
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


@cli.command()
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


@cli.command()
@click.argument("model")
@options.asked
@options.computed
def predict(
    model: str,
    source: str,
    output: str | None,
    resume: bool,
    engine: str,
    precision: str,
    **given: Any,
) -> None:
    """Answer every record of IN (.jsonl, .csv, .tsv, or - for JSON Lines on standard input).

    One line per record, in order, with the record's other keys; a bad record is answered with its
    error. Until all is done, OUTPUT is called OUTPUT.partial.
    """
    parameters = _parameters(given)

    def answers(samples: Iterable[tuple[int, Any]]) -> Iterator[dict[str, Any]]:
        from tfserve.predictor import load

        predictor = load(model, engine=engine, precision=precision)
        return predictor.stream(parsed(samples, predictor), parameters)

    asked = {**parameters, "engine": engine, "precision": precision}
    answer(source, output, resume, (model, asked), answers)


@cli.command()
@click.argument("url")
@options.asked
@click.option("--workers", default=4, help="Requests at a time.", show_default=True)
def call(
    url: str, source: str, output: str | None, resume: bool, workers: int, **given: Any
) -> None:
    """Have the server at URL answer every record of IN, as predict does.

    A key, if it wants one, is read from where it has its own: TFSERVE_API_KEYS or
    TFSERVE_API_KEYS_FILE.
    """
    parameters = _parameters(given)

    def answers(samples: Iterable[tuple[int, Any]]) -> Iterator[dict[str, Any]]:
        from tfserve import client
        from tfserve.settings import Settings

        keys = Settings.from_environment().api_keys
        key = keys[0] if keys else None
        return client.by_line(url, samples, parameters, key=key, workers=workers)

    answer(source, output, resume, (url, parameters), answers)


@cli.command()
@click.argument("model")
@click.option("--engine", default="openvino", help="openvino or onnx.", show_default=True)
@click.option("--output", help="A new folder without the weights. Default: add it to MODEL.")
@click.option("--int8", is_flag=True, help="Matrix products in int8, if dev's metric hardly drops.")
@click.option("--dev", help="A labelled file, for --int8.")
def export(model: str, engine: str, output: str | None, int8: bool, dev: str | None) -> None:
    """Make the graph of the MODEL directory that another engine runs on CPUs."""
    from tfserve.export import export as run

    if int8 != (dev is not None):
        raise click.UsageError("expected --int8 and --dev FILE together")
    found, quantized = run(model, engine, output=output, dev=dev)
    size = sum((found.path / name).stat().st_size for name in found.manifest.files)
    click.echo(f"{found.path}: {engine}, {size / 1e6:,.1f} MB in all")
    if quantized is not None:
        click.echo(quantized)


@cli.command()
@click.argument("model")
@click.option("--output", "-o", default="model.tar.gz", help="The archive. Default: model.tar.gz.")
def package(model: str, output: str) -> None:
    """Write the MODEL directory as SageMaker takes it; the same files give the same bytes."""
    from tfserve.archive import package as pack

    file = pack(model, output)
    click.echo(f"{file}: {file.stat().st_size / 1e6:,.1f} MB")


@cli.command()
@click.argument("archive")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(archive: str, as_json: bool) -> None:
    """Say whether ARCHIVE (a model.tar.gz or a directory) would start and answer in a container.

    Its own code runs without a network, as the HuggingFace containers call it; exit status 1 if
    anything is wrong.
    """
    from tfserve import doctor as examination

    findings = examination.examine(archive)
    click.echo(examination.as_json(findings) if as_json else examination.render(findings))
    if any(finding.level == examination.WRONG for finding in findings):
        sys.exit(1)


@cli.command()
@click.argument("model")
@click.option("--host", default="127.0.0.1", help="Where to listen.")
@click.option("--port", type=int, default=8080, help="0 takes one that is free.")
@click.option("--root-path", default="", help="Where a proxy in front has put it.")
@click.option(
    "--keep-unhealthy",
    is_flag=True,
    help="Do not end when the model cannot be loaded: /ping says why.",
)
def serve(model: str, **given: Any) -> None:
    """Serve the MODEL directory over HTTP; /docs says how to ask.

    Limits, keys and defaults are settings of the environment (TFSERVE_…).
    """
    from tfserve.server.worker import ahead

    with ahead(model) as first:
        from tfserve.server.run import serve as run

        run(model, first=first, **given)


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    return {name: v for name, v in given.items() if v is not None and v is not False}


def _model_folder(model_name: str) -> str:
    """A folder with the model's tokenizer; only a hub id needs more than the core installed."""
    if Path(model_name).is_dir():
        return model_name
    from tfserve.training.pretrained import Pretrained

    return str(Pretrained.find(model_name).folder)


def _summary(metrics: dict[str, Any]) -> str:
    return "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if isinstance(v, float))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every failure is one line and an exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    if debug:
        given.remove("--debug")
    else:
        warnings.simplefilter("ignore")
    logging.basicConfig(format="%(levelname)s %(message)s", level="DEBUG" if debug else "WARNING")
    try:
        cli.main(given, "tfserve", standalone_mode=False)
    except StoppedError as error:
        _fail(str(error), error.exit_status)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output went away: nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except click.ClickException as error:
        _fail(error.format_message())
    except TfserveError as error:
        if debug:
            raise
        _fail(f"{error} [{error.code}]" if error.code not in str(error) else str(error))
    except Exception as error:
        if debug:
            raise
        _fail(f"unexpected {type(error).__name__}: {error}; --debug shows where")


def _fail(message: str, status: int = 1) -> NoReturn:
    click.echo(f"tfserve: {message}", err=True)
    sys.exit(status)
