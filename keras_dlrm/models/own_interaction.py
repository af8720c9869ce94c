"""Checks of an interaction layer of the user's own: its output, and whether a loaded model has the same layer."""

import math
import re
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.backend.private_keras import layers_in

# Rows of the batches that the layer is tried with, so that an output of fixed rows, or of the batch's own size, is seen.
_ROWS = (2, 3)


def width_of(layer: keras.layers.Layer, shape: tuple[int, int], dtype: str) -> int:
    """n of a layer's output (B, n), or m · k of (B, m, k), for vectors (B, 1 + F, D); builds the layer.

    Args:
        layer: The layer.
        shape: (1 + F, D).
        dtype: Of the vectors.

    Raises:
        ValueError: it fails, has another output, or its configuration does not give the same layer again.
    """
    who = f"DLRM: interaction {type(layer).__name__} {layer.name!r}"
    shapes = [(rows, *shape) for rows in _ROWS]
    vectors = [ops.cast(np.random.default_rng(0).normal(size=each), dtype) for each in shapes]
    try:
        outputs = [layer(each, training=False) for each in vectors]
    except Exception as error:
        raise ValueError(f"{who} fails for vectors (B, {shape[0]}, {shape[1]}): {_said(error)}") from error
    for rows, output in zip(_ROWS, outputs, strict=True):
        got = tuple(getattr(output, "shape", ())) or type(output).__name__
        fits = isinstance(got, tuple) and len(got) in (2, 3) and got[0] == rows
        if not fits or math.prod(got[1:]) < 1 or got[1:] != tuple(outputs[0].shape)[1:]:
            allowed = "(B, n) or (B, m, k) with n, m and k of at least 1, one row for each of the batch"
            raise ValueError(f"{who} maps vectors ({rows}, {shape[0]}, {shape[1]}) to {got}; it must give {allowed}.")
        if not keras.backend.is_float_dtype(kind := keras.backend.standardize_dtype(output.dtype)):
            raise ValueError(f"{who} gives {kind}, through which nothing learns; it must give floating-point numbers: cast them.")
    _check_saves(who, layer, vectors[1], outputs[1])
    return math.prod(map(int, outputs[0].shape[1:]))


def configuration(layer: keras.layers.Layer) -> dict[str, Any]:
    """A layer's configuration, of which a loaded model makes it again."""
    made: dict[str, Any] = keras.saving.serialize_keras_object(layer)
    made.pop("build_config", None)  # layers within it are built by a call alone
    return made


def _check_saves(who: str, layer: keras.layers.Layer, vectors: Any, output: Any) -> None:
    """`ValueError` where the layer that its configuration makes is not this one."""
    fix = "no saved model could be loaded. Give its class a get_config with all arguments of its __init__, and **kwargs for Keras's"
    # A class that is not registered, and a lambda, can be given when the model is loaded.
    known = {type(each).__name__: type(each) for each in layers_in(layer)}
    try:
        restored = keras.saving.deserialize_keras_object(configuration(layer), known, safe_mode=False)
        restored(vectors, training=False)  # builds it
        weights = layer.get_weights()
        if [w.shape for w in restored.get_weights()] != [w.shape for w in weights]:
            raise ValueError("its weights have other shapes then")
        restored.set_weights(weights)
        outputs = [ops.cast(each, "float32") for each in (output, restored(vectors, training=False))]
        output, again = map(ops.convert_to_numpy, outputs)
        if output.shape != again.shape or not np.allclose(output, again, rtol=1e-2, atol=1e-3, equal_nan=True):
            raise ValueError("it gives other outputs then")
    except Exception as error:
        raise ValueError(f"{who} cannot be made again from its configuration ({_said(error)}); {fix}.") from error


def _said(error: Exception) -> str:
    """First sentence of an error; of one that Keras surrounds with all that a layer was called with, the error itself."""
    inner = re.search(r"\x1b\[1m(.*?)\x1b\[0m", str(error), re.DOTALL)
    lines = (inner.group(1) if inner else str(error)).strip().splitlines()
    return lines[0].partition(". ")[0].rstrip(".")[:300] if lines else type(error).__name__
