"""`Preprocessor`: raw named columns to packed batches, fitted on the training rows."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.data.preprocessor import artifact, dense
from keras_dlrm.data.preprocessor import raw_columns as raw
from keras_dlrm.data.preprocessor.block import FrameBlock
from keras_dlrm.data.preprocessor.columns import Columns
from keras_dlrm.data.preprocessor.csv_dialect import CsvDialect
from keras_dlrm.data.preprocessor.vocabulary import Keys, Vocabulary, identified
from keras_dlrm.schema.packing import weight_matrix
from keras_dlrm.schema.schema import Schema
from keras_dlrm.schema.time_parts import raw_names, sources
from keras_dlrm.schema.vectors import semantic

# A frame of Polars or pandas, an Arrow table, or a mapping of named columns.
Table = Any
Tables = Table | Iterable[Table | tuple[Table, raw.Where]]


class Preprocessor:
    """Maps raw named columns to packed batches; the same code serves files and requests.

    - A dense column goes through its `Dense.transform`; a missing value (null, NaN, masked) becomes `Dense.missing`. True
      is 1, false is 0, as text, too.
    - A categorical column with a fitted vocabulary is looked up; an unseen value becomes an OOV row of the column, or -1
      (padding) where the column has none; a missing value (null, NaN, masked, empty string) becomes -1. Values are
      compared as text, whole numbers by their digits and booleans in lower case: 3, 3.0, "3", "3.0" and a decimal 3.00
      are one value, and so are True, true and "TRUE".
    - A categorical column that came with a `vocabulary_size` holds integer ids already; they are checked.
    - A hashed column holds ids, or any other values, which are hashed as texts to ids.
    - A content vector is a list of numbers, of which dense values are made, or ids of its codes. An empty list is missing.
    - Dates, times, differences of times and complex numbers are no values; they are refused.
    - A column with `hotness` above 1, or with `truncate`, holds lists, (B, k) arrays, or strings whose values are separated by `|`.

    Make one with `fit`, `identity` or `load`.

    Args:
        schema: Fitted schema.
        dense_state: Fitted parameters by dense column, and codebooks by column of codes.
        vocabularies: `Vocabulary` by table name, for the tables whose vocabulary was fitted.
        csv: How the text files of the log are written, for further ones.

    Example:

    >>> import polars as pl
    >>> from keras_dlrm.schema.schema import Categorical, Schema
    >>> rows = pl.DataFrame({"price": [0.0, 3.0], "city": ["Rome", "Oslo"], "click": [0, 1]})
    >>> preprocessor = Preprocessor.fit(Schema(dense=["price"], categorical=[Categorical("city")], label="click"), rows)
    >>> preprocessor.schema.table_sizes
    {'city': 3}
    >>> preprocessor.transform({"price": [1.0, None], "city": ["Oslo", "Lima"]})["sparse"].tolist()
    [[2], [0]]
    """

    def __init__(
        self,
        schema: Schema,
        dense_state: Mapping[str, dict[str, Any]] | None = None,
        vocabularies: Mapping[str, Vocabulary] | None = None,
        csv: CsvDialect | None = None,
    ) -> None:
        schema.require_fitted()
        self.csv = csv
        self.schema = schema
        self.dense_state = dict(dense_state or {})
        self.vocabularies = dict(vocabularies or {})
        for column in schema.dense:
            if dense.needs_fit(column) and column.name not in self.dense_state:
                raise ValueError(
                    f"Preprocessor: dense column {column.name!r} with transform={column.transform!r} is not fitted; "
                    "use Preprocessor.fit(schema, rows)."
                )
        for codes in semantic(schema.categorical):
            if codes.name not in self.dense_state:
                raise ValueError(f"Preprocessor: column {codes.name!r} has no codebooks; use Preprocessor.fit(schema, rows).")

    def __repr__(self) -> str:
        rows = ", ".join(f"{name}: {rows:,} rows" for name, rows in self.schema.table_sizes.items())
        fitted = f"{len(self.vocabularies)} of {len(self.schema.table_sizes)} vocabularies fitted"
        return f"Preprocessor({self.schema.n_dense} dense columns; tables {{{rows}}}, {fitted})"

    @classmethod
    def identity(cls, schema: Schema) -> Preprocessor:
        """A preprocessor for columns that hold ids and model inputs already: it checks, packs and changes nothing.

        Args:
            schema: Fitted schema, whose dense transforms are taken as done: they are set to `"none"`.
        """
        made: dict[str, Any] = {"of": None, "part": None, "width": None}
        plain = [dataclasses.replace(column, transform="none", element=None, **made) for column in schema.dense]
        ids = [dataclasses.replace(column, codes=None, **made) for column in schema.categorical]
        return cls(schema.with_columns(plain, ids))

    @classmethod
    def fit(cls, schema: Schema, frames: Tables, keys: Mapping[str, Keys] | None = None) -> Preprocessor:
        """Fit on training rows.

        Args:
            schema: Columns without a `vocabulary_size` get one.
            frames: Training rows as one table, or in parts: frames of Polars or pandas, Arrow tables, or mappings of
                column names to values, as `transform` takes them; other columns are ignored. A part can be a pair
                `(table, Where)`, which says where it comes from.
            keys: `Keys` by table name, where values are not compared as text.

        Returns:
            The preprocessor; its `schema` is fitted.

        Raises:
            KeyError: a column is missing.
            ValueError, TypeError: a value cannot be used; the message names column and row.
        """
        fits = [c for c in schema.dense if dense.needs_fit(c)]
        open_columns = [c for c in schema.categorical if c.vocabulary_size is None]
        open_columns += semantic(schema.categorical)
        if not fits and not open_columns:
            return cls(schema)
        columns = Columns(Schema(fits, open_columns, schema.label), None, {}, labeled=False, keys=keys)
        return fitted(schema, columns, columns.read(frames))

    def grow(self, frames: Tables) -> Preprocessor:
        """A preprocessor that also knows the values of new days. Ids of known values stay, and so do dense statistics.

        New values get the ids behind the known ones, in the order of their first appearance. Those seen fewer than
        `min_count` times in `frames` stay unseen, and so do those beyond `max_vocabulary`, where the most frequent ones
        are kept. `kd.models.grow` makes a trained model follow.

        Args:
            frames: Rows of the new days, as `fit` takes them.

        Returns:
            The new preprocessor, whose schema has the new vocabulary sizes. This one is unchanged.

        Raises:
            KeyError: a column is missing.
            ValueError, TypeError: a value cannot be used; the message names column and row.

        Example:

        >>> import polars as pl
        >>> from keras_dlrm.schema.schema import Categorical, Schema
        >>> monday = Preprocessor.fit(Schema(categorical=[Categorical("city")]), pl.DataFrame({"city": ["Rome", "Oslo"]}))
        >>> tuesday = monday.grow(pl.DataFrame({"city": ["Lima", "Oslo"]}))
        >>> tuesday.schema.table_sizes
        {'city': 4}
        >>> tuesday.transform({"city": ["Rome", "Oslo", "Lima", "Bonn"]})["sparse"].ravel().tolist()
        [1, 2, 3, 0]
        """
        again = [c for c in self.schema.categorical if c.table_name in self.vocabularies]
        if not again:
            return Preprocessor(self.schema, self.dense_state)
        open_columns = [dataclasses.replace(c, vocabulary_size=None) for c in again]
        keys = {table: vocabulary.keys for table, vocabulary in self.vocabularies.items()}
        columns = Columns(Schema((), open_columns, self.schema.label), {}, {}, labeled=False, keys=keys)
        return grown(self, columns, columns.read(frames))

    @property
    def codebooks(self) -> dict[str, dict[str, Any]]:
        """Statistics of the codebooks of each column of `SemanticIds`, of the different vectors of the training part.

        `vectors` is how many these are (a sample of 65,536 where `sampled`), `unique` the share of them with a code that no
        other one has, `error` the share of their variance that the codes do not tell; by level, `used` is how many codes have a
        vector and `perplexity` how many there would be if all were used equally.

        Example:

        >>> schema = kd.Schema(categorical=[kd.SemanticIds("codes", of="v", width=1, levels=1, codes=2)])
        >>> Preprocessor.fit(schema, {"v": [[0.0], [1.0], [9.0]]}).codebooks["codes"]["used"]
        [2]
        """
        return {c.name: self.dense_state[c.name]["statistics"] for c in semantic(self.schema.categorical)}

    def reading(self, csv: CsvDialect | None) -> Preprocessor:
        """A copy of the preprocessor for text files of another dialect."""
        return self if csv == self.csv else Preprocessor(self.schema, self.dense_state, self.vocabularies, csv)

    def transform(
        self, frame: Table, weights: Mapping[str, Any] | None = None, where: raw.Where | None = None
    ) -> dict[str, np.ndarray]:
        """Raw columns → packed batch.

        Args:
            frame: A frame of Polars or pandas, an Arrow table, or a mapping of column names to B values: lists, arrays
                (also masked ones) or columns of these libraries. Columns that the schema does not name are ignored.
            weights: For a weighted schema, per-id factors by column, as in `Schema.pack`.
            where: File and row at which the frame starts, for error messages.

        Returns:
            `{"dense": float32 (B, n_dense), "sparse": int32 (B, W)[, "weights": float32 (B, W)]}`, as the schema has them.

        Raises:
            KeyError: a column is missing.
            ValueError, TypeError: a value cannot be used; the message names file, column and row.
        """
        schema = self.schema
        where = where or raw.Where()
        table = raw.frame(frame, raw_names(schema), where, sources(schema))
        columns = Columns(schema, self.dense_state, self.vocabularies, labeled=False)
        rows = columns.work(FrameBlock.in_memory(table, where))
        batch = {name: getattr(rows, name) for name in schema.input_names if name != "weights"}
        if schema.weighted:
            batch["weights"] = weight_matrix(schema, weights or {}, rows.sparse, rows.lists)
        elif weights is not None:
            raise ValueError("transform: weights were given, but the schema has weighted=False; set weighted=True.")
        return batch

    # -- round trips -------------------------------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `preprocessor.json` and a Parquet file per fitted vocabulary into an existing or new directory.

        Files are written aside and renamed, `preprocessor.json` last: after a kill the directory holds what it held before.
        """
        artifact.save(self, Path(directory))

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Preprocessor:
        """Inverse of `save`.

        Args:
            directory: Where `save`, or a preprocess, wrote it.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of an unknown version of the format; the message names the file.
        """
        return cls(*artifact.load(Path(directory)))


Parts = Iterable[tuple[np.ndarray, np.ndarray]]


def fitted(schema: Schema, columns: Columns, parts: Parts) -> Preprocessor:
    """A preprocessor for training rows that `columns` has read, in parts as of `Columns.count`."""
    counts, dense_state = columns.count(parts)
    vocabularies = {
        table: Vocabulary.fit(counts[table], members[0][0], columns.keys[table]) for table, members in columns.open.items()
    }
    return Preprocessor(_sized(schema, dense_state, vocabularies), dense_state, vocabularies)


def grown(preprocessor: Preprocessor, columns: Columns, parts: Parts) -> Preprocessor:
    """A preprocessor whose open columns know the values of further rows, too; see `Preprocessor.grow`."""
    counts, _ = columns.count(parts)
    extended = {
        table: preprocessor.vocabularies[table].extended(counts[table], members[0][0])
        for table, members in columns.open.items()
    }
    schema = _sized(preprocessor.schema, {}, extended)
    return Preprocessor(schema, preprocessor.dense_state, {**preprocessor.vocabularies, **extended})


def _sized(schema: Schema, dense_state: Mapping[str, Any], vocabularies: Mapping[str, Vocabulary]) -> Schema:
    """The schema with the sizes of the vocabularies, and what identifies these and the statistics."""
    sizes = {
        c.name: {"vocabulary_size": vocabularies[c.table_name].size}
        for c in schema.categorical
        if c.table_name in vocabularies
    }
    return identified(schema.replace_categorical(**sizes), dense_state, vocabularies)
