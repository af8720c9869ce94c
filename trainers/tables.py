"""A click model on your own Parquet, CSV or TSV tables.

    python trainers/tables.py --schema log.yaml --train train.parquet --valid valid.parquet --test test.parquet \\
        --experiment dlrm.yaml --output runs/mine

The schema names the columns (see docs/data.md), the experiment the model and its training (see docs/training.md). A run
that is started again with the same arguments goes on where it was.
"""

import click
from rich.console import Console

import keras_dlrm as kd
from keras_dlrm.cli.train import show
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.run import train


@click.command()
@click.option("--schema", required=True, type=click.Path(exists=True), help="Schema file, .yaml or .json.")
@click.option("--train", "train_files", required=True, multiple=True, help="File or pattern; may be repeated.")
@click.option("--valid", multiple=True, help="Files of the validation part.")
@click.option("--test", multiple=True, help="Files of the test part.")
@click.option("--experiment", type=click.Path(exists=True), help="Experiment as YAML; DLRM with Adam by default.")
@click.option("--output", required=True, help="Folder for the processed data and the run.")
def main(schema, train_files, valid, test, experiment, output):
    """Preprocess (once) and train."""
    try:
        log = kd.data.open(f"{output}/data")
    except FileNotFoundError:
        log = kd.data.tables.preprocess(
            kd.Schema.load(schema), list(train_files), list(valid) or None, list(test) or None, output=f"{output}/data"
        )
    chosen = Experiment.load(experiment) if experiment else Experiment()
    result = train(chosen, log, f"{output}/run", resume=True, console=Console(stderr=True))
    show(result, log, f"{output}/run")


if __name__ == "__main__":
    main()
