"""Conversion of one layer through tf2onnx, where Keras runs on TensorFlow."""

import importlib
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dlrm.export.elsewhere import arguments
from keras_dlrm.export.onnx_graph.graph import OPSET


def convert_layer(layer: Any, shape: Any, specs: Sequence[Sequence[Any]]) -> Any:
    """The ModelProto of a layer's call; `shape` has places of `specs`. `NotImplementedError` for what tf2onnx does not know."""
    with warnings.catch_warnings():
        # tf2onnx 1.17 uses what NumPy 2 and Python 3.12 have deprecated.
        warnings.simplefilter("ignore")
        import tf2onnx

        signature = [tf.TensorSpec(size, dtype, name=f"x{i}") for i, (size, dtype) in enumerate(specs)]

        @tf.function(input_signature=signature, autograph=False)
        def call(*xs: Any) -> Any:
            args = keras.tree.map_structure(lambda place: xs[place], shape)
            return [tf.cast(y, tf.float32) if y.dtype.is_floating else y for y in keras.tree.flatten(layer(*args))]

        log = logging.getLogger("tf2onnx")
        level = log.level
        log.setLevel(logging.CRITICAL)
        try:
            return tf2onnx.convert.from_function(call, input_signature=signature, opset=OPSET)[0]
        except (ValueError, NotImplementedError) as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise NotImplementedError(f"layer {layer.name!r}, a {type(layer).__name__}, in which tf2onnx meets: {text}") from error
        finally:
            log.setLevel(level)


def main(name: str) -> None:
    """Convert the layer that is described in a folder."""
    import onnx

    folder = Path(name)
    modules, config, shape, specs = json.loads((folder / "layer.json").read_text())
    for module in modules:
        importlib.import_module(module)  # where classes are registered
    layer = keras.saving.deserialize_keras_object(config)
    layer(*keras.tree.map_structure(lambda place: keras.KerasTensor(*specs[place]), shape))
    with np.load(folder / "weights.npz") as saved:
        layer.set_weights([saved[f"w{i}"] for i in range(len(saved.files))])
    onnx.save(convert_layer(layer, shape, specs), folder / "layer.onnx")


if __name__ == "__main__":
    main(*arguments())
