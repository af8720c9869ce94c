"""Command `export`: a saved model for TensorFlow Serving, ONNX Runtime or LiteRT."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.files.deltas import is_delta

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
  keras-dlrm export runs/a --delta-of served/clicks/1
  keras-dlrm export served/clicks/2.delta
""")
@click.argument("model", type=shared.PathArgument)
@click.option("--output", type=shared.PathArgument, help="Folder of the versions of a SavedModel; else the file.")
@click.option("--delta-of", "base", type=shared.PathArgument, metavar="VERSION",
              help="Write what changed since a version or a delta, alongside it, in place of a version.")  # fmt: skip
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
def command(
    model: Path, output: Path | None, base: Path | None, kind: str, imports: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Write a saved MODEL for stock TensorFlow Serving, ONNX Runtime or LiteRT.

    MODEL is a .keras file, or the folder of a run: a SavedModel of that has the run's preprocessor inside and takes raw rows. Of a
    delta the full version is written alongside it.
    """
    if base is not None or is_delta(model):
        what = "--delta-of" if base is not None else "a delta"
        shared.refuse_unused(options, (), f"{{}} is not for {what}")
        if output is not None or kind != "savedmodel" or (base is not None and is_delta(model)):
            raise click.UsageError(f"{what} goes without --output and --format, and --delta-of with a saved MODEL.")
        if base is None:
            from keras_dlrm.export import apply

            return _done(apply(model), kind, as_json)
        loaded = shared.load_model(shared.model_file(model), compile=False, imports=imports)
        from keras_dlrm.export import delta

        return _done(delta(loaded, base), kind, as_json)
    if output is None:
        raise click.UsageError("give --output, the folder of the versions of a SavedModel, or the file of another format.")
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
        more = []
    elif kind == "onnx":
        path = export.onnx(loaded, output, options["tables"], options["prune"])
        more = list(path.parent.glob(f"{glob.escape(path.name)}.*.data"))
    else:
        path = export.litert(loaded, output, options["tables"])
        more = []
    _done(path, kind, as_json, more)


def _done(path: Path, kind: str, as_json: bool, more: Sequence[Path] = ()) -> None:
    """Say what was written: a file or a folder, and more files."""
    files = [file for file in [path, *path.rglob("*"), *more] if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    click.echo(f"wrote {path} ({size:,} bytes)")
    shared.print_json(as_json, {"path": str(path), "format": kind, "bytes": size})
