"""REST calls (status, metadata, predict, classify, regress, explain) as functions from body to answer."""

import json
import re
from typing import Any

import orjson
from google.protobuf import json_format
from tensorflow_serving.apis import input_pb2

from keras_dlrm.serving.interactions import explain
from keras_dlrm.serving.service import Service, Target
from keras_dlrm.serving.versions import operations
from keras_dlrm.serving.wire.errors import invalid
from keras_dlrm.serving.wire.json_tensors import input_from_json, inputs_from_json, outputs_to_json

_MODEL = r"([^/:]+)(?:/versions/(\d{1,19})|/labels/([^/:]+))?"
_POST = re.compile(rf"/v1/models/{_MODEL}:(predict|classify|regress|explain)")
_GET = re.compile(rf"/v1/models/{_MODEL}(/metadata)?")


def answer_post(service: Service, path: str, body: bytes) -> bytes:
    """The answer to `POST /v1/models/NAME[/versions/V|/labels/L]:METHOD`; `ServingError` for whatever is wrong with it."""
    address = _POST.fullmatch(path)
    if not address:
        form = "/v1/models/NAME[/versions/V or /labels/L]:predict, :classify or :regress"
        raise invalid(f"malformed address {path[:80]!r}; it must be {form}.")
    method = address[4]
    with service.metrics.measure("rest", method) as measured:
        document = parse(body)
        name = document.get("signature_name", "")
        if type(name) is not str:
            raise invalid("'signature_name' must be a string.")
        with service.call(_target(address), name, measured) as call:
            model, signature = call.version.model, call.signature
            if method == "predict":
                arrays, rows = inputs_from_json(document, signature, service.max_bytes)
                answer: dict[str, Any] = outputs_to_json(operations.run(model, signature, arrays), rows)
                service.unseen.note(call.version, arrays)
            elif method == "explain":
                answer = explain(call.version, signature, document, service.max_bytes)
            else:
                proto = input_pb2.Input()
                input_from_json(document, proto)
                if method == "classify":
                    results = operations.classify(model, signature, proto, service.max_bytes)
                    answer = {"results": [[[label.decode(errors="replace"), score] for label, score in row] for row in results]}
                else:
                    answer = {"results": operations.regress(model, signature, proto, service.max_bytes)}
        return dump(answer)


def answer_get(service: Service, path: str) -> bytes:
    """The answer to `GET /v1/models/NAME[/versions/V|/labels/L][/metadata]`; `ServingError` for whatever is wrong with it."""
    address = _GET.fullmatch(path)
    if not address:
        form = "/v1/models/NAME[/versions/V or /labels/L][/metadata]; predictions are asked for with POST"
        raise invalid(f"malformed address {path[:80]!r}; it must be {form}.")
    with service.metrics.measure("rest", "metadata" if address[4] else "status"):
        if not address[4]:
            return dump(_plain(service.status(_target(address))))
        response, signatures = service.metadata(_target(address))
        return dump({"model_spec": _plain(response.model_spec), "metadata": {"signature_def": _plain(signatures)}})


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object; `ServingError` where it is none, no JSON at all, or has a key twice.

    NaN, which is no JSON but what many programs write, is read, and refused where a value must be there; Infinity is refused.

    Example:

    >>> parse(b'{"signature_name": "raw", "signature_name": "packed"}')
    Traceback (most recent call last):
      ...
    keras_dlrm.serving.wire.errors.ServingError: the request has the key 'signature_name' twice in one object; ...
    """
    if not body.strip():
        raise invalid("the request has no body; it needs a JSON object.")
    try:
        document = orjson.loads(body)
    except (orjson.JSONDecodeError, RecursionError) as error:
        if b"NaN" not in body and b"Infinity" not in body:
            raise invalid(f"the request is not JSON: {str(error)[:150]}.") from error
        document = _parse_pairs(body)
    if type(document) is not dict:
        raise invalid(f"the request must be a JSON object, not {type(document).__name__}.")
    # Where there are as many colons as keys no key is there twice; else they may be in texts, which takes a closer look.
    if body.count(b":") != _count_keys(document):
        _parse_pairs(body)
    return document


def _count_keys(document: dict[str, Any]) -> int:
    """Keys of the objects that a request usually has; never more than there are."""
    count = len(document)
    for value in document.values():
        if type(value) is dict:
            count += len(value)
        elif type(value) is list:
            count += sum(len(row) for row in value if type(row) is dict)
    return count


def _parse_pairs(body: bytes) -> Any:
    """JSON, perhaps with NaN, by Python's parser, which shows keys that are there twice."""
    try:
        document = json.loads(body, object_pairs_hook=_object, parse_constant=_constant)
        if b"\\u" in body:
            json.dumps(document, ensure_ascii=False).encode()  # half of a surrogate pair is not a text
        return document
    except (ValueError, RecursionError) as error:
        raise invalid(f"the request is not JSON: {str(error)[:150]}.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid(f"the request has the key {twice[:60]!r} twice in one object; a key stands for one value.")
    return document


def _constant(name: str) -> float:
    if name != "NaN":
        raise ValueError(f"{name} stands where a number must (NaN and Infinity are no JSON)")
    return float("nan")


def dump(answer: Any) -> bytes:
    """JSON of plain values and arrays."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _target(address: re.Match[str]) -> Target:
    return Target(address[1], None if address[2] is None else int(address[2]), address[3])


def _plain(proto: Any) -> Any:
    return json_format.MessageToDict(proto, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
