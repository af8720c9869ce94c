"""DLRM on Criteo's click log, from the raw TSV to a scored model, with a published preset.

    python trainers/criteo.py train.txt --output runs/kaggle --preset criteo_kaggle
    python trainers/criteo.py day_0 day_1 day_2 --output runs/terabyte --preset criteo_terabyte --max-ind-range 10000000

A run that is started again with the same arguments goes on where it was.
"""

import click
from rich.console import Console

import keras_dlrm as kd
from keras_dlrm.cli.train import show
from keras_dlrm.training.experiment import Experiment
from keras_dlrm.training.run import train


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--output", required=True, help="Folder for the processed data and the run.")
@click.option("--preset", default="criteo_kaggle", type=click.Choice(["criteo_kaggle", "criteo_terabyte", "mlperf_v1"]))
@click.option("--max-ind-range", type=int, help="Categories are taken modulo this.")
@click.option("--epochs", default=1, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(inputs, output, preset, max_ind_range, epochs, seed):
    """Preprocess (once) and train."""
    published = kd.models.PRESETS[preset]
    try:
        log = kd.data.open(f"{output}/data")
    except FileNotFoundError:
        log = kd.data.criteo.preprocess(list(inputs), f"{output}/data", max_ind_range=max_ind_range)
    experiment = Experiment(
        model={"type": "DLRM", **published.model},
        optimizer={"name": published.optimizer, **published.optimizer_options},
        batch_size=published.batch_size,
        epochs=epochs,
        seed=seed,
    )
    result = train(experiment, log, f"{output}/run", resume=True, console=Console(stderr=True))
    show(result, log, f"{output}/run")


if __name__ == "__main__":
    main()
