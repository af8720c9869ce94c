"""An experiment from the command line: a file and single values on top of it, a log, a folder for the run."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from keras_dlrm.cli.options import POSITIVE, PathArgument, together

model_option = functools.partial(click.option, "--model", type=click.Choice(["DLRM", "DCN", "DCNv2"]))
#: What is trained: single values on top of an experiment.
experiment_options = together(
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
                 help="Any value of the experiment, such as model.dropout=0.2. May be repeated."),
    click.option("--batch-size", type=int, help="Rows of a training batch."),
    click.option("--epochs", type=int, help="Maximum number of epochs."),
    click.option("--optimizer", help="sgd, adagrad, rowwise_adagrad, adam, or a Keras optimizer."),
    click.option("--embedding-optimizer", help="Row rule of the tables; follows --optimizer by default."),
    click.option("--learning-rate", type=POSITIVE, help="Learning rate of the optimizer, and of the row rule if it has none."),
    click.option("--mixed-precision", is_flag=True, default=None, help="Compute in bfloat16."),
)  # fmt: skip

#: `experiment_options`, and what belongs to one run. The command hands them to `chosen_experiment`.
training_options = together(
    click.option("--config", type=PathArgument, help="Experiment as YAML."), model_option(help="Model, with its default widths."),
    experiment_options,
    click.option("--seed", type=int, help="Seed of weights, dropout and row order."),
)
tensorboard_option = click.option("--tensorboard", is_flag=True, help="Write TensorBoard logs into the run.")


def chosen_experiment(
    default: Callable[[], Any], config: Path | None, model: str | None, seed: int | None, **options: Any
) -> Any:
    """The experiment of the command line: of a file, or the default, with a model's default widths, a seed and options instead."""
    from keras_dlrm.training.experiment import Experiment

    experiment = default() if config is None else Experiment.load(config)
    if model is not None:
        experiment = experiment.override([f"model={{type: {model}}}"])
    experiment = apply_experiment_options(experiment, **options)
    return experiment if seed is None else experiment.override([f"seed={seed}"])


def apply_experiment_options(
    experiment: Any, settings: Sequence[str], learning_rate: float | None, mixed_precision: bool | None, **values: Any
) -> Any:
    """The experiment with the command line's values."""
    changes = [f"{name}={value}" for name, value in values.items() if value is not None]
    if learning_rate is not None:
        changes.append(f"optimizer.learning_rate={learning_rate}")
    if mixed_precision:
        changes.append("mixed_precision=true")
    experiment = experiment.override([*changes, *settings])
    if learning_rate is None:
        return experiment
    # An optimizer that has no rate of its own, wherever it comes from, gets this one.
    specs = {name: getattr(experiment, name) for name in ("optimizer", "embedding_optimizer")}
    without = [n for n, spec in specs.items() if isinstance(spec, str) or "learning_rate" not in (spec or {"learning_rate"})]
    return experiment.override([f"{name}.learning_rate={learning_rate}" for name in without])


def chosen_log(directory: Path | None, console: Any) -> Any:
    """The click log of `--data`; the planted one, which is written once, where there is none."""
    from keras_dlrm import data
    from keras_dlrm.training.experiment import planted_log

    return planted_log(Path("runs") / "planted-log", console) if directory is None else data.open(directory)


def stamped(name: str) -> Path:
    """A folder for a run that was given none: `runs/<name>-<time>`."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
