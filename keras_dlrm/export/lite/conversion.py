"""Conversion to LiteRT, where Keras runs on TensorFlow."""

import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dlrm.embeddings.lookup import taped
from keras_dlrm.embeddings.not_finite import is_finite
from keras_dlrm.export.elsewhere import arguments
from keras_dlrm.export.signatures import packed_inputs
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.export.tables.taped_tables import TensorFlowTables


def convert(model: Any, path: Path, tables: str | None) -> None:
    """Write a click model on the TensorFlow backend as LiteRT; `RuntimeError` where it needs operations that LiteRT lacks."""
    schema = model.schema
    signature = {name: tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in packed_inputs(schema).items()}
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
            fix = "use kd.export.onnx or kd.export.savedmodel."
            raise RuntimeError(f"litert: {model.name} does not convert to LiteRT's operations ({reason}); {fix}") from error
    path.write_bytes(flat)


def answers(path: Path, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """Answer of the interpreter, (B, 1), for a packed batch of at least one row."""
    with warnings.catch_warnings():
        # Of its removal, which was announced for TensorFlow 2.20 and has not come.
        warnings.filterwarnings("ignore", "(?s).*tf.lite.Interpreter is deprecated", UserWarning)
        interpreter = tf.lite.Interpreter(model_path=str(path))
    return interpreter.get_signature_runner("serving_default")(**batch)["probability"]


def main(folder: str, tables: str) -> None:
    """Convert the model that is saved in `folder`."""
    model = keras.saving.load_model(Path(folder) / "model.keras", compile=False)
    convert(model, Path(folder) / "model.tflite", tables or None)


if __name__ == "__main__":
    main(*arguments())
