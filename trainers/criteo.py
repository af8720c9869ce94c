"""DLRM on Criteo's click log, from the raw TSV to a scored model, with a published preset.

A run that is started again with the same arguments resumes where it stopped.
"""

from pathlib import Path

import click

from keras_dlrm.cli.options import (
    PathArgument,
    backend_option,
    check_slices,
    chosen_experiment,
    row_progress,
    slice_options,
    tensorboard_option,
    time_budget_option,
    training_options,
)
from keras_dlrm.cli.program import promise, run

EPILOG = """\b
Examples:
  python trainers/criteo.py train.txt --output runs/kaggle
  python trainers/criteo.py day_{0..23} --output runs/terabyte --preset criteo_terabyte --max-ind-range 10000000
  python trainers/criteo.py train.txt --output runs/dcn --model DCNv2 --backend jax --mixed-precision --tensorboard
"""
PRESETS = ["criteo_kaggle", "criteo_terabyte", "mlperf_v1", "mlperf_dcnv2"]


def preset_experiment(name):
    """A published model and its training as an experiment of one epoch."""
    import keras_dlrm as kd
    from keras_dlrm.training.experiment import Experiment

    preset = kd.models.PRESETS[name]
    options = dict(preset.optimizer_options)
    if preset.schedule:
        options["learning_rate"] = {"learning_rate": options["learning_rate"], **preset.schedule}
    return Experiment(
        model={"type": "DLRM", **preset.model},
        optimizer={"name": preset.optimizer, **options},
        batch_size=preset.batch_size,
    )


@click.command(epilog=EPILOG)
@click.argument("inputs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", required=True, type=PathArgument, help="Folder for the processed data and the run.")
@click.option("--preset", default="criteo_kaggle", show_default=True, type=click.Choice(PRESETS),
              help="Published model and training, to which the options below are changes.")  # fmt: skip
@click.option("--max-ind-range", type=int, help="Categories are taken modulo this.")
@click.option("--days", type=int, default=7, show_default=True, help="Days that a single file is cut into.")
@click.option("--subsample", type=float, default=0.0, show_default=True, help="Share of label-0 rows to drop.")
@training_options
@slice_options
@time_budget_option
@tensorboard_option
@backend_option
@promise("The same command resumes where it stopped.")
def main(inputs, output, preset, max_ind_range, days, subsample, tensorboard, slice_by, group_by, **options):
    """Preprocess Criteo's TSV files (once), train, keep the best model, score the test part."""
    from rich.console import Console

    from keras_dlrm.cli.train import show
    from keras_dlrm.data import criteo
    from keras_dlrm.training.run import train
    from keras_dlrm.training.run_files import LOG

    experiment = chosen_experiment(preset_experiment(preset), **options)
    settings = {"max_ind_range": max_ind_range, "days": days, "subsample": subsample}
    with row_progress("preprocess") as progress:
        log = criteo.preprocess(list(inputs), **settings, output=output / LOG, reuse=True, progress=progress)
    check_slices(log, slice_by, group_by)
    given = {"tensorboard": tensorboard, "slice_by": slice_by or None, "group_by": group_by}
    result = train(experiment, log, output, resume=True, console=Console(stderr=True), **given)
    show(result, output)


if __name__ == "__main__":
    run(main)
