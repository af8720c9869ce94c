"""A DLRM's weights apart from any library's names and orders: what is converted passes through them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_dlrm.models.dlrm import DLRM
from keras_dlrm.schema.columns import Categorical
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.compression import QuotientRemainder

Layer = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights in the order in which `DLRM` has its vectors: the bottom MLP's output, then the columns of the schema."""

    tables: Mapping[str, np.ndarray]  # (rows, D) by table name
    bottom: Sequence[Layer]  # weights (out, in) and biases (out,) of the bottom MLP
    top: Sequence[Layer]
    # For each cross layer V (r, n) or `None`, W (n, r) or (n, n), and b (n,): x₀ ⊙ (W (V x) + b) + x.
    crosses: Sequence[tuple[np.ndarray | None, np.ndarray, np.ndarray]] = ()
    # (D, width) by table, of those that are narrower than D.
    projections: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    # How tables are split, whose halves are among `tables` as `name.quotient` and `name.remainder`.
    quotient_remainder: QuotientRemainder | None = None

    def model(self, schema: Schema, interaction: str, self_interaction: bool = False, **options: Any) -> DLRM:
        """A `DLRM` of the schema with these weights, made with further `options`."""
        if interaction == "cross":
            down = self.crosses[0][0]
            options |= {"cross_layers": len(self.crosses), "projection_dim": None if down is None else len(down)}
        if self.quotient_remainder is not None:
            options["embedding_options"] = {"quotient_remainder": self.quotient_remainder}
        dim = len(self.bottom[-1][0])
        widths = {name: self.projections[name].shape[1] if name in self.projections else dim for name in schema.table_sizes}
        bottom, top = ([len(kernel) for kernel, _ in layers] for layers in (self.bottom, self.top))
        options |= {"interaction": interaction, "self_interaction": self_interaction, "seed": 0}
        model = DLRM(schema, embedding_dim=widths if self.projections else dim, bottom_mlp=bottom, top_mlp=top, **options)
        model.set_embedding_tables(self.tables)
        layer: Any = model.embeddings
        for width, names in layer.projected.items():
            layer.projections[str(width)].assign(np.stack([self.projections[name].T for name in names]))
        parts: list[tuple[Any, Sequence[Layer]]] = [(model.bottom_mlp, self.bottom), (model.top_mlp, self.top)]
        for mlp, layers in parts:
            for dense, (kernel, bias) in zip(mlp.dense_layers, layers, strict=True):
                dense.set_weights([kernel.T, bias])
        for cross, (down, kernel, bias) in zip(model.crosses, self.crosses, strict=True):
            cross.set_weights([*([] if down is None else [down.T]), kernel.T, bias])
        return model

    @classmethod
    def of(cls, who: str, model: Any, interactions: Sequence[str], compressed: bool = False) -> Weights:
        """The weights of a model; `TypeError` where it is no `DLRM`, `ValueError` where another library has no such model.

        The library has these `interactions` and, if `compressed`, quotient–remainder and mixed-dimension tables.
        """
        if not isinstance(model, DLRM):
            raise TypeError(f"{who}: {type(model).__name__} is no DLRM; only that has a counterpart there.")
        _check_counterpart(who, model, interactions, compressed)
        crosses = []
        for cross in model.crosses:
            *down, kernel, bias = cross.get_weights()
            crosses.append((down[0].T if down else None, kernel.T, bias))
        bottom, top = _layers(model.bottom_mlp), _layers(model.top_mlp)
        layer: Any = model.embeddings
        projections = {
            name: np.ascontiguousarray(kernel.T)
            for width, names in layer.projected.items()
            for name, kernel in zip(names, keras.ops.convert_to_numpy(layer.projections[str(width)]), strict=True)
        }
        return cls(model.embedding_tables(), bottom, top, crosses, projections, layer.quotient_remainder)


def _layers(mlp: Any) -> list[Layer]:
    pairs = [dense.get_weights() for dense in mlp.dense_layers]
    return [(np.ascontiguousarray(kernel.T), bias) for kernel, bias in pairs]


def _check_counterpart(who: str, model: DLRM, interactions: Sequence[str], compressed: bool) -> None:
    model.schema.require_one_label(who)
    if model.interaction_kind not in interactions:
        raise ValueError(f"{who}: there is no interaction {model.interaction_kind!r}; there are {list(interactions)}.")
    for option in ("concat_dense", "first_order"):
        if getattr(model, option):
            raise ValueError(f"{who}: {option}=True has no counterpart; train with {option}=False.")
    if model.encoded is not None:
        raise ValueError(f"{who}: encodings of dense columns have no counterpart; train without them.")
    if model.bottom_mlp is None or model.embeddings is None:
        raise ValueError(f"{who}: both dense and sparse columns are needed; this schema is {model.schema!r}.")
    if model.top_mlp.batch_norm:
        raise ValueError(f"{who}: there is no batch norm; train with batch_norm=False.")
    if model.top_mlp.activation is not keras.activations.relu:
        raise ValueError(f"{who}: there is no activation {model.top_mlp.activation.__name__!r}, only ReLU.")
    if model.embeddings.quotient_remainder is not None and not compressed:
        raise ValueError(f"{who}: quotient–remainder tables have no counterpart; train with whole tables.")
    if (len(set(model.embeddings.widths.values())) > 1 or model.embeddings.projections) and not compressed:
        raise ValueError(f"{who}: mixed dimensions have no counterpart; the tables' widths are {model.embeddings.widths}.")
    if model.schema.weighted:
        raise ValueError(f"{who}: weights of ids have no counterpart here; this schema is weighted.")
    for column in model.schema.categorical:
        if column.hashed:
            raise ValueError(f"{who}: column {column.name!r} is hashed inside the graph, which has no counterpart there.")
        if column.combiner == "sqrtn" and column.hotness > 1:
            raise ValueError(f"{who}: column {column.name!r} pools by 'sqrtn', which has no counterpart there.")


def default_schema(
    who: str, dense: int, hotness: int | Sequence[int] | None, columns: Sequence[tuple[str, int, str | None]]
) -> Schema:
    """Dense columns `I1 …` and sparse ones by name, vocabulary and table; `hotness` is one number or one per column."""
    if not isinstance(hotness, Sequence):
        hotness = [1 if hotness is None else int(hotness)] * len(columns)
    if len(hotness) != len(columns):
        raise ValueError(f"{who}: hotness has {len(hotness)} entries for {len(columns)} tables; give one for each.")
    sparse = [Categorical(name, rows, hotness=most, table=t) for (name, rows, t), most in zip(columns, hotness, strict=True)]
    return Schema(dense=[f"I{i + 1}" for i in range(dense)], categorical=sparse)


def no_hotness(who: str, hotness: Any, schema: Schema | None) -> None:
    """Raise `ValueError` where both a hotness and a schema were given."""
    if schema is not None and hotness is not None:
        raise ValueError(f"{who}: hotness={hotness!r} was given alongside a schema, which has its own; leave it out.")


def products(order: Sequence[int], pairs: tuple[np.ndarray, np.ndarray], self_interaction: bool = False) -> np.ndarray:
    """Places of the products of `DotInteraction` among another library's, int64 (P,).

    `order` is the place of each of our vectors among the other library's, `pairs` the two of its vectors in each product.

    Example, of three vectors and an upper triangle:

    >>> products([2, 0, 1], np.triu_indices(3, 1)).tolist()
    [1, 2, 0]
    """
    count = len(order)
    place = np.full((count, count), -1, np.int64)
    place[pairs] = place[pairs[::-1]] = np.arange(len(pairs[0]))
    rows, columns = np.tril_indices(count, 0 if self_interaction else -1)
    theirs = np.asarray(order)
    return place[theirs[rows], theirs[columns]]


def blocks(order: Sequence[int], width: int) -> np.ndarray:
    """Places of the numbers of our vectors, side by side and `width` wide, among another library's.

    Example:

    >>> blocks([1, 0], 2).tolist()
    [2, 3, 0, 1]
    """
    return (np.asarray(order)[:, None] * width + np.arange(width)).ravel()


def placed(values: np.ndarray, places: np.ndarray, axis: int = -1) -> np.ndarray:
    """The inverse of `np.take(theirs, places, axis)`: our values at the other library's places.

    Example:

    >>> placed(np.array([7, 8, 9]), np.array([2, 0, 1])).tolist()
    [8, 9, 7]
    """
    return np.take(values, np.argsort(places), axis)
