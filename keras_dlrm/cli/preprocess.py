"""Command `preprocess`: raw logs to a processed directory."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.cli.program import promise
from keras_dlrm.schema.schema import Schema

_AGAIN = "The same command resumes where it stopped."


@click.group()
def command() -> None:
    """Turn a raw click log into a processed directory, which every other command reads."""


@command.command(epilog="""\b
Examples:
  keras-dlrm preprocess tables --schema log.yaml --train 'day_*.parquet' --valid v.parquet --test t.parquet --output my-log
  keras-dlrm preprocess tables --schema log.yaml --train clicks.csv --fractions 0.8 0.1 0.1 --output my-log
  keras-dlrm preprocess tables --schema log.yaml --train clicks.csv --fractions 0.8 0.1 0.1 --split-by time --output my-log
  keras-dlrm preprocess tables --schema log.yaml --train 'part-*.tfrecord.gz' --on-error skip --max-skipped 1000 --output my-log
  keras-dlrm preprocess tables --preprocessor my-log --vocabulary grown --train monday.csv --output monday
  keras-dlrm preprocess tables --schema log.yaml --train day.txt --csv-separator ';' --csv-names click,user --output log
To resume a run that was stopped, give the same command again.
\b
A schema file (vocabularies without a size are fitted on the training part):
  label: click
  dense: [{name: price, transform: log1p_standardize}]
  categorical: [{name: user, min_count: 2}, {name: tags, hotness: 8, combiner: mean}]
""")
@click.option("--schema", type=shared.PathArgument, help="Schema file, .yaml or .json; not needed with --preprocessor.")
@click.option("--train", multiple=True, required=True,
              help="CSV, TSV, TFRecord (also .gz) or Parquet file or pattern; may be repeated.")  # fmt: skip
@click.option("--valid", multiple=True, help="Files of the validation part.")
@click.option("--test", multiple=True, help="Files of the test part.")
@shared.fractions_option
@click.option("--split-by", metavar="COLUMN",
              help="With --fractions: a column of times, the earliest rows into the training part; or 'random'.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of --split-by random.")  # fmt: skip
@click.option("--output", type=shared.PathArgument, required=True, help="Directory to write.")
@click.option("--preprocessor", type=shared.PathArgument,
              help="For new days: a processed directory whose vocabularies and statistics are used.")  # fmt: skip
@click.option("--vocabulary", type=click.Choice(["frozen", "grown"]),
              help="With --preprocessor: unseen values of --train go to the OOV row (default), or get new rows.")  # fmt: skip
@shared.row_options()
@shared.csv_options
@shared.json_option
def tables(
    schema: Path | None, train: tuple[str, ...], valid: tuple[str, ...], test: tuple[str, ...],
    fractions: tuple[float, float, float] | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Preprocess CSV, TSV, Parquet or TFRecord tables, described by a schema."""
    from keras_dlrm.data import tables as package

    split = dict(zip(("train", "valid", "test"), fractions, strict=True)) if fractions else None
    with promise(_AGAIN), shared.row_progress("preprocess") as progress:
        columns = None if schema is None else Schema.load(schema)
        log = package.preprocess(
            columns, list(train), list(valid) or None, list(test) or None, split=split, progress=progress, **options
        )
    _show(log, as_json, _columns(log, list(train), options["csv"]), warned=options["preprocessor"] is None)


def _columns(log: Any, inputs: list[str], csv: Any) -> list[dict[str, Any]]:
    """The report of the columns of some rows; none where they are in a format that has no columns of its own."""
    from keras_dlrm.data.tables.column_report import column_report
    from keras_dlrm.schema.inference.sampling import sample

    with contextlib.suppress(ValueError, TypeError, OSError):  # the log is written
        return column_report(log.schema, sample(inputs, csv))
    return []


@command.command(epilog="""\b
Examples:
  keras-dlrm preprocess criteo train.txt --output criteo
  keras-dlrm preprocess criteo day_{0..23} --output terabyte --max-ind-range 10000000 --subsample 0.875
  keras-dlrm preprocess criteo day_{0..23} --output terabyte --dialect torchrec --table-size 40000000 --shuffle total
\b
To resume a run that was stopped, give the same command again.
""")
@click.argument("inputs", nargs=-1, required=True, type=shared.PathArgument)
@click.option("--output", type=shared.PathArgument, required=True, help="Directory to write.")
@click.option("--dialect", type=click.Choice(["classic", "torchrec"]), default="classic",
              help="Follow facebookresearch/dlrm, or TorchRec's scripts.")  # fmt: skip
@click.option("--max-ind-range", type=int, help="classic: categories are taken modulo this.")
@click.option("--subsample", type=float, default=0.0, help="classic: share of label-0 rows to drop.")
@click.option("--table-size", "table_sizes", type=int, multiple=True,
              help="torchrec: ids are taken modulo this; once for all tables, or 26 times.")  # fmt: skip
@click.option("--min-count", type=int, default=1, help="torchrec: values seen fewer times share the id 1.")
@click.option("--days", type=int, default=7, help="Number of days that a single file is cut into.")
@click.option("--shuffle", type=click.Choice(["none", "day", "total"]), default="none")
@click.option("--seed", type=int, help="Seed of subsample and shuffle; by default 123 for classic, 0 for torchrec.")
@shared.row_options("line")
@shared.json_option
def criteo(inputs: tuple[Path, ...], as_json: bool, table_sizes: tuple[int, ...], **options: Any) -> None:
    """Preprocess Criteo's TSV files: one file, or one for each day, in order."""
    from keras_dlrm.data import criteo as package

    with promise(_AGAIN), shared.row_progress("preprocess") as progress:
        sizes = table_sizes[0] if len(table_sizes) == 1 else list(table_sizes) or None
        log = package.preprocess(list(inputs), table_sizes=sizes, progress=progress, **options)
    _show(log, as_json)


def warn_without_valid(log: Any) -> None:
    """A warning where a log has no rows to choose the best epoch on, and how it gets some."""
    if "valid" not in log.splits or not len(log.split("valid")):
        what = "has no validation part: training cannot tell when to stop, nor which epoch is best"
        click.echo(f"warning: {log.directory} {what}; preprocess with --fractions 0.8 0.1 0.1, or give --valid files.", err=True)


def _show_codebooks(codebooks: Mapping[str, Mapping[str, Any]]) -> None:
    """Show how well the codes of each column of Semantic IDs tell content vectors apart."""
    from keras_dlrm.support.terminal import print_table

    for name, known in codebooks.items():
        levels = zip(known["used"], known["perplexity"], strict=True)
        rows = [{"level": i + 1, "codes used": used, "perplexity": perplexity} for i, (used, perplexity) in enumerate(levels)]
        vectors = f"{known['vectors']:,} {'sampled ' if known['sampled'] else ''}vectors, {known['unique']:.1%} with a unique code"
        click.echo()
        print_table(rows, f"Codes of {name}: {vectors}; {known['error']:.1%} of the variance is left")


def _show(log: Any, as_json: bool, columns: Sequence[Mapping[str, Any]] = (), warned: bool = True) -> None:
    from keras_dlrm.data.preprocessor.bad_rows import BadRow
    from keras_dlrm.support.terminal import print_table

    rows = {name: len(log.split(name)) for name in log.splits}
    print_table([{"part": name, "rows": count} for name, count in rows.items()], str(log.directory))
    largest = sorted(log.schema.table_sizes.items(), key=lambda item: -item[1])[:8]
    if columns:
        # All of a log with few; of others those that need a look.
        chosen = [row for row in columns if len(columns) <= 40 or row.get("note") or row["kind"] == "not used"]
        if chosen:
            click.echo()
            print_table(chosen, "Columns of --train" + (" that need a look" if len(chosen) < len(columns) else ""))
        click.echo()
    if largest:
        print_table([{"table": name, "rows": size} for name, size in largest], "Largest tables")
    codebooks = log.preprocessor.codebooks
    _show_codebooks(codebooks)
    if warned:
        warn_without_valid(log)
    result = {"directory": str(log.directory), "rows": rows, "tables": log.schema.table_sizes, "columns": list(columns)}
    result |= {"codebooks": codebooks} if codebooks else {}
    bad = log.manifest.get("bad_rows")
    if bad is not None:
        result["skipped"] = bad["skipped"]
        shared.print_skipped(bad["skipped"], (BadRow(**row) for row in bad["examples"]))
    shared.print_json(as_json, result)
