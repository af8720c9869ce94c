"""Example requests to every signature, and the live model's answers: for self-check and warm-up."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_dlrm.data.preprocessor.preprocessor import Preprocessor
from keras_dlrm.data.preprocessor.vocabulary import HEX
from keras_dlrm.embeddings.lookup import taped
from keras_dlrm.export.signatures import WEIGHTS, Column, model_columns, packed_inputs, raw_columns, signature_names
from keras_dlrm.schema.columns import PADDING, Categorical
from keras_dlrm.schema.crosses import fill, own
from keras_dlrm.schema.schema import Schema
from keras_dlrm.schema.time_parts import sources
from keras_dlrm.schema.vectors import vectors

Request = dict[str, dict[str, Any]]
Answer = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]
_NUMBERS = (0.5, float("nan"), 3.0, 41.0, 0.0)
_TIMES = ("2024-01-31T12:30:00Z", "1706704200", "", "2023-06-05", "2024-02-29 23:59:59+02:00")


def example_batch(schema: Schema, rows: int = 5) -> dict[str, np.ndarray]:
    """A packed batch with ids from both ends of each vocabulary, padding, and ids out of range.

    Example:

    >>> from keras_dlrm.schema.schema import Categorical
    >>> example_batch(Schema(categorical=[Categorical("C1", 10)]), rows=4)["sparse"].ravel().tolist()
    [0, 9, -1, 10]
    """
    batch = {}
    if schema.dense:
        batch["dense"] = np.linspace(-1, 3, rows * schema.n_dense, dtype=np.float32).reshape(rows, -1)
    if schema.categorical:
        sizes = [int(c.vocabulary_size or 1) for c in schema.categorical for _ in range(c.hotness)]
        choices = [np.zeros(len(sizes), int), np.array(sizes) - 1, np.full(len(sizes), -1), np.array(sizes)]
        batch["sparse"] = fill(schema, np.stack([choices[i % 4] for i in range(rows)]).astype(np.int64))
    if schema.weighted:
        batch["weights"] = np.linspace(0.5, 2, rows * schema.width, dtype=np.float32).reshape(rows, -1)
    return batch


def check_batch(schema: Any, rows: int = 16) -> dict[str, np.ndarray]:
    """`example_batch`, with ids far out of range in two rows, random ones in the later half, and values that are not numbers.

    Dense features have infinity in row 4, NaN in row 5; weights NaN in row 2, infinity in row 3. There are at least 8 rows.

    Example:

    >>> from keras_dlrm.schema.schema import Categorical, Schema
    >>> check_batch(Schema(categorical=[Categorical("C1", 10)]))["sparse"].ravel().tolist()[:8]
    [0, 9, -1, 10, 0, 9, -2, 1099511627776]
    """
    batch = example_batch(schema, rows)
    if "dense" in batch:
        batch["dense"][4:6, -1] = np.inf, np.nan
    if "weights" in batch:
        batch["weights"][2:4, -1] = np.nan, -np.inf
    if "sparse" in batch:
        sizes = np.array([int(c.vocabulary_size or 1) for c in schema.categorical for _ in range(c.hotness)])
        batch["sparse"][6:8] = np.array([[-2], [2**40]])
        batch["sparse"][8:] = np.random.default_rng(0).integers(-1, sizes, (rows - 8, len(sizes)))
    return batch


def expected_probabilities(model: Any, batch: Mapping[str, np.ndarray], stored: Any = None) -> np.ndarray:
    """p(click) that an exported model should give, (B, T): the live model's, with `StoredTables` instead of its own if given."""
    # Not by `predict`, which TensorFlow traces anew for each number of rows, and says so at length.
    arrays = {name: np.asarray(values) for name, values in batch.items()}
    if not len(next(iter(arrays.values()))):
        return np.zeros((0, model.n_labels), np.float32)  # layers of one's own may fail for no rows
    with taped(stored):
        return keras.ops.convert_to_numpy(model(model.narrowing.arrays(arrays), training=False))


def check_answers(
    who: str, model: Any, batch: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], answer: Answer,
    least: int = 0,
) -> None:  # fmt: skip
    """`RuntimeError`, which names `who`, unless a written model answers a batch, its first row and no rows as the live one does.

    `expected` are the live model's outputs, `answer` is the written one, and `least` the fewest rows that it takes.
    """
    allowed = allowed_difference(model)
    for rows in (len(next(iter(expected.values()))), 1, 0)[: 3 - least]:
        outputs = answer({name: array[:rows] for name, array in batch.items()})
        for name, values in expected.items():
            got, wanted = outputs[name], values[:rows]
            if got.shape == wanted.shape and (np.isnan(got) == np.isnan(wanted)).all():
                differing = ~np.isnan(wanted) & (got != wanted)
                difference = float(np.max(np.abs(got[differing] - wanted[differing]), initial=0.0))
            else:
                difference = float("nan")
            if not difference <= allowed:
                text = f"of {rows} rows the written model differs from the live one by {difference}; at most {allowed} is allowed."
                raise RuntimeError(f"{who}: {text}")


def allowed_difference(model: Any) -> float:
    """Largest difference between the answers of a written model and the live one's."""
    return 1e-5 if model.compute_dtype == "float32" else 0.02


def example_rows(preprocessor: Preprocessor, rows: int = 5) -> dict[str, list[Any]]:
    """Raw rows by column, of known, unseen and missing values: numbers, texts or, where the hotness is above 1, lists."""
    schema = preprocessor.schema
    columns: dict[str, list[Any]] = {}
    for i, dense in enumerate(schema.dense):
        if dense.of is None:
            columns[dense.name] = [_NUMBERS[(i + j) % 5] for j in range(rows)]
    columns |= {name: [_TIMES[j % 5] for j in range(rows)] for name in sources(schema)}
    for name, width in vectors(schema).items():
        columns[name] = [[_NUMBERS[1] if j % 5 == 1 else _NUMBERS[2 + (j + k) % 3] for k in range(width)] for j in range(rows)]
    for column in own(schema.categorical):
        if column.of is not None:
            continue
        values = _values(preprocessor, column)
        lists = [[values[(j + k) % len(values)] for k in range(column.hotness)] for j in range(rows)]
        columns[column.name] = lists if column.multi_hot else [each[0] for each in lists]
    return columns


def requests(
    schema: Schema, preprocessor: Preprocessor | None, user_columns: Sequence[str], default: str, rows: int = 5
) -> dict[str, tuple[Request, dict[str, np.ndarray]]]:
    """Signature → a request, `inputs by name as {"dtype", "values"}`, and the packed batch that it stands for.

    Arguments are as of `signature_names`. For `classify` and `regress` the inputs are the columns of the Examples.
    """
    packed = example_batch(schema, rows)
    columns: Sequence[Column] = model_columns(schema)
    by_column = _request(columns, _unpacked(schema, packed))
    known, batch = by_column, packed
    if preprocessor is not None:
        raw = example_rows(preprocessor, rows)
        weights = {WEIGHTS: packed["weights"].tolist()} if schema.weighted else {}
        batch = dict(preprocessor.transform({name: _transformable(values) for name, values in raw.items()}))
        if schema.weighted:
            batch["weights"] = packed["weights"]
        columns = raw_columns(preprocessor)
        known = _request(columns, {**raw, **weights})
    names, of_model = ({c.name: c.input for c in some} for some in (columns, model_columns(schema)))
    dtypes = {key: dtype for key, (_, dtype) in packed_inputs(schema).items()}
    ranked, together = _rank(schema, known, batch, user_columns)
    by_kind = {
        "packed": ({k: {"dtype": dtypes[k], "values": v.tolist()} for k, v in packed.items()}, packed),
        "columns": ({of_model[key]: entry for key, entry in by_column.items()}, packed),
        "raw": ({names[key]: entry for key, entry in known.items()}, batch),
        "rank": ({names[key]: entry for key, entry in ranked.items()}, together),
        **dict.fromkeys(("classify", "regress"), (known, batch)),
    }
    names = signature_names(schema, preprocessor is not None, user_columns, default)
    return {name: by_kind[kind] for name, kind in names.items()}


def _rank(
    schema: Schema, request: Request, batch: Mapping[str, np.ndarray], user_columns: Sequence[str]
) -> tuple[Request, dict[str, np.ndarray]]:
    """The first row's user alongside the candidates of all rows."""
    request = {
        name: {**entry, "values": entry["values"][:1]} if name in user_columns else entry for name, entry in request.items()
    }
    batch = {key: np.array(values) for key, values in batch.items()}
    for i, name in enumerate(schema.dense_names):
        if name in user_columns:
            batch["dense"][:, i] = batch["dense"][0, i]
    for column, start in zip(schema.categorical, schema.offsets, strict=True):
        if column.name in user_columns:
            places = slice(start, start + column.hotness)
            batch["sparse"][:, places] = batch["sparse"][0, places]
    if schema.categorical:
        fill(schema, batch["sparse"])
    return request, batch


def _request(columns: Sequence[Column], values: Mapping[str, Any]) -> Request:
    return {c.name: {"dtype": c.dtype, "values": values[c.name]} for c in columns}


def _unpacked(schema: Schema, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    columns: dict[str, Any] = {name: batch["dense"][:, i].tolist() for i, name in enumerate(schema.dense_names)}
    for column, start in zip(schema.categorical, schema.offsets, strict=True):
        ids = batch["sparse"][:, start : start + column.hotness]
        columns[column.name] = (ids if column.multi_hot else ids[:, 0]).tolist()
    if schema.weighted:
        columns[WEIGHTS] = batch["weights"].tolist()
    return columns


def _values(preprocessor: Preprocessor, column: Categorical) -> list[Any]:
    vocabulary = preprocessor.vocabularies.get(column.table_name)
    if vocabulary is None:
        if column.hashed:
            return ["7", "a text", "", "9223372036854775807", "3.0"]
        size = int(column.vocabulary_size or 1)
        return [0, size - 1, PADDING, size // 2, 0]
    known = [vocabulary.values[0], vocabulary.values[-1]] if len(vocabulary.values) else []
    if vocabulary.keys.kind == HEX:
        return [*(f"{int(key):x}" for key in known), "", "FFFFFFF1", "0"]
    return [*known, "", "no such value", "-1"]


def _transformable(values: list[Any]) -> list[Any]:
    """Values that the preprocessor takes: missing ones inside of lists are `None`."""
    return [[None if v == "" else v for v in value] if isinstance(value, list) else value for value in values]
