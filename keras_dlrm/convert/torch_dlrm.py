"""Weights of the reference, facebookresearch/dlrm's PyTorch model, to and from a `DLRM`, its tables whole or split."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.convert.state_dict import StateDict
from keras_dlrm.convert.weights import Weights, default_schema, no_hotness
from keras_dlrm.models.dlrm import DLRM
from keras_dlrm.schema.schema import Schema
from keras_dlrm.sharding.compression import OPERATIONS, QuotientRemainder

_KEYS = "emb_l.N.weight (or weight_q, weight_r; or embs.weight, proj.weight), bot_l.2k.weight/bias and top_l.2k.weight/bias"
_BEFORE = "(rows, D) with the width D of the tables before it"
_KINDS = ("weight", "weight_q", "embs.weight")
_COMBINED = {"mult": np.multiply, "add": np.add}


def from_torch_dlrm(
    state_dict: Mapping[str, Any], interaction: str = "dot", self_interaction: bool = False,
    hotness: int | Sequence[int] | None = None, schema: Schema | None = None, operation: str = "mult",
) -> DLRM:  # fmt: skip
    """A `DLRM` with the weights of a PyTorch DLRM. MLPerf's DLRM up to version 2.1 is such a model.

    Args:
        state_dict: Its `state_dict()`, `emb_l.N.weight` (rows, D), `bot_l.2k.weight` (out, in), `bot_l.2k.bias` and so on,
            torch tensors or arrays, or a checkpoint or module with it. Weights of learned pooling (`v_W_l.N`) are put into
            their tables. Tables of `--qr-flag` (`weight_q`, `weight_r`) and `--md-flag` (`embs`, `proj`) stay split.
        interaction: `"dot"` or `"cat"`, the reference's `--arch-interaction-op`.
        self_interaction: The reference's `--arch-interaction-itself`.
        hotness: Most ids per example, one number or one per table; 1 by default. Pooling is the sum, as in the reference.
        schema: Names, hotness and combiners; `I1 …`, `C1 …`, and as many ids as a split table can have, by default.
        operation: The reference's `--qr-operation`, which no checkpoint tells: `"mult"`, `"add"` or `"concat"`.

    Returns:
        The model, not compiled. Its sparse column N + 1 looks up `emb_l.N`.

    Raises:
        ValueError: keys or shapes that do not fit; both `hotness` and `schema`; several ids of a table split by a product.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> shapes = {"emb_l.0.weight": (9, 4), "emb_l.1.weight": (5, 4), "bot_l.0.weight": (4, 3), "bot_l.0.bias": (4,),
    ...           "top_l.0.weight": (1, 7), "top_l.0.bias": (1,)}
    >>> model = from_torch_dlrm({name: rng.normal(size=shape) for name, shape in shapes.items()})
    >>> {name: table.shape for name, table in model.embedding_tables().items()}
    {'C1': (9, 4), 'C2': (5, 4)}
    """
    who = "from_torch_dlrm"
    if interaction not in ("dot", "cat"):
        raise ValueError(f"{who}: interaction={interaction!r}; the reference has 'dot' and 'cat'.")
    no_hotness(who, hotness, schema)
    state = StateDict(who, state_dict, _KEYS)
    if schema is not None and len(schema.table_sizes) != len(schema.categorical):
        raise ValueError(f"{who}: the schema shares tables; the reference has one per column.")
    tables, dim = read(state, operation, None if schema is None else list(schema.table_sizes.items()))
    bottom_in = None if schema is None else schema.n_dense
    bottom = state.mlp("bot_l.{}.weight", bottom_in, "the number of the schema's dense columns", dim, skip=2)
    vectors = len(tables) + 1
    products = vectors * (vectors + (1 if self_interaction else -1)) // 2
    width = dim + products if interaction == "dot" else vectors * dim
    why = f"interaction={interaction!r}, self_interaction={self_interaction} with {len(tables)} tables of width {dim}"
    top = state.mlp("top_l.{}.weight", width, why, 1, skip=2)
    state.finish()
    if not bottom or not top:
        raise ValueError(f"{who}: no {'top_l' if bottom else 'bot_l'}.2k.weight; is this a DLRM's state_dict?")
    if schema is None:
        schema = default_schema(who, bottom[0][0].shape[1], hotness, [(f"C{i + 1}", t.size, None) for i, t in enumerate(tables)])
    ids = {column.table_name: column.hotness for column in schema.categorical}
    kept = stored(who, dict(zip(schema.table_sizes, tables, strict=True)), operation, ids)
    return Weights(bottom=bottom, top=top, **kept).model(schema, interaction, self_interaction)


def to_torch_dlrm(model: DLRM) -> dict[str, np.ndarray]:
    """The inverse of `from_torch_dlrm`: NumPy arrays under the reference's names.

    Args:
        model: A `DLRM` with interaction `"dot"` or `"cat"`, ReLU and sum pooling, without batch norm or shared tables.

    Returns:
        `{"emb_l.0.weight": (rows, D), …}`, of split tables `weight_q` and `weight_r`, of mixed dimensions `embs.weight` and
        `proj.weight`; `torch.as_tensor` makes a loadable state_dict of the values.

    Raises:
        TypeError: no `DLRM`.
        ValueError: the reference has no such model.
    """
    weights = Weights.of("to_torch_dlrm", model, ("dot", "cat"), compressed=True)
    for column in model.schema.categorical:
        if column.combiner != "sum" and column.hotness > 1:
            raise ValueError(f"to_torch_dlrm: column {column.name!r} pools by {column.combiner!r}; the reference sums.")
    columns = [c.table_name for c in model.schema.categorical]
    if len(set(columns)) < len(columns):
        raise ValueError("to_torch_dlrm: the reference has one table per column; this model shares tables.")
    out: dict[str, np.ndarray] = {}
    for i, (name, column) in enumerate(zip(columns, model.schema.categorical, strict=True)):
        if name in weights.tables:
            # With mixed dimensions the reference has no table of the plain kind.
            out[f"emb_l.{i}.embs.weight" if weights.projections else f"emb_l.{i}.weight"] = weights.tables[name]
            if name in weights.projections:
                out[f"emb_l.{i}.proj.weight"] = weights.projections[name]
        else:
            if column.hotness > 1 and weights.quotient_remainder.operation == "mult":  # type: ignore[union-attr]
                fault = f"its column has up to {column.hotness} ids, of which the reference multiplies sums of rows"
                raise ValueError(f"to_torch_dlrm: table {name!r} is split and {fault}.")
            for key, half in (("weight_q", "quotient"), ("weight_r", "remainder")):
                out[f"emb_l.{i}.{key}"] = weights.tables[f"{name}.{half}"]
    for part, layers in (("bot_l", weights.bottom), ("top_l", weights.top)):
        for k, (kernel, bias) in enumerate(layers):
            # Between the Linear layers stand activations without weights, so that Linear k has the number 2k.
            out[f"{part}.{2 * k}.weight"], out[f"{part}.{2 * k}.bias"] = kernel, bias
    return out


@dataclasses.dataclass(frozen=True)
class TorchTable:
    """A table of the reference's, of width D: rows (n, d) with a projection (D, d), or quotients with remainders."""

    rows: np.ndarray
    projection: np.ndarray | None = None
    remainders: np.ndarray | None = None
    size: int = 0  # ids; of a split table whose column is not known the most that its rows stand for


def read(state: StateDict, operation: str, sizes: Sequence[tuple[str, int]] | None) -> tuple[list[TorchTable], int]:
    """The tables of a state_dict and their width D; `sizes` are name and vocabulary of each table of a schema, or `None`."""
    who = state.who
    if operation not in OPERATIONS:
        raise ValueError(f"{who}: operation={operation!r} is unknown; the reference's --qr-operation is one of {OPERATIONS}.")
    numbers = [int(n) for kind in _KINDS for n in state.matching(rf"emb_l\.(\d+)\.{kind}")]
    if not numbers:
        raise ValueError(f"{who}: no emb_l.N.weight; is this a DLRM's state_dict?")
    if sizes is not None and len(sizes) != max(numbers) + 1:
        counts = f"{len(sizes)} tables, the state_dict {max(numbers) + 1}"
        raise ValueError(f"{who}: the schema has {counts}; give as many sparse columns, each with a table of its own.")
    tables: list[TorchTable] = []
    dim: int | None = None
    for i in range(max(numbers) + 1):
        size = None if sizes is None else sizes[i][1]
        why = f"table {sizes[i][0]!r} of the schema, vocabulary_size={size}," if sizes is not None else _BEFORE
        if f"emb_l.{i}.weight_q" in state:
            table = _split(state, i, operation, dim, size, why)
            width = table.rows.shape[1] * (2 if operation == "concat" else 1)
        else:
            table = _whole(state, i, dim, size, why)
            width = table.rows.shape[1] if table.projection is None else len(table.projection)
        tables.append(table)
        dim = width if dim is None else dim
    return tables, dim or 0


def _whole(state: StateDict, i: int, dim: int | None, size: int | None, why: str) -> TorchTable:
    mixed, key, pooling = f"emb_l.{i}.embs.weight", f"emb_l.{i}.proj.weight", f"v_W_l.{i}"
    # Without a projection as wide as the others.
    narrow = mixed in state and key in state
    rows = state.take(mixed if mixed in state else f"emb_l.{i}.weight", (size, None if narrow else dim), why)
    if pooling in state:  # learned, and multiplied in
        rows = rows * state.take(pooling, (len(rows),), f"emb_l.{i}, {rows.shape},")[:, None]
    if not narrow:
        return TorchTable(rows, size=len(rows))
    projection = state.take(key, (dim, rows.shape[1]), f"{mixed}, {rows.shape},")
    if not np.isfinite(projection).all():
        raise ValueError(f"{state.who}: {key!r} holds NaN or infinity; take a checkpoint from before training went wrong.")
    return TorchTable(rows, projection, size=len(rows))


def _split(state: StateDict, i: int, operation: str, dim: int | None, size: int | None, why: str) -> TorchTable:
    if f"v_W_l.{i}" in state:
        raise ValueError(f"{state.who}: 'v_W_l.{i}' weights ids of a quotient–remainder table, which has no counterpart here.")
    width = dim // 2 if dim is not None and operation == "concat" else dim
    remainders = state.take(f"emb_l.{i}.weight_r", (None, width), "the width of the tables before it")
    collisions = len(remainders)
    shape = None if size is None else -(-size // collisions), remainders.shape[1]
    rows = state.take(f"emb_l.{i}.weight_q", shape, f"{why} with {collisions} collisions")
    return TorchTable(rows, None, remainders, len(rows) * collisions if size is None else size)


def stored(who: str, tables: Mapping[str, TorchTable], operation: str, hotness: Mapping[str, int]) -> dict[str, Any]:
    """Arguments of `Weights`: a table that the reference splits stays split where a `DLRM` would split it; else it is whole.

    `ValueError` where an example has several ids (`hotness`, by table) of a table whose rows are multiplied.
    """
    split = {name: len(table.remainders) for name, table in tables.items() if table.remainders is not None}
    for name in split:
        if operation == "mult" and hotness[name] > 1:
            fault = f"its column has up to {hotness[name]} ids, and operation='mult': the reference multiplies sums of rows"
            fix = "which has no counterpart here. With hotness 1 it has, and so have 'add' and 'concat'."
            raise ValueError(f"{who}: table {name!r} is split, {fault}, {fix}")
    if len(set(split.values())) > 1:
        collisions = sorted(set(split.values()))
        raise ValueError(f"{who}: tables are split with {collisions} collisions; the reference has one number for all.")
    threshold = max((table.size for name, table in tables.items() if name not in split), default=0)
    rule = QuotientRemainder(next(iter(split.values())), operation, threshold) if split else None
    arrays: dict[str, np.ndarray] = {}
    for name, table in tables.items():
        if table.remainders is None:
            arrays[name] = table.rows
        elif rule is not None and rule.splits(table.size):
            arrays[f"{name}.quotient"], arrays[f"{name}.remainder"] = table.rows, table.remainders
        else:
            ids, count = np.arange(table.size), len(table.remainders)
            halves = table.rows[ids // count], table.remainders[ids % count]
            arrays[name] = np.concatenate(halves, axis=1) if operation == "concat" else _COMBINED[operation](*halves)
    projections = {name: table.projection for name, table in tables.items() if table.projection is not None}
    return {"tables": arrays, "projections": projections, "quotient_remainder": rule if split.keys() - arrays.keys() else None}
