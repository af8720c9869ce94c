"""Weights of TorchRec's models `DLRM` and `DLRM_DCN` to and from a `DLRM`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.convert.state_dict import StateDict
from keras_dlrm.convert.weights import Weights, blocks, default_schema, no_hotness, placed, products
from keras_dlrm.models.dlrm import DLRM
from keras_dlrm.schema.schema import Schema

_TABLE = "sparse_arch.embedding_bag_collection.embedding_bags.{}.weight"
_BOTTOM = "dense_arch.model._mlp.{}._linear.weight"
_TOP = "over_arch.model.0._mlp.{}._linear.weight"
_LOGIT = "over_arch.model.1.weight"
_CROSS = "inter_arch.crossnet."
_GIVE = "give features=model.sparse_arch.sparse_feature_names"
_KEYS = (
    "sparse_arch.embedding_bag_collection.embedding_bags.TABLE.weight, dense_arch.model._mlp.k._linear.weight/bias, "
    "over_arch.model.0._mlp.k._linear.weight/bias, over_arch.model.1.weight/bias and, of a DLRM_DCN, "
    "inter_arch.crossnet.W_kernels.k, V_kernels.k and bias.k"
)


def from_torchrec(
    state_dict: Mapping[str, Any], schema: Schema | None = None, hotness: int | Sequence[int] | None = None,
    features: Sequence[str] | None = None,
) -> DLRM:  # fmt: skip
    """A `DLRM` with the weights of TorchRec's `DLRM` or `DLRM_DCN`. MLPerf's DLRM-DCNv2 is the latter.

    TorchRec takes the upper triangle of the products, we the lower one: the layer behind them is put in order.

    Args:
        state_dict: Its `state_dict()`, torch tensors or arrays; also of a `DLRMTrain`, of a `DistributedModelParallel`
            whose shards are all in this process, or in a checkpoint under `"state_dict"` or `"model"`.
        schema: The columns. A column's table is the embedding bag of its `table_name`, or `t_` and that. By default each
            table has one column, of its name without `t_`, and dense columns are `I1 …`.
        hotness: Without a schema: most ids per example, one number or one per table; 1 by default.
        features: Names of the sparse columns in TorchRec's order, `model.sparse_arch.sparse_feature_names`. Needed where
            the keys do not tell it: those of a DistributedModelParallel are sorted, and tables may be shared.

    Returns:
        The model, not compiled, with interaction `"dot"` or, of a `DLRM_DCN`, `"cross"`; it pools by the sum or the schema.

    Raises:
        ValueError: unknown or missing keys; shapes that do not fit; shards elsewhere; an order that cannot be known.

    Example:

    >>> bag, linear = "sparse_arch.embedding_bag_collection.embedding_bags.", "_mlp.0._linear."
    >>> shapes = {f"{bag}t_C1.weight": (9, 4), f"{bag}t_C2.weight": (5, 4),
    ...           f"dense_arch.model.{linear}weight": (4, 3), f"dense_arch.model.{linear}bias": (4,),
    ...           f"over_arch.model.0.{linear}weight": (6, 7), f"over_arch.model.0.{linear}bias": (6,),
    ...           "over_arch.model.1.weight": (1, 6), "over_arch.model.1.bias": (1,)}
    >>> rng = np.random.default_rng(0)
    >>> model = from_torchrec({name: rng.normal(size=shape) for name, shape in shapes.items()})
    >>> model.schema.categorical_names, list(model.embedding_tables())
    (('C1', 'C2'), ['t_C1', 't_C2'])
    """
    who = "from_torchrec"
    no_hotness(who, hotness, schema)
    state = StateDict(who, state_dict, _KEYS)
    _refuse_others(state)
    bags = state.matching(re.escape(_TABLE).replace(r"\{\}", "(.+)"))
    if not bags:
        raise ValueError(f"{who}: no {_TABLE.format('TABLE')}; is this a TorchRec DLRM's state_dict?")
    names = _named(state, bags, features) if schema is None else {}
    tables = _tables_of(state, dict.fromkeys(names) if schema is None else schema.table_sizes, bags)
    dim = next(iter(tables.values())).shape[1]
    bottom_in = None if schema is None else schema.n_dense
    bottom = state.mlp(_BOTTOM, bottom_in, "the number of the schema's dense columns", dim)
    if not bottom:
        raise ValueError(f"{who}: {_BOTTOM.format(0)!r} is missing; is this a TorchRec DLRM's state_dict?")
    if schema is None:
        columns = [(names[bag], len(table), None if names[bag] == bag else bag) for bag, table in tables.items()]
        schema = default_schema(who, bottom[0][0].shape[1], hotness, columns)
        order = list(range(len(columns) + 1))
    else:
        order = _order(state, schema, bags, features)
    crosses = _crosses(state, order, dim)
    vectors = len(order)
    width = vectors * dim if crosses else dim + vectors * (vectors - 1) // 2
    kind = "inter_arch.crossnet" if crosses else "an upper triangle of products"
    why = f"{kind} of {vectors - 1} sparse columns of width {dim}"
    top = state.mlp(_TOP, width, why, more=[_LOGIT], last=1)
    state.finish()
    top[0] = (np.take(top[0][0], _first_layer(order, dim, bool(crosses)), axis=1), top[0][1])
    return Weights(tables, bottom, top, crosses).model(schema, "cross" if crosses else "dot")


def to_torchrec(model: DLRM, table_prefix: str = "", features: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The inverse of `from_torchrec`: NumPy arrays under TorchRec's names.

    TorchRec's model is to have an `EmbeddingBagConfig` for each table, `name=table_prefix + table`, in the order of
    `schema.table_sizes`, whose `feature_names` are the table's columns in the order of the schema.

    Args:
        model: A `DLRM` with dense columns, ReLU and interaction `"dot"`, or `"cross"` with a `projection_dim`.
        table_prefix: In front of the names of the tables, such as `"t_"`.
        features: `sparse_feature_names` of TorchRec's model, where its tables stand in another order.

    Returns:
        `{"sparse_arch.embedding_bag_collection.embedding_bags.C1.weight": (rows, D), …}`, for `torch.as_tensor`.

    Raises:
        TypeError: no `DLRM`.
        ValueError: TorchRec has no such model.
    """
    who = "to_torchrec"
    weights = Weights.of(who, model, ("dot", "cross"))
    if model.interaction_kind == "dot" and model.interaction.self_interaction:
        raise ValueError(f"{who}: TorchRec multiplies no vector with itself; this model has self_interaction=True.")
    if len(weights.top) < 2:
        raise ValueError(f"{who}: TorchRec's OverArch has two layers or more; this top MLP has one.")
    combiners = {c.table_name: c.combiner for c in model.schema.categorical if c.hotness > 1}
    for column in model.schema.categorical:
        if column.hotness > 1 and column.combiner != combiners[column.table_name]:
            text = f"the columns of table {column.table_name!r} pool differently; in TorchRec pooling is the table's."
            raise ValueError(f"{who}: {text}")
    dim = next(iter(weights.tables.values())).shape[1]
    out: dict[str, np.ndarray] = {}
    for name, table in weights.tables.items():
        if "." in name:
            raise ValueError(f"{who}: the name of table {name!r} has a dot, which a module of PyTorch cannot have.")
        out[_TABLE.format(table_prefix + name)] = table
    order = _places(who, model.schema, features)
    for k, (kernel, bias) in enumerate(weights.bottom):
        out[_BOTTOM.format(k)], out[_BOTTOM.replace("weight", "bias").format(k)] = kernel, bias
    wide = blocks(order, dim)
    for k, (down, kernel, bias) in enumerate(weights.crosses):
        if down is None:
            raise ValueError(f"{who}: TorchRec's DLRM_DCN has cross layers of low rank; this model has projection_dim=None.")
        out[f"{_CROSS}W_kernels.{k}"], out[f"{_CROSS}V_kernels.{k}"] = placed(kernel, wide, 0), placed(down, wide, 1)
        out[f"{_CROSS}bias.{k}"] = placed(bias, wide, 0)
    first = _first_layer(order, dim, bool(weights.crosses))
    top = [(placed(weights.top[0][0], first, 1), weights.top[0][1]), *weights.top[1:]]
    for k, (kernel, bias) in enumerate(top):
        key = _LOGIT if k == len(top) - 1 else _TOP.format(k)
        out[key], out[key.replace("weight", "bias")] = kernel, bias
    return out


def _refuse_others(state: StateDict) -> None:
    for key in state:
        if key.startswith("inter_arch.interaction_branch"):
            raise ValueError(f"{state.who}: {key!r} is of a DLRM_Projection, which has no counterpart here.")
        if key.startswith(_CROSS) and not re.match(r"(W_kernels|V_kernels|bias)\.\d+$", key[len(_CROSS) :]):
            raise ValueError(f"{state.who}: {key!r} is not of a LowRankCrossNet, the one that a DLRM_DCN has.")


def _crosses(state: StateDict, order: Sequence[int], dim: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    count = max([int(k) + 1 for k in state.matching(re.escape(_CROSS) + r"\w+\.(\d+)")], default=0)
    n, wide = len(order) * dim, blocks(order, dim)
    why = f"a cross layer over {len(order)} vectors of width {dim}"
    crosses: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for k in range(count):
        down = state.take(f"{_CROSS}V_kernels.{k}", (len(crosses[0][0]) if crosses else None, n), why)
        kernel = state.take(f"{_CROSS}W_kernels.{k}", (n, len(down)), why)
        crosses.append((down[:, wide], kernel[wide], state.take(f"{_CROSS}bias.{k}", (n,), why)[wide]))
    return crosses


def _first_layer(order: Sequence[int], dim: int, crossed: bool) -> np.ndarray:
    """Inputs of the first over-arch layer that are ours, in our order."""
    if crossed:
        return blocks(order, dim)
    return np.concatenate([np.arange(dim), dim + products(order, np.triu_indices(len(order), 1))])


def _named(state: StateDict, bags: Sequence[str], features: Sequence[str] | None) -> dict[str, str]:
    """Names of columns by the embedding bag that each looks up, in TorchRec's order."""
    names = {bag: bag.removeprefix("t_") if bags.count(bag.removeprefix("t_")) == 0 else bag for bag in bags}
    if features is not None:
        column = {name: bag for bag, name in names.items()} | {bag: bag for bag in bags}
        if len(set(features)) != len(bags) or any(f not in column for f in features):
            fix = "give a schema that says which column looks up which table"
            raise ValueError(f"{state.who}: features={list(features)} are not one for each of the tables {list(bags)}; {fix}.")
        return {column[f]: f for f in features}
    numbers = [re.fullmatch(r"(.*?)(\d+)", bag) for bag in bags]
    counted = [int(m[2]) for m in numbers if m] if len({m[1] for m in numbers if m}) == 1 else []
    if counted != sorted(counted):
        raise ValueError(f"{state.who}: the keys have the tables as {list(bags)}, which is not an order of columns; {_GIVE}.")
    _refuse_sorted(state, bags)
    return names


def _refuse_sorted(state: StateDict, bags: Sequence[str]) -> None:
    if state.sorted and len(bags) > 1:
        why = "as a DistributedModelParallel has them, so that they do not tell TorchRec's order of the columns"
        raise ValueError(f"{state.who}: the keys are sorted by name, {why}; {_GIVE}.")


def _tables_of(state: StateDict, sizes: Mapping[str, int | None], bags: Sequence[str]) -> dict[str, np.ndarray]:
    """The tables by name; their numbers of rows are a schema's, or `None`."""
    tables: dict[str, np.ndarray] = {}
    width = None
    for name, rows in sizes.items():
        bag = name if name in bags else f"t_{name}"
        if bag not in bags:
            text = f"which has {list(bags)}; name the columns, or their table=…, as those"
            raise ValueError(f"{state.who}: the schema's table {name!r} is missing from the state_dict, {text}.")
        why = "the table before it" if rows is None else f"table {name!r} of the schema, vocabulary_size={rows},"
        tables[name] = state.take(_TABLE.format(bag), (rows, width), why)
        width = tables[name].shape[1]
    for key in state:
        if key.startswith(_TABLE.partition("{")[0]):
            raise ValueError(f"{state.who}: the schema has no table for {key!r} {state.shape(key)}; it has {list(tables)}.")
    return tables


def _order(state: StateDict, schema: Schema, bags: Sequence[str], features: Sequence[str] | None) -> list[int]:
    """Place of each of our vectors among TorchRec's: the dense one, then the columns."""
    if features is None:
        ours = [name if name in bags else f"t_{name}" for name in schema.table_sizes]
        if len(ours) < len(schema.categorical):
            raise ValueError(f"{state.who}: the schema's columns share tables, and TorchRec's order is by table; {_GIVE}.")
        _refuse_sorted(state, bags)
        if ours != list(bags):
            names = f"{list(bags)}, the schema has its columns as {list(schema.categorical_names)}"
            raise ValueError(f"{state.who}: the keys have the tables as {names}; {_GIVE}.")
    return _places(state.who, schema, features)


def _places(who: str, schema: Schema, features: Sequence[str] | None) -> list[int]:
    """Place of each of our vectors where the order is known; by default the columns stand table by table."""
    if features is None:
        tables = list(schema.table_sizes)
        features = [c.name for c in sorted(schema.categorical, key=lambda c: tables.index(c.table_name))]
    if sorted(features) != sorted(schema.categorical_names):
        names = list(schema.categorical_names)
        raise ValueError(f"{who}: features={list(features)} must be the schema's sparse columns, {names}, in TorchRec's order.")
    return [0, *(1 + list(features).index(name) for name in schema.categorical_names)]
