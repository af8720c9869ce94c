"""Checks of labels and weights of data that arrive batch by batch.

What the host has is checked there, before it goes to a device: a step is compiled as ever, and waits for nothing.
"""

import dataclasses
import inspect
import types
from collections.abc import Iterator
from typing import Any

import keras

from keras_dlrm.backend.private_keras import (
    OpenPyDataset,
    TorchDataLoaderAdapter,
    get_data_adapter,
    is_tf_dataset,
    is_torch_dataloader,
)
from keras_dlrm.step.workers import in_order


class CheckedPyDataset(OpenPyDataset):
    """Keras's adapter of a `PyDataset`, whose batches are checked by some `Checks`, or `None`."""

    def __init__(self, x: Any, checks: Any = None, **options: Any) -> None:
        super().__init__(x, **options)
        self._checks = checks

    def batches_of_workers(self) -> Iterator[Any]:
        return in_order(self.py_dataset, self.shuffle)

    def batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        return batches if self._checks is None else iter(self._checks.each(batches))


class _CheckedLoader(TorchDataLoaderAdapter):
    def __init__(self, x: Any, checks: Any) -> None:
        super().__init__(x)
        self._checks = checks

    def get_numpy_iterator(self) -> Iterator[Any]:
        return self._checks.each(super().get_numpy_iterator())  # type: ignore[no-any-return]

    def get_torch_dataloader(self) -> Any:
        return _Each(super().get_torch_dataloader(), self._checks)


@dataclasses.dataclass
class _Each:
    loader: Any
    checks: Any

    def __iter__(self) -> Iterator[Any]:
        return self.checks.each(self.loader)  # type: ignore[no-any-return]


def bound_arguments(method: Any, model: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """All arguments of a call of one of Keras's methods, by name."""
    bound = inspect.signature(method).bind(model, *args, **kwargs)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    arguments.pop("self")
    rest: dict[str, Any] = arguments.pop("kwargs", {})
    return arguments | rest


def is_read_by_batch(x: Any) -> bool:
    """Whether data are batches, one after the other, rather than arrays."""
    return isinstance(x, (keras.utils.PyDataset, types.GeneratorType)) or is_tf_dataset(x) or is_torch_dataloader(x)


def checked(arguments: dict[str, Any], checks: Any, py_dataset: Any) -> dict[str, Any]:
    """Arguments of `fit` or `evaluate`, whose `x` is read by batch, with one in its place that checks each batch.

    `py_dataset` is the backend's adapter of a `PyDataset`, a `CheckedPyDataset`.
    """
    x = arguments["x"]
    if arguments.get("y") is not None or arguments.get("sample_weight") is not None:
        return arguments  # Keras says why not.
    if isinstance(x, types.GeneratorType):
        return {**arguments, "x": checks.each(x)}
    if is_tf_dataset(x):
        return {**arguments, "x": _checked_dataset(x, checks)}
    class_weight, shuffle = arguments.get("class_weight"), bool(arguments.get("shuffle", False))
    get_data_adapter(x, class_weight=class_weight, shuffle=shuffle)  # for what it refuses and warns of
    if isinstance(x, keras.utils.PyDataset):
        rest = {name: value for name, value in arguments.items() if name != "class_weight"}
        return {**rest, "x": py_dataset(x, checks, class_weight=class_weight, shuffle=shuffle)}
    return {**arguments, "x": _CheckedLoader(x, checks)}


def _checked_dataset(dataset: Any, checks: Any) -> Any:
    import tensorflow as tf

    if isinstance(dataset, tf.distribute.DistributedDataset):
        return dataset  # refused where it is divided among replicas
    if keras.backend.backend() == "tensorflow":
        dataset = _of_known_rank(dataset)
    leaves = checks.leaves(*keras.utils.unpack_x_y_sample_weight(dataset.element_spec)[1:])
    for what, spec, _ in leaves:
        if not isinstance(spec, tf.TensorSpec):
            raise TypeError(f"{checks.who}: the {what}s are a {type(spec).__name__}; give one number a row, as a dense tensor.")
        if not (spec.dtype.is_floating or spec.dtype.is_integer or spec.dtype.is_bool):
            raise TypeError(f"{checks.who}: the {what}s have dtype {spec.dtype.name}; they must be numbers.")
    if all(allowed is None or spec.dtype.is_bool for _, spec, allowed in leaves):
        return dataset

    def right(values: Any, allowed: Any) -> Any:
        if allowed is None or values.dtype.is_bool:
            return tf.constant(True)
        values = tf.cast(values, tf.float32)
        inside = (values >= max(allowed.low, tf.float32.min)) & (values <= min(allowed.high, tf.float32.max))
        return tf.reduce_all(inside | (values == float("-inf")) if allowed.filler else inside)

    @tf.autograph.experimental.do_not_convert
    def each(number: Any, batch: Any) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        checked_leaves = checks.leaves(y, sample_weight)

        def tell(number: Any, *values: Any) -> bool:
            for (what, _, allowed), value in zip(checked_leaves, values, strict=True):
                checks.of_batch(number, what, value, allowed)
            return True

        tensors = [values for _, values, _ in checked_leaves]
        seen = tf.cond(
            tf.reduce_all([right(values, allowed) for _, values, allowed in checked_leaves]),
            lambda: True,
            lambda: tf.numpy_function(tell, [number, *tensors], tf.bool),
        )
        with tf.control_dependencies([seen]):
            return (x, tf.nest.map_structure(tf.identity, y), *batch[2:])

    return dataset.enumerate().map(each)


def _of_known_rank(dataset: Any) -> Any:
    """A dataset whose batches have a static rank: that of its first batch, where it says none. Keras's steps need one."""
    import tensorflow as tf

    specs = tf.nest.flatten(dataset.element_spec)
    if all(spec.shape.rank is not None for spec in specs):
        return dataset
    ranks = [t.shape.rank for t in tf.nest.flatten(next(iter(dataset)))]

    def ranked(*batch: Any) -> Any:
        batch = batch if len(batch) > 1 else batch[0]
        known = [
            t if t.shape.rank is not None else tf.ensure_shape(t, [None] * rank)
            for t, rank in zip(tf.nest.flatten(batch), ranks, strict=True)
        ]
        return tf.nest.pack_sequence_as(batch, known)

    return dataset.map(ranked)
