"""Writing and checking a SavedModel; runs where Keras runs on TensorFlow, in a process of its own if need be."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


def write_and_check(model: Any, path: Path, batch: Mapping[str, np.ndarray], expected: np.ndarray) -> None:
    """Write the SavedModel, load it again and compare.

    Args:
        model: A click model on the TensorFlow backend.
        path: Folder to write.
        batch: A packed batch.
        expected: p(click) of the batch, (B, 1).

    Raises:
        RuntimeError: the loaded model differs from `expected` by more than 1e-5, or 0.02 in half precision, which each
            backend rounds in its own way.
    """
    schema = model.schema
    widths = {"dense": schema.n_dense, "sparse": schema.width, "weights": schema.width}
    signature = {
        name: tf.TensorSpec((None, widths[name]), tf.int64 if name == "sparse" else tf.float32, name=name)
        for name in schema.input_names
    }

    @tf.function(input_signature=[signature], autograph=False)
    def serve(inputs: Any) -> dict[str, Any]:
        return {"probability": model(inputs, training=False)}

    # A module that holds the weights alone: Keras's own export would store each of them twice (keras #23553).
    module = tf.Module()
    module.weights = [v.value for v in model.weights]
    module.serve = serve
    keywords = tf.function(lambda **inputs: serve(inputs), autograph=False)
    tf.saved_model.save(module, str(path), signatures={"serving_default": keywords.get_concrete_function(**signature)})
    loaded = tf.saved_model.load(str(path)).signatures["serving_default"]
    got = loaded(**{name: tf.constant(batch[name], signature[name].dtype) for name in signature})["probability"]
    difference = float(np.max(np.abs(got.numpy() - expected), initial=0.0))
    allowed = 1e-5 if model.compute_dtype == "float32" else 0.02
    if got.shape != expected.shape or not difference <= allowed:
        raise RuntimeError(
            f"savedmodel: the written model differs from the live one by {difference}; at most {allowed} is allowed."
        )


def main(folder: str, path: str) -> None:
    """Rebuild the model saved in `folder` and write it to `path`."""
    import keras

    model = keras.saving.load_model(Path(folder) / "model.keras", compile=False)
    with np.load(Path(folder) / "expected.npz") as saved:
        batch = {name: saved[name] for name in saved.files if name != "expected"}
        write_and_check(model, Path(path), batch, saved["expected"])


if __name__ == "__main__":
    import keras_dlrm.models  # noqa: F401  (registers the classes that load_model needs)

    main(*sys.argv[1:])
