"""The floor: only the matrix products of a training step, forward and backward, in TensorFlow."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import tensorflow as tf
from contest import arguments, serve
from workload import read

options = arguments()

shape, _, _, label = read(options.folder)
dtype = tf.float32 if options.dtype == "float32" else tf.bfloat16
layers = [
    tuple(tf.cast(tf.random.normal(s), dtype) for s in ((options.batch, n), (n, m), (options.batch, m)))
    for n, m in shape.products
]


@tf.function
def step() -> tf.Tensor:
    kept = tf.constant(0.0)
    for i, (x, kernel, gradient) in enumerate(layers):
        products = [tf.matmul(x, kernel), tf.matmul(x, gradient, transpose_a=True)]
        if i:  # Nobody needs the gradient of the input.
            products.append(tf.matmul(gradient, kernel, transpose_b=True))
        for product in products:
            kept += tf.cast(product[0, 0], tf.float32)  # or TensorFlow would leave the product out
    return kept


def many() -> int:
    steps = len(label) // options.batch
    for _ in range(steps):
        step()
    return steps


many()
serve(many)
