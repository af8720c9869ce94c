"""`TPUEmbedding`: an `EmbeddingCollection` on SparseCores where there are any."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_dlrm import backend
from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.embeddings.rules import RowRule
from keras_dlrm.embeddings.rules.follow import get
from keras_dlrm.embeddings.sparse_core.config import feature_configs, keras_optimizer
from keras_dlrm.embeddings.sparse_core.tables import SparseCoreTables
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.active import current
from keras_dlrm.support.arguments import integer
from keras_dlrm.support.scoped import Scoped

PREPROCESSED = "sparse_core"
_LIMITS = ("max_ids_per_partition", "max_unique_ids_per_partition")
_forced = Scoped(False)


def keras_rs_everywhere() -> contextlib.AbstractContextManager[Any]:
    """While this context is open, keras-rs holds the tables of `TPUEmbedding`s made on this thread, without a TPU, too.

    There it looks rows up plainly and trains whole tables by the dense optimizer: for checking a model's configuration.
    """
    return _forced.using(True)


@keras.saving.register_keras_serializable("keras_dlrm")
class TPUEmbedding(EmbeddingCollection):
    """Ids of all sparse columns (B, W) → one pooled vector per column (B, F, D), on TPUs by SparseCore.

    On a TPU (TensorFlow: made under a `TPUStrategy`; JAX: with TPU devices) the tables are those of a
    `keras_rs.layers.DistributedEmbedding`; elsewhere this is the `EmbeddingCollection` that it inherits from. Logical
    tables and saved models are the same, so that a model which was trained on a TPU is loaded and served without one, and
    without keras-rs. What SparseCore does not have is refused everywhere.

    Args:
        schema: A fitted `Schema`.
        embedding_dim: Width D, or a mapping table name → width.
        embedding_optimizer: Row rule of the tables: SGD, Adagrad or Adam (a name, or one of `kd.optimizers`). SparseCore
            needs it before `compile`, which takes it from here on every machine.
        batch_size: Rows of a training batch, of all devices together; needed on a TPU.
        max_ids_per_partition: Ids of a batch that one SparseCore sends to another, at most. More are dropped on JAX.
        max_unique_ids_per_partition: The same, of different ids.
        **kwargs: `concatenate`, `init_scale`, `seed` and `output_dim` as in `EmbeddingCollection`, and `name` and the like.

    Raises:
        ValueError: a row rule, or an option of it, that SparseCore does not have; no `batch_size` on a TPU; options of
            `EmbeddingCollection` that SparseCore does not have.
        ImportError: keras-rs is needed and not installed.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("C1", 10), kd.Categorical("tags", 5, hotness=3)])
    >>> layer = TPUEmbedding(schema, 4, embedding_optimizer=kd.optimizers.SGD(0.1), batch_size=1)
    >>> tuple(layer({"sparse": np.array([[9, 0, 2, -1]])}).shape)
    (1, 2, 4)
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int | Mapping[str, int] = 16,
        embedding_optimizer: Any = "sgd", batch_size: int | None = None, max_ids_per_partition: int = 256,
        max_unique_ids_per_partition: int = 256, **kwargs: Any,
    ) -> None:  # fmt: skip
        who = "TPUEmbedding"
        for option, default in (("quotient_remainder", None), ("table_dtype", "float32")):
            if kwargs.get(option, default) != default:
                raise ValueError(
                    f"{who}: {option}={kwargs[option]!r} is not on SparseCore; leave it out, or use EmbeddingCollection."
                )
        rule = get(embedding_optimizer)
        keras_optimizer(rule)  # refused here as on a TPU
        # Not the rule itself: Keras saves optimizers that it finds among a layer's attributes.
        self.rule_config = keras.saving.serialize_keras_object(rule)
        self.batch_size = None if batch_size is None else integer(who, "batch_size", batch_size)
        self.max_ids_per_partition = integer(who, "max_ids_per_partition", max_ids_per_partition)
        self.max_unique_ids_per_partition = integer(who, "max_unique_ids_per_partition", max_unique_ids_per_partition)
        super().__init__(schema, embedding_dim, **kwargs)

    def make_store(self) -> Any:
        on_tpu = backend.on_tpu()
        if not on_tpu and not _forced.value:
            return super().make_store()
        if current() is not None:
            raise ValueError(
                "TPUEmbedding: a sharding plan is in use, but keras-rs shards the tables over the SparseCores; make the model "
                "outside of kd.sharding.use."
            )
        if on_tpu and self.batch_size is None:
            raise ValueError("TPUEmbedding: batch_size=None, but on a TPU it must be given: rows of a batch of all devices.")
        batch_size, placement = (self.batch_size, "sparsecore") if on_tpu else (None, "default_device")
        limits = {name: getattr(self, name) for name in _LIMITS}
        rule = self.row_rule()
        configs = feature_configs(self.schema, self.stacks, rule, self.seed, batch_size, placement=placement, **limits)
        return SparseCoreTables(self.schema, self.stacks, configs, f"{self.name}_tables")

    def row_rule(self) -> RowRule:
        """A row rule as `embedding_optimizer` gave it, not built."""
        return get(keras.saving.deserialize_keras_object(dict(self.rule_config)))

    @property
    def uses_keras_rs(self) -> bool:
        """Whether keras-rs holds the tables."""
        return isinstance(self.store, SparseCoreTables)

    def require_whole(self, who: str) -> None:
        if self.uses_keras_rs:
            raise ValueError(
                f"{who}: keras-rs holds the model's tables; save the model (model.save), and load it where there is no TPU."
            )
        super().require_whole(who)

    def preprocess(self, batch: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """A packed batch with what SparseCore needs on JAX, which keras-rs makes outside of compiled functions.

        Where it is not needed the batch comes back as it is, so that one input pipeline runs everywhere.

        Args:
            batch: Packed batch, NumPy.
            training: Whether it is for a training step.
        """
        if not isinstance(self.store, SparseCoreTables) or keras.backend.backend() != "jax":
            return dict(batch)
        self.build()
        asked, _, sent = self.lookups(batch)
        return {**batch, PREPROCESSED: self.store.preprocess(asked, sent, training)}

    def pooled(self, inputs: Any, asked: list[Any], sent: list[Any], training: bool | None) -> list[list[Any]]:
        if isinstance(self.store, SparseCoreTables) and isinstance(inputs, Mapping) and PREPROCESSED in inputs:
            return self.store.by_block(self.store.layer(inputs[PREPROCESSED], training=bool(training)))
        return super().pooled(inputs, asked, sent, training)

    def _write(self, tables: Mapping[str, Any]) -> None:
        if isinstance(self.store, SparseCoreTables):
            self.store.write_all(tables)
        else:
            super()._write(tables)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["quotient_remainder"], config["table_dtype"]
        config["embedding_optimizer"] = keras.saving.serialize_keras_object(self.row_rule())
        return config | {name: getattr(self, name) for name in ("batch_size", *_LIMITS)}


def rule_of(layers: Iterable[Any], embedding_optimizer: Any) -> Any:
    """The row rule for `compile`: its argument, or the rule of the model's `TPUEmbedding`s; `ValueError` where two differ."""
    rules = [layer.row_rule() for layer in layers if isinstance(layer, TPUEmbedding)]
    for rule in rules:
        other = get(embedding_optimizer) if embedding_optimizer is not None else rules[0]
        if type(rule) is not type(other) or _options(rule) != _options(other):
            raise ValueError(
                f"compile: the embedding_optimizer {type(other).__name__} {_options(other)} differs from the "
                f"{type(rule).__name__} {_options(rule)} that a TPUEmbedding was made with; give it there alone."
            )
    return embedding_optimizer if embedding_optimizer is not None or not rules else rules[0]


def _options(rule: RowRule) -> dict[str, Any]:
    return {key: value for key, value in rule.get_config().items() if key != "name"}
