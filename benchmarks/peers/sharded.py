"""One process of a sharded model in training: `sharded.py BATCH STEPS KIND`, under the environment of `launch.environments`.

For each line on standard input it trains so many steps and prints how many samples a second all processes took together.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import keras
import numpy as np
from numpy.random import default_rng

import keras_dlrm as kd
from keras_dlrm.sharding import collectives as backend
from keras_dlrm.sharding.plan import place

BATCH, STEPS, KIND = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
ROWS, DIM = [100_000] * 26, 16


class Batches(keras.utils.PyDataset):
    """Eight batches, again and again."""

    def __init__(self) -> None:
        super().__init__()
        rng = default_rng(0)
        self.kept = []
        for _ in range(8):
            dense = rng.random((BATCH, 13), np.float32)
            sparse = np.stack([rng.integers(0, n, BATCH) for n in ROWS], 1).astype(np.int32)
            self.kept.append(({"dense": dense, "sparse": sparse}, rng.integers(0, 2, BATCH).astype(np.float32)))

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> Any:
        return self.kept[index % len(self.kept)]


kd.sharding.start()
schema = kd.Schema(
    dense=[f"I{i}" for i in range(13)], categorical=[kd.Categorical(f"C{i}", n) for i, n in enumerate(ROWS)]
)
widths = ([512, 256, 64, DIM], [512, 256, 1])
data: Any = Batches()
if backend.world_size() > 1:
    shapes = {name: (rows, DIM) for name, rows in schema.table_sizes.items()}
    with kd.sharding.use(place(backend.world_size(), shapes, dict.fromkeys(shapes, KIND))):
        model = kd.models.DLRM(schema, DIM, *widths, seed=0)
    data = kd.sharding.Part(data)
else:
    model = kd.models.DLRM(schema, DIM, *widths, seed=0)
model.compile(kd.optimizers.SGD(0.1), "binary_crossentropy", embedding_optimizer=kd.optimizers.RowwiseAdagrad(0.01))
model.fit(data, verbose=0, shuffle=False)
print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    model.fit(data, verbose=0, shuffle=False)
    print(STEPS * BATCH / (time.perf_counter() - start), flush=True)
