"""`predict_files`, `predict_split` and `predict_rows`: click probabilities of rows of files and frames."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from keras_dlrm.data.packed.filling import padded, refilled, row_count
from keras_dlrm.data.packed.split import Split
from keras_dlrm.data.preprocessor.bad_rows import BadRow, BadRows
from keras_dlrm.data.preprocessor.columns import Columns
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.unseen import Tally, Unseen
from keras_dlrm.data.tables.files import Inputs, check_columns, table_files
from keras_dlrm.data.tables.table_file import TableFile
from keras_dlrm.files.read_ahead import one_ahead
from keras_dlrm.schema.same_schema import check_same
from keras_dlrm.schema.schema import Schema
from keras_dlrm.schema.time_parts import sources
from keras_dlrm.scoring.output import TableOutput, check_place, output_format
from keras_dlrm.support.arguments import integer, worker_count

PROBABILITY = "probability"
Progress = Callable[[int, int | None, str], None]


class Part(NamedTuple):
    """A packed batch of n rows, and n rows to keep alongside their predictions."""

    batch: dict[str, np.ndarray]
    beside: pl.DataFrame


def split_rows(split: Split, size: int, unseen: Tally) -> Iterator[Part]:
    """The rows of a packed split, with their number and label; unseen values are added up."""
    first = 0
    for batch, label, *_ in split.batches(size):
        unseen.add_packed(split.schema, batch.get("sparse"))
        numbers = pl.Series("row", np.arange(first, first + len(label), dtype=np.int64))
        columns = label.reshape(len(label), -1).T
        yield Part(batch, pl.DataFrame([numbers, *map(pl.Series, split.schema.labels, columns)]))
        first += len(label)


class FileRows:
    """The rows of files, through a preprocessor whose `columns` know all vocabularies and statistics.

    Attributes:
        files, columns: As given.
        types: Polars types of the ids, which are kept alongside the predictions; `ValueError` where files have different ones.
        seen: Rows read so far, those that were left out included.
    """

    def __init__(self, files: Sequence[TableFile], columns: Columns, ids: Sequence[str], bad: BadRows) -> None:
        self.files, self.columns, self._ids, self._bad = files, columns, list(ids), bad
        self.names = list(dict.fromkeys([*columns.names, *ids]))
        self.types: dict[str, Any] = {}
        self.seen = 0
        first: dict[str, Path] = {}
        types = [(file, *file.types(self._ids)) for file in files if self._ids]
        # What a file without rows says of its columns counts only where no other file says anything.
        for file, kinds, rows in sorted(types, key=lambda entry: not entry[2]):
            for name, kind in kinds.items():
                if self.types.get(name, pl.Null) == pl.Null:
                    self.types[name], first[name] = kind, file.path
                elif rows and kind not in (self.types[name], pl.Null):
                    fix = "make the files agree, or score them apart."
                    raise ValueError(f"{file.path}: id column {name!r} is {kind}, in {first[name]} it is {self.types[name]}; {fix}")

    def parts(self, executor: Executor, progress: Callable[[int, int | None], None]) -> Iterator[Part]:
        """Rows that can be used, in order; `ValueError` for one that cannot. Progress is told the rows so far, of about all."""
        sizes = [file.size() for file in self.files]
        for k, file in enumerate(self.files):
            was, rows = file.fingerprint(self.names), 0
            for block in file.blocks(self.names):
                for name in self._ids:
                    block.check_single(name)
                packed = self.columns.work(block, executor)
                good = np.arange(len(block))
                if block.faults:
                    self._bad.add(*block.faults.first())
                    good = np.flatnonzero(~block.faults.bad)
                rows += len(block)
                self.seen += len(block)
                inputs = {name: getattr(packed, name) for name in self.columns.schema.input_names}
                ids = [block.series(name, good).cast(kind).alias(name) for name, kind in self.types.items()]
                yield Part(inputs, pl.DataFrame(ids))
                share = (sum(sizes[:k]) + sizes[k] * block.share) / sum(sizes)
                progress(self.seen, max(self.seen, round(self.seen / share)) if share else None)
            if file.fingerprint(self.names) != was or file.rows() not in (None, rows):
                raise ValueError(f"{file.path}: changed while it was read; run again when it is complete.")


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
    work = Columns(preprocessor.schema, preprocessor.dense_state, preprocessor.vocabularies, labeled=False)
    files = table_files(inputs, [*work.names, *ids], preprocessor.csv if csv is None else csv, sources(preprocessor.schema))
    check_columns(files, [*work.names, *ids])
    return FileRows(files, work, ids, bad)


def _schema(who: str, model: Any) -> Schema:
    schema = getattr(model, "schema", None)
    if not isinstance(schema, Schema):
        raise TypeError(f"{who}: expected a model of kd.models, which has a schema, not {type(model).__name__}.")
    return schema
