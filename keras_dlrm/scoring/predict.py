"""`predict_files`, `predict_split` and `predict_rows`: click probabilities of rows of files and frames."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.packed.filling import padded, refilled, row_count
from keras_dlrm.data.packed.split import Split
from keras_dlrm.data.preprocessor.bad_rows import BadRow, BadRows
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.unseen import Tally, Unseen, warning
from keras_dlrm.data.tables.file_rows import FileRows, Part
from keras_dlrm.data.tables.files import Inputs
from keras_dlrm.files.read_ahead import one_ahead
from keras_dlrm.schema.same_schema import check_same
from keras_dlrm.schema.schema import Schema
from keras_dlrm.scoring.output import TableOutput, check_place, output_format
from keras_dlrm.support.arguments import integer, worker_count

PROBABILITY = "probability"
Progress = Callable[[int, int | None, str], None]


def split_rows(split: Split, size: int, unseen: Tally) -> Iterator[Part]:
    """The rows of a packed split, with their number and label; unseen values are added up."""
    first = 0
    for batch, label, *_ in split.batches(size):
        unseen.add_packed(split.schema, batch.get("sparse"))
        numbers = pl.Series("row", np.arange(first, first + len(label), dtype=np.int64))
        columns = label.reshape(len(label), -1).T
        yield Part(batch, pl.DataFrame([numbers, *map(pl.Series, split.schema.labels, columns)]))
        first += len(label)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A written file of predictions.

    Args:
        path: The file.
        rows: Its rows.
        skipped: Rows of the input that could not be used and were left out.
        examples: The first 100 of them.
        unseen: Of each column with a fitted vocabulary, how many values there were and how many of them it does not have.
    """

    path: Path
    rows: int
    skipped: int = 0
    examples: tuple[BadRow, ...] = ()
    unseen: tuple[Unseen, ...] = ()


def predict_files(
    model: Any, inputs: Inputs, *, output: str | os.PathLike[str],
    preprocessor: Preprocessor | str | os.PathLike[str] | None, id_columns: Sequence[str] = (),
    column: str = PROBABILITY, batch_size: int = 8192, csv: CsvDialect | None = None, on_error: str = "raise",
    max_skipped: int | None = None, workers: int | None = None, overwrite: bool = False,
    progress: Progress | None = None,
) -> Scored:  # fmt: skip
    """Write p(click) of every row of some files, in their order, with columns of the input alongside it.

    Files are read, worked off, scored and written in blocks, all at the same time: memory holds the model and a few
    blocks. The output is written aside and its rows are counted: it is complete or absent. No label is needed.

    Args:
        model: A model of `kd.models`.
        inputs: Path, glob pattern, or a list of these: `.parquet`, `.csv`, `.tsv` or `.tfrecord`, the last three also
            `.gz`, as `kd.data.tables.preprocess` reads them, or a frame.
        output: File to write: `.parquet`, `.csv` or `.tsv`, the last two also `.gz`.
        preprocessor: That of the model's log (`kd.data.open(directory).preprocessor`), or its directory; `None` for ids.
        id_columns: Columns of the input that are kept alongside the predictions, in their types; from CSV as text.
        column: Name of the column of probabilities, float32; of several labels one for each, such as `probability_click`.
        batch_size: Rows that the model gets at once.
        csv: How text files are written; as those that the preprocessor was fitted on by default.
        on_error: `"raise"`: an error at the first row that cannot be used. `"skip"`: such rows are left out and counted.
        max_skipped: With `"skip"`, an error when there are more; `None` for no limit.
        workers: Threads that work off columns; as many as there are processors by default. The result is the same.
        overwrite: Whether a file at `output` may be replaced.
        progress: Called as `progress(rows_done, rows_total, "score")`; the total is an estimate.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: an input, or the output's folder, does not exist.
        FileExistsError: `output` exists.
        KeyError: a column is missing.
        ValueError, TypeError: a value (the message names it) or the preprocessor does not fit; a prediction is not finite.
        OSError: the disk is full.

    Example:

    >>> import polars as pl
    >>> pl.DataFrame({"key": ["a", "b", "c"], "C1": [3, 0, 9]}).write_parquet("rows.parquet")
    >>> schema = kd.Schema(categorical=[kd.Categorical("C1", 10)])
    >>> model = kd.models.DLRM(schema, embedding_dim=4, top_mlp=[8, 1], interaction="cat")
    >>> done = predict_files(model, "rows.parquet", output="p.parquet", preprocessor=None, id_columns=["key"])
    >>> done.rows, pl.read_parquet("p.parquet").columns
    (3, ['key', 'probability'])
    """
    who, path = "predict_files", Path(output)
    _schema(who, model)
    size = integer(who, "batch_size", batch_size)
    threads = worker_count(who, workers)
    bad = BadRows(on_error, max_skipped)
    if isinstance(id_columns, str):
        raise TypeError(f"{who}: id_columns={id_columns!r} is a string; give a list of names.")
    ids = list(id_columns)
    columns = probability_columns(model, column)
    for name in ids:
        if name in columns or ids.count(name) > 1:
            fix = "name each id column once, and give column=… another name."
            raise ValueError(f"{who}: the output would have two columns {name!r}; {fix}")
    output_format(path)
    check_place(path, overwrite)
    rows = _file_rows(who, model, inputs, preprocessor, csv, ids, bad)
    if any(file.path.resolve() == path.resolve() for file in rows.files):
        raise ValueError(f"{who}: {path} is an input, too; give another output.")
    report = progress or (lambda done, total, stage: None)
    types = {**rows.types, **dict.fromkeys(columns, pl.Float32)}
    with ThreadPoolExecutor(threads) as executor, TableOutput(path, types, overwrite) as table:
        parts = one_ahead(rows.parts(executor, lambda done, total: report(done, total, "score")))
        _score(model, parts, size, columns, table)
        if table.rows + bad.skipped != rows.seen:
            raise RuntimeError(f"{who}: {rows.seen} rows were read, {table.rows} scored and {bad.skipped} left out.")
    return Scored(path, table.rows, bad.skipped, tuple(bad.examples), rows.columns.unseen.columns())


def predict_rows(
    model: Any, rows: Inputs, *, preprocessor: Preprocessor | str | os.PathLike[str] | None, batch_size: int = 8192,
    csv: CsvDialect | None = None, workers: int | None = None,
) -> np.ndarray:  # fmt: skip
    """p(click) of rows in memory or in files, in their order, as `predict_files` computes them. No label is needed.

    Args:
        model: A model of `kd.models`.
        rows: A frame (pandas, Polars, Arrow, or a mapping of named columns), or files as `predict_files` takes them.
        preprocessor, batch_size, csv, workers: As of `predict_files`.

    Returns:
        float32 (B,), one probability for each of the B rows; of T labels (B, T).

    Raises:
        FileNotFoundError, KeyError, ValueError, TypeError: as of `predict_files`.

    Warns:
        UserWarning: half of a column's values, or more, are not in its vocabulary: they may be written in another way.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("C1", 10)])
    >>> model = kd.models.DLRM(schema, embedding_dim=4, top_mlp=[8, 1], interaction="cat")
    >>> predict_rows(model, {"C1": [3, 0, 9]}, preprocessor=None).shape
    (3,)
    """
    who = "predict_rows"
    read = _file_rows(who, model, rows, preprocessor, csv, [], BadRows())
    scored, columns = _InMemory(Path("the rows")), probability_columns(model)
    size = integer(who, "batch_size", batch_size)
    with ThreadPoolExecutor(worker_count(who, workers)) as executor:
        _score(model, read.parts(executor, lambda done, total: None), size, columns, scored)
    cold = {column.name for column in model.schema.categorical if column.id_dropout}  # new ids are expected there
    if said := warning([each for each in read.columns.unseen.columns() if each.column not in cold]):
        warnings.warn(f"{who}: {said}", stacklevel=2)
    every = np.concatenate([np.empty((0, len(columns)), np.float32), *scored.parts])
    return every[:, 0] if len(columns) == 1 else every


class _InMemory:
    """Predictions that are kept in place of a file; `path` is for errors."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self.parts: list[np.ndarray] = []

    def write(self, frame: pl.DataFrame) -> None:
        self.parts.append(frame.to_numpy())
        self.rows += len(frame)


def predict_split(
    model: Any, split: Split, *, output: str | os.PathLike[str], column: str = PROBABILITY, batch_size: int = 8192,
    overwrite: bool = False, progress: Progress | None = None,
) -> Scored:  # fmt: skip
    """Write p(click) of every row of a processed split, with its number and its label alongside it.

    Args:
        model: A model of `kd.models`, on the split's schema.
        split: Such as `kd.data.open(directory).split("test")`.
        output, column, batch_size, overwrite, progress: As of `predict_files`.

    Returns:
        What was written: columns `row` (int64, from 0), the labels' names (float32) and `column`, or one for each label (float32).

    Raises:
        FileExistsError: `output` exists.
        ValueError: the model has another schema; a prediction is not finite.
        OSError: the disk is full.
    """
    who, path = "predict_split", Path(output)
    check_same(who, _schema(who, model), split.schema)
    size = integer(who, "batch_size", batch_size)
    columns, labels = probability_columns(model, column), split.schema.labels
    names = ["row", *labels, *columns]
    if len(set(names)) < len(names):
        listed = f"{', '.join(map(repr, names[:-1]))} and {names[-1]!r}"
        raise ValueError(f"{who}: the output has the columns {listed}; give column=… another name.")
    unseen = Tally()
    report, total = progress or (lambda done, total, stage: None), len(split)
    types: dict[str, Any] = {"row": pl.Int64, **dict.fromkeys([*labels, *columns], pl.Float32)}
    with TableOutput(path, types, overwrite) as table:
        _score(model, split_rows(split, size, unseen), size, columns, table, lambda done: report(done, total, "score"))
        if table.rows != total:
            raise RuntimeError(f"{who}: {table.rows} of {total} rows were scored.")
    return Scored(path, table.rows, unseen=unseen.columns())


def _score(
    model: Any, parts: Iterable[Part], size: int, columns: Sequence[str], table: TableOutput | _InMemory,
    done: Callable[[int], None] = lambda rows: None,
) -> None:  # fmt: skip
    for part in refilled(parts, size):
        # One shape: JAX compiles for each that it sees.
        padded_rows = model.predict_on_batch(padded(part.batch, size))
        probabilities = np.asarray(padded_rows, np.float32).reshape(-1, len(columns))[: row_count(part.batch)]
        if not np.isfinite(probabilities).all():
            row = int(np.argmax(~np.isfinite(probabilities).all(axis=1)))
            kept = part.beside.row(row, named=True) if part.beside.width else {}
            fix = "the model's weights are not finite, or its inputs too large."
            shown = ", ".join(map(str, probabilities[row]))
            raise ValueError(f"{table.path}: the prediction of row {table.rows + row} {kept or ''} is {shown}; {fix}")
        table.write(pl.DataFrame([*part.beside.get_columns(), *map(pl.Series, columns, probabilities.T)]))
        done(table.rows)


def probability_columns(model: Any, column: str = PROBABILITY) -> list[str]:
    """Names of a model's predictions as columns: `column`, or of several labels one with the name of each."""
    labels = model.schema.labels
    return [column] if len(labels) == 1 else [f"{column}_{label}" for label in labels]


def _file_rows(
    who: str, model: Any, inputs: Inputs, preprocessor: Preprocessor | str | os.PathLike[str] | None, csv: CsvDialect | None,
    ids: Sequence[str], bad: BadRows,
) -> FileRows:  # fmt: skip
    """The rows of some inputs for a model; an error where they, or the preprocessor, do not fit it."""
    schema = _schema(who, model)
    if preprocessor is None:
        preprocessor = Preprocessor.identity(schema)
    elif not isinstance(preprocessor, Preprocessor):
        preprocessor = Preprocessor.load(preprocessor)
    check_same(who, schema, preprocessor.schema)
    if schema.weighted:
        raise ValueError(f"{who}: a weighted=True schema names no column of weights; score packed batches with model.predict.")
    return FileRows.of(preprocessor, inputs, ids, csv, bad)


def _schema(who: str, model: Any) -> Schema:
    schema = getattr(model, "schema", None)
    if not isinstance(schema, Schema):
        raise TypeError(f"{who}: expected a model of kd.models, which has a schema, not {type(model).__name__}.")
    return schema
