"""Weights of TensorFlow Recommenders' `Ranking` models to a `DLRM`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_dlrm.backend import private_tfrs
from keras_dlrm.convert.weights import Weights, blocks, products
from keras_dlrm.models.dlrm import DLRM
from keras_dlrm.schema.schema import Categorical, Schema

_WHO = "from_tfrs"


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A Dense layer of a stack: kernel (in, out), bias (out,) and the name of its activation."""

    name: str
    kernel: np.ndarray
    bias: np.ndarray
    activation: str


def from_tfrs(model: Any, schema: Schema | None = None, hotness: Mapping[str, int] | int = 1) -> DLRM:
    """A `DLRM` with the weights of a `tfrs.experimental.models.Ranking`.

    The model is read in the process that has it, where `TF_USE_LEGACY_KERAS=1` was set before TensorFlow was imported;
    Keras 3 and this package work alongside it. Save the result: it loads anywhere.

    TFRS sorts sparse features by name and puts the bottom stack's output behind them; the rows of the layer behind the
    interaction are put in order. Where TFRS has no bias, or leaves the bottom stack's output out (`concat_dense=False`
    alongside a `DotInteraction`), there are zeros in its place, which training would change.

    Args:
        model: The `Ranking`, called once, so that it has its weights. Its embedding layer is a `TPUEmbedding` or a
            `PartialTPUEmbedding`; its stacks are `MLP` blocks, or Sequentials of these, Dense and Activation layers; the
            interaction is a `DotInteraction`, or a Sequential of a Concatenate and a `Cross` or `MultiLayerDCN`.
        schema: Sparse columns by TFRS's names in any order, dense ones in its order; by default sorted, and `I1 …`.
        hotness: Without a schema: most ids per example, one number or one by column; a column of a Keras Embedding has 1.

    Returns:
        The model, not compiled, with interaction `"dot"` or `"cross"`.

    Raises:
        TypeError: no `Ranking`, or a layer of another kind in it.
        ValueError: no weights yet; a part that has no counterpart; a schema that does not fit.

    Example:

    ```python
    ranking = tfrs.experimental.models.Ranking(embedding_layer, bottom_stack, top_stack=top_stack)
    ranking.load_weights("ranking/weights")
    ranking(batch)
    kd.convert.from_tfrs(ranking).save("ranking.keras")
    ```
    """
    try:
        parts = private_tfrs.parts_of(model)
    except AttributeError as error:
        kind = f"{type(model).__name__} is not a tfrs.experimental.models.Ranking"
        raise TypeError(f"{_WHO}: {kind}: it has no {error.name}. Give that model.") from error
    columns, arrays = _columns(parts.embedding_layer, hotness)
    bottom, top = _stack(parts.bottom_stack, "bottom_stack"), _stack(parts.top_stack, "top_stack")
    activation = _activation(bottom, top)
    schema = _schema(columns, len(bottom[0].kernel), schema)
    tables = {c.table_name: arrays[c.name] for c in schema.categorical}
    dim = len(bottom[-1].bias)
    for name, table in tables.items():
        if table.shape[1] != dim:
            wide = f"the bottom stack ends with {dim}, and all must be as wide"
            raise ValueError(f"{_WHO}: table {name!r} has shape {table.shape}; {wide}.")
    # TFRS's vectors: the sparse ones by name, then the bottom stack's output.
    by_name = sorted(schema.categorical_names)
    order = [len(by_name), *(by_name.index(name) for name in schema.categorical_names)]
    interaction, concat_dense = parts.feature_interaction, bool(parts.concat_dense)
    if type(interaction).__name__ == "DotInteraction":
        kind, (itself, _) = "dot", private_tfrs.dot_options(interaction)
        first, crosses = _behind_products(interaction, top[0], order, dim, concat_dense), []
    else:
        kind, itself = "cross", False
        crosses = _crosses(interaction, order, dim)
        # (n, out), or (D + n, out) alongside the bottom stack's output.
        start, kernel = dim if concat_dense else 0, top[0].kernel
        _check_width(top[0], start + len(order) * dim)
        first = np.concatenate([kernel[:start], kernel[start:][blocks(order, dim)]])
    low, high = ([(layer.kernel.T, layer.bias) for layer in stack] for stack in (bottom, top))
    high[0] = (first.T, top[0].bias)
    options = {"concat_dense": True} if kind == "cross" and concat_dense else {}
    return Weights(tables, low, high, crosses).model(schema, kind, itself, activation=activation, **options)


def _columns(layer: Any, hotness: Mapping[str, int] | int) -> tuple[dict[str, Categorical], dict[str, np.ndarray]]:
    """The columns by name, and the table of each."""
    kind = type(layer).__name__
    partial = kind == "PartialTPUEmbedding"
    many, keras_layers = (layer.tpu_embedding, dict(layer.keras_embedding_layers)) if partial else (layer, {})
    if kind not in ("TPUEmbedding", "PartialTPUEmbedding"):
        known = "known are TPUEmbedding and PartialTPUEmbedding. Make one of these with your tables."
        raise TypeError(f"{_WHO}: the embedding layer is a {kind}; {known}")
    columns: dict[str, Categorical] = {}
    arrays: dict[str, np.ndarray] = {}
    configurations: Any = {} if many is None else private_tfrs.features_of(many)
    if not isinstance(configurations, Mapping) or any(not isinstance(name, str) for name in configurations):
        raise TypeError(f"{_WHO}: the features of the TPUEmbedding must be a dictionary by name, without further nesting.")
    variables = {} if many is None else private_tfrs.tables_of(many)
    if configurations and not variables:
        raise ValueError(f"{_WHO}: the embedding layer has no weights yet; call the model on a batch first.")
    by_name = {table.name: variable for table, variable in (variables or {}).items()}
    for name, feature in configurations.items():
        if feature.max_sequence_length:
            raise ValueError(f"{_WHO}: feature {name!r} is a sequence, which is not pooled; that has no counterpart.")
        table = feature.table
        if table.combiner not in ("sum", "mean", "sqrtn"):
            raise ValueError(f"{_WHO}: feature {name!r} pools by {table.combiner!r}; known are sum, mean and sqrtn.")
        most = hotness if isinstance(hotness, int) else hotness.get(name, 1)
        shared = None if table.name == name else table.name
        columns[name] = Categorical(name, table.vocabulary_size, hotness=most, combiner=table.combiner, table=shared)
        arrays[name] = _array(by_name[table.name])
    for name, embedding in keras_layers.items():
        if not embedding.built:
            raise ValueError(f"{_WHO}: the Embedding of {name!r} has no weights yet; call the model on a batch first.")
        arrays[name] = _array(embedding.embeddings)
        owner = next(other for other, same in keras_layers.items() if same is embedding)
        columns[name] = Categorical(name, len(arrays[name]), table=None if owner == name else owner)
    return columns, arrays


def _schema(columns: Mapping[str, Categorical], dense: int, schema: Schema | None) -> Schema:
    if schema is None:
        return Schema([f"I{i + 1}" for i in range(dense)], [columns[name] for name in sorted(columns)])
    if schema.n_dense != dense:
        raise ValueError(f"{_WHO}: the schema has {schema.n_dense} dense columns, the bottom stack takes {dense}.")
    if sorted(schema.categorical_names) != sorted(columns):
        names = f"{list(schema.categorical_names)}, TFRS's features are {sorted(columns)}"
        raise ValueError(f"{_WHO}: the schema has the sparse columns {names}.")
    ours: dict[str, str] = {}
    for column in schema.categorical:
        theirs = columns[column.name]
        if column.vocabulary_size != theirs.vocabulary_size:
            sizes = f"vocabulary_size={column.vocabulary_size} in the schema, its table in TFRS {theirs.vocabulary_size} rows"
            raise ValueError(f"{_WHO}: column {column.name!r} has {sizes}.")
        if column.hotness > 1 and column.combiner != theirs.combiner:
            raise ValueError(f"{_WHO}: column {column.name!r} pools by {column.combiner!r}, in TFRS by {theirs.combiner!r}.")
        if ours.setdefault(column.table_name, theirs.table_name) != theirs.table_name:
            own = f"in TFRS it has {theirs.table_name!r}; give it table={theirs.table_name!r}"
            raise ValueError(f"{_WHO}: column {column.name!r} shares table {column.table_name!r} in the schema, but {own}.")
        if column.hashed:
            raise ValueError(f"{_WHO}: column {column.name!r} is hashed in the schema; TFRS looks ids up as they are.")
    if schema.weighted:
        raise ValueError(f"{_WHO}: the schema is weighted; TFRS's features have no weights here. Give weighted=False.")
    return schema


def _stack(stack: Any, part: str) -> list[_Layer]:
    """The Dense layers of an MLP block, a Sequential or a Dense layer."""
    layers: list[_Layer] = []
    for layer in _flat(stack, part):
        if type(layer).__name__ == "Activation":
            if not layers or layers[-1].activation != "linear":
                raise ValueError(f"{_WHO}: {part}: layer {layer.name!r} activates what is activated already, or the input.")
            layers[-1] = dataclasses.replace(layers[-1], activation=layer.activation.__name__)
            continue
        if not layer.built:
            raise ValueError(f"{_WHO}: {part}: layer {layer.name!r} has no weights yet; call the model on a batch first.")
        layers.append(_Layer(f"{part}: layer {layer.name!r}", *_dense(layer), layer.activation.__name__))
    if not layers:
        raise ValueError(f"{_WHO}: {part} has no Dense layer; it must have one.")
    return layers


def _flat(layer: Any, part: str) -> list[Any]:
    kind = type(layer).__name__
    if kind in ("Dense", "Activation"):
        return [layer]
    if kind == "InputLayer":
        return []
    inner = private_tfrs.layers_of(layer) if kind == "MLP" else getattr(layer, "layers", None)
    if kind not in ("MLP", "Sequential") or inner is None:
        raise TypeError(f"{_WHO}: {part} has a {kind} ({layer.name!r}); known are tfrs MLP, Sequential, Dense and Activation.")
    return [one for each in inner for one in _flat(each, part)]


def _activation(bottom: Sequence[_Layer], top: Sequence[_Layer]) -> str:
    """Activation of the hidden layers, which are all but the last of the top stack."""
    if top[-1].activation != "sigmoid" or len(top[-1].bias) != 1:
        end = f"{top[-1].name}, {len(top[-1].bias)} wide, ends in {top[-1].activation!r}"
        raise ValueError(f"{_WHO}: {end}; a click probability needs one number through a sigmoid.")
    hidden = [*bottom, *top[:-1]]
    for layer in hidden:
        if layer.activation != hidden[0].activation:
            fault = f"{layer.name} has activation {layer.activation!r}, {hidden[0].name} {hidden[0].activation!r}"
            fix = "(A tfrs MLP ends without one unless it is given final_activation.)"
            raise ValueError(f"{_WHO}: {fault}; in a DLRM all layers but the last have the same. {fix}")
    return hidden[0].activation


def _behind_products(interaction: Any, top: _Layer, order: Sequence[int], dim: int, dense: bool) -> np.ndarray:
    """The first top layer's kernel (D + P, out) with its rows as we have them."""
    (itself, whole), count = private_tfrs.dot_options(interaction), len(order)
    pairs = np.tril_indices(count, 0 if itself else -1)
    # `skip_gather` keeps the whole matrix, with zeros in its upper triangle.
    where = pairs[0] * count + pairs[1] if whole else np.arange(len(pairs[0]))
    _check_width(top, (dim if dense else 0) + (count * count if whole else len(where)))
    first = top.kernel[:dim] if dense else np.zeros((dim, top.kernel.shape[1]), np.float32)
    rows = top.kernel[dim if dense else 0 :][where]
    return np.concatenate([first, rows[products(order, pairs, itself)]])


def _check_width(top: _Layer, width: int) -> None:
    if len(top.kernel) != width:
        raise ValueError(f"{_WHO}: {top.name} takes {len(top.kernel)} numbers; the interaction gives {width}.")


def _dense(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a Dense layer, zeros where it has no bias."""
    kernel = _array(layer.kernel)
    return kernel, _array(layer.bias) if layer.use_bias else np.zeros(kernel.shape[1], np.float32)


def _crosses(interaction: Any, order: Sequence[int], dim: int) -> list[tuple[np.ndarray | None, np.ndarray, np.ndarray]]:
    inner = list(getattr(interaction, "layers", [])) if type(interaction).__name__ == "Sequential" else []
    kinds = [type(layer).__name__ for layer in inner if type(layer).__name__ != "InputLayer"]
    if kinds not in (["Concatenate", "Cross"], ["Concatenate", "MultiLayerDCN"]):
        twice = " In a Sequential a second Cross takes the first one's output for x₀, which is no cross network."
        known = "DotInteraction and a Sequential of Concatenate and one Cross or MultiLayerDCN."
        fault = f"the interaction is a {type(interaction).__name__}{f' of {kinds}' if kinds else ''}"
        raise TypeError(f"{_WHO}: {fault}; known are {known}{twice * (kinds.count('Cross') > 1)}")
    layer, wide = inner[-1], blocks(order, dim)
    if kinds[-1] == "Cross":
        diag_scale, preactivation = private_tfrs.cross_options(layer)
        if diag_scale or preactivation != "linear":
            option = f"diag_scale={diag_scale}" if diag_scale else "a preactivation"
            raise ValueError(f"{_WHO}: {layer.name!r} has {option}, which has no counterpart.")
    pairs = private_tfrs.kernels_of(layer) if layer.built else []
    if not pairs or not pairs[0][1].built:
        raise ValueError(f"{_WHO}: {layer.name!r} has no weights yet; call the model on a batch first.")
    crosses: list[tuple[np.ndarray | None, np.ndarray, np.ndarray]] = []
    for down, up in pairs:
        kernel, bias = _dense(up)
        first = None if down is None else _array(down.kernel)[wide].T
        crosses.append((first, (kernel[wide] if down is None else kernel)[:, wide].T, bias[wide]))
    return crosses


def _array(variable: Any) -> np.ndarray:
    return np.asarray(variable.numpy(), dtype=np.float32)
