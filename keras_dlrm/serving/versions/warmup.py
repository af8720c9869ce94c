"""Warm-up requests of a version, replayed before it is served."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from keras_dlrm.files.inventory import check_version
from keras_dlrm.serving.versions import operations
from keras_dlrm.serving.versions.features import missing_values, schema_of
from keras_dlrm.serving.versions.saved_model import WARMUP, SavedModel, warmup_records
from keras_dlrm.serving.versions.version import Version
from keras_dlrm.serving.wire.errors import ServingError, invalid

log = logging.getLogger("keras_dlrm.serving")
# As TensorFlow Serving has it.
MAX_RECORDS = 1000
_MAX_BYTES = 2**31


def load_and_warm_up(version: Version, threads: int = 0) -> SavedModel:
    """Load a version, ready to serve, and replay the requests in `assets.extra/tf_serving_warmup_requests`.

    Where `assets.extra/manifest.json` lists the version's files with their checksums they are all read and compared first,
    which takes a second for each gigabyte or so. Other versions are loaded as TensorFlow Serving does it.

    The first row of each signature's first request becomes `version.examples`, which the page starts from. `ServingError` where
    it cannot be loaded, a file is damaged, or the model refuses one of its own warm-up requests.
    """
    try:
        check_version(version.path)
    except (ValueError, OSError) as error:
        raise ServingError("DATA_LOSS", f"{version.path} is not as it was published: {str(error).rstrip('.')}.") from error
    model = SavedModel(version.path, threads)
    try:
        version.schema = schema_of(version)
        for signature in model.signatures.values():
            signature.missing = missing_values(signature, version.schema)
        if not model.signatures:
            raise invalid(f"{version.path} has no signature; there is nothing to serve.")
        start, count = time.perf_counter(), 0
        for record in warmup_records(version.path):
            if count == MAX_RECORDS:
                raise invalid(f"{version.path / WARMUP} has more than {MAX_RECORDS} requests.")
            try:
                entry = prediction_log_pb2.PredictionLog.FromString(record)
            except DecodeError as error:
                raise _broken(version, count, "it is no PredictionLog") from error
            try:
                _replay(version, model, entry)
            except ServingError as error:
                raise _broken(version, count, str(error).rstrip(".")) from error
            count += 1
        if count:
            log.info("%s: %d warm-up requests in %.2f s", version.path, count, time.perf_counter() - start)
    except BaseException:
        model.close()
        raise
    return model


def _broken(version: Version, index: int, why: str) -> ServingError:
    return invalid(f"warm-up request {index} of {version.path} fails: {why}.")


def _replay(version: Version, model: SavedModel, entry: Any) -> None:
    kind = entry.WhichOneof("log_type")
    if kind not in ("predict_log", "classify_log", "regress_log"):
        raise ServingError("UNIMPLEMENTED", f"a warm-up request of kind {kind} cannot be replayed")
    request = getattr(entry, kind).request
    name = request.model_spec.signature_name or "serving_default"
    if name not in model.signatures:
        raise invalid(f"the model has no signature {name!r}")
    signature = model.signatures[name]
    if kind == "predict_log":
        arrays = operations.arrays_from_proto(request.inputs, signature, _MAX_BYTES)
        operations.run(model, signature, arrays)
        if name not in version.examples and all(array.ndim and len(array) for array in arrays.values()):
            version.examples[name] = {key: np.array(array[:1]) for key, array in arrays.items()}
    elif kind == "classify_log":
        operations.classify(model, signature, request.input, _MAX_BYTES)
    else:
        operations.regress(model, signature, request.input, _MAX_BYTES)
