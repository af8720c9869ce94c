"""Options that several commands share, what they stand for, such as an experiment, and output besides results."""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_dlrm.cli.quantities import DURATION, POSITIVE
from keras_dlrm.files.checksums import KERAS, check_archive
from keras_dlrm.support.installs import require
from keras_dlrm.training.run_files import MODEL
from keras_dlrm.training.run_files import stamped as stamped

if TYPE_CHECKING:
    from keras_dlrm.data.preprocessor.unseen import Unseen
    from keras_dlrm.training.experiment import Experiment

PathArgument = click.Path(path_type=Path)
# So Keras calls a class that nobody has registered.
_UNKNOWN = re.compile(r"Could not locate class '([^']*)'")


def backend_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--backend`: set before Keras is imported, which reads it once."""

    @click.option("--backend", type=click.Choice(["tensorflow", "jax", "torch"]),
                  help="Keras backend; that of KERAS_BACKEND or Keras's own configuration by default.")  # fmt: skip
    @functools.wraps(function)
    def wrapper(*args: Any, backend: str | None, **kwargs: Any) -> Any:
        if backend is not None:
            keras = sys.modules.get("keras")
            if keras is not None and keras.backend.backend() != backend:
                fix = f"start the program with KERAS_BACKEND={backend} instead."
                raise ValueError(f"--backend {backend}: Keras runs on {keras.backend.backend()} already; {fix}")
            require(f"--backend {backend}", backend)
            os.environ["KERAS_BACKEND"] = backend
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        return function(*args, **kwargs)

    return wrapper


def together(*options: Callable[..., Any]) -> Callable[..., Any]:
    """One decorator of several options, which `--help` lists in this order."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with these options."""
        return functools.reduce(lambda made, option: option(made), reversed(options), function)

    return add


#: `--json`: a machine-readable last line.
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an earlier output.")
seed_option = click.option("--seed", type=click.IntRange(0), default=0)


def _shares(ctx: click.Context, param: click.Parameter, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if value is not None and (not all(0 <= share <= 1 for share in value) or not value[0] or abs(sum(value) - 1) > 1e-6):
        shares = " ".join(f"{share:g}" for share in value)
        raise ValueError(f"--fractions {shares}: give three shares between 0 and 1 that add up to 1, such as 0.8 0.1 0.1.")
    return value


fractions_option = click.option("--fractions", type=float, nargs=3, metavar="TRAIN VALID TEST", callback=_shares,
                                help="Split --train in file order, instead of --valid and --test.")  # fmt: skip
#: A directory to write, whether it may take the place of an earlier one, and what is printed at the end.
directory_options = together(
    click.option("--output", type=PathArgument, required=True, help="Directory to write."), overwrite_option, json_option
)


def row_options(what: str = "row") -> Callable[..., Any]:
    """Options of commands that read files row by row: what to do with rows that cannot be used, threads, an earlier output."""
    return together(
        click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise",
                     help=f"Stop at the first {what} that cannot be used, or leave such {what}s out and count them."),
        click.option("--max-skipped", type=int, help="With skip: stop when there are more."),
        click.option("--workers", type=click.IntRange(1), help="Threads; all processors by default."),
        overwrite_option,
    )  # fmt: skip


def csv_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Dialect of text files: `--csv-…`, which come as `csv`, a `CsvDialect`, or `None` where none is given."""

    @click.option("--csv-separator", help=r"Character between the fields of text files; \t for a tab.")
    @click.option("--csv-names", help="Names of the columns of text files without a header, in order: click,user,price.")
    @click.option("--csv-null", multiple=True, help="Text of a field that is missing, besides the empty one; may be repeated.")
    @click.option("--csv-no-quotes", is_flag=True, help="Treat double quotes in text files as ordinary characters.")
    @functools.wraps(function)
    def wrapper(
        *args: Any, csv_separator: str | None, csv_names: str | None, csv_null: tuple[str, ...], csv_no_quotes: bool, **kwargs: Any
    ) -> Any:
        from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect

        separator = "\t" if csv_separator == r"\t" else csv_separator
        names = None if csv_names is None else tuple(csv_names.split(","))
        changed = separator is not None or names is not None or csv_null or csv_no_quotes
        csv = CsvDialect(separator, names, csv_null, not csv_no_quotes) if changed else None
        return function(*args, csv=csv, **kwargs)

    return wrapper


def refuse_unused(options: Mapping[str, Any], used: Collection[str], why: str) -> None:
    """`ValueError` where an option was given that is not used; `why` says so, with `{}` for the option."""
    for name, value in options.items():
        if value not in (None, False, ()) and name not in used:
            raise ValueError(f"{why.format('--' + name.replace('_', '-'))}; leave it out.")


def named_parts(rows: Sequence[int]) -> dict[str, int]:
    """Rows of each part from `--rows TRAIN VALID TEST`, without the empty ones."""
    parts = {name: count for name, count in zip(("train", "valid", "test"), rows, strict=True) if count}
    if not parts:
        raise ValueError("--rows 0 0 0: give at least one row.")
    return parts


#: Modules with classes of one's own; the command hands them to `import_modules`, `load_model` or `chosen_experiment`.
import_option = click.option("--import", "imports", multiple=True, metavar="MODULE",
                             help="Python module with layers or models of your own; may be repeated.")  # fmt: skip


def import_modules(names: Iterable[str]) -> None:
    """Import modules with classes of one's own, which registers them with Keras; those of the working folder, too.

    `ValueError` where one is missing.
    """
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: nothing in it stands for an installed module
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, and lacks another one
            fix = "give the name of a module, such as my_models for my_models.py, in the working folder or on PYTHONPATH"
            raise ValueError(f"--import {name}: there is no such module; {fix}.") from error


def model_file(path: Path) -> Path:
    """The `.keras` file that MODEL is, or that of the run in a folder; an error where it is not as it was written."""
    if (path / MODEL).is_file():
        path = path / MODEL
    if not path.exists():
        raise FileNotFoundError(f"no model at {path}; give a .keras file, or the folder of a run, such as runs/a.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder without {MODEL}; give a .keras file, or the folder of a run.")
    check_archive(path, KERAS)
    return path


def load_model(path: Path, compile: bool = True, imports: Iterable[str] = ()) -> Any:
    """The model of a `.keras` file that `model_file` has checked; `ValueError` where one of its classes is not known.

    `imports` are modules with its classes.
    """
    import_modules(imports)
    import keras

    from keras_dlrm.backend.private_keras import without_tensorflow

    try:
        with without_tensorflow():
            return keras.saving.load_model(path, compile=compile)
    except TypeError as error:
        if (unknown := _UNKNOWN.search(str(error))) is None:
            raise
        fix = "give the module that defines it with --import, such as --import my_models for my_models.py"
        raise ValueError(f"{path}: the class {unknown[1]!r} is not known; {fix}.") from error


def model_and_preprocessor(path: Path, log: Path | None, imports: Iterable[str]) -> tuple[Any, Any]:
    """A model, and the preprocessor of a processed directory; where none is given that of the model's run, or `None`."""
    model = load_model(model_file(path), compile=False, imports=imports)
    if log is not None:
        from keras_dlrm import data

        return model, data.open(log).preprocessor
    if not path.is_dir():
        return model, None
    from keras_dlrm.pipeline.run import Run

    return model, Run(path).preprocessor


def print_json(as_json: bool, value: Mapping[str, Any]) -> None:
    """The last line, where it was asked for."""
    if as_json:
        click.echo(json.dumps(value))


def print_skipped(count: int, examples: Iterable[Any]) -> None:
    """Print how many rows were skipped, and some of them."""
    if count:
        click.echo(f"{count:,} rows were skipped, such as:", err=True)
        for row in itertools.islice(examples, 5):
            click.echo(f"  {row}", err=True)


def print_unseen(columns: Sequence[Unseen]) -> None:
    """A table of the columns with unseen values, where there are some, and a warning where they are too many."""
    from keras_dlrm.data.preprocessor import unseen
    from keras_dlrm.support.terminal import print_table

    if rows := unseen.table(columns):
        print_table(rows, "unseen values")
    if said := unseen.warning(columns):
        click.echo(f"warning: {said}", err=True)


@contextmanager
def row_progress(title: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """A progress bar fed by `(rows_done, rows_total, stage)`, with rows/s and time left, on standard error."""
    from rich.console import Console

    from keras_dlrm.support.terminal import row_bar

    with row_bar(Console(stderr=True), title) as report:
        yield report


model_option = functools.partial(click.option, "--model", metavar="[DLRM|DCNv2|DeepFM|…|MODULE:CLASS]")
#: What is trained: single values on top of an experiment.
experiment_options = together(
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
                 help="Any value of the experiment, such as model.dropout=0.2. May be repeated."),
    click.option("--batch-size", type=click.IntRange(1), help="Rows of a training batch."),
    click.option("--epochs", type=click.IntRange(1), help="Maximum number of epochs."),
    click.option("--optimizer", help="sgd, adagrad, rowwise_adagrad, adam, or a Keras optimizer."),
    click.option("--embedding-optimizer", help="Row rule of the tables; follows --optimizer by default."),
    click.option("--learning-rate", type=POSITIVE, help="Learning rate of the optimizer, and of the row rule if it has none."),
    click.option("--mixed-precision", is_flag=True, default=None, help="Compute in bfloat16."),
    import_option,
)  # fmt: skip

#: `experiment_options`, and what belongs to one run. The command hands them to `chosen_experiment`.
training_options = together(
    click.option("--config", type=PathArgument, help="Experiment as YAML."), model_option(help="Model, with its default widths."),
    experiment_options,
    click.option("--seed", type=int, help="Seed of weights, dropout and row order."),
)
#: Columns to score one by one, and to take the AUC within.
slice_options = together(
    click.option("--slice-by", multiple=True, metavar="COLUMN", help="Also score each value of a column; may be repeated."),
    click.option("--group-by", metavar="COLUMN", help="Also take the AUC within each value of a column, such as the user."),
)


def check_slices(log: Any, slice_by: Sequence[str], group_by: str | None) -> None:
    """An error where a log lacks a column of `slice_options`."""
    from keras_dlrm.training.report_columns import check_columns

    check_columns(log.schema, slice_by, group_by, ("--slice-by", "--group-by"))


time_budget_option = click.option("--time-budget", type=DURATION,
                                  help="End training after this long, such as 10m, with the best so far; reading the table "
                                       "and scoring the best model take their own time.")  # fmt: skip
tensorboard_option = click.option("--tensorboard", is_flag=True, help="Write TensorBoard logs into the run.")


def chosen_experiment(
    default: Experiment, config: Path | None, model: str | None, seed: int | None, **options: Any
) -> Experiment:
    """The experiment of the command line: of a file, or the default, with a model's default widths, a seed and options instead."""
    from keras_dlrm.training.experiment import Experiment

    experiment = default if config is None else Experiment.load(config)
    if model is not None:
        experiment = of_type(experiment, model)
    experiment = apply_experiment_options(experiment, **options)
    return experiment if seed is None else experiment.override([f"seed={seed}"])


def of_type(experiment: Any, model: str) -> Any:
    """The experiment with a model of `--model` with its default widths."""
    return experiment.override([f"model={{type: '{known_model(model)}'}}"])


def known_model(model: str) -> str:
    """`--model`; a bare word must be one of the package's."""
    from keras_dlrm.training.model_types import MODELS, is_type

    if not is_type(model):
        own = "or a ClickModel of your own as MODULE:CLASS, such as my_models:Wide"
        raise ValueError(f"--model {model!r} is unknown; give one of {', '.join(MODELS)}, {own}.")
    return model


def apply_experiment_options(
    experiment: Any, settings: Sequence[str], learning_rate: float | None, mixed_precision: bool | None,
    imports: Sequence[str] = (), **values: Any,
) -> Any:  # fmt: skip
    """The experiment with the command line's values, whose modules are imported."""
    changes = [f"{name}={value}" for name, value in values.items() if value is not None]
    if learning_rate is not None:
        changes.append(f"optimizer.learning_rate={learning_rate}")
    if mixed_precision:
        changes.append("mixed_precision=true")
    experiment = experiment.override([*changes, *settings])
    if imports or not experiment.model["type"].isalnum():
        import_modules(imports)
    if learning_rate is None:
        return experiment
    # An optimizer that has no rate of its own, wherever it comes from, gets this one.
    specs = {name: getattr(experiment, name) for name in ("optimizer", "embedding_optimizer")}
    without = [n for n, spec in specs.items() if isinstance(spec, str) or "learning_rate" not in (spec or {"learning_rate"})]
    return experiment.override([f"{name}.learning_rate={learning_rate}" for name in without])


def keys_of(
    settings: Sequence[str], learning_rate: float | None, mixed_precision: bool | None = None, imports: Sequence[str] = (),
    config: Path | None = None, model: str | None = None, **values: Any,
) -> list[str]:  # fmt: skip
    """Keys of the experiment that options of `training_options` set to values of their own."""
    keys = [setting.partition("=")[0] for setting in settings] + [name for name, value in values.items() if value is not None]
    return keys if learning_rate is None else [*keys, "optimizer.learning_rate"]


def chosen_log(directory: Path | None, console: Any) -> Any:
    """The click log of `--data`; the planted one, which is written once, where there is none."""
    from keras_dlrm import data
    from keras_dlrm.training.experiment import planted_log

    return planted_log(Path("runs") / "planted-log", console) if directory is None else data.open(directory)
