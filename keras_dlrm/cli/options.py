"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from keras_dlrm.files.checksums import KERAS, check_archive

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


def together(*options: Callable[..., Any]) -> Callable[..., Any]:
    """One decorator of several options, which `--help` lists in this order."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with these options."""
        return functools.reduce(lambda made, option: option(made), reversed(options), function)

    return add


#: `--json`: a machine-readable last line.
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an earlier output.")
seed_option = click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
fractions_option = click.option("--fractions", type=float, nargs=3, metavar="TRAIN VALID TEST",
                                help="Split --train in file order, instead of --valid and --test.")  # fmt: skip
#: A directory to write, whether it may take the place of an earlier one, and what is printed at the end.
directory_options = together(
    click.option("--output", type=PathArgument, required=True, help="Directory to write."), overwrite_option, json_option
)


def row_options(what: str = "row") -> Callable[..., Any]:
    """Options of commands that read files row by row: what to do with rows that cannot be used, threads, an earlier output."""
    return together(
        click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True,
                     help=f"Stop at the first {what} that cannot be used, or leave such {what}s out and count them."),
        click.option("--max-skipped", type=int, help="With skip: stop when there are more."),
        click.option("--workers", type=int, help="Threads; all processors by default."),
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

        csv = None
        if csv_separator is not None or csv_names is not None or csv_null or csv_no_quotes:
            separator = "\t" if csv_separator == r"\t" else csv_separator
            names = None if csv_names is None else tuple(csv_names.split(","))
            csv = CsvDialect(separator, names, csv_null, not csv_no_quotes)
        return function(*args, csv=csv, **kwargs)

    return wrapper


def named_parts(rows: Sequence[int]) -> dict[str, int]:
    """Rows of each part from `--rows TRAIN VALID TEST`, without the empty ones."""
    parts = {name: count for name, count in zip(("train", "valid", "test"), rows, strict=True) if count}
    if not parts:
        raise ValueError("--rows 0 0 0: give at least one row.")
    return parts


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

    return keras.saving.load_model(path, compile=compile)
