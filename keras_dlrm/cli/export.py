"""`keras-dlrm export`."""

from __future__ import annotations

from pathlib import Path

import click

from keras_dlrm.cli.options import PathArgument, backend_option, json_option, load_model, print_json

EPILOG = """\b
Example:
  keras-dlrm export runs/a/model.keras --output served/clicks --data my-log
"""


@click.command(epilog=EPILOG)
@click.argument("model", type=PathArgument)
@click.option("--output", type=PathArgument, required=True, help="Folder of the versions.")
@click.option("--data", type=PathArgument, help="Processed directory whose preprocessor is saved beside the model.")
@click.option("--version", "number", type=int, help="Number of the version; the next one by default.")
@backend_option
@json_option
def command(model: Path, output: Path, data: Path | None, number: int | None, as_json: bool) -> None:
    """Write a saved MODEL (.keras) as a SavedModel for stock TensorFlow Serving."""
    loaded = load_model(model, compile=False)
    from keras_dlrm import data as data_package
    from keras_dlrm.export import savedmodel

    preprocessor = None if data is None else data_package.open(data).preprocessor
    path = savedmodel(loaded, output, preprocessor, number)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    click.echo(f"wrote {path} ({size:,} bytes)")
    print_json(as_json, {"path": str(path), "bytes": size})
