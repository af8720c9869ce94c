"""Operations of `keras.ops` in ONNX: arithmetic, products, sums.

`activations` and `shapes` register the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.export.onnx_graph.graph import Graph, Value, element_type

#: Name of the class → function (graph, operation, output, *arguments) → name of a tensor, or names of several.
CONVERTERS: dict[str, Callable[..., Any]] = {}


def exported_dtype(dtype: Any) -> str:
    """The dtype that a Keras dtype has in the graph: all floats are float32."""
    name = keras.backend.standardize_dtype(dtype)
    return "float32" if "float" in name else name


def name_of(graph: Graph, x: Any, like: Any = None) -> str:
    """Name of a `Value`, or of the constant of a Keras variable, array or number; `like` is the dtype of a number."""
    if isinstance(x, Value):
        return x.name
    if isinstance(x, keras.Variable) or keras.ops.is_tensor(x):
        array = ops.convert_to_numpy(x)
    else:
        array = np.asarray(x)
        if like is not None:
            array = array.astype(exported_dtype(like))
    dtype = exported_dtype(array.dtype.name)
    return graph.constant(array.astype(dtype), x.path if isinstance(x, keras.Variable) else None)


def converter(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a converter for Keras operations."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            CONVERTERS[name] = function
        return function

    return register


def _dtype_of(xs: Sequence[Any], output: Any) -> str:
    dtypes = {x.dtype for x in xs if isinstance(x, Value)}
    return dtypes.pop() if len(dtypes) == 1 else exported_dtype(output.dtype)


def operands(graph: Graph, xs: Sequence[Any], output: Any) -> list[str]:
    """Names of an operation's operands (Values, Keras variables, arrays or numbers), cast to one dtype.

    Where those of the values differ it is that of `output`, what Keras says of the result.
    """
    dtype = _dtype_of(xs, output)
    return [as_dtype(graph, x, dtype) for x in xs]


def as_dtype(graph: Graph, x: Any, dtype: str) -> str:
    """Name of a tensor (a `Value`, Keras variable, array or number) in another dtype."""
    if isinstance(x, Value):
        return x.name if x.dtype == dtype else graph.op("Cast", x.name, to=element_type(dtype))
    if isinstance(x, keras.Variable) or keras.ops.is_tensor(x):
        x = ops.convert_to_numpy(x)
    return graph.constant(np.asarray(x).astype(dtype))


def elementwise(kinds: Mapping[str, Sequence[str]]) -> None:
    """Register operations that ONNX has, too: name in ONNX → names in Keras."""
    for kind, names in kinds.items():

        def convert(graph: Graph, operation: Any, output: Any, *xs: Any, kind: str = kind) -> str:
            return graph.op(kind, *operands(graph, xs, output))

        converter(*names)(convert)


elementwise({
    "Add": ["Add"], "Sub": ["Subtract"], "Mul": ["Multiply"], "Div": ["Divide", "TrueDivide"], "Pow": ["Power"],
    "Max": ["Maximum"], "Min": ["Minimum"], "Neg": ["Negative"], "Abs": ["Absolute"], "Exp": ["Exp"], "Log": ["Log"],
    "Sqrt": ["Sqrt"], "Reciprocal": ["Reciprocal"], "Sign": ["Sign"], "Floor": ["Floor"], "Erf": ["Erf"], "Sin": ["Sin"],
    "Cos": ["Cos"], "Equal": ["Equal"], "Greater": ["Greater"], "GreaterOrEqual": ["GreaterEqual"],
    "Less": ["Less"], "LessOrEqual": ["LessEqual"], "And": ["LogicalAnd"], "Or": ["LogicalOr"], "Not": ["LogicalNot"],
    "IsNaN": ["Isnan"],
})  # fmt: skip


CONVERTERS.update({
    **dict.fromkeys(("StopGradient", "Copy", "ConvertToTensor"), lambda graph, operation, y, x: name_of(graph, x)),
    "Cast": lambda graph, operation, y, x: as_dtype(graph, x, exported_dtype(operation.dtype)),
    "NotEqual": lambda graph, operation, y, *xs: graph.op("Not", graph.op("Equal", *operands(graph, xs, y))),
    "Square": lambda graph, operation, y, x: graph.op("Mul", x.name, x.name),
    "Rsqrt": lambda graph, operation, y, x: graph.op("Reciprocal", graph.op("Sqrt", x.name)),
    "Log1p": lambda graph, operation, y, x: graph.op("Log", graph.op("Add", x.name, np.ones(1, np.float32))),
    "Expm1": lambda graph, operation, y, x: graph.op("Sub", graph.op("Exp", x.name), np.ones(1, np.float32)),
    "Where": lambda graph, operation, y, condition, *xs: (
        graph.op("Where", as_dtype(graph, condition, "bool"), *operands(graph, xs, y))
    ),
    "Einsum": lambda graph, operation, y, *xs: graph.op("Einsum", *operands(graph, xs, y), equation=operation.subscripts),
})  # fmt: skip


@converter("DivideNoNan")
def _divide_no_nan(graph: Graph, operation: Any, output: Any, x: Any, y: Any) -> str:
    x, y = operands(graph, (x, y), output)
    zero = np.zeros(1, np.float32)
    return graph.op("Where", graph.op("Equal", y, zero), zero, graph.op("Div", x, y))


@converter("Mod")
def _mod(graph: Graph, operation: Any, output: Any, *xs: Any) -> str:
    # ONNX's has the sign of the divisor, as Keras's, but for integers alone.
    if _dtype_of(xs, output) == "float32":
        x, y = operands(graph, xs, output)
        return graph.op("Sub", x, graph.op("Mul", y, graph.op("Floor", graph.op("Div", x, y))))
    return graph.op("Mod", *operands(graph, xs, output))


@converter("Clip")
def _clip(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    dtype = exported_dtype(x.dtype)
    return graph.op("Clip", x.name, np.array(operation.x_min, dtype), np.array(operation.x_max, dtype))


@converter("Matmul", "Dot")
def _matmul(graph: Graph, operation: Any, output: Any, *xs: Any) -> str:
    if type(operation).__name__ == "Dot" and any(len(x.shape) > 2 for x in xs):
        raise NotImplementedError("keras.ops.dot of more than two dimensions; use matmul")
    return graph.op("MatMul", *operands(graph, xs, output))


@converter("Sum", "Mean", "Max", "Min", "Prod", "Any", "All")
def _reduce(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    axis, kind = operation.axis, type(operation).__name__
    axes = [] if axis is None else [axis] if isinstance(axis, int) else list(axis)
    constants = [np.array(axes, np.int64)] if axes else []
    of_flags = {"Any": "Max", "All": "Min"}.get(kind)  # of 0 and 1
    name = as_dtype(graph, x, "int32" if of_flags else exported_dtype(output.dtype))
    name = graph.op(f"Reduce{of_flags or kind}", name, *constants, keepdims=int(operation.keepdims))
    return graph.op("Cast", name, to=element_type("bool")) if of_flags else name
