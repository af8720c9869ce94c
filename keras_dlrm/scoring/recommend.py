"""`recommend_files`: the best items for the users of files, from an index alone or in the order of a second model."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.packed.filling import padded, refilled
from keras_dlrm.data.preprocessor.bad_rows import BadRows
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.tables.file_rows import FileRows, Part
from keras_dlrm.data.tables.files import Inputs
from keras_dlrm.files.read_ahead import one_ahead
from keras_dlrm.retrieval.index import Index
from keras_dlrm.retrieval.sides import Side
from keras_dlrm.retrieval.two_stage import check_numbers, check_ranker, recommend
from keras_dlrm.schema.same_schema import check_same
from keras_dlrm.scoring.output import TableOutput, check_place, output_format
from keras_dlrm.scoring.predict import PROBABILITY, Progress, Scored
from keras_dlrm.support.arguments import integer, shown, worker_count

RANK, SCORE = "rank", "score"


def recommend_files(
    index: Index, inputs: Inputs, *, output: str | os.PathLike[str],
    preprocessor: Preprocessor | str | os.PathLike[str] | None, ranker: Any = None, k: int = 10, candidates: int = 500,
    blend: float = 0.0, id_columns: Sequence[str] = (), exclude_column: str | None = None, batch_size: int = 1024,
    csv: CsvDialect | None = None, on_error: str = "raise", max_skipped: int | None = None, workers: int | None = None,
    overwrite: bool = False, progress: Progress | None = None,
) -> Scored:  # fmt: skip
    """Write the k best items for every row of some files, in their order, a row for each item.

    Only the user's columns are read. Files are read, worked off and written in blocks: memory holds the models, the index and a few
    blocks. The output is complete or absent.

    Args:
        index: The index, with its model.
        inputs: As of `predict_files`.
        output: File to write: `.parquet`, `.csv` or `.tsv`, the last two also `.gz`.
        preprocessor: That of the model's log, or its directory; `None` for ids.
        ranker: The second model, see `kd.retrieval.recommend`; without one items are in the order of their scores.
        k: Items of each row; fewer where the index has no more.
        candidates: Items that the ranker scores.
        blend: Weight of the index's score in their order, as of `kd.retrieval.recommend`.
        id_columns: Columns of the input that are kept alongside the items.
        exclude_column: Column of lists of ids that a row must not get, or of texts whose ids are separated by `|`.
        batch_size: Rows that the models get at once.
        csv, on_error, max_skipped, workers, overwrite, progress: As of `predict_files`.

    Returns:
        What was written: the id columns, `rank` (int32, from 1), the item's id under the name of its column, and `score`, or with a
        ranker `probability` (float32).

    Raises:
        FileNotFoundError, FileExistsError, KeyError, TypeError, ValueError, OSError: as of `predict_files` and `Index.query`.

    Example:

    >>> import polars as pl
    >>> schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
    >>> index = kd.retrieval.Index.build(kd.models.TwoTower(schema, ["user"], ["item"]), {"item": [3, 5, 7]})
    >>> done = recommend_files(index, {"user": [1, 2]}, output="items.csv", preprocessor=None, k=2, id_columns=["user"])
    >>> done.rows, pl.read_csv("items.csv").columns
    (4, ['user', 'rank', 'item', 'score'])
    """
    who, path, model = "recommend_files", Path(output), index.model
    if model is None:
        raise ValueError(f"{who}: the index was loaded without its model; use Index.load(path, model).")
    size, k = integer(who, "batch_size", batch_size), integer(who, "k", k)
    if ranker is not None:
        check_ranker(who, model.schema, ranker)
        check_numbers(who, k, candidates, blend)
    if preprocessor is None:
        preprocessor = Preprocessor.identity(model.schema)
    elif not isinstance(preprocessor, Preprocessor):
        preprocessor = Preprocessor.load(preprocessor)
    check_same(who, model.schema, preprocessor.schema)
    value = SCORE if ranker is None else PROBABILITY
    names = [*id_columns, RANK, model.item_id, value]
    if len(set(names)) < len(names):
        raise ValueError(f"{who}: the output would have the columns {names}; name each id column once, and none as these are.")
    output_format(path)
    check_place(path, overwrite)
    side, bad, threads = Side(model.schema, model.user_columns), BadRows(on_error, max_skipped), worker_count(who, workers)
    kept = list(dict.fromkeys([*id_columns, *([] if exclude_column is None else [exclude_column])]))
    rows = FileRows.of(side.preprocessor(preprocessor), inputs, kept, csv, bad)
    kinds = {name: rows.types[name] for name in id_columns}
    types = {**kinds, RANK: pl.Int32, model.item_id: index.ids.values.dtype, value: pl.Float32}
    report = progress or (lambda done, total, stage: None)

    def answers(part: Part) -> pl.DataFrame:
        beside, count = part.beside, len(part.beside) if part.beside.width else len(next(iter(part.batch.values())))
        users = side.whole(padded(part.batch, size))
        seen = None if exclude_column is None else [*_lists(who, beside[exclude_column], index), *[[]] * (size - count)]
        if ranker is None:
            ids, numbers = index.query(users, k, exclude=seen)
        else:
            ids, numbers = recommend(index, ranker, users, k, candidates=candidates, blend=blend, exclude=seen)
        ids, numbers = ids[:count], numbers[:count]
        real = ids != index.ids.none
        which, places = np.nonzero(real)
        columns = [beside[name].gather(which) for name in id_columns]
        new = {RANK: places + 1, model.item_id: ids[real].tolist(), value: numbers[real]}
        return pl.DataFrame([*columns, *(pl.Series(name, values, types[name]) for name, values in new.items())])

    done = 0
    with ThreadPoolExecutor(threads) as executor, TableOutput(path, types, overwrite) as table:
        for part in refilled(one_ahead(rows.parts(executor, lambda seen, total: report(seen, total, "score"))), size):
            table.write(answers(part))
            done += len(next(iter(part.batch.values())))
        if done + bad.skipped != rows.seen:
            raise RuntimeError(f"{who}: {rows.seen} rows were read, {done} answered and {bad.skipped} left out.")
    return Scored(path, table.rows, bad.skipped, tuple(bad.examples), rows.columns.unseen.columns())


def _lists(who: str, column: pl.Series, index: Index) -> list[list[Any]]:
    """Lists of ids of a column of lists, or of texts whose ids are separated by `|`; `ValueError` for a text that has others."""
    if column.dtype == pl.String:
        texts = column.str.split("|")
        if index.ids.values.dtype != pl.String:
            texts = texts.list.eval(pl.element().str.strip_chars().replace("", None))
        lists = texts.cast(pl.List(index.ids.values.dtype), strict=False)
        lost = lists.list.drop_nulls().list.len() != texts.list.drop_nulls().list.len()
        if lost.any():
            text = f"column {column.name!r} has {shown(column.filter(lost)[0])}"
            raise ValueError(f"{who}: {text}; the ids of this index are whole numbers, which a text separates by |.")
        column = lists
    rows = column.to_list() if column.dtype == pl.List else [[value] for value in column]
    return [[value for value in values or [] if value is not None] for values in rows]
