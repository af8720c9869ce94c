"""Learning-rate schedules: the public name of `keras_dlrm.training.schedules`."""

from keras_dlrm.training.schedules import WarmupHoldDecay

__all__ = ["WarmupHoldDecay"]
