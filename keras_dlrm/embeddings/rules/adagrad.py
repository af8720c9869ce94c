"""Adagrad, one accumulator per element."""

from typing import Any

import keras
from keras import ops

from keras_dlrm.embeddings.rules.rule import RowRule
from keras_dlrm.support.arguments import number


@keras.saving.register_keras_serializable("keras_dlrm")
class Adagrad(RowRule):
    """acc ← acc + g²;  rows ← rows - lr · g / (√acc + ε). Equal to the dense optimizer: a row without gradient rests.

    The defaults are PyTorch's, which the reference uses. Keras and TensorFlow put ε inside the root and start the
    accumulator at 0.1: `Adagrad(lr, 0.1, 1e-7, epsilon_in_root=True)`.

    Args:
        learning_rate: A number or a schedule.
        initial_accumulator_value: Start of the accumulator, >= 0.
        epsilon: ε, >= 0.
        epsilon_in_root: Whether to divide by √(acc + ε) instead of √acc + ε.
        l2: L2 factor on touched rows.
        name: Name of the optimizer; that of the rule if omitted.

    Source: Duchi et al. 2011.

    Example:

    >>> Adagrad(0.05, initial_accumulator_value=0.1).epsilon
    1e-10
    """

    options = ("initial_accumulator_value", "epsilon", "epsilon_in_root")
    default_name = "adagrad"

    def __init__(
        self, learning_rate: Any = 0.01, initial_accumulator_value: float = 0.0, epsilon: float = 1e-10,
        epsilon_in_root: bool = False, l2: float = 0.0, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, l2, name or self.default_name)
        who = type(self).__name__
        self.initial_accumulator_value = number(who, "initial_accumulator_value", initial_accumulator_value)
        self.epsilon = number(who, "epsilon", epsilon)
        self.epsilon_in_root = bool(epsilon_in_root)

    def slots(self, shape: tuple[int, ...], table: bool) -> dict[str, tuple[tuple[int, ...], float]]:
        return {"accumulator": (shape, self.initial_accumulator_value)}

    def update(self, rows: Any, gradient: Any, slots: dict[str, Any], learning_rate: Any, step: Any) -> Any:
        accumulator = slots["accumulator"] + gradient * gradient
        return rows - learning_rate * gradient / self._root(accumulator), {"accumulator": accumulator}

    def _root(self, accumulator: Any) -> Any:
        root = ops.sqrt(accumulator + self.epsilon) if self.epsilon_in_root else ops.sqrt(accumulator) + self.epsilon
        # With epsilon=0 an element that never had a gradient would give 0/0.
        return ops.where(root > 0, root, ops.ones_like(root))
