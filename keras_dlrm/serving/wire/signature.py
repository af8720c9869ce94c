"""Signature of a SavedModel: inputs, outputs, and the check of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_dlrm.serving.wire.errors import invalid
from keras_dlrm.serving.wire.tensors import DTYPES, dtype_name, shape_text

DEFAULT = "serving_default"
METHODS = {
    "tensorflow/serving/predict": "predict",
    "tensorflow/serving/classify": "classify",
    "tensorflow/serving/regress": "regress",
}


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
    """A `SignatureDef` under its name.

    Attributes:
        method: `"predict"`, `"classify"`, `"regress"`, or the method name as it stands where it is another.
        inputs, outputs: `Tensor` by name.
        missing: Missing value of each input that is a column by itself: NaN, padding or the empty text. Empty where nothing
            is known of the model: then every value must be there.
    """

    def __init__(self, name: str, proto: Any) -> None:
        self.name = name
        self.missing: dict[str, Any] = {}
        self.proto = proto
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
                raise invalid(
                    f"signature {self.name!r}: input {name!r} has shape {shape_text(array.shape)}; it must be "
                    f"{shape_text(tensor.shape)}."
                )


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
