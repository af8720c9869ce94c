"""Answers apart from their transport: version of a request, status, signatures."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from keras_dlrm.serving.limits import Budget, Limits
from keras_dlrm.serving.metrics import Measured, Metrics
from keras_dlrm.serving.versions.known_values import UnseenValues
from keras_dlrm.serving.versions.served_model import ServedModel
from keras_dlrm.serving.versions.version import Version
from keras_dlrm.serving.wire.errors import ServingError, invalid
from keras_dlrm.serving.wire.tensors import Signature

STATES = {"START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50}
CODES = {
    "OK": 0, "INVALID_ARGUMENT": 3, "NOT_FOUND": 5, "RESOURCE_EXHAUSTED": 8, "UNIMPLEMENTED": 12, "INTERNAL": 13,
    "UNAVAILABLE": 14,
}  # fmt: skip


class Target(NamedTuple):
    """A model that a request names, and perhaps a version or a label."""

    model: str
    number: int | None = None
    label: str | None = None


class Call(NamedTuple):
    """A request that found its version and signature."""

    version: Version
    signature: Signature


class Service:
    """The models that are served, by name; `max_bytes` bounds a request, `budget` the bytes of all that are in flight."""

    def __init__(self, max_bytes: int, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self.max_bytes, self.limits = max_bytes, limits
        self.budget = Budget(max(limits.bytes_in_flight, max_bytes))
        self.models: dict[str, ServedModel] = {}
        self.unseen = UnseenValues()
        self.metrics = Metrics(lambda: self.models.values(), self.unseen.sums)

    def model(self, name: str) -> ServedModel:
        """A model by name; `ServingError` where it is not served."""
        if not name:
            raise invalid("the request names no model.")
        if name not in self.models:
            names = ", ".join(map(repr, sorted(self.models))) or "none"
            raise ServingError("NOT_FOUND", f"model {name[:60]!r} is not served here; there are: {names}.")
        return self.models[name]

    @contextmanager
    def call(self, target: Target, signature_name: str, measured: Measured) -> Iterator[Call]:
        """The version and signature that a request means, kept loaded until the block ends; `measured` gets their names.

        `ServingError` where there is none of that name; an empty one is that of `serving_default`.
        """
        model = self.model(target.model)
        measured.model = model.config.name
        with model.lease(target.number, target.label) as version:
            signature = version.signature(signature_name)
            measured.signature = signature.name
            yield Call(version, signature)

    @property
    def ready(self) -> bool:
        """Whether every model has a version that answers."""
        models = list(self.models.values())
        return bool(models) and all(model.available for model in models)

    def status(self, target: Target) -> Any:
        """A `GetModelStatusResponse`; `ServingError` where there is no such model, version or label."""
        model = self.model(target.model)
        number = target.number
        if target.label is not None:
            with model.lease(label=target.label) as version:
                number = version.number
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in model.statuses(number):
            entry = response.model_version_status.add(version=version.number, state=STATES[version.state])
            code, message = ("OK", "") if version.error is None else (version.error.code, version.error.message)
            entry.status.error_code = CODES.get(code, 2)
            entry.status.error_message = message
        return response

    def metadata(self, target: Target) -> tuple[Any, Any]:
        """A `GetModelMetadataResponse` and the `SignatureDefMap` that it packs; `ServingError` where there is no such version."""
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self.model(target.model).lease(target.number, target.label) as version:
            response.model_spec.name = target.model
            response.model_spec.version.value = version.number
            for name, signature in version.model.signatures.items():
                signatures.signature_def[name].CopyFrom(signature.proto)
        response.metadata["signature_def"].Pack(signatures)
        return response, signatures
