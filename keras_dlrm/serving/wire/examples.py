"""`tf.Example`s from JSON, and as strings for a signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dlrm.serving.wire.errors import invalid, shown
from keras_dlrm.serving.wire.json_tensors import text_bytes

_FLOAT32_MAX = 3.4028234663852886e38


def input_from_json(document: Mapping[str, Any], proto: Any) -> None:
    """Fill the empty `Input` of a `:classify` or `:regress` request; `ServingError` for a value that no feature can hold.

    The document has `examples`, a list of objects, and perhaps `context`, features that all of them share.
    """
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
        if not types:
            return
        if types <= {int, bool}:
            feature.int64_list.value.extend(map(int, values))
        elif types == {float}:
            if max(map(abs, values)) > _FLOAT32_MAX:
                raise OverflowError
            feature.float_list.value.extend(values)
        elif types <= {str, dict}:
            feature.bytes_list.value.extend([text_bytes(who, value) for value in values])
        else:
            raise invalid(
                f"{who} must be integers, decimal numbers (2.0, not 2) or strings, one kind in a list, not {shown(values)}."
            )
    except (OverflowError, ValueError) as error:
        raise invalid(f"{who} has a number that its list cannot hold.") from error


def serialized(proto: Any, max_bytes: int) -> np.ndarray:
    """The examples of an `Input`, serialized, each with the context's features where there is one: object array (B,) of bytes.

    `ServingError` where the input holds neither kind of list, or where all, each with a copy of the context, exceed `max_bytes`.
    """
    kind = proto.WhichOneof("kind")
    if kind is None:
        raise invalid("the request has no input; give an example_list or an example_list_with_context.")
    listed = getattr(proto, kind)
    strings: list[bytes] = []
    size = 0
    for example in listed.examples:
        if kind == "example_list_with_context":
            whole = type(example)()
            whole.CopyFrom(listed.context)
            # A feature of the example itself comes before the context's.
            for name, feature in example.features.feature.items():
                whole.features.feature[name].CopyFrom(feature)
            example = whole
        strings.append(example.SerializeToString())
        size += len(strings[-1])
        if size > max_bytes:
            raise invalid(f"the examples, each with the context, take more than the {max_bytes} bytes allowed.")
    array = np.empty(len(strings), object)
    array[:] = strings
    return array
