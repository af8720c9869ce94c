"""An ONNX graph under construction: nodes, constants, external arrays."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

#: Operations of the ONNX standard that all of them belong to; ONNX Runtime >= 1.14 knows it.
OPSET = 18
IR_VERSION = 8


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name, its shape (`None` where a size is not fixed) and the name of its NumPy dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class Graph:
    """Nodes in the order in which they are added, and constants, each stored once.

    Example (needs the package onnx):

    >>> graph = Graph()
    >>> total = graph.op("Add", "x", np.array([1.0], np.float32), output="y")
    >>> [node.op_type for node in graph.nodes], total, list(graph.constants)
    (['Add'], 'y', ['constant_0'])
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.large: list[Any] = []
        #: Names of float32 tensors (B, n), and n: an answer is NaN where one of them is NaN or infinite.
        self.must_be_finite: list[tuple[str, int]] = []
        self._known: dict[Any, str] = {}
        self._count = 0

    def op(self, kind: str, *inputs: str | np.ndarray | None, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, and give its name back.

        Inputs are names of tensors, arrays, which become constants, or `None` for an optional one that is left out.
        """
        return self.ops(kind, *inputs, outputs=[output or self.new_name(kind)], **attributes)[0]

    def ops(self, kind: str, *inputs: str | np.ndarray | None, outputs: Sequence[str], **attributes: Any) -> list[str]:
        """Add a node with several outputs, and give their names back."""
        from onnx import helper

        names = ["" if x is None else x if isinstance(x, str) else self.constant(x) for x in inputs]
        self.nodes.append(helper.make_node(kind, names, list(outputs), name=f"{kind}:{outputs[0]}", **attributes))
        return list(outputs)

    def new_name(self, kind: str) -> str:
        """A name that no tensor has."""
        self._count += 1
        return f"{kind}_{self._count}"

    def constant(self, array: Any, name: str | None = None) -> str:
        """Name of a constant; equal ones are stored once."""
        array = np.asarray(array)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._known:
            taken = name if name is not None and name not in self.constants else f"constant_{len(self.constants)}"
            self._known[key] = taken
            self.constants[taken] = array
        return self._known[key]

    def model(self, inputs: Iterable[Value], outputs: Iterable[Value], metadata: Mapping[str, str]) -> Any:
        """The finished ModelProto with texts as metadata; a size that is not fixed is called `B`."""
        from onnx import helper, numpy_helper

        def declared(values: Iterable[Value]) -> list[Any]:
            return [
                helper.make_tensor_value_info(v.name, element_type(v.dtype), ["B" if n is None else n for n in v.shape])
                for v in values
            ]

        used = {name for node in self.nodes for name in node.input}
        kept = [numpy_helper.from_array(a, name) for name, a in self.constants.items() if name in used]
        graph = helper.make_graph(self.nodes, "keras_dlrm", declared(inputs), declared(outputs), [*kept, *self.large])
        model = helper.make_model(
            graph, producer_name="keras_dlrm", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        helper.set_model_props(model, dict(metadata))
        return model


def element_type(dtype: Any) -> int:
    """ONNX's number of a NumPy dtype, or of its name."""
    from onnx import TensorProto

    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    return int(getattr(TensorProto, {"float32": "FLOAT", "float64": "DOUBLE"}.get(name, name.upper())))


def large_tensor(name: str, dtype: np.dtype, shape: Sequence[int], data: bytes | tuple[str, int, int]) -> Any:
    """A TensorProto with its little-endian bytes, or with the file name, offset and length where they are."""
    from onnx import TensorProto

    tensor = TensorProto(name=name, data_type=element_type(dtype), dims=list(shape))
    if isinstance(data, bytes):
        tensor.raw_data = data
        return tensor
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in zip(("location", "offset", "length"), data, strict=True):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
