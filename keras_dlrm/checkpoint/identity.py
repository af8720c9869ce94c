"""Identity of a model and its optimizers, in words that can be stored and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_dlrm.backend.private_keras import layers_in, rate_of, variables_of
from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.embeddings.lookup import is_table

# What does not change what a model's weights mean: where values come from, what they are stored as, what bounds their training.
_NO_MEANING = {
    "name", "trainable", "frozen", "dtype", "table_dtype", "seed", "init_scale", "dropout", "embedding_dropout", "rate",
    "kernel_l2", "tpu", "embedding_optimizer", "batch_size", "max_ids_per_partition", "max_unique_ids_per_partition",
    "module", "registered_name", "build_config", "compile_config", "shared_object_id",
}  # fmt: skip
_NO_MEANING_ENDINGS = ("_initializer", "_regularizer", "_constraint")
# What an optimizer's slots do not depend on.
_OF_A_STEP = {
    "name", "learning_rate", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor", "l2",
    "gradient_accumulation_steps", "initial_accumulator_value", "ema_momentum", "ema_overwrite_frequency",
}  # fmt: skip


def identity(model: Any) -> dict[str, Any]:
    """A model's identity: a model that differs in any part of it would read a checkpoint's numbers as something else.

    Columns in their order, hashing, combiners, activations and the other options of its layers; kinds of its optimizers with the
    options that their slots depend on. Not: names of layers, seeds, dtypes, dropout, learning rates, or how tables are sharded.

    Args:
        model: A model of this package, or one of the user's own.

    Returns:
        Dictionaries, lists, texts and numbers.
    """
    optimizer = getattr(model, "optimizer", None)
    places = {id(v): i for i, v in enumerate(v for v in model.weights if not is_table(v))}
    return {
        "model": {"class": type(model).__name__, "config": _config(model), "layers": _layers(model)},
        "optimizer": None if optimizer is None else _slots_of(optimizer.dense, places),
        "embedding_optimizer": None if optimizer is None else _slots_of(optimizer.rows, {}),
    }


def of_training(model: Any) -> dict[str, Any]:
    """`identity`, and what else must be the same in all processes that train a model: learning rates, clipping, the loss.

    Args:
        model: A compiled model.
    """
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
