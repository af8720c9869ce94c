"""A click model on your own Parquet, CSV or TSV tables.

The schema names the columns (see docs/data.md), a configuration the model and its training (see docs/training.md). A run
that is started again with the same arguments resumes where it stopped.
"""

import click

from keras_dlrm.cli.options import (
    PathArgument,
    backend_option,
    check_slices,
    fractions_option,
    row_progress,
    slice_options,
    tensorboard_option,
    time_budget_option,
    training_options,
)
from keras_dlrm.cli.program import promise, run

EPILOG = """\b
Examples:
  python trainers/tables.py --schema log.yaml --train train.parquet --test test.parquet --output runs/mine
  python trainers/tables.py --schema log.yaml --train 'day-*.csv' --fractions 0.8 0.1 0.1 --model DCNv2 --output runs/b
  python trainers/tables.py --schema log.yaml --train train.csv --config dlrm.yaml --backend torch --output runs/c
"""


@click.command(epilog=EPILOG)
@click.option("--schema", required=True, type=PathArgument, help="Schema file, .yaml or .json.")
@click.option("--train", "train_files", required=True, multiple=True, help="File or pattern; may be repeated.")
@click.option("--valid", multiple=True, help="Files of the validation part.")
@click.option("--test", multiple=True, help="Files of the test part.")
@fractions_option
@click.option("--output", required=True, type=PathArgument, help="Folder for the processed data and the run.")
@training_options
@slice_options
@time_budget_option
@tensorboard_option
@backend_option
@promise("The same command resumes where it stopped.")
def main(schema, train_files, valid, test, fractions, output, tensorboard, slice_by, group_by, **options):
    """Preprocess tables (once), train, keep the best model, score the test part."""
    from rich.console import Console

    import keras_dlrm as kd
    from keras_dlrm.cli.train import experiment_for, show
    from keras_dlrm.training.run import train
    from keras_dlrm.training.run_files import LOG

    experiment_for(None, options)  # a wrong option is told before the files are read
    parts = {"train": list(train_files), "valid": list(valid) or None, "test": list(test) or None}
    split = dict(zip(parts, fractions, strict=True)) if fractions else None
    with row_progress("preprocess") as progress:
        given = {"split": split, "output": output / LOG, "reuse": True, "progress": progress}
        log = kd.data.tables.preprocess(kd.Schema.load(schema), **parts, **given)
    experiment = experiment_for(log, options)
    check_slices(log, slice_by, group_by)
    given = {"tensorboard": tensorboard, "slice_by": slice_by or None, "group_by": group_by}
    result = train(experiment, log, output, resume=True, console=Console(stderr=True), **given)
    show(result, output)


if __name__ == "__main__":
    run(main)
