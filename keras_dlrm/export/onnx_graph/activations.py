"""Activations and normalizations of Keras in ONNX."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_dlrm.export.onnx_graph.graph import Graph
from keras_dlrm.export.onnx_graph.ops import CONVERTERS, converter, elementwise, name_of


def scalar(value: float) -> np.ndarray:
    """A float32 that multiplies or adds to any tensor."""
    return np.array([value], np.float32)


elementwise({name: [name] for name in ("Tanh", "Relu", "Sigmoid", "Softplus", "Softsign", "Selu")})
CONVERTERS.update({
    "Relu6": lambda graph, operation, y, x: graph.op("Clip", x.name, np.array(0, np.float32), np.array(6, np.float32)),
    "HardTanh": lambda graph, operation, y, x: graph.op("Clip", x.name, np.array(-1, np.float32), np.array(1, np.float32)),
    "LeakyRelu": lambda graph, operation, y, x: graph.op("LeakyRelu", x.name, alpha=float(operation.negative_slope)),
    "Elu": lambda graph, operation, y, x: graph.op("Elu", x.name, alpha=float(operation.alpha)),
    "Celu": lambda graph, operation, y, x: graph.op("Celu", x.name, alpha=float(operation.alpha)),
    "Silu": lambda graph, operation, y, x: graph.op("Mul", x.name, graph.op("Sigmoid", x.name)),
    "HardSigmoid": lambda graph, operation, y, x: graph.op("HardSigmoid", x.name, alpha=1 / 6, beta=0.5),
    "HardSilu": lambda graph, operation, y, x: graph.op("HardSwish", x.name),
    "TanhShrink": lambda graph, operation, y, x: graph.op("Sub", x.name, graph.op("Tanh", x.name)),
    "LogSigmoid": lambda graph, operation, y, x: graph.op("Neg", graph.op("Softplus", graph.op("Neg", x.name))),
    "Softmax": lambda graph, operation, y, x: graph.op("Softmax", x.name, axis=operation.axis),
    "LogSoftmax": lambda graph, operation, y, x: graph.op("LogSoftmax", x.name, axis=operation.axis),
})  # fmt: skip


@converter("ReLU")
def _activation_relu(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    if operation.threshold:
        raise NotImplementedError(f"a ReLU with threshold={operation.threshold!r}")
    if not operation.negative_slope:
        name = graph.op("Relu", x.name)
    else:
        name = graph.op("LeakyRelu", x.name, alpha=float(operation.negative_slope))
    return name if operation.max_value is None else graph.op("Min", name, scalar(operation.max_value))


@converter("Squareplus")
def _squareplus(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    square = graph.op("Add", graph.op("Mul", x.name, x.name), scalar(operation.b))
    return graph.op("Mul", graph.op("Add", x.name, graph.op("Sqrt", square)), scalar(0.5))


@converter("Gelu")
def _gelu(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    if operation.approximate:
        cube = graph.op("Mul", graph.op("Mul", x.name, x.name), x.name)
        inner = graph.op("Add", x.name, graph.op("Mul", cube, scalar(0.044715)))
        share = graph.op("Tanh", graph.op("Mul", inner, scalar(np.sqrt(2 / np.pi))))
    else:
        share = graph.op("Erf", graph.op("Mul", x.name, scalar(np.sqrt(0.5))))
    return graph.op("Mul", graph.op("Mul", x.name, scalar(0.5)), graph.op("Add", share, scalar(1.0)))


@converter("LayerNorm", "RMSNorm")
def _layer_norm(graph: Graph, operation: Any, output: Any, x: Any, gamma: Any = None, beta: Any = None) -> str:
    axis = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
    if [a % len(x.shape) for a in axis] != [len(x.shape) - 1] or getattr(operation, "rms_scaling", False):
        raise NotImplementedError(f"a normalization over axis={operation.axis!r}; only the last one is known")
    epsilon = keras.config.epsilon() if operation.epsilon is None else operation.epsilon
    last, name = np.array([-1], np.int64), x.name
    if type(operation).__name__ == "LayerNorm":
        name = graph.op("Sub", name, graph.op("ReduceMean", name, last, keepdims=1))
    square = graph.op("ReduceMean", graph.op("Mul", name, name), last, keepdims=1)
    name = graph.op("Div", name, graph.op("Sqrt", graph.op("Add", square, scalar(epsilon))))
    for kind, factor in (("Mul", gamma), ("Add", beta)):
        if factor is not None:
            name = graph.op(kind, name, name_of(graph, factor, "float32"))
    return name
