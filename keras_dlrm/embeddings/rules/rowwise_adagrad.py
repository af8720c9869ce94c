"""Adagrad with one accumulator per row."""

from typing import Any

import keras
from keras import ops

from keras_dlrm.embeddings.rules.adagrad import Adagrad


@keras.saving.register_keras_serializable("keras_dlrm")
class RowwiseAdagrad(Adagrad):
    """acc ← acc + mean(g²) over the row;  row ← row - lr · g / (√acc + ε). One float per row instead of D.

    On dense parameters it is Adagrad, as in the reference.

    Args:
        learning_rate: A number or a schedule.
        initial_accumulator_value: Start of the accumulator, >= 0.
        epsilon: ε, >= 0.
        epsilon_in_root: Whether to divide by √(acc + ε) instead of √acc + ε.
        l2: L2 factor on touched rows.
        name: Name of the optimizer; `rowwise_adagrad` if omitted.

    Source: the reference's `RWSAdagrad`; Mudigere et al. 2022, section 4.1.

    Example:

    >>> RowwiseAdagrad(0.01).slots((1000, 16), table=True)
    {'accumulator': ((1000,), 0.0)}
    """

    default_name = "rowwise_adagrad"

    def slots(self, shape: tuple[int, ...], table: bool) -> dict[str, tuple[tuple[int, ...], float]]:
        return {"accumulator": (shape[:1] if table else shape, self.initial_accumulator_value)}

    def update(self, rows: Any, gradient: Any, slots: dict[str, Any], learning_rate: Any, step: Any) -> Any:
        if len(slots["accumulator"].shape) == len(rows.shape):
            return super().update(rows, gradient, slots, learning_rate, step)
        accumulator = slots["accumulator"] + ops.mean(gradient * gradient, axis=-1)
        root = ops.expand_dims(self._root(accumulator), -1)
        return rows - learning_rate * gradient / root, {"accumulator": accumulator}
