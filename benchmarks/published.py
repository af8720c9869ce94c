"""Throughput that others published, beside which predictions are put."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_dlrm.schema.schema import Categorical, Schema
from keras_dlrm.sharding.planner.machine import MACHINES
from keras_dlrm.sharding.planner.planner import plan_for
from keras_dlrm.sharding.planner.workload import Workload

# Criteo 1TB, values seen at least 15 times: NVIDIA's data set of DLRM.
_FL15 = (
    7912889, 33823, 17139, 7339, 20046, 4, 7105, 1382, 63, 5554114, 582469, 245828, 11, 2209, 10667, 104, 4, 968, 15,
    8165896, 2675940, 7156453, 302516, 12022, 97, 35,
)  # fmt: skip
_DLRM = {"bottom_mlp": [512, 256, 128], "top_mlp": [1024, 1024, 512, 256, 1]}
# 27 vectors of 128 through three cross layers of rank 512; the bottom MLP and a top MLP of 1024-1024-512-256-1.
_CROSS = 27 * 128
_DCN = {
    "dense_parameters": 171_392 + 3 * (2 * _CROSS * 512 + _CROSS) + (_CROSS + 1024 + 512) * 1024 + 512 * 256 + 3_073,
    "activations": 4 * (3 * (3 * _CROSS + 512) + _CROSS + 3_713),
}


@dataclasses.dataclass(frozen=True)
class Published:
    """A published throughput.

    Attributes:
        name: Whose, and of what.
        machine: Name in `MACHINES`.
        world_size: Devices.
        examples_per_second: As published.
        global_batch: Examples of all devices in a step.
        options: The model, as `Workload.of` takes it.
        multi_hot: Whether the tables are MLPerf's multi-hot ones.
        note: What is not known of it, or chosen to meet it.
    """

    name: str
    machine: str
    world_size: int
    examples_per_second: float
    global_batch: int
    options: dict[str, Any]
    multi_hot: bool = False
    note: str = ""

    def workload(self) -> Workload:
        """The workload that was trained."""
        if self.multi_hot:
            from keras_dlrm.models.presets import PRESETS

            schema = PRESETS["mlperf_dcnv2"].schema()
        else:
            columns = [Categorical(f"C{i + 1}", rows) for i, rows in enumerate(_FL15)]
            schema = Schema(dense=[f"I{i + 1}" for i in range(13)], categorical=columns)
        return Workload.of(schema, 128, global_batch=self.global_batch, **self.options)

    def predicted(self) -> float:
        """Examples per second by `kd.plan`'s plan."""
        found = plan_for(self.workload(), self.world_size, machine=MACHINES[self.machine]).estimate
        if found is None:
            raise RuntimeError("plan_for gave no estimate.")
        return found.examples_per_second


_HALF = {"half_precision": True}
#: What the simulator is checked against. Tests and `benchmarks/plan.py` say how near it comes.
PUBLISHED = (
    Published("NVIDIA DLRM, TensorFlow 2, AMP", "a100", 1, 4.55e6, 65536, {**_DLRM, **_HALF, "optimizer": "sgd"},
              note="the GPUs' shares of their peaks are chosen to meet this one"),
    Published("NVIDIA DLRM, TensorFlow 2, TF32", "a100_tf32", 1, 2.84e6, 65536, {**_DLRM, "optimizer": "sgd"}),
    Published("NVIDIA DLRM, TensorFlow 2, AMP", "a100", 8, 13.8e6, 65536, {**_DLRM, **_HALF, "optimizer": "sgd"}),
    Published("NVIDIA DCNv2, TensorFlow 2, AMP", "a100", 1, 1.37e6, 65536, {**_DCN, **_HALF, "optimizer": "adam"},
              note="rows, hotness and optimizer are assumed to be those of its DLRM and of Adam"),
    Published("TorchRec DLRM", "a100_40gb", 1, 0.74e6, 16384, {**_DLRM, "optimizer": "sgd"},
              note="rows are assumed; its own tables need more memory than one such GPU has"),
    Published("TorchRec DLRM", "a100_40gb", 8, 5.37e6, 65536, {**_DLRM, "optimizer": "sgd"}, note="rows are assumed"),
    Published("HugeCTR DCNv2, MLPerf", "h100", 8, 13.8e6, 65536, {**_DCN, **_HALF, "optimizer": "adagrad"}, True,
              "evaluation included"),
    Published("HugeCTR DCNv2, MLPerf", "h100", 128, 63.5e6, 135168, {**_DCN, **_HALF, "optimizer": "adagrad"}, True,
              "between 62 and 65 million; batch of 128 × 1056 by the name of its configuration"),
)  # fmt: skip
