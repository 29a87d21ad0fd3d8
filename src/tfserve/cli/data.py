"""``tfserve check`` and ``explore``: what is in tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tfserve.cli import options


@click.command()
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


@click.command()
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


def _model_folder(model_name: str) -> str:
    """A folder with the model's tokenizer; only a hub id needs more than the core installed."""
    if Path(model_name).is_dir():
        return model_name
    from tfserve.training.pretrained import Pretrained

    return str(Pretrained.find(model_name).folder)
