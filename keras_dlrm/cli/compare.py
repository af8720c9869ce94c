"""Command `compare`: models over several seeds, and whether they differ by more than noise."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from keras_dlrm.cli import options as shared
from keras_dlrm.cli.program import promise
from keras_dlrm.support.installs import require


@click.command(epilog="""\b
Examples:
  keras-dlrm compare --data my-log                                  DLRM alongside DCN, 3 seeds
  keras-dlrm compare --data my-log --model DLRM --model DCNv2 --seeds 5
  keras-dlrm compare --data my-log --config dlrm.yaml --config dcn.yaml
  keras-dlrm compare --data my-log --slice-by country       reports of all runs by country
  keras-dlrm compare --data my-log --model DLRM --model DCNv2 --tuned 10m
""")
@click.option("--data", type=shared.PathArgument, help="Processed directory. Default: a planted log.")
@click.option("--config", "configs", type=shared.PathArgument, multiple=True, help="Experiment as YAML; may be repeated.")
@shared.model_option("models", multiple=True, help="May be repeated.")
@shared.experiment_options
@shared.time_budget_option
@click.option("--seeds", type=click.IntRange(1), default=3, help="Runs of each, seeds 0, 1, …")
@click.option("--tuned", type=shared.DURATION, help="First tune each model for so long, such as 10m, as `tune` does.")
@click.option("--samples", type=click.IntRange(1), default=500, help="Bootstrap resamples.")
@click.option("--output", type=shared.PathArgument, help="Folder of the runs; finished ones are not repeated.")
@shared.slice_options
@shared.backend_option
@shared.json_option
def command(
    data: Path | None, configs: tuple[Path, ...], models: tuple[str, ...], seeds: int, tuned: float | None, samples: int,
    output: Path | None, slice_by: tuple[str, ...], group_by: str | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Train models with several seeds and report whether they differ by more than noise.

    The first model is compared with each of the others, and each with a logistic regression, on the same test rows: a paired
    bootstrap over rows and seeds gives the 95% interval of the difference between the mean scores. With --tuned each model is
    first tuned for the same time; values that an option sets stay as they are.
    """
    from rich.console import Console

    from keras_dlrm.training.experiment import EXPERIMENT, Experiment
    from keras_dlrm.training.recipe import recipe

    if tuned is not None:
        require("--tuned", "optuna")
    if configs and models:
        raise ValueError("--config and --model are mutually exclusive: a configuration names its model.")
    named = {path.stem: Experiment.load(path) for path in configs}
    if len(named) < len(configs):
        raise ValueError(f"--config: two files have the same name among {[str(c) for c in configs]}; rename one.")
    if len(named or models or ("DLRM", "DCN")) < 2:
        raise ValueError("compare: two models are needed; repeat --config or --model.")
    console = Console(stderr=True)
    log = shared.chosen_log(data, console)
    for model in () if named else map(shared.known_model, models or ("DLRM", "DCN")):
        if data is not None:
            named[model] = recipe(log, model)
        else:
            named[model] = EXPERIMENT if model == EXPERIMENT.model["type"] else shared.of_type(EXPERIMENT, model)
    if "test" not in log.splits or not len(log.split("test")):
        raise ValueError(f"{log.directory} has no test part to compare on.")
    shared.check_slices(log, slice_by, group_by)
    reported = {"slice_by": slice_by or None, "group_by": group_by}
    output = output or shared.stamped("compare")
    from keras_dlrm.training.run import one_run

    again = f"The same command with --output {shlex.quote(str(output))} continues: finished runs are not repeated."
    with promise(again), one_run(output):
        result = _compare(named, log, output, seeds, tuned, samples, console, options, reported)
    shared.print_json(as_json, result)


def _compare(
    named: dict[str, Any], log: Any, output: Path, seeds: int, tuned: float | None, samples: int, console: Any,
    options: dict[str, Any], reported: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Train, print both tables, and write `compare.json`; what it holds."""
    from keras_dlrm.files.checksums import read_json
    from keras_dlrm.files.durable import write
    from keras_dlrm.metrics import paired_bootstrap_runs, scores
    from keras_dlrm.support.terminal import print_table
    from keras_dlrm.training.baselines import LOGISTIC, baseline_predictions, verdict
    from keras_dlrm.training.by_label import logs_by_label
    from keras_dlrm.training.run import train
    from keras_dlrm.training.run_files import read_predictions
    from keras_dlrm.training.tuning import tune

    path = output / "compare.json"
    if path.exists() and set(read_json(path)) != {"models", "differences"}:
        raise FileExistsError(f"{path} was not written by compare; give another --output.")
    table: list[dict[str, Any]] = []
    runs: dict[str, list[Any]] = {}
    trained: dict[str, tuple[Any, Any]] = {}
    for name, experiment in named.items():
        experiment = shared.apply_experiment_options(experiment, **options)
        if tuned is not None:
            console.print(f"[bold]{name}[/bold], tuning")
            folder, fixed = output / f"{name}-tuned", shared.keys_of(**options)
            experiment = tune(log, experiment=experiment, fixed=fixed, time_budget=tuned, output=folder).best
        results = []
        for seed in range(seeds):
            console.print(f"[bold]{name}[/bold], seed {seed}")
            folder = output / f"{name}-seed{seed}"
            seeded = experiment.override([f"seed={seed}"])
            results.append(train(seeded, log, folder, resume=folder.exists(), console=console, **reported))
            runs.setdefault(name, []).append(read_predictions(folder))
        row: dict[str, Any] = {"model": name, "seeds": seeds}
        for score in ("auc", "logloss", "ne"):
            values = [r["test"][score] for r in results]
            row[score] = float(np.mean(values))
            row[f"± {score}"] = float(np.std(values, ddof=1)) if seeds > 1 else None
        row["parameters"] = results[0]["parameters"]["tables"] + results[0]["parameters"]["dense"]
        row["seconds"] = float(np.mean([r["seconds"] for r in results]))
        table.append(row)
        trained[name] = experiment, results[0]

    first, *others = named
    calibrated = any(result.get("shifts") for _, result in trained.values())
    differences: dict[tuple[str, str, str], Any] = {}
    for label, own, rows in logs_by_label(log, "test"):
        labels, weights = np.asarray(own.split("test").labels), own.split("test").sample_weights()
        of_label = {name: [probabilities[rows] for probabilities in each] for name, each in runs.items()}
        for name, probabilities in baseline_predictions(own, "test", calibrated).items():
            of_baseline = scores(labels, probabilities, weights)
            shown = {score: of_baseline[score] for score in ("auc", "logloss", "ne")}
            table.append({"model": f"{name}, {label}" if label else name, **shown})
            of_label[name] = [probabilities]
        for a, b in [*((first, other) for other in others), *((name, LOGISTIC) for name in named)]:
            differences[a, b, label] = paired_bootstrap_runs(labels, of_label[a], of_label[b], samples, weights=weights)
    verdicts = [
        {"difference": f"{a} - {b}", **({"label": label} if label else {}), "score": score, "mean": mean, "low": low, "high": high,
         "p": p_value, "more than noise": "yes" if low > 0 or high < 0 else "no"}
        for (a, b, label), by_score in differences.items() for score, (mean, low, high, p_value) in by_score.items()
    ]  # fmt: skip
    click.echo()
    print_table(table, f"Test part of {log.directory} ({len(log.split('test')):,} rows), mean ± sd over seeds", file=sys.stdout)
    over = "rows and seeds" if seeds > 1 else "rows"
    print_table(verdicts, f"Paired bootstrap over {over}, 95% interval", file=sys.stdout)
    for name, (experiment, run) in trained.items():
        for label in ("",) if len(log.schema.labels) == 1 else log.schema.labels:
            said = verdict(name, LOGISTIC, differences[name, LOGISTIC, label], experiment, log, run)
            click.echo(f"\n{click.wrap_text(f'{label}: {said}' if label else said, 80)}")
    result = {"models": table, "differences": verdicts}
    write(path, json.dumps(result, indent=2))
    click.echo(f"runs and compare.json: {output}")
    return result
