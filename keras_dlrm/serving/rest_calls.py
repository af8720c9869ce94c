"""REST requests as functions: an address and a body in, the bytes of the answer out. They run in the pool's threads."""

from __future__ import annotations

import re
from typing import Any

import orjson
from google.protobuf import json_format
from tensorflow_serving.apis import input_pb2

from keras_dlrm.serving import operations
from keras_dlrm.serving.errors import ServingError, invalid
from keras_dlrm.serving.examples import input_from_json
from keras_dlrm.serving.interactions import explain
from keras_dlrm.serving.json_tensors import inputs_from_json, outputs_to_json
from keras_dlrm.serving.service import Service, Target

_MODEL = r"([^/:]+)(?:/versions/(\d{1,19})|/labels/([^/:]+))?"
_POST = re.compile(rf"/v1/models/{_MODEL}:(predict|classify|regress|explain)")
_GET = re.compile(rf"/v1/models/{_MODEL}(/metadata)?")


def answer_post(service: Service, path: str, body: bytes) -> bytes:
    """The answer to `POST /v1/models/NAME[/versions/V|/labels/L]:METHOD`.

    Args:
        service: What answers.
        path: Of the address.
        body: JSON.

    Raises:
        ServingError: whatever is wrong with it.
    """
    found = _POST.fullmatch(path)
    if not found:
        raise invalid(
            f"malformed address {path[:80]!r}; it must be /v1/models/NAME[/versions/V or /labels/L]:predict, :classify "
            "or :regress."
        )
    method = found[4]
    with service.metrics.measure("rest", method) as measured:
        document = parse(body)
        name = document.get("signature_name", "")
        if type(name) is not str:
            raise invalid("'signature_name' must be a string.")
        with service.call(_target(found), name, measured) as call:
            model, signature = call.version.model, call.signature
            if method == "predict":
                arrays, rows = inputs_from_json(document, signature)
                signature.check(arrays)
                answer: dict[str, Any] = outputs_to_json(operations.run(model, signature, arrays), rows)
            elif method == "explain":
                answer = explain(call.version, signature, document)
            else:
                proto = input_pb2.Input()
                input_from_json(document, proto)
                if method == "classify":
                    results = operations.classify(model, signature, proto)
                    answer = {"results": [[[_text(label), score] for label, score in row] for row in results]}
                else:
                    answer = {"results": operations.regress(model, signature, proto)}
        return dump(answer)


def answer_get(service: Service, path: str) -> bytes:
    """The answer to `GET /v1/models/NAME[/versions/V|/labels/L][/metadata]`.

    Args:
        service: What answers.
        path: Of the address.

    Raises:
        ServingError: whatever is wrong with it.
    """
    found = _GET.fullmatch(path)
    if not found:
        raise invalid(
            f"malformed address {path[:80]!r}; it must be /v1/models/NAME[/versions/V or /labels/L][/metadata]; "
            "predictions are asked for with POST."
        )
    with service.metrics.measure("rest", "metadata" if found[4] else "status"):
        if not found[4]:
            return dump(_plain(service.status(_target(found))))
        response, signatures = service.metadata(_target(found))
        spec = _plain(response.model_spec)
        return dump({"model_spec": spec, "metadata": {"signature_def": _plain(signatures)}})


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ServingError: it is none, or no JSON at all; NaN and Infinity are no JSON.

    Example:

    >>> parse(b'{"instances": [[NaN]]}')
    Traceback (most recent call last):
      ...
    keras_dlrm.serving.errors.ServingError: the request is not JSON: ...
    """
    if not body.strip():
        raise invalid("the request has no body; it needs a JSON object.")
    try:
        document = orjson.loads(body)
    except (orjson.JSONDecodeError, RecursionError) as error:
        hint = " (NaN and Infinity are no JSON)" if b"NaN" in body or b"Infinity" in body else ""
        raise invalid(f"the request is not JSON: {str(error)[:150]}{hint}.") from error
    if type(document) is not dict:
        raise invalid(f"the request must be a JSON object, not {type(document).__name__}.")
    return document


def dump(answer: Any) -> bytes:
    """JSON of plain values and arrays."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def error_body(error: ServingError) -> bytes:
    """`{"error": "…"}`."""
    return dump({"error": error.message})


def _target(found: re.Match[str]) -> Target:
    return Target(found[1], None if found[2] is None else int(found[2]), found[3])


def _plain(proto: Any) -> Any:
    return json_format.MessageToDict(proto, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _text(label: bytes) -> str:
    return label.decode(errors="replace")
