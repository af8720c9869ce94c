"""`FieldModel`, the base of models that see each column as a vector of one width."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_dlrm.embeddings.options import EmbeddingOptions
from keras_dlrm.initializers import part_seed
from keras_dlrm.layers.dense_encoding import EncodedColumns
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.schema.schema import Schema


class FieldModel(ClickModel):
    """Base of factorization machines and their kin: F vectors of width D, and the terms of first order.

    A sparse column's vector is the pooled one of its table. A dense column's is its value times a vector plus another one, or a
    linear function of its encoding. Terms of first order: the bias, a weight for each row of a table, a weight for each dense
    column.

    Args:
        schema: A fitted `Schema`.
        tables: Options of the tables, with terms of first order.
        seed: Seed of all initial weights and of dropout.
    """

    def __init__(self, schema: Schema | Mapping[str, Any], tables: EmbeddingOptions, seed: int | None, **kwargs: Any) -> None:
        super().__init__(schema, seed, **kwargs)
        schema, dtype = self.schema, self.dtype_policy
        self.width, self.first_order = int(tables.embedding_dim), tables.first_order  # type: ignore[arg-type]
        self.embeddings = tables.layer(schema, self.seed, dtype=dtype)
        self.embedding_dropout = tables.dropout_layer(self.seed, dtype)
        if self.embeddings is not None:
            self.embeddings.build((None, schema.width))
        self.encoded: EncodedColumns | None = None
        if schema.dense:
            encodings = [column.encoding or "linear" for column in schema.dense]
            self.encoded = EncodedColumns(encodings, self.width, None, part_seed(self.seed, 5), dtype=dtype, name="encoded")
            self.encoded.build((None, schema.n_dense))
        # Of a zero where there is no dense column: then it is the bias alone.
        self.linear = keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32", name="linear")
        self.linear.build((None, max(schema.n_dense, 1)))
        self._config = {name: value for name, value in vars(tables).items() if name != "first_order"}
        self.fields = len(schema.categorical) + schema.n_dense

    def terms(self, inputs: Mapping[str, Any], training: bool | None = None) -> tuple[Any, Any]:
        """Packed batch → all vectors (B, F, D), dense columns first, and the sum of the terms of first order, float32 (B, 1)."""
        vectors, first_order = [], None
        if self.encoded is not None:
            vectors.append(self.encoded(inputs["dense"]))
        if self.embeddings is not None:
            pooled, first_order = self.pooled_vectors(inputs, training)
            vectors.append(pooled)
        vectors = ops.concatenate(vectors, axis=1) if len(vectors) > 1 else vectors[0]
        linear = inputs["dense"] if self.schema.dense else ops.zeros_like(ops.cast(vectors[:, 0, :1], "float32"))
        linear = self.linear(linear)
        return vectors, linear if first_order is None else linear + first_order
