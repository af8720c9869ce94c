"""A click model's ModelProto."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_dlrm.export.onnx_graph.files import metadata, regions
from keras_dlrm.export.onnx_graph.graph import Graph, Value, large_tensor
from keras_dlrm.export.onnx_graph.layers import Converter
from keras_dlrm.export.tables.stored_tables import StoredTables


def onnx_model(model: Any, stored: StoredTables, data: str | None = None) -> Any:
    """The graph packed batch → p(click).

    Args:
        model: A click model.
        stored: Its tables.
        data: Name of the file that holds them, or `None`: they lie in the graph.

    Raises:
        NotImplementedError: the model does something that is not known in ONNX.
    """
    schema, graph = model.schema, Graph()
    widths = {"dense": schema.n_dense, "sparse": schema.width, "weights": schema.width}
    inputs = {
        name: Value(name, (None, widths[name]), "int64" if name == "sparse" else "float32")
        for name in schema.input_names
    }
    try:
        logits = Converter(graph, stored).run(model.logits, inputs, training=False)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"onnx: {model.name} uses {error}, which is not known in ONNX here. Write it with other operations of keras.ops, or "
            "export a SavedModel (kd.export.savedmodel)."
        ) from error
    if schema.dense:
        graph.must_be_finite.append(("dense", schema.n_dense))
    probability = graph.op("Sigmoid", logits.name, output=None if graph.must_be_finite else "probability")
    for i, (name, width) in enumerate(graph.must_be_finite):
        # Added last, because a runtime's ReLU and sigmoid may make numbers of NaN: 0 times the features, which is NaN where
        # one of them is NaN or infinite. As one product it takes 1.3 µs less than a sum, a comparison and a choice.
        last = i == len(graph.must_be_finite) - 1
        zeros = np.zeros((width, 1), np.float32)
        probability = graph.op("Gemm", name, zeros, probability, output="probability" if last else None)
    add_tables(graph, stored, data)
    return graph.model(inputs.values(), [Value("probability", (None, 1), "float32")], metadata(model, stored))


def add_tables(graph: Graph, stored: StoredTables, data: str | None) -> None:
    """Add the tables to a graph, or where in a file they lie."""
    for name, dtype, shape, offset, length in regions(stored):
        where = _bytes(stored, name) if data is None else (data, offset, length)
        graph.add_large(large_tensor(name, dtype, shape, where))


def _bytes(stored: StoredTables, name: str) -> bytes:
    stack = next(stack for stack in stored.stacks if name.startswith(f"{stack.name}."))
    key = name.removeprefix(f"{stack.name}.")
    return stack.map().tobytes() if key == "map" else b"".join(part[key].tobytes() for part in stack.parts())
