"""Command `predict`: click probabilities of whole files."""

import time
from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.training.run_files import RESULT


@click.command(epilog="""\b
Examples:
  keras-dlrm predict runs/a --input today.parquet --output scores.parquet
  keras-dlrm predict runs/a/model.keras --input 'today-*.parquet' --preprocessor my-log --id-column user --output scores.parquet
  keras-dlrm predict runs/a/model.keras --input rows.csv --preprocessor my-log --on-error skip --output scores.csv.gz
  keras-dlrm predict runs/a/model.keras --input ids.parquet --no-preprocessor --output scores.parquet
  keras-dlrm predict runs/a/model.keras --data my-log --split test --output scores.parquet
""")
@click.argument("model", type=shared.PathArgument)
@click.option("--input", "inputs", multiple=True,
              help="Parquet, CSV, TSV or TFRecord file (the last three also .gz) or pattern; may be repeated.")  # fmt: skip
@click.option("--preprocessor", type=shared.PathArgument, help="With --input: processed directory of the model's log.")
@click.option("--no-preprocessor", "plain", is_flag=True, help="With --input: the columns hold ids and model inputs already.")
@click.option("--data", type=shared.PathArgument, help="Processed directory, to score one of its parts.")
@click.option("--split", help="With --data: train, valid or test (the default).")
@click.option("--output", type=shared.PathArgument, required=True, help="File to write: .parquet, .csv or .tsv (also .gz).")
@click.option("--id-column", "id_columns", multiple=True,
              help="With --input: a column to keep alongside the predictions; may be repeated.")  # fmt: skip
@click.option("--column", default="probability", help="Name of the column of predictions.")
@click.option("--batch-size", type=click.IntRange(1), default=8192)
@shared.row_options()
@shared.csv_options
@shared.import_option
@shared.backend_option
@shared.json_option
def command(
    model: Path, inputs: tuple[str, ...], preprocessor: Path | None, plain: bool, data: Path | None, split: str | None,
    id_columns: tuple[str, ...], on_error: str, max_skipped: int | None, workers: int | None, csv: Any, as_json: bool,
    imports: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Write click probabilities of whole files, from a saved MODEL, in bounded memory.

    MODEL is a .keras file, or the folder of a run, whose preprocessor then stands in for --preprocessor.
    Rows keep their order. The output is complete or absent.
    """
    if bool(inputs) == (data is not None):
        raise ValueError("predict: give either --input, for files of raw rows, or --data, for a processed directory.")
    run = model
    of_run = bool(inputs) and preprocessor is None and not plain and (run / RESULT).is_file()
    if inputs and (preprocessor is None) != plain and not of_run:
        plainly = "or --no-preprocessor where the columns hold ids and model inputs already; give one of them."
        raise ValueError(f"predict: --input needs --preprocessor, the processed directory of the model's log, {plainly}")
    if inputs and split is not None:
        raise ValueError(f"predict: --split {split} needs --data; --input scores whole files.")
    of_input = {
        "--id-column": id_columns, "--preprocessor": preprocessor, "--no-preprocessor": plain, "--csv-…": csv,
        "--max-skipped": max_skipped is not None, "--on-error skip": on_error != "raise",
    }  # fmt: skip
    for name, value in of_input.items():
        if value and data is not None:
            raise ValueError(f"predict: {name} needs --input; the parts of --data were packed and checked before.")
    from keras_dlrm import data as data_package

    model = shared.model_file(model)
    if data is not None:
        part = data_package.open(data).split(split or "test")
    else:
        data_package.tables.input_files(list(inputs))
        if preprocessor is not None:
            data_package.open(preprocessor, verify=False)
    loaded = shared.load_model(model, compile=False, imports=imports)
    if of_run:
        from keras_dlrm.pipeline.run import Run

        preprocessor = Run(run).log.directory
    from keras_dlrm import scoring
    from keras_dlrm.data.preprocessor.unseen import as_json as unseen_as_json

    start = time.perf_counter()
    with shared.row_progress("predict") as progress:
        if data is not None:
            done = scoring.predict_split(loaded, part, progress=progress, **options)
        else:
            done = scoring.predict_files(
                loaded, list(inputs), preprocessor=preprocessor, id_columns=id_columns, on_error=on_error,
                max_skipped=max_skipped, workers=workers, csv=csv, progress=progress, **options,
            )  # fmt: skip
    seconds = time.perf_counter() - start
    rate = round((done.rows + done.skipped) / max(seconds, 1e-9))
    click.echo(f"wrote {done.path}: {done.rows:,} rows in {seconds:.1f} s, {rate:,} rows/s")
    shared.print_skipped(done.skipped, done.examples)
    shared.print_unseen(done.unseen)
    counts = {"rows": done.rows, "skipped": done.skipped, "unseen": unseen_as_json(done.unseen)}
    shared.print_json(as_json, {"output": str(done.path), **counts, "seconds": round(seconds, 3), "rows_per_s": rate})
