"""Command `export`: a saved model for TensorFlow Serving, ONNX Runtime or LiteRT."""

import glob
from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared

TABLES = ("float32", "bfloat16", "float16", "int8", "int4")
DEFAULTS = ("packed", "columns", "raw")
TAKEN = {
    "savedmodel": ("data", "version", "default", "user_column", "tables", "prune"),
    "onnx": ("tables", "prune"),
    "litert": ("tables",),
}


@click.command(epilog="""\b
Examples:
  keras-dlrm export runs/a --output served/clicks
  keras-dlrm export runs/a/model.keras --output served/clicks --data my-log --user-column user --default raw
  keras-dlrm export runs/a/model.keras --format onnx --output clicks.onnx --tables int8
""")
@click.argument("model", type=shared.PathArgument)
@click.option("--output", type=shared.PathArgument, required=True, help="Folder of the versions of a SavedModel; else the file.")
@click.option("--format", "kind", type=click.Choice(list(TAKEN)), default="savedmodel")
@click.option("--data", type=shared.PathArgument, help="savedmodel: processed directory whose preprocessor is put inside.")
@click.option("--version", type=int, help="savedmodel: number of the version; the next one by default.")
@click.option("--default", type=click.Choice(DEFAULTS), help="savedmodel: what serving_default takes; of a run raw, else packed.")
@click.option("--user-column", multiple=True, help="savedmodel: a column that all candidates of a `rank` request share.")
@click.option("--tables", type=click.Choice(TABLES), help="How tables are stored; as trained by default.")
@click.option("--prune", type=click.Choice(["untrained"]), help="Not litert: leave out rows that training never touched.")
@shared.import_option
@shared.backend_option
@shared.json_option
def command(model: Path, output: Path, kind: str, imports: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Write a saved MODEL for stock TensorFlow Serving, ONNX Runtime or LiteRT.

    MODEL is a .keras file, or the folder of a run: a SavedModel of that has the run's preprocessor inside and takes raw rows.
    """
    shared.refuse_unused(options, TAKEN[kind], f"{{}} is not for --format {kind}")
    from keras_dlrm import data as data_package

    run, model = model, shared.model_file(model)
    data = options["data"]
    preprocessor = None if data is None else data_package.open(data).preprocessor
    loaded = shared.load_model(model, compile=False, imports=imports)
    from keras_dlrm import export

    if run.is_dir() and data is None and kind == "savedmodel":
        from keras_dlrm.pipeline.run import Run

        preprocessor = Run(run).preprocessor
        options["default"] = options["default"] or "raw"

    if kind == "savedmodel":
        from keras_dlrm.training.run_files import RESULT, read_listing

        # Scores on the test part, where a run left them alongside its model.
        scores = read_listing(model.parent, RESULT).get("test", {}) if (model.parent / RESULT).is_file() else {}
        path = export.savedmodel(
            loaded, output, preprocessor, options["version"], user_columns=options["user_column"],
            default=options["default"] or "packed", metrics=scores, tables=options["tables"], prune=options["prune"],
        )  # fmt: skip
        files = [file for file in path.rglob("*") if file.is_file()]
    elif kind == "onnx":
        path = export.onnx(loaded, output, options["tables"], options["prune"])
        files = [path, *path.parent.glob(f"{glob.escape(path.name)}.*.data")]
    else:
        path = export.litert(loaded, output, options["tables"])
        files = [path]
    size = sum(file.stat().st_size for file in files)
    click.echo(f"wrote {path} ({size:,} bytes)")
    shared.print_json(as_json, {"path": str(path), "format": kind, "bytes": size})
