"""Features behind a signature's inputs: the page's fields, and what an explanation removes."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_dlrm.export.signatures import model_columns
from keras_dlrm.schema.columns import PADDING
from keras_dlrm.schema.schema import Schema
from keras_dlrm.schema.time_parts import sources
from keras_dlrm.schema.vectors import vectors
from keras_dlrm.serving.wire.errors import invalid
from keras_dlrm.serving.wire.tensors import DTYPES, Signature, Tensor, shape_text

log = logging.getLogger("keras_dlrm.serving")
_KINDS = {"f": "number", "i": "id", "u": "id", "b": "flag", "O": "text"}
# What may stand for a missing value, the first that the model gives a finite answer for. -1 is padding: no id at all.
_MISSING: dict[str, tuple[Any, ...]] = {"number": (np.nan, 0.0), "id": (-1, 0), "flag": (False,), "text": (b"",)}


@dataclass(frozen=True)
class Feature:
    """One feature: some columns of one input."""

    name: str  # from the schema, or the input's name, with the column where it has several
    input: str
    kind: str  # "number", "id", "flag" or "text"
    start: int | None  # first of its columns; `None` where the input has none, being (B,)
    stop: int | None  # behind its last column; `None` for all that there are
    missing: tuple[Any, ...]  # what may stand for a missing value, in order of preference
    vocabulary_size: int | None = None  # where the schema says
    weight: bool = False  # whether it is a factor of another feature's ids, and no feature of its own

    def take_away(self, array: np.ndarray, row: int, missing: Any) -> None:
        """Write the missing value over this feature, in one row of its input."""
        if self.start is None:
            array[row] = missing
        else:
            array[row, self.start : self.stop] = missing

    def values(self, array: np.ndarray) -> list[Any]:
        """Its values in the first row of its input, as JSON has them."""
        values = np.atleast_1d(array[0] if self.start is None else array[0, self.start : self.stop])
        if values.dtype.kind == "f":  # 0.1, not 0.10000000149011612
            return [float(str(value)) for value in values]
        return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values.tolist()]

    def described(self, example: np.ndarray | None) -> dict[str, Any]:
        """Everything that a form field of the page needs; `example` is its input in a warm-up request, (1, …), to start from."""
        width = None if self.start is not None and self.stop is None else (self.stop or 1) - (self.start or 0)
        entry = {
            "name": self.name, "input": self.input, "kind": self.kind, "width": width, "flat": self.start is None,
            "start": self.start or 0, "vocabulary_size": self.vocabulary_size, "weight": self.weight,
        }  # fmt: skip
        return entry if example is None else {**entry, "example": self.values(example)}


def features_of(signature: Signature, schema: Schema | None) -> list[Feature]:
    """The features of a signature whose inputs are one row each: (B,) or (B, k).

    With the schema of the model, `dense`, `sparse` and `weights` of the widths that it says are taken apart into its columns, and
    its named columns are features. Any other input is a feature, or one per column. `ServingError` for an input of another shape,
    as in a signature that sets one user against many items.
    """
    if signature.method != "predict":
        raise invalid(f"signature {signature.name!r} takes tf.Examples, not named features.")
    features: list[Feature] = []
    for tensor in signature.inputs.values():
        shape = tensor.shape
        if shape is None or len(shape) not in (1, 2) or shape[0] >= 0 or tensor.dtype not in DTYPES:
            text = f"input {tensor.name!r} {shape_text(shape)} has no rows of features; its shape must be (?,) or (?, k)."
            raise invalid(f"signature {signature.name!r}: {text}")
        features += _of_schema(tensor, schema) if schema is not None else _of_tensor(tensor)
    return features


def _of_tensor(tensor: Tensor, missing: tuple[Any, ...] = ()) -> Iterator[Feature]:
    kind = _KINDS[DTYPES[tensor.dtype].numpy.kind]
    missing = missing or _MISSING[kind]
    shape = tensor.shape or ()
    if len(shape) == 1:
        yield Feature(tensor.name, tensor.name, kind, None, None, missing)
    elif shape[1] < 0 or kind == "text" or shape[1] == 1:
        yield Feature(tensor.name, tensor.name, kind, 0, shape[1] if shape[1] >= 0 else None, missing)
    else:
        for i in range(shape[1]):
            yield Feature(f"{tensor.name}[{i}]", tensor.name, kind, i, i + 1, missing)


def _of_schema(tensor: Tensor, schema: Schema) -> Iterator[Feature]:
    kind = _KINDS[DTYPES[tensor.dtype].numpy.kind]
    widths = {"dense": schema.n_dense, "sparse": schema.width, "weights": schema.width if schema.weighted else 0}
    shape, dense = tensor.shape or (), {column.name: column for column in schema.dense}
    sparse = {column.name: column for column in schema.categorical}
    packed = len(shape) == 2 and shape[1] == widths.get(tensor.name)
    if packed and tensor.name == "dense" and kind == "number":
        for i, column in enumerate(schema.dense):
            yield Feature(column.name, "dense", kind, i, i + 1, (column.missing,))
    elif packed and (tensor.name, kind) in (("sparse", "id"), ("weights", "number")):
        weight = tensor.name == "weights"
        for entry, start in zip(schema.categorical, schema.offsets, strict=True):
            name = f"weights of {entry.name}" if weight else entry.name
            size = None if weight or entry.hashed else entry.vocabulary_size
            yield Feature(name, tensor.name, kind, start, start + entry.hotness, (1.0,) if weight else (-1,), size, weight)
    elif tensor.name in sparse:  # by its own name: one feature, however wide
        flat = len(shape) == 1
        width = None if flat or shape[1] < 0 else shape[1]
        size = None if kind != "id" or sparse[tensor.name].hashed else sparse[tensor.name].vocabulary_size
        yield Feature(tensor.name, tensor.name, kind, None if flat else 0, width, _MISSING[kind], size)
    else:
        raw = tensor.name in dense and kind == "number"
        yield from _of_tensor(tensor, (np.nan, dense[tensor.name].missing) if raw else ())


def missing_values(signature: Signature, schema: Schema | None) -> dict[str, Any]:
    """Missing value of each input of a signature that is a named column of the schema."""
    if schema is None or signature.inputs.keys() <= {"dense", "sparse", "weights"}:
        return {}
    names = {column.input: column.name for column in model_columns(schema)}
    dense = {column.name: float(column.missing) for column in schema.dense}
    missing: dict[str, Any] = {}
    for tensor in signature.inputs.values():
        name, kind = names.get(tensor.name), _KINDS[DTYPES[tensor.dtype].numpy.kind] if tensor.dtype in DTYPES else ""
        if name in dense and kind == "number":
            # Raw values, float64, are missing before the transform; model inputs, float32, after it.
            missing[tensor.name] = float("nan") if DTYPES[tensor.dtype].numpy == np.float64 else dense[name]
        elif name in schema.categorical_names and kind in ("id", "text"):
            missing[tensor.name] = PADDING if kind == "id" else ""
        elif tensor.name in sources(schema) and kind == "text":
            missing[tensor.name] = ""
        elif tensor.name in vectors(schema) and kind == "number":
            missing[tensor.name] = float("nan")
    return missing


def schema_of(folder: Path) -> Schema | None:
    """The schema in `assets.extra/schema.json` of a version's folder, `None` where there is none that can be read."""
    path = folder / "assets.extra" / "schema.json"
    if not path.is_file():
        return None
    try:
        return Schema.load(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return None
