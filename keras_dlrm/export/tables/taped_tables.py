"""Quantized tables inside a TensorFlow graph: only the gathered rows are converted to float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dlrm.export.tables.quantized import quantize
from keras_dlrm.export.tables.stored_tables import CHUNK, StoredStack, StoredTables


class TensorFlowTables:
    """A tape (see `keras_dlrm.embeddings.lookup.taped`) that looks rows up in stored tables instead of the model's.

    Trace a function with it and the model's own code runs on them; save the function with `weights(model)`, in which they
    have the place of the model's tables:

        tables = TensorFlowTables(StoredTables(model, "int8"))

        @tf.function(input_signature=…)
        def serve(inputs):
            with taped(tables):
                return model(inputs, training=False)

        module = tf.Module()
        module.weights = tables.weights(model)

    Args:
        stored: Tables of a model on the TensorFlow backend. Those in the model's own dtype that are not pruned are used
            where they are, without a copy.
        bits: Whether bfloat16 is stored as int16 of the same bits, for TensorFlow Lite, which does not gather bfloat16.
    """

    #: Frozen tables, too.
    every_table = True

    def __init__(self, stored: StoredTables, bits: bool = False) -> None:
        self._stacks = {id(stack.variable): stack for stack in stored.stacks}
        self.arrays = {key: _arrays(stack, bits) for key, stack in self._stacks.items()}

    def weights(self, model: Any) -> list[Any]:
        """The `tf.Variable`s that a function traced with this tape reads: the model's, but for tables that are replaced."""
        own = [v.value for v in model.weights if id(v) not in self.arrays]
        return [*own, *(array for found in self.arrays.values() for array in found.values())]

    def lookup(self, table: Any, ids: Any) -> Any:
        """Rows, float32 (*ids.shape, D); -1 gives zeros."""
        stack = self._stacks[id(table)]
        return stored_rows(self.arrays[id(table)], stack.kind, stack.stack.width, ids)


def stored_rows(arrays: Mapping[str, Any], kind: str, width: int, ids: Any) -> Any:
    """Rows of a stored table, float32 (*ids.shape, D); -1 gives zeros.

    Args:
        arrays: Stored arrays by name: `quantized.layout`, and maybe `"map"` from rows to kept ones.
        kind: One of `quantized.KINDS`.
        width: D.
        ids: Rows of the whole table.
    """
    real = ids >= 0
    places = tf.maximum(ids, 0)
    if "map" in arrays:
        places = tf.gather(arrays["map"], places)
        real = tf.logical_and(real, places >= 0)
        places = tf.maximum(places, 0)
    gathered = {name: tf.gather(array, places) for name, array in arrays.items() if name != "map"}
    rows = gathered["codes"]
    if kind == "int4":
        # Not a shift and a mask: TensorFlow Lite has neither for uint8.
        pair = tf.cast(rows, tf.int32)
        high = pair // 16
        rows = tf.concat([pair - 16 * high, high], axis=-1)[..., :width]
    rows = _float32(rows)
    if "scale" in gathered:
        rows *= _float32(gathered["scale"])
    if "offset" in gathered:
        rows += _float32(gathered["offset"])
    return tf.where(real[..., tf.newaxis], rows, tf.zeros_like(rows))


def _float32(x: Any) -> Any:
    if x.dtype == tf.int16:  # the upper half of a float32
        return tf.bitcast(tf.cast(x, tf.int32) * 65536, tf.float32)
    return tf.cast(x, tf.float32)


def _in_bits(array: np.ndarray, bits: bool) -> np.ndarray:
    return array.view(np.int16) if bits and array.dtype.name == "bfloat16" else array


def _arrays(stack: StoredStack, bits: bool) -> dict[str, Any]:
    """The variables that hold a stack's kept rows, filled part by part."""
    variable = stack.variable.value
    if stack.pruned is None and variable.dtype.name == stack.kind and not (bits and stack.kind == "bfloat16"):
        return {"codes": variable}
    kept = stack.stack.rows if stack.pruned is None else stack.stack.rows - int(stack.pruned.sum())
    variables = {}
    for name, (dtype, columns) in stack.layout.items():
        zeros = tf.zeros((kept, columns), tf.as_dtype(_in_bits(np.zeros(1, dtype), bits).dtype))
        variables[name] = tf.Variable(zeros, trainable=False, name=f"{stack.name}_{name}")
    done = 0
    for rows in stack.kept_rows(CHUNK):
        for name, array in quantize(rows, stack.kind).arrays.items():
            variables[name][done : done + len(array)].assign(_in_bits(array, bits))
        done += len(rows)
    if stack.pruned is not None:
        variables["map"] = tf.Variable(stack.row_map().astype(np.int32), trainable=False, name=f"{stack.name}_map")
    return variables
