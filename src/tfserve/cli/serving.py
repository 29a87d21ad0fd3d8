"""``tfserve predict``, ``call``, ``export``, ``package``, ``doctor``, ``serve``: models in use."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from tfserve.cli import options
from tfserve.cli.answering import answer, parsed


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
@click.argument("model")
@click.option("--output", "-o", default="model.tar.gz", help="The archive. Default: model.tar.gz.")
def package(model: str, output: str) -> None:
    """Write the MODEL directory as SageMaker takes it; the same files give the same bytes."""
    from tfserve.archive import package as pack

    file = pack(model, output)
    click.echo(f"{file}: {file.stat().st_size / 1e6:,.1f} MB")


@click.command()
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


@click.command()
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
