"""Rows on torch: gather, sum of duplicates, scatter."""

from typing import Any

import keras
import numpy as np
import torch

from keras_dlrm.backend.private_keras import in_stateless_scope


def unique(ids: Any, beyond: int) -> tuple[Any, Any]:
    return torch.unique(ids, return_inverse=True)


def take(variable: Any, ids: Any) -> Any:
    return torch.nn.functional.embedding(ids, variable.value)


def gather(variable: Any, ids: Any) -> Any:
    return variable.value.detach().index_select(0, ids)


def scatter(variable: Any, ids: Any, rows: Any) -> None:
    with torch.no_grad():
        variable.value.index_copy_(0, ids.long(), rows.to(variable.value.dtype))


def within(ids: Any, values: Any, rows: int) -> tuple[Any, Any]:
    real = ids < rows
    return ids[real], values[real]


def constant(tensor: Any) -> Any:
    return tensor.detach()


def expand(rows: Any, index: Any) -> Any:
    return rows.index_select(0, index.reshape(-1)).reshape(*index.shape, rows.shape[1])


def sum_by(values: Any, index: Any, count: int) -> Any:
    out = torch.zeros((count, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return out.index_add_(0, index, values)


def take_columns(matrix: Any, columns: np.ndarray) -> Any:
    index = torch.as_tensor(columns, device=matrix.device)
    if matrix.element_size() < 4 and matrix.device.type == "cpu":
        # On a CPU index_select takes four times as long in bfloat16 as in float32, which holds the same numbers.
        return matrix.float().index_select(1, index).to(matrix.dtype)
    return matrix.index_select(1, index)


def top_k(scores: Any, k: int) -> tuple[Any, Any]:
    """torch.topk takes any of several equal numbers, in any order (pytorch #27542)."""
    n = scores.shape[1]
    values, places = torch.topk(scores, min(k + 1, n))
    # Where the last one is as large as the one behind it, others may have to take its place.
    unclear = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf) if k < n else None
    places, order = torch.sort(places[:, :k])
    values, order = torch.sort(values[:, :k].gather(1, order), descending=True, stable=True)
    places = places.gather(1, order)
    if unclear is not None and unclear.any():
        places[unclear] = torch.sort(scores[unclear], descending=True, stable=True).indices[:, :k]
    return values, places


def memory(variable: Any) -> tuple[int, int] | None:
    value = variable.value
    return (value.data_ptr(), value.nbytes) if value.device.type == "cpu" else None


def precise_sum(high: Any, low: Any) -> Any:
    return high.double() + low.double()


def read(variable: Any, start: int, stop: int) -> np.ndarray:
    return variable.value[start:stop].detach().float().cpu().numpy().copy()


def read_rows(variable: Any, ids: np.ndarray) -> np.ndarray:
    return gather(variable, torch.as_tensor(ids, device=variable.value.device)).float().cpu().numpy()


def write_rows(variable: Any, ids: np.ndarray, rows: np.ndarray) -> None:
    device = variable.value.device
    scatter(variable, torch.as_tensor(ids, device=device), torch.as_tensor(rows, device=device))


def is_concrete(x: Any) -> bool:
    return not isinstance(x, keras.KerasTensor) and getattr(getattr(x, "device", None), "type", "") != "meta"


def can_write() -> bool:
    return not in_stateless_scope()


def write(variable: Any, start: int, rows: np.ndarray) -> None:
    with torch.no_grad():
        variable.value[start : start + len(rows)] = torch.as_tensor(rows, device=variable.value.device)
