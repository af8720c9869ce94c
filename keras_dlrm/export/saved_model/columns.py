"""Named or raw columns to a packed batch inside a TensorFlow graph: the preprocessor as stock operations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dlrm.data.kernels import normal_form
from keras_dlrm.data.kernels.string_hash import KEY, LONGEST
from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.vocabulary import HEX, Vocabulary
from keras_dlrm.embeddings.table_rows import cross
from keras_dlrm.export.saved_model import times
from keras_dlrm.export.saved_model.vectors import ContentVectors
from keras_dlrm.export.signatures import WEIGHTS, Column
from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.crosses import own
from keras_dlrm.schema.hashing import LARGEST
from keras_dlrm.schema.schema import Schema
from keras_dlrm.schema.time_parts import made_columns, sources

# What int64 has of its last nine digits, and before them.
_LOW, _HIGHEST, _LAST = 10**9, 9_223_372_036, 854_775_807


class ModelColumns(tf.Module):
    """Columns of a fitted schema (`signatures.model_columns`) as the model reads them."""

    def __init__(self, schema: Schema, columns: Sequence[Column]) -> None:
        super().__init__()
        self.schema = schema
        self.columns = tuple(columns)

    def specs(self, rows: Mapping[str, int | None] | None = None) -> dict[str, tf.TensorSpec]:
        """Inputs by name; `rows` fixes how many rows a column has."""
        rows = rows or {}
        widths = {c.name: [] if c.width is None else [None if c.truncated else c.width] for c in self.columns}
        return {c.input: tf.TensorSpec([rows.get(c.name), *widths[c.name]], c.dtype, c.input) for c in self.columns}

    def named(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs → columns."""
        return {c.name: inputs[c.input] for c in self.columns}

    def pack(self, columns: Mapping[str, Any], shared: Sequence[str] = (), rows: Any = None) -> dict[str, Any]:
        """Columns (B,) or (B, width) → packed batch; the one row of `shared` columns stands for all `rows`, repeated as ids."""

        def every(name: str, values: Any) -> Any:
            return tf.repeat(values, rows, axis=0) if name in shared else values

        batch = {}
        if self.schema.dense:
            dense = [every(n, self.dense(i, columns[n])) for i, n in enumerate(self.schema.dense_names)]
            batch["dense"] = tf.stack(dense, axis=1)
        if self.schema.categorical:
            long, ids = {c.name for c in self.columns if c.truncated}, {}
            for c in own(self.schema.categorical):
                values = cut(c, columns[c.name]) if c.name in long else columns[c.name]
                ids[c.name] = tf.reshape(every(c.name, self.ids(c, values)), [-1, c.hotness])
            by_name = {c.name: c for c in self.schema.categorical}
            for c in self.schema.categorical:
                if c.crossed:
                    ids[c.name] = tf.cast(cross(c, [(by_name[name], ids[name]) for name in c.crossed]), tf.int64)
            parts = [ids[name] for name in self.schema.categorical_names]
            batch["sparse"] = parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)
        if self.schema.weighted:
            batch[WEIGHTS] = columns[WEIGHTS]
        return with_equal_rows(batch)

    def dense(self, index: int, values: Any) -> Any:
        """Values of a dense column (B,) → model inputs, float32 (B,)."""
        return values

    def ids(self, column: Categorical, values: Any) -> Any:
        """Values of a sparse column → int64 ids of the same shape."""
        return values

    def parse(self, examples: Any) -> dict[str, Any]:
        """Serialized `tf.train.Example`s (B,) → columns. A feature that is absent, or has no value, is missing.

        Values of a vocabulary are bytes features, ids int64, dense values floats.
        """
        features: dict[str, Any] = {}
        for c in self.columns:
            dtype = tf.float32 if c.dtype.startswith("float") else tf.as_dtype(c.dtype)
            if c.name == WEIGHTS and self.schema.weighted:
                features[c.name] = tf.io.FixedLenFeature([c.width], tf.float32)
            elif c.width is None:
                features[c.name] = tf.io.FixedLenSequenceFeature([], dtype, allow_missing=True, default_value=self.missing(c))
            else:
                features[c.name] = tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
        parsed = tf.io.parse_example(examples, features)
        return {c.name: tf.cast(self._rectangular(c, parsed[c.name]), c.dtype) for c in self.columns}

    def missing(self, column: Column) -> Any:
        """The value that stands for a missing one of a column."""
        if column.dtype.startswith("float"):
            return next(dense.missing for dense in self.schema.dense if dense.name == column.name)
        return "" if column.dtype == "string" else PADDING

    def _rectangular(self, column: Column, values: Any) -> Any:
        """Values of a column as they were parsed → (B,) or (B, width)."""
        if column.width is not None and not isinstance(values, tf.RaggedTensor):
            return values
        missing = self.missing(column)
        if isinstance(values, tf.RaggedTensor):
            if column.truncated:
                # Before they get one length: one long list must not make all of them long.
                values = cut_lists(next(c for c in self.schema.categorical if c.name == column.name), values)
            with tf.control_dependencies([_at_most(column, values.row_lengths(), column.width)]):
                return values.to_tensor(missing, shape=[None, column.width])
        with tf.control_dependencies([_at_most(column, tf.shape(values, tf.int64)[1], 1)]):
            return tf.pad(values, [[0, 0], [0, 1]], constant_values=tf.constant(missing, values.dtype))[:, 0]  # (B, 0)


def with_equal_rows(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The same packed batch. Weights of other rows than the ids' are an error when it runs: one row would go for all."""
    if WEIGHTS not in batch:
        return dict(batch)
    # A reshape would do, but TensorFlow takes it out of the graph.
    equal = tf.debugging.assert_equal(
        *(tf.shape(batch[key])[0] for key in ("sparse", WEIGHTS)), "ids and weights differ in their number of rows"
    )
    with tf.control_dependencies([equal]):
        return {**batch, WEIGHTS: tf.identity(batch[WEIGHTS])}


class RawColumns(ModelColumns):
    """Columns as the log has them, through a fitted preprocessor.

    A value that the preprocessor refuses on the host cannot fail a request, whose batch may be of many: a dense value
    beyond float32 becomes NaN, and so does its row's probability; hexadecimal digits that are none are an
    unseen value; an id out of range is the model's to map to the OOV row. Vocabularies are files in `folder`.
    """

    def __init__(self, preprocessor: Preprocessor, columns: Sequence[Column], folder: Path) -> None:
        super().__init__(preprocessor.schema, columns)
        self._states = [preprocessor.dense_state.get(name, {}) for name in self.schema.dense_names]
        self._content = ContentVectors(preprocessor)
        self.lookups = {}
        for i, (table, vocabulary) in enumerate(preprocessor.vocabularies.items()):
            self.lookups[table] = VocabularyLookup(vocabulary, folder / f"vocabulary_{i:03d}.txt")

    def pack(self, columns: Mapping[str, Any], shared: Sequence[str] = (), rows: Any = None) -> dict[str, Any]:
        moments = {name: times.seconds(columns[name]) for name in sources(self.schema)}
        parts = {c.name: times.part(c, moments[c.of]) for c in made_columns(self.schema) if c.of in moments}
        return super().pack({**columns, **parts, **self._content(columns)}, shared, rows)

    def missing(self, column: Column) -> Any:
        """NaN for a number, which `dense` replaces after the transform."""
        return float("nan") if column.dtype.startswith("float") else super().missing(column)

    def dense(self, index: int, values: Any) -> Any:
        column, state = self.schema.dense[index], self._states[index]
        out = _transformed(column.transform, state, values)
        # NaN where the result is infinite: the host refuses such a value.
        out = tf.where(tf.math.is_finite(out), out, float("nan"))
        return tf.where(tf.math.is_finite(values), out, tf.constant(column.missing, tf.float32))

    def ids(self, column: Categorical, values: Any) -> Any:
        lookup = self.lookups.get(column.table_name)
        if lookup is not None:
            return lookup(values)
        return hashed_ids(values, LARGEST + 1 if column.open is None else LONGEST) if column.hashed else values


class VocabularyLookup(tf.Module):
    """`Vocabulary.encode` inside a graph, with a file that has the vocabulary's values, one a line."""

    def __init__(self, vocabulary: Vocabulary, file: Path) -> None:
        super().__init__()
        self._unseen = PADDING if vocabulary.oov is None else vocabulary.oov
        self._oov_rows = 1 if vocabulary.oov is None else vocabulary.oov_rows
        self._hex, self._modulo = vocabulary.keys.kind == HEX, vocabulary.keys.modulo
        self._escaped = False
        self.table = self.ids = None
        if not len(vocabulary.values):
            return
        self._escaped = _write_lines(vocabulary, file, self._hex)
        dtype, index = (tf.int64, 0) if self._hex else (tf.string, tf.lookup.TextFileIndex.WHOLE_LINE)
        initializer = tf.lookup.TextFileInitializer(
            str(file), dtype, index, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, vocab_size=len(vocabulary.values)
        )
        self.table = tf.lookup.StaticHashTable(initializer, default_value=-1)
        # A line's number is its id but for the OOV rows that are left out, unless the vocabulary has grown past a gap.
        self._first = vocabulary.oov if vocabulary.oov is not None else len(vocabulary.values)
        lines = np.arange(len(vocabulary.values))
        if not np.array_equal(vocabulary.ids, lines + self._oov_rows * (lines >= self._first)):
            self.ids = tf.Variable(vocabulary.ids.astype(np.int64), trainable=False, name="ids")

    def __call__(self, values: Any) -> Any:
        if self._hex:
            keys, missing, valid = _hex_keys(values, self._modulo)
        else:
            keys, valid = _normal_form(values), None
            missing = _is_missing(keys)
        looked_up = tf.fill(tf.shape(values), tf.constant(self._unseen, tf.int64))
        if self.table is not None:
            written = keys
            # As by `_write_lines`. In what replaces, two backslashes stand for one.
            for pattern, name in ((r"\\", "\\\\\\\\"), ("\n", r"\\n"), ("\r", r"\\r")) if self._escaped else ():
                written = tf.strings.regex_replace(written, pattern, name)
            line = self.table.lookup(written)
            if self.ids is None:
                known = line + self._oov_rows * tf.cast(line >= self._first, tf.int64)
            else:
                known = tf.gather(self.ids, tf.maximum(line, 0))
            looked_up = tf.where(line < 0, looked_up, known)
        if valid is not None:
            looked_up = tf.where(valid, looked_up, tf.constant(self._unseen, tf.int64))
        if self._oov_rows > 1:
            texts = tf.strings.as_string(tf.bitcast(keys, tf.uint64)) if self._hex else keys
            cold = tf.strings.to_hash_bucket_strong(texts, self._oov_rows, key=list(KEY))
            looked_up = tf.where(looked_up == self._unseen, looked_up + cold, looked_up)
        return tf.where(missing, tf.constant(PADDING, tf.int64), looked_up)


def hashed_ids(texts: Any, count: int = LARGEST + 1) -> Any:
    """Texts of a hashed column → ids: whole numbers are ids, others are hashed to numbers below `count`; -1 where empty."""
    texts = _normal_form(texts)
    number = tf.strings.regex_full_match(texts, "[+-]?[0-9]+")
    sign = tf.where(tf.strings.substr(texts, 0, 1) == "-", tf.constant(-1, tf.int64), tf.constant(1, tf.int64))
    digits = tf.strings.regex_replace(tf.strings.regex_replace(texts, "^[+-]", ""), "^0+([0-9])", r"\1")
    # In two parts, as a number beyond int64 would fail the batch.
    number &= tf.strings.length(digits) <= 19
    padded = tf.strings.substr(tf.strings.join(["0" * 19, tf.where(number, digits, "0")]), -19, 19)
    high, low = (
        tf.strings.to_number(tf.strings.substr(padded, start, length), tf.int64) for start, length in ((0, 10), (10, 9))
    )
    least = tf.where(sign < 0, tf.constant(_LAST + 1, tf.int64), tf.constant(_LAST, tf.int64))
    number &= (high < _HIGHEST) | ((high == _HIGHEST) & (low <= least))
    hashed = tf.strings.to_hash_bucket_strong(texts, count, key=list(KEY))
    ids = tf.where(number, sign * (high * _LOW + low), hashed)
    return tf.where(texts == "", tf.constant(PADDING, tf.int64), ids)


def _transformed(transform: str, state: Mapping[str, Any], values: Any) -> Any:
    """Dense values, float64 (B,) → float32 (B,); see `data.dense.apply`, whose types these are."""
    if transform == "none":
        return tf.cast(values, tf.float32)
    if transform == "log1p":
        return _log(values)
    if transform == "quantile":
        quantiles = tf.constant(state["quantiles"], tf.float64)
        ranks = sum(tf.searchsorted(quantiles, values, side, tf.int64) for side in ("left", "right"))
        return tf.cast(tf.cast(ranks, tf.float64) / len(state["quantiles"]) - 1.0, tf.float32)
    if transform == "distinct_quantile":
        return tf.cast(_places(state["quantiles"], values), tf.float32)
    if transform == "log_above_minimum":
        return tf.math.log(tf.cast(tf.maximum(values - state["minimum"], 0.0) + 2.0, tf.float32))
    if transform == "log1p_standardize":
        values = tf.cast(_log(values), tf.float64)
    return tf.cast((values - state["mean"]) / state["deviation"], tf.float32)


def _places(quantiles: Sequence[float], values: Any) -> Any:
    """Places among different quantiles, as `data.dense.apply` has them."""
    if len(quantiles) < 2:
        return tf.zeros_like(values)
    values = tf.clip_by_value(values, quantiles[0], quantiles[-1])
    edges = tf.constant(quantiles, tf.float64)
    below = tf.clip_by_value(tf.searchsorted(edges, values, "right", tf.int32) - 1, 0, len(quantiles) - 2)
    low, high = tf.gather(edges, below), tf.gather(edges, below + 1)
    return (tf.cast(below, tf.float64) + (values - low) / (high - low)) * (2.0 / (len(quantiles) - 1)) - 1.0


def _log(values: Any) -> Any:
    return tf.math.log(tf.cast(tf.maximum(values, tf.constant(0.0, tf.float64)), tf.float32) + 1.0)


def _normal_form(values: Any) -> Any:
    """Texts → their normal forms, `""` where missing; see `data.normal_form.texts`."""
    texts = tf.strings.regex_replace(values, normal_form.WHOLE, r"\1\2")
    return tf.where(tf.strings.regex_full_match(texts, normal_form.BOOLEAN), tf.strings.lower(texts), texts)


def _hex_keys(values: Any, modulo: int | None) -> tuple[Any, Any, Any]:
    """Hexadecimal digits → int64 keys with the bits of their uint64, none of which is missing, and which are digits."""
    texts = tf.strings.regex_replace(tf.where(values == "", "0", values), "^0+([0-9a-fA-F])", r"\1")
    valid = tf.strings.regex_full_match(texts, "[0-9a-fA-F]{1,16}")
    padded = tf.strings.substr(tf.strings.join(["0" * 16, tf.where(valid, texts, "0")]), -16, 16)
    code = tf.cast(tf.io.decode_raw(padded, tf.uint8, fixed_length=16), tf.int32)
    zero = tf.where(code >= ord("a"), ord("a") - 10, tf.where(code >= ord("A"), ord("A") - 10, ord("0")))
    digit = tf.cast(code - zero, tf.int64)
    places = tf.constant([16**i for i in reversed(range(8))], tf.int64)
    high, low = (tf.reduce_sum(part * places, axis=-1) for part in (digit[..., :8], digit[..., 8:]))
    if modulo is None:
        keys = tf.bitwise.bitwise_or(tf.bitwise.left_shift(high, tf.constant(32, tf.int64)), low)
    else:
        # By halves: a product of two numbers below 2³¹ fits in int64.
        factor = 2**32 % modulo
        keys = (high % modulo * factor + low) % modulo
    return keys, tf.zeros_like(valid), valid


def _write_lines(vocabulary: Vocabulary, file: Path, numbers: bool) -> bool:
    """Write a vocabulary's values, one a line; whether they had to be escaped."""
    import polars as pl

    values = vocabulary.values
    if numbers:
        values = values.cast(pl.UInt64).reinterpret(signed=True).cast(pl.String)
    escaped = not numbers and bool(values.str.contains(r"[\\\n\r]").any())
    if escaped:
        for text, name in (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r")):
            values = values.str.replace_all(text, name, literal=True)
    with open(file, "wb") as out:
        for part in values.to_frame("v").iter_slices(2**20):
            out.write("".join(f"{value}\n" for value in part["v"].to_list()).encode())
    return escaped


def _at_most(column: Column, lengths: Any, most: int | None) -> Any:
    """An assertion about how many values rows have."""
    what = "the one that the column holds" if column.width is None else f"its hotness {most}"
    return tf.debugging.assert_less_equal(
        lengths, tf.constant(most, tf.int64), f"feature {column.name!r} has more values than {what}; shorten the list."
    )


def _is_missing(values: Any) -> Any:
    """Whether each of some ids or texts is a missing value."""
    return (values == "") | (values == str(PADDING)) if values.dtype == tf.string else values == PADDING


def cut(column: Categorical, values: Any) -> Any:
    """Values (B, k) → (B, hotness): those that the column's `truncate` keeps."""
    missing = _is_missing(values)
    fill = "" if values.dtype == tf.string else tf.constant(PADDING, values.dtype)
    padded = tf.pad(values, [[0, 0], [0, column.hotness]], constant_values=fill)
    if column.truncate == "first":
        return padded[:, : column.hotness]
    ends = tf.where(missing, 0, tf.range(1, tf.shape(values)[1] + 1))
    # A row without values has no largest one.
    used = tf.reduce_max(tf.pad(ends, [[0, 0], [1, 0]]), axis=1)
    starts = tf.maximum(used - column.hotness, 0)
    return tf.gather(padded, starts[:, None] + tf.range(column.hotness), batch_dims=1)


def cut_lists(column: Categorical, values: Any) -> Any:
    """Ragged values (B, k) → at most `hotness` of each row, the same ones as `cut` keeps."""
    if column.truncate == "first":
        return values[:, : column.hotness]
    places = tf.ragged.range(1, values.row_lengths() + 1, row_splits_dtype=tf.int64)
    ends = places.with_flat_values(tf.where(_is_missing(values.flat_values), tf.constant(0, tf.int64), places.flat_values))
    # The largest of no values is the smallest number.
    used = tf.repeat(tf.maximum(tf.reduce_max(ends, axis=1), 0), values.row_lengths())
    kept = (places.flat_values > used - column.hotness) & (places.flat_values <= used)
    return tf.ragged.boolean_mask(values, places.with_flat_values(kept))
