"""The sparse train step for JAX, which Ctrl-C does not cut in two."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_dlrm.backend.private_keras import (
    DataAdapter,
    distribute_rows,
    get_data_adapter,
    hold_values,
    purge_variables,
    train_validation_split,
)
from keras_dlrm.embeddings.lookup import Lookup, LookupTape, is_table, taped
from keras_dlrm.embeddings.row_access import prepared
from keras_dlrm.sharding.meter import meter
from keras_dlrm.step.ahead import LookAhead
from keras_dlrm.step.batch import WholeBatch
from keras_dlrm.step.freed_memory import keep_freed_memory
from keras_dlrm.step.jax_wide_ids import WideBatches, wide
from keras_dlrm.step.step import Step


class WholeSteps:
    """A context around each step: the first SIGINT waits for its end; a second one does not.

    The handler is set once for a loop (`watching`), since setting one costs more than all else that Python does in a step.
    """

    def __init__(self) -> None:
        self._running = False
        self._waiting: list[tuple[Callable[..., Any], int, Any]] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hold SIGINT back while this context is open and a step runs. Python handles signals in its main thread alone."""
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(handler):
            yield
            return

        def wait(number: int, frame: Any) -> None:
            if self._running and not self._waiting:
                self._waiting.append((handler, number, frame))
            else:
                handler(number, frame)

        signal.signal(signal.SIGINT, wait)
        try:
            yield
        finally:
            if signal.getsignal(signal.SIGINT) is wait:  # not a callback's
                signal.signal(signal.SIGINT, handler)

    def __enter__(self) -> None:
        self._running = self._running or threading.get_ident() == _MAIN_THREAD

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() != _MAIN_THREAD:
            return
        self._running = False
        if self._waiting:
            handler, number, frame = self._waiting.pop()
            handler(number, frame)


_MAIN_THREAD = threading.main_thread().ident
whole_steps = WholeSteps()


def _collectives() -> Any:
    """JAX's collectives, loaded where tables are sharded."""
    from keras_dlrm.sharding.collectives import jax_collectives

    return jax_collectives


# Kinds of variables in the state of a step that predicts, tests or trains.
_STATES = {
    2: ("trainable_variables", "non_trainable_variables"),
    3: ("trainable_variables", "non_trainable_variables", "metrics_variables"),
    4: ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables"),
}


class SparseStep(Step):
    """`train_step` and `test_step` of a `SparseTraining` model: gradients of looked-up rows instead of whole tables."""

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(self.narrowing.arrays(inputs), *args, **kwargs)

    # Arrays are narrowed as a whole, because Keras may move them to the device before a step sees them; what comes batch
    # by batch from a tf.data pipeline, a PyDataset, a DataLoader or a generator is narrowed on its way into the step.

    def make_train_function(self, force: bool = False) -> None:
        if jax.default_backend() == "cpu":
            # XLA allocates a step's intermediate results again at each step. Mapping and clearing those pages each time takes a
            # quarter of a step at Criteo Kaggle's shape (jax 0.10.2).
            keep_freed_memory()
        super().make_train_function(force)

    def prepared(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.open_collections:
            return self._wide(call, arguments)
        validation = arguments.get("validation_data")
        if isinstance(validation, tuple):
            arguments = {**arguments, "validation_data": (self.narrowing.arrays(validation[0]), *validation[1:])}
        return {**arguments, "x": self.narrowing.arrays(arguments["x"])}

    def _wide(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments with adapters in the place of data, which keep ids whole until the hooks before a step have seen them."""

        def adapter(data: tuple[Any, ...], batch_size: Any, steps: Any, **options: Any) -> Any:
            x, y, sample_weight = data
            if x is None or isinstance(x, WideBatches):  # of an evaluation within `fit`
                return x
            if not isinstance(x, DataAdapter):
                x = get_data_adapter(x, y, sample_weight=sample_weight, batch_size=batch_size, steps_per_epoch=steps, **options)
            return WideBatches(x)

        data = tuple(arguments.get(name) for name in ("x", "y", "sample_weight"))
        rest = {name: value for name, value in arguments.items() if name not in ("y", "sample_weight", "class_weight")}
        if arguments.get("validation_split") and arguments.get("validation_data") is None:
            data, rest["validation_data"] = train_validation_split(data, validation_split=arguments["validation_split"])
        options = {"shuffle": arguments.get("shuffle", False), "class_weight": arguments.get("class_weight")}
        steps = arguments.get("steps_per_epoch" if call == "fit" else "steps")
        rest["x"] = adapter(data, arguments.get("batch_size"), steps, **options)
        if rest.get("validation_data") is not None:
            valid = keras.utils.unpack_x_y_sample_weight(rest["validation_data"])
            size = arguments["validation_batch_size"] or arguments["batch_size"]
            rest["validation_data"] = (adapter(valid, size, arguments["validation_steps"]),)
        return rest

    def prepared_batch(self, x: Any, y: Any, sample_weight: Any, class_weight: Any) -> tuple[Any, Any, Any, Any]:
        x = wide(x) if self.open_collections else self.narrowing.arrays(x)
        return x, y, sample_weight, class_weight

    def predict_on_batch(self, x: Any) -> Any:
        x = self.narrowing.arrays(x)
        if self.sharded:
            x = distribute_rows(keras.tree.map_structure(np.asarray, x))
        with self.running():
            return super().predict_on_batch(x)

    # In its loops Keras (3.15.1) takes the arrays out of the variables, and a step may write over those that it is given. They
    # come back at the end of an epoch; where a callback, the data or Ctrl-C ends the loop before that, they would be lost. So
    # the newest ones are known at any moment, and put back.

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        try:
            with whole_steps.watching():
                yield
        except BaseException:
            self.jax_state_sync()
            hold_values(self, None)
            raise

    def values_of_variables(self, *args: Any, purge_model_variables: bool = False, **kinds: bool) -> Any:
        state = super().values_of_variables(*args, **kinds)
        self._keep_state(state)
        if purge_model_variables:
            purge_variables(self, **kinds)
        return state

    def _keep_state(self, state: Sequence[Any]) -> None:
        hold_values(self, dict(zip(_STATES[len(state)], state, strict=True)))

    def looped(self, step: Any, concatenate_outputs: bool = False) -> Any:
        narrowing = self.narrowing

        def ready(state: Any, data: Any) -> Any:
            state, data = self._ready(state, data)
            with prepared.using(True):
                return step(state, narrowing.batch(data))

        run = ready if self.collections_before_steps else lambda state, data: step(state, narrowing.batch(data))

        def kept(state: Any, data: Any) -> Any:
            with whole_steps:
                logs, state = run(state, data)
                self._keep_state(state)
            return logs, state

        loop = super().looped(kept, concatenate_outputs)
        if self.host_tables and not concatenate_outputs:
            ahead = LookAhead(self.expect)
            return lambda state, iterator: loop(state, ahead(iterator) if len(state) == 4 else iterator)
        if not (concatenate_outputs and self.sharded):
            return loop

        def predict_here(state: Any, iterator: Any) -> Any:
            outputs, state = loop(state, iterator)
            return keras.tree.map_structure(_collectives().rows_here, outputs), state

        return predict_here

    def _ready(self, state: Any, data: Any) -> tuple[Any, Any]:
        """The state with rows that have changed, and the batch that is ready for it."""
        variables = [self._variables_of(kind) for kind in _STATES[len(state)]]
        moved = {id(v): v for collection in self.collections_before_steps for v in collection.tables}
        if self.compiled:
            moved |= {id(slot): slot for slots in self.optimizer.rows.held_slots for slot in slots.values()}
        places = [(v, k, i) for k, part in enumerate(variables) for i, v in enumerate(part) if moved.pop(id(v), None) is not None]
        # Slots are no part of a state that predicts or tests.
        others = list(moved.values())
        state = tuple(list(part) for part in state)
        values = [*((v, state[k][i]) for v, k, i in places), *((v, v.value) for v in others)]
        try:
            with keras.StatelessScope(values) as scope:
                data = self.before_step(data, training=len(state) == 4)
        finally:  # the arrays of before may have been written over
            for v, k, i in places:
                state[k][i] = scope.get_current_value(v)
            for v in others:
                v.assign(scope.get_current_value(v))
            self._keep_state(state)
        return state, data

    def _variables_of(self, kind: str) -> Any:
        return self.optimizer.variables if kind == "optimizer_variables" else getattr(self, kind)

    def train_step(self, state: Any, data: Any) -> Any:
        return self._on_each_device(self._train_step, state, data)

    def test_step(self, state: Any, data: Any) -> Any:  # type: ignore[override]
        return self._on_each_device(self._test_step, state, data)

    def _on_each_device(self, step: Any, state: Any, data: Any, rows: bool = False) -> Any:
        """A step, by all devices where a plan shards the tables."""
        if not self.sharded:
            return step(state, data)
        variables = [self._variables_of(kind) for kind in _STATES[len(state)]]
        return _collectives().on_each_device(step, variables, rows=rows)(state, data)

    def predict_step(self, state: Any, data: Any) -> Any:
        def step(state: Any, data: Any) -> Any:
            outputs, non_trainable = super(SparseStep, self).predict_step(state, data)
            return outputs, (state[0], non_trainable)

        outputs, state = self._on_each_device(step, tuple(state), data, rows=True)
        return outputs, state[1]

    def _train_step(self, state: Any, data: Any) -> Any:
        trainable, non_trainable, slots, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        part = self.part_of_step(x, sample_weight)
        variables = self.trainable_variables
        tables = [is_table(v) for v in variables]
        dense = [value for value, table in zip(trainable, tables, strict=True) if not table]
        taken: list[Any] = []

        def forward(dense: Sequence[Any], leaf: Callable[[int, Any], Any]) -> Any:
            values, rest = list(trainable), iter(dense)
            for i, table in enumerate(tables):
                if not table:
                    values[i] = next(rest)
            # Keras's loss counts the losses of several outputs itself, in metrics.
            mapping = self._mapping(values, non_trainable, metrics)
            with keras.StatelessScope(mapping, collect_losses=True) as scope, taped(LookupTape(leaf)) as tape:
                loss, y_pred = self.loss_and_prediction(x, y, part, training=True)
                loss = part.share(loss)
            taken[:] = [lookup.table for lookup in tape.lookups]
            updated = [scope.get_current_value(v) for v in self.non_trainable_variables]
            counted = [scope.get_current_value(v) for v in self.metrics_variables]
            return loss, (y_pred, updated, counted, [(lookup.ids, lookup.rows) for lookup in tape.lookups])

        # The gradient of rows is the gradient of zeros that are added to them. How many lookups there are, and their
        # shapes, is known only after the forward pass, so that one is traced (not run) first.
        shapes: list[Any] = []

        def record(index: int, rows: Any) -> Any:
            shapes.append(jax.ShapeDtypeStruct(rows.shape, rows.dtype))  # type: ignore[no-untyped-call]
            return rows

        with meter.paused():
            jax.eval_shape(lambda d: forward(d, record), dense)
        zeros = [jnp.zeros(s.shape, s.dtype) for s in shapes]
        step = jax.value_and_grad(lambda d, z: forward(d, lambda index, rows: rows + z[index]), argnums=(0, 1), has_aux=True)
        before = non_trainable
        (loss, (y_pred, after, metrics, looked_up)), (grads, row_grads) = step(dense, zeros)
        lookups = [Lookup(table, ids, rows, ids.shape[0]) for table, (ids, rows) in zip(taken, looked_up, strict=True)]

        places = {id(v): i for i, v in enumerate(self.non_trainable_variables)}
        kept = [places[id(v)] for v in self.kept_of_rows]
        mapping = [*zip(variables, trainable, strict=True), *zip(self.optimizer.variables, slots, strict=True)]
        with keras.StatelessScope(mapping) as scope:
            dense_variables = [v for v, table in zip(variables, tables, strict=True) if not table]
            grads, loss, changes = part.totals(grads, loss, [after[i] - before[i] for i in kept])
            self.optimizer.apply_rows(grads, dense_variables, lookups, row_grads)
        trainable = [scope.get_current_value(v) for v in variables]
        slots = [scope.get_current_value(v) for v in self.optimizer.variables]
        non_trainable = list(after)
        for i, change in zip(kept, changes, strict=True):
            non_trainable[i] = before[i] + change
        logs, metrics = self._stateless_metrics(metrics, x, y, y_pred, part, loss)
        return logs, (trainable, non_trainable, slots, metrics)

    def _test_step(self, state: Any, data: Any) -> Any:
        trainable, non_trainable, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        part = self.part_of_step(x, sample_weight)
        mapping = self._mapping(trainable, non_trainable, metrics)
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            loss, y_pred = self.loss_and_prediction(x, y, part, training=False)
            (loss,) = part.sum([part.share(loss)])
        non_trainable = [scope.get_current_value(v) for v in self.non_trainable_variables]
        metrics = [scope.get_current_value(v) for v in self.metrics_variables]
        logs, metrics = self._stateless_metrics(metrics, x, y, y_pred, part, loss)
        return logs, (trainable, non_trainable, metrics)

    def _mapping(self, *values: Any) -> list[tuple[Any, Any]]:
        """Trainable, other and metrics' variables, each with its value."""
        variables = (self.trainable_variables, self.non_trainable_variables, self.metrics_variables)
        return [pair for v, value in zip(variables, values, strict=True) for pair in zip(v, value, strict=True)]

    def _stateless_metrics(self, metrics: Any, x: Any, y: Any, y_pred: Any, part: WholeBatch, loss: Any) -> Any:
        with keras.StatelessScope(list(zip(self.metrics_variables, metrics, strict=True))) as scope:
            logs = self.update_metrics(x, y, y_pred, part, loss)
        return logs, [scope.get_current_value(v) for v in self.metrics_variables]
