"""Command `schema`: a schema file for a table, with the reason for each column."""

from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.files.durable import write
from keras_dlrm.schema.schema import Schema


@click.command(epilog="""\b
Examples:
  keras-dlrm schema clicks.parquet --label click > log.yaml
  keras-dlrm schema 'day_*.csv' --label click --output log.yaml
  keras-dlrm preprocess tables --schema log.yaml --train clicks.parquet --fractions 0.8 0.1 0.1 --output my-log
""")
@click.argument("inputs", nargs=-1, required=True)
@click.option("--label", required=True, multiple=True, help="Column of labels, 0 or 1; may be given for several.")
@click.option("--sample-weight", help="Column of row weights.")
@click.option("--output", type=shared.PathArgument, help="File to write; printed by default.")
@shared.csv_options
@shared.overwrite_option
def command(
    inputs: tuple[str, ...], label: tuple[str, ...], sample_weight: str | None, csv: Any, output: Path | None, overwrite: bool
) -> None:  # fmt: skip
    """Infer a schema from Parquet, CSV or TSV files: dense and sparse columns, their transforms, and what is left out and why.

    Read it before you train on it: each line has its reason as a comment.
    """
    if output is not None and output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; give --overwrite, or another file.")
    text = Schema.infer(list(inputs), label[0] if len(label) == 1 else label, sample_weight, csv).to_yaml()
    if output is None:
        click.echo(text, nl=False)
    else:
        write(output, text)
