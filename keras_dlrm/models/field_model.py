"""`FieldModel` and `DeepModel`, bases of models that see each column as a vector of one width."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.embeddings.options import EmbeddingOptions
from keras_dlrm.initializers import part_seed
from keras_dlrm.layers.concatenation import ConcatenationInteraction
from keras_dlrm.layers.dense_encoding import EncodedColumns
from keras_dlrm.layers.mlp import MLP, MLPOptions
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.schema.schema import Schema


class FieldModel(ClickModel):
    """Base of factorization machines and their kin: F vectors of width D, and terms of first order.

    A sparse column's vector is the pooled one of its table. A dense column's is its value times a vector plus another one, or a
    function of its encoding. Terms of first order: the bias, a weight for each row of a table, a weight for each dense column.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D of all vectors.
        embedding_dropout: Share of the pooled vectors' elements dropped.
        init_scale: Half-width of the tables' initial uniform distribution; √(1/rows) per table if omitted.
        embedding_options: Further arguments of `EmbeddingCollection`: `quotient_remainder`, `table_dtype`; `tpu`: those
            of a `TPUEmbedding` in its place.
        first_order: Whether the terms of first order are a part of the logit.
        seed: Seed of all initial weights and of dropout.
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, embedding_dropout: float = 0.0,
        init_scale: float | None = None, embedding_options: Mapping[str, Any] | None = None, first_order: bool = False,
        seed: int | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        who = type(self).__name__
        tables = EmbeddingOptions(embedding_dim, embedding_dropout, init_scale, embedding_options, first_order, who=who)
        if not isinstance(tables.embedding_dim, int):
            raise ValueError(f"{who}: embedding_dim={embedding_dim!r} must be one integer, the width of all vectors.")
        super().__init__(schema, seed, **kwargs)
        schema, dtype = self.schema, self.dtype_policy
        self.width, self.first_order = tables.embedding_dim, tables.first_order
        self.columns = [*schema.dense_names, *(column.name for column in schema.categorical)]
        self.embeddings = tables.layer(schema, self.seed, dtype=dtype)
        self.embedding_dropout = tables.dropout_layer(self.seed, dtype)
        if self.embeddings is not None:
            self.embeddings.build((None, schema.width))
        self.encoded: EncodedColumns | None = None
        if schema.dense:
            encodings = [column.encoding or "linear" for column in schema.dense]
            self.encoded = EncodedColumns(encodings, self.width, None, part_seed(self.seed, 5), dtype=dtype, name="encoded")
            self.encoded.build((None, schema.n_dense))
        self.linear: keras.layers.Dense | None = None
        if self.first_order:
            # Of a zero where there is no dense column: then it is the bias alone.
            self.linear = keras.layers.Dense(self.n_labels, kernel_initializer="zeros", dtype="float32", name="linear")
            self.linear.build((None, max(schema.n_dense, 1)))
        self.side_by_side = ConcatenationInteraction(dtype=dtype, name="side_by_side")
        # Where a layer is not, because the model does not call it, Keras goes through the model once more in each step.
        self.side_by_side.build((None, len(self.columns), self.width))
        self._config = dict(vars(tables))

    def terms(self, inputs: Mapping[str, Any], training: bool | None = None) -> tuple[Any, Any]:
        """Packed batch → all vectors (B, F, D), dense columns first, and the sum of the terms of first order, float32 (B, T).

        Without such terms the sum is 0.
        """
        vectors, first_order = [], None
        if self.encoded is not None:
            vectors.append(self.encoded(inputs["dense"]))
        if self.embeddings is not None:
            pooled, first_order = self.pooled_vectors(inputs, training)
            vectors.append(pooled)
        vectors = ops.concatenate(vectors, axis=1) if len(vectors) > 1 else vectors[0]
        if self.linear is None:
            return vectors, 0.0
        linear = inputs["dense"] if self.schema.dense else ops.zeros_like(ops.cast(vectors[:, 0, :1], "float32"))
        linear = self.linear(linear)
        return vectors, linear if first_order is None else linear + first_order


class DeepModel(FieldModel):
    """Base of the field models that have a deep network, of which `tasks` can replace the last layer.

    Args:
        schema, embedding_dim, …: Arguments of `FieldModel`.
        deep_mlp: Widths of the deep network's hidden layers.
        activation: Activation of the deep network.
        dropout: Share of activations dropped after each hidden layer.
        batch_norm: Whether the deep network normalizes before each activation.
        kernel_l2: L2 factor of its kernels.
    """

    takes_tasks = True

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, deep_mlp: Sequence[int] = (400, 400, 400),
        activation: Any = "relu", dropout: float = 0.0, batch_norm: bool = False, kernel_l2: float = 0.0, **kwargs: Any,
    ) -> None:  # fmt: skip
        options = {"activation": activation, "dropout": dropout, "batch_norm": batch_norm, "kernel_l2": kernel_l2}
        deep = MLPOptions(deep_mlp, **options, who=type(self).__name__, field="deep_mlp")
        super().__init__(schema, embedding_dim, **kwargs)
        self.deep_options = deep
        config = deep.config()
        self._config |= {"deep_mlp": config.pop("units"), **config}

    def network(self, kind: type[MLP], n: int, units: Sequence[int], part: int = 1, name: str = "deep_mlp") -> MLP:
        """A network (B, n) → (B, units[-1]) with the model's options, built; `part` numbers the layers, for their seeds."""
        options = {**vars(self.deep_options), "units": units, "seed": part_seed(self.seed, part)}
        layer = kind(**options, dtype=self.dtype_policy, name=name)
        layer.build((None, n))
        return layer

    def deep_network(self, n: int) -> Any:
        """The deep network (B, n) → logits (B, T): `deep_mlp`, then one unit for each label, or a head of `tasks`."""
        return self.last_network(n, self.deep_options, 1, "deep_mlp")
