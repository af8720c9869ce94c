"""Values that a served version's vocabularies know, and counts of the others in requests, in the background."""

from __future__ import annotations

import functools
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.unseen import Unseen
from keras_dlrm.export.signatures import model_columns
from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.schema import Schema
from keras_dlrm.serving.wire.tensors import nbytes

log = logging.getLogger("keras_dlrm.serving")
# A preprocessor whose files are larger is not loaded a second time, alongside the model that has it.
_PREPROCESSOR_BYTES = 256 * 2**20
# Arrays that wait to be counted; those of requests beyond are not.
_WAITING_BYTES = 32 * 2**20
# Columns of a model that have time series of their own; the rest share one.
MAX_COLUMNS = 100


class _Version(Protocol):
    model_name: str
    path: Path
    schema: Schema | None
    known: KnownValues


class KnownValues:
    """Values that the vocabularies of a version know. Loaded when they are first asked for."""

    def __init__(self, version: _Version) -> None:
        self._version = version
        self._lock = threading.Lock()

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

        with self._lock:
            preprocessor = self._preprocessor
        if preprocessor is None:
            return None
        texts = pl.Series([value.decode(errors="replace") for value in values.tolist()], dtype=pl.String)
        vocabulary = preprocessor.vocabularies.get(column.table_name)
        if vocabulary is None:  # hashed
            return int((texts != "").sum()), 0
        bad = vocabulary.keys.unusable(texts, column.name)[0]
        _, unseen, missing = vocabulary.looked_up(texts.set(pl.Series(bad), None), column.name)
        return int(np.count_nonzero(~missing | bad)), int(np.count_nonzero(unseen | bad))

    @functools.cached_property
    def _preprocessor(self) -> Preprocessor | None:
        folder = self._version.path / "assets.extra" / "preprocessor"
        try:
            size = sum(file.stat().st_size for file in folder.rglob("*"))
            if size <= _PREPROCESSOR_BYTES:
                return Preprocessor.load(folder) if folder.is_dir() else None
            log.info("%s has %d bytes: unseen values are not counted", folder, size)
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s cannot be read, so unseen values are not counted: %s", folder, error)
        return None


class UnseenValues:
    """Counts of one server by model and column, brought up to date every `seconds` by its `thread`, until it is `stopped`."""

    def __init__(self, seconds: float = 1.0) -> None:
        self._seconds = seconds
        self._waiting: deque[tuple[_Version, Mapping[str, np.ndarray]]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._sums: dict[tuple[str, str], list[int]] = {}
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._work, name="unseen", daemon=True)

    def note(self, version: _Version, arrays: Mapping[str, np.ndarray]) -> None:
        """Have the inputs of a request, which nobody writes to any more, counted."""
        named = {name: array for name, array in arrays.items() if name in version.known.columns}
        if not named:
            return
        size = sum(map(nbytes, named.values()))
        with self._lock:
            if self._bytes + size <= _WAITING_BYTES:
                self._bytes += size
                self._waiting.append((version, named))

    def _work(self) -> None:
        while not self.stopped.wait(self._seconds):
            try:
                self.flush()
            except Exception:
                log.exception("counting unseen values failed")

    def flush(self) -> None:
        """Count all that waits: many small requests at once cost little each."""
        with self._counting:
            with self._lock:
                waiting, self._waiting, self._bytes = self._waiting, deque(), 0
            together: defaultdict[tuple[Any, str], list[np.ndarray]] = defaultdict(list)
            for version, arrays in waiting:
                for name, array in arrays.items():
                    together[version, name].append(array.ravel())
            for (version, name), parts in together.items():
                column = version.known.columns[name]
                # Texts and ids of the same name come through different signatures.
                for kind in {part.dtype for part in parts}:
                    values = np.concatenate([part for part in parts if part.dtype == kind])
                    counted = version.known.count(column, values)
                    if counted is not None:
                        key = version.model_name, column.name
                        if key not in self._sums and sum(model == key[0] for model, _ in self._sums) >= MAX_COLUMNS:
                            key = key[0], ""
                        sums = self._sums.setdefault(key, [0, 0])
                        sums[:] = [sums[0] + counted[0], sums[1] + counted[1]]

    def sums(self) -> list[tuple[str, Unseen]]:
        """Model, and values of one of its columns, or of those beyond the hundredth, whose name is empty then."""
        self.flush()
        with self._counting:
            return [(model, Unseen(column, *sums)) for (model, column), sums in self._sums.items()]
