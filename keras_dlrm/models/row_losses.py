"""`RowLosses`, a loss whose value of each row a model has computed: what Keras then makes of them."""

from typing import Any

import keras
from keras import ops

from keras_dlrm.backend.private_keras import in_symbolic_scope
from keras_dlrm.models.losses import known_logits
from keras_dlrm.step.batch import WholeBatch


class RowLosses(keras.losses.Loss):
    """Reduction of losses of rows that `logits_of` knows in the place of the logits; of others it is the original loss.

    Args:
        original: A loss that sees more than labels and predictions, and so is computed by the model.
    """

    def __init__(self, original: keras.losses.Loss) -> None:
        super().__init__(original.name, original.reduction, original.dtype)
        self.original = original

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        losses, _ = known_logits(y_pred)
        if losses is None and in_symbolic_scope():  # Keras asks for the shape, of a prediction of its own
            losses = ops.cast(y_pred[:, 0], "float32")
        if losses is None:
            return self.original(y_true, y_pred, sample_weight)
        return super().__call__(losses, losses, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred  # the rows' losses


def rows_by_counted(reduction: str, counted: Any, part: WholeBatch) -> Any:
    """Rows of the whole batch by those that have a loss, by which a mean over all becomes one over these; 1 for a sum.

    Args:
        reduction: That of the loss. Rows are counted as it does: by number, or by weight.
        counted: Whether a row has a loss, bool (B,) or (B, T) of T labels.
        part: The process's part of the batch.

    Returns:
        float32, a scalar or (T,).
    """
    counted = ops.cast(counted, "float32")
    if reduction not in ("sum_over_batch_size", "mean", "mean_with_sample_weight"):
        return ops.ones(counted.shape[1:], "float32")
    counts = part.sample_weight if reduction == "mean_with_sample_weight" else part.real
    one = (1,) * (len(counted.shape) - 1)
    counts = ops.ones((ops.shape(counted)[0], *one)) if counts is None else ops.cast(ops.reshape(counts, (-1, *one)), "float32")
    rows, have = part.sum([ops.sum(counts), ops.sum(counted * counts, axis=0)])
    return ops.where(have > 0, rows / ops.where(have > 0, have, 1.0), 0.0)
