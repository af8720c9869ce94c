"""Operations of `keras.ops` in ONNX, each by the name of its class in Keras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dlrm.export.onnx_graph import Graph, Value, element_type

#: Name of the class → function (graph, operation, output, *arguments) → name of a tensor, or names of several.
CONVERTERS: dict[str, Callable[..., Any]] = {}


def exported_dtype(dtype: Any) -> str:
    """The dtype that a Keras dtype has in the graph: all floats are float32."""
    name = keras.backend.standardize_dtype(dtype)
    return "float32" if "float" in name else name


def name_of(graph: Graph, x: Any, like: Any = None) -> str:
    """Name of a tensor or constant.

    Args:
        graph: Gets the constant.
        x: A `Value`, Keras variable, array or number.
        like: dtype of a number; its own by default.
    """
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
    found = {x.dtype for x in xs if isinstance(x, Value)}
    return found.pop() if len(found) == 1 else exported_dtype(output.dtype)


def _operands(graph: Graph, xs: Sequence[Any], output: Any, dtype: str | None = None) -> list[str]:
    """Names of the operands, of one dtype."""
    dtype = dtype or _dtype_of(xs, output)
    return [_as(graph, x, dtype) for x in xs]


def _as(graph: Graph, x: Any, dtype: str) -> str:
    if isinstance(x, Value):
        return x.name if x.dtype == dtype else graph.op("Cast", x.name, to=element_type(dtype))
    if isinstance(x, keras.Variable) or keras.ops.is_tensor(x):
        x = ops.convert_to_numpy(x)
    return graph.constant(np.asarray(x).astype(dtype))


def _elementwise(kind: str, names: Sequence[str]) -> None:
    def convert(graph: Graph, operation: Any, output: Any, *xs: Any) -> str:
        return graph.op(kind, *_operands(graph, xs, output))

    converter(*names)(convert)


for _kind, _names in {
    "Add": ["Add"], "Sub": ["Subtract"], "Mul": ["Multiply"], "Div": ["Divide", "TrueDivide"], "Pow": ["Power"],
    "Max": ["Maximum"], "Min": ["Minimum"], "Neg": ["Negative"], "Abs": ["Absolute"], "Exp": ["Exp"], "Log": ["Log"],
    "Sqrt": ["Sqrt"], "Reciprocal": ["Reciprocal"], "Sign": ["Sign"], "Floor": ["Floor"], "Erf": ["Erf"], "Sin": ["Sin"],
    "Cos": ["Cos"], "Tanh": ["Tanh"], "Relu": ["Relu"], "Sigmoid": ["Sigmoid"], "Softplus": ["Softplus"],
    "Softsign": ["Softsign"], "Equal": ["Equal"], "Greater": ["Greater"], "GreaterOrEqual": ["GreaterEqual"],
    "Less": ["Less"], "LessOrEqual": ["LessEqual"], "And": ["LogicalAnd"], "Or": ["LogicalOr"], "Not": ["LogicalNot"],
    "IsNaN": ["Isnan"], "Selu": ["Selu"],
}.items():  # fmt: skip
    _elementwise(_kind, _names)


@converter("StopGradient", "Copy", "ConvertToTensor")
def _identity(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return name_of(graph, x)


@converter("Cast")
def _cast(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return _as(graph, x, exported_dtype(operation.dtype))


@converter("NotEqual")
def _not_equal(graph: Graph, operation: Any, output: Any, *xs: Any) -> str:
    return graph.op("Not", graph.op("Equal", *_operands(graph, xs, output)))


@converter("Square")
def _square(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op("Mul", x.name, x.name)


@converter("Rsqrt")
def _rsqrt(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op("Reciprocal", graph.op("Sqrt", x.name))


@converter("Log1p", "Expm1")
def _near_zero(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    one = np.float32(1).reshape(1)
    if type(operation).__name__ == "Log1p":
        return graph.op("Log", graph.op("Add", x.name, one))
    return graph.op("Sub", graph.op("Exp", x.name), one)


@converter("DivideNoNan")
def _divide_no_nan(graph: Graph, operation: Any, output: Any, x: Any, y: Any) -> str:
    x, y = _operands(graph, (x, y), output)
    zero = np.zeros(1, np.float32)
    return graph.op("Where", graph.op("Equal", y, zero), zero, graph.op("Div", x, y))


@converter("Mod")
def _mod(graph: Graph, operation: Any, output: Any, *xs: Any) -> str:
    # ONNX's has the sign of the divisor, as Keras's, but for integers alone.
    if _dtype_of(xs, output) == "float32":
        x, y = _operands(graph, xs, output)
        return graph.op("Sub", x, graph.op("Mul", y, graph.op("Floor", graph.op("Div", x, y))))
    return graph.op("Mod", *_operands(graph, xs, output))


@converter("Where")
def _where(graph: Graph, operation: Any, output: Any, condition: Any, x: Any, y: Any) -> str:
    return graph.op("Where", _as(graph, condition, "bool"), *_operands(graph, (x, y), output))


@converter("Clip")
def _clip(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    dtype = exported_dtype(x.dtype)
    limits = [np.array(limit, dtype) for limit in (operation.x_min, operation.x_max)]
    return graph.op("Clip", x.name, *limits)


# -- activations -----------------------------------------------------------------------------------------------------


@converter("ReLU")
def _activation_relu(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    if operation.threshold:
        raise NotImplementedError(f"a ReLU with threshold={operation.threshold!r}")
    if not operation.negative_slope:
        name = graph.op("Relu", x.name)
    else:
        name = graph.op("LeakyRelu", x.name, alpha=float(operation.negative_slope))
    return name if operation.max_value is None else graph.op("Min", name, np.float32(operation.max_value).reshape(1))


@converter("Relu6")
def _relu6(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op("Clip", x.name, np.float32(0), np.float32(6))


@converter("LeakyRelu")
def _leaky_relu(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op("LeakyRelu", x.name, alpha=float(operation.negative_slope))


@converter("Elu", "Celu")
def _elu(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op(type(operation).__name__, x.name, alpha=float(operation.alpha))


@converter("Silu")
def _silu(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op("Mul", x.name, graph.op("Sigmoid", x.name))


@converter("HardSigmoid")
def _hard_sigmoid(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op("HardSigmoid", x.name, alpha=1 / 6, beta=0.5)


@converter("HardSilu")
def _hard_silu(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op("HardSwish", x.name)


@converter("TanhShrink")
def _tanh_shrink(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op("Sub", x.name, graph.op("Tanh", x.name))


@converter("HardTanh")
def _hard_tanh(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op("Clip", x.name, np.float32(-1), np.float32(1))


@converter("Squareplus")
def _squareplus(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    square = graph.op("Add", graph.op("Mul", x.name, x.name), np.float32(operation.b).reshape(1))
    return graph.op("Mul", graph.op("Add", x.name, graph.op("Sqrt", square)), np.float32(0.5).reshape(1))


@converter("LogSigmoid")
def _log_sigmoid(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op("Neg", graph.op("Softplus", graph.op("Neg", x.name)))


@converter("Gelu")
def _gelu(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    def scalar(value: float) -> np.ndarray:
        return np.float32(value).reshape(1)

    if operation.approximate:
        cube = graph.op("Mul", graph.op("Mul", x.name, x.name), x.name)
        inner = graph.op("Add", x.name, graph.op("Mul", cube, scalar(0.044715)))
        share = graph.op("Tanh", graph.op("Mul", inner, scalar(np.sqrt(2 / np.pi))))
    else:
        share = graph.op("Erf", graph.op("Mul", x.name, scalar(np.sqrt(0.5))))
    return graph.op("Mul", graph.op("Mul", x.name, scalar(0.5)), graph.op("Add", share, scalar(1.0)))


@converter("Softmax", "LogSoftmax")
def _softmax(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op(type(operation).__name__, x.name, axis=operation.axis)


@converter("LayerNorm", "RMSNorm")
def _layer_norm(graph: Graph, operation: Any, output: Any, x: Any, gamma: Any = None, beta: Any = None) -> str:
    axis = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
    if [a % len(x.shape) for a in axis] != [len(x.shape) - 1] or getattr(operation, "rms_scaling", False):
        raise NotImplementedError(f"a normalisation over axis={operation.axis!r}; only the last one is known")
    epsilon = keras.config.epsilon() if operation.epsilon is None else operation.epsilon
    last, name = np.array([-1], np.int64), x.name
    if type(operation).__name__ == "LayerNorm":
        name = graph.op("Sub", name, graph.op("ReduceMean", name, last, keepdims=1))
    square = graph.op("ReduceMean", graph.op("Mul", name, name), last, keepdims=1)
    name = graph.op("Div", name, graph.op("Sqrt", graph.op("Add", square, np.float32(epsilon).reshape(1))))
    for kind, factor in (("Mul", gamma), ("Add", beta)):
        if factor is not None:
            name = graph.op(kind, name, name_of(graph, factor, "float32"))
    return name


# -- products and sums -----------------------------------------------------------------------------------------------


@converter("Matmul", "Dot")
def _matmul(graph: Graph, operation: Any, output: Any, *xs: Any) -> str:
    if type(operation).__name__ == "Dot" and any(len(x.shape) > 2 for x in xs):
        raise NotImplementedError("keras.ops.dot of more than two dimensions; use matmul")
    return graph.op("MatMul", *_operands(graph, xs, output))


@converter("Einsum")
def _einsum(graph: Graph, operation: Any, output: Any, *xs: Any) -> str:
    return graph.op("Einsum", *_operands(graph, xs, output), equation=operation.subscripts)


@converter("Sum", "Mean", "Max", "Min", "Prod")
def _reduce(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    axis = operation.axis
    axes = [] if axis is None else [axis] if isinstance(axis, int) else list(axis)
    kind = "Reduce" + type(operation).__name__
    name = _as(graph, x, exported_dtype(output.dtype))
    return graph.op(kind, name, *([np.array(axes, np.int64)] if axes else []), keepdims=int(operation.keepdims))


@converter("Any", "All")
def _any(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    axis = operation.axis
    axes = [] if axis is None else [axis] if isinstance(axis, int) else list(axis)
    kind = "ReduceMax" if type(operation).__name__ == "Any" else "ReduceMin"
    name = _as(graph, x, "int32")
    name = graph.op(kind, name, *([np.array(axes, np.int64)] if axes else []), keepdims=int(operation.keepdims))
    return graph.op("Cast", name, to=element_type("bool"))


# -- shapes ----------------------------------------------------------------------------------------------------------


@converter("Reshape")
def _reshape(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return reshape(graph, x, output.shape)


def reshape(graph: Graph, x: Value, shape: Sequence[int | None]) -> str:
    """A tensor in another shape of which one size may not be fixed.

    Raises:
        NotImplementedError: several are not.
    """
    if sum(n is None for n in shape) > 1:
        raise NotImplementedError(f"a reshape to {tuple(shape)}, of which several sizes are not fixed")
    sizes = [-1 if n is None else n for n in shape]
    if sizes[:1] == [-1] and x.shape[:1] == (None,):
        sizes[0] = 0  # as many as before, which may be none
    return graph.op("Reshape", x.name, np.array(sizes, np.int64))


@converter("Ravel")
def _ravel(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    return graph.op("Reshape", x.name, np.array([-1], np.int64))


@converter("ExpandDims")
def _expand_dims(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    axis = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
    return graph.op("Unsqueeze", x.name, np.array(axis, np.int64))


@converter("Squeeze")
def _squeeze(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    axis = operation.axis
    if axis is None:
        axis = [i for i, n in enumerate(x.shape) if n == 1]
    return graph.op("Squeeze", x.name, np.array(axis if isinstance(axis, (list, tuple)) else [axis], np.int64))


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
    names = _operands(graph, xs, output)
    return graph.op("Concat", *names, axis=operation.axis) if len(names) > 1 else names[0]


@converter("Stack")
def _stack(graph: Graph, operation: Any, output: Any, xs: Any) -> str:
    axis = np.array([operation.axis % len(output.shape)], np.int64)
    names = [graph.op("Unsqueeze", name, axis) for name in _operands(graph, xs, output)]
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
    if Ellipsis in [k for k in keys if not isinstance(k, (np.ndarray, Value))]:
        at = keys.index(Ellipsis)
        gap = len(x.shape) - sum(k is not None for k in keys) + 1
        keys[at : at + 1] = [slice(None)] * gap
    starts, ends, axes, steps, dropped, added, axis, place = [], [], [], [], [], [], 0, 0
    for k in keys:
        if k is None:
            added.append(place)
            place += 1
            continue
        if isinstance(k, (int, np.integer)):
            starts, ends, axes, steps = [*starts, k], [*ends, k + 1 if k != -1 else 2**62], [*axes, axis], [*steps, 1]
            dropped.append(axis)
        elif isinstance(k, slice):
            if k != slice(None):
                step = k.step or 1
                if step < 0:
                    raise NotImplementedError("a slice with a negative step")
                starts, ends = [*starts, k.start or 0], [*ends, 2**62 if k.stop is None else k.stop]
                axes, steps = [*axes, axis], [*steps, step]
            place += 1
        else:
            raise NotImplementedError(f"an index of {type(k).__name__}; use keras.ops.take")
        axis += 1
    name = x.name
    if axes:
        name = graph.op("Slice", name, *(np.array(v, np.int64) for v in (starts, ends, axes, steps)))
    if dropped:
        name = graph.op("Squeeze", name, np.array(dropped, np.int64))
    return graph.op("Unsqueeze", name, np.array(added, np.int64)) if added else name


@converter("ZerosLike", "OnesLike")
def _filled(graph: Graph, operation: Any, output: Any, x: Any) -> str:
    value = np.array(type(operation).__name__ == "OnesLike", exported_dtype(output.dtype)).reshape(1)
    return graph.op("Expand", value, graph.op("Shape", x.name))
