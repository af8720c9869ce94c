"""The training loop that the PyTorch contestants share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from contest import serve
from workload import read


def compete(
    options: argparse.Namespace,
    forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    device: str = "cpu",
) -> None:
    """Train an epoch for each round.

    Args:
        options: Of `contest.arguments`.
        forward: Dense features (B, n) and int64 ids (tables, B) → logits (B, 1); it chooses where autocast is on.
        optimizer: Of what the backward pass does not update itself.
        device: Where the model is.
    """
    _, dense, sparse, label = read(options.folder)

    def one_epoch() -> int:
        steps = len(label) // options.batch
        for i in range(steps):
            rows = slice(i * options.batch, (i + 1) * options.batch)
            x = torch.from_numpy(np.array(dense[rows])).to(device)
            ids = torch.from_numpy(np.ascontiguousarray(sparse[rows].T).astype(np.int64)).to(device)
            y = torch.from_numpy(np.array(label[rows]))[:, None].to(device)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(forward(x, ids).float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()
        return steps

    one_epoch()
    serve(one_epoch)
