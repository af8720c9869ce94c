"""Collectives of torch.distributed: gloo between CPUs, NCCL between GPUs."""

import atexit
import datetime
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import distributed

from keras_dlrm import backend as tables
from keras_dlrm.sharding.meter import meter

CUTS_ROWS = True


def start(timeout: float = 300.0) -> None:
    """Join the processes that torchrun, or a launcher with its environment variables, started."""
    if distributed.is_initialized() or "RANK" not in os.environ:
        return
    engine = "nccl" if torch.cuda.is_available() else "gloo"
    if engine == "nccl":
        # A launcher may show each process its own GPU alone.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    distributed.init_process_group(engine, timeout=datetime.timedelta(seconds=timeout))
    # However the program ends: gloo's threads may abort a process that ends while they run ("terminate called without an active
    # exception"), which a launcher would take for a lost one.
    atexit.register(stop)


def stop() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


process_rank, process_count = rank, world_size


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return _exchanged(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return _exchanged(gradients[0])


def _exchanged(x: torch.Tensor) -> torch.Tensor:
    n = world_size()
    # Keras asks for the shapes of outputs by tensors without values.
    if n == 1 or x.device.type == "meta":
        return x
    x = x.contiguous()
    meter.sent(x.numel() // n * (n - 1) * x.element_size())
    received = torch.empty_like(x)
    distributed.all_to_all_single(received, x)
    return received


def exchange(x: torch.Tensor) -> torch.Tensor:
    return _Exchange.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def all_sum(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    n = world_size()
    if n == 1 or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    # A ring: every part once while it is added up, and once as the sum.
    meter.sent(2 * (n - 1) * -(-flat.numel() // n) * flat.element_size())
    distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def gather(x: torch.Tensor) -> torch.Tensor:
    n = world_size()
    if n == 1:
        return x
    x = x.contiguous()
    meter.sent((n - 1) * x.numel() * x.element_size())
    every = torch.empty((n * x.shape[0], *x.shape[1:]), dtype=x.dtype, device=x.device)
    distributed.all_gather_single(every, x)
    return every


def real_rows(x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    return x[real]


def holds(owner: int, variable: Any) -> bool:
    return owner == rank()


def read(variable: Any, owner: int | None, start: int, stop: int) -> np.ndarray:
    return tables.read(variable, start, stop)


def write(variable: Any, owner: int | None, start: int, rows: np.ndarray) -> None:
    tables.write(variable, start, rows)


def all_words(words: np.ndarray) -> np.ndarray:
    if world_size() == 1:
        return words[None]
    own = torch.from_numpy(words.copy()).to("cuda" if distributed.get_backend() == "nccl" else "cpu")
    every = torch.empty((world_size() * len(words),), dtype=torch.int32, device=own.device)
    distributed.all_gather_single(every, own)
    return every.cpu().numpy().reshape(world_size(), -1)
