"""Multi-gate mixture of experts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.initializers import ReferenceKernel, part_seed
from keras_dlrm.layers.mlp import MLP
from keras_dlrm.layers.task_head import TaskHead, TaskOptions, mixed


@keras.saving.register_keras_serializable("keras_dlrm")
class MMoEHead(TaskHead):
    """Experts that all labels share, for each label a gate that weighs them, and a tower on the mixture.

    Args:
        tasks, labels, …: Arguments of `TaskHead`, with options `MMoE`.

    Input: (B, n).
    Output: float32 (B, T).

    Source: Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", equations 6
    to 8.

    Example:

    >>> tuple(MMoEHead(MMoE(experts=3, expert_mlp=[8]), labels=2)(np.ones((4, 5), "float32")).shape)
    (4, 2)
    """

    def build(self, input_shape: Sequence[int | None]) -> None:
        n, tasks = int(input_shape[-1] or 0), self.tasks
        self.experts = [self.network(MLP, n, tasks.expert_mlp, f"expert_{i}", 1, i) for i in range(tasks.experts)]
        kernel = ReferenceKernel([part_seed(self.seed, 2), 0])
        options = {"use_bias": False, "kernel_initializer": kernel, "dtype": self.dtype_policy, "name": "gates"}
        self.gates = keras.layers.Dense(self.labels * tasks.experts, **options)
        self.gates.build((None, n))
        self.build_towers(tasks.expert_mlp[-1])
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        experts = [expert(inputs, training=training) for expert in self.experts]
        gates = ops.reshape(self.gates(inputs), (-1, self.labels, len(experts)))
        mixtures = mixed(gates, experts)  # (B, T, m)
        return self.logits([mixtures[:, t] for t in range(self.labels)], training)


@dataclasses.dataclass(frozen=True)
class MMoE(TaskOptions):
    """Options of `MMoEHead`: experts that all labels share, a gate and a tower for each label.

    Args:
        towers: Widths of the hidden layers of each label's tower.
        experts: Number of experts.
        expert_mlp: Widths of the layers of each expert.

    Raises:
        ValueError: a number is not positive, or experts have no layer.

    Source: Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts".

    Example:

    >>> MMoE(experts=2, expert_mlp=[8]).config()
    {'type': 'MMoE', 'towers': [], 'experts': 2, 'expert_mlp': [8]}
    """

    experts: int = 4
    expert_mlp: Sequence[int] = (64,)

    head = MMoEHead
