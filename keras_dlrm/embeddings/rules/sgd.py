"""Plain stochastic gradient descent."""

from typing import Any

import keras

from keras_dlrm.embeddings.rules.rule import RowRule


@keras.saving.register_keras_serializable("keras_dlrm")
class SGD(RowRule):
    """rows ← rows - lr · g. Equal to the dense optimizer.

    Momentum is not offered: a velocity decays at every step, also for rows that are not looked up, so that a rule on
    touched rows would not be the optimizer of that name.

    Args:
        learning_rate: A number or a schedule.
        l2: L2 factor on touched rows.
        name: Name of the optimizer.

    Example:

    >>> SGD(0.1).name
    'sgd'
    """

    def __init__(self, learning_rate: Any = 0.01, l2: float = 0.0, name: str | None = "sgd") -> None:
        super().__init__(learning_rate, l2, name)

    def slots(self, shape: tuple[int, ...], table: bool) -> dict[str, tuple[tuple[int, ...], float]]:
        return {}

    def update(self, rows: Any, gradient: Any, slots: dict[str, Any], learning_rate: Any, step: Any) -> Any:
        return rows - learning_rate * gradient, slots
