"""The command line: ``check | explore | train | tune | evaluate | calibrate | predict | export |
serve | call | package | doctor | deploy | destroy``.

Flags are named as the hyperparameters; booleans are words (``--use_bbox true``). An error is one
readable line and exit status 1; a traceback is shown with ``--debug`` only.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import NoReturn

import click

from tfserve import __version__
from tfserve.aws.cli import deploy, destroy
from tfserve.cli.data import check, explore
from tfserve.cli.serving import call, doctor, export, package, predict, serve
from tfserve.cli.training import calibrate, evaluate, train, tune
from tfserve.errors import StoppedError, TfserveError


@click.group(context_settings={"token_normalize_func": lambda name: name.replace("-", "_")})
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Fine-tune a Transformer encoder on a table of texts, and use it."""


for command in (
    check, explore, train, tune, evaluate, calibrate, predict, call, export, package, doctor, serve,
    deploy, destroy,
):  # fmt: skip
    cli.add_command(command)


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
