"""JSON values ↔ arrays, by the rules of TensorFlow Serving's REST interface, and a little stricter.

Types are exact: an integer input takes no 1.0 and no `true`, a float input takes integers, a string input takes strings
and `{"b64": "…"}`. It also takes numbers and booleans, which TensorFlow Serving refuses, and makes the texts of them that
stand for these values in a raw column (`data.normal_form`). Lists that are ragged or nested too deep are named with the
place where they are.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.data import normal_form
from keras_dlrm.serving.errors import ServingError, invalid, shown
from keras_dlrm.serving.signature import Signature, Tensor, fits
from keras_dlrm.serving.tensors import DTYPES, dtype_name, shape_text

_ALLOWED: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool},
                                  "O": {str, dict, bool, int, float}}  # fmt: skip
_JSON_NAMES = {int: "an integer", float: "a decimal number", bool: "true or false", str: "a string", list: "a list",
               dict: "an object", type(None): "null"}  # fmt: skip


def array_from_json(tensor: Tensor, value: Any) -> np.ndarray:
    """A nested list as an array.

    Args:
        tensor: The input.
        value: What JSON has for it.

    Returns:
        An array of the input's dtype whose shape fits the input's.

    Raises:
        ServingError: another type, ragged lists, another shape, or a number out of range.

    Example:

    >>> array_from_json(Tensor("ids", 9, (-1, 2), "ids:0"), [[1, 2], [3, 4]]).tolist()
    [[1, 2], [3, 4]]
    """
    if tensor.dtype not in DTYPES:
        raise invalid(f"input {tensor.text} is of a dtype that JSON requests cannot fill.")
    dtype = DTYPES[tensor.dtype].numpy
    level: list[Any] = [value]
    shape: list[int] = []
    while level and type(level[0]) is list:
        shape.append(_common_length(tensor, level, len(shape)))
        level = list(itertools.chain.from_iterable(level))
    if not level:  # an empty list says nothing about the dimensions below it: they are the declared ones
        shape += [max(size, 0) for size in (tensor.shape or ())[len(shape) :]]
    if not fits(tuple(shape), tensor.shape):
        raise invalid(
            f"input {tensor.name!r} has shape {shape_text(tuple(shape))}; it must be {shape_text(tensor.shape)}, the "
            "first dimension being the rows."
        )
    return _leaves(tensor, level, dtype).reshape(shape)


def _common_length(tensor: Tensor, level: Sequence[Any], depth: int) -> int:
    if set(map(type, level)) != {list}:
        odd = next(item for item in level if type(item) is not list)
        raise invalid(
            f"input {tensor.name!r} mixes lists and values: {shown(odd)} stands where a list does; "
            f"it must be {shape_text(tensor.shape)}."
        )
    sizes = set(map(len, level))
    if len(sizes) > 1:
        raise invalid(
            f"input {tensor.name!r} is ragged: lists of {min(sizes)} and of {max(sizes)} values stand side by side at "
            f"level {depth + 1}; it must be {shape_text(tensor.shape)}."
        )
    return sizes.pop()


def _leaves(tensor: Tensor, values: Sequence[Any], dtype: np.dtype) -> np.ndarray:
    types = set(map(type, values))
    odd_types = types - _ALLOWED[dtype.kind]
    if odd_types:
        odd = next(value for value in values if type(value) in odd_types)
        raise invalid(
            f"input {tensor.name!r} has {_JSON_NAMES.get(type(odd), type(odd).__name__)}, {shown(odd)}; it must be "
            f"{dtype_name(tensor.dtype)}."
        )
    if dtype.kind == "O":
        flat = np.empty(len(values), object)
        flat[:] = [_value_bytes(f"input {tensor.name!r}", value) for value in values]
        return flat
    try:
        with np.errstate(over="ignore"):
            flat = np.array(values, dtype)
    except OverflowError as error:
        raise invalid(f"input {tensor.name!r} has a number that {dtype_name(tensor.dtype)} cannot hold.") from error
    if dtype.kind == "f" and not np.isfinite(flat).all():
        raise invalid(f"input {tensor.name!r} has a number that {dtype_name(tensor.dtype)} cannot hold.")
    return flat


def _value_bytes(who: str, value: Any) -> bytes:
    if type(value) in (str, dict):
        return text_bytes(who, value)
    if type(value) is float and value.is_integer() and abs(value) >= 2.0**63:
        raise invalid(f"{who} has {shown(value)}, which may have lost digits on its way; send so large a number as a string.")
    return str(normal_form.text(value)).encode()


def text_bytes(who: str, value: Any) -> bytes:
    """A JSON string as UTF-8, or the bytes of `{"b64": "…"}`.

    Raises:
        ServingError: another object, or text that is not base64.

    Example:

    >>> text_bytes("x", "Å"), text_bytes("x", {"b64": "AAE="})
    (b'\\xc3\\x85', b'\\x00\\x01')
    """
    if type(value) is str:
        return value.encode()
    if type(value) is not dict or value.keys() != {"b64"} or type(value["b64"]) is not str:
        raise invalid(f'{who}: an object must be {{"b64": "…"}}, not {shown(value)}.')
    try:
        return base64.b64decode(value["b64"].translate(_URL_SAFE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{who}: {shown(value['b64'])} is not base64.") from error


_URL_SAFE = str.maketrans("-_", "+/")


def inputs_from_json(document: Mapping[str, Any], signature: Signature) -> tuple[dict[str, np.ndarray], bool]:
    """The inputs of a `:predict` request.

    Args:
        document: The request: `instances` (a list of rows) or `inputs` (whole columns).
        signature: What it is for.

    Returns:
        Arrays by input, and whether the request was in rows.

    Raises:
        ServingError: the request does not fit the signature.
    """
    for key in document:
        if key not in ("signature_name", "instances", "inputs"):
            raise invalid(f"unknown key {str(key)[:60]!r} in the request; it has 'instances' or 'inputs'.")
    if ("instances" in document) == ("inputs" in document):
        raise invalid("the request needs one of 'instances' (rows) and 'inputs' (columns), and not both.")
    if "instances" in document:
        return _from_rows(document["instances"], signature), True
    return _from_columns(document["inputs"], signature), False


def _from_rows(rows: Any, signature: Signature) -> dict[str, np.ndarray]:
    if type(rows) is not list:
        raise invalid(f"'instances' must be a list of rows, not {_JSON_NAMES.get(type(rows), 'that')}.")
    named = [_is_named(row) for row in rows]
    if len(set(named)) > 1:
        raise invalid("'instances' mixes rows with named inputs and rows without.")
    if rows and not named[0]:
        tensor = _only_input(signature, "instances")
        return {tensor.name: array_from_json(tensor, rows)}
    names = signature.inputs.keys()
    for i, row in enumerate(rows):
        if row.keys() != names:
            try:
                signature.check_names(row)
            except ServingError as error:
                raise invalid(f"row {i} of 'instances': {error}") from error
    return {name: array_from_json(tensor, [row[name] for row in rows]) for name, tensor in signature.inputs.items()}


def _from_columns(columns: Any, signature: Signature) -> dict[str, np.ndarray]:
    if not _is_named(columns):
        tensor = _only_input(signature, "inputs")
        return {tensor.name: array_from_json(tensor, columns)}
    signature.check_names(columns)
    return {name: array_from_json(tensor, columns[name]) for name, tensor in signature.inputs.items()}


def _is_named(value: Any) -> bool:
    return type(value) is dict and not (value.keys() == {"b64"} and type(value["b64"]) is str)


def _only_input(signature: Signature, key: str) -> Tensor:
    if len(signature.inputs) != 1:
        what = "each row must be" if key == "instances" else "it must be"
        raise invalid(
            f"'{key}' without names fits a signature of one input, but {signature.name!r} has "
            f"{len(signature.inputs)}: {what} an object of {', '.join(t.text for t in signature.inputs.values())}."
        )
    return next(iter(signature.inputs.values()))


def outputs_to_json(outputs: Mapping[str, np.ndarray], rows: bool) -> dict[str, Any]:
    """The answer of a `:predict` request: `predictions` in rows, or `outputs` in columns.

    A signature of one output gives its values without a name. Strings travel as text, those of an output whose name
    ends in `_bytes`, or that are no UTF-8, as `{"b64": "…"}`.

    Args:
        outputs: Arrays by output.
        rows: Whether the request was in rows.

    Raises:
        ServingError: outputs with different numbers of rows, where rows were asked for.

    Example:

    >>> outputs_to_json({"p": np.array([[0.5], [0.25]])}, rows=True)["predictions"].tolist()
    [[0.5], [0.25]]
    """
    plain = {name: _plain(name, array) for name, array in outputs.items()}
    if not rows:
        return {"outputs": next(iter(plain.values())) if len(plain) == 1 else plain}
    counts = {array.shape[0] if array.ndim else None for array in outputs.values()}
    if len(counts) > 1 or None in counts:
        sizes = ", ".join(f"{name!r} {shape_text(array.shape)}" for name, array in outputs.items())
        raise invalid(f"the outputs have no common rows ({sizes}); ask with 'inputs' instead of 'instances'.")
    if len(plain) == 1:
        return {"predictions": next(iter(plain.values()))}
    names = list(plain)
    return {"predictions": [dict(zip(names, row, strict=True)) for row in zip(*plain.values(), strict=True)]}


def _plain(name: str, array: np.ndarray) -> Any:
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array) if array.ndim else array.item()
    as_bytes = name.endswith("_bytes")
    flat = np.empty(array.size, object)
    flat[:] = [_text(value, as_bytes) for value in array.ravel()]
    return flat.reshape(array.shape).tolist()


def _text(value: bytes, as_bytes: bool) -> Any:
    if not as_bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(value).decode()}
