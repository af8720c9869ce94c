"""Warm-up requests for stock TensorFlow Serving."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "tf_serving_warmup_requests"
_METHODS = ("classify", "regress")


def can_write() -> bool:
    """Whether tensorflow-serving-api, which has the records' messages, is installed."""
    return importlib.util.find_spec("tensorflow_serving") is not None


def write(path: Path, requests: Mapping[str, Any]) -> int:
    """Write `assets.extra/tf_serving_warmup_requests` of a SavedModel, one record for each request of `check.check`."""
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    from keras_dlrm.export.saved_model.check import examples, feed

    with tf.io.TFRecordWriter(str(path / "assets.extra" / FILE)) as writer:
        for name, entry in requests.items():
            log = PredictionLog()
            # TensorFlow Serving fills in the model's name.
            if entry["examples"]:
                kind = name if name in _METHODS else "predict"
                request = getattr(log, f"{kind}_log").request
                for message in examples(entry["inputs"]).numpy():
                    request.input.example_list.examples.append(tf.train.Example.FromString(message))
            else:
                request = log.predict_log.request
                for key, value in feed(entry).items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            request.model_spec.signature_name = name
            writer.write(log.SerializeToString())
    return len(requests)
