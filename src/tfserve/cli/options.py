"""Flags that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from typing import Any

import click

from tfserve.hparams import CHOICES, HParams
from tfserve.parameters import SCHEMAS, bare

KINDS: dict[str, dict[str, Any]] = {
    "number": {"type": float}, "integer": {"type": int}, "boolean": {"is_flag": True},
}  # fmt: skip
"""Schema's type → flag's; `on_error` has no flag, as bad lines of a file cost themselves alone."""


def choices(command: Callable[..., None]) -> Callable[..., None]:
    """A flag for each hyperparameter that a trained model may still change."""
    return hyperparameters(command, CHOICES)


def hyperparameters(
    command: Callable[..., None], names: Collection[str] | None = None
) -> Callable[..., None]:
    """A flag for each hyperparameter; values stay strings, as SageMaker sends them."""
    for f in reversed(fields(HParams)):
        if names is not None and f.name not in names:
            continue
        default = f"  [default: {f.default}]" if f.default not in (None, MISSING) else ""
        choices = "  [" + "|".join(f.metadata["choices"]) + "]" if "choices" in f.metadata else ""
        help_text = f.metadata["help"] + choices + default
        command = click.option(f"--{f.name}", help=help_text, metavar="VALUE")(command)
    return command


def tables(command: Callable[..., None]) -> Callable[..., None]:
    """Tables to look at, and the model whose tokens count."""
    for option in (
        click.option("--use_bbox", type=bool, default=False, help="Whether bbox will be used."),
        click.option(
            "--model_name", help="A folder or hub id: adds lengths in the model's tokens."
        ),
        click.option(
            "--task_name", required=True, help="classif, multilabel-classif, ner or regression."
        ),
        click.argument("data_dir"),
    ):
        command = option(command)
    return command


def channels(command: Callable[..., None]) -> Callable[..., None]:
    """Where the tables of a training lie."""
    for option in (
        click.option("--test_dir", help="Folder or file of test, if not in train_dir."),
        click.option("--dev_dir", help="Folder or file of dev, if not in train_dir."),
        click.option("--train_dir", required=True, help="Folder of the tables, or one file."),
    ):
        command = option(command)
    return command


def computed(command: Callable[..., None]) -> Callable[..., None]:
    """What computes, and in what precision."""
    for option in (
        click.option("--precision", default="auto", help="auto, fp32, bf16 or fp16."),
        click.option("--engine", default="auto", help="auto, torch, openvino or onnx."),
    ):
        command = option(command)
    return command


def asked(command: Callable[..., None]) -> Callable[..., None]:
    """The input, the output and the parameters of commands that answer records."""
    for name, schema in reversed(SCHEMAS.items()):
        if (kind := KINDS.get(bare(schema)["type"])) is not None:
            command = click.option(f"--{name}", help=schema["description"], **kind)(command)
    for option in (
        click.option("--resume", is_flag=True, help="Go on with an output that was interrupted."),
        click.option(
            "--output", help="Where the answers go, as JSON Lines. Default: standard output."
        ),
        click.argument("source", metavar="IN"),
    ):
        command = option(command)
    return command
