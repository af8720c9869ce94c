"""Tensors of a signature: `TensorProto` to NumPy and back, with sizes checked before memory is allocated."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_dlrm.serving.wire.errors import ServingError, invalid


class DType(NamedTuple):
    """A dtype on the wire: its name, NumPy's, and the field of `TensorProto` that holds its values."""

    name: str
    numpy: np.dtype
    field: str


# Numbers of TensorFlow's `DataType`; they are part of the wire format.
DTYPES = {
    1: DType("DT_FLOAT", np.dtype(np.float32), "float_val"),
    2: DType("DT_DOUBLE", np.dtype(np.float64), "double_val"),
    3: DType("DT_INT32", np.dtype(np.int32), "int_val"),
    4: DType("DT_UINT8", np.dtype(np.uint8), "int_val"),
    5: DType("DT_INT16", np.dtype(np.int16), "int_val"),
    6: DType("DT_INT8", np.dtype(np.int8), "int_val"),
    7: DType("DT_STRING", np.dtype(object), "string_val"),
    9: DType("DT_INT64", np.dtype(np.int64), "int64_val"),
    10: DType("DT_BOOL", np.dtype(np.bool_), "bool_val"),
    17: DType("DT_UINT16", np.dtype(np.uint16), "int_val"),
    19: DType("DT_HALF", np.dtype(np.float16), "half_val"),
    22: DType("DT_UINT32", np.dtype(np.uint32), "uint32_val"),
    23: DType("DT_UINT64", np.dtype(np.uint64), "uint64_val"),
}
STRING = 7
DEFAULT = "serving_default"
METHODS = {f"tensorflow/serving/{name}": name for name in ("predict", "classify", "regress")}
# Values that are left out or repeated cost a client nothing: the arrays of a request take so many times its bytes at most.
INFLATION = 8
# What TensorFlow takes for a string besides its bytes.
_STRING_BYTES = 24
# NumPy's limit, of all its versions.
_MOST_DIMENSIONS = 32
_FIELDS = sorted({entry.field for entry in DTYPES.values()})
_NUMBERS = {entry.numpy: number for number, entry in DTYPES.items()}


def dtype_name(number: int) -> str:
    """Name of a dtype's number, known here or not."""
    return DTYPES[number].name if number in DTYPES else f"dtype {number}"


def shape_text(shape: tuple[int, ...] | None) -> str:
    """A shape as messages show it.

    Example:

    >>> shape_text((-1, 13)), shape_text((-1,)), shape_text(None)
    ('(?, 13)', '(?,)', 'any shape')
    """
    if shape is None:
        return "any shape"
    sizes = ["?" if size < 0 else str(size) for size in shape]
    return "(" + ", ".join(sizes) + ("," if len(sizes) == 1 else "") + ")"


def nbytes(array: np.ndarray) -> int:
    """Bytes of an array as TensorFlow holds it: a text that stands in many places is copied to each.

    Example:

    >>> nbytes(np.zeros((2, 3), np.float32)), nbytes(np.array([b"x" * 100] * 5, object))
    (24, 620)
    """
    if array.dtype.kind != "O":
        return array.nbytes
    return _STRING_BYTES * array.size + sum(map(len, array.ravel().tolist()))


def from_proto(name: str, proto: Any, max_bytes: int) -> np.ndarray:
    """The array in a `TensorProto`, of the proto's own dtype; strings are an object array of bytes.

    Values may be fewer than elements: the last one stands for the rest, and none for zeros, as TensorFlow has it. `ServingError`,
    with the input's `name`, for a dtype that cannot be served, an incomplete shape, values that do not fill it, or an array of
    more than `max_bytes`: a shape costs a client nothing.
    """
    if proto.dtype not in DTYPES:
        raise invalid(f"input {name!r} has {dtype_name(proto.dtype)}, which is not served.")
    entry = DTYPES[proto.dtype]
    shape = tuple(int(dim.size) for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise invalid(f"input {name!r} has an incomplete shape; give the size of each dimension.")
    if len(shape) > _MOST_DIMENSIONS:
        raise invalid(f"input {name!r} has {len(shape)} dimensions; a tensor has at most {_MOST_DIMENSIONS}.")
    count = math.prod(shape)
    # Of no rows, too: NumPy refuses an empty array of such a size.
    if math.prod(max(size, 1) for size in shape) * entry.numpy.itemsize > max_bytes:
        raise invalid(f"input {name!r} of shape {shape_text(shape)} takes more than the {max_bytes} bytes allowed.")
    if proto.tensor_content:
        if entry.numpy.kind == "O":
            raise invalid(f"input {name!r}: strings travel in string_val, not in tensor_content.")
        if len(proto.tensor_content) != count * entry.numpy.itemsize:
            needed = f"{entry.name} of shape {shape_text(shape)} takes {count * entry.numpy.itemsize}"
            raise invalid(f"input {name!r} has {len(proto.tensor_content)} bytes of tensor_content, but {needed}.")
        return np.frombuffer(proto.tensor_content, entry.numpy).reshape(shape)
    return _from_field(name, proto, entry, shape, count, max_bytes)


def _from_field(name: str, proto: Any, entry: DType, shape: tuple[int, ...], count: int, max_bytes: int) -> np.ndarray:
    values = list(getattr(proto, entry.field))
    if not values:
        other = next((field for field in _FIELDS if len(getattr(proto, field))), None)
        if other is not None:  # TensorFlow would read zeros
            raise invalid(f"input {name!r} is {entry.name}, whose values are in {entry.field}, but it has {other}.")
    if len(values) > count:
        raise invalid(f"input {name!r} has {len(values)} values for {count} elements of shape {shape_text(shape)}.")
    if entry.name == "DT_HALF":  # half_val holds bit patterns
        flat = np.array(values, np.uint16).view(np.float16)
    elif entry.numpy.kind == "O":
        flat = np.empty(len(values), object)
        flat[:] = values
    else:
        try:
            flat = np.array(values, entry.numpy)
        except OverflowError as error:
            raise invalid(f"input {name!r} has a value that {entry.name} cannot hold.") from error
    if len(flat) < count:
        repeated = len(values[-1]) if values and entry.numpy.kind == "O" else 0
        if repeated * (count - len(flat)) > max_bytes:
            raise invalid(f"input {name!r} repeats a string until it takes more than the {max_bytes} bytes allowed.")
        last = flat[-1:] if len(flat) else np.array([b"" if entry.numpy.kind == "O" else 0], entry.numpy)
        flat = np.concatenate([flat, np.repeat(last, count - len(flat))])
    return flat.reshape(shape)


def fill_proto(proto: Any, array: np.ndarray) -> None:
    """Write an array into an empty `TensorProto`, value by value: many clients read `float_val` and its like."""
    if array.dtype not in _NUMBERS:
        raise ServingError("UNIMPLEMENTED", f"an output of dtype {array.dtype} cannot be sent.")
    proto.dtype = _NUMBERS[array.dtype]
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = array.ravel()
    if array.dtype == np.float16:
        flat = flat.view(np.uint16)
    getattr(proto, DTYPES[proto.dtype].field).extend(flat.tolist())


class Tensor(NamedTuple):
    """An input or output: name, number of its dtype, shape (-1 for any size; `None` for any rank), name in the graph."""

    name: str
    dtype: int
    shape: tuple[int, ...] | None
    graph_name: str

    @property
    def text(self) -> str:
        """Its text in messages: `'sparse' DT_INT64 (?, 26)`."""
        return f"{self.name!r} {dtype_name(self.dtype)} {shape_text(self.shape)}"


class Signature:
    """A `SignatureDef` under its name, with inputs and outputs by name."""

    def __init__(self, name: str, proto: Any) -> None:
        self.name, self.proto = name, proto
        # Missing value of each input that is a column by itself: NaN, padding or the empty text. Empty where nothing is known of
        # the model: then every value must be there.
        self.missing: dict[str, Any] = {}
        # "predict", "classify", "regress", or the method name as it stands where it is another.
        self.method = METHODS.get(proto.method_name, proto.method_name)
        self.inputs = {key: _tensor(key, proto.inputs[key]) for key in sorted(proto.inputs)}
        self.outputs = {key: _tensor(key, proto.outputs[key]) for key in sorted(proto.outputs)}

    def check_names(self, given: Mapping[str, Any]) -> None:
        """`ServingError` unless the inputs given are those of the signature."""
        if given.keys() == self.inputs.keys():
            return
        needs = ", ".join(tensor.text for tensor in self.inputs.values()) or "no input"
        for name in self.inputs:
            if name not in given:
                raise invalid(f"signature {self.name!r}: input {name!r} is missing; it needs {needs}.")
        unknown = next(name for name in given if name not in self.inputs)
        raise invalid(f"signature {self.name!r}: unknown input {str(unknown)[:60]!r}; it needs {needs}.")

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """`ServingError` unless names, dtypes and shapes are those of the signature, exactly."""
        self.check_names(arrays)
        for name, tensor in self.inputs.items():
            array = arrays[name]
            if tensor.dtype not in DTYPES:
                raise invalid(f"signature {self.name!r}: input {tensor.text} is of a dtype that is not served.")
            if array.dtype != DTYPES[tensor.dtype].numpy:
                dtype = next((d.name for d in DTYPES.values() if d.numpy == array.dtype), str(array.dtype))
                raise invalid(f"signature {self.name!r}: input {name!r} has {dtype}; it must be {dtype_name(tensor.dtype)}.")
            if not fits(array.shape, tensor.shape):
                shapes = f"{shape_text(array.shape)}; it must be {shape_text(tensor.shape)}"
                raise invalid(f"signature {self.name!r}: input {name!r} has shape {shapes}.")


def fits(shape: tuple[int, ...], allowed: tuple[int, ...] | None) -> bool:
    """Whether an array of `shape` may be fed where `allowed` is declared.

    Example:

    >>> fits((5, 13), (-1, 13)), fits((5, 12), (-1, 13)), fits((5,), (-1, 13)), fits((5,), None)
    (True, False, False, True)
    """
    if allowed is None:
        return True
    return len(shape) == len(allowed) and all(b < 0 or a == b for a, b in zip(shape, allowed, strict=True))


def _tensor(name: str, info: Any) -> Tensor:
    shape = None if info.tensor_shape.unknown_rank else tuple(int(dim.size) for dim in info.tensor_shape.dim)
    return Tensor(name, info.dtype, shape, info.name)
