"""Weights of the reference, facebookresearch/dlrm's PyTorch model, to and from a `DLRM`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.convert.state_dict import StateDict
from keras_dlrm.convert.torch_tables import read, stored
from keras_dlrm.convert.weights import Weights, default_schema, no_hotness
from keras_dlrm.models.dlrm import DLRM
from keras_dlrm.schema.schema import Schema

_KEYS = "emb_l.N.weight (or weight_q, weight_r; or embs.weight, proj.weight), bot_l.2k.weight/bias and top_l.2k.weight/bias"


def from_torch_dlrm(
    state_dict: Mapping[str, Any],
    interaction: str = "dot",
    self_interaction: bool = False,
    hotness: int | Sequence[int] | None = None,
    schema: Schema | None = None,
    operation: str = "mult",
) -> DLRM:
    """A `DLRM` with the weights of a PyTorch DLRM. MLPerf's DLRM up to version 2.1 is such a model.

    Args:
        state_dict: Its `state_dict()`: `emb_l.N.weight` (rows, D), `bot_l.2k.weight` (out, in), `bot_l.2k.bias`,
            `top_l.2k.weight`, `top_l.2k.bias`; torch tensors or NumPy arrays. A checkpoint's outer dictionary with
            the key `"state_dict"`, a module, and the prefixes of DataParallel and DistributedDataParallel will do too.
            Weights of learned pooling (`v_W_l.N`) are multiplied into their tables. Tables of `--qr-flag`, `emb_l.N.weight_q` and
            `weight_r`, and of `--md-flag`, `emb_l.N.embs.weight` and `proj.weight`, stay split, and narrow.
        interaction: `"dot"` or `"cat"`, the reference's `--arch-interaction-op`.
        self_interaction: The reference's `--arch-interaction-itself`.
        hotness: Most ids per example, one number or one per table; 1 by default. Pooling is the sum, as in the
            reference.
        schema: Names, hotness and combiners for the columns; `I1 …`, `C1 …` by default. Without it a split table has as many ids
            as its two tables can stand for.
        operation: The reference's `--qr-operation`, which no checkpoint tells: `"mult"`, `"add"` or `"concat"`.

    Returns:
        The model, not compiled. Its sparse column N + 1 looks up `emb_l.N`.

    Raises:
        ValueError: unknown keys, missing ones, shapes that do not fit, both `hotness` and `schema`, or several ids of a split
            table whose rows are multiplied.

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
        columns = [(f"C{i + 1}", table.size, None) for i, table in enumerate(tables)]
        schema = default_schema(who, bottom[0][0].shape[1], hotness, columns)
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
                raise ValueError(
                    f"to_torch_dlrm: table {name!r} is split and its column has up to {column.hotness} ids, of which the reference "
                    "multiplies sums of rows."
                )
            for key, half in (("weight_q", "quotient"), ("weight_r", "remainder")):
                out[f"emb_l.{i}.{key}"] = weights.tables[f"{name}.{half}"]
    for part, layers in (("bot_l", weights.bottom), ("top_l", weights.top)):
        for k, (kernel, bias) in enumerate(layers):
            # Between the Linear layers stand activations without weights, so that Linear k has the number 2k.
            out[f"{part}.{2 * k}.weight"], out[f"{part}.{2 * k}.bias"] = kernel, bias
    return out
