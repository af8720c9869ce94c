"""Recommendations in two stages, from a log of clicks to a SavedModel that answers `recommend`.

A two-tower model learns from the rows with a click and finds candidates in a catalog; a click model learns from all rows and
orders them. Started again with the same arguments, it trains nothing twice and publishes a new version, such as of a new catalog.
"""

import json
import shlex

import click

from keras_dlrm.cli.options import PathArgument, backend_option, row_progress, time_budget_option, training_options
from keras_dlrm.cli.program import promise, run

EPILOG = """\b
Examples:
  python trainers/two_stage.py --label click --train log.parquet --user user --user country --item film --item genre \\
      --catalog films.parquet --output runs/films
  python trainers/two_stage.py --schema log.yaml --train 'day-*.csv' --user user --item item --catalog items.csv --output runs/b
"""
BATCH, EPOCHS = 1024, 50  # of the two-tower model; a validation loss that no longer falls ends it sooner


@click.command(epilog=EPILOG)
@click.option("--schema", "schema_file", type=PathArgument, help="Schema file, .yaml or .json; inferred by default.")
@click.option("--label", help="Column of clicks, 0 or 1, where there is no --schema.")
@click.option("--train", "files", required=True, multiple=True, help="File or pattern of the log; may be repeated.")
@click.option("--user", required=True, multiple=True, help="Column of the user or the request; may be repeated.")
@click.option("--item", required=True, multiple=True, help="Column of the item, the first one its id; may be repeated.")
@click.option("--catalog", required=True, type=click.Path(exists=True), help="File with the item's columns, a row for each item.")
@click.option("--output", required=True, type=PathArgument, help="Folder for all that is made.")
@click.option("--k", default=10, type=click.IntRange(1), help="Items of an answer.")
@click.option("--candidates", default=500, type=click.IntRange(1), help="Items that the click model scores for an answer.")
@training_options
@time_budget_option
@backend_option
@promise("The same command resumes where it stopped; a two-tower model that was not done begins again.")
def main(schema_file, label, files, user, item, catalog, output, k, candidates, **options):
    """Preprocess a log, train both models, index the catalog, export one SavedModel, and say how to serve it.

    Options of training are the click model's. Columns of the log that are neither --user nor --item are left out.
    """
    from rich.console import Console

    import keras_dlrm as kd
    from keras_dlrm.cli.train import experiment_for, show
    from keras_dlrm.pipeline.prepare import prepare
    from keras_dlrm.training.run import train

    if k > candidates:
        raise click.UsageError(f"--k {k} is more than --candidates {candidates}; give at least as many candidates.")
    experiment_for(None, options)  # a wrong option is told before the files are read
    if not (schema_file or label):
        raise click.UsageError("give --label, the column of clicks, or --schema.")
    schema = kd.Schema.load(schema_file) if schema_file else kd.Schema.infer(list(files), label)
    columns = [*schema.dense, *schema.categorical]
    if unknown := {*user, *item} - {name for column in columns for name in (column.name, column.of)}:
        known = [column.name for column in columns]
        raise ValueError(f"--user, --item: {sorted(unknown)} are no columns of the schema; those are {known}.")
    own = [[column.name for column in columns if {column.name, column.of} & {*side}] for side in (user, item)]
    chosen = [[column for column in kind if column.name in sum(own, [])] for kind in (schema.dense, schema.categorical)]
    console = Console(stderr=True)
    log = prepare(list(files), output / "ranker", label, schema.with_columns(*chosen), console=console)
    tower = kd.models.TwoTower(log.schema, *own, item_id=item[0], seed=options["seed"] or 0)

    def indexed(model):
        with row_progress("index") as progress:
            return kd.retrieval.Index.build(
                model, catalog, preprocessor=log.preprocessor, progress=lambda done, total: progress(done, total, "index")
            )

    if not (output / "tower.keras").exists():
        indexed(tower)  # a wrong catalog is told before the training
    tower = trained(tower, log, output / "tower.keras")
    index = indexed(tower)
    index.save(output / "items")
    show(train(experiment_for(log, options), log, output / "ranker", resume=True, console=console), output / "ranker")
    stages = {"index": index, "ranker": kd.Run(output / "ranker").model, "k": k, "candidates": candidates}
    path = kd.export.savedmodel(tower, output / "recommender", log.preprocessor, **stages)
    click.echo(f"\n{index!r}, both models: {path}\n\n  keras-dlrm serve {shlex.quote(str(path.parent))}\n")
    request = shlex.quote(json.dumps({"signature_name": "recommend", "inputs": example(log, own[0], index)}))
    click.echo(f"  curl localhost:8501/v1/models/recommender:predict -d {request}")


def trained(tower, log, path):
    """The two-tower model of a file, or else trained on the rows with a click, which memory must hold."""
    import keras
    import numpy as np

    import keras_dlrm as kd
    from keras_dlrm.files.durable import whole

    if path.exists():
        saved = keras.saving.load_model(path)
        if json.dumps(saved.get_config()) != json.dumps(tower.get_config()):  # where lists and tuples are the same
            raise ValueError(f"{path} is a two-tower model of other options; delete it, or give another --output.")
        return saved
    keras.utils.set_random_seed(tower.seed)
    clicks, valid = (part.take(np.flatnonzero(part.labels > 0)) for part in map(log.split, ("train", "valid")))
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    tower.compile(keras.optimizers.Adam(0.005), kd.losses.InBatchSoftmax())
    tower.fit(*clicks, BATCH, EPOCHS, callbacks=[stop], validation_data=valid)
    with whole(path) as written:
        tower.save(written)
    return tower


def example(log, user, index):
    """Inputs of a request for one user."""
    from keras_dlrm.export.requests import example_rows
    from keras_dlrm.export.signatures import raw_columns
    from keras_dlrm.export.two_stage import EXCLUDE, user_inputs

    rows, names = example_rows(log.preprocessor, 1), user_inputs(log.schema, user)
    return {c.input: rows[c.name] for c in raw_columns(log.preprocessor) if c.name in names} | {EXCLUDE: [[index.ids.none]]}


if __name__ == "__main__":
    run(main)
