"""Command `train`: one run, from processed data to a scored model."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.cli.preprocess import warn_without_valid
from keras_dlrm.cli.program import promise
from keras_dlrm.support.installs import require
from keras_dlrm.training.run_files import besides_log


@click.command(epilog="""\b
Examples:
  keras-dlrm train clicks.parquet --label click             a table: its columns are found by themselves
  keras-dlrm train                                          the built-in planted log
  keras-dlrm train --data my-log --model DCNv2 --epochs 3   a model on your own data
  keras-dlrm train --config run.yaml --data my-log --output runs/a --resume
  keras-dlrm train --data my-log --slice-by country --group-by user --time-budget 10m
  keras-dlrm train --data my-log --backend jax --optimizer adagrad --learning-rate 0.02
""")
@click.argument("inputs", nargs=-1)
@click.option("--label", "labels", multiple=True, help="Of INPUTS: column of clicks, 0 or 1; may be given for several.")
@click.option("--schema", type=shared.PathArgument, help="Of INPUTS: schema file, instead of one that is inferred.")
@click.option("--data", type=shared.PathArgument, help="Processed directory (see `preprocess`). Default: a planted log.")
@shared.csv_options
@shared.training_options
@click.option("--output", type=shared.PathArgument, help="Folder of the run. Default: runs/<model>-<time>.")
@click.option("--resume", is_flag=True, help="Resume an interrupted run in --output.")
@click.option("--overwrite", is_flag=True, help="Delete an earlier run in --output.")
@shared.slice_options
@shared.time_budget_option
@shared.tensorboard_option
@shared.backend_option
@shared.json_option
def command(
    inputs: tuple[str, ...], labels: tuple[str, ...], schema: Path | None, data: Path | None, output: Path | None, resume: bool,
    overwrite: bool, slice_by: tuple[str, ...], group_by: str | None, tensorboard: bool, as_json: bool, csv: Any, **options: Any,
) -> None:  # fmt: skip
    """Train a model, keep the best one on the validation part, score the test part once.

    What no option says follows from the log: sizes, regularization, batches; the run ends when the validation part stops
    improving. `experiment.yaml` in the run's folder has each value with its reason, and can be edited and given as --config.

    INPUTS are Parquet, CSV or TSV files, or a folder of them. A schema is inferred (see `keras-dlrm schema`), the rows are cut
    into parts by time, or else at random, and the processed log is written to `data` in the run's folder.

    Without INPUTS and --data a planted click log is trained on, whose true click probabilities are known: the result then
    shows how far the model is from the best possible one.
    """
    from rich.console import Console

    from keras_dlrm.pipeline.prepare import prepare

    if tensorboard:
        require("--tensorboard", "tensorflow")
    # All that can be checked comes before the import of a framework, which takes long.
    console = Console(stderr=True)
    if csv is not None and not inputs:
        raise ValueError("train: --csv-… options are for INPUTS, files of text; leave them out.")
    if bool(inputs) != bool(labels or schema) or (inputs and data):
        raise ValueError("train: give files with --label or --schema, or --data, which was preprocessed before.")
    log = None if data is None else shared.chosen_log(data, console)
    experiment = experiment_for(log, options)
    if resume and output is None:
        raise ValueError("--resume needs --output: the folder of the run to resume.")
    if output is None:
        output = shared.stamped(experiment.model["type"].rpartition(":")[2].lower())
    elif not (resume or overwrite) and besides_log(output):
        fix = "resume its run with --resume, delete it with --overwrite, or give another --output."
        raise FileExistsError(f"--output {output} has content; {fix}")
    if inputs:  # read, or a planted log written, only where all else is right
        from keras_dlrm.training.model_types import check_arguments

        check_arguments(experiment.model)
        with promise(f"Preprocessing continues where it stopped with --output {shlex.quote(str(output))}."):
            label = labels[0] if len(labels) == 1 else labels or None
            log = prepare(list(inputs), output, label, schema, csv=csv, console=console)
        experiment = experiment_for(log, options)
    elif log is None:
        log = shared.chosen_log(None, console)
    shared.check_slices(log, slice_by, group_by)
    warn_without_valid(log)
    from keras_dlrm.training.run import train

    again = f"--resume --output {shlex.quote(str(output))}"
    with promise(f"The run resumes from its last checkpoint with {again} and the same options, without --overwrite."):
        result = train(experiment, log, output, resume, overwrite, tensorboard, console, slice_by or None, group_by)
    show(result, output)
    shared.print_json(as_json, {**result, "output": str(output)})


def experiment_for(log: Any, options: Mapping[str, Any]) -> Any:
    """The experiment of the options: that of the planted log, or what follows from another one, with single values instead."""
    from keras_dlrm.training.experiment import EXPERIMENT
    from keras_dlrm.training.recipe import recipe

    if log is None or options["config"] is not None:
        return shared.chosen_experiment(EXPERIMENT, **options)
    chosen = recipe(log, shared.known_model(options["model"] or "DLRM"))
    return shared.chosen_experiment(chosen, **{**options, "model": None})


def show(result: dict[str, Any], output: Path) -> None:
    """Print the result table."""
    from keras_dlrm.support.terminal import print_table
    from keras_dlrm.training.summary import summary

    title, rows = summary(result)
    click.echo()
    if rows:
        print_table(rows, title, file=sys.stdout)
    if "verdict" in result:
        click.echo(f"\n{click.wrap_text(result['verdict'], 80)}")
    if "distance" in result:
        gap = result["distance"]["auc"]
        best = f"The best possible AUC on these test rows is {result['best']['auc']:.4f}"
        click.echo(f"\n{best}; {result['model']} is {gap:.4f} {'below' if gap >= 0 else 'above'} it.")
    click.echo(f"\nmodel, result.json and report.html: {output}")
