"""Search and recommendation inside a TensorFlow graph: an index as variables, and the signatures `retrieve` and `recommend`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dlrm.export.saved_model.columns import ModelColumns
from keras_dlrm.export.signatures import model_columns
from keras_dlrm.retrieval import search
from keras_dlrm.retrieval.content import Content
from keras_dlrm.retrieval.item_ids import ItemIds
from keras_dlrm.retrieval.sides import Side
from keras_dlrm.retrieval.two_stage import blended
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.crosses import own

# Scores that are in memory at once.
_SCORES = 2**24
Batch = Mapping[str, Any]


class IndexInGraph(tf.Module):
    """An index (`retrieval.content.Content`) as variables."""

    def __init__(self, content: Content) -> None:
        super().__init__()
        self._schema, self._temperature, self._probes = content.schema, content.temperature, content.probes
        self._rows, self._none = len(content.ids), ItemIds(content.ids).none
        self._places = Side(content.schema, content.item_columns).places
        self.vectors = {name: _variable(array, name) for name, array in content.vectors.items()}
        self.lists = {name: _variable(array, name) for name, array in vars(content.lists).items()} if content.lists else {}
        self.columns = {key: _variable(array, f"columns_{key}") for key, array in content.columns.items()}
        self.ids = _variable(np.array(content.ids.to_list(), object if self._none == "" else np.int64), "ids")
        keys = _keys(self.ids).numpy()
        order = np.argsort(keys, kind="stable")
        self.keys, self.key_rows = _variable(keys[order], "keys"), _variable(order.astype(np.int32), "key_rows")

    @property
    def id_type(self) -> tf.DType:
        """int64 or string."""
        return self.ids.dtype

    def rows(self, ids: Any) -> Any:
        """Ids (B, n) → their rows, int32 (B, n), -1 for those that there are not."""
        flat = tf.reshape(ids, [-1])
        places = tf.minimum(tf.searchsorted(self.keys, _keys(flat)), self._rows - 1)
        rows = tf.gather(self.key_rows, places)
        # Two texts may have one key.
        return tf.reshape(tf.where(tf.gather(self.ids, rows) == flat, rows, -1), tf.shape(ids))

    def named(self, rows: Any) -> Any:
        """Rows → ids, -1 or "" for rows of -1."""
        return tf.where(rows < 0, tf.constant(self._none, self.ids.dtype), tf.gather(self.ids, tf.maximum(rows, 0)))

    def _without(self, queries: Any, exclude: Any, k: int) -> search.Best:
        """The k best rows for user vectors (B, D), without those of the ids `exclude` (B, n)."""
        message = "exclude has another number of rows than there are users; give a list of ids for each, which may be empty."
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(exclude)[0], tf.shape(queries)[0], message)]):
            return self.best(queries, self.rows(tf.identity(exclude)), k)

    def best(self, queries: Any, hidden: Any, k: int) -> search.Best:
        """The k best rows for user vectors (B, D), without the `hidden` ones (B, n)."""
        known = tf.where(tf.math.is_finite(queries), queries, 0.0)
        if self.lists:
            best = search.probed(search.nothing(known, k), known, {**self.lists, **self.vectors}, self._probes, hidden)
            return search.finished(best, queries)
        best = self._scanned(search.nothing(known, search.looked_at(k, self.vectors)), known, hidden)
        if "residual" in self.vectors:
            rows = search.finished(best, known).rows
            some = {name: tf.gather(array, tf.maximum(rows, 0)) for name, array in self.vectors.items()}
            best = search.among(search.nothing(known, k), known, some, rows)
        return search.finished(best, queries)

    def _scanned(self, best: search.Best, queries: Any, hidden: Any) -> search.Best:
        """All items, part by part: memory has a bound, however large the index and the batch are."""
        arrays = {name: self.vectors[name] for name in search.SCANNED if name in self.vectors}
        size = tf.maximum(_SCORES // tf.maximum(tf.shape(queries)[0], 1), 1024)
        width = best.scores.shape[1]

        def step(first: Any, scores: Any, rows: Any) -> tuple[Any, Any, Any]:
            part = {name: array[first : first + size] for name, array in arrays.items()}
            more = search.better(search.Best(scores, rows), queries, part, first, hidden)
            return first + size, tf.ensure_shape(more.scores, [None, width]), tf.ensure_shape(more.rows, [None, width])

        shapes = (tf.TensorShape([]), tf.TensorShape([None, width]), tf.TensorShape([None, width]))
        first = (tf.constant(0), best.scores, best.rows)
        _, *both = tf.while_loop(lambda first, *_: first < self._rows, step, first, shapes, parallel_iterations=1)
        return search.Best(*both)

    def retrieve(self, vectors: Any, exclude: Any, k: int) -> dict[str, Any]:
        """The answer of `retrieve`: ids (B, k), and scores (B, k), the lowest float32 where there is no item."""
        best = self._without(vectors, exclude, k)
        # JSON has no infinity.
        scores = tf.where(best.rows < 0, np.finfo(np.float32).min, best.scores / self._temperature)
        return {"ids": self.named(best.rows), "scores": scores}

    def recommend(
        self, users: Batch, vectors: Any, exclude: Any, k: int, candidates: int, blend: float,
        probabilities: Callable[[Batch], Any], schema: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """The answer of `recommend`: ids (B, k) and probabilities (B, k), 0 where there is no item."""
        best = self._without(vectors, exclude, candidates)
        rows, scores = best.rows, best.scores / self._temperature
        chances = tf.reshape(probabilities(self._pairs(users, rows, candidates, schema)), [-1, candidates])
        by = blended(tf.math, chances, tf.where(rows < 0, 0.0, scores), blend) if blend else chances
        places = tf.math.top_k(tf.where(rows < 0, -np.inf, by), k).indices
        rows, chances = (tf.gather(each, places, batch_dims=1) for each in (rows, chances))
        return {"ids": self.named(rows), "probabilities": tf.where(rows < 0, 0.0, chances)}

    def _pairs(self, users: Batch, rows: Any, count: int, schema: Any) -> dict[str, Any]:
        """Packed batch of a schema: each user with its candidates; see `retrieval.two_stage.pairs`."""
        items = tf.reshape(tf.maximum(rows, 0), [-1])
        whole = {}
        for key, values in users.items():
            place, width = self._places[key], values.shape[1]
            others = np.setdiff1d(np.arange(width), place)
            parts = [tf.repeat(tf.gather(values, others, axis=1), count, axis=0)]
            if len(place):
                parts.append(tf.cast(tf.gather(self.columns[key], items), values.dtype))
            whole[key] = tf.gather(tf.concat(parts, axis=1), np.argsort(np.concatenate([others, place])), axis=1)
        columns = {name: whole["dense"][:, i] for i, name in enumerate(self._schema.dense_names)}
        for column, start in zip(own(self._schema.categorical), _starts(self._schema), strict=True):
            columns[column.name] = tf.cast(whole["sparse"][:, start : start + column.hotness], tf.int64)
        return ModelColumns(schema, model_columns(schema)).pack(columns)


def of_one_side(columns: ModelColumns, names: set[str], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Columns by name for `ModelColumns.pack`: those of the inputs, and nothing in the others, whose names are not in `names`."""
    rows = tf.shape(next(inputs[column.input] for column in columns.columns if column.name in names))[0]
    filled = {}
    for column in columns.columns:
        if column.name in names:
            filled[column.name] = inputs[column.input]
        else:
            nothing = "" if column.dtype == "string" else tf.constant(PADDING if column.dtype == "int64" else 0, column.dtype)
            filled[column.name] = tf.fill([rows] if column.width is None else [rows, column.width], nothing)
    return filled


def _starts(schema: Any) -> list[int]:
    return [start for column, start in zip(schema.categorical, schema.offsets, strict=True) if not column.crossed]


def _keys(ids: Any) -> Any:
    """Ids → int64 that are equal where the ids are."""
    return tf.strings.to_hash_bucket_strong(ids, 2**63 - 1, key=[1, 2]) if ids.dtype == tf.string else tf.identity(ids)


def _variable(array: np.ndarray, name: str) -> tf.Variable:
    return tf.Variable(array, trainable=False, name=name)
