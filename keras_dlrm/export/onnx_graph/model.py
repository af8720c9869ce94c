"""A model's ModelProto."""

from __future__ import annotations

import types
from typing import Any

import keras
import numpy as np

from keras_dlrm.backend.private_keras import run_recorded
from keras_dlrm.export import functional as own
from keras_dlrm.export.onnx_graph.files import metadata, regions
from keras_dlrm.export.onnx_graph.graph import Graph, Value, large_tensor
from keras_dlrm.export.onnx_graph.layers import Converter
from keras_dlrm.export.signatures import packed_inputs
from keras_dlrm.export.tables.stored_tables import StoredTables


def tables_of(model: Any, functional: bool, kind: str | None, prune: Any) -> StoredTables:
    """The tables of a model; `NotImplementedError` where a functional one has not exactly one `EmbeddingCollection`."""
    if functional:
        collections = own.collections(model)
        if len(collections) != 1:
            raise NotImplementedError(
                f"onnx: {model.name} has {len(collections)} EmbeddingCollections, of which ONNX takes one; export a SavedModel "
                "(kd.export.savedmodel)."
            )
        model = types.SimpleNamespace(embeddings=collections[0])
    return StoredTables(model, kind, prune)


def onnx_model(model: Any, functional: bool, stored: StoredTables, data: str | None) -> Any:
    """The graph of a model, whose tables lie in the graph, or in a file called `data`.

    That of a click model is packed batch → p(click), that of a functional one its own inputs → its own outputs, by name.
    `NotImplementedError` where the model does something that is not known in ONNX.
    """
    graph = Graph()
    sizes = own.inputs(model) if functional else packed_inputs(model.schema)
    inputs = {name: Value(name, shape, dtype) for name, (shape, dtype) in sizes.items()}
    try:
        outputs = (_functional if functional else _click)(graph, stored, model, inputs)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"onnx: {model.name} uses {error}, which is not known in ONNX here. Write it with other operations of keras.ops, or "
            "export a SavedModel (kd.export.savedmodel)."
        ) from error
    for name, dtype, shape, offset, length in regions(stored):
        graph.large.append(large_tensor(name, dtype, shape, (data, offset, length) if data else _bytes(stored, name)))
    return graph.model(inputs.values(), outputs, metadata(None if functional else model.schema, stored))


def _functional(graph: Graph, stored: StoredTables, model: Any, inputs: dict[str, Value]) -> list[Value]:
    def call(model: Any, *flat: Any) -> Any:
        return run_recorded(model, flat)

    values = keras.tree.flatten(Converter(graph, stored).run(types.MethodType(call, model), *inputs.values()))
    outputs = []
    for name, value in zip(own.output_names(model), values, strict=True):
        graph.op("Identity", value.name, output=name)
        outputs.append(Value(name, value.shape, value.dtype))
    return outputs


def _click(graph: Graph, stored: StoredTables, model: Any, inputs: dict[str, Value]) -> list[Value]:
    logits = Converter(graph, stored).run(model.logits, inputs, training=False)
    if model.schema.dense:
        graph.must_be_finite.append(("dense", model.schema.n_dense))
    probability = graph.op("Sigmoid", logits.name, output=None if graph.must_be_finite else "probability")
    for i, (name, width) in enumerate(graph.must_be_finite):
        # Added last, because a runtime's ReLU and sigmoid may make numbers of NaN: 0 times the features, which is NaN where
        # one of them is NaN or infinite. As one product it takes 1.3 µs less than a sum, a comparison and a choice.
        last = i == len(graph.must_be_finite) - 1
        zeros = np.zeros((width, 1), np.float32)
        probability = graph.op("Gemm", name, zeros, probability, output="probability" if last else None)
    return [Value("probability", (None, 1), "float32")]


def _bytes(stored: StoredTables, name: str) -> bytes:
    stack = next(stack for stack in stored.stacks if name.startswith(f"{stack.name}."))
    key = name.removeprefix(f"{stack.name}.")
    return stack.map().tobytes() if key == "map" else b"".join(part[key].tobytes() for part in stack.parts())
