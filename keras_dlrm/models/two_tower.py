"""`TwoTower`, a model of retrieval: a vector of the user, a vector of the item, and their product."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.backend.private_keras import forget
from keras_dlrm.initializers import part_seed
from keras_dlrm.layers.mlp import MLPOptions, TopMLP
from keras_dlrm.losses.in_batch_softmax import Candidates, InBatchSoftmax
from keras_dlrm.models.field_model import FieldModel
from keras_dlrm.models.losses import logits_of
from keras_dlrm.models.negatives import Negatives
from keras_dlrm.models.row_losses import RowLosses, rows_by_counted
from keras_dlrm.schema.schema import Schema
from keras_dlrm.step.batch import WholeBatch
from keras_dlrm.support.arguments import boolean, integer, number, shown
from keras_dlrm.support.scoped import Scoped

_LEAST = 1e-12  # squared length that a vector is divided by at least

_vectors = Scoped(None)  # a list that takes the vectors of a forward pass, for the loss of this very pass


@keras.saving.register_keras_serializable("keras_dlrm")
class TwoTower(FieldModel):
    """logit = user vector · item vector / temperature, each vector made of the columns of its side alone.

    Items can then be searched by their vectors: the score of a pair is a product, whatever the towers are. With a binary
    cross-entropy it trains as any click model does.

    Args:
        schema: A fitted `Schema`, each column of which is one of the user's or one of the item's. Columns of both sides may share a
            table, such as the items that a user has seen and the item.
        user: Names of the user's columns, dense or sparse.
        item: Names of the item's columns, dense or sparse.
        embedding_dim: Width D of the columns' vectors.
        output_dim: Width of the two vectors. `None`: there are no networks, and a side's vector is the sum of its columns' vectors.
        user_mlp: Widths of the hidden layers of the user's tower; a linear layer to `output_dim` follows.
        item_mlp: The same of the item's tower.
        item_id: Name of the sparse column that tells items apart, one id a row; if omitted the first such one of `item`.
        normalize: Whether the vectors have length 1.
        temperature: Divisor of the product, above 0.
        **kwargs: Further arguments of `FieldModel`, such as `embedding_dropout`.

    Raises:
        ValueError: a column that is on no side, on both, or not in the schema; no column that tells items apart; a network without
            `output_dim`.

    Source: Huang et al. 2013, "Learning Deep Structured Semantic Models for Web Search using Clickthrough Data"; Yi et al. 2019,
    "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", figure 2.

    Example:

    >>> schema = kd.Schema(categorical=[
    ...     kd.Categorical("user", 10), kd.Categorical("seen", 20, hotness=3, table="item"), kd.Categorical("item", 20)])
    >>> model = TwoTower(schema, user=["user", "seen"], item=["item"], embedding_dim=4, output_dim=8, user_mlp=[6], item_mlp=[])
    >>> model.count_params()
    270
    >>> batch = schema.pack({"user": [3], "seen": [[5, 7]], "item": [9]})
    >>> tuple(model.user_vectors(batch).shape), tuple(model.item_vectors(batch).shape), model.item_id
    ((1, 8), (1, 8), 'item')
    """

    several_labels = False

    def __init__(
        self, schema: Schema | Mapping[str, Any], user: Sequence[str], item: Sequence[str], embedding_dim: int = 32,
        output_dim: int | None = 32, user_mlp: Sequence[int] = (64,), item_mlp: Sequence[int] = (64,),
        item_id: str | None = None, normalize: bool = True, temperature: float = 0.05, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(schema, embedding_dim, first_order=False, **kwargs)
        del self._config["first_order"]  # no argument of this model
        self.user_columns, self.item_columns = _sides(self.schema, {"user": user, "item": item})
        self.item_id = _id_column(self.schema, self.item_columns, item_id)
        self.normalize = boolean("TwoTower", "normalize", normalize)
        self.temperature = number("TwoTower", "temperature", temperature)
        if not self.temperature:
            raise ValueError("TwoTower: temperature=0.0 must be above 0; 1.0 leaves the product as it is.")
        self.output_dim = self.width if output_dim is None else integer("TwoTower", "output_dim", output_dim)
        self.user_tower = self._tower(output_dim, user_mlp, self.user_columns, "user", 1)
        self.item_tower = self._tower(output_dim, item_mlp, self.item_columns, "item", 2)
        self.negatives: Negatives | None = None
        self.built = True

    def _tower(self, output_dim: int | None, units: Sequence[int], columns: Sequence[str], side: str, part: int) -> Any:
        hidden = MLPOptions(units, who="TwoTower", field=f"{side}_mlp").units
        if output_dim is None:
            if hidden:
                both = f"{side}_mlp={shown(list(hidden))} and output_dim=None, which is without networks"
                raise ValueError(f"TwoTower: {both}; give output_dim, or user_mlp=[] and item_mlp=[].")
            return None
        layer = TopMLP([*hidden, output_dim], seed=part_seed(self.seed, part), dtype=self.dtype_policy, name=f"{side}_tower")
        layer.build((None, len(columns) * self.width))
        return layer

    def logits(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        columns, _ = self.terms(inputs, training)
        user, item = self._user(columns, training), self._item(columns, training)
        if _vectors.value is not None:
            _vectors.value.append((user, item))
        return ops.sum(user * item, axis=1, keepdims=True) / self.temperature

    def user_vectors(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Packed batch → vectors of its users, float32 (B, output_dim), of length 1 if `normalize`.

        Nothing of the item's columns is in them, which may hold anything, such as ids of -1 and numbers of 0.

        Example:

        >>> schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
        >>> model = TwoTower(schema, ["user"], ["item"], output_dim=8)
        >>> bool(np.isclose(np.linalg.norm(keras.ops.convert_to_numpy(model.user_vectors({"sparse": np.array([[3, -1]])}))), 1.0))
        True
        """
        return self._user(self.terms(self._checked_inputs(inputs), training)[0], training)

    def item_vectors(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Packed batch → vectors of its items, float32 (B, output_dim), of length 1 if `normalize`.

        Nothing of the user's columns is in them, which may hold anything, such as ids of -1 and numbers of 0.

        Example:

        >>> schema = kd.Schema(categorical=[kd.Categorical("user", 10), kd.Categorical("item", 20)])
        >>> model = TwoTower(schema, ["user"], ["item"], output_dim=8)
        >>> tuple(model.item_vectors({"sparse": np.array([[-1, 7], [-1, 9]])}).shape)
        (2, 8)
        """
        return self._item(self.terms(self._checked_inputs(inputs), training)[0], training)

    # -- training within the batch -----------------------------------------------------------------------------------

    def of_outputs(self, loss: Any, metrics: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        if isinstance(loss, type) and issubclass(loss, InBatchSoftmax):
            loss = loss()
        if self.negatives is not None:
            forget(self, self.negatives)
            self.negatives = None
        if isinstance(loss, InBatchSoftmax):
            self.negatives = Negatives(loss, self.schema, self.item_id, part_seed(self.seed, 7))
        return super().of_outputs(loss, metrics, options)

    def loss_to_compute(self, loss: Any) -> tuple[Any, Any]:
        return (loss, RowLosses(loss)) if isinstance(loss, InBatchSoftmax) else super().loss_to_compute(loss)

    def loss_and_prediction(self, x: Any, y: Any, part: WholeBatch, training: bool) -> tuple[Any, Any]:
        if self.negatives is None:
            return super().loss_and_prediction(x, y, part, training)
        with _vectors.using([]) as vectors:
            logits = self(x, training=training, return_logits=True)
        y_pred, (pair,) = ops.sigmoid(logits), vectors
        losses = self._losses_in_batch(self.negatives, x, y, logits[:, 0], pair, part, training)
        with logits_of(y_pred, losses):
            return self.loss_of_step(x, y, y_pred, part.sample_weight, training), y_pred

    def _losses_in_batch(
        self, negatives: Negatives, x: Any, y: Any, positive: Any, pair: tuple[Any, Any], part: WholeBatch, training: bool
    ) -> Any:
        """Loss of each row among the items of the whole batch, (B,); 0 of rows that are no query."""
        loss, (user, item) = self.loss, pair
        negatives.begin(training)
        ids, weight = negatives.ids(self._checked_inputs(x)), part.sample_weight
        real = ops.ones_like(positive, "bool") if weight is None else ops.reshape(weight, (-1,)) > 0
        query = ops.logical_and(real, ops.reshape(y, (-1,)) > 0)
        items, every_id, every_real = part.every(item), part.every(ids), part.every(real)
        own_place = part.place * ops.shape(ids)[0] + ops.arange(ops.shape(ids)[0], dtype="int32")
        own = ops.equal(own_place[:, None], ops.arange(ops.shape(every_id)[0], dtype="int32")[None])
        if loss.accidental_hits:
            own = ops.logical_or(own, ops.equal(ids[:, None], every_id[None]))
        log_q = None if loss.log_q is None else negatives.log_q(every_id, every_real, training)
        own_log_q = None if log_q is None else ops.take(log_q, own_place, axis=0)
        in_batch = Candidates(self._scores(user, items), ops.logical_and(every_real[None], ops.logical_not(own)), log_q)
        draws, uniform = ops.sum(ops.cast(every_real, "float32")) - 1.0 + loss.uniform_negatives, None
        if loss.uniform_negatives:
            drawn = negatives.draw(loss.uniform_negatives)
            kept = ops.not_equal(ids[:, None], negatives.ids(drawn)[None])
            kept = kept if loss.accidental_hits else ops.ones_like(kept)
            uniform = Candidates(self._scores(user, self.item_vectors(drawn, training)), kept, -np.log(negatives.catalog_rows))
        losses = loss.of_scores(positive, own_log_q, draws, in_batch, uniform)
        return ops.where(query, losses, 0.0) * rows_by_counted(loss.reduction, query, part)

    def _scores(self, user: Any, item: Any) -> Any:
        return ops.matmul(user, ops.transpose(item)) / self.temperature

    # -- towers ------------------------------------------------------------------------------------------------------

    def _user(self, columns: Any, training: bool | None) -> Any:
        return self._side(columns, self.user_columns, self.user_tower, training)

    def _item(self, columns: Any, training: bool | None) -> Any:
        return self._side(columns, self.item_columns, self.item_tower, training)

    def _side(self, columns: Any, names: Sequence[str], tower: Any, training: bool | None) -> Any:
        """Vectors of all columns (B, F, D) → those of a side, float32 (B, output_dim)."""
        own = [columns[:, self.columns.index(name)] for name in names]
        if tower is None:
            vectors = sum(ops.cast(vector, "float32") for vector in own)
        else:
            joined = ops.concatenate(own, axis=1) if len(own) > 1 else own[0]
            vectors = ops.cast(tower(joined, training=training), "float32")
        if not self.normalize:
            return vectors
        # Not a division by the length, whose gradient at 0 is not a number.
        return vectors * ops.rsqrt(ops.maximum(ops.sum(ops.square(vectors), axis=1, keepdims=True), _LEAST))


def _sides(schema: Schema, sides: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Names of each side's columns, which are all of the schema's."""
    columns, side_of = [*schema.dense_names, *schema.categorical_names], dict[str, str]()
    for side, names in sides.items():
        if isinstance(names, str) or not isinstance(names, Sequence) or not names:
            raise ValueError(f"TwoTower: {side}={shown(names)} must be a list of at least one column; known are {columns}.")
        for name in names:
            if name not in columns:
                raise ValueError(f"TwoTower: {side}={shown(list(names))} has {name!r}, which is not a column; known are {columns}.")
            if name in side_of:
                raise ValueError(f"TwoTower: column {name!r} is named in {side_of[name]} and in {side}; name each column once.")
            side_of[name] = side
    if others := [name for name in columns if name not in side_of]:
        fix = "name them in user or item, or leave them out of the schema"
        raise ValueError(f"TwoTower: the columns {others} are on no side; {fix}.")
    return [list(names) for names in sides.values()]


def _id_column(schema: Schema, item: Sequence[str], name: str | None) -> str:
    """Name of the column that tells items apart."""
    allowed = [column.name for column in schema.categorical if column.name in item and column.hotness == 1]
    allowed.sort(key=list(item).index)
    name = next(iter(allowed), None) if name is None else name
    if name is None or name not in allowed:
        raise ValueError(f"TwoTower: item_id={name!r} must be a sparse column of the item with one id a row; those are {allowed}.")
    return name
