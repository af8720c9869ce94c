"""Models in the scope of a tf.distribute strategy: each replica trains on its part of every batch.

Around what fails in Keras 3.15 there:

- keras #20329: `fit` builds a model from a batch by `strategy.reduce`, which takes no dictionary.
- keras #20585: with several workers results of a step are averaged by `reduce("MEAN", value, axis=0)`, which takes no scalars.
- Losses that are means are divided by the number of replicas, sums are not, wherever a loss is computed.
- An optimizer adds up gradients of all replicas after it clipped those of one.
- Metrics' variables are added up over replicas where they are read after a step; but here every replica sees all rows.
- `train_on_batch` and the like give the whole batch to every replica.
"""

import contextlib
from typing import Any

import keras
import tensorflow as tf

from keras_dlrm.backend import replicas
from keras_dlrm.backend.private_keras import (
    DataAdapter,
    class_weight_to_sample_weights,
    compute_output_spec,
    get_data_adapter,
    layers_in,
    strategy_of,
    sum_in_replicas,
    train_validation_split,
)
from keras_dlrm.step.divided import Divided, cut
from keras_dlrm.step.step import Step

_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


class Replicas(Step):
    """Mixed into the sparse step: `fit`, `evaluate` and `predict` of a model that was built in a strategy's scope."""

    @property
    def _replicas(self) -> Any:
        # Keras notes in whose scope a model is made.
        return replicas(self.distribute_strategy)

    @property
    def in_replicas(self) -> bool:
        """Whether the model was built in the scope of a strategy with replicas."""
        return self._replicas is not None

    def check_compiled(self, metrics: list[Any]) -> None:
        if not self.in_replicas:
            return
        optimizer = self.optimizer
        made = [("optimizer", strategy_of(o)) for o in (optimizer, optimizer.dense, optimizer.rows)]
        for metric in metrics:
            for variable in getattr(metric, "variables", ()):
                made.append((f"metric {metric.name}", getattr(variable.value, "distribute_strategy", None)))
        for what, strategy in made:
            if strategy is not self._replicas:
                raise ValueError(
                    f"compile: the {what} was not made in the scope of the model's strategy; make it, and call compile, inside "
                    "`with strategy.scope():`."
                )
        if optimizer.dense.gradient_accumulation_steps:
            raise ValueError("compile: gradient_accumulation_steps does not work in the scope of a strategy with replicas.")

    # -- data --------------------------------------------------------------------------------------------------------

    def divided(self, arguments: dict[str, Any], steps: str) -> dict[str, Any]:
        """Arguments of `fit`, `evaluate` or `predict`, their data as an adapter that gives each replica its part of every batch.

        `steps` is the name of the argument that says how many steps an epoch has.
        """
        from keras_dlrm.sharding.part import Part

        x = arguments.get("x")
        if not self.in_replicas or isinstance(x, Divided):
            return arguments
        dataset = getattr(x, "py_dataset", x)
        if isinstance(dataset, (Part, tf.distribute.DistributedDataset)):
            raise ValueError(
                f"{type(dataset).__name__}: the data are divided already; a model that was built in a strategy's scope divides "
                "whole batches among its replicas itself. Give it the whole dataset, in every worker."
            )
        y, sample_weight = arguments.get("y"), arguments.get("sample_weight")
        rest = {name: value for name, value in arguments.items() if name not in ("y", "sample_weight", "class_weight")}
        if arguments.get("validation_split") and arguments.get("validation_data") is None:
            parts = train_validation_split((x, y, sample_weight), validation_split=arguments["validation_split"])
            (x, y, sample_weight), rest["validation_data"] = parts
        if not isinstance(x, DataAdapter):
            x = get_data_adapter(
                x, y, sample_weight=sample_weight, batch_size=arguments.get("batch_size"), steps_per_epoch=arguments.get(steps),
                shuffle=arguments.get("shuffle", False), class_weight=arguments.get("class_weight"),
            )  # fmt: skip
        return {**rest, "x": Divided(x, *self._places())}

    def _values(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """A batch of arrays, as `Divided` gives it."""
        n, first, here = self._places()
        parts = cut(keras.tree.map_structure(tf.convert_to_tensor, (x, y, sample_weight), none_is_leaf=False), n)
        return tf.nest.map_structure(lambda part: part[first : first + here], parts)

    def _places(self) -> tuple[int, int, int]:
        from keras_dlrm.sharding.collectives.tensorflow_replicas import place_of

        here = len(self._replicas.extended.worker_devices)
        return self._replicas.num_replicas_in_sync, place_of(self._replicas)[0] * here, here

    def prepared_batch(self, x: Any, y: Any, sample_weight: Any, class_weight: Any) -> tuple[Any, Any, Any, Any]:
        if not self.in_replicas:
            return x, y, sample_weight, class_weight
        if class_weight is not None and sample_weight is None:
            sample_weight, class_weight = class_weight_to_sample_weights(y, class_weight), None
        return (*self._values(x, y, sample_weight), class_weight)

    def predict_on_batch(self, x: Any) -> Any:
        if not self.in_replicas:
            return super().predict_on_batch(x)
        values = self._values(x)
        self._build_from(tf.nest.map_structure(lambda parts: parts[0], values)[0])
        self.make_predict_function()
        return keras.tree.map_structure(lambda rows: rows.numpy(), self.predict_function([values]))

    def build_before_steps(self, iterator: Any, data_batch: Any) -> None:
        if not self.in_replicas:
            # Keras would build a subclassed model within its first step, by a call of its own: that one's lookups are no step's.
            if not self._all_built:
                self._build_from(keras.utils.unpack_x_y_sample_weight(data_batch or _example(iterator))[0])
            return
        example = tf.nest.map_structure(lambda parts: parts[0], data_batch) if iterator is None else iterator.data_adapter.example()
        with self._replicas.scope():
            self.build_symbolically(data_batch=_with_labels_or_none(example))

    @property
    def _all_built(self) -> bool:
        return all(layer.built for layer in layers_in(self))

    def _build_from(self, x: Any) -> None:
        """Make the variables of layers that have none yet, before replicas need them."""
        if not self._all_built:
            x = keras.tree.map_structure(lambda v: keras.KerasTensor(v.shape, keras.backend.standardize_dtype(v.dtype)), x)
            with self._replicas.scope() if self.in_replicas else contextlib.nullcontext():
                compute_output_spec(self, x, training=False)

    def unpacked(self, data: Any) -> tuple[Any, Any, Any]:
        if self.in_replicas:
            from keras_dlrm.sharding import collectives as backend

            place = backend.rank() - self._places()[1]
            with tf.device("CPU:0"):  # where the data are; only the part goes to the replica's device
                data = _with_labels_or_none(tf.nest.map_structure(lambda parts: parts[place], data))
        return super().unpacked(data)

    # -- steps -------------------------------------------------------------------------------------------------------

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True) -> Any:
        # A replica's rows as if they were the batch.
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not self.in_replicas or loss is None:
            return loss
        n = self._replicas.num_replicas_in_sync
        # Keras divided these by n, and the rest if it is a mean.
        extra = sum((keras.ops.sum(keras.ops.cast(e, loss.dtype)) for e in self.losses), keras.ops.zeros((), loss.dtype))
        mean = getattr(self.loss, "reduction", _MEANS[0]) in _MEANS
        return (loss - extra / n) * n + extra if mean else loss - extra / n + extra

    def looped(self, step_function: Any) -> Any:
        if not self.in_replicas:
            return super().looped(step_function)
        step = self._in_each_replica(step_function)

        def steps(iterator: Any) -> Any:
            logs = None
            for _, data in zip(range(self.steps_per_execution), iterator, strict=False):
                logs = step(data)
            if logs is None:
                raise StopIteration
            return logs

        return steps

    def make_train_function(self, force: bool = False) -> Any:
        if self.in_replicas:
            for optimizer in (self.optimizer.dense, self.optimizer.rows):
                sum_in_replicas(optimizer)  # each replica's copies are updated by sums that all have
        return super().make_train_function(force)

    def make_predict_function(self, force: bool = False) -> Any:
        if not self.in_replicas:
            return super().make_predict_function(force)
        if self.predict_function is None or force:
            step = self._in_each_replica(self._predict_part)
            self.predict_function = lambda batches: keras.tree.map_structure(lambda *r: tf.concat(r, 0), *map(step, batches))
        return self.predict_function

    def _in_each_replica(self, step: Any) -> Any:
        """A step of all replicas, which all have the same result; Keras would average results, and with several workers fails."""
        if (self.run_eagerly or tf.config.functions_run_eagerly()) and self._replicas.num_replicas_in_sync > 1:
            raise ValueError(
                "run_eagerly=True: replicas run one after the other then, and would wait for each other for ever; leave it out, or "
                "look for the error without a strategy."
            )

        def steps(data: Any) -> Any:
            of_each = self._replicas.run(step, args=(data,))
            return tf.nest.map_structure(lambda v: self._replicas.experimental_local_results(v)[0], of_each)

        return steps if self.run_eagerly else _of_any_length(steps)

    def _predict_part(self, data: Any) -> Any:
        from keras_dlrm.sharding import collectives as backend
        from keras_dlrm.sharding.part import FILLER

        x, _, sample_weight = self.unpacked(data)
        real = tf.not_equal(backend.gather(sample_weight), FILLER)
        y_pred = self(x, training=False)
        return keras.tree.map_structure(lambda rows: backend.real_rows(backend.gather(rows), real), y_pred)

    def logs_of_epoch(self, logs: Any) -> Any:
        # Of the last step: its metrics are those of all batches.
        return logs if self.in_replicas and logs else super().logs_of_epoch(logs)


def _of_any_length(steps: Any) -> Any:
    """A function of parts as a graph, one for batches of all lengths: to trace it takes a second for each replica."""
    function = tf.function(steps, autograph=False)
    traced: dict[Any, Any] = {}

    def call(data: Any) -> Any:
        specs = tf.nest.map_structure(lambda t: tf.TensorSpec([t.shape[0], None, *t.shape[2:]], t.dtype), data)
        key = tuple(tf.nest.flatten(specs))
        if key not in traced:
            traced[key] = function.get_concrete_function(specs)
        return traced[key](data)

    return call


def _example(iterator: Any) -> Any:
    """Form of the batches of Keras's iterator: their specification, or the first batch where that leaves a width open."""
    dataset = iterator.data_adapter.get_tf_dataset()
    open_width = any(spec.shape.rank is None or None in spec.shape[1:] for spec in tf.nest.flatten(dataset.element_spec))
    return next(iter(dataset)) if open_width else dataset.element_spec


def _with_labels_or_none(data: Any) -> Any:
    """A batch that `cut` gave, as Keras has it."""
    x, y, sample_weight = data
    return x, None if isinstance(y, tuple) and not y else y, sample_weight
