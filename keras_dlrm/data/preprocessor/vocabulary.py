"""Vocabularies: count the values of a categorical column, map them to ids, and tell vocabularies apart by a checksum."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.kernels import normal_form
from keras_dlrm.data.kernels.first_appearance import TextIds, Texts
from keras_dlrm.data.kernels.string_hash import buckets
from keras_dlrm.files.checksums import content_digest
from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.schema import Schema
from keras_dlrm.schema.vectors import semantic

TEXT = "text"
HEX = "hex"
HEXADECIMAL = "must be hexadecimal digits (at most 16) or empty"


@dataclasses.dataclass(frozen=True)
class Keys:
    """A normal form of raw values for their lookup, so that a file and a request agree.

    Args:
        kind: `"text"`: the value in its normal form (see `data.normal_form`), so that 3, 3.0 and `"3.0"` are one value,
            and so are true and `"True"`. Null, NaN, the empty string and -1, which is padding everywhere, are missing.
            `"hex"`: a string of hexadecimal digits becomes a number, as in Criteo's logs; missing is 0.
        modulo: For `"hex"`: the number is taken modulo this, or `None`.
    """

    kind: str = TEXT
    modulo: int | None = None

    def normalize(self, values: pl.Series, who: str) -> pl.Series:
        """Raw values → keys (String or UInt64), null where missing or `unusable`; `TypeError` where all are of another type."""
        if self.kind != HEX:
            keys = normal_form.texts(values, who)
            return keys.set(keys == str(PADDING), None)
        if values.dtype == pl.Null:
            values = values.cast(pl.String)
        if values.dtype != pl.String:
            raise TypeError(f"{who} has dtype {values.dtype}; give strings of hexadecimal digits, as in the raw log.")
        text = values.set(values == "", None).fill_null("0")
        numbers = text.str.to_integer(base=16, dtype=pl.UInt64, strict=False).set(text.str.starts_with("+"), None)
        return numbers % self.modulo if self.modulo else numbers

    def unusable(self, values: pl.Series, who: str) -> tuple[np.ndarray, str]:
        """Raw values that have no key, bool (n,), and what they must be."""
        if self.kind != HEX:
            return np.zeros(len(values), bool), ""
        return self.normalize(values, who).is_null().to_numpy(), HEXADECIMAL  # a missing one has a key, 0


def counted(texts: pl.Series, counts: np.ndarray, keys: Keys, who: str) -> pl.DataFrame:
    """Different texts, and how often each was counted, int64 (n,) → their `"key"` and its `"count"`, in the same order."""
    frame = pl.DataFrame({"key": keys.normalize(texts, who), "count": counts}).drop_nulls("key")
    return frame.group_by("key", maintain_order=True).agg(pl.col("count").sum())


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The fitted values of one logical table.

    Args:
        values: Keys, one per known value (String or UInt64).
        ids: int32, their rows.
        size: Rows of the table.
        oov: First row of unseen values, or `None`: they become padding.
        keys: How raw values become keys.
        oov_rows: Rows that unseen values share, from `oov` on; a hash of the value chooses.
    """

    values: pl.Series
    ids: np.ndarray
    size: int
    oov: int | None
    keys: Keys = Keys()
    oov_rows: int = 1

    @classmethod
    def fit(cls, counts: pl.DataFrame, column: Categorical, keys: Keys) -> Vocabulary:
        """Give ids to values, which are `counted` in the order of their first appearance.

        Ids follow the first appearance; where `max_vocabulary` cuts, the most frequent values are kept, ids follow the
        frequency, and ties the first appearance. OOV rows are left out; `ValueError` where `max_vocabulary` has no room.
        """
        oov, oov_rows, most = column.oov, column.oov_rows, column.max_vocabulary
        if most is not None and oov is not None and oov + oov_rows > most:
            raise ValueError(
                f"Categorical column {column.name!r}: oov={oov}{f' with oov_rows={oov_rows}' if oov_rows > 1 else ''} is "
                f"outside max_vocabulary={most}; give a smaller oov or oov_rows."
            )
        size = 1 if oov is None else oov + oov_rows
        empty = cls(counts["key"].clear(), np.empty(0, np.int32), size, oov, keys, oov_rows)
        return empty.extended(counts, column)

    def extended(self, counts: pl.DataFrame, column: Categorical) -> Vocabulary:
        """A vocabulary with the new ones among counted values behind those that it has, which keep their ids.

        The column's `min_count` and `max_vocabulary` hold; where the latter cuts, the most frequent new values are kept.
        """
        first = int(self.ids.max()) + 1 if len(self.ids) else 0
        oov = self.oov
        ahead = self.oov_rows if oov is not None and first <= oov else 0  # OOV rows that the numbering has yet to pass
        new = counts.filter(pl.Series(self.find(counts["key"]) < 0) & (counts["count"] >= column.min_count))
        if column.max_vocabulary is not None and len(new) > (room := max(column.max_vocabulary - first - ahead, 0)):
            new = new.sort("count", descending=True, maintain_order=True).head(room)
        if not len(new):
            return self
        # OOV rows are left out of the numbering.
        ids = first + np.arange(len(new), dtype=np.int64)
        ids += ahead * (ids >= (oov or 0))
        return dataclasses.replace(
            self,
            values=pl.concat([self.values.cast(new["key"].dtype), new["key"]]),
            ids=np.concatenate([self.ids, ids.astype(np.int32)]),
            size=max(self.size, int(ids[-1]) + 1),
        )

    def encode(self, values: pl.Series, who: str) -> np.ndarray:
        """Raw values → int32 ids: -1 where missing, an OOV row (or -1) where unseen."""
        return self.looked_up(values, who)[0]

    def looked_up(self, values: pl.Series, who: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids as of `encode`, and masks of the values that are unseen and that are missing, bool (n,)."""
        keys = self.keys.normalize(values, who)
        row = self.find(keys)
        unknown, default = row < 0, np.int32(PADDING if self.oov is None else self.oov)
        ids = np.where(unknown, default, self.ids[row]) if len(self.ids) else np.full(len(row), default)
        ids, missing = ids.astype(np.int32, copy=False), np.zeros(len(row), bool)
        if keys.null_count():
            missing = keys.is_null().to_numpy()
            ids[missing] = PADDING
        if self.oov is not None and self.oov_rows > 1:
            cold = np.flatnonzero(ids == self.oov)
            ids[cold] += buckets(keys.gather(cold).cast(pl.String), self.oov_rows).astype(np.int32)
        if self.keys.kind == HEX:  # a missing one has a key, 0
            missing = missing | (values.cast(pl.String) == "").fill_null(True).to_numpy()
        return ids, unknown & ~missing, missing

    @functools.cached_property
    def _texts(self) -> TextIds:
        """Position of each text among the values: built once, so that a small request costs little."""
        texts = TextIds()
        texts.encode(Texts.of(self.values))
        return texts

    def find(self, keys: pl.Series) -> np.ndarray:
        """Keys → int32 positions among the values, -1 where unknown."""
        if not len(self.values) or not len(keys):
            return np.full(len(keys), -1, np.int32)
        if keys.dtype == pl.String:
            return self._texts.find(Texts.of(keys))
        known = pl.DataFrame({"key": self.values.cast(keys.dtype), "row": np.arange(len(self.values), dtype=np.int32)})
        rows = keys.alias("key").to_frame().join(known, on="key", how="left", maintain_order="left")["row"]
        return rows.fill_null(-1).to_numpy()


_DIGITS = 16
_PART = 2**20


def identified(schema: Schema, dense_state: Mapping[str, Any], vocabularies: Mapping[str, Vocabulary]) -> Schema:
    """A schema whose columns carry the identity of what was fitted for them: statistics by column, vocabularies by table.

    Example:

    >>> from keras_dlrm.schema.columns import Dense
    >>> schema = Schema(dense=[Dense("price", "standardize")])
    >>> identified(schema, {"price": {"mean": 3.0, "deviation": 2.0}}, {}).dense[0].identity
    '6931035e31ef46b1'
    """
    tables = {name: vocabulary_identity(vocabulary) for name, vocabulary in vocabularies.items()}
    dense = [
        dataclasses.replace(c, identity=statistics_identity(c.transform, dense_state[c.name])) if c.name in dense_state else c
        for c in schema.dense
    ]
    coded = [c.name for c in semantic(schema.categorical) if c.name in dense_state]
    books = {name: content_digest(dense_state[name]["centers"])[:_DIGITS] for name in coded}
    known = [books[c.name] if c.name in books else tables.get(c.table_name, c.identity) for c in schema.categorical]
    categorical = [dataclasses.replace(c, identity=identity) for c, identity in zip(schema.categorical, known, strict=True)]
    return schema.with_columns(dense, categorical)


def vocabulary_identity(vocabulary: Vocabulary) -> str:
    """A checksum of the values of a table, their ids, and what becomes of other values."""
    rules = [vocabulary.size, vocabulary.oov, vocabulary.oov_rows, vocabulary.keys.kind, vocabulary.keys.modulo]
    checksum = hashlib.sha256(content_digest(rules).encode())
    for first in range(0, len(vocabulary.values), _PART):
        values = vocabulary.values.slice(first, _PART)
        if values.dtype == pl.String:
            # Lengths, so that "a", "bc" and "ab", "c" differ.
            checksum.update(values.str.len_bytes().cast(pl.Int64).to_numpy().tobytes())
            checksum.update(values.str.join("").item().encode())
        else:
            checksum.update(values.cast(pl.UInt64).to_numpy().tobytes())
    checksum.update(vocabulary.ids.astype(np.int32, copy=False).tobytes())
    return checksum.hexdigest()[:_DIGITS]


def statistics_identity(transform: str, state: Mapping[str, Any]) -> str:
    """A checksum of fitted parameters to nine digits: the last ones depend on the parts in which rows were read."""
    numbers = {name: [f"{v:.8e}" for v in np.atleast_1d(value).tolist()] for name, value in state.items()}
    # Identities stay those of earlier releases, which spelled it so.
    return content_digest([transform.replace("standardize", "standardise"), numbers])[:_DIGITS]
