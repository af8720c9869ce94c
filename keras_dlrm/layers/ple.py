"""Progressive layered extraction."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dlrm.initializers import ReferenceKernel, part_seed
from keras_dlrm.layers.mlp import MLP
from keras_dlrm.layers.task_head import TaskHead, TaskOptions, mixed


@keras.saving.register_keras_serializable("keras_dlrm")
class PLEHead(TaskHead):
    """Levels of experts, some of each label's own and some shared, whose gates mix them; towers on the last mixtures.

    A label's gate weighs its own experts and the shared ones. Between levels there is a mixture of all experts besides, the input
    of the next level's shared ones. With one level it is the paper's CGC.

    Args:
        tasks, labels, …: Arguments of `TaskHead`, with options `PLE`.

    Input: (B, n).
    Output: float32 (B, T).

    Source: Tang et al. 2020, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for Personalized
    Recommendations", equations 1 to 7, figure 5.

    Example:

    >>> tuple(PLEHead(PLE(experts=1, shared_experts=1, expert_mlp=[8], levels=2), labels=2)(np.ones((4, 5), "float32")).shape)
    (4, 2)
    """

    def build(self, input_shape: Sequence[int | None]) -> None:
        n, tasks = int(input_shape[-1] or 0), self.tasks
        # One group of experts for each label, then the shared ones.
        groups = [*[tasks.experts] * self.labels, tasks.shared_experts]
        self.experts, self.gates = [], []
        for level in range(tasks.levels):
            level_experts, gates = [], []
            for i, count in enumerate(groups):
                names = [f"expert_{level}_{i}_{j}" for j in range(count)]
                networks = [self.network(MLP, n, tasks.expert_mlp, name, 1, level, i, j) for j, name in enumerate(names)]
                level_experts.append(networks)
                last = level == tasks.levels - 1
                if i < self.labels or not last:  # after the last level nothing is shared
                    weighed = count + tasks.shared_experts if i < self.labels else sum(groups)
                    kernel = ReferenceKernel([part_seed(self.seed, 2, level, i), 0])
                    options = {"use_bias": False, "kernel_initializer": kernel, "dtype": self.dtype_policy}
                    gate = keras.layers.Dense(weighed, **options, name=f"gate_{level}_{i}")
                    gate.build((None, n))
                    gates.append(gate)
            self.experts.append(level_experts)
            self.gates.append(gates)
            n = tasks.expert_mlp[-1]
        self.build_towers(n)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        states = [inputs] * (self.labels + 1)
        for groups, gates in zip(self.experts, self.gates, strict=True):
            outputs = [[expert(x, training=training) for expert in group] for group, x in zip(groups, states, strict=True)]
            *own, shared = outputs
            weighed = [*([*each, *shared] for each in own), [expert for group in outputs for expert in group]]
            states = [
                mixed(ops.expand_dims(gate(x), 1), experts)[:, 0]
                for gate, x, experts in zip(gates, states, weighed, strict=False)
            ]
        return self.logits(states, training)


@dataclasses.dataclass(frozen=True)
class PLE(TaskOptions):
    """Options of `PLEHead`: levels of experts, some of each label's own and some shared, a gate and a tower for each label.

    Args:
        towers: Widths of the hidden layers of each label's tower.
        experts: Number of each label's own experts in a level.
        shared_experts: Number of shared experts in a level.
        expert_mlp: Widths of the layers of each expert.
        levels: Number of levels.

    Raises:
        ValueError: a number is not positive, or experts have no layer.

    Source: Tang et al. 2020, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for Personalized
    Recommendations".

    Example:

    >>> PLE(experts=1, expert_mlp=[8]).config()
    {'type': 'PLE', 'towers': [], 'experts': 1, 'shared_experts': 2, 'expert_mlp': [8], 'levels': 1}
    """

    experts: int = 2
    shared_experts: int = 2
    expert_mlp: Sequence[int] = (64,)
    levels: int = 1

    head = PLEHead
