"""`ESMM`, a loss of two labels, the second of which follows the first."""

from typing import Any

import keras
from keras import ops

_LEAST = 1e-7  # probability, and distance of one to 1


@keras.saving.register_keras_serializable("keras_dlrm")
class ESMM(keras.losses.Loss):
    """Loss of a model of two labels, the second of which can only follow the first, as a purchase follows a click.

    The predictions are p(click) and p(purchase | click). The loss is the cross-entropy of p(click) and that of p(click, purchase),
    their product, both on all rows, so that p(purchase | click) is learned without the bias of the rows that were clicked.
    Where there was no click there was no purchase, whether the second label says so or is missing. Leave it missing there, and
    the scores of the second label are those of the rows that were clicked.

    Args:
        name: Name of the loss.
        reduction: As of `keras.losses.Loss`.

    Source: Ma et al. 2018, "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate",
    equation 3.

    Example:

    >>> schema = kd.Schema(dense=["x"], categorical=[kd.Categorical("c", 10)], label=["click", "purchase"])
    >>> model = kd.models.DCNv2(schema, 4, deep_mlp=[8])
    >>> model.compile("adam", loss=ESMM(), metrics=["auc"])
    >>> batch = schema.pack({"x": [0.5, 1.5], "c": [3, 4]})
    >>> len(model.fit(batch, np.array([[1.0, 0.0], [0.0, np.nan]]), verbose=0).history["loss"])
    1
    """

    def __init__(self, name: str = "esmm", reduction: str = "sum_over_batch_size", dtype: Any = None) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def targets(self, y_true: Any) -> Any:
        """Labels (B, 2) → what they say of click and of click and purchase, NaN where that is nothing."""
        click, both = y_true[:, 0], y_true[:, 1]
        both = ops.where(ops.equal(click, 0.0), 0.0, ops.where(ops.isnan(click), click, both))
        return ops.stack([click, both], axis=1)

    def of_logits(self, targets: Any, logits: Any) -> Any:
        """Losses of click and of click and purchase, (B, 2), by targets without NaN and logits of the two predictions, (B, 2)."""
        click, then = logits[:, 0], logits[:, 1]
        log_both = ops.log_sigmoid(click) + ops.log_sigmoid(then)
        # 1 - σ(a)σ(b) = σ(a)σ(b) (e⁻ᵃ + e⁻ᵇ + e⁻ᵃ⁻ᵇ), which loses no digits.
        log_neither = log_both + ops.logsumexp(ops.stack([-click, -then, -click - then], axis=1), axis=1)
        of_click = ops.softplus(click) - targets[:, 0] * click
        return ops.stack([of_click, -targets[:, 1] * log_both - (1.0 - targets[:, 1]) * log_neither], axis=1)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Labels and predictions, (B, 2) each, → loss of each row, (B,)."""
        targets, p = self.targets(y_true), ops.clip(y_pred, _LEAST, 1.0 - _LEAST)
        known = ops.logical_not(ops.isnan(targets))
        losses = self.of_logits(ops.where(known, targets, 0.0), ops.log(p) - ops.log(1.0 - p))
        return ops.sum(ops.where(known, losses, 0.0), axis=1)
