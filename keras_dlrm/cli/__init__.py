"""The command line `keras-dlrm`: one file for each command, listed in `COMMANDS`."""

import importlib

import click

from keras_dlrm.cli.program import run

COMMANDS = (
    "schema", "preprocess", "synthesize", "twin", "train", "tune", "evaluate", "compare", "predict", "export", "serve", "convert",
    "plan", "verify", "index", "retrieve", "recommend",
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


def main(args: list[str] | None = None) -> None:
    """Entry point: see `program.run` for exit codes."""
    run(group, args, "keras-dlrm")
