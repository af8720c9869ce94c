"""Losses besides Keras's own, one file each; public as `kd.losses`."""

from keras_dlrm.losses.esmm import ESMM
from keras_dlrm.losses.in_batch_softmax import InBatchSoftmax

__all__ = ["ESMM", "InBatchSoftmax"]
