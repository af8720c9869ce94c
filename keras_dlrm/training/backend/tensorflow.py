"""The sparse train step for TensorFlow."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_dlrm.embeddings.lookup import LookupTape, is_table, taped


class SparseStep:
    """`train_step` and `test_step` of a `SparseTraining` model: gradients of looked-up rows instead of whole tables."""

    def train_step(self: Any, data: Any) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

        def leaf(index: int, rows: Any) -> Any:
            gradient_tape.watch(rows)
            return rows

        with tf.GradientTape() as gradient_tape:
            with taped(LookupTape(leaf)) as tape:
                loss, y_pred = self.loss_and_prediction(x, y, sample_weight, training=True)
        if not self.optimizer.built:  # A subclassed model has its variables only now.
            self.optimizer.build(self.trainable_variables)
        dense = [v for v in self.trainable_variables if not is_table(v)]
        rows = [lookup.rows for lookup in tape.lookups]
        grads, row_grads = gradient_tape.gradient(loss, [[v.value for v in dense], rows])
        self.optimizer.apply_rows(grads, dense, tape.lookups, row_grads)
        return self.update_metrics(x, y, y_pred, sample_weight, loss)

    def test_step(self: Any, data: Any) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        loss, y_pred = self.loss_and_prediction(x, y, sample_weight, training=False)
        return self.update_metrics(x, y, y_pred, sample_weight, loss)
