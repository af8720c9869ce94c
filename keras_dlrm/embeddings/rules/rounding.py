"""Stochastic rounding to bfloat16."""

from typing import Any

import numpy as np
from keras import ops

from keras_dlrm.embeddings.table_rows import mix


def round_stochastically(values: Any, ids: Any, step: Any) -> Any:
    """float32 → bfloat16, up or down with probabilities in proportion to the nearness of the two neighbors.

    An update of less than half a bfloat16 step would be lost for ever by rounding to the nearest; so it is made with a
    probability. The random bits are a hash of row id, column and step: the same on every backend, and in a run that
    is resumed. Values are new rows (n, D), ids integers (n,); the step is another one at each update.

    Source: Zhang et al. 2022, "Training with Low-Precision Embedding Tables"; Gupta et al. 2015, section 3.1.
    """
    width = values.shape[1]
    row = mix(ops.bitwise_xor(ops.cast(ids, "int32"), mix(ops.cast(step, "int32"))))
    # An odd multiplier for each column; the upper half of a product depends on all bits of the row's hash.
    columns = np.random.default_rng(0).integers(-(2**30), 2**30, width, dtype=np.int32) * 2 + 1
    noise = ops.expand_dims(row, 1) * ops.convert_to_tensor(columns)
    noise = ops.bitwise_and(ops.right_shift(noise, 16), 0xFFFF)
    bits = ops.view(values, "int32")
    # The lower half of a float32 is what bfloat16 does not have. Infinity and NaN stay what they are.
    rounded = ops.view(ops.bitwise_and(bits + noise, -0x10000), "float32")
    return ops.cast(ops.where(ops.isfinite(values), rounded, values), "bfloat16")
