"""Weights of the reference, facebookresearch/dlrm's PyTorch model, to and from a `DLRM`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_dlrm.models.dlrm import DLRM
from keras_dlrm.schema import Categorical, Schema


def from_torch_dlrm(
    state_dict: Mapping[str, Any],
    interaction: str = "dot",
    self_interaction: bool = False,
    hotness: int | Sequence[int] | None = None,
    schema: Schema | None = None,
) -> DLRM:
    """A `DLRM` with the weights of a PyTorch DLRM.

    Args:
        state_dict: Its `state_dict()`: `emb_l.N.weight` (rows, D), `bot_l.2k.weight` (out, in), `bot_l.2k.bias`,
            `top_l.2k.weight`, `top_l.2k.bias`; torch tensors or NumPy arrays. A checkpoint's outer dictionary with
            the key `"state_dict"` will do too.
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
    if "state_dict" in state_dict and isinstance(state_dict["state_dict"], Mapping):
        state_dict = state_dict["state_dict"]
    if interaction not in ("dot", "cat"):
        raise ValueError(f"from_torch_dlrm: interaction={interaction!r}; the reference has 'dot' and 'cat'.")
    weights = {re.sub(r"^module\.", "", key): _numpy(value) for key, value in state_dict.items()}
    tables = _tables(weights)
    bottom, top = _mlp(weights, "bot_l"), _mlp(weights, "top_l")
    known = {f"emb_l.{i}.weight" for i in range(len(tables))}
    known |= {f"{part}.{2 * k}.{kind}" for part, mlp in (("bot_l", bottom), ("top_l", top)) for k in range(len(mlp))
              for kind in ("weight", "bias")}  # fmt: skip
    for key in weights:
        if key not in known:
            raise ValueError(
                f"from_torch_dlrm: unknown key {key!r} of shape {weights[key].shape}; known are emb_l.N.weight, "
                "bot_l.2k.weight/bias and top_l.2k.weight/bias. Other table kinds of the reference are not supported."
            )
    if not tables or not top:
        raise ValueError("from_torch_dlrm: no emb_l.N.weight or no top_l.2k.weight; is this a DLRM state_dict?")
    if schema is not None and hotness is not None:
        raise ValueError(
            f"from_torch_dlrm: hotness={hotness!r} was given beside a schema, which has its own; leave it out."
        )
    hot = list(hotness) if isinstance(hotness, Sequence) else [1 if hotness is None else int(hotness)] * len(tables)
    if len(hot) != len(tables):
        raise ValueError(f"from_torch_dlrm: hotness has {len(hot)} entries for {len(tables)} tables.")
    if schema is None:
        schema = Schema(
            dense=[f"I{i + 1}" for i in range(bottom[0][0].shape[1] if bottom else 0)],
            categorical=[
                Categorical(f"C{i + 1}", len(table), hotness=h)
                for i, (table, h) in enumerate(zip(tables, hot, strict=True))
            ],
        )
    if len(schema.table_sizes) != len(tables):
        raise ValueError(
            f"from_torch_dlrm: the schema has {len(schema.table_sizes)} tables, the state_dict {len(tables)}; give as "
            "many sparse columns, each with a table of its own."
        )
    model = DLRM(
        schema,
        embedding_dim=int(tables[0].shape[1]),
        bottom_mlp=[len(w) for w, _ in bottom] or None,
        top_mlp=[len(w) for w, _ in top],
        interaction=interaction,
        self_interaction=self_interaction,
        seed=0,
    )
    model.set_embedding_tables(dict(zip(schema.table_sizes, tables, strict=True)))
    parts: list[tuple[str, Any, Any]] = [("bot_l", bottom, model.bottom_mlp), ("top_l", top, model.top_mlp)]
    for name, mlp, layers in parts:
        for k, (weight, bias) in enumerate(mlp):
            dense = layers.dense_layers[k]
            if dense.kernel.shape != weight.shape[::-1]:
                raise ValueError(
                    f"from_torch_dlrm: {name}.{2 * k}.weight has shape {weight.shape}; interaction={interaction!r}, "
                    f"self_interaction={self_interaction} with {len(tables)} tables of width {tables[0].shape[1]} needs "
                    f"{tuple(dense.kernel.shape[::-1])}."
                )
            if bias.shape != (len(weight),):
                raise ValueError(f"from_torch_dlrm: {name}.{2 * k}.bias has shape {bias.shape}, not {(len(weight),)}.")
            dense.set_weights([weight.T, bias])
    return model


def to_torch_dlrm(model: DLRM) -> dict[str, np.ndarray]:
    """The inverse of `from_torch_dlrm`: NumPy arrays under the reference's names.

    Args:
        model: A `DLRM` with interaction `"dot"` or `"cat"`, ReLU and sum pooling, without batch norm or shared tables.

    Returns:
        `{"emb_l.0.weight": (rows, D), …}`; `torch.as_tensor` makes a loadable state_dict of the values.

    Raises:
        ValueError: the reference has no such model.
    """
    if model.interaction_kind not in ("dot", "cat"):
        raise ValueError(f"to_torch_dlrm: the reference has no interaction {model.interaction_kind!r}.")
    if model.top_mlp.batch_norm:
        raise ValueError("to_torch_dlrm: the reference has no batch norm.")
    if model.top_mlp.activation is not keras.activations.relu:
        raise ValueError(
            f"to_torch_dlrm: the reference has no activation {model.top_mlp.activation.__name__!r}, only ReLU."
        )
    for column in model.schema.categorical:
        if column.combiner != "sum" and column.hotness > 1:
            raise ValueError(f"to_torch_dlrm: column {column.name!r} pools by {column.combiner!r}; the reference sums.")
    columns = [c.table_name for c in model.schema.categorical]
    if len(set(columns)) < len(columns):
        raise ValueError("to_torch_dlrm: the reference has one table per column; this model shares tables.")
    tables = model.embedding_tables()
    out = {f"emb_l.{i}.weight": tables[name] for i, name in enumerate(columns)}
    for name, layers in (("bot_l", model.bottom_mlp), ("top_l", model.top_mlp)):
        for k, dense in enumerate(layers.dense_layers if layers is not None else []):
            kernel, bias = dense.get_weights()
            out[f"{name}.{2 * k}.weight"], out[f"{name}.{2 * k}.bias"] = kernel.T.copy(), bias
    return out


def _numpy(value: Any) -> np.ndarray:
    for method in ("detach", "cpu", "float", "numpy"):
        if hasattr(value, method):
            value = getattr(value, method)()
    return np.asarray(value, dtype=np.float32)


def _tables(weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    count = sum(1 for key in weights if re.fullmatch(r"emb_l\.\d+\.weight", key))
    tables = []
    for i in range(count):
        key = f"emb_l.{i}.weight"
        if key not in weights:
            raise ValueError(f"from_torch_dlrm: {key!r} is missing though there are {count} tables.")
        if weights[key].ndim != 2 or weights[key].shape[1] != weights["emb_l.0.weight"].shape[1]:
            raise ValueError(f"from_torch_dlrm: {key!r} has shape {weights[key].shape}; all tables need (rows, D).")
        tables.append(weights[key])
    return tables


def _mlp(weights: Mapping[str, np.ndarray], part: str) -> list[tuple[np.ndarray, np.ndarray]]:
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    # Between the Linear layers stand activations without weights, so that Linear k has the number 2k.
    while f"{part}.{2 * len(layers)}.weight" in weights:
        key = f"{part}.{2 * len(layers)}"
        if f"{key}.bias" not in weights:
            raise ValueError(f"from_torch_dlrm: {key}.bias is missing.")
        layers.append((weights[f"{key}.weight"], weights[f"{key}.bias"]))
    return layers
