"""Command `train`: one run, from processed data to a scored model."""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli import options as shared
from keras_dlrm.cli.preprocess import warn_without_valid
from keras_dlrm.cli.program import promise
from keras_dlrm.support.installs import require


@click.command(epilog="""\b
Examples:
  keras-dlrm train                                          the built-in planted log
  keras-dlrm train --data my-log --model DCNv2 --epochs 3   a model on your own data
  keras-dlrm train --config run.yaml --data my-log --output runs/a --resume
  keras-dlrm train --data my-log --slice-by country --group-by user
  keras-dlrm train --data my-log --backend jax --optimizer adagrad --learning-rate 0.02
""")
@click.option("--data", type=shared.PathArgument, help="Processed directory (see `preprocess`). Default: a planted log.")
@shared.training_options
@click.option("--output", type=shared.PathArgument, help="Folder of the run. Default: runs/<model>-<time>.")
@click.option("--resume", is_flag=True, help="Resume an interrupted run in --output.")
@click.option("--overwrite", is_flag=True, help="Delete an earlier run in --output.")
@shared.slice_options
@shared.tensorboard_option
@shared.backend_option
@shared.json_option
def command(
    data: Path | None, output: Path | None, resume: bool, overwrite: bool, slice_by: tuple[str, ...], group_by: str | None,
    tensorboard: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Train a model, keep the best one on the validation part, score the test part once.

    What no option says follows from the log: sizes, regularization, batches; the run ends when the validation part stops
    improving. `experiment.yaml` in the run's folder has each value with its reason, and can be edited and given as --config.

    Without --data a planted click log is trained on, whose true click probabilities are known: the result then shows
    how far the model is from the best possible one.
    """
    from rich.console import Console

    from keras_dlrm.training.experiment import EXPERIMENT
    from keras_dlrm.training.recipe import recipe

    if tensorboard:
        require("--tensorboard", "tensorflow")
    # All that can be checked comes before the import of a framework, which takes long.
    console, default = Console(stderr=True), EXPERIMENT
    log = None if data is None else shared.chosen_log(data, console)
    if log is not None and options["config"] is None:
        default = recipe(log, shared.known_model(options["model"] or "DLRM"))
        options["model"] = None
    experiment = shared.chosen_experiment(default, **options)
    if resume and output is None:
        raise ValueError("--resume needs --output: the folder of the run to resume.")
    if output is None:
        output = shared.stamped(experiment.model["type"].rpartition(":")[2].lower())
    elif not (resume or overwrite) and output.is_dir() and any(output.iterdir()):
        fix = "resume its run with --resume, delete it with --overwrite, or give another --output."
        raise FileExistsError(f"--output {output} has content; {fix}")
    if log is None:
        log = shared.chosen_log(None, console)  # written only where all else is right
    shared.check_slices(log, slice_by, group_by)
    warn_without_valid(log)
    from keras_dlrm.training.run import train

    again = f"--resume --output {shlex.quote(str(output))}"
    with promise(f"The run resumes from its last checkpoint with {again} and the same options, without --overwrite."):
        result = train(experiment, log, output, resume, overwrite, tensorboard, console, slice_by or None, group_by)
    show(result, log, output)
    shared.print_json(as_json, {**result, "output": str(output)})


def show(result: dict[str, Any], log: Any, output: Path) -> None:
    """Print the result table."""
    from keras_dlrm.support.terminal import print_table

    parts = [part for part in ("valid", "test") if part in result]
    rows = [{"part": part, "rows": len(log.split(part)), **result[part]} for part in parts]
    for baseline in result.get("baselines", ()):
        rows.append({**baseline, "part": baseline["model"]})
        del rows[-1]["model"]
    if "best" in result:
        rows.append({"part": "best possible", "rows": len(log.split("test")), **result["best"]})
        rows.append({"part": "distance", **result["distance"]})
    counts = result["parameters"]
    click.echo()
    if rows:
        title = (
            f"{result['model']} on {result['backend']}: {counts['tables']:,} table and {counts['dense']:,} dense "
            f"parameters, {result['epochs']} epochs, {result['seconds']:.1f} s, {result['samples_per_s']:,} samples/s"
        )
        print_table(rows, title, file=sys.stdout)
    if "verdict" in result:
        click.echo(f"\n{click.wrap_text(result['verdict'], 80)}")
    if "distance" in result:
        gap = result["distance"]["auc"]
        best = f"The best possible AUC on these test rows is {result['best']['auc']:.4f}"
        click.echo(f"\n{best}; {result['model']} is {gap:.4f} {'below' if gap >= 0 else 'above'} it.")
    click.echo(f"\nmodel, result.json and report.html: {output}")
