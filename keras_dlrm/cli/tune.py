"""Command `tune`: values around the defaults or a configuration, and the best of them as a configuration."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.cli.program import promise
from keras_dlrm.support.installs import require

_SHOWN = ("trial", "state", "auc", "logloss", "ne", "epochs", "seconds")
_MOST = 10  # trials in the table


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
    from keras_dlrm.training.recipe import recipe

    log = shared.chosen_log(data, Console(stderr=True))
    fixed = shared.keys_of(**options)
    if options["config"] is None:
        default = recipe(log, shared.known_model(options["model"] or "DLRM"))
        options["model"] = None
    else:
        from keras_dlrm.training.experiment import EXPERIMENT as default
    experiment = shared.chosen_experiment(default, **options)
    output = output or shared.stamped(f"tune-{experiment.model['type'].rpartition(':')[2].lower()}")
    from keras_dlrm.training.tuning import tune

    again = f"Complete trials and the best.yaml of them stay. The same command with --output {shlex.quote(str(output))} continues."
    with promise(again):
        tuning = tune(
            log, output=output, time_budget=time_budget, trials=trials, jobs=jobs, experiment=experiment, fixed=fixed,
            imports=options["imports"], console=Console(stderr=True),
        )  # fmt: skip
    show(tuning, data)
    rows = tuning.trials.to_dicts()
    best = {key: value for key, value in rows[tuning.best_trial].items() if key != "error"}
    shared.print_json(as_json, {"best": best, "trials": len(rows), "output": str(output)})


def show(tuning: Any, data: Path) -> None:
    """Print the best trials, the values of the best one, and how to train it."""
    from keras_dlrm.support.terminal import print_table

    scored = [row for row in tuning.trials.to_dicts() if row["score"] is not None]
    ranked = sorted(scored, key=lambda row: -row["score"])[:_MOST]
    click.echo()
    print_table([{key: row[key] for key in _SHOWN} for row in ranked], "trials, by score on the validation part", file=sys.stdout)
    values = [{key: _text(row[key]) for key in ("value", "before", "best", "importance")} for row in tuning.values]
    print_table(values, f"\nvalues of trial {tuning.best_trial}", file=sys.stdout)
    best = shlex.quote(str(tuning.output / "best.yaml"))
    click.echo(f"\nreport.html and best.yaml: {tuning.output}")
    click.echo(f"keras-dlrm train --data {shlex.quote(str(data))} --config {best}")


def _text(value: Any) -> str | None:
    """A value with three digits, for a column of values of all kinds."""
    return None if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
