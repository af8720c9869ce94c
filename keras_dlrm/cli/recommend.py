"""Command `recommend`: candidates of an index for the users of files, in the order of a second model."""

from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.cli.retrieve import answer, answer_options


@click.command(epilog="""\b
Examples:
  keras-dlrm recommend runs/tower --index items --ranker runs/dlrm --input users.parquet --id-column user --output best.parquet
  keras-dlrm recommend runs/tower --index items --ranker runs/dlrm --input users.csv --candidates 200 --k 20 --output best.csv
""")
@click.option("--ranker", type=shared.PathArgument, required=True, help="The second model: a .keras file, or the folder of a run.")
@click.option("--candidates", type=click.IntRange(1), default=500, help="Items that the second model scores for each row.")
@click.option(
    "--blend", type=click.FloatRange(0), default=0.0, help="Weight of the index's score, added to the ranker's logit for the order."
)
@answer_options
def command(ranker: Path, **options: Any) -> None:
    """Write the items with the highest click probabilities for every row of some files.

    A saved MODEL, a TwoTower, and its index give the candidates; the ranker orders them. A row is written for each item: the id
    columns, rank, the item's id, probability.
    """
    answer("recommend", ranker=ranker, **options)
