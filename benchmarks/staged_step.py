"""The stages of a training step one after the other: the package's own code, each stage compiled for itself and timed.

What `SparseTraining.train_step` does in one function is cut where its parts meet. A stage gets a constant where the step
would hand it a gradient from later in the network: that costs the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops
from limits import BACKEND, compiled, wait

from keras_dlrm import backend
from keras_dlrm.backend.private_keras import get_data_adapter
from keras_dlrm.embeddings.lookup import Lookup, LookupTape, is_table, taped

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
else:
    import torch

Leaf = Callable[[Any], Any]


def vjp(function: Callable[[Leaf], tuple[Any, Any]], upstream: Any) -> tuple[Any, Any, list[Any]]:
    """`(out, aux) = function(leaf)`, and the gradients of ⟨out, upstream⟩ for each tensor that `function` gave to `leaf`.

    As the train step of each backend takes them.
    """
    leaves: list[Any] = []
    if BACKEND == "tensorflow":

        def leaf(tensor: Any) -> Any:
            leaves.append(tf.convert_to_tensor(tensor))
            tape.watch(leaves[-1])
            return leaves[-1]

        with tf.GradientTape() as tape:
            out, aux = function(leaf)
        gradients = tape.gradient(out, leaves, output_gradients=upstream)
        return out, aux, [backend.densify(gradient) for gradient in gradients]
    if BACKEND == "jax":

        def record(tensor: Any) -> Any:
            leaves.append(tensor)
            return tensor

        jax.eval_shape(lambda: function(record))
        zeros = [ops.zeros(tensor.shape, tensor.dtype) for tensor in leaves]

        def shifted(zeros: list[Any]) -> tuple[Any, Any]:
            rest = iter(zeros)
            return function(lambda tensor: tensor + next(rest))

        out, pull, aux = jax.vjp(shifted, zeros, has_aux=True)
        return out, aux, pull(upstream)[0]

    def detached(tensor: Any) -> Any:
        leaves.append(tensor.detach().requires_grad_())
        return leaves[-1]

    with torch.enable_grad():
        out, aux = function(detached)
    gradients = torch.autograd.grad(keras.tree.flatten(out), leaves, keras.tree.flatten(upstream))
    out, aux = keras.tree.map_structure(lambda tensor: tensor.detach(), (out, aux))
    return out, aux, list(gradients)


class StagedStep:
    """Runs and times the stages of a model's step.

    Args:
        model: A compiled `kd.models.DLRM` with dense features, trained for a batch at least: that builds its loss.
        batch: A packed batch of tensors.
        label: Its labels.
    """

    def __init__(self, model: Any, batch: Mapping[str, Any], label: Any) -> None:
        self.model, self.optimizer = model, model.optimizer
        self.tables = [v for v in model.trainable_variables if is_table(v)]
        self.crosses = [v for cross in model.crosses for v in cross.trainable_variables]
        self.mlps = [*model.bottom_mlp.trainable_variables, *model.top_mlp.trainable_variables]
        slots = self.optimizer.variables
        self.stages = {
            "lookup": compiled(self.lookup, self.tables),
            "interaction": compiled(self.interaction, self.crosses),
            "MLPs": compiled(self.mlp, self.mlps),
            "loss": compiled(self.loss),
            "dense update": compiled(self.dense_update, [*self.mlps, *self.crosses, *slots]),
            "row update": compiled(self.row_update, [*self.tables, *slots]),
        }
        self.bottom = ops.convert_to_tensor(model.bottom_mlp(batch["dense"]))
        self.pooled = ops.convert_to_tensor(model.embeddings(batch))
        self.top_inputs = self._interact(self.bottom, self.pooled)
        self.logits = ops.zeros((len(label), 1), "float32")

    def __call__(self, batch: Mapping[str, Any], label: Any) -> dict[str, float]:
        """One step: the seconds of each stage."""
        found: dict[str, float] = {}

        def timed(stage: str, *arguments: Any) -> Any:
            start = time.perf_counter()
            out = self.stages[stage](*arguments)
            found[stage] = time.perf_counter() - start
            return out

        pooled, lookups = timed("lookup", batch, _small(self.pooled))
        top_inputs, crosses = timed("interaction", self.bottom, pooled, _small(self.top_inputs))
        upstream = (_small(self.bottom), _small(self.logits))
        (self.bottom, logits), mlps = timed("MLPs", batch["dense"], top_inputs, upstream)
        timed("loss", batch, label, logits)
        timed("dense update", [*mlps[: len(self.mlps)], *crosses[: len(self.crosses)]])
        timed("row update", lookups)
        return found

    # -- stages: they return all that they compute, or a compiler would leave it out ----------------------------------

    def lookup(self, batch: Any, upstream: Any) -> Any:
        """Validate, unique, gather, pool; backward: sum the gradients of repeated ids."""

        def forward(leaf: Leaf) -> Any:
            with taped(LookupTape(lambda index, rows: leaf(rows))) as tape:
                pooled = self.model.embeddings(batch)
            return pooled, [(lookup.ids, lookup.rows) for lookup in tape.lookups]

        pooled, looked_up, gradients = vjp(forward, upstream)
        return pooled, [(*pair, gradient) for pair, gradient in zip(looked_up, gradients, strict=True)]

    def interaction(self, bottom: Any, pooled: Any, upstream: Any) -> Any:
        """All vectors side by side, and their products or crosses, forward and backward."""

        def forward(leaf: Leaf) -> Any:
            with self._as_leaves(self.crosses, leaf):
                return self._interact(leaf(bottom), leaf(pooled)), ()

        top_inputs, _, gradients = vjp(forward, upstream)
        return top_inputs, gradients

    def mlp(self, dense: Any, top_inputs: Any, upstream: Any) -> Any:
        """Bottom and top MLP, forward and backward."""

        def forward(leaf: Leaf) -> Any:
            with self._as_leaves(self.mlps, leaf):
                return (self.model.bottom_mlp(dense), self.model.top_mlp(leaf(top_inputs))), ()

        out, _, gradients = vjp(forward, upstream)
        return out, gradients

    def loss(self, batch: Any, label: Any, logits: Any) -> Any:
        """Loss and prediction, forward and backward."""

        def forward(leaf: Leaf) -> Any:
            at = leaf(logits)
            return self.model.compute_loss(x=batch, y=label, y_pred=at, training=True), ops.sigmoid(at)

        return vjp(forward, ops.ones((), "float32"))

    def dense_update(self, gradients: Any) -> None:
        """Every weight but the tables."""
        self.optimizer.dense.apply(gradients, [*self.mlps, *self.crosses])

    def row_update(self, lookups: Any) -> None:
        """The rows that were looked up, and their slots."""
        found = [Lookup(table, ids, rows) for table, (ids, rows, _) in zip(self.tables, lookups, strict=True)]
        self.optimizer.apply_rows([], [], found, [gradient for _, _, gradient in lookups])

    def _interact(self, bottom: Any, pooled: Any) -> Any:
        features = ops.concatenate([ops.expand_dims(bottom, 1), pooled], axis=1)
        return self.model.interact(bottom, features)

    @staticmethod
    def _as_leaves(variables: list[Any], leaf: Leaf) -> keras.StatelessScope:
        return keras.StatelessScope([(v, leaf(ops.convert_to_tensor(v))) for v in variables])


def input_seconds(dataset: Any) -> float:
    """Seconds a batch takes from the file to tensors on the device, the way it takes in `fit`."""
    adapter = get_data_adapter(dataset)
    make = {"tensorflow": "get_tf_dataset", "jax": "get_jax_iterator", "torch": "get_torch_dataloader"}[BACKEND]
    batches = iter(getattr(adapter, make)())
    next(batches)
    start = time.perf_counter()
    count = 0
    for batch in batches:
        wait(keras.tree.map_structure(ops.convert_to_tensor, batch))
        count += 1
    return (time.perf_counter() - start) / count


class FitTime(keras.callbacks.Callback):
    """Seconds a step takes in `fit`, from the end of the first step to the end of the last one."""

    start = seconds = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        last = self.params["steps"] - 1
        if batch in (0, last):
            float(logs["loss"])  # waits for the step
            now = time.perf_counter()
            self.start = now if batch == 0 else self.start
            self.seconds = (now - self.start) / last


def _small(like: Any) -> Any:
    """A stand-in for a gradient."""
    return ops.full_like(like, 1e-6)
