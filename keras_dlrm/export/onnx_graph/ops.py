"""Operations of `keras.ops` in ONNX: arithmetic, products, sums, activations, normalizations, moves of tensors."""

import functools
import math
from collections.abc import Callable, Sequence
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
        CONVERTERS.update(dict.fromkeys(names, function))
        return function

    return register


def _dtype_of(xs: Sequence[Any], output: Any) -> str:
    dtypes = {x.dtype for x in xs if isinstance(x, Value)}
    return dtypes.pop() if len(dtypes) == 1 else exported_dtype(output.dtype)


def operands(graph: Graph, xs: Sequence[Any], output: Any) -> list[str]:
    """Names of an operation's operands, cast to the one dtype that its `Value`s have, or else to that of `output`."""
    dtype = _dtype_of(xs, output)
    return [as_dtype(graph, x, dtype) for x in xs]


def as_dtype(graph: Graph, x: Any, dtype: str) -> str:
    """Name of a tensor (a `Value`, Keras variable, array or number) in another dtype."""
    if isinstance(x, Value):
        return x.name if x.dtype == dtype else graph.op("Cast", x.name, to=element_type(dtype))
    if isinstance(x, keras.Variable) or keras.ops.is_tensor(x):
        x = ops.convert_to_numpy(x)
    return graph.constant(np.asarray(x).astype(dtype))


def scalar(value: float) -> np.ndarray:
    """A float32 that multiplies or adds to any tensor."""
    return np.array([value], np.float32)


def _elementwise(kind: str, graph: Graph, operation: Any, output: Any, *xs: Any) -> str:
    return graph.op(kind, *operands(graph, xs, output))


# Operations that ONNX has, too: name in ONNX → names in Keras.
for _kind, _names in {
    "Add": ["Add"], "Sub": ["Subtract"], "Mul": ["Multiply"], "Div": ["Divide", "TrueDivide"], "Pow": ["Power"],
    "Max": ["Maximum"], "Min": ["Minimum"], "Neg": ["Negative"], "Abs": ["Absolute"], "Exp": ["Exp"], "Log": ["Log"],
    "Sqrt": ["Sqrt"], "Reciprocal": ["Reciprocal"], "Sign": ["Sign"], "Floor": ["Floor"], "Erf": ["Erf"], "Sin": ["Sin"],
    "Cos": ["Cos"], "Equal": ["Equal"], "Greater": ["Greater"], "GreaterOrEqual": ["GreaterEqual"],
    "Less": ["Less"], "LessOrEqual": ["LessEqual"], "And": ["LogicalAnd"], "Or": ["LogicalOr"], "Not": ["LogicalNot"],
    "IsNaN": ["Isnan"],
    **{name: [name] for name in ("Tanh", "Relu", "Sigmoid", "Softplus", "Softsign", "Selu")},
}.items():  # fmt: skip
    CONVERTERS |= dict.fromkeys(_names, functools.partial(_elementwise, _kind))

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
    "Ravel": lambda graph, operation, y, x: graph.op("Reshape", x.name, np.array([-1], np.int64)),
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
    "Clip": lambda graph, operation, y, x: (
        graph.op("Clip", x.name, *(np.array(end, exported_dtype(x.dtype)) for end in (operation.x_min, operation.x_max)))
    ),
    "Concatenate": lambda graph, operation, y, xs: (
        graph.op("Concat", *operands(graph, xs, y), axis=operation.axis) if len(xs) > 1 else operands(graph, xs, y)[0]
    ),
    "Transpose": lambda graph, operation, y, x: (
        graph.op("Transpose", x.name, perm=[int(a) % len(y.shape) for a in operation.axes or reversed(range(len(y.shape)))])
    ),
    "ZerosLike": lambda graph, operation, y, x: graph.op("Expand", np.zeros(1, exported_dtype(y.dtype)), graph.op("Shape", x.name)),
    "OnesLike": lambda graph, operation, y, x: graph.op("Expand", np.ones(1, exported_dtype(y.dtype)), graph.op("Shape", x.name)),
    "Softmax": lambda graph, operation, y, x: graph.op("Softmax", x.name, axis=operation.axis),
    "LogSoftmax": lambda graph, operation, y, x: graph.op("LogSoftmax", x.name, axis=operation.axis),
})  # fmt: skip


#: Operations that others make up: name of the class → function (operation, *arguments) of `keras.ops`.
COMPOSED: dict[str, Callable[..., Any]] = {
    "DivideNoNan": lambda operation, x, y: ops.where(ops.equal(y, 0), 0.0, ops.divide(x, y)),
    "Squareplus": lambda operation, x: (x + ops.sqrt(x * x + operation.b)) * 0.5,
    "Gelu": lambda operation, x: x * 0.5 * (1.0 + (
        ops.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) if operation.approximate else ops.erf(x * math.sqrt(0.5))
    )),
}  # fmt: skip


@converter("Mod")
def _mod(graph: Graph, operation: Any, output: Any, *xs: Any) -> str:
    # ONNX's has the sign of the divisor, as Keras's, but for integers alone.
    if _dtype_of(xs, output) == "float32":
        x, y = operands(graph, xs, output)
        return graph.op("Sub", x, graph.op("Mul", y, graph.op("Floor", graph.op("Div", x, y))))
    return graph.op("Mod", *operands(graph, xs, output))


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


@converter("ReLU")
def _activation_relu(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    if operation.threshold:
        raise NotImplementedError(f"a ReLU with threshold={operation.threshold!r}")
    slope: dict[str, Any] = {"alpha": float(operation.negative_slope)} if operation.negative_slope else {}
    name = graph.op("LeakyRelu" if slope else "Relu", x.name, **slope)
    return name if operation.max_value is None else graph.op("Min", name, scalar(operation.max_value))


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


@converter("Reshape")
def _reshape(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    if sum(n is None for n in output.shape) > 1:
        raise NotImplementedError(f"a reshape to {tuple(output.shape)}, of which several sizes are not fixed")
    sizes = [-1 if n is None else n for n in output.shape]
    if sizes[:1] == [-1] and x.shape[:1] == (None,):
        sizes[0] = 0  # as many as before, which may be none
    return graph.op("Reshape", x.name, np.array(sizes, np.int64))


@converter("ExpandDims", "Squeeze")
def _ones(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    axis = [i for i, n in enumerate(x.shape) if n == 1] if operation.axis is None else operation.axis
    kind = "Squeeze" if type(operation).__name__ == "Squeeze" else "Unsqueeze"
    return graph.op(kind, x.name, np.array(axis, np.int64).reshape(-1))


@converter("Swapaxes")
def _swapaxes(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    axes = list(range(len(x.shape)))
    first, second = operation.axis1, operation.axis2
    axes[first], axes[second] = axes[second], axes[first]
    return graph.op("Transpose", x.name, perm=axes)


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
                ranges.append((k.start or 0, 2**62 if k.stop is None else k.stop, axis, k.step or 1))
        else:
            ranges.append((int(k), int(k) + 1 or 2**62, axis, 1))
            dropped.append(axis)
        axis += k is not None
        place += k is None or isinstance(k, slice)
    name = x.name
    if ranges:
        name = graph.op("Slice", name, *(np.array(column, np.int64) for column in zip(*ranges, strict=True)))
    if dropped:
        name = graph.op("Squeeze", name, np.array(dropped, np.int64))
    return graph.op("Unsqueeze", name, np.array(added, np.int64)) if added else name
