"""The sparse train step for TensorFlow."""

import functools
import itertools
from typing import Any

import keras
import tensorflow as tf

from keras_dlrm.backend.private_keras import ArrayDataAdapter, DataAdapter, can_convert_arrays
from keras_dlrm.embeddings.lookup import LookupTape, is_table, taped
from keras_dlrm.embeddings.row_access import prepared
from keras_dlrm.step.ahead import LookAhead
from keras_dlrm.step.checked import CheckedPyDataset
from keras_dlrm.step.freed_memory import keep_freed_memory
from keras_dlrm.step.replicas import Replicas


class _Untuned(DataAdapter):
    """Mixed into a data adapter of Keras: its tf.data pipeline is not tuned by a thread in the background.

    An iterator ends only when that thread wakes up, and in TensorFlow 2.21 nobody wakes it: it sleeps for twice as long
    each time, from 10 ms to a minute. So `fit` would return up to twice as late as it trained. These pipelines have
    nothing to tune. (Keras turns tuning off itself where a PyDataset has workers.)
    """

    def get_tf_dataset(self) -> Any:
        options = tf.data.Options()
        options.autotune.enabled = False
        return super().get_tf_dataset().with_options(options)


class _UntunedPyDataset(_Untuned, CheckedPyDataset):
    pass


class _UntunedArrays(_Untuned, ArrayDataAdapter):
    pass


def _untuned(arguments: dict[str, Any], steps: str) -> dict[str, Any]:
    """Arguments of `fit`, `evaluate` or `predict`, their data as an adapter where they are arrays."""
    x, y, sample_weight = (arguments.get(name) for name in ("x", "y", "sample_weight"))
    if x is None or arguments.get("validation_split") or not can_convert_arrays((x, y, sample_weight)):
        return arguments
    adapter = _UntunedArrays(
        x, y, sample_weight=sample_weight, class_weight=arguments.get("class_weight"), shuffle=arguments.get("shuffle", False),
        batch_size=arguments.get("batch_size"), steps=arguments.get(steps),
    )  # fmt: skip
    rest = {name: value for name, value in arguments.items() if name not in ("y", "sample_weight", "class_weight")}
    return {**rest, "x": adapter}


@functools.cache
def _keep_freed_memory() -> None:
    """Keep freed memory, on CPUs.

    Outputs of operations are allocated again in each step, and `from_generator`, which Keras makes of a `PyDataset`, has glibc map
    each block above 128 KiB (TensorFlow 2.21, `ApplyPython311MemoryPatch`, once a process): at a batch of 2,048 a step of DLRM
    touched 28,000 new pages and took 1.6 times as long.
    """
    if tf.config.list_physical_devices("GPU"):
        return
    # So that TensorFlow has done so before, and not after.
    list(tf.data.Dataset.from_generator(lambda: iter([0.0]), output_signature=tf.TensorSpec((), tf.float32)))
    keep_freed_memory()


class SparseStep(Replicas):
    """`train_step` and `test_step` of a `SparseTraining` model: gradients of looked-up rows instead of whole tables."""

    py_dataset = _UntunedPyDataset

    def prepared(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        steps = "steps_per_epoch" if call == "fit" else "steps"
        arguments = self.divided(_untuned(arguments, steps), steps)
        if arguments.get("validation_data") is not None:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(arguments["validation_data"])
            batch_size = arguments["validation_batch_size"] or arguments["batch_size"]
            valid = {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": batch_size}
            valid = self.divided(_untuned({**valid, "steps": arguments["validation_steps"]}, "steps"), "steps")
            arguments["validation_data"] = tuple(valid[name] for name in ("x", "y", "sample_weight") if name in valid)
        if call == "predict" and self.in_replicas:
            self._build_from(arguments["x"].example()[0])
        return arguments

    def make_train_function(self, force: bool = False) -> Any:
        _keep_freed_memory()
        return super().make_train_function(force)

    def looped(self, step_function: Any) -> Any:
        loop = super().looped(step_function)
        collections = self.collections_before_steps
        if not collections:
            return loop
        training = step_function == self.train_step
        ahead = LookAhead(self.expect) if training and self.host_tables else iter

        def ready(iterator: Any) -> Any:
            iterator = ahead(iterator)
            # Keras draws batches from tf.data inside its graph; of any other iterator it takes them one by one.
            for first in iterator:
                rest = itertools.islice(iterator, self.steps_per_execution - 1)
                with prepared.using(True):
                    return loop(self.before_step(data, training) for data in itertools.chain([first], rest))
            raise StopIteration

        return ready

    def make_predict_function(self, force: bool = False) -> Any:
        if self.predict_function is not None and not force:
            return self.predict_function
        super().make_predict_function(force)
        collections, function = self.collections_before_steps, self.predict_function

        def ready(batches: Any) -> Any:
            batches = tuple(self.before_step(data, False) for data in batches)
            with prepared.using(True):
                return function(batches)

        if collections:
            self.predict_function = ready
        return self.predict_function

    def train_step(self, data: Any) -> Any:
        x, y, sample_weight = self.unpacked(data)
        part = self.part_of_step(x, sample_weight)
        kept = [(v, tf.identity(v.value)) for v in self.kept_of_rows]

        def leaf(index: int, rows: Any) -> Any:
            gradient_tape.watch(rows)
            return rows

        with tf.GradientTape() as gradient_tape:
            with taped(LookupTape(leaf)) as tape:
                loss, y_pred = self.loss_and_prediction(x, y, part, training=True)
                loss = part.share(loss)
        if not self.optimizer.built:  # A subclassed model has its variables only now.
            self.optimizer.build(self.trainable_variables)
        dense = [v for v in self.trainable_variables if not is_table(v)]
        rows = [lookup.rows for lookup in tape.lookups]
        grads, row_grads = gradient_tape.gradient(loss, [[v.value for v in dense], rows])
        grads, loss, changes = part.totals(grads, loss, [v.value - before for v, before in kept])
        for (v, before), change in zip(kept, changes, strict=True):
            v.assign(before + change)
        self.optimizer.apply_rows(grads, dense, tape.lookups, row_grads)
        return self.update_metrics(x, y, y_pred, part, loss)
