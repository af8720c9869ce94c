"""State of a training run: pieces of tables and slots, variables that every process has, identity of the model."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.backend.private_keras import index_of, layers_in, rate_of, variables_of
from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.embeddings.lookup import is_table
from keras_dlrm.embeddings.row_access import HostArray
from keras_dlrm.sharding.plan import Shard

# What does not change what a model's weights mean: where values come from, what they are stored as, what bounds their training.
_NO_MEANING = {
    "name", "trainable", "frozen", "dtype", "table_dtype", "host", "seed", "init_scale", "dropout", "embedding_dropout", "rate",
    "kernel_l2", "tpu", "embedding_optimizer", "batch_size", "max_ids_per_partition", "max_unique_ids_per_partition",
    "module", "registered_name", "build_config", "compile_config", "shared_object_id",
}  # fmt: skip
_NO_MEANING_ENDINGS = ("_initializer", "_regularizer", "_constraint")
# What an optimizer's slots do not depend on.
_OF_A_STEP = {
    "name", "learning_rate", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor", "l2",
    "gradient_accumulation_steps", "initial_accumulator_value", "ema_momentum", "ema_overwrite_frequency",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Piece:
    """Rows of a table, or of a slot of it, that are in this process."""

    kind: str  # "tables", or "slots/…" with the slot's name
    shard: Shard  # which rows and columns of the table
    shape: tuple[int, ...]  # (rows, columns), or (rows,) of a slot with one number a row
    variable: Any  # where it is, from row `first` on
    first: int
    tables: Any  # the `WholeTables`, `ShardedTables` or `ServerTables` that read and write it

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start … stop - 1` of the piece: float32."""
        return self.tables.read_rows(self.variable, self.shard.rank, self.first + start, self.first + stop)  # type: ignore[no-any-return]

    def write(self, start: int, rows: np.ndarray) -> None:
        """Replace rows of the piece, from `start` on."""
        self.tables.write_rows(self.variable, self.shard.rank, self.first + start, rows)


def collections_of(model: Any) -> list[Any]:
    """The layers of a model that have tables."""
    return [layer for layer in layers_in(model) if isinstance(layer, EmbeddingCollection)]


@dataclasses.dataclass(frozen=True)
class State:
    """All that a checkpoint has."""

    dense: dict[str, Any]  # what every process has, by name
    pieces: list[Piece]  # of tables and slots, those in this process
    identity: dict[str, Any]  # what the model and its optimizers are, see `identity`
    shared: bool = False  # whether other processes have other pieces


def state_of(model: Any) -> State:
    """The state of a model in training; `ValueError` where it is not built, or two tables have one name."""
    dense = dense_variables(model)
    collections = collections_of(model)
    names = [name for collection in collections for name in collection.table_shapes]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"checkpoint: the model has two tables {name!r}; rename one with Categorical(table=…).")
    own_pieces = [
        piece for collection in collections
        for piece in pieces(collection.store, collection.table_shapes, lambda table: _slots(model, table))
    ]  # fmt: skip
    return State(dense, own_pieces, identity(model), bool(getattr(model, "shared", False)))


def pieces(tables: Any, names: Iterable[str], slots_of: Callable[[Any], Mapping[str, Any]]) -> Iterator[Piece]:
    """All pieces, in this process, of the named tables of a `WholeTables`, `ShardedTables` or `ServerTables`.

    `slots_of` maps a table's variable to its slots by name.
    """
    for name in names:
        for shard, variable, first in tables.parts(name):
            yield Piece("tables", shard, (shard.rows, shard.width), variable, first, tables)
            for slot, held in slots_of(variable).items():
                shape = (shard.rows, *((shard.width,) if len(held.shape) > 1 else ()))
                yield Piece(f"slots/{slot}", shard, shape, held, first, tables)


def _slots(model: Any, table: Any) -> dict[str, Any]:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not table.trainable:
        return {}
    return dict(optimizer.rows.held_slots[index_of(optimizer.rows, table)])


def dense_variables(model: Any) -> dict[str, Any]:
    """Variables that every process has, by names that do not depend on the backend; `ValueError` where the model is not built."""
    # A layer that the model does not use stays unbuilt.
    if not model.built or all(is_table(v) for v in model.weights):
        raise ValueError(f"checkpoint: {model.name} is not built; call it on a batch first (model.predict_on_batch(batch)).")
    # keras-rs's variables are none of ours: tables are saved as logical ones.
    tables = {id(v) for collection in collections_of(model) for v in collection.tables}
    others = [v for v in model.weights if not is_table(v) and id(v) not in tables]
    variables = {f"weight_{i}": v for i, v in enumerate(others)}
    weights = {id(v) for v in model.weights}
    states = [v for v in model.non_trainable_variables if id(v) not in weights]
    variables |= {f"generator_{i}": v for i, v in enumerate(states)}
    for maps in [collection.open for collection in collections_of(model) if collection.open is not None]:
        variables |= {f"open_{name}": HostArray(maps, name) for name in maps.state()}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return variables
    variables |= {f"dense_optimizer_{i}": v for i, v in enumerate(optimizer.dense.variables)}
    slots = {id(v) for slots in optimizer.rows.held_slots for v in slots.values()}
    rest = [v for v in optimizer.rows.variables if id(v) not in slots]
    return variables | {f"row_rule_{i}": v for i, v in enumerate(rest)}


def value_of(variable: Any) -> np.ndarray:
    """A variable's value, on any backend; of one that is on many devices, this process's copy."""
    value = variable.value
    if isinstance(value, np.ndarray):  # of the host, which has 64 bits
        return value
    if hasattr(value, "addressable_data"):
        value = value.addressable_data(0)
    # By way of a tensor: of copies that a strategy of TensorFlow keeps, one.
    array = ops.convert_to_numpy(ops.convert_to_tensor(value))
    # Of NumPy's own types: .npz files hold no others.
    return np.array(array) if array.dtype.isbuiltin == 1 else array.astype(np.float32)


def identity(model: Any) -> dict[str, Any]:
    """A model's identity: a model that differs in any part of it would read a checkpoint's numbers as something else.

    Columns in their order, hashing, combiners, activations and the other options of its layers; kinds of its optimizers with the
    options that their slots depend on. Not: names of layers, seeds, dtypes, dropout, learning rates, or how tables are sharded.
    """
    optimizer = getattr(model, "optimizer", None)
    places = {id(v): i for i, v in enumerate(v for v in model.weights if not is_table(v))}
    return {
        "model": {"class": type(model).__name__, "config": _config(model), "layers": _layers(model)},
        "optimizer": None if optimizer is None else _slots_of(optimizer.dense, places),
        "embedding_optimizer": None if optimizer is None else _slots_of(optimizer.rows, {}),
    }


def of_training(model: Any) -> dict[str, Any]:
    """`identity`, and what else all processes that train a compiled model must have: learning rates, clipping, the loss."""
    described = identity(model)
    for part, optimizer in (("optimizer", model.optimizer.dense), ("embedding_optimizer", model.optimizer.rows)):
        config = {key: value for key, value in optimizer.get_config().items() if key != "name"}
        described[part] = {"class": type(optimizer).__name__, **_plain(config)}
    loss = model.loss
    named = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return {**described, "loss": {"class": named, "config": _config(loss)}, "dtype": model.dtype_policy.name}


def _slots_of(optimizer: Any, places: Mapping[int, int]) -> dict[str, Any]:
    rate = rate_of(optimizer)
    config = {key: value for key, value in optimizer.get_config().items() if key not in _OF_A_STEP}
    described = {
        "class": type(optimizer).__name__, "learning_rate": "number" if isinstance(rate, keras.Variable) else type(rate).__name__,
        **_plain(config),
    }  # fmt: skip
    if places and len(optimizer.variables) > 1 + isinstance(rate, keras.Variable):
        # Slots go by the order of what is trained, so that they would be those of others where other parts are frozen.
        described["trained"] = [places[id(v)] for v in variables_of(optimizer) if id(v) in places]
    return described


def _layers(model: Any) -> list[Any]:
    layers = layers_in(model)[1:]
    # The tables of a `TPUEmbedding` are those of an `EmbeddingCollection`, whatever layers it has inside.
    collections = [layer for layer in layers if isinstance(layer, EmbeddingCollection)]
    inside = {id(layer) for each in collections for layer in layers_in(each)[1:]}
    described = []
    for layer in layers:
        if isinstance(layer, EmbeddingCollection):
            described.append({"class": EmbeddingCollection.__name__, "config": _plain(EmbeddingCollection.get_config(layer))})
        elif id(layer) not in inside:
            described.append({"class": type(layer).__name__, "config": _config(layer)})
    return described


def _config(thing: Any) -> Any:
    """The configuration of a layer, model or loss, without what does not matter."""
    try:
        return _plain(thing.get_config())
    except Exception:  # users' own may have none, in ways of their own
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.get("class_name") == "__lambda__":  # its code, which names the file and the version of Python
            return "lambda"
        if isinstance(value.get("layers"), list):
            value = _without_names(value)
        return {
            str(key): json.loads(json.dumps(each)) if key == "schema" else _plain(each)
            for key, each in value.items()
            if key not in _NO_MEANING and not str(key).endswith(_NO_MEANING_ENDINGS)
        }
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    try:
        serialized = keras.saving.serialize_keras_object(value)
    except Exception:  # whatever users' own objects raise
        return type(value).__name__
    return _plain(serialized) if isinstance(serialized, (Mapping, list, str)) else type(value).__name__


def _without_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A functional model's configuration, in which a layer's number stands for its name, that counts up within a process."""
    names = [layer.get("name") for layer in config["layers"] if isinstance(layer, Mapping)]
    numbers = {name: f"layer {i}" for i, name in enumerate(names) if isinstance(name, str)}

    def renamed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: renamed(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [renamed(each) for each in value]
        return numbers.get(value, value) if isinstance(value, str) else value

    graph = {key: renamed(config[key]) for key in ("input_layers", "output_layers") if key in config}
    layers = [
        {**layer, "inbound_nodes": renamed(layer.get("inbound_nodes"))} if isinstance(layer, Mapping) else layer
        for layer in config["layers"]
    ]
    return {**config, **graph, "layers": layers}
