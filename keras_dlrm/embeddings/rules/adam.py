"""Adam, lazy on rows."""

from typing import Any

import keras
from keras import ops

from keras_dlrm.embeddings.rules.rule import RowRule
from keras_dlrm.support.arguments import number


@keras.saving.register_keras_serializable("keras_dlrm")
class Adam(RowRule):
    """m ← β₁m + (1-β₁)g;  v ← β₂v + (1-β₂)g²;  rows ← rows - lr · √(1-β₂ᵗ)/(1-β₁ᵗ) · m / (√v + ε).

    On rows it is *lazy*: m and v of a row decay only at steps that look the row up, and t counts the training steps,
    not the row's own. So it is not the dense Adam, which moves every row at every step. On dense parameters it is
    Keras's Adam.

    Args:
        learning_rate: A number or a schedule.
        beta_1: β₁ in [0, 1).
        beta_2: β₂ in [0, 1).
        epsilon: ε, >= 0.
        l2: L2 factor on touched rows.
        name: Name of the optimizer.

    Source: Kingma & Ba 2015, the form before section 2.1.

    Example:

    >>> Adam(1e-3).beta_2
    0.999
    """

    options = ("beta_1", "beta_2", "epsilon")

    def __init__(
        self, learning_rate: Any = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
        l2: float = 0.0, name: str | None = "adam",
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, l2, name)
        self.beta_1 = number("Adam", "beta_1", beta_1, below=1.0)
        self.beta_2 = number("Adam", "beta_2", beta_2, below=1.0)
        self.epsilon = number("Adam", "epsilon", epsilon)

    def slots(self, shape: tuple[int, ...], table: bool) -> dict[str, tuple[tuple[int, ...], float]]:
        return {"momentum": (shape, 0.0), "velocity": (shape, 0.0)}

    def update(self, rows: Any, gradient: Any, slots: dict[str, Any], learning_rate: Any, step: Any) -> Any:
        m = self.beta_1 * slots["momentum"] + (1 - self.beta_1) * gradient
        v = self.beta_2 * slots["velocity"] + (1 - self.beta_2) * gradient * gradient
        rate = learning_rate * ops.sqrt(1 - ops.power(self.beta_2, step)) / (1 - ops.power(self.beta_1, step))
        return rows - rate * m / (ops.sqrt(v) + self.epsilon), {"momentum": m, "velocity": v}
