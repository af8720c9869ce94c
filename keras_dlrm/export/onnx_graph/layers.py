"""Keras's symbolic graph of a model to nodes of an ONNX graph."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.backend.private_keras import forgotten, layers_in, maker_of, nodes_of
from keras_dlrm.embeddings.embedding_collection import EmbeddingCollection
from keras_dlrm.export.onnx_graph.embeddings import pooled
from keras_dlrm.export.onnx_graph.foreign import foreign
from keras_dlrm.export.onnx_graph.graph import Graph, Value
from keras_dlrm.export.onnx_graph.ops import COMPOSED, CONVERTERS, exported_dtype, name_of
from keras_dlrm.export.tables.stored_tables import StoredTables
from keras_dlrm.layers.dot_interaction import DotInteraction
from keras_dlrm.layers.mlp import Dense


class _InLayer(NotImplementedError):
    """An unknown operation, with the layer that does it."""


class Converter:
    """A walk over what Keras records of a call with symbolic tensors: adds nodes to a graph.

    A layer is what its `call` does, except for those named here: `Dense` (one Gemm), `BatchNormalization` (folded into the
    Gemm before it), the dropouts (nothing), `DotInteraction` and `EmbeddingCollection`; and those that do what is not
    known here: they go through tf2onnx, each by itself.
    """

    def __init__(self, graph: Graph, tables: StoredTables) -> None:
        self.graph, self.tables = graph, tables

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Add nodes for `function(*args, **kwargs)`, where Values stand for tensors, in any structure.

        Gives its result with a `Value` for each tensor; `NotImplementedError`, which names it, for what is not known in ONNX.
        """
        known: dict[int, Value] = {}
        symbols: list[Any] = []

        def symbol(x: Any) -> Any:
            if not isinstance(x, Value):
                return x
            made = keras.KerasTensor(x.shape, x.dtype)
            known[id(made)] = x
            symbols.append(made)
            return made

        args, kwargs = keras.tree.map_structure(symbol, (args, kwargs))
        owner = getattr(function, "__self__", function)
        with forgotten(layers_in(owner) if isinstance(owner, keras.layers.Layer) else []):
            outputs = _symbolic(function, args, kwargs)
            if any(id(x) in known for x in keras.tree.flatten(outputs)):
                # Given back as it came: no graph of Keras's.
                outputs = keras.tree.map_structure(lambda x: ops.copy(x) if id(x) in known else x, outputs)
            nodes = nodes_of(keras.Function(symbols, outputs))
            uses = Counter(id(x) for x in keras.tree.flatten(outputs))
            uses.update(id(x) for node in nodes for x in node.input_tensors)
            for node in nodes:
                self._convert(node, known, uses)
        return keras.tree.map_structure(lambda x: known[id(x)], outputs)

    def _convert(self, node: Any, known: dict[int, Value], uses: Mapping[int, int]) -> None:
        args, kwargs = node.arguments.fill_in(known)
        operation = node.operation
        if type(operation) is keras.layers.BatchNormalization:
            before = node.input_tensors[0]
            made_by_dense = isinstance(maker_of(before), keras.layers.Dense)
            converted = self._batch_normalization(operation, args[0], may_fold=made_by_dense and uses[id(before)] == 1)
        elif isinstance(operation, keras.layers.Layer):
            converted = self._layer(operation, args, kwargs)
        else:
            kind = type(operation).__name__
            if kind in COMPOSED:
                converted = self.run(functools.partial(COMPOSED[kind], operation), *args, **kwargs)
            elif kind in CONVERTERS:
                converted = CONVERTERS[kind](self.graph, operation, node.outputs[0], *args, **kwargs)
            else:
                raise NotImplementedError(f"the Keras operation {kind}")
        for symbol, result in zip(node.outputs, keras.tree.flatten(converted), strict=True):
            if isinstance(result, str):
                result = Value(result, tuple(symbol.shape), exported_dtype(symbol.dtype))
            known[id(symbol)] = result

    def _layer(self, layer: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(layer, EmbeddingCollection):
            return self._embeddings(layer, *args, **kwargs)
        if isinstance(layer, DotInteraction):
            return self._dot_interaction(layer, *args)
        if type(layer) in (keras.layers.Dense, Dense) and not layer.quantization_mode and not layer.lora_enabled:
            return self._dense(layer, *args)
        if isinstance(layer, (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise)):
            return args[0]
        before = len(self.graph.nodes)
        try:
            return self.run(layer.call, *args, **kwargs)
        except NotImplementedError as error:
            if any(isinstance(part, EmbeddingCollection) for part in layers_in(layer)):
                raise
            del self.graph.nodes[before:]
            try:
                return foreign(self.graph, layer, args)
            except NotImplementedError as other:
                # What the innermost layer met says more than what those around it do.
                known = error if isinstance(error, _InLayer) else _InLayer(f"{error}, in {other}")
                raise known from other

    def _embeddings(self, layer: Any, inputs: Any, training: Any = None) -> str:
        if [id(stored.variable) for stored in self.tables.stacks] != [id(table) for table in layer.tables]:
            raise NotImplementedError(f"a second EmbeddingCollection, {layer.name!r}: a model has one, model.embeddings")
        if not isinstance(inputs, Mapping):
            inputs = {"sparse": inputs}
        sparse, weights = inputs["sparse"], inputs.get("weights")
        return pooled(self.graph, layer, self.tables, sparse.name, None if weights is None else weights.name)

    def _dense(self, layer: Any, x: Value) -> Any:
        kernel, *bias = (name_of(self.graph, v) for v in (layer.kernel, *([layer.bias] if layer.use_bias else ())))
        if len(x.shape) == 2:
            name = self.graph.op("Gemm", x.name, kernel, *bias)
        else:
            name = self.graph.op("MatMul", x.name, kernel)
            name = self.graph.op("Add", name, *bias) if bias else name
        y = Value(name, (*x.shape[:-1], layer.units), "float32")
        return y if layer.activation in (None, keras.activations.linear) else self.run(layer.activation, y)

    def _batch_normalization(self, layer: Any, x: Value, may_fold: bool) -> Any:
        if layer.axis not in (-1, len(x.shape) - 1):
            raise NotImplementedError(f"BatchNormalization over axis={layer.axis}; only the last one is known")
        mean, variance = (_array(v).astype(np.float64) for v in (layer.moving_mean, layer.moving_variance))
        scale = 1 / np.sqrt(variance + layer.epsilon) * (_array(layer.gamma) if layer.scale else 1)
        shift = (_array(layer.beta) if layer.center else 0) - mean * scale
        before = self.graph.nodes[-1]
        if may_fold and before.op_type == "Gemm" and before.output[0] == x.name:
            self.graph.nodes.pop()
            kernel = self.graph.constants[before.input[1]].astype(np.float64)
            bias = self.graph.constants[before.input[2]].astype(np.float64) if len(before.input) > 2 else 0
            folded = (kernel * scale).astype(np.float32), (bias * scale + shift).astype(np.float32)
            return Value(self.graph.op("Gemm", before.input[0], *folded), x.shape, "float32")
        scaled = self.graph.op("Mul", x.name, scale.astype(np.float32))
        return Value(self.graph.op("Add", scaled, shift.astype(np.float32)), x.shape, "float32")

    def _dot_interaction(self, layer: DotInteraction, inputs: Any) -> str:
        """One product of matrices and one Gather of its lower triangle, from the rows of the transposed matrix.

        ONNX Runtime gathers columns one by one: at 64 rows in 52 µs where this takes 9, at one row in 1.4 where this takes 1.8.
        """
        graph = self.graph
        if isinstance(inputs, (list, tuple)):
            parts = [x.name if len(x.shape) == 3 else graph.op("Unsqueeze", x.name, np.array([1], np.int64)) for x in inputs]
            features, count = (graph.op("Concat", *parts, axis=1), sum(x.shape[1] if len(x.shape) == 3 else 1 for x in inputs))
        else:
            features, count = inputs.name, inputs.shape[1]
        rows, columns = np.tril_indices(count, 0 if layer.self_interaction else -1)
        products = graph.op("MatMul", features, graph.op("Transpose", features, perm=[0, 2, 1]))
        flat = graph.op("Reshape", products, np.array([0, count * count], np.int64))
        gathered = graph.op("Gather", graph.op("Transpose", flat, perm=[1, 0]), rows * count + columns, axis=0)
        return graph.op("Transpose", gathered, perm=[1, 0])


def _symbolic(function: Any, args: Any, kwargs: Any) -> Any:
    """Result of a function for symbolic tensors."""
    try:
        return function(*args, **kwargs)
    except NotImplementedError:
        raise
    except Exception as error:
        # Each framework says in its own way that a symbol is not a tensor of its.
        name = getattr(function, "__qualname__", type(function).__name__)
        raise NotImplementedError(f"what {name} does outside keras.ops ({str(error).splitlines()[0][:200]})") from error


def _array(variable: Any) -> np.ndarray:
    return ops.convert_to_numpy(variable).astype(np.float32)
