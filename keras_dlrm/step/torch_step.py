"""The sparse train step for torch."""

from typing import Any

import keras
import torch

from keras_dlrm.backend.private_keras import get_data_adapter
from keras_dlrm.embeddings.lookup import LookupTape, is_table, taped
from keras_dlrm.embeddings.row_access import prepared
from keras_dlrm.step.ahead import AdapterAhead
from keras_dlrm.step.step import Step


class SparseStep(Step):
    """`train_step` and `test_step` of a `SparseTraining` model: gradients of looked-up rows instead of whole tables."""

    def prepared(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if call != "fit" or not self.host_tables or arguments["validation_split"]:
            return arguments
        named = ("x", "y", "sample_weight", "batch_size", "steps_per_epoch", "shuffle", "class_weight")
        adapter = get_data_adapter(**{name: arguments[name] for name in named if name in arguments})
        return {**arguments, "x": AdapterAhead(adapter, self.expect), **dict.fromkeys(("y", "sample_weight", "class_weight"))}

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = self._after_hooks(self.train_function, True)

    def make_test_function(self, force: bool = False) -> None:
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = self._after_hooks(self.test_function, False)

    def make_predict_function(self, force: bool = False) -> None:
        if self.predict_function is None or force:
            super().make_predict_function(force)
            self.predict_function = self._after_hooks(self.predict_function, False)

    def _after_hooks(self, function: Any, training: bool) -> Any:
        """Keras's function of a list of batches, which are made ready for it first."""
        collections = self.collections_before_steps
        if not collections:
            return function

        def ready(batches: Any) -> Any:
            batches = [self.before_step(data, training) for data in batches]
            with prepared.using(True):
                return function(batches)

        return ready

    def loss_of_step(self, x: Any, y: Any, y_pred: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().loss_of_step(x, y, y_pred, *args, **kwargs)
        except RuntimeError:
            # torch's cross-entropy refuses a probability of NaN in words of its own; on the other backends the loss is NaN.
            total = sum(keras.ops.sum(p) for p in keras.tree.flatten(y_pred))
            if keras.ops.isfinite(total):
                raise
            return total

    def train_step(self, data: Any) -> Any:
        x, y, sample_weight = self.unpacked(data)
        part = self.part_of_step(x, sample_weight)
        kept = [(v, v.value.detach().clone()) for v in self.kept_of_rows]
        with taped(LookupTape(lambda index, rows: rows.requires_grad_())) as tape:
            loss, y_pred = self.loss_and_prediction(x, y, part, training=True)
            loss = part.share(loss)
        self.zero_grad()
        if loss.requires_grad:  # not where all is frozen
            loss.backward()
        dense = [v for v in self.trainable_variables if not is_table(v)]
        with torch.no_grad():
            changes = [v.value - before for v, before in kept]
            grads, loss, changes = part.totals([v.value.grad for v in dense], loss.detach(), changes)
            for (v, before), change in zip(kept, changes, strict=True):
                v.assign(before + change)
            self.optimizer.apply_rows(grads, dense, tape.lookups, [lookup.rows.grad for lookup in tape.lookups])
            return self.update_metrics(x, y, y_pred, part, loss)
