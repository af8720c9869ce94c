"""Conversion to LiteRT, where Keras runs on TensorFlow."""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dlrm.embeddings.lookup import taped
from keras_dlrm.embeddings.not_finite import is_finite
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.export.tables.taped_tables import TensorFlowTables


def convert(model: Any, path: Path, tables: str | None) -> None:
    """Write a model as LiteRT.

    Args:
        model: A click model on the TensorFlow backend.
        path: The file.
        tables: How tables are stored; their own dtype if `None`.

    Raises:
        RuntimeError: the model needs operations that LiteRT does not have.
    """
    schema = model.schema
    widths = {"dense": schema.n_dense, "sparse": schema.width, "weights": schema.width}
    signature = {
        name: tf.TensorSpec((None, widths[name]), tf.int64 if name == "sparse" else tf.float32, name=name)
        for name in schema.input_names
    }
    stored = TensorFlowTables(StoredTables(model, tables), bits=True)

    @tf.function(autograph=False)
    def serve(**inputs: Any) -> dict[str, Any]:
        with taped(stored):
            probability = model(inputs, training=False)
        if schema.weighted:
            # Once more, because LiteRT's ReLU makes 0 of NaN.
            for weights in model.embeddings.lookups(inputs)[1]:
                finite = tf.reduce_all(is_finite(weights), axis=1, keepdims=True)
                probability = tf.where(finite, probability, float("nan"))
        return {"probability": probability}

    module = tf.Module()
    module.weights = stored.weights(model)
    function = serve.get_concrete_function(**signature)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": function})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            flat = converter.convert()
        except Exception as error:  # the converter raises a class of its own that its package does not export
            named = re.search(r"(?:TF Select|Custom) ops: .*", str(error))
            reason = named[0] if named else str(error).strip().splitlines()[0]
            raise RuntimeError(
                f"litert: {model.name} does not convert to LiteRT's operations ({reason}); use kd.export.onnx or "
                "kd.export.savedmodel."
            ) from error
    path.write_bytes(flat)


def answers(path: Path, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the interpreter gives for a packed batch, (B, 1).

    Args:
        path: A LiteRT file.
        batch: A packed batch of at least one row.
    """
    with warnings.catch_warnings():
        # Of its removal, which was announced for TensorFlow 2.20 and has not come.
        warnings.filterwarnings("ignore", "(?s).*tf.lite.Interpreter is deprecated", UserWarning)
        interpreter = tf.lite.Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner("serving_default")
    return runner(**batch)["probability"]


def main(folder: str, tables: str) -> None:
    """Convert the model that is saved in `folder`."""
    import keras

    model = keras.saving.load_model(Path(folder) / "model.keras", compile=False)
    convert(model, Path(folder) / "model.tflite", tables or None)


if __name__ == "__main__":
    import keras_dlrm.models  # noqa: F401  (registers the classes that load_model needs)
    from keras_dlrm.sharding.processes import end_with_launcher

    end_with_launcher()
    main(*sys.argv[1:])
