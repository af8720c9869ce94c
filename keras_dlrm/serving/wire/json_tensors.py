"""JSON values to arrays and back, and to `tf.Example`s, by the rules of TensorFlow Serving's REST interface.

Types are exact: an integer input takes no 1.0 and no `true`, a float input takes integers, a string input takes strings
and `{"b64": "…"}`. It also takes numbers and booleans, which TensorFlow Serving refuses, and makes the texts of them that
stand for these values in a raw column (`data.normal_form`). Errors name the place of a list that is ragged or too deep.
"""

import base64
import binascii
import contextlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.data.kernels import normal_form
from keras_dlrm.serving.wire.errors import ServingError, invalid, shown
from keras_dlrm.serving.wire.tensors import DTYPES, INFLATION, Signature, Tensor, dtype_name, fits, shape_text

_ALLOWED: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool},
                                  "O": {str, dict, bool, int, float}}  # fmt: skip
_JSON_NAMES = {int: "an integer", float: "a decimal number", bool: "true or false", str: "a string", list: "a list",
               dict: "an object", type(None): "null"}  # fmt: skip
_URL_SAFE = str.maketrans("-_", "+/")
_FLOAT32_MAX = 3.4028234663852886e38


def array_from_json(tensor: Tensor, value: Any, missing: Any = None, most: int | None = None) -> np.ndarray:
    """A nested list of JSON as an array of the input's dtype, whose shape fits the input's.

    `missing` stands for the missing value of a named column: for null, for `"NaN"` among numbers, and behind lists that are shorter
    than others or than the column's hotness; `most` is how many values an array may have where lists are filled up.
    `ServingError` for a value of another type, ragged lists, another shape, or a number out of range.

    Example:

    >>> array_from_json(Tensor("ids", 9, (-1, 2), "ids:0"), [[1, 2], [3, 4]]).tolist()
    [[1, 2], [3, 4]]
    """
    if tensor.dtype not in DTYPES:
        raise invalid(f"input {tensor.text} is of a dtype that JSON requests cannot fill.")
    dtype = DTYPES[tensor.dtype].numpy
    if missing is not None and type(value) is list:
        value = _filled_up(tensor, value, missing, most)
    level: list[Any] = [value]
    shape: list[int] = []
    while level and type(level[0]) is list:
        shape.append(_common_length(tensor, level, len(shape)))
        level = list(itertools.chain.from_iterable(level))
    if not level:  # an empty list says nothing about the dimensions below it: they are the declared ones
        shape += [max(size, 0) for size in (tensor.shape or ())[len(shape) :]]
    if not fits(tuple(shape), tensor.shape):
        text = f"{shape_text(tuple(shape))}; it must be {shape_text(tensor.shape)}, the first dimension being the rows."
        raise invalid(f"input {tensor.name!r} has shape {text}")
    return _leaves(tensor, level, dtype, missing).reshape(shape)


def _filled_up(tensor: Tensor, rows: list[Any], missing: Any, most: int | None) -> list[Any]:
    """Lists of one length, the declared one or the longest; `null` is a list without values."""
    if tensor.shape is None or len(tensor.shape) != 2 or not set(map(type, rows)) <= {list, type(None)}:
        return rows
    lengths = {0 if row is None else len(row) for row in rows}
    width = tensor.shape[1] if tensor.shape[1] >= 0 else max(lengths, default=0)
    if lengths <= {width} and None not in rows:
        return rows
    if most is not None and len(rows) * width > most:
        raise invalid(f"input {tensor.name!r}: {len(rows)} lists of {width} values are more than the {most} values allowed.")
    if max(lengths) > width:
        allowed = f"{shape_text(tensor.shape)}: {width} at most"
        raise invalid(f"input {tensor.name!r} has a list of {max(lengths)} values; it must be {allowed}.")
    return [[*(row or ()), *[missing] * (width - len(row or ()))] for row in rows]


def _common_length(tensor: Tensor, level: Sequence[Any], depth: int) -> int:
    if set(map(type, level)) != {list}:
        odd = next(item for item in level if type(item) is not list)
        text = f"{shown(odd)} stands where a list does; it must be {shape_text(tensor.shape)}."
        raise invalid(f"input {tensor.name!r} mixes lists and values: {text}")
    sizes = set(map(len, level))
    if len(sizes) > 1:
        where = f"stand side by side at level {depth + 1}; it must be {shape_text(tensor.shape)}"
        raise invalid(f"input {tensor.name!r} is ragged: lists of {min(sizes)} and of {max(sizes)} values {where}.")
    return sizes.pop()


def _leaves(tensor: Tensor, values: Sequence[Any], dtype: np.dtype, missing: Any) -> np.ndarray:
    types = set(map(type, values))
    if missing is not None and (not types <= _ALLOWED[dtype.kind] or (dtype.kind == "O" and float in types)):
        values = [missing if value is None or value != value else value for value in values]
        if dtype.kind == "f":
            values = [_number(value, missing) for value in values]
        types = set(map(type, values))
    odd_types = types - _ALLOWED[dtype.kind]
    if odd_types:
        odd = next(value for value in values if type(value) in odd_types)
        kind = _JSON_NAMES.get(type(odd), type(odd).__name__)
        raise invalid(f"input {tensor.name!r} has {kind}, {shown(odd)}; it must be {dtype_name(tensor.dtype)}.")
    if dtype.kind == "O":
        flat = np.empty(len(values), object)
        flat[:] = [_value_bytes(f"input {tensor.name!r}", value) for value in values]
        return flat
    too_large = invalid(f"input {tensor.name!r} has a number that {dtype_name(tensor.dtype)} cannot hold.")
    try:
        with np.errstate(over="ignore"):
            flat = np.array(values, dtype)
    except OverflowError as error:
        raise too_large from error
    if dtype.kind != "f":
        return flat
    if np.isinf(flat).any():
        raise too_large
    absent = np.isnan(flat)
    if absent.any():
        if missing is None:
            raise invalid(f"input {tensor.name!r} has NaN where a number must be (NaN and Infinity are no JSON).")
        flat[absent] = missing
    return flat


def _number(value: Any, missing: float) -> Any:
    """A value of a column of numbers: true and false are 1 and 0, as in files."""
    if type(value) is str and value.lower() == "nan":
        return missing
    return float(value) if type(value) is bool else value


def _value_bytes(who: str, value: Any) -> bytes:
    if type(value) in (str, dict):
        return text_bytes(who, value)
    if type(value) is float and value.is_integer() and abs(value) >= 2.0**63:
        raise invalid(f"{who} has {shown(value)}, which may have lost digits on its way; send so large a number as a string.")
    text = normal_form.text(value)
    if text is None:
        raise invalid(f"{who} has {shown(value)} where a text must be.")
    return text.encode()


def text_bytes(who: str, value: Any) -> bytes:
    """A JSON string as UTF-8, or the bytes of `{"b64": "…"}`; `ServingError` for another object, or what is not base64.

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


def inputs_from_json(document: Mapping[str, Any], signature: Signature, max_bytes: int) -> tuple[dict[str, np.ndarray], bool]:
    """The inputs of a `:predict` request by name, and whether it was in rows; `ServingError` where they do not fit."""
    for key in document:
        if key not in ("signature_name", "instances", "inputs"):
            raise invalid(f"unknown key {str(key)[:60]!r} in the request; it has 'instances' or 'inputs'.")
    if ("instances" in document) == ("inputs" in document):
        raise invalid("the request needs one of 'instances' (rows) and 'inputs' (columns), and not both.")
    if "instances" in document:
        return _from_rows(document["instances"], signature, max_bytes), True
    return _from_columns(document["inputs"], signature, max_bytes), False


def _from_rows(rows: Any, signature: Signature, max_bytes: int) -> dict[str, np.ndarray]:
    if type(rows) is not list:
        raise invalid(f"'instances' must be a list of rows, not {_JSON_NAMES.get(type(rows), 'that')}.")
    named = [_is_named(row) for row in rows]
    if len(set(named)) > 1:
        raise invalid("'instances' mixes rows with named inputs and rows without.")
    if rows and not named[0]:
        return _without_name(rows, signature, "instances", max_bytes)
    names = signature.inputs.keys()
    numbers = {name: None for name in _numbers(signature)}
    for i, row in enumerate(rows):
        if row.keys() != names:
            try:
                signature.check_names({**numbers, **row})
            except ServingError as error:
                raise invalid(f"row {i} of 'instances': {error}") from error
    most = _most_values(len(rows), signature, max_bytes)
    return {
        name: array_from_json(tensor, [row.get(name) for row in rows], signature.missing.get(name), most)
        for name, tensor in signature.inputs.items()
    }


def _from_columns(columns: Any, signature: Signature, max_bytes: int) -> dict[str, np.ndarray]:
    if not _is_named(columns):
        return _without_name(columns, signature, "inputs", max_bytes)
    absent = [name for name in _numbers(signature) if columns.get(name) is None]
    signature.check_names({**dict.fromkeys(absent), **columns})
    rows = max((len(value) for value in columns.values() if type(value) is list), default=0)
    most = _most_values(rows, signature, max_bytes)
    arrays = {}
    for name, tensor in signature.inputs.items():
        value = columns.get(name)
        if name in absent:
            size = (tensor.shape or (-1,))[0]
            value = [None] * (rows if size < 0 else size)
        arrays[name] = array_from_json(tensor, value, signature.missing.get(name), most)
    return arrays


def _without_name(values: Any, signature: Signature, key: str, max_bytes: int) -> dict[str, np.ndarray]:
    if len(signature.inputs) != 1:
        what = "each row must be" if key == "instances" else "it must be"
        what = f"{what} an object of {', '.join(t.text for t in signature.inputs.values())}"
        count = f"{signature.name!r} has {len(signature.inputs)}"
        raise invalid(f"'{key}' without names fits a signature of one input, but {count}: {what}.")
    (tensor,) = signature.inputs.values()
    most = INFLATION * max_bytes // 8
    return {tensor.name: array_from_json(tensor, values, signature.missing.get(tensor.name), most)}


def _numbers(signature: Signature) -> list[str]:
    """Columns of numbers, which a request may leave out: they are missing then, as an absent feature of a tf.Example is."""
    return [name for name, missing in signature.missing.items() if type(missing) is float]


def _most_values(rows: int, signature: Signature, max_bytes: int) -> int:
    """Number of values that each input may have where what a request leaves out is filled up."""
    most = INFLATION * max_bytes // 8 // max(1, len(signature.inputs))
    if rows > most:
        raise invalid(f"{rows} rows of {len(signature.inputs)} inputs are too many for one request; send at most {most}.")
    return most


def _is_named(value: Any) -> bool:
    return type(value) is dict and not (value.keys() == {"b64"} and type(value["b64"]) is str)


def outputs_to_json(outputs: Mapping[str, np.ndarray], rows: bool) -> dict[str, Any]:
    """The answer of a `:predict` request: `predictions` in rows, or `outputs` in columns.

    A signature of one output gives its values without a name. Strings travel as text, those of an output whose name
    ends in `_bytes`, or that are no UTF-8, as `{"b64": "…"}`. `ServingError` for rows of outputs that have no common ones.

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
    return {"predictions": [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]}


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
    with contextlib.suppress(UnicodeDecodeError):
        if not as_bytes:
            return value.decode()
    return {"b64": base64.b64encode(value).decode()}


def input_from_json(document: Mapping[str, Any], proto: Any) -> None:
    """Fill the empty `Input` of a `:classify` or `:regress` request; `ServingError` for a value that no feature can hold."""
    for key in document:
        if key not in ("signature_name", "examples", "context"):
            raise invalid(f"unknown key {str(key)[:60]!r} in the request; it has 'examples' and perhaps 'context'.")
    examples = document.get("examples")
    if type(examples) is not list:
        raise invalid("the request needs 'examples', a list of objects.")
    if "context" in document:
        target = proto.example_list_with_context
        _fill_example("'context'", document["context"], target.context)
    else:
        target = proto.example_list
        target.SetInParent()
    for i, example in enumerate(examples):
        _fill_example(f"example {i}", example, target.examples.add())


def _fill_example(who: str, value: Any, example: Any) -> None:
    if type(value) is not dict:
        raise invalid(f"{who} must be an object of features, not {shown(value)}.")
    for name, content in value.items():
        values = content if type(content) is list else [content]
        _fill_feature(f"{who}: feature {name[:60]!r}", values, example.features.feature[name])


def _fill_feature(who: str, values: list[Any], feature: Any) -> None:
    types = set(map(type, values))
    try:
        if types <= {int, bool} and types:
            feature.int64_list.value.extend(map(int, values))
        elif types == {float}:
            if max(map(abs, values)) > _FLOAT32_MAX:
                raise OverflowError
            feature.float_list.value.extend(values)
        elif types <= {str, dict}:
            feature.bytes_list.value.extend([text_bytes(who, value) for value in values])
        else:
            kinds = "integers, decimal numbers (2.0, not 2) or strings, one kind in a list"
            raise invalid(f"{who} must be {kinds}, not {shown(values)}.")
    except (OverflowError, ValueError) as error:
        raise invalid(f"{who} has a number that its list cannot hold.") from error
