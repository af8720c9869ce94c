"""Public names of the heads for several labels: `kd.tasks`."""

from keras_dlrm.layers.mmoe import MMoE
from keras_dlrm.layers.ple import PLE
from keras_dlrm.layers.task_head import SharedBottom

__all__ = ["MMoE", "PLE", "SharedBottom"]
