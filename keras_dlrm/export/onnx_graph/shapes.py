"""Operations of `keras.ops` in ONNX that move, slice and join tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_dlrm.export.onnx_graph.graph import Graph, Value
from keras_dlrm.export.onnx_graph.ops import converter, exported_dtype, name_of, operands

_END = 2**62


@converter("Reshape")
def _reshape(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    if sum(n is None for n in output.shape) > 1:
        raise NotImplementedError(f"a reshape to {tuple(output.shape)}, of which several sizes are not fixed")
    sizes = [-1 if n is None else n for n in output.shape]
    if sizes[:1] == [-1] and x.shape[:1] == (None,):
        sizes[0] = 0  # as many as before, which may be none
    return graph.op("Reshape", x.name, np.array(sizes, np.int64))


@converter("Ravel")
def _ravel(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op("Reshape", x.name, np.array([-1], np.int64))


@converter("ExpandDims", "Squeeze")
def _ones(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    axis = operation.axis
    if axis is None:
        axis = [i for i, n in enumerate(x.shape) if n == 1]
    kind = "Squeeze" if type(operation).__name__ == "Squeeze" else "Unsqueeze"
    return graph.op(kind, x.name, np.array(axis if isinstance(axis, (list, tuple)) else [axis], np.int64))


@converter("Transpose")
def _transpose(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    axes = operation.axes or list(reversed(range(len(x.shape))))
    return graph.op("Transpose", x.name, perm=[int(a) % len(x.shape) for a in axes])


@converter("Swapaxes")
def _swapaxes(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    axes = list(range(len(x.shape)))
    first, second = operation.axis1, operation.axis2
    axes[first], axes[second] = axes[second], axes[first]
    return graph.op("Transpose", x.name, perm=axes)


@converter("Concatenate")
def _concatenate(graph: Graph, operation: Any, output: Any, xs: Any) -> str:
    names = operands(graph, xs, output)
    return graph.op("Concat", *names, axis=operation.axis) if len(names) > 1 else names[0]


@converter("Stack")
def _stack(graph: Graph, operation: Any, output: Any, xs: Any) -> str:
    axis = np.array([operation.axis % len(output.shape)], np.int64)
    names = [graph.op("Unsqueeze", name, axis) for name in operands(graph, xs, output)]
    return graph.op("Concat", *names, axis=int(axis[0]))


@converter("Split")
def _split(graph: Graph, operation: Any, output: Any, x: Any) -> list[str]:
    size, cuts = x.shape[operation.axis], operation.indices_or_sections
    sizes = [size // cuts] * cuts if isinstance(cuts, int) else list(np.diff([0, *cuts, size]))
    names = [graph.new_name("Split") for _ in sizes]
    return graph.ops("Split", x.name, np.array(sizes, np.int64), outputs=names, axis=operation.axis)


@converter("Take")
def _take(graph: Graph, operation: Any, output: Any, x: Any, indices: Any) -> str:
    if operation.axis is None:
        raise NotImplementedError("keras.ops.take without an axis")
    index = indices if isinstance(indices, Value) else np.asarray(indices, np.int64)
    return graph.op("Gather", name_of(graph, x), name_of(graph, index), axis=operation.axis)


@converter("GetItem")
def _get_item(graph: Graph, operation: Any, output: Any, x: Any, key: Any) -> str:
    keys = list(key) if isinstance(key, tuple) else [key]
    for k in keys:
        if not (k is None or k is Ellipsis or isinstance(k, (int, np.integer, slice))):
            raise NotImplementedError(f"an index of {type(k).__name__}; use keras.ops.take")
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (len(x.shape) - sum(k is not None for k in keys) + 1)
    ranges: list[tuple[int, int, int, int]] = []  # start, end, axis, step
    dropped: list[int] = []
    added: list[int] = []
    axis = place = 0
    for k in keys:
        if k is None:
            added.append(place)
        elif isinstance(k, slice):
            if (k.step or 1) < 0:
                raise NotImplementedError("a slice with a negative step")
            if k != slice(None):
                ranges.append((k.start or 0, _END if k.stop is None else k.stop, axis, k.step or 1))
        else:
            ranges.append((int(k), int(k) + 1 or _END, axis, 1))
            dropped.append(axis)
        axis += k is not None
        place += k is None or isinstance(k, slice)
    name = x.name
    if ranges:
        name = graph.op("Slice", name, *(np.array(column, np.int64) for column in zip(*ranges, strict=True)))
    if dropped:
        name = graph.op("Squeeze", name, np.array(dropped, np.int64))
    return graph.op("Unsqueeze", name, np.array(added, np.int64)) if added else name


@converter("ZerosLike", "OnesLike")
def _filled(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    value = np.array(type(operation).__name__ == "OnesLike", exported_dtype(output.dtype)).reshape(1)
    return graph.op("Expand", value, graph.op("Shape", x.name))
