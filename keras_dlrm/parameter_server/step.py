"""Training step of a worker, whose updates are made on the servers; refusal of models that have none."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dlrm.backend.private_keras import batches_of, rate_of
from keras_dlrm.embeddings.lookup import is_table, taped
from keras_dlrm.embeddings.rules.hybrid import Hybrid
from keras_dlrm.losses import InBatchSoftmax
from keras_dlrm.models.click_model import ClickModel
from keras_dlrm.parameter_server.server import Server
from keras_dlrm.parameter_server.tables import ServerTables, ServerTape
from keras_dlrm.step.batch import WholeBatch


def check(model: Any) -> None:
    """Refuse what cannot be trained on parameter servers: `TypeError` for another model, `ValueError` for an option."""
    if not isinstance(model, ClickModel):
        raise TypeError(f"build: expected a model of kd.models, not {type(model).__name__}.")
    model.schema.require_one_label("build")
    if model.embeddings is None:
        raise ValueError("build: the model has no embedding tables; train it with fit.")
    if model.embeddings.open is not None:
        raise ValueError(
            "build: an open vocabulary gives rows to ids in the order of the batches, and workers train at the same time in none; "
            "train in one process or with sharded tables (kd.sharding), or hash the column (hashed=True)."
        )
    if not model.compiled or not isinstance(model.optimizer, Hybrid):
        raise ValueError("build: the model is not compiled; build has to return a compiled one.")
    for option in ("gradient_accumulation_steps", "use_ema"):
        if getattr(model.optimizer.dense, option):
            raise ValueError(f"build: the optimizer's {option} is not defined where workers train at the same time; leave it out.")
    if isinstance(model.loss, InBatchSoftmax):
        raise ValueError(
            "build: negatives of InBatchSoftmax would be those of one worker alone; take a binary cross-entropy, or sharded tables "
            "(kd.sharding), where they are those of all processes."
        )


def check_is_on(model: Any, device: str) -> None:
    """`ValueError` for variables that were made elsewhere."""
    for variable in (*model.variables, *model.optimizer.variables):
        if variable.value.device != device:
            fix = "make the model and its optimizers again in each call of build."
            raise ValueError(f"build: {variable.path} is on {variable.value.device}, not on {device}; {fix}")


class WorkerStep:
    """Forward and backward pass on the worker, updates on the servers; `home` has the model's dense parameters."""

    def __init__(self, model: Any, tables: ServerTables, servers: Sequence[Server], home: int) -> None:
        self.model, self.tables, self.servers, self.home = model, tables, list(servers), home
        self.dense = [v for v in model.trainable_variables if not is_table(v)]
        with tf.device(self.servers[home].device):
            self._losses = tf.Variable(lambda: tf.zeros(self.servers[home].steps), trainable=False)
        schema, dtypes = model.schema, {"sparse": tf.int32}
        widths = {"dense": schema.n_dense, "sparse": schema.width, "weights": schema.width}
        inputs = {n: tf.TensorSpec((None, widths[n]), dtypes.get(n, tf.float32)) for n in schema.input_names}
        label = tf.TensorSpec((None,), tf.float32)
        # Traced here: the coordinator would do so inside the strategy's scope, where Keras's optimizers want to be run by
        # `strategy.run`, which no branch of a condition can be.
        self.train = tf.function(self._train).get_concrete_function(tf.TensorSpec((), tf.int64), inputs, label)
        self.predict = tf.function(self._predict).get_concrete_function(inputs)

    @property
    def losses(self) -> np.ndarray:
        """Loss of each step; 0 of those that are not applied yet."""
        return self._losses.numpy()

    @losses.setter
    def losses(self, losses: np.ndarray) -> None:
        self._losses.assign(np.pad(losses, (0, self.servers[self.home].steps - len(losses))))

    def uses(self, server: Server) -> bool:
        """Whether a server has a part of the model."""
        return server.index == self.home or any(held[server.index] is not None for held in self.tables.held)

    def bytes_sent(self, steps: int) -> tuple[int, list[int]]:
        """Bytes of ids, rows, dense parameters and gradients in some steps: from all workers, and from each server."""
        stacks = self.tables.collection.stacks
        item = tf.as_dtype(self.tables.collection.table_dtype).size
        dense = steps * sum(4 * int(np.prod(v.shape)) for v in self.dense)
        workers, each = 0, []
        for server in self.servers:
            rows = [(int(n), stack.width) for n, stack in zip(server.asked, stacks, strict=True)]
            parameters = dense if server.index == self.home else 0
            workers += sum(n * (4 + 4 * width) for n, width in rows) + parameters
            each.append(sum(n * width * item for n, width in rows) + parameters)
        return workers, each

    def _predict(self, x: Any) -> Any:
        with taped(ServerTape(self.tables)):
            return self.model(x, training=False)

    def _train(self, step: Any, x: Any, y: Any) -> None:
        def leaf(rows: Any) -> Any:
            tape.watch(rows)
            return rows

        with tf.GradientTape() as tape:
            with taped(ServerTape(self.tables, leaf)) as lookups:
                loss, _ = self.model.loss_and_prediction(x, y, WholeBatch(None), training=True)
        rows = [lookup.rows for lookup in lookups.lookups]
        grads, row_grads = tape.gradient(loss, [[v.value for v in self.dense], rows])
        # A lookup that the loss does not use: its rows are touched all the same.
        row_grads = [tf.zeros_like(r) if g is None else tf.convert_to_tensor(g) for r, g in zip(rows, row_grads, strict=True)]
        rule = self.model.optimizer.rows
        scheduled = isinstance(rate_of(rule), keras.optimizers.schedules.LearningRateSchedule)
        rate = None if scheduled else tf.cast(rule.learning_rate, tf.float32)
        for k, server in enumerate(self.servers):
            if not self.uses(server):
                continue
            # Stack, rows and gradients of all that this server was asked for.
            updates = [
                (lookup.stack, asked, tf.gather(gradient, asked.index))
                for lookup, gradient in zip(lookups.lookups, row_grads, strict=True)
                for asked in lookup.asked
                if asked.server == k
            ]

            def update(count: Any, k: int = k, updates: Any = updates) -> None:
                if k == self.home:
                    self._apply_dense(count, step, grads, loss)
                self._apply_rows(count, updates, rate)

            asked = [0] * len(self.tables.held)
            for stack, of, _ in updates:
                asked[stack] = tf.size(of.ids, tf.int64)
            server.apply(step, update, tf.stack([tf.cast(n, tf.int64) for n in asked]))

    def _apply_rows(self, count: Any, updates: Any, fixed_rate: Any) -> None:
        rule = self.model.optimizer.rows
        rate = rate_of(rule)(count) if fixed_rate is None else fixed_rate
        writes = []
        for stack, asked, gradient in updates:
            part = self.tables.held[stack][asked.server]
            # Not the rows that were looked up: other workers may have moved them.
            rows = part.rows.sparse_read(asked.local)
            slots = {name: slot.sparse_read(asked.local) for name, slot in part.slots.items()}
            new, changed = rule.update_values(rows, asked.ids, gradient, slots, rate, count)
            writes.append((part.rows, asked.local, new))
            writes += [(slot, asked.local, changed[name]) for name, slot in part.slots.items()]
        # All is computed before anything is written.
        with tf.control_dependencies([values for _, _, values in writes]):
            for variable, ids, values in writes:
                tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=ids, updates=values)

    def _apply_dense(self, count: Any, step: Any, grads: Sequence[Any], loss: Any) -> None:
        optimizer = self.model.optimizer
        # Counted by the ledger: these would count a step twice whose worker died within it.
        for part in (optimizer.dense, optimizer.rows):
            batches_of(part).assign(tf.cast(count, part.iterations.dtype))
        optimizer.apply_dense(list(zip(grads, self.dense, strict=True)))
        optimizer.rows.advance()
        loss = tf.reshape(tf.cast(loss, tf.float32), (1,))
        tf.raw_ops.ResourceScatterUpdate(resource=self._losses.handle, indices=tf.reshape(step, (1,)), updates=loss)
