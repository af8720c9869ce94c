"""Command `retrieve`: the best items of an index for the users of files."""

from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared

#: What `recommend` takes, too.
answer_options = shared.together(
    click.argument("model", type=shared.PathArgument),
    click.option("--index", type=shared.PathArgument, required=True, help="Folder of the index, made with the same model."),
    click.option("--input", "inputs", multiple=True, required=True,
                 help="Parquet, CSV, TSV or TFRecord file or pattern with the user's columns; may be repeated."),
    click.option("--preprocessor", type=shared.PathArgument, help="Processed directory of the model's log; a run has its own."),
    click.option("--output", type=shared.PathArgument, required=True, help="File to write: .parquet, .csv or .tsv (also .gz)."),
    click.option("--k", type=click.IntRange(1), default=10, help="Items for each row."),
    click.option("--id-column", "id_columns", multiple=True, help="A column to keep alongside the items; may be repeated."),
    click.option("--exclude-column", help="Column of the ids that a row must not get: lists, or texts as a|b."),
    click.option("--batch-size", type=click.IntRange(1), default=1024),
    shared.row_options(), shared.csv_options, shared.import_option, shared.backend_option, shared.json_option,
)  # fmt: skip


@click.command(epilog="""\b
Examples:
  keras-dlrm retrieve runs/tower --index items --input users.parquet --id-column user --output best.parquet
  keras-dlrm retrieve runs/tower/model.keras --index items --input users.csv --preprocessor my-log --k 100 --output best.csv.gz
""")
@answer_options
def command(**options: Any) -> None:
    """Write the best items for every row of some files, by the vectors of a saved MODEL, a TwoTower, and its index.

    A row is written for each item: the id columns, rank, the item's id, score.
    """
    answer("retrieve", **options)


def answer(
    title: str, model: Path, index: Path, inputs: tuple[str, ...], preprocessor: Path | None, imports: tuple[str, ...],
    as_json: bool, ranker: Path | None = None, **options: Any,
) -> None:  # fmt: skip
    """Do what both commands do."""
    loaded, fitted = shared.model_and_preprocessor(model, preprocessor, imports)
    second = None if ranker is None else shared.load_model(shared.model_file(ranker), compile=False, imports=imports)
    from keras_dlrm.retrieval.index import Index
    from keras_dlrm.scoring.recommend import recommend_files

    opened = Index.load(index, loaded)
    with shared.row_progress(title) as progress:
        done = recommend_files(opened, list(inputs), preprocessor=fitted, ranker=second, progress=progress, **options)
    click.echo(f"wrote {done.path}: {done.rows:,} rows")
    shared.print_skipped(done.skipped, done.examples)
    shared.print_unseen(done.unseen)
    shared.print_json(as_json, {"output": str(done.path), "rows": done.rows, "skipped": done.skipped})
