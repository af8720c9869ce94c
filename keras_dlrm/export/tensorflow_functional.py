"""Writer of a functional model's SavedModel, where Keras runs on TensorFlow."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_dlrm.export.elsewhere import beside, import_modules
from keras_dlrm.export.functional import input_names, output_names


def write(model: Any, path: Path) -> None:
    """Write a model with one signature, of its own inputs and outputs by name.

    Args:
        model: A functional model.
        path: The SavedModel's folder, which must not exist.
    """
    names, outputs = input_names(model), output_names(model)
    specs = {}
    for name, tensor in zip(names, model.inputs, strict=True):
        integer = "int" in keras.backend.standardize_dtype(tensor.dtype)
        specs[name] = tf.TensorSpec([None, *tensor.shape[1:]], tf.int64 if integer else tf.float32, name=name)
    # A module that holds the weights alone: Keras's own export would store each of them twice (keras #23553).
    module = tf.Module()
    module.weights = [v.value for v in model.weights]

    def serve(**inputs: Any) -> dict[str, Any]:
        found = model(keras.tree.pack_sequence_as(model.input, [inputs[name] for name in names]), training=False)
        return dict(zip(outputs, keras.tree.flatten(found), strict=True))

    signature = tf.function(serve, autograph=False).get_concrete_function(**specs)
    tf.saved_model.save(module, str(path), signatures={"serving_default": signature})
    (path / "assets.extra").mkdir()


def main(folder: str, path: str) -> None:
    """Do the job of a folder."""
    import_modules(json.loads((Path(folder) / "job.json").read_text(encoding="utf-8"))["modules"])
    write(keras.saving.load_model(Path(folder) / "model.keras", compile=False), beside(Path(path)))


if __name__ == "__main__":
    main(*sys.argv[1:])
