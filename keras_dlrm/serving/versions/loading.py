"""Loading of a version: check of its files, deltas, replay of its warm-up requests."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from keras_dlrm.files.deltas import Delta, chain, state_in
from keras_dlrm.files.inventory import check_version
from keras_dlrm.serving.versions import operations
from keras_dlrm.serving.versions.features import missing_values, schema_of
from keras_dlrm.serving.versions.saved_model import WARMUP, SavedModel, warmup_records
from keras_dlrm.serving.versions.version import Version
from keras_dlrm.serving.wire.errors import ServingError, invalid
from keras_dlrm.serving.wire.tensors import DEFAULT

log = logging.getLogger("keras_dlrm.serving")
# Warm-up requests, and bytes of each, as TensorFlow Serving has it.
MAX_RECORDS = 1000
_MAX_BYTES = 2**31


def load_and_warm_up(version: Version, threads: int = 0) -> SavedModel:
    """Load a version, ready to serve, and replay the requests in `assets.extra/tf_serving_warmup_requests`.

    Where `assets.extra/manifest.json` lists the version's files with their checksums they are all read and compared first,
    which takes a second for each gigabyte or so. Other versions are loaded as TensorFlow Serving does it.

    Of a delta the version that it builds on is loaded, and changed before the warm-up; `version.path` is that version's then.

    The first row of each signature's first request becomes `version.examples`, which the page starts from. `ServingError` where
    it cannot be loaded, a file is damaged, or the model refuses one of its own warm-up requests.
    """
    with published(version.path):
        version.path, *changes = chain(version.path)
        manifest = check_version(version.path)
        deltas = [Delta(path) for path in changes]
    version.stamp = deltas[-1].state if deltas else None if manifest is None else state_in(manifest)
    model = SavedModel(version.path, threads)
    try:
        for delta in deltas:
            model.updates.prepared(delta)()
        version.schema = schema_of(version.path)
        for signature in model.signatures.values():
            signature.missing = missing_values(signature, version.schema)
        if not model.signatures:
            raise invalid(f"{version.path} has no signature; there is nothing to serve.")
        start, count = time.perf_counter(), 0
        for count, record in enumerate(warmup_records(version.path), 1):
            if count > MAX_RECORDS:
                raise invalid(f"{version.path / WARMUP} has more than {MAX_RECORDS} requests.")
            try:
                _replay(version, model, prediction_log_pb2.PredictionLog.FromString(record))
            except (DecodeError, ServingError) as error:
                why = "it is no PredictionLog" if isinstance(error, DecodeError) else str(error).rstrip(".")
                raise invalid(f"warm-up request {count - 1} of {version.path} fails: {why}.") from error
        if count:
            log.info("%s: %d warm-up requests in %.2f s", version.path, count, time.perf_counter() - start)
    except BaseException:
        model.close()
        raise
    return model


@contextmanager
def published(path: Path) -> Iterator[None]:
    """Turn what is wrong with the files of a version or a delta into a `ServingError`."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ServingError("DATA_LOSS", f"{path} is not as it was published: {str(error).rstrip('.')}.") from error


def _replay(version: Version, model: SavedModel, entry: Any) -> None:
    kind = entry.WhichOneof("log_type")
    if kind not in ("predict_log", "classify_log", "regress_log"):
        raise ServingError("UNIMPLEMENTED", f"a warm-up request of kind {kind} cannot be replayed")
    request = getattr(entry, kind).request
    name = request.model_spec.signature_name or DEFAULT
    if name not in model.signatures:
        raise invalid(f"the model has no signature {name!r}")
    signature = model.signatures[name]
    if kind == "predict_log":
        arrays = operations.arrays_from_proto(request.inputs, signature, _MAX_BYTES)
        operations.run(model, signature, arrays)
        if name not in version.examples and all(array.ndim and len(array) for array in arrays.values()):
            version.examples[name] = {key: np.array(array[:1]) for key, array in arrays.items()}
    else:
        answer = operations.classify if kind == "classify_log" else operations.regress
        answer(model, signature, request.input, _MAX_BYTES)
