"""Loading and running of a SavedModel, in a session of its own."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.config_pb2 import CallableOptions

from keras_dlrm.backend.private_tensorflow import callable_of
from keras_dlrm.files.paths import plain_path
from keras_dlrm.serving.versions.updates import Updates
from keras_dlrm.serving.wire.errors import ServingError, invalid, without_paths
from keras_dlrm.serving.wire.tensors import Signature

WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"
# Errors of a run that its inputs are to blame for.
_FAULT_OF_INPUT = (
    tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError, tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError, tf.errors.UnimplementedError,
)  # fmt: skip


class SavedModel:
    """The SavedModel in a folder, and its signatures by name; runs may overlap. `ServingError` if it is none."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        if not (path / "saved_model.pb").is_file():
            raise ServingError("NOT_FOUND", f"{path} has no saved_model.pb: not a SavedModel, or not all of one yet.")
        options = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads, device_count={"GPU": 0}
        )
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=options)
        try:
            with graph.as_default():
                plain = str(plain_path(path, "*?[]{}\\"))  # TensorFlow would see a pattern.
                meta = tf.compat.v1.saved_model.loader.load(self._session, [tf.saved_model.SERVING], plain)
        except (tf.errors.OpError, OSError, RuntimeError, ValueError, KeyError, DecodeError) as error:
            self._session.close()
            code = "NOT_FOUND" if isinstance(error, tf.errors.NotFoundError) else "INVALID_ARGUMENT"
            raise ServingError(code, f"{path} cannot be loaded: {_sentence(error)}") from error
        # TensorFlow keeps a signature of its own for initialization; it is no one's to call.
        names = [name for name in meta.signature_def if not name.startswith("__saved_model")]
        self.signatures = {name: Signature(name, meta.signature_def[name]) for name in sorted(names)}
        self._calls = {name: self._call_of(signature) for name, signature in self.signatures.items()}
        self.updates = Updates(self._session, graph, meta)

    def _call_of(self, signature: Signature) -> Callable[..., list[np.ndarray]]:
        """The signature as a call that takes its inputs in order."""
        feeds, fetches = ([t.graph_name for t in ts.values()] for ts in (signature.inputs, signature.outputs))
        try:
            return callable_of(self._session, CallableOptions(feed=feeds, fetch=fetches))
        except tf.errors.OpError as error:
            self._session.close()
            raise invalid(f"signature {signature.name!r} does not fit its graph: {_sentence(error)}") from error

    def run(self, name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a signature for checked inputs; `ServingError` where TensorFlow refuses them."""
        signature = self.signatures[name]
        try:
            outputs = self._calls[name](*(arrays[key] for key in signature.inputs))
        except _FAULT_OF_INPUT as error:
            raise invalid(f"signature {name!r} refuses the request: {without_paths(_sentence(error))}") from error
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise ServingError("RESOURCE_EXHAUSTED", f"signature {name!r} ran out of memory.") from error
        # One string comes as bytes, of which NumPy would make an array of characters.
        return {
            key: np.array(value, object) if isinstance(value, bytes) else np.asarray(value)
            for key, value in zip(signature.outputs, outputs, strict=True)
        }

    def close(self) -> None:
        """Give the memory back; nothing runs after it."""
        self._calls = {}
        self._session.close()


def warmup_records(path: Path) -> Iterator[bytes]:
    """Serialized `PredictionLog` records of a version's folder, none without a warm-up file; `ServingError` if damaged."""
    file = path / WARMUP
    if not file.is_file():
        return
    try:
        for record in tf.data.TFRecordDataset(str(file)):
            yield record.numpy()
    except tf.errors.OpError as error:
        raise invalid(f"{file} is damaged: {_sentence(error)}") from error


def _sentence(error: BaseException) -> str:
    """The first line of TensorFlow's message, without the node's name and its traceback."""
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    line = next((line.strip() for line in message.splitlines() if line.strip()), type(error).__name__)
    return line.split(" [[")[0][:300].rstrip(".") + "."
