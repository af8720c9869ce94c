"""Loss of several labels: a loss of each, weighted, over the rows that have it."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.losses import ESMM
from keras_dlrm.models.losses import config_of, from_logits, known_logits, resolved
from keras_dlrm.models.row_losses import rows_by_counted
from keras_dlrm.step.batch import WholeBatch
from keras_dlrm.support.arguments import number, shown


@keras.saving.register_keras_serializable("keras_dlrm")
class LabelLosses(keras.losses.Loss):
    """Σ over labels of weight · mean, over the rows that have the label, of a loss of its prediction.

    Args:
        loss: As `compile` takes it, of a single label; or `ESMM`, of two.
        labels: Names of the T labels.
        weights: Weights of labels by name; 1 for others.

    Raises:
        ValueError: an unknown loss or label, a weight that is negative, `ESMM` of another number of labels.
    """

    def __init__(
        self, loss: Any, labels: Sequence[str], weights: Mapping[str, float] | None = None, name: str | None = None
    ) -> None:
        loss = resolved(loss)
        super().__init__(name or getattr(loss, "name", None), getattr(loss, "reduction", "sum_over_batch_size"))
        if not callable(loss):
            fix = "give one loss for all labels, such as 'binary_crossentropy' or kd.losses.ESMM(), and loss_weights by name"
            raise ValueError(f"compile: loss={shown(loss)} is no loss of the labels {list(labels)}; {fix}.")
        self.loss, self.labels = loss, list(labels)
        self.weights = checked_weights(self.labels, weights)
        if isinstance(loss, ESMM) and len(self.labels) != 2:
            raise ValueError(f"ESMM: the schema has the labels {self.labels}; it needs two, the second of which follows the first.")
        self._computed = from_logits(loss)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        logits, factors = known_logits(y_pred)
        targets = self.targets(y_true)
        if factors is None:
            factors = self.factors(y_true, WholeBatch(sample_weight))
        known = ops.logical_not(ops.isnan(targets))
        losses = self._losses(ops.where(known, targets, 0.0), y_pred, logits)
        weights = ops.convert_to_tensor([self.weights.get(name, 1.0) for name in self.labels], "float32")
        rows = ops.sum(ops.where(known, losses, 0.0) * (factors * weights), axis=1)
        return super().__call__(rows, rows, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred  # the rows' losses, see above

    def targets(self, y_true: Any) -> Any:
        """Labels (B, T) as float32, NaN where one says nothing."""
        y_true = ops.cast(y_true, "float32")
        return self.loss.targets(y_true) if isinstance(self.loss, ESMM) else y_true

    def factors(self, y_true: Any, part: WholeBatch) -> Any:
        """Rows of the whole batch by those that have each label, float32 (T,); see `rows_by_counted`."""
        return rows_by_counted(self.reduction, ops.logical_not(ops.isnan(self.targets(y_true))), part)

    def _losses(self, targets: Any, y_pred: Any, logits: Any) -> Any:
        """Loss of each row and label, (B, T)."""
        if isinstance(self.loss, ESMM):
            if logits is None:
                p = ops.clip(y_pred, 1e-7, 1.0 - 1e-7)
                logits = ops.log(p) - ops.log(1.0 - p)
            return self.loss.of_logits(targets, logits)
        loss = self._computed
        if hasattr(loss, "of_logits"):  # of a cross-entropy, see `FromLogits`
            loss, y_pred = (loss.original, y_pred) if logits is None else (loss.of_logits, logits)
        function = loss.call if isinstance(loss, keras.losses.Loss) else loss
        losses = []
        for i in range(len(self.labels)):
            one = function(targets[:, i : i + 1], y_pred[:, i : i + 1])
            losses.append(one if len(one.shape) == 1 else ops.mean(one, axis=tuple(range(1, len(one.shape)))))
        return ops.stack(losses, axis=1)

    def get_config(self) -> dict[str, Any]:
        return {"loss": config_of(self.loss), "labels": self.labels, "weights": self.weights, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LabelLosses":
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


def checked_weights(labels: Sequence[str], weights: Any) -> dict[str, float]:
    """Weights of labels by name; `ValueError` for what is no label, or no weight."""
    if weights is not None and not isinstance(weights, Mapping):
        raise TypeError(f"compile: loss_weights={shown(weights)} must be a mapping, such as {{{labels[0]!r}: 0.5}}.")
    for name in weights or {}:
        if name not in labels:
            raise ValueError(f"compile: loss_weights has {name!r}, which is not a label; known are {list(labels)}.")
    return {name: number("compile", f"loss_weights[{name!r}]", weight) for name, weight in (weights or {}).items()}
