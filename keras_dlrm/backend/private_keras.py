"""Private names of Keras 3.15 that the package cannot do without, each with its reason, and with its upstream issue if any."""

import functools
import importlib
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.common.global_state import get_global_attribute

# Whether Keras traces a function of state (JAX), or a model whose layers it builds: variables have no values to write then.
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

# The class that `keras.Model(inputs, outputs)` makes; the public name makes an object of it, and is not a base of it.
from keras.src.models.functional import Functional
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.saving import object_registration as registration

# Adapters of data: `fit` takes one in place of data, which is the one way to see, check or divide each batch that it reads.
from keras.src.trainers.data_adapters import get_data_adapter, is_tf_dataset, is_torch_dataloader
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter, can_convert_arrays
from keras.src.trainers.data_adapters.array_slicing import train_validation_split
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.trainers.data_adapters.data_adapter_utils import class_weight_to_sample_weights
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
from keras.src.trainers.data_adapters.torch_data_loader_adapter import TorchDataLoaderAdapter

# What Keras asks whether TensorFlow is installed, which imports it.
from keras.src.utils.module_utils import tensorflow as _tensorflow

# Marks a method behind which Keras still makes the configuration of a subclass from the arguments of its `__init__`.
from keras.src.utils.python_utils import default

__all__ = [
    "ArrayDataAdapter", "DataAdapter", "Functional", "TorchDataLoaderAdapter", "can_convert_arrays",
    "class_weight_to_sample_weights", "default", "get_data_adapter", "in_stateless_scope", "in_symbolic_scope",
    "is_tf_dataset", "is_torch_dataloader", "train_validation_split",
]  # fmt: skip

# Keras's keyword, with which `fit` calls `evaluate` for the validation data that it prepared once.
CACHED_EVALUATION = "_use_cached_eval_dataset"


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """While this context is open, Keras does not import TensorFlow to see whether an object is one of TensorFlow's.

    Seeding, saving and loading ask that on each backend, and the import takes seconds. Where TensorFlow has not been imported, no
    object is; where it has been, nothing changes.
    """
    unasked = "tensorflow" not in sys.modules and _tensorflow._available is None
    if unasked:
        _tensorflow._available = False
    try:
        yield
    finally:
        if unasked:
            _tensorflow._available = None


class _Registered(dict[str, Any]):
    """Keras's registered classes by name, which asks for those of a package when one is looked up."""

    def __init__(self, known: dict[str, Any], package: str, register: Callable[[], None]) -> None:
        super().__init__(known)
        self.prefix, self.register = f"{package}>", register

    def __contains__(self, name: object) -> bool:
        if not super().__contains__(name) and isinstance(name, str) and name.startswith(self.prefix):
            self.register()
        return super().__contains__(name)


def register_when_looked_up(package: str, register: Callable[[], None]) -> None:
    """Have Keras call `register`, which imports classes, when it looks for a class `package>Name` that it does not know."""
    registration.GLOBAL_CUSTOM_OBJECTS = _Registered(registration.GLOBAL_CUSTOM_OBJECTS, package, register)


class WrappedAdapter(DataAdapter):
    """An adapter of the same batches as another one, `whole`; subclasses change how these come, for the backend's own loops."""

    def __init__(self, whole: Any) -> None:
        self.whole = whole

    def get_numpy_iterator(self) -> Iterator[Any]:
        return self.whole.get_numpy_iterator()  # type: ignore[no-any-return]

    num_batches = property(operator.attrgetter("whole.num_batches"))
    batch_size = property(operator.attrgetter("whole.batch_size"))
    has_partial_batch = property(operator.attrgetter("whole.has_partial_batch"))
    partial_batch_size = property(operator.attrgetter("whole.partial_batch_size"))

    def on_epoch_begin(self) -> None:
        self.whole.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.whole.on_epoch_end()


class OpenModel(keras.Model):
    """`keras.Model` whose private hooks have names of our own: subclasses override these, and reach Keras's own through `super()`.

    Keras has no public hook for any of them.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        # Keras (3.15.1) looks through each value for layers and variables to track: on JAX through the arrays of each step,
        # a fifth of a step of a small model; at each call through `built` and `_called`, which are True already.
        if name == "_jax_state" or (value is True and self.__dict__.get(name) is True):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def _compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return self.loss_of_step(*args, **kwargs)

    def loss_of_step(self, *args: Any, **kwargs: Any) -> Any:
        """The loss, by a `compute_loss` that may be overridden without `training`."""
        return super()._compute_loss(*args, **kwargs)

    def _symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        self.build_symbolically(*args, **kwargs)

    def build_symbolically(self, *args: Any, **kwargs: Any) -> None:
        """Build the model and what it was compiled with from what a batch looks like."""
        super()._symbolic_build(*args, **kwargs)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        self.build_before_steps(iterator, data_batch)

    def build_before_steps(self, iterator: Any, data_batch: Any) -> None:
        """On TensorFlow, build before the first step where variables cannot be made in it."""
        super()._maybe_symbolic_build(iterator, data_batch)

    def _make_function(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.looped(step, *args, **kwargs)

    def looped(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """On TensorFlow and JAX, a step as the function of an iterator that Keras's loops call."""
        return super()._make_function(step, *args, **kwargs)

    def _get_jax_state(self, *args: Any, **kinds: bool) -> Any:
        return self.values_of_variables(*args, **kinds)

    def values_of_variables(self, *args: Any, **kinds: bool) -> Any:
        """On JAX, the values with which Keras's loops begin."""
        return super()._get_jax_state(*args, **kinds)

    def _get_metrics_result_or_logs(self, logs: Any) -> Any:
        return self.logs_of_epoch(logs)

    def logs_of_epoch(self, logs: Any) -> Any:
        """The logs of an epoch, from those of its last step."""
        return super()._get_metrics_result_or_logs(logs)


class OpenFunctional(Functional):
    """A functional model that sees its inputs before Keras casts them, and fills sparse ones up with zeros, which are ids."""

    def _convert_inputs_to_tensors(self, flat_inputs: Sequence[Any]) -> Any:
        return super()._convert_inputs_to_tensors(self.checked_inputs(list(flat_inputs)))

    def checked_inputs(self, inputs: list[Any]) -> list[Any]:
        """The inputs, one for each of `self.inputs`, that Keras shall convert."""
        return inputs


class OpenPyDataset(PyDatasetAdapter):
    """Adapter of a `PyDataset` whose batches can be looked at; what all backends' iterators are made of has no public name.

    Keras's own queue of what workers read outlives the iterator: where that is left midway, as it is when a model is built from
    the first batch, the next epoch begins with what had been read ahead, then batch 0 again, and ends before the last ones (Keras
    3.15.1: of 40 batches 12 came twice and 11 never). So nothing starts that queue.
    """

    def _get_iterator(self) -> Iterator[Any]:
        if self.enqueuer is None:
            return self.batches(super()._get_iterator())
        return self.batches(map(self._standardize_batch, self.batches_of_workers()))

    def on_epoch_begin(self) -> None:
        self.py_dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.py_dataset.on_epoch_end()

    def batches_of_workers(self) -> Iterator[Any]:
        """The batches of a dataset with workers, as it gives them."""
        raise NotImplementedError

    def batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches as they go to the model."""
        return batches


def writes_hdf5() -> bool:
    """Whether Keras's HDF5 writer asks for a configuration; it calls no method of the model that could refuse."""
    return bool(get_global_attribute("use_legacy_config", False))


def compute_output_spec(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A function's outputs for symbolic inputs, which builds the layers that it calls; `keras.Model.build` takes no dictionary."""
    return importlib.import_module("keras.src.backend").compute_output_spec(function, *args, **kwargs)


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
    """Have a layer own another one that is not an attribute of it, so that Keras does not save the inner one."""
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
    """Undo that a metric was an attribute of a model; see https://github.com/keras-team/keras/pull/22105, which was not merged."""
    layer._tracker.untrack(metric)


def index_of(optimizer: Any, variable: Any) -> int:
    """A variable's place among those that an optimizer updates; the public list would be searched at each step."""
    return int(optimizer._get_variable_index(variable))


def check_known(optimizer: Any, variable: Any) -> None:
    """Keras's own error for a variable that an optimizer was not built with."""
    optimizer._check_variables_are_known([variable])


def sum_in_replicas(optimizer: Any) -> None:
    """Have an optimizer of TensorFlow's leave gradients as they are; its own update would add them up over replicas once more."""
    optimizer._backend_update_step = functools.partial(BaseOptimizer._backend_update_step, optimizer)


def strategy_of(optimizer: Any) -> Any:
    """The strategy in whose scope an optimizer was made on TensorFlow; models have `distribute_strategy`."""
    return optimizer._distribution_strategy


def loss_tracker(model: Any) -> Any:
    """The mean of the losses of an epoch; `metrics` also has it, in a list whose order is not documented."""
    return model._loss_tracker


def has_compiled_metrics(model: Any) -> bool:
    """Whether metrics were given to `compile`; `compiled_metrics` is deprecated, and makes something else."""
    return model._compile_metrics is not None


def hold_values(model: Any, values: dict[str, Any] | None) -> None:
    """Have `jax_state_sync` put these values into the variables; `None`: there is nothing to put back.

    Keras itself puts back those of the last step that ended where `fit` ends early, https://github.com/keras-team/keras/pull/21019,
    but not those that a step gave before Keras noted them, nor those of `evaluate` and `predict`.
    """
    # Not by `setattr`, which costs more.
    held = {"_jax_state": values} if values is None else {"_jax_state": values, "_jax_state_synced": False}
    model.__dict__.update(held)


def purge_variables(model: Any, **kinds: bool) -> None:
    """On JAX, take the values out of variables, which a step may write over."""
    model._purge_model_variables(**kinds)


def layout_of(variable: Any) -> Any:
    """The layout of a variable on JAX's devices, `None` elsewhere; `keras.distribution` knows layouts by path only."""
    return getattr(variable, "_layout", None)


def put_value(variable: Any, value: Any) -> None:
    """Give a variable on JAX an array as it lies; `assign` would move it, and need all of it in this process."""
    variable._value = value


@contextmanager
def shapes_of_parts(variables: Sequence[Any], parts: int) -> Iterator[None]:
    """Within, variables have a part of their rows: Keras compares a shape with its value's, which `shard_map` divides."""
    shapes = [v._shape for v in variables]
    try:
        for v, shape in zip(variables, shapes, strict=True):
            v._shape = (shape[0] // parts, *shape[1:])
        yield
    finally:
        for v, shape in zip(variables, shapes, strict=True):
            v._shape = shape


def maker_of(tensor: Any) -> Any:
    """The layer or operation that made a symbolic tensor, or `None`."""
    return getattr(tensor, "_keras_history", (None,))[0]


def nodes_of(function: Any) -> list[Any]:
    """The calls that a `keras.Function` records, in the order in which they can run; public are only its layers."""
    nodes = [node for depth in sorted(function._nodes_by_depth, reverse=True) for node in function._nodes_by_depth[depth]]
    return [node for node in nodes if node.operation is not None and not node.is_input]


def run_recorded(model: Any, inputs: Sequence[Any]) -> Any:
    """The operations of a functional model on its flat inputs, without what its `call` does to them first: ids stay int64."""
    return model._run_through_graph(list(inputs), operation_fn=lambda operation: operation)


@contextmanager
def forgotten(layers: Sequence[Any]) -> Iterator[None]:
    """Undo what symbolic calls leave in layers: Keras's records of them, which it would keep for ever."""
    before = [(layer, len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers]
    try:
        yield
    finally:
        for layer, inbound, outbound in before:
            del layer._inbound_nodes[inbound:], layer._outbound_nodes[outbound:]
