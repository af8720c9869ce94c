"""Command `tune`: values around the defaults or a configuration, and the best of them as a configuration."""

import shlex
from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.cli.program import promise
from keras_dlrm.cli.train import experiment_for
from keras_dlrm.support.installs import require


@click.command(epilog="""\b
Examples:
  keras-dlrm tune --data my-log                                     ten minutes around the defaults
  keras-dlrm tune --data my-log --model DCNv2 --time-budget 2h --jobs 4
  keras-dlrm tune --data my-log --config run.yaml --trials 50 --set model.dropout=0.1
  keras-dlrm train --data my-log --config runs/tune-dlrm-…/best.yaml
""")
@click.option("--data", type=shared.PathArgument, required=True, help="Processed directory (see `preprocess`).")
@shared.training_options
@click.option("--time-budget", type=shared.DURATION, help="Time of tuning, such as 30m; 10m if no --trials are given.")
@click.option("--trials", type=click.IntRange(1), help="Most trials.")
@click.option("--jobs", type=click.IntRange(1), default=1, help="Processes that try at the same time.")
@click.option("--output", type=shared.PathArgument, help="Folder of the trials. Default: runs/tune-<model>-<time>.")
@shared.backend_option
@shared.json_option
def command(
    data: Path, time_budget: float | None, trials: int | None, jobs: int, output: Path | None, as_json: bool, **options: Any
) -> None:  # fmt: skip
    """Try values around the defaults, or around --config, and write the best as a configuration for `train`.

    The first trial is the experiment that `train` would run. Values that an option sets stay as they are. Trials are compared
    on the validation part; the test part is not read. The same command with its --output continues after a kill, or works on
    the same trials at the same time. Needs Optuna: pip install 'keras-dlrm[tune]'.
    """
    from rich.console import Console

    require("tune", "optuna")
    fixed = shared.keys_of(**options)
    log = shared.chosen_log(data, Console(stderr=True))
    experiment = experiment_for(log, options)
    output = output or shared.stamped(f"tune-{experiment.model['type'].rpartition(':')[2].lower()}")
    from keras_dlrm.training.tuning import tune

    again = f"Complete trials and the best.yaml of them stay. The same command with --output {shlex.quote(str(output))} continues."
    with promise(again):
        tuning = tune(
            log, experiment=experiment, fixed=fixed, time_budget=time_budget, trials=trials, jobs=jobs,
            imports=options["imports"], output=output,
        )  # fmt: skip
    click.echo(f"\n{tuning}\n")
    best = shlex.quote(str(output / "best.yaml"))
    click.echo(f"keras-dlrm train --data {shlex.quote(str(data))} --config {best}")
    rows = tuning.trials.to_dicts()
    best_trial = {key: value for key, value in rows[tuning.best_trial].items() if key != "error"}
    shared.print_json(as_json, {"best": best_trial, "trials": len(rows), "output": str(output)})
