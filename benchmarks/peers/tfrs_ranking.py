"""TensorFlow Recommenders' Ranking model as a DLRM through `model.fit`, as the library means it to be put together.

TPUEmbedding (on a CPU it looks up there), DotInteraction, and CompositeOptimizer with the rule's optimizer for the tables
and SGD for the dense part. PartialTPUEmbedding, `skip_gather` and ten steps per execution were tried and are no faster.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow as tf  # noqa: E402
import tensorflow_recommenders as tfrs  # noqa: E402
from contest import arguments, serve  # noqa: E402
from workload import read  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--rule", default="adagrad")
rule = parser.parse_known_args()[0].rule
options = arguments()

shape, dense, sparse, label = read(options.folder)
steps = len(label) // options.batch
if options.dtype != "float32":
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")

legacy = tf.keras.optimizers.legacy
rules = {"sgd": lambda: legacy.SGD(0.1), "adagrad": lambda: legacy.Adagrad(0.01), "adam": lambda: legacy.Adam(0.001)}
embedding_optimizer = rules[rule]()


def feature(column: int, rows: int) -> tf.tpu.experimental.embedding.FeatureConfig:
    """A feature of its own table."""
    initializer = tf.initializers.RandomUniform(-(rows**-0.5), rows**-0.5)
    table = tf.tpu.experimental.embedding.TableConfig(rows, shape.dim, initializer, combiner="sum", name=f"C{column}")
    return tf.tpu.experimental.embedding.FeatureConfig(table)


features = {f"C{i}": feature(i, rows) for i, rows in enumerate(shape.rows)}
model = tfrs.experimental.models.Ranking(
    tfrs.layers.embedding.TPUEmbedding(features, embedding_optimizer),
    tfrs.layers.blocks.MLP(list(shape.bottom), final_activation="relu"),
    tfrs.layers.feature_interaction.DotInteraction(),
    # In mixed precision the probabilities, and with them the loss, have to stay in float32.
    tf.keras.Sequential(
        [tfrs.layers.blocks.MLP(list(shape.top)), tf.keras.layers.Activation("sigmoid", dtype="float32")]
    ),
    task=tfrs.tasks.Ranking(tf.keras.losses.BinaryCrossentropy(reduction="none")),
)
model.compile(
    tfrs.experimental.optimizers.CompositeOptimizer(
        [
            (embedding_optimizer, lambda: model.embedding_trainable_variables),
            (legacy.SGD(0.1), lambda: model.dense_trainable_variables),
        ]
    )
)
columns = [tf.constant(array[:]) for array in (dense, sparse, label)]


def batch(step: tf.Tensor) -> tuple[dict[str, object], tf.Tensor]:
    """Slices of arrays in memory, which is much faster than joining single rows."""
    x, ids, y = (column[step * options.batch : (step + 1) * options.batch] for column in columns)
    sparse_features = dict(zip(features, tf.unstack(ids, num=len(features), axis=1), strict=True))
    return {"dense_features": x, "sparse_features": sparse_features}, y


dataset = tf.data.Dataset.range(steps).map(batch).prefetch(2)


def one_epoch() -> int:
    model.fit(dataset, epochs=1, verbose=0)
    return steps


one_epoch()
serve(one_epoch)
