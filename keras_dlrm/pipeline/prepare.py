"""The processed log of a table, made for a run: schema, shares of rows, preprocessing; imports no framework."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from keras_dlrm.data import ClickLog, CsvDialect, tables
from keras_dlrm.data.packed.writer import remove_log
from keras_dlrm.data.tables.files import Inputs
from keras_dlrm.files.marker import MARKER
from keras_dlrm.schema.inference.table import Inferred
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.terminal import row_bar
from keras_dlrm.training.run_files import LOG, besides_log

SPLIT = {"train": 0.8, "valid": 0.1, "test": 0.1}
_FEWEST = 50  # rows


def prepare(
    data: Inputs, output: Path, label: str | Sequence[str] | None = None, schema: Schema | str | os.PathLike[str] | None = None,
    split: Mapping[str, float] | None = None, split_by: str | None = None, csv: CsvDialect | None = None,
    console: Console | None = None,
) -> ClickLog:  # fmt: skip
    """The processed log of a table, in the folder of the run that is to train on it; written once.

    Args:
        data, label, schema, split, split_by, csv: As of `train`.
        output: Folder of the run.
        console: Where to tell what was found; nowhere by default.

    Raises:
        FileNotFoundError, KeyError, TypeError, ValueError: as of `train`.
    """
    console = console or Console(quiet=True)
    if isinstance(schema, (str, os.PathLike)):
        schema = Schema.load(Path(schema))
    if schema is None:
        if label is None:
            raise ValueError("train: give label=…, the name of the column of clicks, 0 or 1; or a schema.")
        schema = Schema.infer(data, label, csv=csv)
        _tell(schema, console)
    elif label is not None and (label if isinstance(label, str) else tuple(label)) != schema.label:
        raise ValueError(f"train: label={label!r} is not the schema's, which is {schema.label!r}; leave it out.")
    blocked = next((place for place in (output, *output.absolute().parents) if place.exists()), output)
    if not blocked.is_dir():
        raise FileExistsError(f"train: output={str(output)!r} cannot be a folder, {blocked} is a file; give another output.")
    if besides_log(output) and not (output / MARKER).is_file():
        raise FileExistsError(f"{output} has content that is not a run's; give another output.")
    if (inferred := _inferred(data, schema, csv)) is not None:
        _check(inferred, schema.labels)
        split_by = split_by or inferred.time
    split_by = split_by or "random"
    new, made = not output.exists(), not (output / LOG).exists()
    try:
        with row_bar(console, "preprocess") as progress:
            log = tables.preprocess(
                schema, data, output=output / LOG, split=SPLIT if split is None else split, split_by=split_by, csv=csv,
                reuse=True, progress=progress,
            )  # fmt: skip
        _check_parts(log, made)
    finally:
        if new:  # an empty folder would be all that a refused table leaves
            with contextlib.suppress(OSError):
                output.rmdir()
    rows = ", ".join(f"{len(log.split(name)):,} {name}" for name in log.splits)
    how = "at random" if split_by == "random" else f"by {split_by}"
    console.print(f"rows: {rows}, cut {how}", highlight=False, markup=False, soft_wrap=True)
    return log


def _check_parts(log: ClickLog, made: bool) -> None:
    """`ValueError` where a part cannot be scored; a log that was just made for it is gone then, for another split to be tried."""
    from keras_dlrm.training.run import check_parts  # with Keras

    try:
        check_parts(log)
    except ValueError:
        if made:
            remove_log(log.directory)
        raise


def _inferred(data: Inputs, schema: Schema, csv: CsvDialect | None) -> Inferred | None:
    """Facts about a table, if anything can be inferred from it."""
    if schema.inferred is not None:
        return schema.inferred
    with contextlib.suppress(ValueError, KeyError, TypeError):  # what is wrong with it is told when the table is read
        return Schema.infer(data, schema.label, schema.sample_weight, csv).inferred
    return None


def _check(inferred: Inferred, labels: Sequence[str]) -> None:
    """`ValueError` where rows are too few or too much alike to train and score on."""
    for label, rate in zip(labels, inferred.click_rates, strict=True):
        if rate in (0, 1):
            raise ValueError(f"train: all labels in {label!r} are {rate:.0f}; give rows with and without a click.")
    if inferred.rows is not None and inferred.rows < _FEWEST:
        raise ValueError(f"train: {inferred.rows} rows are too few to train, validate and test on; give some hundred.")


def _tell(schema: Schema, console: Console) -> None:
    """Print what was found in a table."""
    dense, sparse = ", ".join(schema.dense_names), ", ".join(schema.categorical_names)
    inferred: Inferred = schema.inferred
    lines = [f"dense columns: {dense or 'none'}", f"sparse columns: {sparse or 'none'}"]
    lines += [f"left out {name}: {why}" for name, why in inferred.left_out.items()]
    for line in (*lines, *inferred.warnings):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
