"""Identity of a column's vocabulary or statistics: a checksum that its schema carries."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from keras_dlrm.data.preprocessor.vocabulary import Vocabulary
from keras_dlrm.files.checksums import content_digest
from keras_dlrm.schema.schema import Schema

_DIGITS = 16
_PART = 2**20


def identified(schema: Schema, dense_state: Mapping[str, Any], vocabularies: Mapping[str, Vocabulary]) -> Schema:
    """A schema whose columns carry the identity of what was fitted for them: statistics by column, vocabularies by table.

    Example:

    >>> from keras_dlrm.schema.columns import Dense
    >>> schema = Schema(dense=[Dense("price", "standardise")])
    >>> identified(schema, {"price": {"mean": 3.0, "deviation": 2.0}}, {}).dense[0].identity
    '6931035e31ef46b1'
    """
    tables = {name: vocabulary_identity(vocabulary) for name, vocabulary in vocabularies.items()}
    dense = [
        dataclasses.replace(c, identity=statistics_identity(c.transform, dense_state[c.name])) if c.name in dense_state else c
        for c in schema.dense
    ]
    categorical = [
        dataclasses.replace(c, identity=tables[c.table_name]) if c.table_name in tables else c for c in schema.categorical
    ]
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
    return content_digest([transform, numbers])[:_DIGITS]
