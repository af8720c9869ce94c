"""Pooling: the looked-up rows of a column to one vector."""

from typing import Any

import numpy as np
from keras import ops

from keras_dlrm.sharding.stacking import Block, Stack, pooled_before


def weights_of_rows(stack: Stack, operation: str | None, factor: Any) -> Any:
    """Weights, but 1 where two rows are multiplied before they are weighted."""
    late = np.zeros(stack.positions, bool)
    for block in stack.blocks:
        if not pooled_before(block.second is not None, operation):
            n = len(block.columns) * block.hotness
            late[block.first : block.first + n] = True
            if block.second is not None:
                late[block.second : block.second + n] = True
    return ops.where(ops.convert_to_tensor(late), ops.ones_like(factor), factor) if late.any() else factor


def pool(stack: Stack, operation: str | None, sums: list[Any], factors: Any, weighted: bool) -> list[tuple[Block, Any]]:
    """Each block of columns and its pooled vectors, (B, columns, width)."""
    pooled, rest = [], iter(sums)
    for block in stack.blocks:
        n, h = len(block.columns), block.hotness
        part = next(rest)
        if block.second is not None:
            remainder = next(rest)
            if operation == "concat":
                part = ops.concatenate([part, remainder], axis=-1)
            else:
                part = part * remainder if operation == "mult" else part + remainder
        factor = None if factors is None else factors[:, block.first : block.first + n * h]
        if not pooled_before(block.second is not None, operation):
            if weighted:
                part = part * ops.expand_dims(factor, -1)
            part = ops.sum(ops.reshape(part, (-1, n, h, block.width)), axis=2)
        if block.combiner != "sum" and (h > 1 or weighted):
            factor = ops.reshape(factor, (-1, n, h))
            norm = ops.sum(factor, 2) if block.combiner == "mean" else ops.sqrt(ops.sum(factor * factor, 2))
            part = part * ops.expand_dims(ops.divide_no_nan(ops.ones_like(norm), norm), -1)
        pooled.append((block, part))
    return pooled


def project(vectors: Any, projections: Any, which: list[int]) -> Any:
    """Vectors (B, columns, width) → (B, columns, D), by a matrix (width, D) for each table; `which` is the table of each column."""
    kernel = ops.convert_to_tensor(projections)
    if which != list(range(kernel.shape[0])):
        kernel = ops.take(kernel, np.array(which, "int32"), axis=0)
    return ops.einsum("bnd,ndo->bno", ops.cast(vectors, kernel.dtype), kernel)


def arrange(blocks: list[tuple[Block, Any]], concatenate: bool) -> Any:
    """Pooled vectors of all blocks in schema order, as the layer gives them."""
    order = [i for block, _ in blocks for i in block.columns]
    if not concatenate:
        vectors = side_by_side([vectors for _, vectors in blocks])
        return vectors if order == sorted(order) else ops.take(vectors, np.argsort(order).astype("int32"), axis=1)
    if order == sorted(order):
        flat = [ops.reshape(v, (-1, v.shape[1] * v.shape[2])) for _, v in blocks]
    else:
        columns = {i: v[:, k] for block, v in blocks for k, i in enumerate(block.columns)}
        flat = [columns[i] for i in sorted(columns)]
    return side_by_side(flat)


def side_by_side(tensors: list[Any]) -> Any:
    """Tensors (B, …) joined along their second dimension."""
    return ops.concatenate(tensors, axis=1) if len(tensors) > 1 else tensors[0]
