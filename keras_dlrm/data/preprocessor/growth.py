"""Growth of a fitted preprocessor by the values of new days."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.preprocessor import raw_columns as raw
from keras_dlrm.data.preprocessor.vocabulary import Counter, Vocabulary, identified
from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.schema import Schema


def grown(
    schema: Schema, vocabularies: Mapping[str, Vocabulary], frames: Any
) -> tuple[Schema, dict[str, Vocabulary]]:
    """Schema and vocabularies that know the values of new days, too: rows as `Preprocessor.fit` takes them."""
    columns = [c for c in schema.categorical if c.table_name in vocabularies]
    counters = {c.table_name: Counter() for c in columns}
    # Without an OOV row an unseen value is padding, which no known value is.
    known = {table: dataclasses.replace(vocabularies[table], oov=None, oov_rows=1) for table in counters}
    offsets = dict(zip(schema.categorical_names, schema.offsets, strict=True))
    first = 0
    for frame, where in raw.frames(frames, [c.name for c in columns]):
        for column in columns:
            table, who = column.table_name, f"column {column.name!r}"
            values, rows, places, _ = raw.categorical_values(frame, column, where)
            with raw.located(where, column.name, rows):
                new = np.flatnonzero(known[table].encode(values, who) == PADDING)
            keys = known[table].keys.normalize(values.gather(new), who)
            positions = (first + rows[new]) * schema.width + offsets[column.name] + places[new]
            counters[table].update(keys, positions)
        first += len(frame)
    extended = dict(vocabularies)
    for column in columns:
        table = column.table_name
        if table in counters:
            extended[table] = extend(extended[table], counters.pop(table), column)
    sizes = {c.name: {"vocabulary_size": extended[c.table_name].size} for c in columns}
    return identified(schema.replace_categorical(**sizes), {}, {name: extended[name] for name in known}), extended


def extend(vocabulary: Vocabulary, counter: Counter, column: Categorical) -> Vocabulary:
    """A vocabulary with counted new values behind those that it has, which keep their ids.

    The column's `min_count` and `max_vocabulary` hold; where the latter cuts, the most frequent new values are kept.
    """
    first = int(vocabulary.ids.max()) + 1 if len(vocabulary.ids) else 0
    oov, room = vocabulary.oov, None
    ahead = vocabulary.oov_rows if oov is not None and first <= oov else 0  # OOV rows that the numbering has yet to pass
    if column.max_vocabulary is not None:
        room = max(column.max_vocabulary - first - ahead, 0)
    keys = counter.keys(column, room)
    if not len(keys):
        return vocabulary
    # The numbering goes on as it would have when the vocabulary was fitted: OOV rows are left out of it.
    ids = first + np.arange(len(keys), dtype=np.int64)
    ids += ahead * (ids >= (oov or 0))
    return dataclasses.replace(
        vocabulary,
        values=pl.concat([vocabulary.values.cast(keys.dtype), keys]),
        ids=np.concatenate([vocabulary.ids, ids.astype(np.int32)]),
        size=max(vocabulary.size, int(ids[-1]) + 1),
    )
