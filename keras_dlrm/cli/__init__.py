"""The command line: `keras-dlrm preprocess | train | evaluate | predict | export | serve | …`, see `COMMANDS`."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

COMMANDS = (
    "preprocess", "synthesize", "twin", "train", "evaluate", "compare", "predict", "export", "serve", "convert", "plan",
    "verify",
)  # fmt: skip


class _Lazy(click.Group):
    """Commands are imported when called: `--help` is quick, and `--backend` is read before Keras is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"keras_dlrm.cli.{name}").command


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keras-dlrm")
def group() -> None:
    """Deep learning recommendation models for Keras 3 on TensorFlow, JAX and torch.

    \b
    keras-dlrm train                                  a planted click log, end to end
    keras-dlrm preprocess tables --help               your own Parquet or CSV files
    keras-dlrm train --data my-log --model DCNv2      a model on them
    """


def main(args: list[str] | None = None) -> Any:
    """Entry point: exit code 0, or 2 and one sentence on standard error for bad input."""
    try:
        return group.main(args=args, prog_name="keras-dlrm")
    except (ValueError, TypeError, KeyError, OSError, RuntimeError, ImportError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        click.echo(f"error: {text}", err=True)
        sys.exit(2)
