"""Learning-rate schedules."""

from typing import Any

import keras
from keras import ops

from keras_dlrm.support.arguments import integer


@keras.saving.register_keras_serializable("keras_dlrm")
class WarmupHoldDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, hold, quadratic decay, then hold at the last value.

    With steps k = 1, 2, … as the reference's scheduler counts them:

    - k < `warmup_steps`: lr · k / warmup_steps
    - `decay_start_step` ≤ k < `decay_start_step + decay_steps`: lr · ((decay_steps - (k - decay_start_step)) /
      decay_steps)², at least 1e-7
    - otherwise: the value of the last step that had one of the above, where there is a decay; else lr.

    As in the reference the hold between warm-up and decay stays at the last warm-up value, lr · (1 - 1/warmup_steps).

    Args:
        learning_rate: lr.
        warmup_steps: Steps of the warm-up, 0 for none.
        decay_start_step: First step of the decay; not before the end of the warm-up.
        decay_steps: Steps of the decay, 0 for none.

    Source: the reference's `LRPolicyScheduler`.

    Example:

    >>> float(WarmupHoldDecay(1.0, warmup_steps=4)(1))
    0.5
    """

    def __init__(self, learning_rate: float, warmup_steps: int = 0, decay_start_step: int = 0, decay_steps: int = 0) -> None:
        super().__init__()
        self.warmup_steps = integer("WarmupHoldDecay", "warmup_steps", warmup_steps, 0)
        self.decay_start_step = integer("WarmupHoldDecay", "decay_start_step", decay_start_step, 0)
        self.decay_steps = integer("WarmupHoldDecay", "decay_steps", decay_steps, 0)
        if decay_steps and decay_start_step < warmup_steps:
            fault = f"decay_start_step={decay_start_step} is inside the warm-up of {warmup_steps} steps"
            raise ValueError(f"WarmupHoldDecay: {fault}; start the decay at its end or later.")
        if not learning_rate >= 0:
            raise ValueError(f"WarmupHoldDecay: learning_rate={learning_rate!r} must be >= 0.")
        self.learning_rate = float(learning_rate)

    def __call__(self, step: Any) -> Any:
        k = ops.cast(step, "float32") + 1.0
        warmup, start, length = (float(v) for v in (self.warmup_steps, self.decay_start_step, self.decay_steps))
        # A warm-up of one step has no step of its own, so nothing that could be held.
        held = 1.0 - 1.0 / warmup if warmup > 1 and length else 1.0
        scale = ops.where(k < warmup, k / max(warmup, 1.0), held)
        rate = self.learning_rate * scale
        if length:
            # After the decay the last step of it counts: one more would be 0.
            into = ops.clip(k - start, 0.0, length - 1.0)
            decayed = ops.maximum(self.learning_rate * ops.square((length - into) / length), 1e-7)
            rate = ops.where(k >= start, decayed, rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("learning_rate", "warmup_steps", "decay_start_step", "decay_steps")}
