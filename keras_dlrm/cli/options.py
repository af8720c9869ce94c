"""Options that several commands share, and how they print."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_dlrm.files.archive import KERAS, check_archive

if TYPE_CHECKING:
    from keras_dlrm.data.preprocessor.unseen import Unseen

PathArgument = click.Path(path_type=Path)


class _Positive(click.ParamType):
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            self.fail(f"{value!r} must be a finite number above 0.", param, ctx)
        return number


#: A finite number above 0, such as a learning rate or seconds.
POSITIVE = _Positive()


def backend_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--backend`: set before Keras is imported."""

    @click.option(
        "--backend",
        type=click.Choice(["tensorflow", "jax", "torch"]),
        help="Keras backend; that of KERAS_BACKEND or Keras's own configuration by default.",
    )
    @functools.wraps(function)
    def wrapper(*args: Any, backend: str | None, **kwargs: Any) -> Any:
        if backend is not None:
            _choose(backend)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        return function(*args, **kwargs)

    return wrapper


def _choose(backend: str) -> None:
    """Set Keras's backend, which it reads once, when it is imported."""
    keras = sys.modules.get("keras")
    if keras is not None and keras.backend.backend() != backend:
        raise ValueError(
            f"--backend {backend}: Keras runs on {keras.backend.backend()} already; start the program with "
            f"KERAS_BACKEND={backend} instead."
        )
    os.environ["KERAS_BACKEND"] = backend


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`: a machine-readable last line."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")(function)


def csv_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How text files are written: `--csv-…`, which come as `csv`, a `CsvDialect`, or `None` where none is given."""

    @click.option("--csv-separator", help=r"Character between the fields of text files; \t for a tab.")
    @click.option("--csv-names", help="Names of the columns of text files without a header, in order: click,user,price.")
    @click.option("--csv-null", multiple=True, help="Text of a field that is missing, besides the empty one; may be repeated.")
    @click.option("--csv-no-quotes", is_flag=True, help="Take double quotes in text files for letters.")
    @functools.wraps(function)
    def wrapper(
        *args: Any, csv_separator: str | None, csv_names: str | None, csv_null: tuple[str, ...], csv_no_quotes: bool, **kwargs: Any
    ) -> Any:
        from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect

        csv = None
        if csv_separator is not None or csv_names is not None or csv_null or csv_no_quotes:
            separator = "\t" if csv_separator == r"\t" else csv_separator
            names = None if csv_names is None else tuple(csv_names.split(","))
            csv = CsvDialect(separator, names, csv_null, not csv_no_quotes)
        return function(*args, csv=csv, **kwargs)

    return wrapper


def experiment_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is trained: a file, and single values on top of it."""
    for option in reversed(
        (
            click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
                         help="Any value of the experiment, such as model.dropout=0.2. May be repeated."),
            click.option("--batch-size", type=int, help="Rows of a training batch."),
            click.option("--epochs", type=int, help="Most epochs."),
            click.option("--optimizer", help="sgd, adagrad, rowwise_adagrad, adam, or a Keras optimizer."),
            click.option("--embedding-optimizer", help="Row rule of the tables; follows --optimizer by default."),
            click.option("--learning-rate", type=POSITIVE, help="Of the optimizer, and of the tables' where it has none."),
            click.option("--mixed-precision", is_flag=True, default=None, help="Compute in bfloat16."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`experiment_options`, and what belongs to one run. The command hands them to `chosen_experiment`."""
    for option in reversed(
        (
            click.option("--config", type=PathArgument, help="Experiment as YAML."),
            click.option(
                "--model", type=click.Choice(["DLRM", "DCN", "DCNv2"]), help="Model, with its default widths."
            ),
            experiment_options,
            click.option("--seed", type=int, help="Seed of weights, dropout and row order."),
        )
    ):
        function = option(function)
    return function


def chosen_experiment(
    default: Callable[[], Any], config: Path | None, model: str | None, seed: int | None, **options: Any
) -> Any:
    """The experiment of the command line.

    Args:
        default: Gives the experiment where there is no `config`.
        config: Its file.
        model: Name of a model, with its default widths.
        seed: Instead of the experiment's.
        **options: Of `experiment_options`.
    """
    from keras_dlrm.training.experiment import Experiment

    experiment = default() if config is None else Experiment.load(config)
    if model is not None:
        experiment = experiment.override([f"model={{type: {model}}}"])
    experiment = apply_experiment_options(experiment, **options)
    return experiment if seed is None else experiment.override([f"seed={seed}"])


def apply_experiment_options(
    experiment: Any,
    settings: Sequence[str],
    batch_size: int | None,
    epochs: int | None,
    optimizer: str | None,
    embedding_optimizer: str | None,
    learning_rate: float | None,
    mixed_precision: bool | None,
) -> Any:
    """The experiment with the command line's values."""
    changes = []
    for name, value in (("batch_size", batch_size), ("epochs", epochs)):
        if value is not None:
            changes.append(f"{name}={value}")
    if optimizer is not None:
        changes.append(f"optimizer={optimizer}")
    if embedding_optimizer is not None:
        changes.append(f"embedding_optimizer={embedding_optimizer}")
    if learning_rate is not None:
        changes.append(f"optimizer.learning_rate={learning_rate}")
    if mixed_precision:
        changes.append("mixed_precision=true")
    experiment = experiment.override([*changes, *settings])
    if learning_rate is None:
        return experiment
    # An optimizer that has no rate of its own, wherever it comes from, gets this one.
    specs = {name: getattr(experiment, name) for name in ("optimizer", "embedding_optimizer")}
    without = [
        n for n, spec in specs.items() if spec is not None and (isinstance(spec, str) or "learning_rate" not in spec)
    ]
    return experiment.override([f"{name}.learning_rate={learning_rate}" for name in without])


def load_model(path: Path, compile: bool = True) -> Any:
    """The model of a `.keras` file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a whole `.keras` file: all of it is read and compared with its checksums first.
    """
    if not path.exists():
        raise FileNotFoundError(f"no model at {path}; give a .keras file, such as runs/a/model.keras.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the .keras file in it, such as {path / 'model.keras'}.")
    check_archive(path, KERAS)
    import keras

    import keras_dlrm

    keras_dlrm.register()
    return keras.saving.load_model(path, compile=compile)


def print_json(as_json: bool, value: Mapping[str, Any]) -> None:
    """The last line, where it was asked for."""
    if as_json:
        click.echo(json.dumps(value))


def print_unseen(columns: Sequence[Unseen]) -> None:
    """A table of the columns with unseen values, where there are some, and a warning where they are too many."""
    from keras_dlrm.data.preprocessor import unseen
    from keras_dlrm.support.table import print_table

    if rows := unseen.table(columns):
        print_table(rows, "unseen values")
    if said := unseen.warning(columns):
        click.echo(f"warning: {said}", err=True)


@contextmanager
def row_progress(title: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """A progress bar fed by `(rows_done, rows_total, stage)`, with rows/s and time left, on standard error."""
    import time

    from rich.console import Console

    from keras_dlrm.support.bar import bar

    start = time.perf_counter()
    with bar(Console(stderr=True), "rows") as shown:
        task = shown.add_task(title, total=None, note="")

        def report(done: int, total: int | None, stage: str) -> None:
            rate = done / max(time.perf_counter() - start, 1e-9)
            shown.update(task, completed=done, total=total, description=f"{title}: {stage}", note=f"{rate:,.0f} rows/s")

        yield report
