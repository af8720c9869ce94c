"""`keras-dlrm export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli.options import PathArgument, backend_option, json_option, load_model, print_json

FORMATS = ("savedmodel", "onnx", "litert")
TABLES = ("float32", "bfloat16", "float16", "int8", "int4")
EPILOG = """\b
Examples:
  keras-dlrm export runs/a/model.keras --output served/clicks --data my-log
  keras-dlrm export runs/a/model.keras --format onnx --output clicks.onnx --tables int8
"""


@click.command(epilog=EPILOG)
@click.argument("model", type=PathArgument)
@click.option(
    "--output", type=PathArgument, required=True, help="Folder of the versions of a SavedModel; else the file."
)
@click.option("--format", "kind", type=click.Choice(FORMATS), default="savedmodel", show_default=True)
@click.option(
    "--data", type=PathArgument, help="savedmodel: processed directory whose preprocessor is saved beside it."
)
@click.option("--version", "number", type=int, help="savedmodel: number of the version; the next one by default.")
@click.option("--tables", type=click.Choice(TABLES), help="onnx, litert: how tables are stored; as trained by default.")
@click.option("--prune", type=click.Choice(["untrained"]), help="onnx: leave out rows that training never touched.")
@backend_option
@json_option
def command(model: Path, output: Path, kind: str, as_json: bool, **options: Any) -> None:
    """Write a saved MODEL (.keras) for stock TensorFlow Serving, ONNX Runtime or LiteRT."""
    taken = {"savedmodel": ("data", "number"), "onnx": ("tables", "prune"), "litert": ("tables",)}[kind]
    for name, value in options.items():
        if value is not None and name not in taken:
            flag = {"number": "version"}.get(name, name)
            raise ValueError(f"--{flag} is not for --format {kind}; leave it out.")
    loaded = load_model(model, compile=False)
    from keras_dlrm import data as data_package
    from keras_dlrm import export

    if kind == "savedmodel":
        data = options["data"]
        preprocessor = None if data is None else data_package.open(data).preprocessor
        path = export.savedmodel(loaded, output, preprocessor, options["number"])
        files = [file for file in path.rglob("*") if file.is_file()]
    elif kind == "onnx":
        path = export.onnx(loaded, output, options["tables"], options["prune"])
        files = [path, *path.parent.glob(f"{path.name}.*.data")]
    else:
        path = export.litert(loaded, output, options["tables"])
        files = [path]
    size = sum(file.stat().st_size for file in files)
    click.echo(f"wrote {path} ({size:,} bytes)")
    print_json(as_json, {"path": str(path), "format": kind, "bytes": size})
