"""Logistic regression: a weight for each value of each column, the baseline of every model here."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_dlrm.embeddings.options import EmbeddingOptions
from keras_dlrm.layers.dense_encoding import encoded_columns
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import number


@keras.saving.register_keras_serializable("keras_dlrm")
class LogisticRegression(ClickModel):
    """logit = bias + Σ weights of the row's ids + Σ weight · dense feature.

    A dense column with a piecewise-linear `encoding` adds such a function of its value.

    Args:
        schema: A fitted `Schema`.
        kernel_l2: L2 factor of the dense features' weights; rows have that of their optimizer.
        embedding_options: Further arguments of `EmbeddingCollection`, whose tables have width 1, or a number for each label.
        seed: Seed of the initial weights of encodings; all others begin at 0.

    Source: McMahan et al. 2013, "Ad Click Prediction: a View from the Trenches".

    Example:

    >>> schema = kd.Schema(dense=["I1"], categorical=[kd.Categorical("C1", 10)])
    >>> LogisticRegression(schema).count_params()
    12
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], kernel_l2: float = 0.0, embedding_options: Mapping[str, Any] | None = None,
        seed: int | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(schema, seed, **kwargs)
        self.kernel_l2 = number("LogisticRegression", "kernel_l2", kernel_l2)
        tables = EmbeddingOptions(self.n_labels, 0.0, 0.0, embedding_options, who="LogisticRegression")
        self.embeddings = tables.layer(self.schema, self.seed, dtype=self.dtype_policy)
        if self.embeddings is not None:
            self.embeddings.build((None, self.schema.width))
        # Of a zero where there is no dense column: then it is the bias alone.
        self.linear = keras.layers.Dense(
            self.n_labels, kernel_initializer="zeros", dtype="float32", name="linear",
            kernel_regularizer=keras.regularizers.L2(self.kernel_l2) if self.kernel_l2 else None,
        )  # fmt: skip
        self.linear.build((None, max(self.schema.n_dense, 1)))
        self.encoded = encoded_columns(self.schema, self.n_labels, self.seed, self.dtype_policy, activation=None)
        self.built = True
        self._config = {"kernel_l2": self.kernel_l2, "embedding_options": tables.embedding_options}

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        parts = []
        if self.embeddings is not None:
            parts.append(ops.sum(ops.cast(self.pooled(inputs, training), "float32"), axis=1))
        if self.encoded is not None:
            parts.append(ops.sum(ops.cast(self.encoded(inputs["dense"]), "float32"), axis=1))
        parts.append(self.linear(inputs["dense"] if self.schema.dense else ops.zeros_like(parts[0][:, :1])))
        return sum(parts)
