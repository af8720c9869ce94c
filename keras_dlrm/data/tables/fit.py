"""Fitting of vocabularies and statistics, and the final form of staged rows."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_dlrm.data.jobs.staging import Stage, chunks
from keras_dlrm.data.preprocessor import dense
from keras_dlrm.data.preprocessor.block import Refused
from keras_dlrm.data.preprocessor.columns import Columns
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor, fitted, grown
from keras_dlrm.data.preprocessor.vocabulary import HEX, vocabulary_identity
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Schema

VOCABULARY = ("frozen", "grown")
Finish = Callable[[Stage, int, int, str], dict[str, np.ndarray]]


class Rules:
    """Fits a preprocessor, takes a fitted one as it is, or lets its vocabularies grow by the values of the training part."""

    def __init__(self, schema: Schema, preprocessor: Preprocessor | None = None, grown: bool = False) -> None:
        self.schema = schema if preprocessor is None else preprocessor.schema
        self.given, self._grown = preprocessor, grown
        if preprocessor is not None and grown:
            for name, vocabulary in preprocessor.vocabularies.items():
                if vocabulary.keys.kind == HEX:
                    raise ValueError(f"tables: vocabulary='grown' cannot grow the hexadecimal table {name!r}.")

    def identity(self) -> dict[str, Any]:
        """JSON values that say what comes out for given rows."""
        given = self.given
        if given is None:
            return {"schema": self.schema.to_dict()}
        return {
            "schema": self.schema.to_dict(),
            "dense": given.dense_state,
            "vocabularies": {name: vocabulary_identity(v) for name, v in given.vocabularies.items()},
            "grown": self._grown,
        }

    def columns(self) -> Columns:
        """The columns to work off."""
        if self.given is None:
            return Columns(self.schema, None, {})
        if not self._grown:
            return Columns(self.schema, self.given.dense_state, self.given.vocabularies)
        again = {
            c.name: {"vocabulary_size": None}
            for c in self.schema.categorical
            if c.table_name in self.given.vocabularies
        }
        return Columns(self.schema.replace_categorical(**again), self.given.dense_state, {})

    def fit(self, columns: Columns, stage: Stage, first: int, last: int, source: str) -> Preprocessor:
        """The preprocessor, of the staged training rows `first … last - 1`; `source` names their first file, for errors."""
        if self.given is not None and not self._grown:
            return self.given
        if self.given is None and (columns.open or columns.late) and first == last:
            raise ValueError(f"{source}: the training part has no rows, so no vocabulary can be fitted.")
        cuts = chunks(first, last) if columns.open or columns.late else ()
        parts = ((stage.read("late", start, stop), stage.read("sparse", start, stop)) for start, stop in cuts)
        return fitted(self.schema, columns, parts) if self.given is None else grown(self.given, columns, parts)

    def late(self, columns: Columns, preprocessor: Preprocessor) -> Finish:
        """Makes staged rows final: arrays by name."""
        final = {}
        for table, ids in columns.texts.items():
            values = ids.since(0).series()
            # The last entry is where -1 leads.
            encoded = preprocessor.vocabularies[table].encode(values, f"table {table!r}")
            final[table] = np.append(encoded, np.int32(PADDING))
        columns.texts.clear()
        schema = preprocessor.schema

        def finish(stage: Stage, first: int, last: int, where: str) -> dict[str, np.ndarray]:
            batch = {name: stage.read(name, first, last) for name in ("dense", "sparse")}
            values = stage.read("late", first, last)
            for k, j in enumerate(columns.late):
                column = schema.dense[j]
                out = batch["dense"][:, j] = dense.apply(column, preprocessor.dense_state[column.name], values[:, k])
                refused = Refused(where, "row", np.arange(last - first))
                refused.add(~np.isfinite(out), column.name, values[:, k].item, dense.OUTSIDE)
            for table, members in columns.open.items():
                for member, offset in members:
                    place = slice(offset, offset + member.hotness)
                    batch["sparse"][:, place] = final[table][batch["sparse"][:, place]]
            rows = {name: stage.read(name, first, last) for name in ("label", "sample_weight") if name in stage.specs}
            return {**batch, **rows}

        return finish
