"""Options of a model's tables, the same for every model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.embeddings.host.host_tables import HostTables
from keras_dlrm.embeddings.sparse_core.tpu_embedding import TPUEmbedding
from keras_dlrm.initializers import part_seed
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.compression import QuotientRemainder
from keras_dlrm.support.arguments import boolean, integer, number

EMBEDDING_OPTIONS = ("quotient_remainder", "table_dtype", "host", "tpu")


@dataclasses.dataclass(frozen=True)
class EmbeddingOptions:
    """Options of a model's tables and of their dropout, as the models describe them; `who` is the model, for errors.

    Raises:
        TypeError: `embedding_options` are not a mapping.
        ValueError: an unknown one, or one that the model gives itself; a number out of range.
    """

    embedding_dim: int | str | Mapping[str, int] = 16
    embedding_dropout: float = 0.0
    init_scale: float | None = None
    embedding_options: Mapping[str, Any] | None = None
    first_order: bool = False
    who: dataclasses.InitVar[str] = "EmbeddingOptions"

    def __post_init__(self, who: str) -> None:
        dim = self.embedding_dim
        if isinstance(dim, str) and dim != "paper":
            raise ValueError(f"{who}: embedding_dim={dim!r}; use an integer, a mapping by table, or 'paper'.")
        if isinstance(dim, Mapping):
            dim = dict(dim)
        elif dim != "paper":
            dim = integer(who, "embedding_dim", dim)
        checked = {
            "embedding_dim": dim,
            "embedding_dropout": number(who, "embedding_dropout", self.embedding_dropout, below=1.0),
            "init_scale": None if self.init_scale is None else number(who, "init_scale", self.init_scale),
            "embedding_options": _plain(self.embedding_options),
            "first_order": boolean(who, "first_order", self.first_order),
        }
        if self.first_order and not isinstance(dim, int):
            raise ValueError(f"{who}: terms of first order need one width of all tables, not embedding_dim={dim!r}; give a number.")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def widths(self, schema: Schema) -> int | dict[str, int]:
        """Width of all tables, or of each by name; a first-order weight is one more number for each label.

        An id says something else of each label, so that one weight for all would only tell what they share.
        """
        if self.embedding_dim == "paper":
            return {name: max(1, int(6 * rows**0.25)) for name, rows in schema.table_sizes.items()}
        return self.embedding_dim + len(schema.labels) if self.first_order else self.embedding_dim  # type: ignore

    def layer(self, schema: Schema, seed: int, **options: Any) -> EmbeddingCollection | None:
        """The layer of the tables, a `TPUEmbedding` where options of one are given; `None` without sparse columns.

        The model decides the further options.
        """
        if not schema.categorical:
            return None
        further = dict(self.embedding_options or {})
        tpu = further.pop("tpu", None)
        options = {"init_scale": self.init_scale, "seed": part_seed(seed, 0), "name": "embeddings", **further, **options}
        if tpu is not None and any(column.id_dropout for column in schema.categorical):
            # Ids are prepared for SparseCores before the model sees them.
            raise ValueError("embedding_options: 'tpu' does not work with id_dropout of a column; leave one of them out.")
        if tpu is not None and options.get("host") is not None:
            raise ValueError("embedding_options: 'tpu' does not work with 'host', whose rows no SparseCore reads; leave one out.")
        if self.first_order:
            options["dtype"] = "float32"  # its weights are a part of the logit
        kind = EmbeddingCollection if tpu is None else TPUEmbedding
        return kind(schema, self.widths(schema), **{**(tpu or {}), **options})

    def dropout_layer(self, seed: int, dtype: Any) -> keras.layers.Dropout | None:
        """The layer behind the tables, if it is asked for."""
        if not self.embedding_dropout:
            return None
        return keras.layers.Dropout(self.embedding_dropout, seed=part_seed(seed, 4), dtype=dtype, name="embedding_dropout")


def _plain(embedding_options: Any) -> dict[str, Any]:
    """Further arguments of the collection, as plain dictionaries."""
    if embedding_options is None:
        return {}
    if not isinstance(embedding_options, Mapping):
        raise TypeError(f"embedding_options={embedding_options!r} must be a mapping of {list(EMBEDDING_OPTIONS)}.")
    for name in embedding_options:
        if name not in EMBEDDING_OPTIONS:
            raise ValueError(f"embedding_options: unknown option {name!r}; known are {list(EMBEDDING_OPTIONS)}.")
    plain = dict(embedding_options)
    if plain.get("quotient_remainder") is not None:
        plain["quotient_remainder"] = dataclasses.asdict(QuotientRemainder.of(plain["quotient_remainder"]))
    if plain.get("host") is not None:
        plain["host"] = dataclasses.asdict(HostTables.of(plain["host"]))
    if plain.get("tpu") is not None:
        plain["tpu"] = dict(plain["tpu"])
        if isinstance(plain["tpu"].get("embedding_optimizer"), keras.optimizers.Optimizer):
            plain["tpu"]["embedding_optimizer"] = keras.saving.serialize_keras_object(plain["tpu"]["embedding_optimizer"])
    return plain
