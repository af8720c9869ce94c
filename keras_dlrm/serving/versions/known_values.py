"""Values that a served version's vocabularies know."""

from __future__ import annotations

import functools
import logging
import threading
from pathlib import Path
from typing import Protocol

import numpy as np

from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.export.signatures import model_columns
from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.schema import Schema

log = logging.getLogger("keras_dlrm.serving")
# A preprocessor whose files are larger is not loaded a second time, beside the model that has it.
_PREPROCESSOR_BYTES = 256 * 2**20


class _Version(Protocol):
    path: Path
    schema: Schema | None


class KnownValues:
    """Values that the vocabularies of a version know. Loaded when they are first asked for."""

    def __init__(self, version: _Version) -> None:
        self._version = version
        self._lock = threading.Lock()
        self._preprocessor: Preprocessor | None = None
        self._loaded = False

    @functools.cached_property
    def columns(self) -> dict[str, Categorical]:
        """The categorical columns, by the input that each is in signatures of named columns."""
        schema = self._version.schema
        if schema is None:
            return {}
        categorical = {column.name: column for column in schema.categorical}
        return {c.input: categorical[c.name] for c in model_columns(schema) if c.name in categorical}

    def count(self, column: Categorical, values: np.ndarray) -> tuple[int, int] | None:
        """Number of values (texts as bytes, or ids, of any shape) and of unseen ones; `None` where nothing is known."""
        flat = values.ravel()
        if flat.dtype.kind == "O":
            return self._count_texts(column, flat)
        ids = flat[flat != PADDING]
        if column.hashed:
            return len(ids), 0
        unseen = (ids < 0) | (ids >= int(column.vocabulary_size or 0))
        if column.identity is not None and column.oov is not None:
            unseen |= (ids >= column.oov) & (ids < column.oov + column.oov_rows)
        return len(ids), int(np.count_nonzero(unseen))

    def _count_texts(self, column: Categorical, values: np.ndarray) -> tuple[int, int] | None:
        import polars as pl

        preprocessor = self._load()
        if preprocessor is None:
            return None
        texts = pl.Series([value.decode(errors="replace") for value in values.tolist()], dtype=pl.String)
        vocabulary = preprocessor.vocabularies.get(column.table_name)
        if vocabulary is None:  # hashed
            return int((texts != "").sum()), 0
        bad = vocabulary.keys.unusable(texts, column.name)[0]
        _, unseen, missing = vocabulary.looked_up(texts.set(pl.Series(bad), None), column.name)
        return int(np.count_nonzero(~missing | bad)), int(np.count_nonzero(unseen | bad))

    def _load(self) -> Preprocessor | None:
        with self._lock:
            if self._loaded:
                return self._preprocessor
            self._loaded = True
            folder = self._version.path / "assets.extra" / "preprocessor"
            try:
                size = sum(file.stat().st_size for file in folder.rglob("*"))
                if size > _PREPROCESSOR_BYTES:
                    log.info("%s has %d bytes: unseen values are not counted", folder, size)
                elif folder.is_dir():
                    self._preprocessor = Preprocessor.load(folder)
            except (OSError, ValueError, TypeError, KeyError) as error:
                log.warning("%s cannot be read, so unseen values are not counted: %s", folder, error)
            return self._preprocessor
