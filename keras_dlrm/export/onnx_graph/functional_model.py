"""A functional model's ModelProto."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.embeddings.lookup import taped
from keras_dlrm.export.functional import answers, example, input_names, output_names
from keras_dlrm.export.onnx_graph.files import new_session, table_metadata
from keras_dlrm.export.onnx_graph.graph import Graph, Value
from keras_dlrm.export.onnx_graph.layers import Converter
from keras_dlrm.export.onnx_graph.model import add_tables
from keras_dlrm.export.tables.stored_tables import StoredTables


def stored_tables(model: Any, kind: str | None, prune: Any) -> StoredTables:
    """The tables of a functional model.

    Raises:
        NotImplementedError: they are not in one `EmbeddingCollection`.
    """
    found = [layer for layer in model._flatten_layers() if isinstance(layer, EmbeddingCollection)]
    if len(found) != 1:
        raise NotImplementedError(
            f"onnx: {model.name} has {len(found)} EmbeddingCollections, of which ONNX takes one; export a SavedModel "
            "(kd.export.savedmodel)."
        )
    return StoredTables(types.SimpleNamespace(embeddings=found[0]), kind, prune)


def onnx_functional(model: Any, stored: StoredTables, data: str | None = None) -> Any:
    """The graph of a model, its own inputs → its own outputs, by name.

    Args:
        model: A functional model.
        stored: Its tables.
        data: Name of the file that holds them, or `None`: they lie in the graph.

    Raises:
        NotImplementedError: the model does something that is not known in ONNX.
    """
    graph = Graph()
    inputs = [
        Value(
            name, tuple(tensor.shape), "int64" if "int" in keras.backend.standardize_dtype(tensor.dtype) else "float32"
        )
        for name, tensor in zip(input_names(model), model.inputs, strict=True)
    ]

    def call(model: Any, *flat: Any) -> Any:
        # Without what a functional model does to its inputs first: ids stay int64.
        return model._run_through_graph(list(flat), operation_fn=lambda operation: operation)

    try:
        found = keras.tree.flatten(Converter(graph, stored).run(types.MethodType(call, model), *inputs))
    except NotImplementedError as error:
        raise NotImplementedError(
            f"onnx: {model.name} uses {error}, which is not known in ONNX here; export a SavedModel (kd.export.savedmodel)."
        ) from error
    outputs = []
    for name, value in zip(output_names(model), found, strict=True):
        graph.op("Identity", value.name, output=name)
        outputs.append(Value(name, value.shape, value.dtype))
    add_tables(graph, stored, data)
    return graph.model(inputs, outputs, {"keras_dlrm.tables": json.dumps(table_metadata(stored))})


def check(model: Any, path: Path, stored: StoredTables | None) -> None:
    """Load the file and compare its answers: with `predict`, or with the live model on tables as they are stored."""
    inputs = example(model)
    if stored is None:
        expected = answers(model, inputs)
    else:
        with taped(stored):
            found = model(
                keras.tree.pack_sequence_as(model.input, [keras.ops.convert_to_tensor(x) for x in inputs]),
                training=False,
            )
        arrays = [keras.ops.convert_to_numpy(array) for array in keras.tree.flatten(found)]
        expected = dict(zip(output_names(model), arrays, strict=True))
    session = new_session(path, verify=False)
    allowed = 1e-5 if model.compute_dtype == "float32" else 0.02
    for rows in (len(inputs[0]), 1):
        got = session.run(
            list(expected), {name: array[:rows] for name, array in zip(input_names(model), inputs, strict=True)}
        )
        for values, (name, wanted) in zip(got, expected.items(), strict=True):
            if values.shape != wanted[:rows].shape or not np.allclose(
                values, wanted[:rows], rtol=0, atol=allowed, equal_nan=True
            ):
                raise RuntimeError(
                    f"onnx: {name!r} of {rows} rows differs from the live model's by more than {allowed}."
                )
