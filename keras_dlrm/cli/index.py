"""Command `index`: the items of a catalog by their vectors, for `retrieve`, `recommend` and `export`."""

from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared


@click.command(epilog="""\b
Examples:
  keras-dlrm index runs/tower --catalog items.parquet --output items
  keras-dlrm index runs/tower/model.keras --catalog 'items-*.csv' --preprocessor my-log --dtype int8 --output items
  keras-dlrm index runs/tower/model.keras --catalog my-log --output items
""")
@click.argument("model", type=shared.PathArgument)
@click.option("--catalog", "catalogs", multiple=True, required=True,
              help="Parquet, CSV or TSV file with the item's columns, or a processed directory; may be repeated.")  # fmt: skip
@click.option("--preprocessor", type=shared.PathArgument, help="Processed directory of the model's log; a run has its own.")
@click.option("--output", type=shared.PathArgument, required=True, help="Folder to write; an index in it is replaced.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "int8"]), default="float32", help="How vectors are stored.")
@click.option("--lists", type=click.IntRange(1), help="Groups of near items, of which a query looks at some; none by default.")
@click.option("--probes", type=click.IntRange(1), default=8, help="With --lists: groups that a query looks at.")
@click.option("--batch-size", type=click.IntRange(1), default=8192)
@click.option("--workers", type=click.IntRange(1), help="Threads; all processors by default.")
@shared.csv_options
@shared.import_option
@shared.backend_option
@shared.json_option
def command(
    model: Path, catalogs: tuple[str, ...], preprocessor: Path | None, output: Path, imports: tuple[str, ...], as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Write the index of a catalog, by the item's tower of a saved MODEL, a TwoTower.

    MODEL is a .keras file, or the folder of a run. The folder holds the earlier index, or all of the new one.
    """
    loaded, fitted = shared.model_and_preprocessor(model, preprocessor, imports)
    from keras_dlrm.retrieval.content import check_place
    from keras_dlrm.retrieval.index import Index

    check_place(output)
    with shared.row_progress("index") as progress:
        catalog: Any = catalogs[0] if len(catalogs) == 1 else list(catalogs)
        report = lambda done, total: progress(done, total, "index")  # noqa: E731
        index = Index.build(loaded, catalog, preprocessor=fitted, progress=report, **options)
    index.save(output)
    left = f", {index.skipped:,} rows without an id were left out" if index.skipped else ""
    click.echo(f"wrote {output}: {index!r}{left}")
    about = {"items": len(index), "skipped": index.skipped, "dtype": index.content.dtype, "fingerprint": index.content.fingerprint}
    shared.print_json(as_json, {"output": str(output), **about})
