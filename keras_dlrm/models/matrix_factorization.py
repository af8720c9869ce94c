"""Models of users and items alone: matrix factorization, SVD++ and NeuMF."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_dlrm.layers.mlp import MLP
from keras_dlrm.models.field_model import DeepModel, FieldModel
from keras_dlrm.schema.schema import Schema
from keras_dlrm.support.arguments import integer


@keras.saving.register_keras_serializable("keras_dlrm")
class MatrixFactorization(FieldModel):
    """logit = bias + weight of the user + weight of the item + user vector · item vector.

    With an `implicit` column, such as the items that the user has seen, its pooled vector adds to the user's. With the
    combiner `"sqrtn"` that is SVD++: p + |N|^-½ Σ y in the place of p. Labels may be any in [0, 1], such as ratings scaled to it.

    Args:
        schema: A fitted `Schema` of these columns alone.
        embedding_dim: Width D of the vectors.
        user: Name of the user's column; the first one if omitted.
        item: Name of the item's column; the first one besides the user's if omitted.
        implicit: Name of a column with several ids, or `None`.
        first_order: Whether there are the bias and the weights.
        **kwargs: Further arguments of `FieldModel`.

    Raises:
        ValueError: a column that the schema lacks, or one that the model does not look at.

    Source: Koren 2008, "Factorization Meets the Neighborhood: a Multifaceted Collaborative Filtering Model", equations 2 and
    15.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
    >>> MatrixFactorization(schema, embedding_dim=4).count_params()
    152
    """

    several_labels = False

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 16, user: str | None = None, item: str | None = None,
        implicit: str | None = None, first_order: bool = True, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(schema, embedding_dim, first_order=first_order, **kwargs)
        self.places = _places("MatrixFactorization", self.schema, {"user": user, "item": item, "implicit": implicit})
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        user, item, *implicit = (vectors[:, place] for place in self.places)
        product = sum(implicit, user) * item
        return first_order + ops.sum(ops.cast(product, "float32"), axis=1, keepdims=True)


@keras.saving.register_keras_serializable("keras_dlrm")
class NeuMF(DeepModel):
    """logit = linear layer of [user vector ⊙ item vector, MLP of both side by side], with vectors of their own for each part.

    Args:
        schema: A fitted `Schema` of these columns alone.
        embedding_dim: Width of a table: both parts' vectors together.
        product_dim: How much of that the product (GMF) has; half if omitted. The MLP has the rest.
        user: Name of the user's column; the first one if omitted.
        item: Name of the item's column; the first one besides the user's if omitted.
        **kwargs: Further arguments of `DeepModel` and `FieldModel`, such as `deep_mlp`.

    Raises:
        ValueError: a column that the schema lacks, or one that the model does not look at; a part without width.

    Source: He et al. 2017, "Neural Collaborative Filtering", figure 3.

    Example:

    >>> schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
    >>> NeuMF(schema, embedding_dim=6, product_dim=2, deep_mlp=[8, 4]).count_params()
    295
    """

    def __init__(
        self, schema: Schema | Mapping[str, Any], embedding_dim: int = 32, product_dim: int | None = None,
        user: str | None = None, item: str | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(schema, embedding_dim, **kwargs)
        self.places = _places("NeuMF", self.schema, {"user": user, "item": item})
        product = self.width // 2 if product_dim is None else product_dim
        self.product_dim = integer("NeuMF", "product_dim", product, high=self.width - 1)
        units = self.deep_options.units
        self.deep_mlp = self.network(MLP, 2 * (self.width - self.product_dim), units)
        self.logit = self.last_layer(self.product_dim + units[-1], 2, "logit", self.deep_options)
        self.built = True

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        vectors, first_order = self.terms(inputs, training)
        user, item = (vectors[:, place] for place in self.places)
        cut = self.product_dim
        deep = self.deep_mlp(ops.concatenate([user[:, cut:], item[:, cut:]], axis=1), training=training)
        return first_order + self.logit(ops.concatenate([user[:, :cut] * item[:, :cut], deep], axis=1))


def _places(who: str, schema: Schema, names: Mapping[str, str | None]) -> list[int]:
    """Places of the named columns among all; user and item are the first ones that no other name takes, if omitted."""
    columns = list(schema.categorical_names)
    free, chosen = [column for column in columns if column not in names.values()], []
    for argument, name in names.items():
        if name is None and argument == "implicit":
            continue
        if name is None:
            name = free.pop(0) if free else None
        if name not in columns:
            raise ValueError(f"{who}: {argument}={name!r} must be a sparse column; known are {columns}.")
        chosen.append(name)
    others = [column for column in (*schema.dense_names, *columns) if column not in chosen]
    if others or len(set(chosen)) < len(chosen):
        fix = "leave the others out of the schema, or use a model that sees all, such as FM."
        raise ValueError(f"{who}: it looks at {chosen}, one column each, and the schema has {others} besides; {fix}")
    return [columns.index(name) for name in chosen]
