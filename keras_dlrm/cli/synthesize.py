"""Command `synthesize`: planted, random, trace and multi-hot click logs."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.schema.schema import Schema

_DENSE = click.option("--dense", type=click.Choice(["uniform", "normal"]), default="uniform")


def _log_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every drawn log: its columns, its rows, and where it goes. The function makes the log, which is written here."""

    @shared.together(
        click.option("--schema", type=shared.PathArgument, help="Schema file with vocabulary sizes, .yaml or .json."),
        click.option("--scale", type=float, default=1e-4,
                     help="Without --schema: Criteo's 13 dense and 26 sparse columns, tables scaled by this."),
        click.option("--rows", type=click.IntRange(0), nargs=3, metavar="TRAIN VALID TEST",
                     default=(100_000, 10_000, 20_000), help="Rows of each part."),
        shared.seed_option,
        click.option("--click-rate", type=float, default=0.25),
        shared.directory_options,
    )  # fmt: skip
    @functools.wraps(function)
    def wrapper(
        schema: Path | None, scale: float, rows: tuple[int, int, int], output: Path, overwrite: bool, as_json: bool, **options: Any
    ) -> None:
        from keras_dlrm.data.synthetic import criteo_shape

        columns = criteo_shape(scale) if schema is None else Schema.load(schema)
        log = function(schema=columns, rows=rows, **options)
        with shared.row_progress("synthesize") as progress:
            written = log.write(output, shared.named_parts(rows), overwrite, progress)
        _show(written, as_json)

    return wrapper


@click.group(epilog="""\b
Examples:
  keras-dlrm synthesize planted --rows 500000 50000 100000 --output planted
  keras-dlrm synthesize random --schema log.yaml --zipf 1.1 --output random
  keras-dlrm synthesize trace --cold 0.05 --largest 10000 --output trace
  keras-dlrm synthesize multi-hot planted --hotness 3,2,1,2,6,1,1,1,1,7,3,8,1,6,9,5,1,1,1,12,100,27,10,3,1,1 --output bags
""")
def command() -> None:
    """Draw a click log: planted, random, of a given locality, or multi-hot."""


@command.command(epilog="""\b
Examples:
  keras-dlrm synthesize planted --output planted
  keras-dlrm synthesize planted --drift-rows 1000000 --drift-effects 0.5 --output drifting
  keras-dlrm synthesize planted --cold-share 0.1 --cold-parts test --output cold
""")
@_log_options
@click.option("--auc", "target_auc", type=float, default=0.8, help="Best possible AUC.")
@click.option("--zipf", type=float, default=1.05, help="Exponent of the ids' distribution.")
@click.option("--order", type=click.IntRange(2, 3), default=2, help="Most columns that one product of the logit has.")
@click.option("--drift-rows", type=int, help="Let the log change over so many rows.")
@click.option("--drift-effects", type=float, default=0.0, help="1 minus the correlation of effects over that time.")
@click.option("--drift-popularity", type=float, default=0.0, help="Share of ids from a new order over that time.")
@click.option("--drift-generations", type=int, default=1, help="Ids that take turns at a place over that time.")
@click.option("--cold-share", type=float, help="Share of each table's ids that are cold at first.")
@click.option("--cold-arrive", type=int, nargs=2, metavar="FIRST LAST", help="Rows between which they appear.")
@click.option("--cold-parts", multiple=True, help="Part that has them; may be repeated.")
def planted(
    schema: Schema, rows: tuple[int, int, int], drift_rows: int | None, drift_effects: float, drift_popularity: float,
    drift_generations: int, cold_share: float | None, cold_arrive: tuple[int, int] | None, cold_parts: tuple[str, ...],
    **options: Any,
) -> Any:  # fmt: skip
    """Draw clicks from known probabilities, so that the best possible AUC and log loss are known.

    With --drift-rows or --cold-share, the parts follow each other in time: train, valid, test.
    """
    from keras_dlrm.data.synthetic import ColdItems, Drift, PlantedClickLog

    if drift_rows is None and (drift_effects or drift_popularity or drift_generations != 1):
        raise ValueError(
            "--drift-effects, --drift-popularity and --drift-generations need --drift-rows: over how many rows they take place."
        )
    if cold_share is None and (cold_arrive or cold_parts):
        raise ValueError("--cold-arrive and --cold-parts need --cold-share.")
    drift = None if drift_rows is None else Drift(drift_rows, drift_effects, drift_popularity, drift_generations)
    cold = None if cold_share is None else ColdItems(cold_share, cold_arrive, cold_parts or None)
    starts = {"valid": rows[0], "test": rows[0] + rows[1]} if drift or cold else None
    return PlantedClickLog(schema, drift=drift, cold=cold, starts=starts, **options)


@command.command(epilog="""\b
Example:
  keras-dlrm synthesize random --schema log.yaml --zipf 1.1 --dense normal --rows 1000000 0 0 --output random
""")
@_log_options
@click.option("--zipf", type=float, default=0.0, help="Exponent of the ids; 0 is uniform.")
@_DENSE
def random(schema: Schema, rows: tuple[int, int, int], **options: Any) -> Any:
    """Draw noise, for benchmarks and tests of shapes."""
    from keras_dlrm.data.synthetic import RandomClickLog

    return RandomClickLog(schema, **options)


@command.command(epilog="""\b
Examples:
  keras-dlrm synthesize trace --exponent 1.0 --largest 10000 --cold 0.05 --output trace
  keras-dlrm synthesize trace --like my-log --output trace       as local as the columns of another log
""")
@_log_options
@click.option("--exponent", type=float, default=1.0, help="Decay of the stack distances; 0 is uniform.")
@click.option("--largest", type=click.IntRange(0), default=1000, help="Largest stack distance.")
@click.option("--cold", type=float, default=0.05, help="Share of references to new ids.")
@click.option("--like", type=shared.PathArgument, help="Take schema and locality from the train part of this directory.")
@_DENSE
def trace(
    schema: Schema, rows: tuple[int, int, int], exponent: float, largest: int, cold: float, like: Path | None, **options: Any
) -> Any:
    """Draw noise whose ids repeat with given stack distances, to test caches of rows."""
    from keras_dlrm.data import open as open_log
    from keras_dlrm.data.synthetic import StackProfile, TraceClickLog, measure

    if like is None:
        return TraceClickLog(schema, StackProfile.power(exponent, largest, cold), **options)
    with shared.row_progress("measure") as progress:
        statistics = measure(open_log(like).split("train"), progress=progress)
    # A table that several columns look up is as local as the first of them.
    profiles = {c.table_name: statistics.sparse[c.name].locality for c in reversed(statistics.schema.categorical)}
    return TraceClickLog(statistics.schema, profiles, **options)


@command.command("multi-hot", epilog="""\b
Examples:
  keras-dlrm synthesize multi-hot my-log --hotness mlperf-v2 --output bags
  keras-dlrm synthesize multi-hot my-log --hotness C1=3,C20=100 --distribution pareto --output bags
""")
@click.argument("data", type=shared.PathArgument)
@click.option("--hotness", required=True,
              help="mlperf-v2, one size per sparse column (3,2,1), or NAME=SIZE of some (C1=3,C20=100).")  # fmt: skip
@click.option("--distribution", type=click.Choice(["uniform", "pareto"]), default="uniform")
@click.option("--shape", type=float, default=0.25, help="Shape of the Pareto distribution.")
@shared.seed_option
@shared.directory_options
def multi_hot(
    data: Path, hotness: str, distribution: str, shape: float, seed: int, output: Path, overwrite: bool, as_json: bool
) -> None:
    """Replace the ids of DATA, a processed directory, by bags: each id always comes with the same others."""
    from keras_dlrm.data import open as open_log
    from keras_dlrm.data.synthetic import MultiHot

    log = open_log(data)
    bags = MultiHot(log.schema, _hotness(hotness), distribution, shape, seed)
    with shared.row_progress("synthesize") as progress:
        written = bags.write(log, output, overwrite, progress)
    _show(written, as_json)


def _hotness(text: str) -> Any:
    from keras_dlrm.data.synthetic import MLPERF_V2_HOTNESS

    if text == "mlperf-v2":
        return MLPERF_V2_HOTNESS
    parts = [part.strip() for part in text.split(",")]
    try:
        if "=" in text:
            return {name: int(size) for name, size in (part.rsplit("=", 1) for part in parts)}
        return [int(part) for part in parts]
    except ValueError:
        raise ValueError(f"--hotness {text!r}: give mlperf-v2, sizes as 3,2,1, or NAME=SIZE as C1=3,C20=100.") from None


def _show(log: Any, as_json: bool) -> None:
    from keras_dlrm.support.terminal import print_table

    best = log.manifest.get("best_by_split", {})
    rows = {name: len(log.split(name)) for name in log.splits}
    scores = ("auc", "logloss")
    known = {name: {f"best {s}": each[s] for s in scores if each[s] is not None} for name, each in best.items() if each}
    print_table([{"part": name, "rows": count, **known.get(name, {})} for name, count in rows.items()], str(log.directory))
    shared.print_json(as_json, {"directory": str(log.directory), "rows": rows, "best": best})
