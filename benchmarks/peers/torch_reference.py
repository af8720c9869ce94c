"""The reference's way in PyTorch: EmbeddingBag(sparse=True) per table, dot interaction, SGD for everything."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from contest import arguments
from torch_loop import compete
from workload import read

options = arguments()
parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cpu")
device = parser.parse_known_args()[0].device

shape, _, _, _ = read(options.folder)


def mlp(first: int, widths: tuple[int, ...], last_is_logit: bool) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for i, (n, m) in enumerate(zip((first, *widths), widths, strict=False)):
        layers.append(torch.nn.Linear(n, m))
        if not (last_is_logit and i == len(widths) - 1):
            layers.append(torch.nn.ReLU())
    return torch.nn.Sequential(*layers)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        vectors = len(shape.rows) + 1
        self.tables = torch.nn.ModuleList(
            torch.nn.EmbeddingBag(n, shape.dim, mode="sum", sparse=True) for n in shape.rows
        )
        self.bottom = mlp(shape.n_dense, shape.bottom, False)
        self.top = mlp(shape.dim + vectors * (vectors - 1) // 2, shape.top, True)
        self.lower = torch.tril_indices(vectors, vectors, -1)

    def forward(self, dense: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        x = self.bottom(dense)
        vectors = [x, *(table(ids[k], offsets) for k, table in enumerate(self.tables))]
        features = torch.stack(vectors, 1).to(x.dtype)
        products = torch.bmm(features, features.transpose(1, 2))
        return self.top(torch.cat([x, products[:, self.lower[0], self.lower[1]]], 1))


with torch.device(device):
    model = Model()
    offsets = torch.arange(options.batch)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def forward(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    with torch.autocast(device, torch.bfloat16, enabled=options.dtype != "float32"):
        return model(x, ids, offsets)


compete(options, forward, optimizer, device)
