"""Items of a catalog: their ids, and the item's columns of packed batches, read part by part, each item once."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from keras_dlrm.data.packed import format as layout
from keras_dlrm.data.packed.packed import ClickLog, FileLog
from keras_dlrm.data.packed.packed import open as open_log
from keras_dlrm.data.packed.split import Split
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.vocabulary import HEX
from keras_dlrm.data.tables.file_rows import FileRows
from keras_dlrm.retrieval.item_ids import id_series
from keras_dlrm.retrieval.sides import Side
from keras_dlrm.schema.columns import Categorical
from keras_dlrm.schema.same_schema import check_same
from keras_dlrm.support.arguments import worker_count

_BLOCK = 2**16  # rows of a packed log that are read at once
_HELD = 2**20  # rows that wait, at least, until those of the same items are left out
Progress = Callable[[int, int | None], None]


class Items(NamedTuple):
    """n rows of a catalog: their ids (null where they have none), and the packed batch of the item's columns alone."""

    ids: pl.Series
    columns: dict[str, np.ndarray]


def read_catalog(
    who: str, model: Any, catalog: Any, preprocessor: Preprocessor | None, ids: Any, csv: CsvDialect | None,
    workers: int | None, progress: Progress,
) -> Iterator[Items]:  # fmt: skip
    """The rows of a catalog, in order; see `Index.build`."""
    side = Side(model.schema, model.item_columns)
    if isinstance(catalog, (str, os.PathLike)) and (Path(catalog) / layout.MANIFEST).is_file():
        catalog = open_log(catalog)
    if isinstance(catalog, (ClickLog, FileLog)):
        preprocessor = catalog.preprocessor if preprocessor is None else preprocessor
        catalog = [catalog.split(name) for name in catalog.splits]
    splits = [catalog] if isinstance(catalog, Split) else catalog
    packed = isinstance(catalog, Mapping) and set(catalog) == set(model.schema.input_names)
    if ids is not None and not packed:
        raise ValueError(f"{who}: ids=… names the rows of packed arrays; other catalogs have the column {model.item_id!r}.")
    if preprocessor is not None:
        check_same(who, model.schema, preprocessor.schema)
    if packed:
        return _packed(who, model, side, catalog, preprocessor, ids)
    if isinstance(splits, list) and splits and all(isinstance(part, Split) for part in splits):
        return _splits(who, model, side, splits, preprocessor, progress)
    return _raw(who, model, side, catalog, preprocessor, csv, workers, progress)


def _packed(who: str, model: Any, side: Side, batch: Mapping[str, Any], preprocessor: Any, ids: Any) -> Iterator[Items]:
    columns = side.cut(batch)
    rows = len(next(iter(columns.values())))
    named = _names(who, model, side, columns, preprocessor) if ids is None else id_series(who, "ids", ids)
    if len(named) != rows:
        raise ValueError(f"{who}: ids=… has {len(named)} entries for {rows} rows; give one for each.")
    yield Items(named, columns)


def _splits(who: str, model: Any, side: Side, splits: list[Split], preprocessor: Any, progress: Progress) -> Iterator[Items]:
    done, total = 0, sum(map(len, splits))
    for split in splits:
        check_same(who, model.schema, split.schema)
        for start in range(0, len(split), _BLOCK):
            columns = side.cut(split.take(slice(start, start + _BLOCK))[0])
            yield Items(_names(who, model, side, columns, preprocessor), columns)
            done += len(next(iter(columns.values())))
            progress(done, total)


def _raw(
    who: str, model: Any, side: Side, catalog: Any, preprocessor: Preprocessor | None, csv: Any, workers: int | None,
    progress: Progress,
) -> Iterator[Items]:  # fmt: skip
    own = Preprocessor.identity(side.schema) if preprocessor is None else side.preprocessor(preprocessor)
    rows = FileRows.of(own, catalog, [model.item_id], csv)
    with ThreadPoolExecutor(worker_count(who, workers)) as executor:
        for batch, beside in rows.parts(executor, progress):
            yield Items(id_series(who, f"column {model.item_id!r}", beside[model.item_id]), batch)


def _names(who: str, model: Any, side: Side, columns: Mapping[str, np.ndarray], preprocessor: Preprocessor | None) -> pl.Series:
    """Ids of packed rows: the values that the vocabulary has for them, or else the packed ids; null where there is none."""
    schema = side.schema
    place = schema.offsets[schema.categorical_names.index(model.item_id)]
    column: Categorical = schema.categorical[schema.categorical_names.index(model.item_id)]
    packed = np.asarray(columns["sparse"])[:, place].astype(np.int64)
    vocabulary = None if preprocessor is None else preprocessor.vocabularies.get(column.table_name)
    if vocabulary is None:
        return id_series(who, "ids", packed)
    values = vocabulary.values
    if vocabulary.keys.kind == HEX:
        values = pl.Series([f"{key:x}" for key in values], dtype=pl.String)
    by_id = np.full(vocabulary.size, -1, np.int64)
    by_id[vocabulary.ids] = np.arange(len(values))
    inside = (packed >= 0) & (packed < len(by_id))
    rows = pl.Series(np.where(inside, by_id[np.where(inside, packed, 0)], -1))
    return values.gather(rows.set(rows < 0, None)) if len(values) else pl.Series([None] * len(packed), dtype=pl.String)


def last_of_each(parts: Iterable[Items]) -> tuple[Items | None, int]:
    """The last row of each item, in the order of these rows, and the number of rows without an id, which are left out.

    In memory are the items' columns and some rows more, whatever the number of rows. `None` where there is no item.
    """
    held: list[Items] = []
    rows = kept = skipped = 0
    for ids, columns in parts:
        if missing := ids.null_count():
            good = ids.is_not_null().to_numpy()
            ids, columns = ids.drop_nulls(), {key: array[good] for key, array in columns.items()}
            skipped += missing
        held.append(Items(ids, columns))
        rows += len(ids)
        if rows > max(2 * kept, _HELD):
            held = [_unique(held)]
            rows = kept = len(held[0].ids)
    return (_unique(held), skipped) if rows else (None, skipped)


def _unique(parts: list[Items]) -> Items:
    ids = pl.concat([part.ids.alias("id") for part in parts])
    frame = pl.DataFrame({"id": ids}).with_row_index("row")
    rows = np.sort(frame.unique("id", keep="last")["row"].to_numpy().astype(np.int64))
    columns = {key: np.concatenate([part.columns[key] for part in parts])[rows] for key in parts[0].columns}
    return Items(ids.gather(rows), columns)
