"""Weights of the reference, facebookresearch/dlrm's PyTorch model, to and from a `DLRM`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.convert.state_dict import StateDict
from keras_dlrm.convert.weights import Weights, default_schema, each, no_hotness
from keras_dlrm.models.dlrm import DLRM
from keras_dlrm.schema import Categorical, Schema

_KEYS = "emb_l.N.weight, bot_l.2k.weight/bias and top_l.2k.weight/bias"


def from_torch_dlrm(
    state_dict: Mapping[str, Any],
    interaction: str = "dot",
    self_interaction: bool = False,
    hotness: int | Sequence[int] | None = None,
    schema: Schema | None = None,
) -> DLRM:
    """A `DLRM` with the weights of a PyTorch DLRM. MLPerf's DLRM up to version 2.1 is such a model.

    Args:
        state_dict: Its `state_dict()`: `emb_l.N.weight` (rows, D), `bot_l.2k.weight` (out, in), `bot_l.2k.bias`,
            `top_l.2k.weight`, `top_l.2k.bias`; torch tensors or NumPy arrays. A checkpoint's outer dictionary with
            the key `"state_dict"`, a module, and the prefixes of DataParallel and DistributedDataParallel will do too.
            Weights of learned pooling (`v_W_l.N`) are multiplied into their tables.
        interaction: `"dot"` or `"cat"`, the reference's `--arch-interaction-op`.
        self_interaction: The reference's `--arch-interaction-itself`.
        hotness: Most ids per example, one number or one per table; 1 by default. Pooling is the sum, as in the
            reference.
        schema: Names, hotness and combiners for the columns; `I1 …`, `C1 …` by default.

    Returns:
        The model, not compiled. Its sparse column N + 1 looks up `emb_l.N`.

    Raises:
        ValueError: unknown keys (quotient–remainder or mixed-dimension tables), missing ones, shapes that do not fit, or
            both `hotness` and `schema`.

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
    tables = _tables(state, schema)
    bottom_in = None if schema is None else schema.n_dense
    dim = tables[0].shape[1]
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
        hot = each(who, hotness, len(tables))
        columns = [Categorical(f"C{i + 1}", len(table), hotness=hot[i]) for i, table in enumerate(tables)]
        schema = default_schema(bottom[0][0].shape[1], columns)
    weights = Weights(dict(zip(schema.table_sizes, tables, strict=True)), bottom, top)
    return weights.model(schema, interaction, self_interaction)


def to_torch_dlrm(model: DLRM) -> dict[str, np.ndarray]:
    """The inverse of `from_torch_dlrm`: NumPy arrays under the reference's names.

    Args:
        model: A `DLRM` with interaction `"dot"` or `"cat"`, ReLU and sum pooling, without batch norm or shared tables.

    Returns:
        `{"emb_l.0.weight": (rows, D), …}`; `torch.as_tensor` makes a loadable state_dict of the values.

    Raises:
        TypeError: no `DLRM`.
        ValueError: the reference has no such model.
    """
    weights = Weights.of("to_torch_dlrm", model, ("dot", "cat"))
    for column in model.schema.categorical:
        if column.combiner != "sum" and column.hotness > 1:
            raise ValueError(f"to_torch_dlrm: column {column.name!r} pools by {column.combiner!r}; the reference sums.")
    columns = [c.table_name for c in model.schema.categorical]
    if len(set(columns)) < len(columns):
        raise ValueError("to_torch_dlrm: the reference has one table per column; this model shares tables.")
    out = {f"emb_l.{i}.weight": weights.tables[name] for i, name in enumerate(columns)}
    for part, layers in (("bot_l", weights.bottom), ("top_l", weights.top)):
        for k, (kernel, bias) in enumerate(layers):
            # Between the Linear layers stand activations without weights, so that Linear k has the number 2k.
            out[f"{part}.{2 * k}.weight"], out[f"{part}.{2 * k}.bias"] = kernel, bias
    return out


def _tables(state: StateDict, schema: Schema | None) -> list[np.ndarray]:
    numbers = state.matching(r"emb_l\.(\d+)\.weight")
    if not numbers:
        raise ValueError(f"{state.who}: no emb_l.N.weight; is this a DLRM's state_dict?")
    count = max(map(int, numbers)) + 1
    if schema is not None and len(schema.table_sizes) != len(schema.categorical):
        raise ValueError(f"{state.who}: the schema shares tables; the reference has one per column.")
    if schema is not None and len(schema.table_sizes) != count:
        raise ValueError(
            f"{state.who}: the schema has {len(schema.table_sizes)} tables, the state_dict {count}; give as many sparse "
            "columns, each with a table of its own."
        )
    tables: list[np.ndarray] = []
    for i in range(count):
        rows, why = None, "(rows, D) with the width D of emb_l.0.weight"
        if schema is not None:
            name, rows = list(schema.table_sizes.items())[i]
            why = f"table {name!r} of the schema, vocabulary_size={rows},"
        table = state.take(f"emb_l.{i}.weight", (rows, tables[0].shape[1] if tables else None), why)
        pooling = f"v_W_l.{i}"
        if pooling in state:
            table = table * state.take(pooling, (len(table),), f"emb_l.{i}.weight, {table.shape},")[:, None]
        tables.append(table)
    return tables
