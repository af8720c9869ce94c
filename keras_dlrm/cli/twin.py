"""Command `twin`: measure a private log, and make a synthetic one like it."""

from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.files.durable import check_replaced, is_png


@click.group(epilog="""\b
Examples:
  keras-dlrm twin measure private-log --output statistics.json      where the log is
  keras-dlrm twin make statistics.json --output twin-log            anywhere
""")
def command() -> None:
    """Make a log that can be shared, with the shape, skew and click rate of a private one."""


@command.command(epilog="""\b
Examples:
  keras-dlrm twin measure private-log --output statistics.json
  keras-dlrm twin measure private-log --threshold 100 --output statistics.json
""")
@click.argument("data", type=shared.PathArgument)
@click.option("--split", default="train", help="train, valid or test.")
@click.option("--rows", type=click.IntRange(1), help="Number of rows from the beginning; all by default.")
@click.option("--threshold", type=click.IntRange(1), default=20, help="Minimum number of rows or references behind every figure.")
@click.option("--output", type=shared.PathArgument, required=True, help="JSON file to write.")
@shared.json_option
def measure(data: Path, split: str, rows: int | None, threshold: int, output: Path, as_json: bool) -> None:
    """Measure DATA, a processed directory: counts, shares and means over many rows, no id and no single value.

    The names of columns and the sizes of vocabularies are in the file; look at it before you share it.
    """
    from keras_dlrm.data import open as open_log
    from keras_dlrm.data.synthetic import measure as run
    from keras_dlrm.support.terminal import print_table

    check_replaced("--output", output, "statistics.json", lambda start: start.startswith(b'{"format": "keras_dlrm click log'))
    with shared.row_progress("measure") as progress:
        original = run(open_log(data).split(split), rows, threshold=threshold, progress=progress)
    original.save(output)
    columns = [
        {"column": name, "ids": c.distinct, "missing": c.lengths[0], "top 10 ids": float(c.coverage(10))}
        for name, c in original.sparse.items()
    ]
    title = f"{original.rows:,} rows, click rate {original.click_rate:.4f}"
    if columns:
        print_table(columns, title)
    else:
        click.echo(title)
    click.echo(f"\nstatistics: {output}")
    summary = {"rows": original.rows, "click_rate": original.click_rate, "auc": original.auc}
    shared.print_json(as_json, {"statistics": str(output), **summary, "columns": columns})


@command.command(epilog="""\b
Examples:
  keras-dlrm twin make statistics.json --rows 500000 50000 100000 --output twin-log
  keras-dlrm twin make statistics.json --ids locality --plot twin.png --output twin-log
""")
@click.argument("statistics", type=shared.PathArgument)
@click.option("--rows", type=click.IntRange(0), nargs=3, metavar="TRAIN VALID TEST",
              help="Rows of each part; by default as many as were measured, and a tenth of that for valid and test.")  # fmt: skip
@click.option("--ids", type=click.Choice(["frequency", "locality"]), default="frequency",
              help="Statistics of the ids that are kept.")  # fmt: skip
@shared.seed_option
@click.option("--plot", type=shared.PathArgument, help="PNG of both profiles; twin.png in the output by default.")
@shared.directory_options
def make(
    statistics: Path, rows: tuple[int, int, int] | None, ids: str, seed: int, plot: Path | None, output: Path, overwrite: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Draw a log from STATISTICS, and show how much its own statistics differ from them."""
    from keras_dlrm.data.packed.writer import list_file
    from keras_dlrm.data.synthetic import Statistics, Twin, comparison_png, differences
    from keras_dlrm.data.synthetic import measure as run
    from keras_dlrm.support.terminal import print_table

    if plot is not None:
        check_replaced("--plot", plot, "twin.png", is_png)
    original = Statistics.load(statistics)
    tenth = max(original.rows // 10, 1)
    parts = shared.named_parts(rows or (original.rows, tenth, tenth))
    largest = max(parts, key=lambda name: parts[name])
    if parts[largest] < original.threshold:
        need = f"the largest part needs at least {original.threshold} rows, the threshold of the statistics, to be measured."
        raise ValueError(f"--rows {' '.join(map(str, rows or ()))}: {need}")
    with shared.row_progress("twin") as progress:
        log = Twin(original, seed, ids).write(output, parts, overwrite, progress)
        again = run(log.split(largest), threshold=original.threshold, progress=progress)
    apart = differences(original, again)
    by_column: dict[str, Any] = {name: each if isinstance(each, dict) else {"": each} for name, each in apart.items()}
    table = [
        {"figure": name, "largest difference": max(each.values()), "in column": max(each, key=each.__getitem__)}
        for name, each in by_column.items()
        if each
    ]
    print_table(table, f"{output} ({parts[largest]:,} rows of {largest}) alongside {statistics} ({original.rows:,} rows)")
    picture = plot or log.directory / "twin.png"
    comparison_png(original, again, picture, title=f"{statistics.name} and its twin")
    if plot is None:
        list_file(log.directory, picture.name)
    click.echo(f"\nprofiles of both: {picture}")
    shared.print_json(as_json, {"directory": str(output), "rows": parts, "differences": apart, "plot": str(picture)})
