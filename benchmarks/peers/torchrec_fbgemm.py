"""TorchRec's DLRM on CPU over FBGEMM's fused tables: row-wise Adagrad in the backward pass, SGD for the dense part."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
import torch
from contest import serve
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torchrec.models.dlrm import DenseArch, InteractionArch, OverArch
from workload import read

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--batch", type=int, default=2048)
parser.add_argument("--dtype", default="float32")
options = parser.parse_args()

shape, dense, sparse, label = read(options.folder)
tables = len(shape.rows)
embeddings = SplitTableBatchedEmbeddingBagsCodegen(
    [(n, shape.dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for n in shape.rows],
    optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD, learning_rate=0.01, eps=1e-10,
)  # fmt: skip
with torch.no_grad():
    for weight in embeddings.split_embedding_weights():
        weight.uniform_(-(len(weight) ** -0.5), len(weight) ** -0.5)
dense_arch = DenseArch(shape.n_dense, list(shape.bottom))
interaction = InteractionArch(tables)
over = OverArch(shape.dim + tables * (tables + 1) // 2, list(shape.top))
optimizer = torch.optim.SGD([*dense_arch.parameters(), *over.parameters()], lr=0.1)
offsets = torch.arange(tables * options.batch + 1)


def one_epoch() -> int:
    steps = len(label) // options.batch
    for i in range(steps):
        rows = slice(i * options.batch, (i + 1) * options.batch)
        x = torch.from_numpy(np.array(dense[rows]))
        ids = torch.from_numpy(np.ascontiguousarray(sparse[rows].T).astype(np.int64)).reshape(-1)
        y = torch.from_numpy(np.array(label[rows]))[:, None]
        pooled = embeddings(ids, offsets).reshape(options.batch, tables, shape.dim)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.dtype != "float32"):
            logits = over(interaction(dense_arch(x), pooled))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps


one_epoch()
serve(one_epoch)
