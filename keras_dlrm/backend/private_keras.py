"""Private names of Keras 3.15 that the package cannot do without, each with its reason. Nothing else imports from `keras.src`."""

from __future__ import annotations

import importlib
from typing import Any

# Whether Keras traces a function of state (JAX), or a model whose layers it builds: variables have no values to write then.
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

# The class that `keras.Model(inputs, outputs)` makes; the public name makes an object of it, and is no base of it.
from keras.src.models.functional import Functional

# Adapters of data: `fit` takes one in place of data, which is the one way to see, check or divide each batch that it reads.
from keras.src.trainers.data_adapters import get_data_adapter, is_tf_dataset, is_torch_dataloader
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter, can_convert_arrays
from keras.src.trainers.data_adapters.array_slicing import train_validation_split
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.trainers.data_adapters.data_adapter_utils import class_weight_to_sample_weights
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
from keras.src.trainers.data_adapters.torch_data_loader_adapter import TorchDataLoaderAdapter

# Marks a method behind which Keras still makes the configuration of a subclass from the arguments of its `__init__`.
from keras.src.utils.python_utils import default

__all__ = [
    "ArrayDataAdapter",
    "DataAdapter",
    "Functional",
    "PyDatasetAdapter",
    "TorchDataLoaderAdapter",
    "can_convert_arrays",
    "class_weight_to_sample_weights",
    "default",
    "get_data_adapter",
    "in_stateless_scope",
    "in_symbolic_scope",
    "is_tf_dataset",
    "is_torch_dataloader",
    "train_validation_split",
]


def writes_hdf5() -> bool:
    """Whether Keras's HDF5 writer asks for a configuration; it calls no method of the model that could refuse."""
    from keras.src.backend.common.global_state import get_global_attribute

    return bool(get_global_attribute("use_legacy_config", False))


def compute_output_spec(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A function's outputs for symbolic inputs, which builds the layers that it calls; `keras.Model.build` takes no dictionary."""
    return importlib.import_module("keras.src.backend").compute_output_spec(function, *args, **kwargs)


def plain_update_step(optimizer: Any, *args: Any) -> Any:
    """The update of all variables by an optimizer of any backend; TensorFlow's would add up what replicas have added up already."""
    from keras.src.optimizers.base_optimizer import BaseOptimizer

    return BaseOptimizer._backend_update_step(optimizer, *args)


def distribute_rows(batch: Any) -> Any:
    """A batch, its rows on JAX's devices; `predict_on_batch` leaves that out, which `predict` does."""
    return importlib.import_module("keras.src.backend.jax.trainer")._distribute_data(batch)


def layers_in(layer: Any) -> list[Any]:
    """A layer and all layers within it, at any depth; `keras.Model.layers` has one level."""
    return list(layer._flatten_layers())


def layers_just_in(layer: Any) -> list[Any]:
    """The layers that a layer has itself; only models have `layers`."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def add_layer(layer: Any, inner: Any) -> None:
    """Have a layer own another one that is no attribute of it, so that Keras does not save the inner one."""
    layer._layers.append(inner)


def own_trainable_variables(layer: Any) -> list[Any]:
    """The trainable variables that a layer has itself, frozen ones included."""
    return list(layer._trainable_variables)


def variables_of(optimizer: Any) -> list[Any]:
    """The variables that an optimizer updates, as it was built with them."""
    return list(optimizer._trainable_variables)


def batches_of(optimizer: Any) -> Any:
    """The variable that counts the batches that an optimizer saw; `iterations` counts updates where gradients are accumulated."""
    return optimizer._iterations


def rate_of(optimizer: Any) -> Any:
    """An optimizer's learning rate as it holds it, a variable or a schedule; `learning_rate` is the schedule's value now."""
    return optimizer._learning_rate


def forget(layer: Any, metric: Any) -> None:
    """Undo that a metric was an attribute of a model; Keras reports one that is replaced for ever."""
    layer._tracker.untrack(metric)
