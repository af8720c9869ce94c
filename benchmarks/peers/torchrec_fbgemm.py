"""TorchRec's DLRM on CPU over FBGEMM's fused tables: row-wise Adagrad in the backward pass, SGD for the dense part."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from contest import arguments
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torch_loop import compete
from torchrec.models.dlrm import DenseArch, InteractionArch, OverArch
from workload import read

options = arguments()

shape, _, _, _ = read(options.folder)
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


def forward(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    pooled = embeddings(ids.reshape(-1), offsets).reshape(options.batch, tables, shape.dim)
    with torch.autocast("cpu", torch.bfloat16, enabled=options.dtype != "float32"):
        return over(interaction(dense_arch(x), pooled))


compete(options, forward, optimizer)
